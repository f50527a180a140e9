"""Replica exchange in openmmtools with flow moves, and through the map of a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openmm_bg.exchange.parallel_tempering import create_sampler, resume_sampler, run_parallel_tempering
from openmm_bg.exchange.preparation import silence_openmmtools
from openmm_bg.exchange.record import ExchangeRecord, read_exchange

if TYPE_CHECKING:
    from openmm_bg.exchange.learned import LearnedReplicaExchangeSampler

__all__ = [
    "ExchangeRecord",
    "LearnedReplicaExchangeSampler",
    "create_sampler",
    "read_exchange",
    "resume_sampler",
    "run_parallel_tempering",
    "silence_openmmtools",
]


def __getattr__(name: str) -> Any:
    if name == "LearnedReplicaExchangeSampler":  # a subclass of openmmtools', which takes seconds to import
        silence_openmmtools()
        from openmm_bg.exchange.learned import LearnedReplicaExchangeSampler

        return LearnedReplicaExchangeSampler
    raise AttributeError(f"module 'openmm_bg.exchange' has no attribute {name!r}")
