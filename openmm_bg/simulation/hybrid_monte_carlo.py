"""Hybrid (Hamiltonian) Monte Carlo of many walkers at once: exact at any time step."""

from __future__ import annotations

from typing import Any

import torch

from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.checks import time_step, whole_number
from openmm_bg.simulation.walkers import ThermalWalkers
from openmm_bg.units import BOLTZMANN_CONSTANT


class HybridMonteCarlo(ThermalWalkers):
    """Hybrid Monte Carlo: short trajectories with new velocities, accepted by their change of total energy.

    Unlike Langevin dynamics it has no error of the time step: a longer one only lowers the acceptance. The
    test is done in double precision. A trajectory that ends at a non-finite energy is rejected, which biases
    nothing (`restarts` stays zero), and counted in `n_nonfinite`: many of them ask for a shorter time step.

    Source: Duane et al., Phys. Lett. B 195, 216 (1987).

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3); they are copied.
        masses: Masses [Da] with shape=(n_atoms,).
        temperature: One temperature [K], or one for each walker.
        n_leapfrog: Time steps of a trajectory.
        timestep: Time step [ps].
        generator: Source of randomness, on the device of the positions.
        dtype: As of `Walkers`, where the attributes are listed, too.

    Attributes:
        n_proposed: Trajectories of each walker so far, with shape=(n_walkers,).
        n_accepted: How many of them were accepted, with shape=(n_walkers,).
        n_nonfinite: How many of them were rejected as they ended at a non-finite energy, with
            shape=(n_walkers,).

    Raises:
        InputError: If the input is ill-formed, or a walker has no finite energy at the start.
    """

    _state_names = (*ThermalWalkers._state_names, "n_proposed", "n_accepted", "n_nonfinite")

    def __init__(
        self,
        potential: Potential,
        positions: Any,
        masses: Any,
        temperature: Any,
        *,
        n_leapfrog: int = 10,
        timestep: Any = 0.001,
        generator: torch.Generator,
        dtype: torch.dtype | None = None,
    ) -> None:
        n_leapfrog = whole_number("number of time steps of a trajectory", n_leapfrog, least=1)
        super().__init__(
            potential, positions, masses, temperature, timestep=timestep, generator=generator, dtype=dtype
        )
        self.n_leapfrog = n_leapfrog
        self.n_proposed = torch.zeros_like(self.restarts)
        self.n_accepted = torch.zeros_like(self.restarts)
        self.n_nonfinite = torch.zeros_like(self.restarts)

    @property
    def acceptance(self) -> torch.Tensor:
        """The fraction of accepted trajectories of each walker with shape=(n_walkers,); NaN before the first."""
        return self.n_accepted / self.n_proposed

    def set_timestep(self, timestep: Any) -> None:
        """Set the time step [ps]. Do so in a burn-in only: a step that depends on the chain biases it.

        Raises:
            InputError: If it is not positive and finite.
        """
        self._timestep = time_step(timestep)
        self._kick = self._per_coordinate(self._timestep / self.masses)

    def step(self, n_steps: int) -> None:
        """Propose trajectories.

        Args:
            n_steps: The number of trajectories, of `n_leapfrog` time steps each.

        Raises:
            InputError: If it is negative or not a whole number.
        """
        n_steps = whole_number("number of trajectories", n_steps, least=0)
        for _ in range(n_steps):
            self.draw_velocities()
            before = [
                tensor.clone() for tensor in (self.positions, self.velocities, self.energy, self.forces)
            ]
            old = self.energy.double() + self.kinetic_energy()
            self._leapfrog(self.n_leapfrog)
            new = self.energy.double() + self.kinetic_energy()
            accepted = self._accepts((new - old) / (BOLTZMANN_CONSTANT * self.temperature))
            self._keep(accepted, before)
            self.n_proposed += 1
            self.n_accepted += accepted
            self.n_nonfinite += ~torch.isfinite(new)

    def _accepts(self, reduced_difference: torch.Tensor) -> torch.Tensor:
        """Metropolis: with probability min(1, exp(-difference)); never if it is NaN."""
        uniform = torch.rand(
            len(reduced_difference),
            generator=self.generator,
            dtype=torch.float64,
            device=self.positions.device,
        )
        return uniform.log() < -reduced_difference

    def _keep(self, accepted: torch.Tensor, before: list[torch.Tensor]) -> None:
        mask = accepted[:, None, None]
        positions, velocities, energy, forces = before
        self.positions = torch.where(mask, self.positions, positions)
        self.velocities = torch.where(mask, self.velocities, velocities)
        self.energy = torch.where(accepted, self.energy, energy)
        self.forces = torch.where(mask, self.forces, forces)
