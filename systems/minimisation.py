"""Minimised energies, if wanted with torsions that may not go far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openmm

_WALL = 5000.0  # [kJ/mol/rad^2]


def minimise(
    system: openmm.System,
    positions: np.ndarray,
    torsions: Mapping[tuple[int, int, int, int], float] | None = None,
    *,
    width: float = 0.0,
    tolerance: float = 10.0,
) -> tuple[np.ndarray, float]:
    """Minimise the energy on OpenMM's Reference platform, which gives the same result each time.

    A restraint is zero while its torsion is within a width of its angle, and a steep parabola beyond.

    Args:
        system: The OpenMM system; it is not changed.
        positions: Where to start [nm] with shape=(n_atoms, 3).
        torsions: The torsions to restrain, by four atom indices each, and their angles [rad].
        width: How far these may go for free [rad].
        tolerance: The root mean square of the forces at which to stop [kJ/mol/nm].

    Returns:
        The positions [nm] with shape=(n_atoms, 3), and their energy [kJ/mol] without the restraints.
    """
    import openmm
    from openmm import unit

    restrained = openmm.XmlSerializer.clone(system)
    for force in restrained.getForces():
        force.setForceGroup(0)
    restraint = _flat_restraint(torsions or {}, width)
    restraint.setForceGroup(1)
    restrained.addForce(restraint)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(restrained, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance)
    state = context.getState(positions=True)
    energy = context.getState(energy=True, groups={0}).getPotentialEnergy()
    return (
        state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
        energy.value_in_unit(unit.kilojoule_per_mole),
    )


def _flat_restraint(
    torsions: Mapping[tuple[int, int, int, int], float], width: float
) -> openmm.CustomTorsionForce:
    """Return a restraint that is zero within a width [rad] of each torsion's angle [rad]."""
    import openmm

    restraint = openmm.CustomTorsionForce(
        "wall*max(0, distance-width)^2; distance=min(turn, 6.283185307179586-turn); turn=abs(theta-theta0)"
    )
    restraint.addGlobalParameter("wall", _WALL)
    restraint.addGlobalParameter("width", width)
    restraint.addPerTorsionParameter("theta0")
    for atoms, angle in torsions.items():
        restraint.addTorsion(*atoms, [float(np.arctan2(np.sin(angle), np.cos(angle)))])
    return restraint
