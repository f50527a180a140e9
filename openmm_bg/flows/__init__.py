"""Normalizing flows: distributions of configurations with exact densities."""

from __future__ import annotations

from typing import Any

import torch

from openmm_bg.errors import ModelFileError
from openmm_bg.flows.base import Flow, PositionFlow
from openmm_bg.flows.real_nvp import RealNVP
from openmm_bg.flows.spline_flow import SplineFlow
from openmm_bg.flows.temperature_steerable import TemperatureSteerableFlow

__all__ = [
    "Flow",
    "PositionFlow",
    "RealNVP",
    "SplineFlow",
    "TemperatureSteerableFlow",
    "flow_from_config",
]


FLOWS: dict[str, type[Flow]] = {
    "RealNVP": RealNVP,
    "SplineFlow": SplineFlow,
    "TemperatureSteerableFlow": TemperatureSteerableFlow,
}


def flow_from_config(config: dict[str, Any]) -> Flow:
    """Rebuild a flow from what its ``config`` returned; load its state afterwards.

    Raises:
        ModelFileError: If the configuration is of a kind that this version does not know.
    """
    from openmm_bg.transforms import COORDINATES

    try:
        own = config["coordinates"]
        coordinates = COORDINATES[own["kind"]].from_config(own)
        coordinates.circular[torch.as_tensor(config["circular"], dtype=torch.int64)] = True
        return FLOWS[config["kind"]](coordinates, config["temperature"], **config["settings"])
    except (KeyError, TypeError) as error:
        raise ModelFileError(
            f"The model has parts that this version does not know ({error}); use the version that wrote it."
        ) from error
