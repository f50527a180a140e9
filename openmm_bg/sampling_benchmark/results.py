"""Figures of the methods, their comparison, and the rows that judge it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from openmm_bg.comparison import AGREEMENT
from openmm_bg.sampling_benchmark.basins import INDICATORS, Population
from openmm_bg.sampling_benchmark.effective import judge
from openmm_bg.sampling_benchmark.methods import BASELINES, METHODS
from openmm_bg.sampling_benchmark.trace import Cost, Trace
from openmm_bg.statistics import round_trips

COMMAND = "python scripts/benchmark_sampling.py demo/model"
_BOUNDS = {"openmmtools-tempering": (1000, 10_000), "batched-tempering": (20, 200)}
"""What the ratio of effective samples per second has to be, and the goal."""


def method_rows(
    method: str, trace: Trace, known: dict[str, Population], before: Cost
) -> list[dict[str, Any]]:
    """Return the figures of a method: a row for its frames, and one for its candidates where it has averaged them.

    Args:
        method: Its name.
        trace: What it has sampled.
        known: The reference, by the indicators' names.
        before: What had been spent before it could begin: on the model, for methods with a flow.

    Returns:
        Rows with the same keys: costs, and for each indicator "phi" and "psi" what `judge` finds, and effective
        samples per energy evaluation and per second, of the frames alone and with everything spent before
        ("included").
    """
    rows = []
    for recycled in (False, True) if trace.recycled else (False,):
        burn_in, production = trace.burn_in, trace.production
        included = before + burn_in + production
        row: dict[str, Any] = {
            "method": method,
            "label": METHODS[method].label + (": all candidates" if recycled else ""),
            "recycled": recycled,
            "with_flow": METHODS[method].with_flow,
            "frames": int(trace.phi.size // trace.phi.shape[1]),
            "round_trips": _round_trips(trace),
            "evaluations": production.evaluations,
            "seconds": production.seconds,
            "cpu_seconds": production.cpu_seconds,
            "burn_in_evaluations": burn_in.evaluations,
            "burn_in_seconds": burn_in.seconds,
            "model_evaluations": before.evaluations,
            "model_seconds": before.seconds,
        }
        for indicator in INDICATORS:
            found = judge(trace, indicator, known[indicator.name], recycled=recycled)
            number = found.number.value
            own = {
                "value": found.probability.value,
                "stderr": found.probability.stderr,
                "z": found.z,
                "effective": number,
                "effective_stderr": found.number.stderr,
                "status": found.status,
                "crossings": found.crossings,
                "entries": found.entries,
                "per_evaluation": number / production.evaluations,
                "per_second": number / production.seconds,
                "per_cpu_second": number / production.cpu_seconds,
                "per_evaluation_included": number / included.evaluations,
                "per_second_included": number / included.seconds,
            }
            row |= {f"{indicator.name}_{key}": value for key, value in own.items()}
        rows.append(row)
    return rows


def _round_trips(trace: Trace) -> float:
    if trace.replicas is None:
        return math.nan
    return sum(round_trips(trace.replicas[:, :, k]) for k in range(trace.replicas.shape[2]))


def break_even(rate: float, offset: float, other_rate: float, other_offset: float) -> float:
    """Return the time [s] after which a method has more effective samples than another, both begun at time 0.

    Args:
        rate: Its effective samples per second.
        offset: The time [s] at which it gets the first.
        other_rate: Those of the other one.
        other_offset: The time [s] at which that gets the first.

    Returns:
        The time; infinite if there is none, NaN if a rate is not known.
    """
    if math.isnan(rate) or math.isnan(other_rate):
        return math.nan
    if rate <= other_rate:
        return offset if rate == other_rate and offset < other_offset else math.inf
    return max(offset, (rate * offset - other_rate * other_offset) / (rate - other_rate))


def break_even_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return when each method with a flow, the making of its model included, is ahead of each baseline.

    Where the baseline's effective samples are only bounded from above, so is the time.
    """
    found = []
    for row in rows:
        for baseline in rows:
            for name in (indicator.name for indicator in INDICATORS):
                measured = row["with_flow"] and row[f"{name}_status"] == "measured"
                if not measured or baseline["method"] not in BASELINES:
                    continue
                time = break_even(
                    row[f"{name}_per_second"],
                    row["model_seconds"] + row["burn_in_seconds"],
                    baseline[f"{name}_per_second"],
                    baseline["burn_in_seconds"],
                )
                at_most = baseline[f"{name}_status"] == "bound"
                found.append(
                    {
                        "method": row["method"] + (" (all)" if row["recycled"] else ""),
                        "baseline": baseline["method"],
                        "indicator": name,
                        "seconds": time,
                        "at_most": at_most,
                    }
                )
    return found


def best_with_flow(rows: list[dict[str, Any]], name: str = "phi") -> dict[str, Any] | None:
    """Return the row with the most effective samples per second of those with a flow.

    Only measured ones count, and only where the estimate agrees with the reference.
    """
    fit = [
        row
        for row in rows
        if row["with_flow"] and row[f"{name}_status"] == "measured" and abs(row[f"{name}_z"]) <= AGREEMENT
    ]
    return max(fit, key=lambda row: row[f"{name}_per_second"], default=None)


def acceptance_rows(rows: list[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Return the acceptance figures: the best method with a flow over the baselines that have run.

    A baseline whose effective samples are only bounded from above gives a ratio that is bounded from below. For
    openmmtools there is a second ratio, which is not judged: with as many effective samples per energy evaluation
    as the batched ladders have, which are the same ladders and cross often enough to be measured.

    Args:
        rows: What `method_rows` returned, of all methods.
        seed: The seed of the benchmark.
    """
    by_name = {row["method"]: row for row in rows if row["method"] in BASELINES}
    best, found = best_with_flow(rows), []
    for name, (bound, goal) in _BOUNDS.items():
        if name not in by_name or not any(row["with_flow"] for row in rows):
            continue
        baseline = by_name[name]
        value, stderr = ratio(best, baseline)
        at_least = " (at least)" if baseline["phi_status"] == "bound" else ""
        line = (
            f"effective samples of phi > 0 per second, {best['label'] if best else 'no method with a flow'} over "
            f"{baseline['label']}{at_least}"
        )
        for least, extra in ((bound, {}), (goal, {"goal": True})):
            found.append(
                _row(line + (" (goal)" if extra else ""), value, stderr, f">= {least}", value >= least, seed)
                | extra
            )
    if best and set(BASELINES) <= by_name.keys():
        found.append(_by_evaluations(best, by_name, seed))
    return found


def ratio(row: dict[str, Any] | None, other: dict[str, Any], name: str = "phi") -> tuple[float, float]:
    """Return the ratio of effective samples per second of two methods, and its standard error (NaN for a bound)."""
    if row is None:
        return math.nan, math.nan
    value = row[f"{name}_per_second"] / other[f"{name}_per_second"]
    relative = [one[f"{name}_effective_stderr"] / one[f"{name}_effective"] for one in (row, other)]
    return value, value * float(np.hypot(*relative))


def _by_evaluations(best: dict[str, Any], by_name: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    slow, fast = (by_name[name] for name in BASELINES)
    per_second = fast["phi_per_evaluation"] * slow["evaluations"] / slow["seconds"]
    value = best["phi_per_second"] / per_second
    _, stderr = ratio(best, fast)
    line = f"the same over {slow['label']}, if its energy evaluations are worth as much as those of {fast['label']}"
    stderr *= value / (best["phi_per_second"] / fast["phi_per_second"])
    return _row(line, value, stderr, "reported", True, seed) | {"finding": True}


def _row(line: str, value: float, stderr: float, bound: str, holds: bool, seed: int) -> dict[str, Any]:
    return {
        "line": line,
        "value": float(value),
        "stderr": None if math.isnan(stderr) else float(stderr),
        "bound": bound,
        "holds": bool(holds),
        "command": COMMAND,
        "seed": seed,
    }
