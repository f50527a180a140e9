"""Checkpoints of trainings: tensors and a header in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.files import atomic_write_bytes
from openmm_bg.model_files import CHECKPOINT

Tensors = dict[str, torch.Tensor]


def check_output(output: Path) -> None:
    """Check that a directory is free for a training, or holds an interrupted one.

    What a killed process has left of a file that it was writing does not count.

    Raises:
        InputError: If it holds a finished model or other things.
    """
    if (output / "model.json").exists():
        raise InputError(f"{output} holds a finished model; choose another output directory or remove it.")
    if not output.exists() or (output / CHECKPOINT).exists():
        return
    if not output.is_dir() or any(not _is_leftover(path) for path in output.iterdir()):
        raise InputError(f"{output} exists and holds other things; choose another output directory.")


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".") and ".partial" in path.name


def write_checkpoint(path: Path, tensors: Tensors, header: dict[str, Any]) -> None:
    """Write a checkpoint.

    Args:
        path: The file.
        tensors: Tensors by name.
        header: What is not a tensor, as JSON.
    """
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write_bytes(path, save(contiguous, metadata={"openmm_bg_training": json.dumps(header)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Read the header and the tensors of a checkpoint.

    Raises:
        ModelFileError: If it is truncated.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["openmm_bg_training"])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"The checkpoint {path} is truncated; remove it to start anew.") from error


def resume_from(
    output: Path,
    identity: dict[str, Any],
    what: str,
    restore: Callable[[dict[str, Any], Tensors], None],
) -> None:
    """Continue from the checkpoint in a directory, if it has one.

    Args:
        output: The directory.
        identity: What makes it the same run, which the header of the checkpoint must have.
        what: What the run is, for messages.
        restore: Takes the header and the tensors.

    Raises:
        InputError: If the checkpoint is of another run.
        ModelFileError: If it is truncated, or of another version of the package.
    """
    path = output / CHECKPOINT
    if not path.exists():
        return
    header, tensors = read_checkpoint(path)
    if differing := _differing(header["identity"], json.loads(json.dumps(identity))):
        raise InputError(
            f"{output} holds an interrupted {what} of another model or with other data or settings "
            f"({', '.join(differing)}); repeat its settings to continue it, or choose another output directory."
        )
    try:
        restore(header, tensors)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ModelFileError(
            f"{path} is of another version of openmm_bg; remove it to start anew."
        ) from error


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what differs in two nested dictionaries, settings by their own names."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differing(a, b)
        elif a != b:
            found.append(name)
    return found


def prefixed(prefix: str, tensors: Tensors | None) -> Tensors:
    """Return tensors with a prefix before their names."""
    return {f"{prefix}{name}": tensor for name, tensor in (tensors or {}).items()}


def part(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
