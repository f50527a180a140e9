"""Configurations from which the walkers of a simulation begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.minimization import minimize
from openmm_bg.simulation.settings import REFERENCE, SimulationSettings
from openmm_bg.transforms.handedness import with_labels_of

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem

_TOLERANCE = 100.0  # kJ/mol/nm, root mean square: several times below thermal forces


def check_starts(system: MolecularSystem, settings: SimulationSettings) -> None:
    """Refuse starts that the system does not have.

    Raises:
        InputError: If there is one.
    """
    known = (REFERENCE, *system.starts)
    for name in settings.starts:
        if name not in known:
            raise InputError(f"{system.name} has no start {name!r}; its starts are: {', '.join(known)}.")


def start_configurations(
    system: MolecularSystem, settings: SimulationSettings, potential: Potential
) -> np.ndarray:
    """Return where each walker begins [nm] with shape=(n_walkers, n_atoms, 3).

    The reference configuration is taken as it is. Others are minimised if the root-mean-square of their forces is
    above 100 kJ/mol/nm, as that of a structure with clashes is, and get the reference's labels of equal hydrogens:
    internal coordinates tell these apart, and dynamics never exchange them.

    Args:
        system: The molecule.
        settings: The settings.
        potential: The potential.

    Raises:
        InputError: If the system has no such start, or one cannot be minimised.
    """
    check_starts(system, settings)
    found = {REFERENCE: system.positions}
    if named := [name for name in settings.starts if name != REFERENCE]:
        hydrogens = np.array([atom.element.symbol == "H" for atom in system.topology.atoms()])
        result = minimize(potential, np.stack([system.starts[name] for name in named]), tolerance=_TOLERANCE)
        for k, name in enumerate(named):
            if not result.converged[k]:
                raise InputError(
                    f"The start {name!r} of {system.name} comes to no minimum (energy {result.energy[k]:.4g} "
                    "kJ/mol): its atoms may overlap; give a better configuration."
                )
            start = result.positions[k].double().cpu().numpy()
            found[name] = with_labels_of(system.positions, start, system.bonds, hydrogens)
    return np.stack([found[name] for name in settings.walker_starts()])
