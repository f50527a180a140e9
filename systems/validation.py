"""Checks that say in one sentence why a system cannot be sampled, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import openmm


def check_system(system: openmm.System) -> None:
    """Refuse systems whose Boltzmann distribution is not a density over all 3N coordinates.

    Raises:
        InputError: For constraints, virtual sites, massless particles, barostats and periodic boxes.
    """
    import openmm

    if count := system.getNumConstraints():
        raise InputError(
            f"The system has {count} constraints, and a flow proposes all bond lengths: build it with "
            "constraints=None and rigidWater=False (openmmtools: "
            "testsystems.AlanineDipeptideImplicit(constraints=None))."
        )
    particles = range(system.getNumParticles())
    if sites := sum(system.isVirtualSite(i) for i in particles):
        raise InputError(f"The system has {sites} virtual sites, which are not supported; use a model without them.")
    barostats = [force.getName() for force in system.getForces() if "Barostat" in type(force).__name__]
    if barostats:
        raise InputError(
            f"The system has a barostat ({barostats[0]}); a molecule in implicit solvent has no volume: remove it."
        )
    if system.usesPeriodicBoundaryConditions():
        raise InputError(
            "The system is periodic; build it with nonbondedMethod=NoCutoff and implicit solvent "
            "(explicit solvent and crystals are not supported)."
        )
    if any(not np.isfinite(openmm_mass(system, i)) or openmm_mass(system, i) <= 0 for i in particles):
        raise InputError("The system has particles without mass (fixed in space), which are not supported.")
    if not any(isinstance(force, openmm.Force) for force in system.getForces()):
        raise InputError("The system has no forces, so it has no Boltzmann distribution to learn.")


def openmm_mass(system: openmm.System, index: int) -> float:
    """Return a particle's mass [Da]."""
    from openmm import unit

    return float(system.getParticleMass(index).value_in_unit(unit.dalton))
