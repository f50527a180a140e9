"""Labels for the files of a command line that compares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmm_bg.errors import InputError


def check_labels(files: Sequence[Path], labels: Sequence[str] | None) -> list[str | None]:
    """Return a label or None for each file.

    Raises:
        InputError: If there are labels, but not one for each file.
    """
    if labels and len(labels) != len(files):
        raise InputError(f"There are {len(files)} files but {len(labels)} labels; give each file one.")
    return list(labels or [None] * len(files))
