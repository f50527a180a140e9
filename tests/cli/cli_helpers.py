"""Arguments of small runs, and a look at what is written."""

from __future__ import annotations

from pathlib import Path

SIMULATE = (
    *("simulate", "alanine_dipeptide", "--quiet"),
    *("--burn-in", "200", "--interval", "20"),
)
TRAIN = (
    *("--quiet", "--layers", "2", "--hidden-features", "16"),
    *("--validation-samples", "100", "--kl-weight", "0"),
)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
