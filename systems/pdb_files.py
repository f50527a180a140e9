"""PDB files, and what in them OpenMM's reader would drop or confuse without a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    from openmm import app

WATER_NAMES = frozenset(
    {"HOH", "WAT", "H2O", "DOD", "SOL", "SPC", "TIP", "TP3", "TIP3", "TIP4", "TIP5", "OPC"}
)
"""The names of water in files of several programs."""


def read_pdb(path: str | Path, *, strict: bool = True) -> app.PDBFile:
    """Read a PDB file's first model; its atoms have names of their own in each residue (see `keep_names`).

    Args:
        path: The file.
        strict: Refuse what OpenMM would drop: see `check_pdb`.

    Raises:
        InputError: If there is no such file, or it cannot be used.
    """
    from openmm import app

    refuse_mmcif(existing(path))
    if strict:
        check_pdb(path)
    try:
        # Given a name, PDBFile leaves the file open when it raises. It warns of residues that share a number.
        with Path(path).open(encoding="utf-8", errors="replace") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pdb = app.PDBFile(file)
    except Exception as error:  # the parser raises many kinds
        raise InputError(f"{path} cannot be read as a PDB file: {cause(error)}") from error
    if pdb.topology.getNumAtoms() == 0:
        raise InputError(f"{path} cannot be read as a PDB file: it has no atoms.")
    names = [atom.name for atom in _atoms(path)]
    if len(names) == pdb.topology.getNumAtoms():
        keep_names(pdb.topology, names)
    return pdb


def keep_names(topology: app.Topology, names: Sequence[str]) -> None:
    """Give atoms back the names of their file in residues where OpenMM calls two of them the same.

    OpenMM gives atoms the names of the Protein Data Bank. A capped peptide that CHARMM made one residue has HN and
    HT1, both of which become H.

    Args:
        topology: The topology, whose atoms are renamed.
        names: The names of all atoms in the file.
    """
    for residue in topology.residues():
        atoms = list(residue.atoms())
        if len({atom.name for atom in atoms}) < len(atoms):
            for atom in atoms:
                atom.name = names[atom.index]


def models_note(pdb: app.PDBFile, path: str | Path) -> list[str]:
    """Return a sentence on the models of a file that are not read, if there are any."""
    count = pdb.getNumFrames()
    return [f"{path} has {count} models, of which the first one is read."] if count > 1 else []


def refuse_mmcif(path: str | Path) -> None:
    """Refuse an mmCIF file.

    Raises:
        InputError: If the file is one, by its ending or its first line.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    if Path(path).suffix.lower() in (".cif", ".mmcif") or first.startswith("data_"):
        raise InputError(
            f"{path} is an mmCIF file, which is not read: convert it to PDB, e.g. with gemmi convert, or with "
            "OpenMM's PDBxFile and PDBFile.writeFile."
        )


def check_pdb(path: str | Path) -> None:
    """Refuse alternate locations, insertion codes, and atoms of one residue with the same name.

    OpenMM's reader takes the first location and the first of the atoms, and residue numbers with insertion codes
    do not come through mdtraj's files.

    Raises:
        InputError: If there is one in the first model, or no atom at all.
    """
    seen: set[tuple[int, str, str]] = set()
    for atom in _atoms(path):
        if atom.location:
            raise InputError(
                f"{path} has alternate locations (atom {atom.name} of {atom.residue}, location "
                f"{atom.location}); keep one of each, e.g. with pdbfixer or pdb-tools' pdb_selaltloc."
            )
        if atom.insertion_code:
            raise InputError(
                f"{path} has insertion codes ({atom.insertion_code} of residue {atom.residue}); number the "
                "residues anew, e.g. with pdb-tools' pdb_reres."
            )
        key = (atom.block, atom.residue, atom.name)
        if key in seen and atom.residue.split()[0] not in WATER_NAMES:
            raise InputError(
                f"{path} has two atoms called {atom.name} in {atom.residue}; give each atom of a residue a name "
                "of its own, e.g. with pdb-tools' pdb_uniqname."
            )
        seen.add(key)
    if not seen:
        raise InputError(f"{path} cannot be read as a PDB file: it has no atoms with coordinates.")


def existing(path: str | Path) -> Path:
    """Return the path of a file.

    Raises:
        InputError: If there is none.
    """
    if Path(path) == Path():
        raise InputError("A file's name is empty: give the name of the file.")
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}.")
    return Path(path)


def sentence(message: str) -> str:
    """Return a message on one line, with one full stop."""
    return " ".join(message.split()).rstrip(".") + "."


def cause(error: Exception) -> str:
    """Return what an exception of a parser says, in a sentence; many say nothing, or only which key they miss."""
    if isinstance(error, LookupError) or not str(error):
        return f"it is incomplete, or of another kind ({type(error).__name__})."
    return sentence(str(error))


class _Atom(NamedTuple):
    name: str
    location: str
    residue: str  # name, number and chain
    insertion_code: str
    block: int  # which run of atoms of the same residue


def _atoms(path: str | Path) -> Iterator[_Atom]:
    """Yield what the lines of a PDB file's first model say of its atoms; OpenMM judges whether they are sound."""
    block, last = 0, ""
    for line in Path(path).read_text(errors="replace").splitlines():
        if line.startswith(("ENDMDL", "TER")):
            block, last = block + 1, ""
            if line.startswith("ENDMDL"):
                return
        if not line.startswith(("ATOM", "HETATM")) or len(line) < 54:
            continue
        block, last = block + (line[17:27] != last), line[17:27]
        chain = f" (chain {line[21]})" if line[21].strip() else ""
        residue = f"{line[17:21].strip()} {line[22:26].strip()}{chain}"
        yield _Atom(line[12:16].strip(), line[16].strip(), residue, line[26].strip(), block)
