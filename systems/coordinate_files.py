"""Positions from the files of several programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.pdb_files import cause, existing, models_note, read_pdb, refuse_mmcif

if TYPE_CHECKING:
    from openmm import app


def read_positions(path: str | Path, topology: app.Topology) -> tuple[np.ndarray, list[str]]:
    """Return the positions [nm] of a molecule's atoms with shape=(n_atoms, 3), and notes on what was not read.

    Args:
        path: A PDB file (``.pdb``, ``.ent``), AMBER's inpcrd or restart file, or CHARMM's coordinate file.
        topology: The molecule's topology.

    Raises:
        InputError: If the file cannot be used, or has other atoms or another number of them.
    """
    from openmm import unit

    suffix, notes = existing(path).suffix.lower(), []
    if suffix in (".pdb", ".ent"):
        pdb = read_pdb(path)
        positions = pdb.getPositions(asNumpy=True)
        _check_elements(pdb.topology, topology, path)
        notes = models_note(pdb, path)
    else:
        refuse_mmcif(path)
        positions = parsed(lambda: _coordinates(str(path)), path, "a file of coordinates")
    array = np.array(positions.value_in_unit(unit.nanometer), dtype=np.float64)
    if array.shape != (topology.getNumAtoms(), 3):
        raise InputError(
            f"{path} has {len(array)} positions but the molecule {topology.getNumAtoms()} atoms; give the "
            "coordinates of the same molecule."
        )
    return array, notes


def _coordinates(path: str) -> Any:
    from openmm import app

    with Path(path).open("rb") as file:
        start = file.read(1)
    if start == b"*":  # a CHARMM file starts with its title
        return app.CharmmCrdFile(path).positions
    return app.AmberInpcrdFile(path).getPositions(asNumpy=True)


def _check_elements(theirs: app.Topology, ours: app.Topology, path: str | Path) -> None:
    """Refuse positions of atoms that are in another order, as far as elements tell."""
    if theirs.getNumAtoms() != ours.getNumAtoms():
        return  # said elsewhere
    for one, other in zip(theirs.atoms(), ours.atoms(), strict=True):
        if one.element is not None and other.element is not None and one.element != other.element:
            raise InputError(
                f"Atom {one.index} of {path} is {one.element.symbol}, but should be {other.element.symbol}: give "
                "the coordinates of the same molecule, its atoms in the same order."
            )


def parsed(parse: Callable[[], Any], source: str | Path, kind: str) -> Any:
    """Return what a parser returns.

    Args:
        parse: Calls the parser.
        source: The file.
        kind: What it should be, e.g. "an AMBER prmtop file".

    Raises:
        InputError: If the parser raises.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # e.g. that a CHARMM file replaces another's parameter
            return parse()
    except InputError:
        raise
    except Exception as error:  # these parsers raise many kinds
        raise InputError(f"{source} cannot be read as {kind}: {cause(error)}") from error
