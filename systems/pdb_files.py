"""PDB files, and what in them OpenMM's reader would drop or confuse without a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
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
    """Read a PDB file's first model.

    Args:
        path: The file.
        strict: Refuse what OpenMM would drop: see `check_pdb`.

    Raises:
        InputError: If there is no such file, or it cannot be used.
    """
    from openmm import app

    existing(path)
    if strict:
        check_pdb(path)
    try:
        # Given a name, PDBFile leaves the file open when it raises. It warns of residues that share a number.
        with Path(path).open() as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pdb = app.PDBFile(file)
    except Exception as error:  # the parser raises many kinds
        raise InputError(f"{path} cannot be read as a PDB file: {sentence(error)}") from error
    if pdb.topology.getNumAtoms() == 0:
        raise InputError(f"{path} cannot be read as a PDB file: it has no atoms.")
    return pdb


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
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}.")
    return Path(path)


def sentence(error: Exception | str) -> str:
    """Return a message on one line, with one full stop."""
    return " ".join(str(error).split()).rstrip(".") + "."


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
