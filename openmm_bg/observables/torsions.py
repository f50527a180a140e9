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

    Omega of a residue is that of the peptide bond after it, and of a cap too. Atoms that follow each other
    without a bond, as beside a gap in the chain, make no torsion.

    Args:
        topology: The topology.
        kind: One of `TORSION_KINDS`.
    """
    from mdtraj.geometry import dihedral

    bonds = {frozenset((bond[0].index, bond[1].index)) for bond in topology.bonds}
    if kind == "omega":
        indices = _peptide_torsions(topology)
    else:
        indices = getattr(dihedral, f"indices_{kind}")(topology).tolist()
    found = {}
    for atoms in indices:
        linked = all(frozenset(pair) in bonds for pair in pairwise(atoms))
        if linked or not bonds:
            found[topology.atom(atoms[1]).residue] = tuple(atoms)
    return found


def _peptide_torsions(topology: mdtraj.Topology) -> list[tuple[int, ...]]:
    """Return CA-C-N-CA between residues that follow each other; caps have a CH3 (or, at N, a C) instead."""
    found = []
    for chain in topology.chains:
        for residue, following in pairwise(chain.residues):
            before, after = ({atom.name: atom.index for atom in one.atoms} for one in (residue, following))
            first = [before[name] for name in ("CA", "CH3") if name in before]
            last = [after[name] for name in ("CA", "CH3", "C") if name in after]
            if first and last and "C" in before and "N" in after:
                found.append((first[0], before["C"], after["N"], last[0]))
    return found


def residue_label(residue: Residue) -> str:
    """Return a residue's name and number, e.g. "ASP3"."""
    return f"{residue.name}{residue.resSeq}"
