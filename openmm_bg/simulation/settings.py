"""Settings of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.potentials.torch_potential import MODES
from openmm_bg.units import kelvin

ENGINES = ("torch", "openmm")
REFERENCE = "reference"
"""The name of the reference configuration as a start."""


@dataclass(frozen=True)
class SimulationSettings:
    """Settings of a simulation of many walkers.

    Args:
        temperature: Temperature [K].
        n_frames: Frames to keep, of all walkers together.
        n_walkers: Independent walkers.
        starts: The system's configurations, by name, from which walkers begin in turn: walker w, with all
            replicas of its ladder, from ``starts[w % len(starts)]``. None: all from the reference configuration,
            whose name is "reference".
        ladder: Higher temperatures [K], rising: parallel tempering. Each walker becomes a ladder of replicas at
            `temperature` and these, which try to exchange after every interval; the frames kept are those at
            `temperature`. None: no exchange.
        interval: Steps between frames.
        burn_in: Steps of every walker that are thrown away.
        hot_start: Temperature [K] of the first half of the burn-in, to spread the walkers over the basins;
            none if not given.
        timestep: Time step [ps].
        friction: Friction [1/ps].
        hydrogen_mass: Hydrogens get this mass [Da], which allows longer steps and does not change the
            distribution of positions; as in the system if not given.
        engine: "torch": all walkers at once on the batched potential; "openmm": one after the other with
            OpenMM's integrator, for systems that the batched potential does not support.
        mode: How the batched potential is evaluated, as of `TorchPotential`.
        seed: Seed of the random numbers.

    Raises:
        InputError: If a setting makes no sense.
    """

    temperature: float = 600.0
    n_frames: int = 100_000
    n_walkers: int = 512
    starts: tuple[str, ...] = ()
    ladder: tuple[float, ...] = ()
    interval: int = 50
    burn_in: int = 10_000
    hot_start: float | None = None
    timestep: float = 0.002
    friction: float = 2.0
    hydrogen_mass: float | None = 4.0
    engine: str = "torch"
    mode: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        kelvin(self.temperature)
        if self.hot_start is not None:
            kelvin(self.hot_start)
        rungs = (self.temperature, *(kelvin(rung) for rung in self.ladder))
        if any(high <= low for low, high in pairwise(rungs)):
            raise InputError(f"The temperatures of a ladder must rise: {', '.join(f'{t:g}' for t in rungs)}.")
        if self.ladder and self.engine != "torch":
            raise InputError(
                "Parallel tempering needs the engine 'torch'; leave out the ladder or the engine."
            )
        for name in ("n_frames", "n_walkers", "interval"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        self._check_starts()
        if self.burn_in < 0:
            raise InputError(f"burn_in must not be negative, and is {self.burn_in}.")
        for name in ("timestep", "friction", "hydrogen_mass"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, not {value}.")
        if self.engine not in ENGINES:
            raise InputError(f"There is no engine {self.engine!r}; the engines are: {', '.join(ENGINES)}.")
        if self.mode not in MODES:
            raise InputError(f"There is no mode {self.mode!r}; the modes are: {', '.join(MODES)}.")

    def _check_starts(self) -> None:
        if isinstance(self.starts, str) or not all(isinstance(name, str) for name in self.starts):
            raise InputError(f"The starts must be a tuple of names, not {self.starts!r}.")
        if len(set(self.starts)) < len(self.starts):
            raise InputError(f"A start is named twice: {', '.join(self.starts)}.")
        if len(self.starts) > self.n_walkers:
            raise InputError(
                f"{len(self.starts)} starts need at least as many walkers, not {self.n_walkers}."
            )

    def walker_starts(self) -> tuple[str, ...]:
        """Return the name of the start of each walker."""
        starts = self.starts or (REFERENCE,)
        return tuple(starts[walker % len(starts)] for walker in range(self.n_walkers))

    def replica_temperatures(self) -> np.ndarray:
        """Return the temperature [K] of every replica with shape=((1 + len(ladder)) * n_walkers,)."""
        return np.repeat([self.temperature, *self.ladder], self.n_walkers)

    @property
    def frames_per_walker(self) -> int:
        """Frames of each walker, so that all together are at least `n_frames`."""
        return -(-self.n_frames // self.n_walkers)
