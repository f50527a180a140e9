"""Peptides from their sequence: topology and positions from standard bonds, angles and the torsions you choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.peptide_torsions import Torsions, residue_torsions
from openmm_bg.systems.residue_templates import (
    FIRST_CAPS,
    LAST_CAPS,
    RESIDUE_NAMES,
    Placement,
    ResidueTemplate,
    amino_acid,
)

if TYPE_CHECKING:
    from openmm import app

Caps = Sequence[str | None] | None
"""The caps in front and at the end of a chain."""

_Atoms = dict[str, np.ndarray]  # the positions of a residue's atoms by their names


def build_peptide(
    sequence: str,
    caps: Caps = ("ACE", "NME"),
    *,
    phi: Any = None,
    psi: Any = None,
    omega: Any = None,
    chi: Sequence[Any] | None = None,
) -> tuple[app.Topology, np.ndarray]:
    """Build a peptide with all hydrogens at pH 7, from standard bond lengths and angles.

    Atoms and bonds are those of OpenMM's PDB reader, so that force fields know them. Residue k of the sequence
    has the id k; a cap in front has the id 0. His is neutral with its hydrogen on N-epsilon, Cys is a thiol, an
    end without a cap is charged. The torsions are exactly those asked for; whether atoms overlap then is up to
    them. Bonds and angles follow Engh and Huber (`openmm_bg.systems.residue_geometry`): minimise the energy
    before running dynamics. A system is made of it with OpenMM, for example::

        topology, positions = build_peptide("AGSGA")
        forcefield = app.ForceField("amber14-all.xml", "implicit/obc2.xml")
        system = forcefield.createSystem(topology)
        molecule = MolecularSystem("peptide", system, topology, positions)

    Args:
        sequence: One-letter codes of the twenty amino acids, e.g. "YYDPETGTWY".
        caps: The cap in front ("ACE" or None) and the one at the end ("NME", "NH2" or None); None for no caps.
        phi: Torsions C-N-CA-C [rad] of all residues: one number, or numbers with shape=(n_residues,). The
            first one turns the cap or the hydrogens at N. If not given, those of an extended chain: -120
            degrees, and -71 for proline.
        psi: Torsions N-CA-C-N [rad] likewise; the last one is that of the cap's N or of OXT. 140 degrees if
            not given.
        omega: Torsions CA-C-N-CA [rad] after each residue likewise; the last one matters with a cap only. 180
            degrees if not given.
        chi: Side-chain torsions [rad]: for each residue either all of its own, or None for the commonest
            rotamer. Gly, Ala and Pro have none; the ring of Pro is rigid.

    Returns:
        The topology, with bonds, and positions [nm] with shape=(n_atoms, 3).

    Raises:
        InputError: If a letter or a cap is unknown, the number of torsions is wrong, one of them is not finite,
            or a phi does not go with the ring of proline.
    """
    residues = _residues(sequence, caps)
    torsions = residue_torsions(sequence, phi, psi, omega, chi)
    if residues[0].name in FIRST_CAPS:
        torsions.insert(0, {"psi": 180.0, "omega": 180.0})
    torsions += [{}] * (len(residues) - len(torsions))
    placed: list[_Atoms] = []
    for k, residue in enumerate(residues):
        before = (residues[k - 1], placed[-1], torsions[k - 1]) if k else None
        placed.append(_place_residue(residue, torsions[k], before))
    positions = [
        atoms[name] for residue, atoms in zip(residues, placed, strict=True) for name in residue.atoms
    ]
    return _topology(residues, numbered_from=0 if residues[0].name in FIRST_CAPS else 1), np.array(positions)


def _residues(sequence: str, caps: Caps) -> list[ResidueTemplate]:
    """Return the templates of a whole chain, caps included."""
    if not isinstance(sequence, str) or not sequence:
        raise InputError(f"A sequence is a text of one-letter codes, e.g. 'YYDPETGTWY', not {sequence!r}.")
    for letter in sequence:
        if letter not in RESIDUE_NAMES:
            raise InputError(
                f"There is no amino acid {letter!r} (in {sequence!r}); the letters are {''.join(RESIDUE_NAMES)}."
            )
    if caps is None:
        caps = (None, None)
    if not isinstance(caps, tuple | list) or len(caps) != 2:
        raise InputError(f"Give the cap in front and the cap at the end, e.g. ('ACE', 'NME'), not {caps!r}.")
    first, last = caps
    for cap, known, place in ((first, FIRST_CAPS, "in front"), (last, LAST_CAPS, "at the end")):
        if cap is not None and cap not in known:
            raise InputError(f"There is no cap {cap!r} {place}; there are None and {', '.join(known)}.")
    end = len(sequence) - 1
    return [
        *([FIRST_CAPS[first]] if first else []),
        *(
            amino_acid(letter, first=k == 0 and not first, last=k == end and not last)
            for k, letter in enumerate(sequence)
        ),
        *([LAST_CAPS[last]] if last else []),
    ]


def _place_residue(
    residue: ResidueTemplate,
    torsions: Torsions,
    before: tuple[ResidueTemplate, _Atoms, Torsions] | None,
) -> _Atoms:
    """Return the positions [nm] of a residue's atoms, given the residue before."""
    known: _Atoms = {}
    angles = dict(torsions)
    if before is not None:
        template, atoms, earlier = before
        known = {f"-{name}": atoms[template.aliases.get(name, name)] for name in ("N", "CA", "C")}
        angles |= {f"-{name}": value for name, value in earlier.items()}
    for row in residue.rows:
        references = [known[name] for name in row.references if name in known]
        follows = row.torsion and len(references) == 3
        dihedral = row.offset + (angles[row.torsion] if follows else 0.0)
        known[row.atom] = _place_atom(references, row, dihedral)
    return known


def _place_atom(references: Sequence[np.ndarray], row: Placement, dihedral: float) -> np.ndarray:
    """Return the position of an atom at a bond length, an angle and a dihedral [degrees] from three others.

    The first three atoms of a chain have fewer references: they lie at the origin, on an axis and in a plane.
    """
    if not references:
        return np.zeros(3)
    if len(references) == 1:
        return references[0] + np.array([row.length, 0.0, 0.0])
    bond, middle = references[:2]
    end = references[2] if len(references) == 3 else middle + np.array([0.0, 1.0, 0.0])
    axis = (bond - middle) / np.linalg.norm(bond - middle)
    normal = np.cross(middle - end, axis)
    normal /= np.linalg.norm(normal)
    angle, dihedral = np.radians(row.angle), np.radians(dihedral)
    perpendicular = np.cos(dihedral) * np.cross(normal, axis) + np.sin(dihedral) * normal
    return bond + row.length * (np.sin(angle) * perpendicular - np.cos(angle) * axis)


def _topology(residues: Sequence[ResidueTemplate], numbered_from: int) -> app.Topology:
    """Return the OpenMM topology of a chain."""
    from openmm import app

    topology = app.Topology()
    chain = topology.addChain("A")
    before: dict[str, Any] = {}
    for k, template in enumerate(residues, start=numbered_from):
        residue = topology.addResidue(template.name, chain, id=str(k))
        atoms = {
            name: topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in template.atoms
        }
        known = {f"-{name}": atom for name, atom in before.items()} | atoms
        bonds = [(row.atom, row.references[0]) for row in template.rows if row.references[0] in known]
        for first, second in [*bonds, *template.ring_bonds]:
            topology.addBond(known[first], known[second])
        before = atoms
    return topology
