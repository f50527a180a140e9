"""Writing a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openmm_bg import statistics
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_text
from openmm_bg.report import provenance, sections
from openmm_bg.report.coarse_grained_section import coarse_grained_figure, is_coarse_grained
from openmm_bg.report.contents import Contents
from openmm_bg.report.figures import acceptance_errors
from openmm_bg.report.gather import gather
from openmm_bg.report.model_summary import best_validation, training_log
from openmm_bg.report.page import KeyFigure, render
from openmm_bg.samples import UNRELIABLE_PARETO_K


def write_report(
    paths: Iterable[str | Path],
    output: str | Path | None = None,
    *,
    title: str | None = None,
    topology: str | Path | None = None,
) -> Path:
    """Write one HTML page about a run: it opens offline, and no other file belongs to it.

    Args:
        paths: Directories of a main job, of a model or of a simulation, or others that hold such; samples, replica
            exchange runs and trajectories of the same molecule.
        output: The page to write; ``report.html`` in the first directory, or beside the first file, if not given.
        title: Its heading.
        topology: A file with the topology, for formats without one.

    Returns:
        The page's path.

    Raises:
        InputError: If there is nothing to report, a file cannot be read, or the molecules differ.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise InputError("Give at least one directory or file to report on.")
    first = paths[0] if paths[0].is_dir() else paths[0].parent
    output = Path(output) if output is not None else first / "report.html"
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"A report is written to a file that ends in .html, not {output.name!r}.")
    contents = gather(paths, topology)
    page = render(
        title or f"openmm_bg: {contents.title}",
        _subtitle(contents),
        key_figures(contents),
        _warnings(contents),
        [
            sections.comparison_section(contents),
            *sections.ramachandran_sections(contents),
            sections.energy_section(contents),
            sections.weight_section(contents),
            *sections.exchange_sections(contents),
            *provenance.training_sections(contents),
            provenance.cost_section(contents),
            provenance.provenance_section(contents, output.parent),
        ],
    )
    atomic_write_text(output, page)
    return output


def key_figures(contents: Contents) -> list[KeyFigure]:
    """Return the numbers that a report starts with."""
    found = []
    samples = [one for one in contents.sets if one.kind == "samples"]
    for one in samples:
        ess = statistics.effective_sample_size_estimate(one.all_log_weights)
        pareto_k = statistics.pareto_k(one.all_log_weights)
        meaning = f"± {100 * ess.stderr:.1g} % of {one.n_draws:,} draws; Pareto k {pareto_k:.2f}"
        found.append(
            KeyFigure(
                f"ESS at {one.temperature:g} K",
                f"{ess.value:.1%}",
                _named(meaning, one.label, samples),
                warns=pareto_k > UNRELIABLE_PARETO_K,
            )
        )
    for exchange in contents.exchanges:
        run = exchange.run
        if run.n_iterations:
            if run.flow_proposed[0]:
                name, value = f"acceptance at {run.temperatures[0]:g} K", run.flow_acceptance[0]
                error, of = acceptance_errors(run)[0], f"{run.flow_proposed[0]:,.0f} proposals"
            else:  # no moves by the flow
                name, value = f"exchanges accepted at {run.temperatures[0]:g} K", run.exchange_acceptance[0]
                error, of = run.exchange_acceptance_stderr[0], "the attempts with the next temperature"
            meaning = f"of {of}; standard error at least {100 * error:.1g} %"
            found.append(KeyFigure(name, f"{value:.1%}", _named(meaning, exchange.name, contents.exchanges)))
            meaning = f"in {sections.count(run.n_iterations, 'iteration')}"
            found.append(
                KeyFigure(
                    "round trips",
                    f"{run.round_trips}",
                    _named(meaning, exchange.name, contents.exchanges),
                )
            )
    for model, name in zip(contents.models, contents.model_names, strict=True):
        if is_coarse_grained(model):
            if one := coarse_grained_figure(model):
                found.append(replace(one, meaning=_named(one.meaning, name, contents.models)))
        elif log := training_log(model):
            meaning = f"ESS {best_validation(log)['ess']:.1%} of the model kept"
            minutes = f"{log[-1]['seconds'] / 60:.1f} min"
            found.append(KeyFigure("training", minutes, _named(meaning, name, contents.models)))
    return [*found, *_totals(contents)]


def _named(meaning: str, name: str, all_of_them: Sequence[Any]) -> str:
    """Say of which file a figure is, if there are several."""
    return f"{name}: {meaning}" if len(all_of_them) > 1 else meaning


def _warnings(contents: Contents) -> list[str]:
    functions = contents.energy_functions
    if len(functions) < 2:
        return []
    listed = ". ".join(f"Of {own[:8]}: {'; '.join(dict.fromkeys(names))}" for own, names in functions.items())
    return [
        f"What is on this page is of {len(functions)} different energy functions (force fields), and agrees only "
        f"as far as those do. {listed}."
    ]


def _totals(contents: Contents) -> list[KeyFigure]:
    found = []
    compared = [
        (name, one)
        for table in sections.comparison_tables(contents).values()
        for name, row in table.items()
        for one in row.values()
        if "z" in one
    ]
    agreements = [one["agrees"] for name, one in compared if not sections.says_nothing(name, one)]
    n_left_out = len(compared) - len(agreements)
    if agreements:
        found.append(
            KeyFigure(
                "agreement",
                f"{sum(agreements)} of {len(agreements)}",
                f"figures within {sections.AGREEMENT} standard errors of the reference"
                + (f"; {n_left_out} of states never seen left out" if n_left_out else ""),
                warns=not all(agreements),
            )
        )
    if evaluations := contents.summary.get("n_energy_evaluations"):
        found.append(KeyFigure("energy evaluations", f"{evaluations / 1e6:.1f} M", "millions, in all stages"))
    if seconds := contents.summary.get("wall_seconds_total"):
        found.append(KeyFigure("wall time", f"{seconds / 60:.1f} min", "all stages"))
    return found


def _subtitle(contents: Contents) -> str:
    names = dict.fromkeys(
        str(one.record["name"]) for one in contents.sets if one.kind == "simulation" and "name" in one.record
    )
    temperatures = " and ".join(f"{t:g} K" for t in contents.temperatures)
    return ", ".join([*names, *([temperatures] if temperatures else [])]) or "A model"
