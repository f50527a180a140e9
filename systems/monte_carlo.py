"""Metropolis Monte Carlo at many temperatures with exchanges: the reference sampler of seed 001."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.units import nanometers, thermal_energy

_GAIN = 0.6  # power by which the corrections of the step sizes become smaller


class ParallelTemperingMonteCarlo:
    """Gaussian-increment Metropolis with exchanges between neighbouring temperatures.

    A sweep moves every walker at every temperature once, all coordinates together, and then offers
    exchanges to every second pair of neighbouring temperatures, the other pairs in the next sweep.
    Walkers never meet: each is a parallel-tempering run of its own, so that the spread between walkers
    tells standard errors.

    Source: Swendsen and Wang, Phys. Rev. Lett. 57 (1986) 2607; Geyer (1991).

    Args:
        energy: Returns the energies [kJ/mol] with shape=(n,) of coordinates with shape=(n, d). Moves to
            energies that are not finite are rejected.
        temperatures: Temperatures [K]; neighbours in this list exchange.
        start: Coordinates [nm] with shape=(n_walkers, d), from which walkers start at every temperature.
        step_size: Standard deviation [nm] of each coordinate's increments, to be tuned.
        seed: Same seed, same samples.

    Attributes:
        kt: The temperatures as kT [kJ/mol], with shape=(n_temperatures,).
        step_sizes: Standard deviations [nm] of the increments, with shape=(n_temperatures,).
        positions: Where the walkers are [nm], with shape=(n_temperatures, n_walkers, d).
        energies: Their energies [kJ/mol], with shape=(n_temperatures, n_walkers).

    Raises:
        InputError: If there is no temperature, an energy at the start is not finite, or the energy function
            returns another shape.
    """

    def __init__(
        self,
        energy: Callable[[np.ndarray], np.ndarray],
        temperatures: Sequence[Any],
        start: Any,
        *,
        step_size: float = 0.5,
        seed: int = 0,
    ) -> None:
        self._energy = energy
        self._rng = np.random.default_rng(seed)
        self.kt = np.array([thermal_energy(temperature) for temperature in temperatures])
        start = np.asarray(nanometers(start), dtype=np.float64)
        if not len(self.kt) or start.ndim != 2 or not start.size:
            raise InputError(
                "Monte Carlo needs at least one temperature, and a start with shape (n_walkers, d); "
                f"given are {len(self.kt)} temperatures and the shape {start.shape}."
            )
        if not (np.isfinite(step_size) and step_size > 0):
            raise InputError(f"The step size must be a positive number of nm, not {step_size}.")
        self.step_sizes = np.full(len(self.kt), float(step_size))
        self.positions = np.tile(start, (len(self.kt), 1, 1))
        self.energies = self._evaluate(self.positions)
        if n_wrong := int(np.isinf(self.energies[0]).sum()):
            raise InputError(f"{n_wrong} of {len(start)} walkers start where the energy is not finite.")
        self._n_sweeps = 0
        self._reset_counts()

    @property
    def acceptance(self) -> np.ndarray:
        """The fraction of moves that `run` accepted, with shape=(n_temperatures,); NaN before any."""
        return self._fraction(self._accepted)

    @property
    def exchange_acceptance(self) -> np.ndarray:
        """The fraction of exchanges with the next temperature that `run` accepted; one fewer."""
        return self._fraction(self._exchanged)

    def tune(self, n_sweeps: int, target_acceptance: float = 0.3) -> None:
        """Run without keeping samples, and adapt each temperature's step size; `run` leaves them alone.

        Args:
            n_sweeps: How many sweeps; they serve to forget the start as well.
            target_acceptance: The fraction of moves to be accepted.

        Raises:
            InputError: If the fraction is not between 0 and 1, or the number of sweeps is negative.
        """
        if not 0.0 < target_acceptance < 1.0:
            raise InputError(f"The target acceptance must be between 0 and 1, not {target_acceptance}.")
        _check_count("sweeps", n_sweeps, 0)
        for k in range(n_sweeps):
            accepted = self._move().mean(axis=1)
            self.step_sizes *= np.exp((accepted - target_acceptance) / (k + 1.0) ** _GAIN)
            self._exchange()
        self._reset_counts()

    def run(self, n_sweeps: int, every: int = 1) -> np.ndarray:
        """Run with fixed step sizes, which samples the Boltzmann distributions.

        Args:
            n_sweeps: How many sweeps.
            every: After how many sweeps configurations are kept.

        Returns:
            Coordinates [nm] with shape=(n_sweeps // every, n_temperatures, n_walkers, d).

        Raises:
            InputError: If one of the numbers is not a positive whole number.
        """
        _check_count("sweeps", n_sweeps, 1)
        _check_count("sweeps between kept samples", every, 1)
        kept = np.empty((n_sweeps // every, *self.positions.shape))
        for k in range(n_sweeps):
            self._accepted += np.stack([self._move().sum(axis=1), np.full(len(self.kt), self._n_walkers)])
            self._exchange()
            if (k + 1) % every == 0:
                kept[k // every] = self.positions
        return kept

    @property
    def _n_walkers(self) -> int:
        return self.positions.shape[1]

    def _move(self) -> np.ndarray:
        """Offer every walker a move; return who took it, with shape=(n_temperatures, n_walkers)."""
        steps = self.step_sizes[:, None, None] * self._rng.standard_normal(self.positions.shape)
        proposed = self.positions + steps
        energies = self._evaluate(proposed)
        # Minus an exponentially distributed number is the logarithm of a uniform one.
        luck = -self._rng.standard_exponential(energies.shape)
        accepted = luck < (self.energies - energies) / self.kt[:, None]
        self.positions[accepted], self.energies[accepted] = proposed[accepted], energies[accepted]
        return accepted

    def _exchange(self) -> None:
        """Offer exchanges between the temperatures k and k + 1, for even or for odd k in turn."""
        lower = np.arange(self._n_sweeps % 2, len(self.kt) - 1, 2)
        self._n_sweeps += 1
        difference = self.energies[lower] - self.energies[lower + 1]
        log_ratio = (1 / self.kt[lower] - 1 / self.kt[lower + 1])[:, None] * difference
        accepted = -self._rng.standard_exponential(log_ratio.shape) < log_ratio
        pairs, walkers = np.nonzero(accepted)
        here, there = (lower[pairs], walkers), (lower[pairs] + 1, walkers)
        for values in (self.positions, self.energies):
            values[here], values[there] = values[there], values[here]
        self._exchanged[0, lower] += accepted.sum(axis=1)
        self._exchanged[1, lower] += self._n_walkers

    def _evaluate(self, positions: np.ndarray) -> np.ndarray:
        """Return energies with shape=(n_temperatures, n_walkers), all that are not finite as +inf."""
        rows = positions.reshape(-1, positions.shape[-1])
        energies = np.asarray(self._energy(rows), dtype=np.float64)
        if energies.shape != (len(rows),):
            raise InputError(
                f"The energy function must return the shape ({len(rows)},), not {energies.shape}."
            )
        energies = energies.reshape(positions.shape[:2])
        return np.where(np.isfinite(energies), energies, np.inf)

    def _reset_counts(self) -> None:
        """Forget how many moves and exchanges were accepted (first row) and offered (second row)."""
        self._accepted = np.zeros((2, len(self.kt)), dtype=np.int64)
        self._exchanged = np.zeros((2, len(self.kt) - 1), dtype=np.int64)

    @staticmethod
    def _fraction(counts: np.ndarray) -> np.ndarray:
        accepted, offered = counts
        return np.where(offered > 0, accepted / np.maximum(offered, 1), np.nan)


def _check_count(what: str, count: int, least: int) -> None:
    if not isinstance(count, int | np.integer) or count < least:
        raise InputError(f"The number of {what} must be a whole number of at least {least}, not {count!r}.")
