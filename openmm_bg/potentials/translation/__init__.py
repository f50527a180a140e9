"""Translation of an ``openmm.System`` to the terms of a `TorchPotential`, checked against OpenMM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openmm_bg.errors import InputError
from openmm_bg.potentials.terms import Term
from openmm_bg.potentials.translation import bonded, custom_bonded, generalized_born, nonbonded
from openmm_bg.potentials.translation.common import WAY_OUT, global_parameters, label
from openmm_bg.potentials.translation.verification import verify

if TYPE_CHECKING:
    import openmm

TRANSLATORS: dict[str, Callable[[Any, int], list[Term]]] = {
    "HarmonicBondForce": bonded.harmonic_bonds,
    "HarmonicAngleForce": bonded.harmonic_angles,
    "PeriodicTorsionForce": bonded.periodic_torsions,
    "RBTorsionForce": bonded.rb_torsions,
    "CMAPTorsionForce": bonded.cmap_torsions,
    "NonbondedForce": nonbonded.nonbonded,
    "GBSAOBCForce": generalized_born.gbsa_obc,
    "CustomBondForce": custom_bonded.custom_bonds,
    "CustomAngleForce": custom_bonded.custom_angles,
    "CustomTorsionForce": custom_bonded.custom_torsions,
    "CustomCompoundBondForce": custom_bonded.custom_compound_bonds,
    "CustomExternalForce": custom_bonded.custom_external,
    "CustomNonbondedForce": nonbonded.custom_nonbonded,
    "CustomGBForce": generalized_born.custom_gb,
}
"""What translates each class of force: called with the force and the number of atoms."""

IGNORED = ("CMMotionRemover", "AndersenThermostat")
"""Forces without an energy."""


def translate(system: openmm.System) -> list[Term]:
    """Translate a system's forces and check each against OpenMM's Reference platform.

    Raises:
        InputError: If a force is not supported or has parameters that make no sense, or the system is
            constrained, periodic and so on.
        TranslationError: If energies or forces disagree.
    """
    from openmm_bg.systems import check_system

    for force in system.getForces():
        if "Barostat" not in type(force).__name__:
            _refuse_unknown(force)
    check_system(system)
    forces = [force for force in system.getForces() if type(force).__name__ in TRANSLATORS]
    _check_globals(forces)
    n_atoms = system.getNumParticles()
    return [term for force in forces for term in translate_force(force, n_atoms)]


def translate_force(force: openmm.Force, n_atoms: int) -> list[Term]:
    """Translate one force and check it against OpenMM's Reference platform.

    Args:
        force: The force.
        n_atoms: The number of particles of its system.

    Returns:
        Its terms; none of a force without an energy.

    Raises:
        InputError: If it is not supported or has parameters that make no sense.
        TranslationError: If energies or forces disagree.
    """
    _refuse_unknown(force)
    if type(force).__name__ in IGNORED:
        return []
    terms = TRANSLATORS[type(force).__name__](force, n_atoms)
    if terms:
        verify(n_atoms, force, terms)
    return terms


def _refuse_unknown(force: openmm.Force) -> None:
    kind = type(force).__name__
    if kind not in TRANSLATORS and kind not in IGNORED:
        raise InputError(f"TorchPotential does not support {kind}; {WAY_OUT}.")
    if kind in TRANSLATORS and not hasattr(force, "getNonbondedMethod"):
        _refuse_periodic(force)


def _refuse_periodic(force: openmm.Force) -> None:
    if force.usesPeriodicBoundaryConditions():
        remedy = "do not call periodicdistance() in its expression"
        if hasattr(force, "setUsesPeriodicBoundaryConditions"):
            remedy = "call its setUsesPeriodicBoundaryConditions(False)"
        raise InputError(f"{label(force)} uses a periodic box, which is not supported; {remedy}.")


def _check_globals(forces: list[openmm.Force]) -> None:
    """Refuse forces that disagree on the value of a global parameter, as OpenMM does."""
    known: dict[str, float] = {}
    for force in forces:
        if not hasattr(force, "getNumGlobalParameters"):
            continue
        for name, value in global_parameters(force).items():
            if known.setdefault(name, value) != value:
                raise InputError(
                    f"{label(force)} has the default {name} = {value}, but another force has {known[name]}; "
                    "give the global parameter one value."
                )
