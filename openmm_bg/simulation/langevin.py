"""Langevin dynamics of many walkers at once on a batched potential."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.potentials.base import Potential
from openmm_bg.tensors import positions_tensor
from openmm_bg.units import BOLTZMANN_CONSTANT, picoseconds


class LangevinDynamics:
    """Langevin dynamics with the BAOAB "middle" scheme, as OpenMM's ``LangevinMiddleIntegrator``.

    One step: a kick by the forces, half a drift, the exact Ornstein-Uhlenbeck step of the velocities, half
    a drift. Walkers are independent; each has its own temperature.

    Source: Zhang et al., J. Phys. Chem. A 123, 6056 (2019).

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3).
        masses: Masses [Da] with shape=(n_atoms,).
        temperature: One temperature [K], or one for each walker.
        timestep: Time step [ps].
        friction: Friction [1/ps].
        generator: Source of randomness.
        dtype: Precision of positions and velocities.
    """

    def __init__(
        self,
        potential: Potential,
        positions: Any,
        masses: np.ndarray,
        temperature: float | np.ndarray,
        *,
        timestep: float = 0.001,
        friction: float = 1.0,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.potential, self.generator = potential, generator
        self.timestep, self.friction = picoseconds(timestep), float(friction)
        self.positions = positions_tensor(positions, dtype)
        self._mass = torch.as_tensor(np.array(masses), dtype=dtype)[None, :, None]
        self.n_restarts = 0
        self.set_temperature(temperature)
        self.velocities = self._maxwell(slice(None))
        self.energy, self._forces = potential.energy_and_forces(self.positions)
        self._good = self.positions.clone()

    def set_temperature(self, temperature: float | np.ndarray) -> None:
        """Set the temperature [K]: one, or one for each walker. Velocities are not rescaled."""
        values = np.broadcast_to(np.asarray(temperature, dtype=np.float64), (len(self.positions),))
        self.temperature = torch.as_tensor(np.array(values), dtype=self.positions.dtype)
        kt = BOLTZMANN_CONSTANT * self.temperature[:, None, None]
        self._thermal_velocity = (kt / self._mass).sqrt()

    def _maxwell(self, walkers: Any) -> torch.Tensor:
        scale = self._thermal_velocity[walkers]
        return scale * self._noise(self.positions[walkers].shape)

    def _noise(self, shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=self.positions.dtype)

    def step(self, n_steps: int) -> None:
        """Advance all walkers; those that come to a non-finite energy restart from their last good frame."""
        dt = self.timestep
        keep = float(np.exp(-self.friction * dt))
        kick = dt / self._mass
        noise = self._thermal_velocity * float(np.sqrt(1.0 - keep * keep))
        x, v, forces = self.positions, self.velocities, self._forces
        for _ in range(n_steps):
            v = v + kick * forces
            x = x + 0.5 * dt * v
            v = keep * v + noise * self._noise(v.shape)
            x = x + 0.5 * dt * v
            self.energy, forces = self.potential.energy_and_forces(x)
        bad = ~(torch.isfinite(self.energy) & torch.isfinite(v).all(-1).all(-1))
        if bad.any():
            self.n_restarts += int(bad.sum())
            x = torch.where(bad[:, None, None], self._good, x)
            v = torch.where(bad[:, None, None], self._maxwell(slice(None)), v)
            self.energy, forces = self.potential.energy_and_forces(x)
        self.positions, self.velocities, self._forces = x, v, forces
        self._good = x.clone()

    def exchange(self, pairs: torch.Tensor) -> torch.Tensor:
        """Try to swap the configurations of pairs of walkers at different temperatures.

        Accepted with probability min(1, exp((beta_i - beta_j) (U_i - U_j))); velocities are rescaled by
        the square root of the temperature ratio.

        Args:
            pairs: Walker indices with shape=(n_pairs, 2), each walker at most once.

        Returns:
            Whether each swap was accepted, with shape=(n_pairs,).
        """
        i, j = pairs.T
        beta = 1.0 / (BOLTZMANN_CONSTANT * self.temperature.double())
        energy = self.energy.double()
        log_ratio = (beta[i] - beta[j]) * (energy[i] - energy[j])
        accepted = torch.rand(len(i), generator=self.generator, dtype=torch.float64).log() < log_ratio
        i, j = i[accepted], j[accepted]
        order = torch.arange(len(self.positions))
        order[i], order[j] = j, i
        rescale = (self.temperature / self.temperature[order]).sqrt()[:, None, None]
        self.positions, self.velocities = self.positions[order], self.velocities[order] * rescale
        self.energy, self._forces, self._good = self.energy[order], self._forces[order], self._good[order]
        return accepted

    def state(self) -> dict[str, np.ndarray]:
        """Return everything needed to continue, as arrays."""
        return {
            "positions": self.positions.numpy(),
            "velocities": self.velocities.numpy(),
            "temperature": self.temperature.numpy(),
            "generator": self.generator.get_state().numpy(),
            "n_restarts": np.array(self.n_restarts),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        dtype = self.positions.dtype
        self.positions = torch.as_tensor(state["positions"], dtype=dtype)
        self.velocities = torch.as_tensor(state["velocities"], dtype=dtype)
        self.set_temperature(state["temperature"])
        self.generator.set_state(torch.as_tensor(state["generator"], dtype=torch.uint8))
        self.n_restarts = int(state["n_restarts"])
        self.energy, self._forces = self.potential.energy_and_forces(self.positions)
        self._good = self.positions.clone()
