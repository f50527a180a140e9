"""Potential energies of batches of configurations: evaluated by OpenMM, or translated to tensor code."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["OpenMMPotential", "Potential", "TorchPotential"]

# Loaded on first use: a saved TorchPotential also works where OpenMM is not installed.
_HOMES = {
    "OpenMMPotential": "openmm_bg.potentials.openmm_potential",
    "Potential": "openmm_bg.potentials.base",
    "TorchPotential": "openmm_bg.potentials.torch_potential",
}

if TYPE_CHECKING:
    from openmm_bg.potentials.base import Potential
    from openmm_bg.potentials.openmm_potential import OpenMMPotential
    from openmm_bg.potentials.torch_potential import TorchPotential


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'openmm_bg.potentials' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
