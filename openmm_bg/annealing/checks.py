"""What can be annealed, and what cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from openmm_bg.annealing.settings import AnnealingSettings
from openmm_bg.errors import InputError
from openmm_bg.flows import PositionFlow, SplineFlow
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.training.checkpoint import check_output
from openmm_bg.training.data import TrainingData


def check_annealing(
    generator: BoltzmannGenerator, output: Path, settings: AnnealingSettings, data: TrainingData | None
) -> None:
    """Refuse what cannot be annealed.

    Args:
        generator: The generator.
        output: The directory of the result.
        settings: The settings.
        data: Molecular dynamics, or None.

    Raises:
        InputError: If generator or data are unsuitable, or the directory is taken.
    """
    flow = generator.flow
    check_output(output)
    if not isinstance(flow, PositionFlow):
        raise InputError(
            "Annealing needs a flow without momenta; a temperature-steerable flow has its temperatures built in."
        )
    if settings.conditioned and not isinstance(flow, SplineFlow):
        raise InputError(
            f"A {type(flow).__name__} cannot be conditioned on the temperature; anneal it with conditioned=False "
            "(--single), to one temperature."
        )
    if not settings.temperature < flow.temperature:
        raise InputError(
            f"Annealing goes down: {settings.temperature:g} K is not below {flow.temperature:g} K, the temperature "
            "of the model's training."
        )
    if generator.system is None:
        raise InputError("The generator does not know its system, which annealing needs for energies.")
    if data is not None and data.system.system_hash != generator.system_hash:
        raise InputError("The data are of another system than the model.")
    if data is not None and not np.isfinite(data.energies).all():
        raise InputError("The data have NaN or infinite energies; simulate again.")
    if data is not None and abs(data.temperature - flow.temperature) > 1e-6 * flow.temperature:
        raise InputError(
            f"The data are of {data.temperature:g} K, and the model was trained at {flow.temperature:g} K; "
            "annealing takes data of the training temperature."
        )


def checksum(state: dict[str, torch.Tensor]) -> float:
    """Return a number that tells the parameters of two flows apart."""
    return float(sum(tensor.double().abs().sum() for tensor in state.values()))
