"""Reference configurations, as for an RMSD to the native structure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import mdtraj


def load_reference_positions(source: str | Path, topology: mdtraj.Topology) -> np.ndarray:
    """Read the reference configuration of a molecule.

    Args:
        source: A PDB file, or another with a topology inside (its first frame is taken), the directory of a
            model or a simulation (its reference), or the name of a system or a model that comes with the package.
        topology: The molecule, whose atoms it must have in the same order.

    Returns:
        Positions [nm] with shape=(n_atoms, 3).

    Raises:
        InputError: If it cannot be read or is of another molecule.
    """
    from openmm_bg import systems
    from openmm_bg.models import shipped_models
    from openmm_bg.trajectories import read_trajectory

    if not Path(source).exists() and str(source) in systems.names():
        system = systems.load(str(source))
        positions = np.array(system.positions)
        elements = [atom.element.symbol for atom in system.topology.atoms()]
    else:
        path = Path(source)
        if not path.exists():
            path = shipped_models().get(str(source), path)
        frames = read_trajectory(path / "topology.pdb" if path.is_dir() else path)
        positions = frames.positions[0]
        elements = [atom.element.symbol for atom in frames.topology.atoms]
    if elements != [atom.element.symbol for atom in topology.atoms]:
        raise InputError(f"The reference {source} does not have the same atoms in the same order.")
    return positions
