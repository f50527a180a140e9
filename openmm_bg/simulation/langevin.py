"""Langevin dynamics of many walkers at once on a batched potential."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.checks import per_picosecond, walker_names, whole_number
from openmm_bg.simulation.walkers import ThermalWalkers


class LangevinDynamics(ThermalWalkers):
    """Langevin dynamics with the BAOAB "middle" scheme, as OpenMM's ``LangevinMiddleIntegrator``.

    One step: a kick by the forces, half a drift, the exact Ornstein-Uhlenbeck step of the velocities, half
    a drift. Walkers are independent; each has its own temperature.

    A walker that comes to a non-finite energy is put back, at the end of the call of `step`, to where it was
    at its beginning, with new velocities. `restarts` counts this for each walker, and the first time there is
    a `ReliabilityWarning`: averages are biased then.

    Source: Zhang et al., J. Phys. Chem. A 123, 6056 (2019).

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3); they are copied.
        masses: Masses [Da] with shape=(n_atoms,).
        temperature: One temperature [K], or one for each walker.
        timestep: Time step [ps].
        friction: Friction [1/ps].
        generator: Source of randomness, on the device of the positions.
        dtype: As of `Walkers`, where the attributes are listed, too.

    Raises:
        InputError: If the input is ill-formed, or a walker has no finite energy at the start.
    """

    def __init__(
        self,
        potential: Potential,
        positions: Any,
        masses: Any,
        temperature: Any,
        *,
        timestep: Any = 0.001,
        friction: Any = 1.0,
        generator: torch.Generator,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._friction = per_picosecond("friction", friction)
        super().__init__(
            potential, positions, masses, temperature, timestep=timestep, generator=generator, dtype=dtype
        )
        self._noise = torch.empty_like(self.positions)

    @property
    def friction(self) -> float:
        """The friction [1/ps]."""
        return self._friction

    def set_temperature(self, temperature: Any) -> None:
        """Set the temperature [K]: one, or one for each walker. Velocities are not rescaled."""
        super().set_temperature(temperature)
        lost = -math.expm1(-2.0 * self._friction * self._timestep)
        self._noise_scale = self._thermal_velocity * math.sqrt(lost)

    def step(self, n_steps: int) -> None:
        """Advance all walkers; those that come to a non-finite energy restart from where they began.

        Args:
            n_steps: The number of time steps.

        Raises:
            InputError: If it is negative or not a whole number, or a walker has no good frame to restart from.
        """
        n_steps = whole_number("number of time steps", n_steps, least=0)
        x, v, noise = self.positions, self.velocities, self._noise
        half, keep = 0.5 * self._timestep, math.exp(-self._friction * self._timestep)
        start, highest = x.clone(), self.energy.clone()
        for _ in range(n_steps):
            v.addcmul_(self._kick, self.forces)
            x.add_(v, alpha=half)
            v.mul_(keep).addcmul_(self._noise_scale, noise.normal_(generator=self.generator))
            x.add_(v, alpha=half)
            self._evaluate()
            torch.maximum(highest, self.energy, out=highest)  # keeps an infinite energy in mind
        bad = ~torch.isfinite(highest + v.sum((1, 2)))
        if bad.any():
            self._restart(bad, start)

    def _restart(self, bad: torch.Tensor, start: torch.Tensor) -> None:
        if not self.n_restarts:
            warnings.warn(
                f"The energy of {walker_names(bad)} became non-finite, and their last good frame was taken "
                "instead, which biases averages; use a shorter time step. (Said once: `restarts` counts.)",
                ReliabilityWarning,
                stacklevel=3,
            )
        self.restarts += bad
        velocities = self.velocities.clone()
        self.draw_velocities()
        self.velocities[~bad] = velocities[~bad]
        self.positions[bad] = start[bad]
        self._evaluate()
        lost = ~torch.isfinite(self.energy)
        if lost.any():
            raise InputError(
                f"There is no good frame to restart {walker_names(lost)} from; set positions anew."
            )
