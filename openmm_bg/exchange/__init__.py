"""Replica exchange in openmmtools with flow moves, and through the map of a flow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openmm_bg.exchange.parallel_tempering import create_sampler, resume_sampler, run_parallel_tempering
from openmm_bg.exchange.preparation import silence_openmmtools
from openmm_bg.exchange.record import ExchangeRecord, read_exchange

if TYPE_CHECKING:
    from openmm_bg.exchange.learned import LearnedReplicaExchangeSampler
    from openmm_bg.exchange.native import FlowReplicaExchangeSampler

__all__ = [
    "ExchangeRecord",
    "FlowReplicaExchangeSampler",
    "LearnedReplicaExchangeSampler",
    "create_sampler",
    "read_exchange",
    "resume_sampler",
    "run_parallel_tempering",
    "silence_openmmtools",
]


# Subclasses of samplers of openmmtools and OpenMM, which take seconds to import.
_HOMES = {
    "FlowReplicaExchangeSampler": "openmm_bg.exchange.native",
    "LearnedReplicaExchangeSampler": "openmm_bg.exchange.learned",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        silence_openmmtools()
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'openmm_bg.exchange' has no attribute {name!r}")
