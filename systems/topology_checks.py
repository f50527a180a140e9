"""Whether a topology can be saved, and agrees with positions and with a system's bonded forces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.molecule_graph import Neighbours, neighbours_of

if TYPE_CHECKING:
    import openmm
    from openmm import app

_LONGEST, _SHORTEST = 0.3, 0.04  # [nm]; bonds between elements of organic molecules are 0.07 to 0.24 nm long
# [nm]: springs between heavy atoms are bonds up to the first length, and between neighbours of one atom up to the
# second; longer ones are restraints, and terms of Urey and Bradley.
_LONGEST_SPRING, _LONGEST_IN_TRIANGLE = 0.25, 0.19
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
            raise InputError(
                f"{source} has {_names(first, second)}, which are bonded, {length:.3f} nm apart: give the "
                "coordinates of this molecule, in the topology's order, in one piece (not cut by a periodic box), "
                "and minimised."
            )


def check_terms(
    system: openmm.System, topology: app.Topology, system_file: str | Path, topology_file: str | Path
) -> list[str]:
    """Refuse a system whose masses or bonded forces are those of other atoms than the topology's.

    Masses are compared as sums, over all and over each heavy atom with its hydrogens, which repartitioning of
    hydrogens' masses keeps.

    Returns:
        What could not be compared.

    Raises:
        InputError: If they disagree.
    """
    hint = "give the PDB file that the system was made from"
    _check_masses(system, topology, system_file, topology_file, hint)
    bonded = _bonded_pairs(system)
    if not bonded:
        return [
            f"{system_file} has no force along bonds: whether its atoms are those of {topology_file} was not "
            "compared bond by bond."
        ]
    bonds = {frozenset((bond[0].index, bond[1].index)): bond for bond in topology.bonds()}
    for pair, (first, second) in bonds.items():
        if pair not in bonded:
            raise InputError(
                f"{topology_file} has a bond between {_names(first, second)} where {system_file} has none: the "
                "atoms are in another order or of another molecule, or constraints were taken out that stood for "
                f"bonds; {hint}, and build the system with constraints=None."
            )
    atoms = list(topology.atoms())
    for first, second in _heavy_springs(system, topology):
        if frozenset((first, second)) not in bonds:
            raise InputError(
                f"{system_file} has a bond between {_names(atoms[first], atoms[second])} where {topology_file} has "
                "none: add CONECT records for it, as OpenMM knows the bonds within standard residues and from one "
                "to the next only."
            )
    return []


def _check_masses(
    system: openmm.System,
    topology: app.Topology,
    system_file: str | Path,
    topology_file: str | Path,
    hint: str,
) -> None:
    """Refuse masses that are not those of the topology; a system with massless particles is refused elsewhere."""
    from openmm import unit

    masses = [system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(system.getNumParticles())]
    atoms = list(topology.atoms())
    expected = [atom.element.mass.value_in_unit(unit.dalton) for atom in atoms]
    if not all(masses):
        return
    if _differ(sum(masses), sum(expected)):
        raise InputError(
            f"{system_file} has a mass of {sum(masses):.1f} Da, but {topology_file} is a molecule of "
            f"{sum(expected):.1f} Da; {hint}."
        )
    for atom, near in zip(atoms, _neighbours(topology), strict=True):
        if _is_heavy(atom):
            group = [atom.index, *(k for k in near if not _is_heavy(atoms[k]))]
            own, wanted = (sum(values[k] for k in group) for values in (masses, expected))
            if _differ(own, wanted):
                raise InputError(
                    f"{system_file} has a mass of {own:.1f} Da where {topology_file} has {_names(atom)} with its "
                    f"hydrogens, {wanted:.1f} Da: the atoms are in another order or of another molecule; {hint}."
                )


def _differ(mass: float, expected: float) -> bool:
    return abs(mass - expected) > max(_MASS_TOLERANCE, _RELATIVE_MASS_TOLERANCE * expected)


def _is_heavy(atom: app.topology.Atom) -> bool:
    return atom.element.atomic_number > 1


def _neighbours(topology: app.Topology) -> Neighbours:
    pairs = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    return neighbours_of(topology.getNumAtoms(), pairs)


def _heavy_springs(system: openmm.System, topology: app.Topology) -> Iterator[tuple[int, int]]:
    """Yield the pairs of heavy atoms that springs of a bond's length join."""
    import openmm
    from openmm import unit

    atoms, neighbours = list(topology.atoms()), _neighbours(topology)
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                first, second, length, _ = force.getBondParameters(k)
                in_triangle = not set(neighbours[first]).isdisjoint(neighbours[second])
                longest = _LONGEST_IN_TRIANGLE if in_triangle else _LONGEST_SPRING
                if length < longest * unit.nanometer and all(_is_heavy(atoms[i]) for i in (first, second)):
                    yield first, second


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


def _names(*atoms: app.topology.Atom) -> str:
    return " and ".join(f"{atom.name} of {atom.residue.name} {atom.residue.id}" for atom in atoms)


def _bonded_pairs(system: openmm.System) -> set[frozenset[int]]:
    """Return the pairs of atoms that bonded forces and constraints join."""
    import openmm

    pairs = {frozenset(system.getConstraintParameters(k)[:2]) for k in range(system.getNumConstraints())}
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            pairs |= {frozenset(force.getBondParameters(k)[:2]) for k in range(force.getNumBonds())}
    return pairs
