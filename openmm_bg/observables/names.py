"""Observables by name: "phi:3", "distance:ASP3-N,THR8-O", "chi1:5", "rg", "rmsd:backbone", "hbonds"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg import geometry
from openmm_bg.errors import InputError
from openmm_bg.observables import functions
from openmm_bg.observables.torsions import TORSION_KINDS, named_torsions, residue_label

if TYPE_CHECKING:
    import mdtraj
    from mdtraj.core.topology import Atom, Residue

KINDS = {
    **dict.fromkeys(TORSION_KINDS, "a torsion of a residue: phi:3; just phi if only one residue has it"),
    "distance": "of two atoms: distance:ASP3-N,THR8-O",
    "angle": "at the middle one of three atoms: angle:TYR1-N,TYR1-CA,TYR1-C",
    "dihedral": "of four atoms: dihedral:MOL1-C1,MOL1-C2,MOL1-C3,MOL1-C4",
    "rg": "the mass-weighted radius of gyration",
    "rmsd": "from a reference: rmsd:backbone (so does rmsd alone), rmsd:ca, rmsd:heavy or rmsd:all",
    "contacts": "the fraction of a reference's native contacts",
    "hbonds": "the number of hydrogen bonds: hbonds:wernet-nilsson (so does hbonds alone) or hbonds:baker-hubbard",
}
"""The kinds of observables, and how they are named."""

_GREEK = {"phi": "φ", "psi": "ψ", "omega": "ω", **{f"chi{k}": f"χ{k}" for k in range(1, 5)}}
_CHUNK = 1000  # frames worked on at once, which bounds the memory
_GEOMETRY = {
    "distance": (2, geometry.distances, "nm"),
    "angle": (3, geometry.angles, "rad"),
    "dihedral": (4, geometry.dihedrals, "rad"),
}


@dataclass(frozen=True)
class Observable:
    """A function of configurations that has a name.

    Attributes:
        name: Its full name, e.g. "rmsd:backbone".
        label: What it is, for axes and tables, e.g. "φ of ASP3".
        unit: "nm", "rad", or "" for a number.
        function: Takes positions [nm] with shape=(n, n_atoms, 3), without NaN, to values with shape=(n,).
        n_atoms: The number of atoms it needs.
        periodic: Whether it is a torsion, in [-pi, pi].
        is_count: Whether its values are whole numbers.
    """

    name: str
    label: str
    unit: str
    function: Callable[[np.ndarray], np.ndarray]
    n_atoms: int
    periodic: bool = False
    is_count: bool = False

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the values with shape=(n_frames,): NaN for configurations with NaN positions.

        Args:
            positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).

        Raises:
            InputError: If they have another number of atoms.
        """
        if np.ndim(positions) != 3 or np.shape(positions)[1:] != (self.n_atoms, 3):
            raise InputError(
                f"{self.name} needs positions of shape (n, {self.n_atoms}, 3), not {np.shape(positions)}."
            )
        values = np.full(len(positions), np.nan)
        for start in range(0, len(positions), _CHUNK):
            part = np.asarray(positions[start : start + _CHUNK], dtype=np.float64)
            usable = np.isfinite(part).all(axis=(1, 2))
            if usable.any():
                values[start : start + _CHUNK][usable] = self.function(part[usable])
        return values


def observable(name: str, topology: mdtraj.Topology, reference: np.ndarray | None = None) -> Observable:
    """Return the observable of a name; its own name is the same however it was asked for.

    Residues are given by their number or with their name before it (3 or ASP3; A/ASP3 in chain A, if several have
    that number), atoms as RESIDUE-ATOM (ASP3-N).

    Args:
        name: The name: a kind (see `KINDS`), and for most a colon and what it is of.
        topology: The molecule's mdtraj topology.
        reference: The reference configuration [nm] with shape=(n_atoms, 3), for "rmsd" and "contacts".

    Raises:
        InputError: If there is no such observable, or it needs a reference.
    """
    kind, _, rest = name.strip().partition(":")
    n_atoms = topology.n_atoms
    if kind not in KINDS:
        raise InputError(f"There is no observable {name!r}; the kinds are {', '.join(KINDS)}.")
    if kind in TORSION_KINDS:
        return _torsion(kind, rest, topology)
    if kind in _GEOMETRY:
        return _of_atoms(kind, rest, topology)
    if kind == "hbonds":
        criterion = rest or functions.HYDROGEN_BOND_CRITERIA[0]
        functions.check_hydrogen_bonds(topology, criterion)
        return Observable(
            f"hbonds:{criterion}",
            f"hydrogen bonds, {criterion}",
            "",
            lambda x: functions.hydrogen_bonds(x, topology, criterion),
            n_atoms,
            is_count=True,
        )
    if kind == "rmsd":
        return _rmsd(rest or "backbone", topology, reference)
    if rest:
        raise InputError(f"{kind} takes nothing after a colon, and is given as {name!r}.")
    if kind == "contacts":
        native = _checked(reference, kind, n_atoms)
        pairs = functions.native_contact_pairs(native, topology)
        if len(pairs) == 0:
            raise InputError("The reference has no contacts between residues more than three apart.")
        return Observable(
            kind, "native contacts", "", lambda x: functions.native_contacts(x, native, pairs), n_atoms
        )
    masses = np.array([atom.element.mass for atom in topology.atoms])
    return Observable(
        kind, "radius of gyration", "nm", lambda x: functions.radius_of_gyration(x, masses), n_atoms
    )


def split_names(text: str) -> list[str]:
    """Split names at commas, but not at those within a name: "phi:2,distance:ASP3-N,THR8-O" are two."""
    names: list[str] = []
    for part in text.split(","):
        kind = part.strip().partition(":")[0]
        if names and kind not in KINDS and names[-1].partition(":")[0] in _GEOMETRY:
            names[-1] += "," + part.strip()
        else:
            names.append(part.strip())
    return names


def _torsion(kind: str, rest: str, topology: mdtraj.Topology) -> Observable:
    found = named_torsions(topology, kind)
    if not found:
        raise InputError(f"The molecule has no torsion {kind}.")
    choices = ", ".join(f"{kind}:{residue.resSeq}" for residue in found)
    if rest:
        residue = _residue(rest, topology)
        if residue not in found:
            raise InputError(f"{residue_label(residue)} has no torsion {kind}; there are {choices}.")
    elif len(found) > 1:
        raise InputError(f"Several residues have the torsion {kind}; choose from {choices}.")
    else:
        residue = next(iter(found))
    chain = _chain(residue, topology)
    quadruple = np.array([found[residue]])
    return Observable(
        f"{kind}:{chain}{residue.resSeq}",
        f"{_GREEK[kind]} of {chain}{residue_label(residue)}",
        "rad",
        lambda x: geometry.dihedrals(x, quadruple)[:, 0],
        topology.n_atoms,
        periodic=True,
    )


def _of_atoms(kind: str, rest: str, topology: mdtraj.Topology) -> Observable:
    count, function, unit = _GEOMETRY[kind]
    parts = [part.strip() for part in rest.split(",")]
    if len(parts) != count or not all(parts):
        raise InputError(f"A {kind} needs {count} atoms, as in {KINDS[kind].split(': ')[1]}; not {rest!r}.")
    atoms = [_atom(part, topology) for part in parts]
    indices = np.array([[atom.index for atom in atoms]])
    if len(set(indices[0])) != count:
        raise InputError(f"The atoms of {kind}:{rest} must be different ones.")
    names = [f"{_chain(atom.residue, topology)}{residue_label(atom.residue)}-{atom.name}" for atom in atoms]
    return Observable(
        f"{kind}:{','.join(names)}",
        f"{kind} {' – '.join(names)}",
        unit,
        lambda x: function(x, indices)[:, 0],
        topology.n_atoms,
        periodic=kind == "dihedral",
    )


def _rmsd(selection: str, topology: mdtraj.Topology, reference: np.ndarray | None) -> Observable:
    if selection not in functions.RMSD_ATOMS:
        choices = ", ".join(f"rmsd:{name}" for name in functions.RMSD_ATOMS)
        raise InputError(f"There is no rmsd:{selection}; there are {choices}.")
    native = _checked(reference, "rmsd", topology.n_atoms)
    atoms = topology.select(functions.RMSD_ATOMS[selection])
    if len(atoms) < 3:
        raise InputError(f"The molecule has {len(atoms)} atoms for rmsd:{selection}; use rmsd:heavy.")
    return Observable(
        f"rmsd:{selection}",
        f"RMSD, {'Cα' if selection == 'ca' else selection} atoms",
        "nm",
        lambda x: functions.rmsd(x, native, atoms),
        topology.n_atoms,
    )


def _checked(reference: np.ndarray | None, kind: str, n_atoms: int) -> np.ndarray:
    if reference is None:
        raise InputError(f"{kind} needs a reference configuration; give one.")
    reference = np.asarray(reference, dtype=np.float64)
    if reference.shape != (n_atoms, 3):
        raise InputError(f"The reference has the shape {reference.shape}, but ({n_atoms}, 3) is needed.")
    return reference


def _residue(text: str, topology: mdtraj.Topology) -> Residue:
    """Find the residue of "3", "ASP3" or "A/ASP3"."""
    chain, slash, own = text.strip().rpartition("/")
    match = re.fullmatch(r"(\w*?)(-?\d+)", own)
    if match is None:
        raise InputError(f"{text!r} is not a residue; give its number, as in 3 or ASP3.")
    name, number = match.group(1), int(match.group(2))
    found = [r for r in topology.residues if r.resSeq == number]
    if slash:
        found = [r for r in found if chain in (getattr(r.chain, "chain_id", None), str(r.chain.index))]
    if not found:
        raise InputError(f"There is no residue {text!r}; the residues are {_listed(topology.residues)}.")
    if len(found) > 1:
        raise InputError(f"Several residues have the number {number}; give the chain before it: A/{own}.")
    if name and name != found[0].name:
        raise InputError(f"There is no residue {text!r}; number {number} is {residue_label(found[0])}.")
    return found[0]


def _chain(residue: Residue, topology: mdtraj.Topology) -> str:
    """Return "A/" of a residue in chain A if others have the same number, else nothing."""
    if sum(one.resSeq == residue.resSeq for one in topology.residues) == 1:
        return ""
    ids = [getattr(chain, "chain_id", None) for chain in topology.chains]
    own = ids[residue.chain.index]
    return f"{own if own and ids.count(own) == 1 else residue.chain.index}/"


def _atom(text: str, topology: mdtraj.Topology) -> Atom:
    """Find the atom of "ASP3-N"."""
    own, dash, name = text.rpartition("-")
    if not dash:
        raise InputError(f"{text!r} is not an atom; give its residue and name, as in ASP3-N.")
    residue = _residue(own, topology)
    for atom in residue.atoms:
        if atom.name == name:
            return atom
    names = ", ".join(atom.name for atom in residue.atoms)
    raise InputError(f"{residue_label(residue)} has no atom {name!r}; its atoms are {names}.")


def _listed(residues: Iterable[Residue], most: int = 30) -> str:
    labels = [residue_label(residue) for residue in residues]
    return ", ".join(labels[:most]) + (", ..." if len(labels) > most else "")
