"""Settings of simulations that remake the reference data of systems of this package."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from openmm_bg.errors import InputError
from openmm_bg.simulation.settings import SimulationSettings

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "chignolin": MappingProxyType(
            {
                "temperature": 350.0,
                # Neighbours differ by a factor of 1.08, at which two in five exchanges are accepted.
                "ladder": (378.0, 408.0, 441.0, 476.0, 514.0, 555.5, 600.0),
                "n_walkers": 8,  # with 8 temperatures 64 replicas: full blocks of 16 of the batched potential
                "starts": ("native", "extended"),
                "interval": 250,
                "n_frames": 160_000,
            }
        ),
    }
)
"""What differs from the defaults of `SimulationSettings`, by the name of the system."""


def preset(name: str, **changes: Any) -> SimulationSettings:
    """Return the settings that remake a system's reference data.

    Args:
        name: The system; one of `PRESETS`.
        changes: Settings that differ from them.

    Raises:
        InputError: If the system has none, or a setting makes no sense.
    """
    if name not in PRESETS:
        raise InputError(f"There are no settings of {name!r}; there are those of: {', '.join(PRESETS)}.")
    return SimulationSettings(**{**PRESETS[name], **changes})
