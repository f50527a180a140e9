"""Boltzmann generators for OpenMM: samples with weights, and flow-proposal moves for openmmtools."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "BoltzmannGenerator",
    "CoarseGrainedGenerator",
    "CoarseGrainedMove",
    "FlowMove",
    "InputError",
    "LatentMonteCarloMove",
    "LearnedReplicaExchangeSampler",
    "MultipleTryMove",
    "OpenMMPotential",
    "TorchPotential",
    "WasteRecycling",
    "systems",
]

# Loaded on first use: TorchPotential and the flows also work where OpenMM is not installed.
_HOMES = {
    "BoltzmannGenerator": "openmm_bg.generator",
    "CoarseGrainedGenerator": "openmm_bg.coarse_graining.generator",
    "CoarseGrainedMove": "openmm_bg.mcmc",
    "FlowMove": "openmm_bg.mcmc",
    "InputError": "openmm_bg.errors",
    "LatentMonteCarloMove": "openmm_bg.mcmc",
    "LearnedReplicaExchangeSampler": "openmm_bg.exchange",
    "MultipleTryMove": "openmm_bg.mcmc",
    "OpenMMPotential": "openmm_bg.potentials",
    "TorchPotential": "openmm_bg.potentials",
    "WasteRecycling": "openmm_bg.mcmc",
}

if TYPE_CHECKING:
    from openmm_bg import systems
    from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
    from openmm_bg.errors import InputError
    from openmm_bg.exchange import LearnedReplicaExchangeSampler
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.mcmc import (
        CoarseGrainedMove,
        FlowMove,
        LatentMonteCarloMove,
        MultipleTryMove,
        WasteRecycling,
    )
    from openmm_bg.potentials import OpenMMPotential, TorchPotential


def __getattr__(name: str) -> Any:
    if name == "systems":
        return import_module("openmm_bg.systems")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'openmm_bg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
