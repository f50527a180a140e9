"""Replica exchange in openmmtools with flow moves."""

from openmm_bg.exchange.parallel_tempering import create_sampler, resume_sampler, run_parallel_tempering
from openmm_bg.exchange.preparation import silence_openmmtools
from openmm_bg.exchange.record import ExchangeRecord, read_exchange

__all__ = [
    "ExchangeRecord",
    "create_sampler",
    "read_exchange",
    "resume_sampler",
    "run_parallel_tempering",
    "silence_openmmtools",
]
