"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openmm_bg.sampling_benchmark.dynamics import batched_tempering, molecular_dynamics
from openmm_bg.sampling_benchmark.flow_sampling import flow_chain, independent_samples, multiple_try_chain
from openmm_bg.sampling_benchmark.job import Job
from openmm_bg.sampling_benchmark.replica_exchange import (
    flow_exchange,
    learned_exchange,
    multiple_try_exchange,
    parallel_tempering,
)
from openmm_bg.sampling_benchmark.trace import Trace


@dataclass(frozen=True)
class Method:
    """A way to sample.

    Args:
        label: What it is, in a line.
        run: Runs it.
        with_flow: Whether it needs a trained flow.
    """

    label: str
    run: Callable[[Job], Trace]
    with_flow: bool = True


METHODS = {
    "md": Method("OpenMM's Langevin dynamics at 300 K", molecular_dynamics, with_flow=False),
    "openmmtools-tempering": Method("openmmtools' parallel tempering", parallel_tempering, with_flow=False),
    "batched-tempering": Method("batched parallel tempering", batched_tempering, with_flow=False),
    "flow-exchange": Method("replica exchange with FlowMove", flow_exchange),
    "multiple-try-exchange": Method("replica exchange with MultipleTryMove", multiple_try_exchange),
    "learned-exchange": Method("learned replica exchange of two replicas", learned_exchange),
    "flow-chain": Method("chain of FlowMove alone", flow_chain),
    "multiple-try-chain": Method("chain of MultipleTryMove alone", multiple_try_chain),
    "samples": Method("independent samples with weights", independent_samples),
}
"""All methods, in the order in which they run."""

BASELINES = ("openmmtools-tempering", "batched-tempering")
"""The methods without a flow with which those with one are compared."""

FLOW_ASSISTED = tuple(name for name, method in METHODS.items() if method.with_flow)
"""The methods that need a trained flow."""
