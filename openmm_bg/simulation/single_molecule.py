"""Langevin dynamics of a single molecule on the fused potential."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.units import BOLTZMANN_CONSTANT

_NOISE = 4096  # steps that are drawn at a time, at most


class SingleMoleculeDynamics:
    """Langevin dynamics with the "middle" scheme, one configuration at a time, in double precision.

    `LangevinDynamics` moves many walkers, for which a step of tensor operations costs as much as for one. Here a
    step costs little more than the forces. A step is that of OpenMM's ``LangevinMiddleIntegrator``: a kick, half a
    drift, the Ornstein-Uhlenbeck step of the velocities, half a drift; velocities are those half a step ago.

    Source: Zhang et al., J. Phys. Chem. A 123, 6056 (2019).

    Args:
        potential: The potential, in its fused mode.
        masses: Masses [Da] with shape=(n_atoms,).
        removal_interval: Remove the motion of the centre of mass at the beginning of a step whenever this many
            were made, like OpenMM's ``CMMotionRemover``; never if None.
    """

    def __init__(
        self, potential: TorchPotential, masses: np.ndarray, removal_interval: int | None = None
    ) -> None:
        self._potential = potential
        self._masses = np.asarray(masses, dtype=np.float64)
        self._interval = removal_interval
        self._single: Any = None

    def run(
        self,
        positions: np.ndarray,
        velocities: np.ndarray,
        n_steps: int,
        *,
        timestep: float,
        friction: float,
        temperature: float,
        generator: torch.Generator,
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Make some steps.

        Args:
            positions: Where to begin [nm] with shape=(n_atoms, 3).
            velocities: Velocities [nm/ps] with shape=(n_atoms, 3), half a step before.
            n_steps: The number of steps.
            timestep: Time step [ps].
            friction: Friction [1/ps].
            temperature: Temperature [K].
            generator: Source of randomness.

        Returns:
            Positions, velocities, and the energy [kJ/mol] at the last positions, which is not finite if the
            dynamics have exploded.

        Raises:
            InputError: If the energy is not finite at the start, or the potential cannot be fused.
        """
        if self._single is None:
            self._single = self._potential.single(positions)
        single = self._single
        x, forces = single.positions, single.forces
        x[:] = positions
        single.fill()
        single.evaluate()
        if not np.isfinite(single.energy):
            raise InputError("The energy is not finite where dynamics begin; begin with other positions.")
        v = np.array(velocities, dtype=np.float64)
        masses = self._masses[:, None]
        kick = np.broadcast_to(timestep / masses, v.shape).copy()
        keep = np.exp(-friction * timestep)
        lost = -np.expm1(-2.0 * friction * timestep)
        width = np.sqrt(lost * BOLTZMANN_CONSTANT * temperature / masses)
        shares = masses / masses.sum()
        half, scratch = 0.5 * timestep, np.empty_like(v)
        for first in range(0, n_steps, _NOISE):
            count = min(_NOISE, n_steps - first)
            noise = torch.randn(count, *v.shape, dtype=torch.float64, generator=generator).numpy()
            noise *= width
            for k in range(count):
                if self._interval and (first + k) % self._interval == 0:
                    v -= (shares * v).sum(axis=0)
                np.multiply(forces, kick, out=scratch)
                v += scratch
                np.multiply(v, half, out=scratch)
                x += scratch
                v *= keep
                v += noise[k]
                np.multiply(v, half, out=scratch)
                x += scratch
                single.evaluate()
        return x.copy(), v, single.energy
