"""Whether configurations are of the same molecule."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mdtraj

# Names of the same residue in other states of protonation, which the atoms tell, or in other force fields.
_ALIASES = {
    **dict.fromkeys(("HID", "HIE", "HIP", "HSD", "HSE", "HSP"), "HIS"),
    **dict.fromkeys(("CYX", "CYM"), "CYS"),
    "ASH": "ASP",
    "GLH": "GLU",
    "LYN": "LYS",
}


def molecule_of(topology: mdtraj.Topology) -> tuple[tuple[str, ...], ...]:
    """Return what makes a molecule: of each residue its name, and the elements of its atoms in order.

    Numbers of residues and names of atoms are left out: programs write them differently, and PDB files cut names.
    """
    return tuple(
        (
            _ALIASES.get(residue.name, residue.name)[:3],
            *(getattr(atom.element, "symbol", "") for atom in residue.atoms),
        )
        for residue in topology.residues
    )
