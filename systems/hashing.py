"""A fingerprint that tells whether two OpenMM systems have the same energy function."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openmm


def system_hash(system: openmm.System) -> str:
    """Return the SHA-256 of a system's energy function (hexadecimal).

    Masses, thermostats, centre-of-mass removers, force groups and names do not change the Boltzmann
    distribution of the positions and are left out, so that e.g. hydrogen mass repartitioning keeps the
    hash. It is made from OpenMM's serialisation, so an OpenMM that writes another format may change it.
    """
    import openmm

    ignored = (openmm.CMMotionRemover, openmm.AndersenThermostat)
    digest = hashlib.sha256(str(system.getNumParticles()).encode())
    for original in system.getForces():
        if not isinstance(original, ignored):
            force = copy.deepcopy(original)
            force.setForceGroup(0)
            force.setName(type(force).__name__)
            digest.update(openmm.XmlSerializer.serialize(force).encode())
    return digest.hexdigest()
