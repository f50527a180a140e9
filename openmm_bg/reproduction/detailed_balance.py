"""Whether a move keeps the Boltzmann distribution of a toy: chains that start in it must still be in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from openmm import unit
from openmmtools.mcmc import MCMCMove
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.mcmc.target import Target
from openmm_bg.systems.double_well import DoubleWell, double_well
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
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
}
"""The moves that are tested."""

FLOWS = ("realnvp", "spline", "tsf", "tsf-affine")
"""The flows that they are tested with."""

_HOTTER = 1.5
_CELLS = 12


def toy_of_the_test() -> DoubleWell:
    """Return two wells of unequal depth with a barrier of some kT."""
    return double_well((0.25, -1.5, 0.3))


def toy_model(directory: Path, flow: str, seed: int = 0) -> Path:
    """Train a flow a little, on exact samples of a temperature higher by half, so that its density is not right."""
    path = directory / flow
    if not (path / "model.json").exists():
        toy, temperature = toy_of_the_test(), _HOTTER * UNIT_TEMPERATURE
        x = toy.sample(4000, temperature, np.random.default_rng(seed))
        positions = toy.to_positions(x)
        coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components).fit(positions)
        settings = TrainingSettings(
            flow=flow,
            n_steps=200,
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


def end_points(move: MCMCMove, n: int, seed: int) -> tuple[np.ndarray, float]:
    """Apply a move once to each of n exact samples.

    Returns:
        Where they end, with shape=(n, 2), and the fraction that has moved.
    """
    toy = toy_of_the_test()
    rng = np.random.default_rng(seed)
    mcmc.seed(seed)
    start = toy.to_positions(toy.sample(n, UNIT_TEMPERATURE, rng), rng.normal(size=(n, 1)))
    state = ThermodynamicState(toy.molecule.system, UNIT_TEMPERATURE * unit.kelvin)
    ends = np.empty_like(start)
    for k, positions in enumerate(start):
        sampler_state = SamplerState(positions * unit.nanometer)
        move.apply(state, sampler_state)
        ends[k] = sampler_state.positions.value_in_unit(unit.nanometer)
    moved = (ends != start).any(axis=(1, 2)).mean()
    return toy.from_positions(ends), float(moved)


def p_values(x: np.ndarray) -> dict[str, float]:
    """Test whether points with shape=(n, 2) have the toy's exact distribution: x1 by both tests, y by the first.

    Returns:
        The p-values of the Kolmogorov-Smirnov tests, and of the chi-square test of cells of equal probability.
    """
    from scipy import stats

    toy = toy_of_the_test()
    u = toy.marginal_cdf(x[:, 0], UNIT_TEMPERATURE)
    counts = np.bincount(np.minimum((u * _CELLS).astype(int), _CELLS - 1), minlength=_CELLS)
    return {
        "KS, x1": float(stats.kstest(u, "uniform").pvalue),
        "KS, y": float(stats.kstest(x[:, 1], "norm").pvalue),
        "chi-square, x1": float(stats.chisquare(counts).pvalue),
    }


def uniformity(model: Path, move: str, *, n: int, n_seeds: int, first_seed: int = 0) -> dict[str, float]:
    """Repeat the tests over seeds, and test whether their p-values are uniform, as they are for an exact move.

    Args:
        model: The model's directory.
        move: The move's name.
        n: Chains for each seed.
        n_seeds: How many seeds.
        first_seed: The first of them.

    Returns:
        For each test the p-value of the Kolmogorov-Smirnov test of its p-values, and "moved", the fraction of the
        chains that moved.
    """
    from scipy import stats

    found: dict[str, list[float]] = {}
    moved = []
    for seed in range(first_seed, first_seed + n_seeds):
        x, fraction = end_points(MOVES[move](model), n, seed)
        moved.append(fraction)
        for name, p in p_values(x).items():
            found.setdefault(name, []).append(p)
    result = {name: float(stats.kstest(values, "uniform").pvalue) for name, values in found.items()}
    return {**result, "moved": float(np.mean(moved))}


@contextmanager
def broken_ratio() -> Iterator[None]:
    """Leave the flow's density out of the acceptance ratio: the negative control."""
    exact = Target.log_weights

    def without_density(
        self: Target, reduced: np.ndarray, momenta: object, log_density: np.ndarray
    ) -> object:
        known = np.where(np.isfinite(log_density), 0.0, log_density)
        return exact(self, reduced, momenta, known)

    with mock.patch.object(Target, "log_weights", without_density):
        yield
