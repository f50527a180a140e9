"""The benchmark: run the methods that have not run yet, judge all, and write tables and a figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json, atomic_write_text, provenance
from openmm_bg.reproduction.arrays import csv_text
from openmm_bg.sampling_benchmark.basins import INDICATORS, reference_populations
from openmm_bg.sampling_benchmark.figure import plot_effective_samples
from openmm_bg.sampling_benchmark.job import Job
from openmm_bg.sampling_benchmark.methods import METHODS
from openmm_bg.sampling_benchmark.model_cost import model_costs, seconds_per_evaluation, total_cost
from openmm_bg.sampling_benchmark.results import acceptance_rows, break_even_times, method_rows
from openmm_bg.sampling_benchmark.settings import TEMPERATURE, BenchmarkSettings
from openmm_bg.sampling_benchmark.trace import Cost, Trace
from openmm_bg.stages import Stages
from openmm_bg.threads import potential_threads

SYSTEM = "alanine_dipeptide"
"""What is sampled."""

_STEM = "sampling"


def run_benchmark(
    output: str | Path,
    model: str | Path,
    settings: BenchmarkSettings | None = None,
    methods: Iterable[str] | None = None,
    *,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Compare methods of sampling alanine dipeptide at 300 K, or go on where an earlier call was stopped.

    Every method begins at the same configuration. One that has run in this directory is not run again; the results
    are of all that have. The directory gets ``METHOD.npz`` and ``.json`` of each, and ``sampling.csv``, ``.json``,
    ``.png`` and ``.svg``.

    Args:
        output: The directory.
        model: The directory of a model of alanine dipeptide, trained and perhaps annealed.
        settings: The settings.
        methods: Names in `METHODS`; all if not given.
        progress: Show progress bars.
        say: Called with a line before each method.

    Returns:
        What ``sampling.json`` holds: "methods", "model", "reference", "break_even" and "rows".

    Raises:
        InputError: If a method or the model cannot be used, or the directory holds the results of other settings.
    """
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.model_files import model_hash
    from openmm_bg.systems import load

    settings, wanted = settings or BenchmarkSettings(), list(METHODS if methods is None else methods)
    if unknown := [name for name in wanted if name not in METHODS]:
        raise InputError(f"There is no method {unknown[0]!r}; the methods are: {', '.join(METHODS)}.")
    output, system = Path(output), load(SYSTEM)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; choose another output directory.")
    generator = BoltzmannGenerator.load(model)
    if generator.system_hash != system.system_hash:
        raise InputError(f"{model} is not a model of {SYSTEM}, which is what the methods sample.")
    model_costs(generator.record, 0.0)  # refuses a record without costs before anything runs
    identity = {**dataclasses.asdict(settings), "model": model_hash(model), "threads": potential_threads()}
    stages = Stages(output, identity, say)
    job = Job(system, generator.path, settings, output, progress)
    for name in METHODS:
        if name in wanted and Trace.load(output, name) is None:
            with stages.stage(name, METHODS[name].label):
                METHODS[name].run(job).save(output, name)
    costs = model_costs(generator.record, seconds_per_evaluation(system))
    return _conclude(output, settings, costs, stages)


def _conclude(
    output: Path, settings: BenchmarkSettings, costs: dict[str, dict[str, Any]], stages: Stages
) -> dict[str, Any]:
    """Judge all methods that have run, and write what was found."""
    known, source = reference_populations(SYSTEM, TEMPERATURE)
    rows = []
    for name, method in METHODS.items():
        if (trace := Trace.load(output, name)) is not None:
            before = total_cost(costs) if method.with_flow else Cost()
            rows += method_rows(name, trace, known, before)
    if not rows:
        raise InputError(f"No method has run in {output}; name at least one.")
    summary = {
        "methods": rows,
        "model": costs,
        "reference": {
            "source": source,
            **{i.name: {"state": i.label, **known[i.name].probability._asdict()} for i in INDICATORS},
        },
        "break_even": break_even_times(rows),
        "rows": acceptance_rows(rows, settings.seed),
        "record": provenance(seed=settings.seed, settings=stages.settings, seconds=stages.wall_seconds),
    }
    atomic_write_text(output / f"{_STEM}.csv", csv_text(rows))
    plot_effective_samples(rows, output / f"{_STEM}.png")
    atomic_write_json(output / f"{_STEM}.json", summary)
    return summary
