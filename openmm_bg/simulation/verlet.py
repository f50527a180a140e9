"""Newtonian dynamics of many walkers at once, at constant energy."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.checks import walker_generator, walker_names, walker_temperatures, whole_number
from openmm_bg.simulation.walkers import Walkers
from openmm_bg.units import BOLTZMANN_CONSTANT


class VelocityVerlet(Walkers):
    """Newtonian dynamics (NVE) with the velocity Verlet scheme; positions and velocities are at the same time.

    Its positions are those of OpenMM's ``VerletIntegrator``, which keeps velocities half a step behind.

    A walker that comes to a non-finite energy is put back, at the end of the call of `step`, to where it was
    at its beginning, with the velocities that it had there; the others go on. `restarts` counts this for each
    walker, and the first time there is a `ReliabilityWarning`. Such a walker takes the same path again: give
    it other velocities or positions, or begin again with a shorter time step.

    Source: Swope et al., J. Chem. Phys. 76, 637 (1982).

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3); they are copied.
        masses: Masses [Da] with shape=(n_atoms,).
        velocities: Start velocities [nm/ps] with shape=(n_walkers, n_atoms, 3).
        temperature: Instead of velocities: draw them at this temperature [K], or at one for each walker.
        timestep: Time step [ps].
        generator: Source of randomness for the velocities, on the device of the positions.
        dtype: As of `Walkers`, where the attributes are listed, too.

    Raises:
        InputError: If the input is ill-formed, or a walker has no finite energy at the start.
    """

    def __init__(
        self,
        potential: Potential,
        positions: Any,
        masses: Any,
        *,
        velocities: Any = None,
        temperature: Any = None,
        timestep: Any = 0.001,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if (velocities is None) == (temperature is None):
            raise InputError("Give either the velocities, or a temperature to draw them at.")
        super().__init__(potential, positions, masses, timestep=timestep, dtype=dtype)
        if velocities is not None:
            self.set_velocities(velocities)
        else:
            self.draw_velocities(temperature, generator)

    def draw_velocities(self, temperature: Any, generator: torch.Generator | None) -> None:
        """Draw all velocities from Maxwell's distribution.

        Args:
            temperature: One temperature [K], or one for each walker.
            generator: Source of randomness, on the device of the positions.
        """
        generator = walker_generator(generator, self.positions)
        kt = BOLTZMANN_CONSTANT * walker_temperatures(temperature, self.positions)
        scale = self._per_coordinate((kt[:, None] / self.masses.double()).sqrt())
        self.velocities.normal_(generator=generator).mul_(scale)

    def total_energy(self) -> torch.Tensor:
        """Return potential and kinetic energy [kJ/mol] together, in double precision, shape=(n_walkers,)."""
        return self.energy.double() + self.kinetic_energy()

    def step(self, n_steps: int) -> None:
        """Advance all walkers; those that come to a non-finite energy go back to where they began.

        Args:
            n_steps: The number of time steps.

        Raises:
            InputError: If it is negative or not a whole number, or a walker had no finite energy to begin
                with; all are then where they were before.
        """
        n_steps = whole_number("number of time steps", n_steps, least=0)
        lost = ~torch.isfinite(self.total_energy())
        if lost.any():
            raise InputError(
                f"The energy of {walker_names(lost)} is not finite; set the positions and velocities anew."
            )
        before = [tensor.clone() for tensor in (self.positions, self.velocities, self.energy, self.forces)]
        bad = ~torch.isfinite(self._leapfrog(n_steps) + self.total_energy())
        if bad.any():
            self._restart(bad, before)

    def _restart(self, bad: torch.Tensor, before: list[torch.Tensor]) -> None:
        if not self.n_restarts:
            warnings.warn(
                f"The energy of {walker_names(bad)} became non-finite, and their last good frame was taken "
                "instead, from where they take the same path again; use a shorter time step, or minimise first. "
                "(Said once: `restarts` counts.)",
                ReliabilityWarning,
                stacklevel=3,
            )
        self.restarts += bad
        mask = bad[:, None, None]
        positions, velocities, energy, forces = before
        self.positions = torch.where(mask, positions, self.positions)
        self.velocities = torch.where(mask, velocities, self.velocities)
        self.energy = torch.where(bad, energy, self.energy)
        self.forces = torch.where(mask, forces, self.forces)
