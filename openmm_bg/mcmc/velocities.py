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


def maxwell_boltzmann(masses: np.ndarray, temperature: float) -> unit.Quantity:
    """Draw velocities [nm/ps] with shape=(n_atoms, 3).

    Args:
        masses: Masses [Da] with shape=(n_atoms,); kT/m is then in nm^2/ps^2.
        temperature: Temperature [K].
    """
    noise = torch.randn(len(masses), 3, dtype=torch.float64, generator=random_generator()).numpy()
    width = np.sqrt(BOLTZMANN_CONSTANT * temperature / masses)
    return unit.Quantity(noise * width[:, None], unit.nanometer / unit.picosecond)


def half_kick(context: openmm.Context, masses: np.ndarray, timestep: float) -> unit.Quantity:
    """Return the change of the velocities in half a time step under a Context's forces.

    Args:
        context: The Context, with its positions set.
        masses: Masses [Da] with shape=(n_atoms,).
        timestep: Time step [ps].
    """
    forces = context.getState(forces=True).getForces(asNumpy=True)
    plain = forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return unit.Quantity(0.5 * timestep * plain / masses[:, None], unit.nanometer / unit.picosecond)
