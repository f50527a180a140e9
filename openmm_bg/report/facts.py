"""Facts about a saved model, and the topology of its molecule."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mdtraj


class Fact(NamedTuple):
    """A figure, its value as text, and what it means."""

    name: str
    value: str
    meaning: str


def model_topology(directory: Path) -> mdtraj.Topology:
    """Return the topology of the molecule that a model is of."""
    import mdtraj

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unusual PDB records
        return mdtraj.load_topology(str(directory / "topology.pdb"))


def shortened(text: str, most: int = 80) -> str:
    """Return the beginning of a text that is too long for a line."""
    return text if len(text) <= most else text[: most - 4] + " ..."
