"""The results as tables of text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from openmm_bg.sampling_benchmark.basins import INDICATORS
from openmm_bg.statistics import with_error


class TextTable(NamedTuple):
    """A table: its title, the names of its columns, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(summary: dict[str, Any]) -> Iterator[TextTable]:
    """Yield the tables of what `run_benchmark` returned.

    Arrivals are the independent ones in the rare state; of draws and candidates, the effective number inside.
    """
    rows = summary["methods"]
    for indicator in INDICATORS:
        own = summary["reference"][indicator.name]
        expected = with_error((own["value"], own["stderr"]))
        title = f"P({indicator.label}) at 300 K; {summary['reference']['source']} gives {expected}"
        samples = ("effective samples", "per second", "per 1e6 energies")
        columns = ("method", "estimate", "z", *samples, "crossings", "arrivals")
        yield TextTable(title, columns, [_judged(row, indicator.name) for row in rows])
    title = "What it cost; effective samples of phi > 0 per second, burn-in and model included"
    columns = ("method", "energies", "seconds", "burn-in (s)", "model (s)", "round trips", "all included")
    yield TextTable(title, columns, _costs(rows))
    parts = [
        (name, f"{part['evaluations']:.3g}", f"{part['seconds']:.0f}" + " (estimated)" * part["estimated"])
        for name, part in summary["model"].items()
    ]
    yield TextTable("The model", ("part", "energies", "seconds"), parts)
    times = [
        (
            one["method"],
            one["baseline"],
            one["indicator"],
            ("at most " if one["at_most"] else "") + duration(one["seconds"]),
        )
        for one in summary["break_even"]
    ]
    if times:
        title = "When a method with a flow, its model included, is ahead"
        yield TextTable(title, ("method", "of", "indicator", "after"), times)


def name_of(row: dict[str, Any]) -> str:
    """Return the short name of a row of the results; "(all)" stands for all candidates."""
    return row["method"] + (" (all)" if row["recycled"] else "")


def duration(seconds: float) -> str:
    """Return a time [s] as text."""
    if not math.isfinite(seconds):
        return "never" if seconds > 0 else "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _judged(row: dict[str, Any], name: str) -> tuple[str, ...]:
    status, number = row[f"{name}_status"], row[f"{name}_effective"]
    limit = "<= " if status == "bound" else ""
    known = status != "unknown"
    error = row[f"{name}_effective_stderr"]
    size = f"{limit}{number:.3g}" + (f" ± {error:.2g}" if math.isfinite(error) else "")
    return (
        name_of(row),
        with_error((row[f"{name}_value"], row[f"{name}_stderr"])),
        f"{row[f'{name}_z']:+.1f}" if known else "",
        size if known else "unknown",
        f"{limit}{row[f'{name}_per_second']:.3g}" if known else "",
        f"{limit}{1e6 * row[f'{name}_per_evaluation']:.3g}" if known else "",
        _count(row[f"{name}_crossings"]),
        _count(row[f"{name}_entries"]),
    )


def _costs(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            name_of(row),
            f"{row['evaluations']:.3g}",
            f"{row['seconds']:.1f}",
            f"{row['burn_in_seconds']:.1f}",
            f"{row['model_seconds']:.0f}",
            _count(row["round_trips"]),
            ("<= " if row["phi_status"] == "bound" else "") + f"{row['phi_per_second_included']:.3g}",
        )
        for row in rows
        if not row["recycled"]
    ]


def _count(number: float) -> str:
    return f"{number:.0f}" if math.isfinite(number) else ""
