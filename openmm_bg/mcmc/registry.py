"""The models that moves of this process use, each loaded once.

openmmtools serialises and copies every move several times in every iteration. A move therefore
holds the path and the hash of its model, and the networks stay here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.model_files import model_hash
from openmm_bg.models import COARSE_GRAINED, GENERATOR, find_model, shipped_models

if TYPE_CHECKING:
    from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
    from openmm_bg.generator import BoltzmannGenerator

    Model = BoltzmannGenerator | CoarseGrainedGenerator

_models: dict[tuple[str, str, str], Model] = {}


def resolve(model: Any) -> str:
    """Return the absolute path of a model directory.

    Args:
        model: The directory, the name of a model that comes with the package, or a `BoltzmannGenerator` that was
            saved to or loaded from a directory.

    Raises:
        InputError: If it is a generator that was never saved, or neither a path nor a generator.
    """
    if not isinstance(model, str | os.PathLike):
        if not hasattr(model, "flow"):
            raise InputError(f"A model must be the path of a model directory, not {type(model).__name__}.")
        path = getattr(model, "path", None)
        if path is None:
            raise InputError(
                "The generator has not been saved, and a move must find its model again when a run is "
                "resumed: save it with generator.save('model/') and give that path."
            )
        model = path
    return str(find_model(model))


def current_hash(path: str) -> str:
    """Return the hash of the model that lies in a directory now.

    Raises:
        ModelFileError: If there is none.
    """
    if not Path(path).is_dir():
        raise ModelFileError(
            f"There is no model directory {path}; put it back, or give the move another model. Those that come "
            f"with the package: {', '.join(shipped_models())}."
        )
    return model_hash(path)


def verify(path: str, expected_hash: str) -> None:
    """Check that a directory still holds the model that a move was made with.

    A model that is loaded already is not looked for again, so that this costs nothing in a run.

    Raises:
        ModelFileError: If the model is missing or is another one by now.
    """
    if any(key[:2] == (path, expected_hash) for key in _models):
        return
    found = current_hash(path)
    if found != expected_hash:
        raise ModelFileError(
            f"The model in {path} is not the one this move was made with (hash {found[:12]}, expected "
            f"{expected_hash[:12]}); put the old model back, or start a new run with the new one."
        )


def load(path: str, expected_hash: str, kind: str = GENERATOR) -> Model:
    """Return a model, loading it if this process has not loaded it before.

    Args:
        path: The absolute path of the model directory, from `resolve`.
        expected_hash: Its hash, from `current_hash`.
        kind: The kind of model that is needed.

    Raises:
        ModelFileError: If the model is missing, damaged, of another kind, or is another one by now.
    """
    key = (path, expected_hash, kind)
    if key not in _models:
        verify(path, expected_hash)
        _models[key] = _read(path, kind)
    return _models[key]


def _read(path: str, kind: str) -> Model:
    """Load a model; acceptance ratios need both densities in double precision."""
    if kind == COARSE_GRAINED:
        from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator

        return CoarseGrainedGenerator.load(path, dtype=torch.float64)
    from openmm_bg.generator import BoltzmannGenerator

    generator = BoltzmannGenerator.load(path, device="cpu", dtype=torch.float64)
    generator.flow.eval()
    return generator


def clear() -> None:
    """Forget all loaded models, as a fresh process would."""
    _models.clear()
