"""The torsions of a peptide that are worth plotting."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openmm import app


def backbone_torsions(topology: app.Topology) -> dict[str, tuple[int, int, int, int]]:
    """Find the backbone torsions phi and psi of a peptide, by atom names and bonds.

    Returns:
        Names and atom indices: "phi" and "psi" for a single residue, "phi 2 (ALA)" and so on for several, and
        "phi 2 (ALA, chain 1)" if residues of several chains have the same number and name.
    """
    numbers = Counter(f"{residue.id} ({residue.name})" for residue in topology.residues())
    same = max(numbers.values(), default=0) > 1
    bonds = {frozenset((bond[0].index, bond[1].index)) for bond in topology.bonds()}
    torsions: dict[str, list[tuple[str, tuple[int, int, int, int]]]] = {"phi": [], "psi": []}
    for chain in topology.chains():
        residues = [{atom.name: atom.index for atom in residue.atoms()} for residue in chain.residues()]
        where = f", chain {chain.index + 1}" if same else ""
        labels = [f"{residue.id} ({residue.name}{where})" for residue in chain.residues()]
        for k, atoms in enumerate(residues):
            if not {"N", "CA", "C"} <= atoms.keys():
                continue
            n, ca, c = (atoms[atom] for atom in ("N", "CA", "C"))
            # In a cyclic peptide the last residue is bonded to the first.
            before, after = residues[k - 1].get("C"), residues[(k + 1) % len(residues)].get("N")
            if before not in (None, c) and frozenset((before, n)) in bonds:
                torsions["phi"].append((labels[k], (before, n, ca, c)))
            if after not in (None, n) and frozenset((c, after)) in bonds:
                torsions["psi"].append((labels[k], (n, ca, c, after)))
    single = all(len(found) <= 1 for found in torsions.values())
    return {
        kind if single else f"{kind} {label}": atoms
        for kind, found in torsions.items()
        for label, atoms in found
    }
