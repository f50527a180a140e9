"""Models by name: those that come with the package."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path


def shipped_models() -> dict[str, Path]:
    """Return the directories of the models that come with the package, by name."""
    folder = Path(str(resources.files("openmm_bg.systems"))) / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/model.json"))}


def find_model(model: str | os.PathLike) -> Path:
    """Return the directory of a model.

    Args:
        model: Its path, or the name of one that comes with the package; a directory of that name goes first.
    """
    path = Path(model).expanduser()
    if not path.exists() and str(model) in (shipped := shipped_models()):
        return shipped[str(model)]
    return path.resolve()
