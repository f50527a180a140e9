"""Equilibrium samples of the mixture of double wells at many temperatures, and whether they have converged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.files import atomic_write_bytes
from openmm_bg.reproduction.arrays import arrays_bytes
from openmm_bg.systems.double_well_mixture import DoubleWellMixture
from openmm_bg.systems.monte_carlo import ParallelTemperingMonteCarlo
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE

CHECKED = (0.1, 0.3, 1.0, 3.0, 10.0)
"""The temperatures (kT in kJ/mol, the "T" of seed 001) at which numbers are given."""

_INTERVALS = (24, 26, 24, 25)  # of the ladder between those temperatures: nearly the same factor, about 1.048
_STARTING_RANGE = 2.5  # [nm] of the wells' coordinates


def ladder() -> np.ndarray:
    """Return the 100 temperatures from 0.1 to 10, geometric between those of `CHECKED`, which are among them."""
    parts = [
        np.geomspace(low, high, n + 1)[1:]
        for low, high, n in zip(CHECKED[:-1], CHECKED[1:], _INTERVALS, strict=True)
    ]
    return np.concatenate([CHECKED[:1], *parts])


@dataclass(frozen=True)
class EquilibriumSettings:
    """Settings of the parallel tempering.

    The first tenth of the sweeps is left out, training data come from those up to the half, samples from the rest.

    Args:
        n_sweeps: Sweeps in all.
        n_walkers: Independent runs. Those of even number start in the deepest well, the others anywhere.
        n_training: Configurations of training data.
        n_frames: Samples of each run at each temperature.
        seed: Same seed, same samples.
    """

    n_sweeps: int
    n_walkers: int = 16
    n_training: int = 64_000
    n_frames: int = 125
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """Equilibrium samples.

    Attributes:
        training: Configurations [nm] at T = 1, in order of time, with shape=(n_training, d).
        samples: Later configurations [nm] at every temperature, with shape=(n_frames, 100, n_walkers, d).
        acceptance: The fraction of moves that were accepted, with shape=(100,).
        exchange_acceptance: The fraction of exchanges that were accepted, with shape=(99,).
    """

    training: np.ndarray
    samples: np.ndarray
    acceptance: np.ndarray
    exchange_acceptance: np.ndarray

    def save(self, path: Path) -> None:
        """Write everything to an npz file."""
        atomic_write_bytes(path, arrays_bytes(vars(self)))

    @classmethod
    def load(cls, path: Path) -> Equilibrium:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(**{name: file[name] for name in file.files})


def sample_equilibrium(toy: DoubleWellMixture, settings: EquilibriumSettings) -> Equilibrium:
    """Run Gaussian-increment Monte Carlo with parallel tempering, as seed 001 does (section 3)."""
    rng = np.random.default_rng(settings.seed)
    wells = rng.uniform(-_STARTING_RANGE, _STARTING_RANGE, (settings.n_walkers, toy.dimension))
    start = toy.from_wells(wells)
    start[::2] = toy.from_positions(toy.molecule.positions[None])
    temperatures = ladder()
    sampler = ParallelTemperingMonteCarlo(
        toy.energy, list(temperatures * UNIT_TEMPERATURE), start, seed=settings.seed
    )
    n_burn, n_half = settings.n_sweeps // 10, settings.n_sweeps // 2
    sampler.tune(n_burn)
    unit = int(np.flatnonzero(np.isclose(temperatures, 1.0))[0])
    n_times = -(-settings.n_training // settings.n_walkers)
    every = max(1, (n_half - n_burn) // n_times)
    training = np.concatenate([sampler.run(every, every)[0, unit] for _ in range(n_times)])
    every = max(1, (settings.n_sweeps - n_half) // settings.n_frames)
    samples = [sampler.run(every, every)[0].astype(np.float32) for _ in range(settings.n_frames)]
    return Equilibrium(
        training[: settings.n_training].astype(np.float32),
        np.stack(samples),
        sampler.acceptance,
        sampler.exchange_acceptance,
    )


def convergence(toy: DoubleWellMixture, equilibrium: Equilibrium) -> dict[str, Any]:
    """Compare mean energies and populations of wells with the exact answers, and the runs with each other.

    Standard errors come from the scatter of the independent runs, which start from two extremes.

    Returns:
        Arrays with shape=(100,) of temperatures, mean energies, their standard errors, exact ones and deviations
        in standard errors, differences between the two kinds of start in standard errors, split R-hat of the
        energies, and the largest error of a well's population; also both kinds of acceptance.
    """
    temperatures, (n_frames, _, n_walkers, dimension) = ladder(), equilibrium.samples.shape
    x = equilibrium.samples.astype(np.float64)
    energies = toy.energy(x.reshape(-1, dimension)).reshape(n_frames, len(temperatures), n_walkers)
    by_walker = energies.mean(axis=0)
    mean, stderr = by_walker.mean(axis=1), by_walker.std(axis=1, ddof=1) / np.sqrt(n_walkers)
    exact = np.array([toy.mean_energy(t * UNIT_TEMPERATURE) for t in temperatures])
    low, high = by_walker[:, ::2], by_walker[:, 1::2]
    scatter = np.hypot(*(half.std(axis=1, ddof=1) / np.sqrt(half.shape[1]) for half in (low, high)))
    barriers = np.array([well.barrier for well in toy.wells])
    left = (x @ toy.matrix.T < barriers).mean(axis=(0, 2))
    exact_left = np.array(
        [
            [float(toy.well_cdf(b, t * UNIT_TEMPERATURE, k)) for k, b in enumerate(barriers)]
            for t in temperatures
        ]
    )
    return {
        "temperature": temperatures,
        "mean_energy": mean,
        "stderr": stderr,
        "exact_energy": exact,
        "z": (mean - exact) / stderr,
        "z_between_starts": (high.mean(axis=1) - low.mean(axis=1)) / scatter,
        "split_r_hat": np.array([split_r_hat(energies[:, k].T) for k in range(len(temperatures))]),
        "largest_population_error": np.abs(left - exact_left).max(axis=1),
        "acceptance": equilibrium.acceptance,
        "exchange_acceptance": equilibrium.exchange_acceptance,
    }


def split_r_hat(chains: np.ndarray) -> float:
    """Return how much wider all chains are together than each of their halves alone; 1 if they agree.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition (2013), section 11.4.

    Args:
        chains: Values with shape=(n_chains, n_frames).
    """
    length = chains.shape[1] // 2
    halves = np.concatenate([chains[:, :length], chains[:, length : 2 * length]])
    within, between = halves.var(axis=1, ddof=1).mean(), halves.mean(axis=1).var(ddof=1)
    return float(np.sqrt((length - 1) / length + between / within))
