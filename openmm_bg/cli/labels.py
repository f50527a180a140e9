"""Reading the files of a command line that compares them, with a label for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    from openmm_bg.trajectories import Frames


def check_labels(files: Sequence[Path], labels: Sequence[str] | None) -> list[str | None]:
    """Return a label or None for each file.

    Raises:
        InputError: If there are labels, but not one for each file.
    """
    if labels and len(labels) != len(files):
        raise InputError(f"There are {len(files)} files but {len(labels)} labels; give each file one.")
    return list(labels or [None] * len(files))


def read_file(path: Path, topology: Path | None, temperature: float | None) -> Frames:
    """Read a trajectory, samples, an exchange run, or the trajectory in a data directory."""
    from openmm_bg.io import read_frames

    if (path / "trajectory.h5").is_file():
        path = path / "trajectory.h5"
    return read_frames(path, topology, temperature=temperature)
