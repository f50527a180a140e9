"""Molecules and toy systems that come with the package, and a container for your own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from openmm_bg.errors import InputError
from openmm_bg.systems.alanine_dipeptide import alanine_dipeptide
from openmm_bg.systems.chignolin import chignolin
from openmm_bg.systems.double_well import double_well
from openmm_bg.systems.double_well_mixture import double_well_mixture
from openmm_bg.systems.harmonic_oscillator import harmonic_oscillator
from openmm_bg.systems.molecular_system import MolecularSystem
from openmm_bg.systems.peptide import build_peptide
from openmm_bg.systems.validation import check_system

__all__ = [
    "MolecularSystem",
    "alanine_dipeptide",
    "build_peptide",
    "check_system",
    "chignolin",
    "double_well",
    "double_well_mixture",
    "harmonic_oscillator",
    "load",
    "names",
]

_TOYS = (
    "double_well",
    "double_well_mixture",
    "harmonic_oscillator",
)  # functions of this module, with parameters
_BUILDERS: dict[str, Callable[[], MolecularSystem]] = {
    "alanine_dipeptide": alanine_dipeptide,
    "alanine_dipeptide_vacuum": partial(alanine_dipeptide, solvent=False),
    "chignolin": chignolin,
}


def names() -> list[str]:
    """Return the names that `load` accepts."""
    return sorted(_BUILDERS)


def load(name: str) -> MolecularSystem:
    """Build a system by its name.

    Toy systems are not among them: functions such as `double_well` take parameters, and return a toy with its
    exact answers, of which ``molecule`` is the system.

    Raises:
        InputError: If there is no system of that name.
    """
    check_name(name)
    return _BUILDERS[name]()


def check_name(name: str) -> None:
    """Refuse a name that `load` does not know.

    Raises:
        InputError: If there is no system of that name.
    """
    if name not in _BUILDERS:
        functions = ", ".join(f"{toy}()" for toy in _TOYS)
        raise InputError(
            f"There is no system called {name!r}; the systems are: {', '.join(names())}. "
            f"Toy systems are made by functions of openmm_bg.systems: {functions}."
        )
