"""Whether a topology can be saved, and agrees with positions and with a system's bonded forces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import openmm
    from openmm import app

_LONGEST, _SHORTEST = 0.3, 0.04  # [nm]; bonds between elements of organic molecules are 0.07 to 0.24 nm long
_MASS_TOLERANCE = 0.9  # [Da]
_RELATIVE_MASS_TOLERANCE = 3e-4  # files round masses


def check_names(topology: app.Topology, source: str | Path) -> None:
    """Refuse topologies that a PDB file cannot hold: it keeps four letters of an atom's name.

    Raises:
        InputError: For atoms of one residue with the same name, insertion codes, or atoms without an element.
    """
    for residue in topology.residues():
        names = [atom.name[:4] for atom in residue.atoms()]
        if len(set(names)) < len(names):
            name = next(name for name in names if names.count(name) > 1)
            raise InputError(
                f"{source} has {names.count(name)} atoms called {name} in {residue.name} {residue.id}; give each "
                "atom of a residue a name of its own (four letters count)."
            )
        if residue.insertionCode.strip():
            raise InputError(
                f"{source} has insertion codes ({residue.insertionCode} of residue {residue.name} {residue.id}); "
                "number the residues anew."
            )
        for atom in residue.atoms():
            if atom.element is None:
                raise InputError(
                    f"{source} does not tell the element of atom {atom.name} of {residue.name} {residue.id}; "
                    "extra particles are not supported, and a PDB file gives elements in columns 77 and 78."
                )


def check_bonds(topology: app.Topology, positions: np.ndarray, source: str | Path) -> None:
    """Refuse positions that are no molecule: not finite, or with bonded atoms far apart or on one another.

    Args:
        topology: The topology, with bonds.
        positions: Positions [nm] with shape=(n_atoms, 3).
        source: The file with the positions.

    Raises:
        InputError: If there are such.
    """
    if not np.isfinite(positions).all():
        raise InputError(f"{source} has positions that are NaN or infinite; give those of a sound structure.")
    for first, second in topology.bonds():
        length = float(np.linalg.norm(positions[first.index] - positions[second.index]))
        if not _SHORTEST < length < _LONGEST:
            names = " and ".join(
                f"{atom.name} of {atom.residue.name} {atom.residue.id}" for atom in (first, second)
            )
            raise InputError(
                f"{source} has {names}, which are bonded, {length:.3f} nm apart: give the coordinates of this "
                "molecule, in the topology's order, in one piece (not cut by a periodic box), and minimised."
            )


def check_terms(
    system: openmm.System, topology: app.Topology, system_file: str | Path, topology_file: str | Path
) -> None:
    """Refuse a system whose masses or bonded forces are those of other atoms than the topology's.

    Masses are compared as a sum, which repartitioning of hydrogens' masses keeps.

    Raises:
        InputError: If they disagree.
    """
    from openmm import unit

    hint = "give the PDB file that the system was made from"
    masses = [system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(system.getNumParticles())]
    expected = sum(atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms())
    if all(masses) and abs(sum(masses) - expected) > max(
        _MASS_TOLERANCE, _RELATIVE_MASS_TOLERANCE * expected
    ):
        raise InputError(
            f"{system_file} has a mass of {sum(masses):.1f} Da, but {topology_file} is a molecule of "
            f"{expected:.1f} Da; {hint}."
        )
    bonded = _bonded_pairs(system)
    if not bonded:
        return
    for first, second in topology.bonds():
        if frozenset((first.index, second.index)) not in bonded:
            raise InputError(
                f"{topology_file} has a bond between {_names(first, second)} where {system_file} has none: the "
                "atoms are in another order or of another molecule, or constraints were taken out that stood for "
                f"bonds; {hint}, and build the system with constraints=None."
            )


def split_chains(topology: app.Topology) -> app.Topology:
    """Return a topology with a new chain wherever a residue is not bonded to the one before.

    In AMBER's files everything is one chain. A PDB file of that would get a peptide bond across each break.
    """
    from openmm import app

    split, chain, before, atoms = app.Topology(), None, None, []
    for residue in topology.residues():
        if chain is None or not _follows(residue, before):
            chain = split.addChain()
        own = split.addResidue(residue.name, chain, residue.id, residue.insertionCode)
        atoms += [split.addAtom(atom.name, atom.element, own, atom.id) for atom in residue.atoms()]
        before = residue
    for bond in topology.bonds():
        split.addBond(atoms[bond[0].index], atoms[bond[1].index], bond.type, bond.order)
    return split


def _follows(residue: app.topology.Residue, before: app.topology.Residue) -> bool:
    """Tell whether a residue is bonded to another, by its peptide bond if they have the atoms for one."""
    names = {
        (bond[0].name, bond[1].name) if bond[0].residue is before else (bond[1].name, bond[0].name)
        for bond in residue.external_bonds()
        if before in (bond[0].residue, bond[1].residue)
    }
    ends = [{atom.name for atom in one.atoms()} for one in (before, residue)]
    return ("C", "N") in names if "C" in ends[0] and "N" in ends[1] else bool(names)


def _names(first: app.topology.Atom, second: app.topology.Atom) -> str:
    return " and ".join(f"{a.name} of {a.residue.name} {a.residue.id}" for a in (first, second))


def _bonded_pairs(system: openmm.System) -> set[frozenset[int]]:
    """Return the pairs of atoms that bonded forces and constraints join."""
    import openmm

    pairs = {frozenset(system.getConstraintParameters(k)[:2]) for k in range(system.getNumConstraints())}
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            pairs |= {frozenset(force.getBondParameters(k)[:2]) for k in range(force.getNumBonds())}
    return pairs
