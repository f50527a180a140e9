"""Figures 4 and 5 of seed 000: flows learn two particles on a spring in a box, and are judged exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg import statistics
from openmm_bg.errors import InputError
from openmm_bg.flows import RealNVP
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.plotting import COLOURS, styled_figure
from openmm_bg.potentials import TorchPotential
from openmm_bg.reproduction.double_well import plot_spaces
from openmm_bg.systems.harmonic_oscillator import harmonic_oscillator
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.training import TrainingData, TrainingSettings, train
from openmm_bg.transforms import CartesianCoordinates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REALNVP = TrainingSettings(
    flow="realnvp",
    n_layers=8,
    n_hidden=3,
    hidden_features=256,
    n_steps=2500,
    batch_size=128,
    learning_rate=1e-4,
    kl_weight=0.0,
    dispersion_weight=0.0,
)
_SPLINE = dataclasses.replace(
    _REALNVP, flow="spline", n_layers=4, hidden_features=64, n_bins=32, n_steps=2000, learning_rate=2e-3
)
_MANY = 51_200


@dataclass(frozen=True)
class OscillatorFlow:
    """One of the flows that are compared.

    Args:
        label: How figures and tables call it.
        n_training: Exact samples to train on; a ninth as many are held out.
        training: Settings of the training, which is by example only: see `train_oscillator`.
        n_draws: Draws to judge it by.
    """

    label: str
    n_training: int
    training: TrainingSettings
    n_draws: int


FLOWS = {
    "realnvp": OscillatorFlow("RealNVP as in the seed", 3200, _REALNVP, 100_000),
    "realnvp_more": OscillatorFlow(
        "RealNVP, more samples",
        _MANY,
        dataclasses.replace(_REALNVP, hidden_features=128, batch_size=512, learning_rate=1e-3),
        100_000,
    ),
    "spline_few": OscillatorFlow("spline flow, the seed's samples", 3200, _SPLINE, 100_000),
    "spline": OscillatorFlow(
        "spline flow, more samples", _MANY, dataclasses.replace(_SPLINE, batch_size=512), 1_000_000
    ),
}
"""The flows by name: that of the seed, more samples, another architecture, and both. The last meets the bounds."""


@dataclass(frozen=True)
class OscillatorSettings:
    """Settings of the experiment.

    Args:
        flows: The flows by name; "realnvp" and "spline" must be among them.
        n_exact: Fresh exact samples for the Kullback-Leibler divergence.
        seed: Seed of data, training and draws.

    Raises:
        InputError: If a setting makes no sense.
    """

    flows: dict[str, OscillatorFlow] = field(default_factory=lambda: dict(FLOWS))
    n_exact: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not {"realnvp", "spline"} <= set(self.flows) <= set(FLOWS):
            raise InputError(f"The flows must be realnvp, spline and others of {', '.join(FLOWS)}.")
        if self.n_exact < 100 or min(flow.n_draws for flow in self.flows.values()) < 1000:
            raise InputError("The oscillator needs at least 100 exact samples and 1000 draws of each flow.")

    @classmethod
    def quick(cls, seed: int = 0) -> OscillatorSettings:
        """Return settings that show the way within a minute, and prove nothing."""
        flows = {
            name: dataclasses.replace(
                FLOWS[name],
                n_training=3200,
                n_draws=20_000,
                training=dataclasses.replace(
                    FLOWS[name].training, hidden_features=32, n_steps=400, batch_size=128, learning_rate=2e-3
                ),
            )
            for name in ("realnvp", "spline")
        }
        return cls(flows, n_exact=20_000, seed=seed)


def training_samples(flow: OscillatorFlow, seed: int) -> np.ndarray:
    """Return exact samples [nm] with shape=(n, 2): those to train on, and then those that are held out."""
    n = math.ceil(flow.n_training / (1.0 - flow.training.validation_fraction))
    return harmonic_oscillator().sample(n, UNIT_TEMPERATURE, np.random.default_rng(seed))


def untrained_oscillator(flow: OscillatorFlow, seed: int) -> BoltzmannGenerator:
    """Return a RealNVP before training: its layers are the identity, so that it draws normal numbers."""
    toy = harmonic_oscillator()
    settings = dataclasses.replace(flow.training, seed=seed).flow_settings()
    network = RealNVP(_coordinates(training_samples(flow, seed)), UNIT_TEMPERATURE, **settings)
    return BoltzmannGenerator(network, TorchPotential.from_system(toy.molecule), system=toy.molecule)


def train_oscillator(
    directory: Path, flow: OscillatorFlow, seed: int, *, progress: bool = False
) -> BoltzmannGenerator:
    """Train a flow by example, or go on with it, or load it.

    There is no reverse KL. It cannot see what leaks out of the box: an energy of +inf has no gradient, so that
    such draws are left out, and leaking even *lowers* the mean of log q over the others. Maximum likelihood does
    see it, as the density that is missing inside.
    """
    if not (directory / "model.json").exists():
        toy, x = harmonic_oscillator(), training_samples(flow, seed)
        data = TrainingData(
            toy.molecule, toy.to_positions(x), toy.energy(x), UNIT_TEMPERATURE, {"seed": seed}
        )
        settings = dataclasses.replace(flow.training, seed=seed)
        train(data, directory, settings, coordinates=_coordinates(x), progress=progress)
    return BoltzmannGenerator.load(directory)


def divergence(generator: BoltzmannGenerator, n: int, seed: int) -> statistics.Estimate:
    """Return KL(exact || flow) [nats], the mean of log p - log q over n fresh exact samples."""
    toy = harmonic_oscillator()
    x = toy.sample(n, UNIT_TEMPERATURE, np.random.default_rng([seed, 1]))
    positions = torch.as_tensor(toy.to_positions(x))
    log_q = torch.cat([generator.log_prob(part) for part in positions.split(2048)]).numpy()
    terms = toy.log_prob(x, UNIT_TEMPERATURE) - log_q
    return statistics.Estimate(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(n)))


def distance(u: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of draws, given the exact cumulative distribution at each of them."""
    u, n = np.sort(u), len(u)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - u).max(), (u - steps[:-1]).max()))


def weighted_test(
    u: np.ndarray, log_weights: np.ndarray, seed: int, *, n_cells: int = 1000, n_replicates: int = 5000
) -> tuple[float, float]:
    """Test whether weighted draws have a distribution: Kolmogorov-Smirnov with a multiplier bootstrap.

    The weighted distribution function differs from the exact one, F, by sum_i w_i (1[u_i <= F] - F). Under the null
    hypothesis this is a Gaussian process: the Brownian bridge of the test without weights, but for a clock that
    advances by the squared weights of each cell. So the spread of the weights counts where it is, not on average.

    Args:
        u: The exact cumulative distribution at each draw, with shape=(n,); uniform if the draws have it.
        log_weights: Log-weights with shape=(n,); zeros for draws without weights.
        seed: Seed of the replicates.
        n_cells: Cells of F at whose edges the distance is taken.
        n_replicates: Replicates of the process, in hundreds.

    Returns:
        The distance, and the probability of at least this distance if the draws have the distribution.
    """
    weights = statistics.normalized_weights(log_weights)
    cell = np.minimum((np.where(weights > 0, u, 0.0) * n_cells).astype(int), n_cells - 1)
    mass, variance = (np.bincount(cell, values, n_cells) for values in (weights, weights**2))
    edges = np.arange(1, n_cells + 1) / n_cells
    found = float(np.abs(np.cumsum(mass) - edges).max())
    rng, n_larger = np.random.default_rng(seed), 0
    for _ in range(n_replicates // 100):
        process = np.cumsum(rng.standard_normal((100, n_cells)) * np.sqrt(variance), axis=1)
        n_larger += int((np.abs(process - edges * process[:, -1:]).max(axis=1) >= found).sum())
    return found, (1 + n_larger) / (1 + n_replicates)


def judge_draws(x: np.ndarray, log_weights: np.ndarray, seed: int) -> dict[str, Any]:
    """Return what draws are worth: distances and tests of both marginal distributions, effective size, leak.

    A negative control goes with the tests of the weighted draws: against a box longer by 1 %, which has to fail for
    any flow. The test of the draws without weights is none, as a perfect flow passes it.

    Args:
        x: Draws [nm] with shape=(n, 2).
        log_weights: Their log-weights with shape=(n,).
        seed: Seed of the tests.
    """
    toy = harmonic_oscillator()
    longer, equal = harmonic_oscillator(toy.k, 1.01 * toy.length), np.zeros(len(x))
    found: dict[str, Any] = {
        "n_draws": len(x),
        "ess": statistics.effective_sample_size(log_weights),
        "pareto_k": statistics.pareto_k(log_weights),
        "outside_of_the_box": float(np.isneginf(log_weights).mean()),
    }
    for k, name in enumerate(("x1", "x2")):
        u = toy.marginal_cdf(x[:, k], UNIT_TEMPERATURE, k)
        wrong = longer.marginal_cdf(x[:, k], UNIT_TEMPERATURE, k)
        weighted = weighted_test(u, log_weights, seed)
        found[name] = {
            "distance": distance(u),
            "weighted_distance": weighted[0],
            "weighted_p": weighted[1],
            "unweighted_p": weighted_test(u, equal, seed)[1],
            "control_longer_box_p": weighted_test(wrong, log_weights, seed)[1],
        }
    return found


def aligned(z: np.ndarray, onto: np.ndarray) -> tuple[np.ndarray, float]:
    """Rotate latents with shape=(n, 2) as near to others as an orthogonal matrix can; return also the distance.

    The normal distribution knows no directions, so that training leaves the rotation (or reflection) to chance.
    The distance is the root of the mean squared one [standard deviations]. Source: Schönemann (1966), Procrustes.
    """
    left, _, right = np.linalg.svd(z.T @ onto)
    rotated = z @ (left @ right)
    return rotated, float(np.sqrt(((rotated - onto) ** 2).sum(axis=1).mean()))


def plot_figure_4_or_5(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw configurations and latents, coloured by x1; draws outside of the box stand out.

    Args:
        pairs: Exact samples and draws of the flow: each configurations [nm] and their latents.
    """
    import matplotlib

    toy = harmonic_oscillator()

    def paint(x: np.ndarray) -> np.ndarray:
        colours = matplotlib.colormaps["viridis"](x[:, 0] / toy.length)
        colours[(x[:, 0] < 0) | (x[:, 0] > toy.length)] = matplotlib.colors.to_rgba(COLOURS[1])
        return colours

    figure = plot_spaces(pairs, paint, ((-2.5, 6.5), (-4.5, 8.5)), data="exact samples")
    for ax in (figure.axes[0], figure.axes[3]):
        for wall in (0.0, toy.length):
            ax.axvline(wall, color="black", linewidth=0.8, linestyle="--")
    figure.axes[3].scatter([], [], s=16, color=COLOURS[1], label="outside of the box", linewidths=0)
    figure.axes[3].legend(loc="upper left", handletextpad=0.1, frameon=False)
    return figure


def plot_maps(x: np.ndarray, maps: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Draw the latents of the same configurations under several maps, coloured by x1.

    Args:
        x: Configurations [nm] with shape=(n, 2).
        maps: Of each map its name and the latents with shape=(n, 2).
    """
    with styled_figure((2.45 * len(maps) + 0.9, 3.0), "compressed") as figure:
        axes = figure.subplots(1, len(maps), sharex=True, sharey=True)
        for ax, (name, z) in zip(axes, maps, strict=True):
            length = harmonic_oscillator().length
            dots = ax.scatter(
                *z.T, s=3.0, c=x[:, 0], cmap="viridis", vmin=0, vmax=length, linewidths=0, rasterized=True
            )
            ax.set(title=name, xlabel="$z_1$", xlim=(-4.2, 4.2), ylim=(-4.2, 4.2))
            ax.set_box_aspect(1)
        axes[0].set_ylabel("$z_2$")
        figure.colorbar(dots, ax=axes, label="$x_1$ (nm)", pad=0.02)
    return figure


def _coordinates(x: np.ndarray) -> CartesianCoordinates:
    """Return centred coordinates with one scale: whitened ones would hand the flow the spring's solution."""
    toy = harmonic_oscillator()
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components)
    return coordinates.fit(toy.to_positions(x), whiten=False)
