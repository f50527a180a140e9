"""Whether a move keeps the Boltzmann distribution of toys: chains that start in it must still be in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from openmm import unit
from openmmtools.mcmc import MCMCMove
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.mcmc.target import Target
from openmm_bg.systems.double_well import double_well
from openmm_bg.systems.double_well_mixture import double_well_mixture
from openmm_bg.systems.harmonic_oscillator import harmonic_oscillator
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE, ToySystem
from openmm_bg.training import TrainingData, TrainingSettings, train
from openmm_bg.transforms import CartesianCoordinates

MOVES: dict[str, Callable[[Path], MCMCMove]] = {
    "FlowMove": lambda model: mcmc.FlowMove(model, n_proposals=4),
    "LatentMonteCarloMove, diffusion": lambda model: mcmc.LatentMonteCarloMove(
        model, n_proposals=4, step_size=1.0, n_tuning=0
    ),
    "LatentMonteCarloMove, random walk": lambda model: mcmc.LatentMonteCarloMove(
        model, n_proposals=4, step_size=1.0, displacement="random_walk", n_tuning=0
    ),
    "MultipleTryMove, metropolis": lambda model: mcmc.MultipleTryMove(model, n_candidates=4),
    "MultipleTryMove, resampling": lambda model: mcmc.MultipleTryMove(
        model, n_candidates=4, rule="resampling"
    ),
}
"""The moves that are tested."""

_HOTTER = 1.5
_CELLS = 12
_FILLED = 1.0  # kT: the components that the toy has no use for are on springs


@dataclass(frozen=True)
class BalanceTest:
    """A toy, the flows that the moves are tested with on it, and its exact one-dimensional distributions.

    Attributes:
        toy: The toy.
        flows: The kinds of flow.
        n_steps: Steps of the flows' training.
        uniforms: Gives, for coordinates [nm] with shape=(n, d) at T = 1, by name numbers in [0, 1] with shape=(n,),
            which are uniform if the coordinates have the Boltzmann distribution.
    """

    toy: ToySystem
    flows: tuple[str, ...]
    n_steps: int
    uniforms: Callable[[np.ndarray], dict[str, np.ndarray]]


def balance_tests() -> dict[str, BalanceTest]:
    """Return the tests: two wells with a barrier of some kT, a box with walls, and a mixture of wells."""
    from scipy.stats import norm

    wells, box, mixture = double_well((0.25, -1.5, 0.3)), harmonic_oscillator(), double_well_mixture(5)
    at = UNIT_TEMPERATURE
    return {
        "double well": BalanceTest(
            wells,
            ("realnvp", "spline", "tsf", "tsf-affine"),
            200,
            lambda x: {"x1": wells.marginal_cdf(x[:, 0], at), "x2": norm.cdf(x[:, 1])},
        ),
        "oscillator in a box": BalanceTest(
            box,
            ("spline", "tsf"),
            200,
            lambda x: (
                {f"x{k + 1}": box.marginal_cdf(x[:, k], at, k) for k in (0, 1)}
                | {"x2 - x1": norm.cdf(box.to_normal(x, at)[:, 1])}
            ),
        ),
        "mixture in 5 dimensions": BalanceTest(
            mixture,
            ("tsf",),
            1000,
            lambda x: {
                f"y{k + 1}": mixture.well_cdf(mixture.to_wells(x)[:, k], at, k)
                for k in range(mixture.dimension)
            },
        ),
    }


def toy_model(directory: Path, test: BalanceTest, flow: str, seed: int = 0) -> Path:
    """Train a flow a little, on exact samples of a temperature higher by half, so that its density is not right."""
    toy, path = test.toy, directory / test.toy.name / flow
    if not (path / "model.json").exists():
        temperature = _HOTTER * UNIT_TEMPERATURE
        x = toy.sample(4000, temperature, np.random.default_rng(seed))
        positions = toy.to_positions(x)
        coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components).fit(positions)
        settings = TrainingSettings(
            flow=flow,
            n_steps=test.n_steps,
            n_layers=4,
            hidden_features=16,
            kl_weight=0.0,
            dispersion_weight=0.0,
            learning_rate=3e-3,
            validation_interval=100,
            validation_samples=500,
            n_momenta=2 if flow.startswith("tsf") else None,
            seed=seed,
        )
        data = TrainingData(toy.molecule, positions, toy.energy(x), temperature, {"seed": seed})
        train(data, path, settings, coordinates=coordinates)
    return path


def end_points(test: BalanceTest, move: MCMCMove, n: int, seed: int) -> tuple[np.ndarray, float]:
    """Apply a move once to each of n exact samples.

    Returns:
        Where they end, with shape=(n, d), and the fraction that has moved.
    """
    toy, rng = test.toy, np.random.default_rng(seed)
    mcmc.seed(seed)
    fill = rng.normal(size=(n, len(toy.fill_components))) * np.sqrt(_FILLED)
    start = toy.to_positions(toy.sample(n, UNIT_TEMPERATURE, rng), fill)
    state = ThermodynamicState(toy.molecule.system, UNIT_TEMPERATURE * unit.kelvin)
    ends = np.empty_like(start)
    for k, positions in enumerate(start):
        sampler_state = SamplerState(positions * unit.nanometer)
        move.apply(state, sampler_state)
        ends[k] = sampler_state.positions.value_in_unit(unit.nanometer)
    moved = (ends != start).any(axis=(1, 2)).mean()
    return toy.from_positions(ends), float(moved)


def p_values(uniforms: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the p-values of Kolmogorov-Smirnov tests, and of chi-square tests of cells of equal probability.

    Args:
        uniforms: Numbers with shape=(n,) by name, which should be uniform between 0 and 1.
    """
    from scipy import stats

    found = {}
    for name, u in uniforms.items():
        counts = np.bincount(np.minimum((u * _CELLS).astype(int), _CELLS - 1), minlength=_CELLS)
        found[f"KS, {name}"] = float(stats.kstest(u, "uniform").pvalue)
        found[f"chi-square, {name}"] = float(stats.chisquare(counts).pvalue)
    return found


def judge_balance(test: BalanceTest, model: Path, move: str, *, n: int, n_seeds: int) -> dict[str, Any]:
    """Judge a move by chains of many seeds.

    Args:
        test: The toy and its exact distributions.
        model: The model's directory.
        move: The move's name.
        n: Chains for each seed.
        n_seeds: How many seeds, at least two.

    Returns:
        ``uniformity``: for each test the p-value of the Kolmogorov-Smirnov test of its p-values over the
        seeds, which are uniform for an exact move; ``pooled``: its p-value with the chains of all seeds in one,
        which sees smaller errors; ``moved``: the fraction of the chains that moved.
    """
    from scipy import stats

    points, moved = [], []
    for seed in range(n_seeds):
        x, fraction = end_points(test, MOVES[move](model), n, seed)
        points.append(x)
        moved.append(fraction)
    by_seed = [p_values(test.uniforms(x)) for x in points]
    return {
        "uniformity": {
            name: float(stats.kstest([found[name] for found in by_seed], "uniform").pvalue)
            for name in by_seed[0]
        },
        "pooled": p_values(test.uniforms(np.concatenate(points))),
        "moved": float(np.mean(moved)),
    }


@contextmanager
def wrong_ratio(move: str) -> Iterator[None]:
    """Accept by a wrong ratio, the negative control.

    `FlowMove` and `MultipleTryMove` leave out all densities. A latent move takes the density that the other kind of
    displacement would need: leaving all out would be right for a random walk if the flow preserves volume.
    """
    if not move.startswith("LatentMonteCarloMove"):
        with mock.patch.object(Target, "log_weights", _energies_alone):
            yield
    else:
        with mock.patch.object(mcmc.LatentMonteCarloMove, "_density", _of_the_other_displacement):
            yield


def _energies_alone(self: Target, reduced: np.ndarray, momenta: Any, log_density: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(reduced) & np.isfinite(log_density), -reduced, -np.inf)


_density = mcmc.LatentMonteCarloMove._density


def _of_the_other_displacement(
    self: mcmc.LatentMonteCarloMove, flow: Any, positions: Any, momenta: Any, ratio: float
) -> Any:
    z, density = _density(self, flow, positions, momenta, ratio)
    sign = -1.0 if self.displacement == "diffusion" else 1.0
    return z, density + sign * flow.base_log_prob(z, ratio)
