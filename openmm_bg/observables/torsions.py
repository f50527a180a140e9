"""The named torsions of a peptide: phi, psi, omega and chi1 to chi4 of each residue."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mdtraj
    from mdtraj.core.topology import Residue

TORSION_KINDS = ("phi", "psi", "omega", "chi1", "chi2", "chi3", "chi4")


def named_torsions(topology: mdtraj.Topology, kind: str) -> dict[Residue, tuple[int, ...]]:
    """Return the four atoms of a torsion of each residue that has it.

    Omega of a residue is that of the peptide bond after it. Atoms that follow each other without a bond, as
    beside a gap in the chain, make no torsion.

    Args:
        topology: The topology.
        kind: One of `TORSION_KINDS`.
    """
    from mdtraj.geometry import dihedral

    indices = getattr(dihedral, f"indices_{kind}")(topology)
    bonds = {frozenset((bond[0].index, bond[1].index)) for bond in topology.bonds}
    found = {}
    for atoms in indices.tolist():
        linked = all(frozenset(pair) in bonds for pair in pairwise(atoms))
        if linked or not bonds:
            found[topology.atom(atoms[1]).residue] = tuple(atoms)
    return found


def residue_label(residue: Residue) -> str:
    """Return a residue's name and number, e.g. "ASP3"."""
    return f"{residue.name}{residue.resSeq}"
