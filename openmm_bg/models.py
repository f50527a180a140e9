"""Models by name: those that come with the package."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

GENERATOR, COARSE_GRAINED = "BoltzmannGenerator", "CoarseGrainedGenerator"
"""The kinds of models."""

FOLDERS = {GENERATOR: "models", COARSE_GRAINED: "coarse_grained_models"}
"""Where those of the package are, by kind, in the folder of its systems."""


def shipped_models(*kinds: str) -> dict[str, Path]:
    """Return the directories of the models that come with the package, by name.

    Args:
        *kinds: Of which kinds; of all if none is given.
    """
    package = Path(str(resources.files("openmm_bg.systems")))
    folders = [package / FOLDERS[kind] for kind in kinds or FOLDERS]
    found = [path.parent for folder in folders for path in sorted(folder.glob("*/model.json"))]
    return {path.name: path for path in found}


def find_model(model: str | os.PathLike) -> Path:
    """Return the directory of a model.

    Args:
        model: Its path, or the name of one that comes with the package; a directory of that name goes first.
    """
    path = Path(model).expanduser()
    if not path.exists() and str(model) in (shipped := shipped_models()):
        return shipped[str(model)]
    return path.resolve()
