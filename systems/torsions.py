"""The torsions of a peptide that are worth plotting."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openmm import app


def backbone_torsions(topology: app.Topology) -> dict[str, tuple[int, int, int, int]]:
    """Find the backbone torsions phi and psi of a peptide, by atom names and bonds.

    Returns:
        Names and atom indices: "phi" and "psi" for a single residue, "phi 2 (ALA)" and so on for several.
    """
    bonds = {frozenset((bond[0].index, bond[1].index)) for bond in topology.bonds()}
    torsions: dict[str, list[tuple[str, tuple[int, int, int, int]]]] = {"phi": [], "psi": []}
    for chain in topology.chains():
        residues = [{atom.name: atom.index for atom in residue.atoms()} for residue in chain.residues()]
        labels = [f"{residue.id} ({residue.name})" for residue in chain.residues()]
        for k, atoms in enumerate(residues):
            if not {"N", "CA", "C"} <= atoms.keys():
                continue
            n, ca, c = (atoms[atom] for atom in ("N", "CA", "C"))
            before = residues[k - 1].get("C") if k > 0 else None
            after = residues[k + 1].get("N") if k + 1 < len(residues) else None
            if before is not None and frozenset((before, n)) in bonds:
                torsions["phi"].append((labels[k], (before, n, ca, c)))
            if after is not None and frozenset((c, after)) in bonds:
                torsions["psi"].append((labels[k], (n, ca, c, after)))
    single = all(len(found) <= 1 for found in torsions.values())
    return {
        kind if single else f"{kind} {label}": atoms
        for kind, found in torsions.items()
        for label, atoms in found
    }
