"""Velocities for configurations that a move has put in the place of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from openmm import unit

from openmm_bg.mcmc.randomness import random_generator
from openmm_bg.units import BOLTZMANN_CONSTANT

if TYPE_CHECKING:
    import openmm


_NM_PER_PS = unit.nanometer / unit.picosecond
_DISPLACEMENT = 0.1  # of the positions for the derivative of forces, in time steps


def maxwell_boltzmann(masses: np.ndarray, temperature: float) -> unit.Quantity:
    """Draw velocities [nm/ps] with shape=(n_atoms, 3).

    Args:
        masses: Masses [Da] with shape=(n_atoms,); kT/m is then in nm^2/ps^2.
        temperature: Temperature [K].
    """
    noise = torch.randn(len(masses), 3, dtype=torch.float64, generator=random_generator()).numpy()
    width = np.sqrt(BOLTZMANN_CONSTANT * temperature / masses)
    return unit.Quantity(noise * width[:, None], _NM_PER_PS)


def new_velocities(
    context: openmm.Context,
    positions: np.ndarray,
    masses: np.ndarray,
    temperature: float,
    timestep: float | None,
) -> unit.Quantity:
    r"""Draw velocities [nm/ps] with shape=(n_atoms, 3) for dynamics that go on from given positions.

    Without a time step they are those of the Maxwell-Boltzmann distribution, at the time of the positions. A
    leap-frog integrator with the time step h keeps velocities half a step behind. In its stationary distribution,
    positions x of the Boltzmann distribution go with

    .. math:: v = \left(1 - \tfrac{h^2}{4} M^{-1} K\right)^{1/2} w - \tfrac{h}{2} M^{-1} f(x)

    where w is a draw of the Maxwell-Boltzmann distribution, f the force and K its negative derivative. With w alone
    in the first term (that is, a half kick back) fast vibrations get too much energy, :math:`(\omega h / 2)^2` of
    their own, and short dynamics never lose it: in alanine dipeptide at 1 fs, half a kT. To this order the root is
    1 - h^2 K / 8 M, and K w follows from the forces a little before and behind.

    Source: Zhang, Liu, Yan, Tuckerman and Liu, J. Phys. Chem. A 123, 6056 (2019), the integrator, in which harmonic
    positions and half-step velocities are exact; the formula follows from its stationary distribution.

    Args:
        context: A Context of the energy function. It is left with these positions.
        positions: The positions [nm] with shape=(n_atoms, 3).
        masses: Masses [Da] with shape=(n_atoms,).
        temperature: Temperature [K].
        timestep: The time step h [ps], if there is one.
    """
    drawn = maxwell_boltzmann(masses, temperature)
    if timestep is None:
        context.setPositions(positions)
        return drawn
    w = drawn.value_in_unit(_NM_PER_PS)
    s = _DISPLACEMENT * timestep
    ahead, behind, here = (_forces(context, positions + shift * w) for shift in (s, -s, 0.0))
    cooling = timestep**2 / 8.0 * (ahead - behind) / (2.0 * s)
    return unit.Quantity(w + (cooling - 0.5 * timestep * here) / masses[:, None], _NM_PER_PS)


def _forces(context: openmm.Context, positions: np.ndarray) -> np.ndarray:
    """Return forces [kJ/mol/nm] with shape=(n_atoms, 3)."""
    context.setPositions(positions)
    forces = context.getState(forces=True).getForces(asNumpy=True)
    return forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
