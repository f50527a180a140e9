"""Figures 2 and 3 of seed 000: a RealNVP learns a double well, and its samples give the free energy along x1.

What the flow draws is not the Boltzmann distribution, and is not meant to be. It is trained on data of twice the
temperature, half of them from either well, and maximum likelihood keeps half of the weight to the end: both wells
and their flanks are drawn often. The weights make up for it. For the free energy, the flow is drawn from with twice
the variance of its base, which reaches further up; figure 3 D shows draws without weights and without widening.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.errors import InputError
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.plotting import COLOURS, styled_figure
from openmm_bg.systems.double_well import double_well
from openmm_bg.systems.monte_carlo import ParallelTemperingMonteCarlo
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.training import TrainingData, TrainingSettings, train
from openmm_bg.transforms import CartesianCoordinates
from openmm_bg.units import thermal_energy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGES = np.arange(-40, 41) / 10.0
"""The edges [nm] of the bins of x1."""

REACH = 6.0
"""Up to this free energy [kT] the bins have to be accurate."""

_LADDER = (1.0, 2.0, 4.0)  # temperatures of the Monte Carlo run in units of that of the training
_RUNG = 1  # of the training data: their flanks reach as far up as the free energy has to be accurate
_WALKERS, _SWEEPS, _EVERY = 100, 5000, 20


@dataclass(frozen=True)
class DoubleWellSettings:
    """Settings of the experiment.

    Args:
        n_training: Monte Carlo configurations to train on, half of them from each well.
        training: Settings of the training.
        n_draws: Draws of the trained flow.
        widening: The variance of the latents' normal distribution when drawing for the free energy.
        seed: Seed of data, training and draws.

    Raises:
        InputError: If a setting makes no sense.
    """

    n_training: int = 1000
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            flow="realnvp",
            n_layers=8,
            n_hidden=3,
            hidden_features=256,
            n_steps=2500,
            learning_rate=5e-4,
            batch_size=64,
            kl_batch_size=512,
            dispersion_weight=0.0,
            kl_start=0.1,
            kl_full=0.2,
            kl_weight=0.5,  # the seed's alpha is one
            energy_margin=10.0,
        )
    )
    n_draws: int = 4_000_000
    widening: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.n_training < 200 or self.n_draws < 1000:
            raise InputError("The double well needs at least 200 training configurations and 1000 draws.")
        if not self.widening > 0:
            raise InputError(f"The widening must be positive, not {self.widening}.")

    @classmethod
    def quick(cls, seed: int = 0) -> DoubleWellSettings:
        """Return settings that show the way within a minute, and prove nothing."""
        training = dataclasses.replace(
            cls().training, hidden_features=64, n_steps=400, validation_interval=100
        )
        return cls(training=training, n_draws=100_000, seed=seed)


def low_energy_configurations(n: int, seed: int) -> np.ndarray:
    """Return n configurations [nm] of Monte Carlo with shape=(n, 2), as many from either well, in random order.

    They have twice the temperature of the training, so that they cover the flanks of the wells. The chain exchanges
    with chains at other temperatures: alone it would hardly leave the well in which it starts. At equilibrium the
    right well has 8 % of the samples (0.8 % at the temperature of the training), so most of the left are left out.
    """
    toy = double_well()
    minima = np.array([[toy.well.stationary_points[k], 0.0] for k in (0, 2)])
    chain = ParallelTemperingMonteCarlo(
        toy.energy, [t * UNIT_TEMPERATURE for t in _LADDER], minima[np.arange(_WALKERS) % 2], seed=seed
    )
    chain.tune(_SWEEPS)
    wells: list[np.ndarray] = [np.empty((0, 2)), np.empty((0, 2))]
    while min(map(len, wells)) < n - n // 2:
        x = chain.run(_SWEEPS, _EVERY)[:, _RUNG].reshape(-1, 2)
        right = x[:, 0] > toy.barrier
        wells = [np.concatenate([wells[0], x[~right]]), np.concatenate([wells[1], x[right]])]
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(wells[0])[: n - n // 2], rng.permutation(wells[1])[: n // 2]]
    return rng.permutation(np.concatenate(chosen))


def train_double_well(
    directory: Path, settings: DoubleWellSettings, *, progress: bool = False
) -> tuple[np.ndarray, BoltzmannGenerator]:
    """Train the flow, or go on with it, or load it.

    Returns:
        The configurations [nm] that it was trained on, with shape=(n_training, 2), and the generator.
    """
    toy = double_well()
    own = settings.training
    n = math.ceil(settings.n_training / (1.0 - own.validation_fraction))  # some are held out
    x = low_energy_configurations(n, settings.seed)
    if not (directory / "model.json").exists():
        positions = toy.to_positions(x)
        coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components).fit(positions, whiten=False)
        data = TrainingData(toy.molecule, positions, toy.energy(x), UNIT_TEMPERATURE, {"seed": settings.seed})
        own = dataclasses.replace(own, seed=settings.seed)
        train(data, directory, own, coordinates=coordinates, progress=progress)
    return x[: settings.n_training], BoltzmannGenerator.load(directory)


def free_energies(x: np.ndarray, log_weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the free energy along x1 from weighted draws, beside that by quadrature.

    Both are -log of a bin's probability, shifted alike: the exact one is zero in the deepest bin. So the error of
    a bin is its own, not that of a bin that all are compared with.

    Args:
        x: Draws [nm] with shape=(n, 2).
        log_weights: Their log-weights with shape=(n,).

    Returns:
        Columns with shape=(n_bins,): ``x1`` (the centre [nm]), ``exact``, ``free_energy``, ``stderr`` [kT], and
        ``draws``, how many fell into the bin. Bins without draws have an infinite free energy and error.
    """
    well, kt = double_well().well, thermal_energy(UNIT_TEMPERATURE)
    exact = well.log_z(kt) - well.log_masses(EDGES, kt)
    weights, n = statistics.normalized_weights(log_weights), len(EDGES) - 1
    index = np.searchsorted(EDGES, np.nan_to_num(x[:, 0], nan=np.inf), side="right") - 1
    inside = (index >= 0) & (index < n)
    first, second, draws = (
        np.bincount(index[inside], values[inside], n)
        for values in (weights, weights**2, np.ones_like(weights))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        found = -np.log(first)
        # The influence of draw i on log p is w_i (1_i / p - 1).
        variance = second / first**2 - 2.0 * second / first + (weights**2).sum()
    shift = exact.min()
    return {
        "x1": 0.5 * (EDGES[1:] + EDGES[:-1]),
        "exact": exact - shift,
        "free_energy": found - shift,
        "stderr": np.where(draws > 0, np.sqrt(variance), np.inf),
        "draws": draws.astype(np.int64),
    }


def family_wise(z: np.ndarray) -> float:
    """Return the probability that the largest of independent normal |z| is at least as large as here (Šidák)."""
    from scipy.special import erf

    return float(-np.expm1(len(z) * np.log(erf(np.abs(z).max() / np.sqrt(2.0)))))


def judge_double_well(x: np.ndarray, log_weights: np.ndarray) -> dict[str, Any]:
    """Return what weighted draws are worth: errors of the free energy, difference of the wells, effective size.

    All figures are of the weighted draws, but for ``right_well_of_draws``: how many of them are in the right well,
    which is another fraction than that of the Boltzmann distribution (``right_well_exact``).

    Args:
        x: Draws [nm] with shape=(n, 2).
        log_weights: Their log-weights with shape=(n,).
    """
    toy, columns = double_well(), free_energies(x, log_weights)
    judged = columns["exact"] < REACH
    error = (columns["free_energy"] - columns["exact"])[judged]
    stderr = columns["stderr"][judged]
    z = np.divide(error, stderr, where=np.isfinite(stderr), out=np.full_like(error, np.inf))
    right = x[:, 0] > toy.barrier
    difference = statistics.log_population_ratio(~right, right, log_weights)
    exact = toy.well_free_energy_difference(UNIT_TEMPERATURE)
    return {
        "n_draws": len(x),
        "ess": statistics.effective_sample_size(log_weights),
        "pareto_k": statistics.pareto_k(log_weights),
        "right_well_of_draws": float(right.mean()),
        "right_well_weighted": statistics.population(right, log_weights)._asdict(),
        "right_well_exact": 1.0 / (1.0 + np.exp(exact)),
        "bins_judged": int(judged.sum()),
        "largest_stderr": float(stderr.max()),
        "largest_deviation": float(np.abs(error).max()),
        "largest_z": float(np.abs(z).max()),
        "family_wise_p": family_wise(z),
        "well_difference": {**difference._asdict(), "exact": exact},
    }


def unweighted_z(judged: dict[str, Any]) -> float:
    """Return by how many standard errors the wells' populations among draws without weights differ from the exact.

    Their free-energy difference is a function of the population of one well, so that it is as far off. Draws are
    independent: the standard error is that of a binomial distribution.

    Args:
        judged: What `judge_double_well` returned.
    """
    exact = float(judged["right_well_exact"])
    stderr = math.sqrt(exact * (1.0 - exact) / int(judged["n_draws"]))
    return (float(judged["right_well_of_draws"]) - exact) / stderr


def plot_figure_2(columns: dict[str, np.ndarray], label: str) -> Figure:
    """Draw the energy landscape, and the free energy along x1 with what is left after taking the exact one off.

    Args:
        columns: What `free_energies` returns.
        label: What the weighted draws are called.
    """
    toy = double_well()
    with styled_figure((7.4, 3.3)) as figure:
        grid = figure.add_gridspec(2, 2, height_ratios=[2.6, 1], width_ratios=[1, 1.15])
        landscape = figure.add_subplot(grid[:, 0])
        x1, x2 = np.linspace(-4, 4, 201), np.linspace(-5, 5, 201)
        points = np.stack(np.meshgrid(x1, x2), axis=-1)
        energy = toy.energy(points.reshape(-1, 2)).reshape(201, 201)
        levels = np.arange(-12.0, 10.1, 2.0)
        filled = landscape.contourf(x1, x2, energy, levels, cmap="viridis", extend="max")
        landscape.contour(x1, x2, energy, levels, colors="black", linewidths=0.4, alpha=0.6)
        landscape.set(xlabel="$x_1$ (nm)", ylabel="$x_2$ (nm)")
        figure.colorbar(filled, ax=landscape, label="energy (kJ/mol)", ticks=levels[::2], pad=0.02)
        profile = figure.add_subplot(grid[0, 1])
        rest = figure.add_subplot(grid[1, 1], sharex=profile)
        profile.plot(columns["x1"], columns["exact"], color=COLOURS[0], label="exact, by quadrature")
        seen = np.isfinite(columns["free_energy"])
        shown = {name: column[seen] for name, column in columns.items()}
        style = {"fmt": "o", "markersize": 2.4, "elinewidth": 0.9, "color": COLOURS[1]}
        profile.errorbar(shown["x1"], shown["free_energy"], shown["stderr"], label=label, **style)
        profile.axhline(REACH, color="0.6", linewidth=0.8, linestyle=":")
        profile.set(ylim=(-0.6, 18.5), yticks=np.arange(0, 19, 3), ylabel="free energy (kT)")
        profile.tick_params(labelbottom=False)
        profile.legend(loc="upper center", fontsize=8)
        rest.axhspan(-0.05, 0.05, color="0.9", linewidth=0)
        rest.axhline(0.0, color=COLOURS[0], linewidth=1.0)
        near = shown["exact"] < REACH
        rest.errorbar(
            shown["x1"][near], (shown["free_energy"] - shown["exact"])[near], shown["stderr"][near], **style
        )
        rest.set(xlim=(-4, 4), ylim=(-0.075, 0.075), xlabel="$x_1$ (nm)", ylabel="difference\n(kT)")
        for ax in (profile, rest):
            ax.spines[["top", "right"]].set_visible(False)
        for letter, ax, left in (("A", landscape, -0.14), ("B", profile, -0.12)):
            ax.text(left, 1.03, letter, transform=ax.transAxes, weight="bold", fontsize=11)
    return figure


def plot_figure_3(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw configurations and latents, coloured by the well.

    Neither panel A nor D shows the Boltzmann distribution, of which the right well has 0.8 %: A shows training
    data, of twice the temperature and half from either well, and D draws of the flow without their weights.

    Args:
        pairs: What the flow was trained on, and what it draws: each configurations [nm] and their latents.
    """
    barrier = double_well().barrier

    def paint(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, 0] > barrier, COLOURS[1], COLOURS[0])

    figure = plot_spaces(pairs, paint, ((-4.2, 4.2), (-5.2, 6.4)), data="training data: T = 2, half per well")
    with_legend = figure.axes[0]
    for colour, label in ((COLOURS[0], "left well"), (COLOURS[1], "right well")):
        with_legend.scatter([], [], s=16, color=colour, label=label, linewidths=0)
    with_legend.legend(loc="upper center", ncols=2, handletextpad=0.1, columnspacing=0.8, frameon=False)
    return figure


def plot_spaces(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    paint: Callable[[np.ndarray], np.ndarray],
    limits: tuple[tuple[float, float], tuple[float, float]],
    data: str,
) -> Figure:
    """Draw samples, their latents, independent latents, and what these become: the four panels of figures 3 to 5.

    Draws are shown without weights. Circles mark one, two and three standard deviations of the latents' normal
    distribution.

    Args:
        pairs: The samples, and draws of the flow: each configurations [nm] and their latents, with shape=(n, 2).
        paint: Gives configurations their colours.
        limits: Of x1 and x2 [nm].
        data: What the samples are called.
    """
    (x, z), (drawn, prior) = pairs
    panels = (
        (x, x, data),
        (z, x, "their latents"),
        (prior, drawn, "independent normal latents"),
        (drawn, drawn, "draws of the flow, unweighted"),
    )
    with styled_figure((5.9, 5.7)) as figure:
        axes = figure.subplots(2, 2)
        for letter, ax, (points, configurations, title) in zip("ABCD", axes.flat, panels, strict=True):
            latent, n = letter in "BC", len(points)
            size = 3.0 if n > 1500 else 5.0
            ax.scatter(*points.T, s=size, c=paint(configurations), alpha=0.6, linewidths=0, rasterized=True)
            ax.set(xlabel="$z_1$" if latent else "$x_1$ (nm)", ylabel="$z_2$" if latent else "$x_2$ (nm)")
            ax.set(xlim=(-4.5, 4.5) if latent else limits[0], ylim=(-4.5, 4.5) if latent else limits[1])
            for radius in (1, 2, 3) if latent else ():
                angle = np.linspace(0, 2 * np.pi, 200)
                ax.plot(
                    radius * np.cos(angle), radius * np.sin(angle), color="black", linewidth=0.5, alpha=0.5
                )
            ax.set_box_aspect(1)
            ax.set_title(f"{letter}  {title}", loc="left", fontsize=9)
    return figure
