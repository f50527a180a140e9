"""Checks that say in one sentence why a system cannot be sampled, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import openmm

SOLVENT_FORCES = ("GBSAOBCForce", "CustomGBForce", "AmoebaGeneralizedKirkwoodForce")
"""The classes of OpenMM's forces that stand for a solvent: generalized Born models and their like."""


def check_system(system: openmm.System) -> None:
    """Refuse systems whose Boltzmann distribution is not a density over all 3N coordinates.

    Raises:
        InputError: For constraints, virtual sites, massless particles, barostats and periodic boxes, and
            for a system without particles or forces.
    """
    for problem in system_problems(system):
        raise InputError(problem)


def system_problems(system: openmm.System) -> Iterator[str]:
    """Yield all reasons for which `check_system` refuses a system, each with its remedy."""
    import openmm
    from openmm import unit

    if count := system.getNumConstraints():
        yield (
            f"The system has {count} constraint{'s' if count > 1 else ''}, but all 3N coordinates must be free "
            "to move, bond lengths included: build it with constraints=None and rigidWater=False (openmmtools: "
            "testsystems.AlanineDipeptideImplicit(constraints=None))."
        )
    particles = range(system.getNumParticles())
    if sites := sum(system.isVirtualSite(i) for i in particles):
        yield f"The system has {sites} virtual sites, which are not supported; use a model without them."
    barostats = [force.getName() for force in system.getForces() if "Barostat" in type(force).__name__]
    if barostats:
        yield (
            f"The system has a barostat ({barostats[0]}), but a molecule in implicit solvent has no volume: "
            "remove the barostat."
        )
    if system.usesPeriodicBoundaryConditions():
        yield (
            f"The system is periodic ({_periodic_force(system)}): build it with nonbondedMethod=NoCutoff or "
            "CutoffNonPeriodic, constraints=None and implicit solvent (explicit solvent and crystals are not "
            "supported)."
        )
    masses = [
        system.getParticleMass(i).value_in_unit(unit.dalton) for i in particles if not system.isVirtualSite(i)
    ]
    if not all(np.isfinite(mass) and mass > 0 for mass in masses):
        yield "The system has particles without mass (fixed in space), which are not supported."
    without_energy = (openmm.CMMotionRemover, openmm.AndersenThermostat)
    if not masses or all(isinstance(force, without_energy) for force in system.getForces()):
        yield "The system has no particles or no forces: it has no Boltzmann distribution to learn."


def _periodic_force(system: openmm.System) -> str:
    """Return what makes a system periodic, e.g. ``NonbondedForce uses PME``."""
    import openmm

    for force in system.getForces():
        try:
            periodic = force.usesPeriodicBoundaryConditions()
        except openmm.OpenMMException:  # a kind of force that does not tell
            continue
        if periodic:
            method = force.getNonbondedMethod() if hasattr(force, "getNonbondedMethod") else None
            for name in ("CutoffPeriodic", "Ewald", "PME", "LJPME"):
                if method is not None and getattr(force, name, None) == method:
                    return f"{type(force).__name__} uses {name}"
            return f"{type(force).__name__} uses periodic boundary conditions"
    return "one of its forces says so"


def solvent_problems(system: openmm.System) -> Iterator[str]:
    """Yield a sentence if a molecule from files has more than one solvent; a system made on purpose may have."""
    solvents = [kind for kind in (type(f).__name__ for f in system.getForces()) if kind in SOLVENT_FORCES]
    if len(solvents) > 1:
        yield (
            f"The system has {len(solvents)} generalized Born forces ({', '.join(solvents)}), so that the solvent "
            "counts more than once: give one only, either by a force-field file (such as implicit/obc2.xml or "
            "amber99_obc.xml) or by --implicit-solvent."
        )
