"""The residues of a peptide as the tables of `residue_geometry` describe them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from openmm_bg.systems import residue_geometry as geometry

RESIDUE_NAMES: Mapping[str, str] = {
    "A": "ALA",
    "C": "CYS",
    "D": "ASP",
    "E": "GLU",
    "F": "PHE",
    "G": "GLY",
    "H": "HIS",
    "I": "ILE",
    "K": "LYS",
    "L": "LEU",
    "M": "MET",
    "N": "ASN",
    "P": "PRO",
    "Q": "GLN",
    "R": "ARG",
    "S": "SER",
    "T": "THR",
    "V": "VAL",
    "W": "TRP",
    "Y": "TYR",
}
"""The names of the twenty amino acids by their letters."""


@dataclass(frozen=True)
class Placement:
    """How to place one atom.

    Attributes:
        atom: Its name.
        references: The atoms that its bond, angle and dihedral refer to; one that starts with a minus sign
            is in the residue before.
        length: Bond length [nm].
        angle: Angle [degrees].
        torsion: The torsion that its dihedral follows, e.g. "chi1"; empty if the dihedral is a number.
        offset: What is added to the torsion [degrees], or the dihedral itself.
    """

    atom: str
    references: tuple[str, ...]
    length: float
    angle: float
    torsion: str
    offset: float


@dataclass(frozen=True)
class ResidueTemplate:
    """The atoms of a residue and their bonds.

    Attributes:
        name: Three letters.
        rows: How to place each atom, in an order in which this is possible. Each is bonded to its first reference.
        ring_bonds: The bonds that close rings.
        chi: The default side-chain torsions [degrees].
        aliases: Atoms that play the part of backbone atoms for the next residue.
    """

    name: str
    rows: tuple[Placement, ...]
    ring_bonds: tuple[tuple[str, str], ...] = ()
    chi: tuple[float, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def atoms(self) -> list[str]:
        """The atoms' names in the order of AMBER's residues: N with its hydrogens, side chain, C and O."""
        names = [row.atom for row in self.rows]
        hydrogens = [row.atom for row in self.rows if row.atom[0] == "H" and row.references[0] == "N"]
        first = ["N", *hydrogens, "CA"] if "CA" in names else []
        last = [name for name in ("C", "O", "OXT") if name in names] if "O" in names else []
        return [*first, *(name for name in names if name not in (*first, *last)), *last]


def _rows(table: str) -> tuple[Placement, ...]:
    """Read a table of `residue_geometry`."""
    return tuple(_row(*line.split()) for line in table.splitlines() if line)


def _row(atom: str, bond: str, middle: str, end: str, length: str, angle: str, dihedral: str) -> Placement:
    torsion, offset = re.fullmatch(r"(-?[a-z]+\d?)?([+-]?[\d.]+)?", dihedral).groups()  # type: ignore[union-attr]
    return Placement(
        atom, (bond, middle, end), float(length), float(angle), torsion or "", float(offset or 0.0)
    )


@cache
def amino_acid(letter: str, *, first: bool = False, last: bool = False) -> ResidueTemplate:
    """Return an amino acid by its letter.

    Args:
        letter: One of `RESIDUE_NAMES`.
        first: Give N a positive charge: nothing is before this residue.
        last: Give C a carboxylate: nothing comes after this residue.
    """
    name = RESIDUE_NAMES[letter]
    whole = {"GLY": geometry.GLYCINE, "PRO": geometry.PROLINE}
    rows = _rows(whole[name]) if name in whole else _rows(geometry.BACKBONE + geometry.SIDE_CHAINS[name])
    if first:
        ammonium = geometry.PROLINE_AMMONIUM if name == "PRO" else geometry.AMMONIUM
        rows = (*(row for row in rows if row.atom != "H"), *_rows(ammonium))
    if last:
        rows = (*(row for row in rows if row.atom != "O"), *_rows(geometry.CARBOXYLATE))
    return ResidueTemplate(name, rows, geometry.RING_BONDS.get(name, ()), geometry.DEFAULT_CHI.get(name, ()))


FIRST_CAPS: Mapping[str, ResidueTemplate] = {
    "ACE": ResidueTemplate("ACE", _rows(geometry.ACETYL), aliases={"CA": "CH3", "N": "H1"}),
}
"""What may come before the first amino acid: an acetyl group."""

LAST_CAPS: Mapping[str, ResidueTemplate] = {
    "NME": ResidueTemplate("NME", _rows(geometry.METHYLAMINE)),
    "NH2": ResidueTemplate("NH2", _rows(geometry.AMINE)),
}
"""What may come after the last amino acid: a methylamine or an amine."""
