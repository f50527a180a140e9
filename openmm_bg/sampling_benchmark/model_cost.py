"""What a model has cost before it can be sampled: data, training, annealing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.sampling_benchmark.trace import Cost, Stopwatch

_N_WALKERS, _N_STEPS = 512, 50  # of the trial that tells the time of data


def model_costs(record: dict[str, Any], seconds_per_evaluation: float) -> dict[str, dict[str, Any]]:
    """Return what the record of a model says of its cost.

    Args:
        record: The record, with "training" and, where there were any, "data" and "annealing".
        seconds_per_evaluation: The time [s] of an energy evaluation in a simulation, for data whose record does not
            tell the time they took.

    Returns:
        By the parts' names and "total": "evaluations", "seconds", and whether the seconds are "estimated".

    Raises:
        InputError: If the record does not tell the cost of the training.
    """
    parts: dict[str, dict[str, Any]] = {}
    for name in ("data", "training", "annealing"):
        part = record.get(name)
        if name == "annealing" and part is not None:
            part = _all_annealings(part)
        if part is None and name != "training":
            continue
        evaluations = (part or {}).get("n_energy_evaluations")
        seconds = (part or {}).get("seconds")
        if evaluations is None or (seconds is None and name != "data"):
            raise InputError(
                f"The model's record does not tell the cost of its {name}; train it with openmm-bg train."
            )
        estimated = seconds is None
        seconds = evaluations * seconds_per_evaluation if estimated else seconds
        parts[name] = {"evaluations": int(evaluations), "seconds": float(seconds), "estimated": estimated}
    total = {key: sum(part[key] for part in parts.values()) for key in ("evaluations", "seconds")}
    return parts | {"total": total | {"estimated": any(part["estimated"] for part in parts.values())}}


def _all_annealings(record: dict[str, Any]) -> dict[str, Any]:
    """Return the cost of an annealing and of those before it."""
    before = record.get("before")
    if not before:
        return record
    both = record, _all_annealings(before)
    names = ("n_energy_evaluations", "seconds")
    return {name: sum(one[name] for one in both) for name in names if all(name in one for one in both)}


def total_cost(parts: dict[str, dict[str, Any]]) -> Cost:
    """Return all of what `model_costs` returned; of processor time nothing is known."""
    return Cost(parts["total"]["evaluations"], parts["total"]["seconds"], np.nan)


def seconds_per_evaluation(system: Any) -> float:
    """Time dynamics of many walkers on the batched potential, as `openmm_bg.simulation` makes training data [s]."""
    from openmm_bg.potentials import TorchPotential
    from openmm_bg.simulation import LangevinDynamics

    potential = TorchPotential.from_system(system, dtype=torch.float32)
    start = np.repeat(system.positions[None], _N_WALKERS, axis=0)
    generator = torch.Generator().manual_seed(0)
    dynamics = LangevinDynamics(potential, start, system.masses, 300.0, generator=generator)
    dynamics.step(2)
    stopwatch, before = Stopwatch(), potential.n_evaluations
    dynamics.step(_N_STEPS)
    spent = stopwatch.lap(potential.n_evaluations - before)
    return spent.seconds / spent.evaluations
