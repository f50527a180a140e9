"""Checkpoints of trainings: tensors and a header in one safetensors file, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from openmm_bg.errors import ModelFileError
from openmm_bg.files import atomic_write_bytes
from openmm_bg.generator import CHECKPOINT

Tensors = dict[str, torch.Tensor]


def can_train_in(output: Path) -> bool:
    """Tell whether a directory is free for a training, or holds an interrupted one.

    What a killed process has left of a file that it was writing does not count.
    """
    if not output.exists():
        return True
    if not output.is_dir():
        return False
    others = [
        path for path in output.iterdir() if not (path.name.startswith(".") and ".partial" in path.name)
    ]
    return not others or (output / CHECKPOINT).exists()


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


def prefixed(prefix: str, tensors: Tensors | None) -> Tensors:
    """Return tensors with a prefix before their names."""
    return {f"{prefix}{name}": tensor for name, tensor in (tensors or {}).items()}


def part(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the state of an optimiser as tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, one in state.items() for name, value in one.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Continue with the state that `optimizer_state` returned."""
    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)
