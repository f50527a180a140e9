"""Sampling of the coarse-grained potential, by a Metropolised kernel: without a bias by the time step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from openmm_bg.coarse_graining.bead_energy import BeadEnergy, BeadPotential
from openmm_bg.errors import InputError
from openmm_bg.simulation import HybridMonteCarlo, ParallelTempering
from openmm_bg.training.settings import require_positive

BEAD_MASS = 12.0  # Da; of no influence on the distribution
_TUNING_INTERVAL = 5
# The time step is multiplied by the factor of the first bound that the acceptance is below.
_TUNING = ((0.3, 0.5), (0.7, 0.8), (0.85, 1.0), (0.97, 1.1), (math.inf, 1.5))


@dataclass(frozen=True)
class BeadSamplingSettings:
    """Settings of hybrid Monte Carlo with parallel tempering on the bead energy.

    Args:
        n_walkers: Independent ladders of temperatures, at least 2, from whose averages standard errors come.
        n_rungs: Temperatures of each ladder; the lowest is that of the energy.
        ratio: Of each temperature to the next.
        n_leapfrog: Time steps of a trajectory.
        timestep: The time step [ps] at the start; it is tuned in the burn-in.
        interval: Trajectories between two frames; temperatures are exchanged after each.
        burn_in: Trajectories that are thrown away.

    Raises:
        InputError: If a setting makes no sense.
    """

    n_walkers: int = 256
    n_rungs: int = 5
    ratio: float = 1.4
    n_leapfrog: int = 10
    timestep: float = 0.002
    interval: int = 20
    burn_in: int = 200

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive(
            self, ("n_walkers", "n_rungs", "n_leapfrog", "timestep", "interval", "burn_in", "ratio")
        )
        if self.n_walkers < 2:
            raise InputError("There must be at least 2 walkers: standard errors come from their scatter.")
        if not self.ratio > 1:
            raise InputError(f"The ratio of the temperatures must be above 1, not {self.ratio}.")


class BeadSampler:
    """Bead configurations of exp(-energy), frame by frame: one of each walker at a time.

    Args:
        energy: The bead energy.
        start: Bead configurations [nm] to begin with, shape=(n, n_beads, 3).
        settings: The settings.
        seed: Seed of the random numbers.

    Attributes:
        acceptance: The fraction of trajectories that were accepted since the burn-in, at the lowest temperature;
            NaN before the first.

    Raises:
        InputError: If there is no configuration to begin with, or one has no finite energy or another shape.
    """

    def __init__(
        self,
        energy: BeadEnergy,
        start: torch.Tensor,
        settings: BeadSamplingSettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.settings = own = settings or BeadSamplingSettings()
        generator = torch.Generator().manual_seed(seed)
        n = own.n_walkers * own.n_rungs
        if not len(start):
            raise InputError("There is no bead configuration to begin with.")
        chosen = torch.randint(len(start), (n,), generator=generator)
        temperatures = torch.repeat_interleave(
            energy.temperature * own.ratio ** torch.arange(own.n_rungs, dtype=torch.float64), own.n_walkers
        )
        self.potential = BeadPotential(energy)
        self._walkers = HybridMonteCarlo(
            self.potential,
            start[chosen].to(energy.dtype),
            [BEAD_MASS] * energy.n_beads,
            temperatures,
            n_leapfrog=own.n_leapfrog,
            timestep=own.timestep,
            generator=generator,
        )
        many = own.n_rungs > 1
        self._chain: Any = (
            ParallelTempering(self._walkers, n_ladders=own.n_walkers) if many else self._walkers
        )
        self._burned_in = False
        self._before = self._counts()

    @property
    def acceptance(self) -> float:
        """The fraction of trajectories at the lowest temperature that were accepted since the burn-in."""
        if not self._burned_in:
            return math.nan
        proposed, accepted = (self._counts() - self._before).tolist()
        return accepted / proposed if proposed else math.nan

    def _counts(self) -> torch.Tensor:
        """Return how many trajectories were proposed and accepted at the lowest temperature."""
        n = self.settings.n_walkers
        return torch.stack([self._walkers.n_proposed[:n].sum(), self._walkers.n_accepted[:n].sum()])

    @property
    def timestep(self) -> float:
        """The time step [ps], as it has been tuned."""
        return self._walkers.timestep

    def burn_in(self) -> None:
        """Reach the distribution, and tune the time step; nothing at a second call."""
        if self._burned_in:
            return
        walkers = self._walkers
        for _ in range(max(1, self.settings.burn_in // _TUNING_INTERVAL)):
            before = walkers.n_accepted.sum()
            self._advance(_TUNING_INTERVAL)
            accepted = float(walkers.n_accepted.sum() - before) / (_TUNING_INTERVAL * len(walkers.positions))
            factor = next(factor for bound, factor in _TUNING if accepted < bound)
            if factor != 1.0:
                walkers.set_timestep(walkers.timestep * factor)
        self._before = self._counts()
        self._burned_in = True

    def frame(self) -> torch.Tensor:
        """Return the next configuration of each walker [nm] with shape=(n_walkers, n_beads, 3), float64."""
        self.burn_in()
        self._advance(self.settings.interval)
        # A copy: the walkers move on in place.
        return self._walkers.positions[: self.settings.n_walkers].to(torch.float64, copy=True)

    def hot(self) -> torch.Tensor:
        """Return the present configurations at all higher temperatures [nm], float64, shape=(n, n_beads, 3)."""
        return self._walkers.positions[self.settings.n_walkers :].to(torch.float64, copy=True)

    def _advance(self, n_trajectories: int) -> None:
        for _ in range(n_trajectories):
            self._chain.step(1)
