"""The records that belong to files of a run, checked where they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from openmm_bg.errors import InputError
from openmm_bg.model_files import model_hash, read_any_header

_TABLES = ("wall_seconds", "n_energy_evaluations_by_stage")
_NUMBERS = ("wall_seconds_total", "n_energy_evaluations")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: If it holds none.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is not JSON.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no record.")
    return content


def read_summary(path: Path) -> dict[str, Any]:
    """Return the summary of a main job.

    Raises:
        InputError: If it is not one.
    """
    summary = read_json(path)
    tables = [summary.get(name, {}) for name in ("record", *_TABLES)]
    if all(isinstance(table, dict) for table in tables):
        numbers = [summary.get(name, 0) for name in _NUMBERS]
        numbers += [number for table in tables[1:] for number in table.values()]
        if all(isinstance(number, (int, float)) for number in numbers):
            return summary
    raise InputError(f"{path} is not the summary of a run; move it away, or name the files to report on.")


def is_finished(model: Path) -> bool:
    """Tell whether a directory holds a model, not only a training under way."""
    return (model / "model.json").is_file()


def system_hash(model: Path | None) -> str | None:
    """Return the hash of the energy function that a model was made for, if it is known."""
    return read_any_header(model)["system_hash"] if model is not None and is_finished(model) else None


def find_model(wanted: object, known: Iterable[Path], elsewhere: Iterable[Path]) -> Path | None:
    """Return the model of a hash.

    Args:
        wanted: Its hash; None finds none.
        known: Models and trainings that the report is about.
        elsewhere: Where else it may be.
    """
    for model in [*known, *elsewhere]:
        with suppress(InputError):  # about other files than those of the report
            if is_finished(model) and model_hash(model) == wanted:
                return model
    return None
