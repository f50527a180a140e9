"""Langevin dynamics of several walkers with OpenMM's own integrator, one walker after the other."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from openmm_bg.errors import InputError


class OpenMMDynamics:
    """The walkers of `LangevinDynamics`, moved by OpenMM's ``LangevinMiddleIntegrator``.

    One Context serves all walkers; its platform is the one that is fastest in a short trial.

    Args:
        system: The OpenMM system.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3).
        masses: Masses [Da] with shape=(n_atoms,), which replace the system's.
        temperature: Temperature [K].
        timestep: Time step [ps].
        friction: Friction [1/ps].
        seed: Seed of the integrator.
    """

    def __init__(
        self,
        system: Any,
        positions: np.ndarray,
        masses: np.ndarray,
        temperature: float,
        *,
        timestep: float,
        friction: float,
        seed: int,
    ) -> None:
        import openmm

        from openmm_bg.potentials import OpenMMPotential

        with OpenMMPotential(system, dtype=_single_precision()) as potential:
            potential.energy_and_forces(np.array(positions[:1]))  # times the platforms
            platform = openmm.Platform.getPlatformByName(potential.platform_name)
            properties = {"Threads": "1"} if potential.platform_name == "CPU" else {}
        system = copy.deepcopy(system)
        for index, mass in enumerate(masses):
            system.setParticleMass(index, float(mass))
        self._integrator = openmm.LangevinMiddleIntegrator(temperature, friction, timestep)
        self._integrator.setRandomNumberSeed(seed % (2**31 - 1) + 1)  # 0 would mean "any"
        self._context = openmm.Context(system, self._integrator, platform, properties)
        self._seed = seed
        self.positions = np.array(positions, dtype=np.float64)
        self.velocities = np.zeros_like(self.positions)
        self.energy = np.zeros(len(positions))
        self.n_evaluations, self.n_restarts = 0, 0
        self._context.setPositions(self.positions[0])
        for k in range(len(positions)):
            self._context.setVelocitiesToTemperature(temperature, seed % 2**30 + k + 1)
            self.velocities[k] = self._context.getState(getVelocities=True).getVelocities(asNumpy=True)._value

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature [K] of all walkers."""
        self._integrator.setTemperature(temperature)

    def step(self, n_steps: int) -> None:
        """Advance all walkers.

        Raises:
            InputError: If a walker's energy is not finite any more.
        """
        import openmm

        for k in range(len(self.positions)):
            self._context.setPositions(self.positions[k])
            self._context.setVelocities(self.velocities[k])
            try:
                self._integrator.step(n_steps)
                state = self._context.getState(getPositions=True, getVelocities=True, getEnergy=True)
                energy = state.getPotentialEnergy()._value
            except openmm.OpenMMException as error:
                raise InputError(
                    f"The simulation came to a non-finite energy ({error}); use a shorter time step."
                ) from error
            if not np.isfinite(energy):
                raise InputError("The simulation came to a non-finite energy; use a shorter time step.")
            self.energy[k] = energy
            self.positions[k] = state.getPositions(asNumpy=True)._value
            self.velocities[k] = state.getVelocities(asNumpy=True)._value
        self.n_evaluations += n_steps * len(self.positions)

    def state(self) -> dict[str, np.ndarray]:
        """Return what is needed to continue, as arrays; OpenMM's random numbers start anew."""
        return {"positions": self.positions, "velocities": self.velocities}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned, with random numbers that were not used before."""
        self._integrator.setRandomNumberSeed((self._seed + 7919 * int(state["n_segments"])) % (2**31 - 1) + 1)
        self._context.reinitialize(preserveState=True)
        self.positions, self.velocities = state["positions"].copy(), state["velocities"].copy()


def _single_precision() -> Any:
    import torch

    return torch.float32
