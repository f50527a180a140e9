"""The sections of a report on models, their training, the cost, and how everything was made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.report import figures
from openmm_bg.report.coarse_grained_section import coarse_grained_section, is_coarse_grained
from openmm_bg.report.model_summary import best_validation, summarize_model, training_log
from openmm_bg.report.page import Picture, Section, Table
from openmm_bg.report.records import is_finished
from openmm_bg.statistics import with_error

if TYPE_CHECKING:
    from openmm_bg.report.contents import Contents

_LONG = {"bonds", "torsions", "log", "data", "rounds"}  # entries of records that say nothing to a reader


def training_sections(contents: Contents) -> list[Section]:
    """A section for each model, finished or under way: training curves, and what it is."""
    named = len(contents.models) > 1
    return [
        (coarse_grained_section if is_coarse_grained(model) else _training_section)(
            model, name, f" of {name}" if named else ""
        )
        for model, name in zip(contents.models, contents.model_names, strict=True)
    ]


def _training_section(model: Path, name: str, ending: str) -> Section:
    section = Section("Training" + ending)
    log = training_log(model)
    command = ""
    if is_finished(model):
        facts = summarize_model(model)
        command = next(fact.value for fact in facts["provenance"] if fact.name == "command")
        for heading in ("flow", "molecule", "training", "annealing"):
            if heading in facts:
                section.tables.append(
                    Table(f"The model: {heading}", ("figure", "value", "meaning"), facts[heading])
                )
    else:
        section.warnings.append(f"The training in {name} is not finished: the same command continues it.")
    if log:
        section.text = _training_text(log)
        section.pictures = _training_pictures(log, command)
    return section


def _training_text(log: list[dict[str, float]]) -> str:
    best, last = best_validation(log), log[-1]
    return (
        f"{last['step']:,.0f} steps, {last['seconds'] / 60:.1f} minutes and {last['energy_evaluations']:,.0f} "
        f"energy evaluations. The model of step {best['step']:,.0f} is kept, with the lowest sum of both KL "
        "divergences. The log has no standard errors: ± is the scatter of the last validations about a smooth "
        "curve."
    )


def _training_pictures(log: list[dict[str, float]], command: str) -> list[Picture]:
    curves: list[tuple[str, dict[str, str], str, bool, str]] = [
        (
            "Effective sample size",
            {"ess": "samples of a validation", "batch_ess": "batches of the training"},
            "ESS (fraction)",
            False,
            f"{_with_scatter(log, 'ess')} of the model kept.",
        ),
        (
            "Negative log-likelihood",
            {"loss_ml": "training frames", "held_out_nll": "held-out frames"},
            "nats",
            False,
            f"Held out: {_with_scatter(log, 'held_out_nll')} of the model kept.",
        ),
        (
            "Reverse KL divergence",
            {"kl": "samples of a validation"},
            "KL(q‖p) + constant (nats)",
            False,
            f"{_with_scatter(log, 'kl')} of the model kept.",
        ),
        (
            "Dispersion of the data's energies",
            {"loss_dispersion": "training frames"},
            "Var(ln q + u)",
            True,
            f"{_with_scatter(log, 'loss_dispersion')} of the model kept; zero where the flow is exact.",
        ),
    ]
    return [
        Picture(
            title,
            figures.plot_training(log, columns, label, logarithmic=logarithmic),
            caption,
            command,
        )
        for title, columns, label, logarithmic, caption in curves
        if any(np.isfinite(row.get(name, np.nan)) for row in log for name in columns)
    ]


def _with_scatter(log: list[dict[str, float]], name: str) -> str:
    """Return a figure of the model that is kept, with its scatter if there are enough validations to see it."""
    value, scatter = best_validation(log)[name], _scatter([row[name] for row in log])
    return f"{value:.4g}" if scatter is None else with_error((value, scatter))


def _scatter(values: list[float], n: int = 6) -> float | None:
    """Return the scatter of the last values about a curve that bends little; None of fewer than four.

    Second differences of independent errors have six times their variance.
    """
    last = np.array([value for value in values[-n:] if np.isfinite(value)])
    if len(last) < 4:
        return None
    return float(np.sqrt(np.mean(np.diff(last, 2) ** 2) / 6))


def cost_section(contents: Contents) -> Section:
    """What the stages of a main job cost."""
    section = Section("Cost")
    seconds = contents.summary.get("wall_seconds", {})
    evaluations = contents.summary.get("n_energy_evaluations_by_stage", {})
    if evaluations:
        rows = [(stage, f"{count:,}") for stage, count in evaluations.items()]
        rows.append(("all", f"{sum(evaluations.values()):,}"))
        section.tables.append(Table("Energy evaluations", ("stage", "evaluations"), rows))
    if seconds:
        rows = [(stage, f"{value:,.1f}") for stage, value in seconds.items()]
        rows.append(("all", f"{sum(seconds.values()):,.1f}"))
        section.tables.append(Table("Wall time", ("stage", "seconds"), rows))
    return section


def provenance_section(contents: Contents, folder: Path) -> Section:
    """Which files the page is about, by which commands, seeds and versions they were made.

    Args:
        contents: What they hold.
        folder: The page's folder, from which the files are named.
    """
    section = Section(
        "Provenance",
        "Every figure on this page comes from these files, named from the page's folder. A command that ends in "
        "“# reconstructed” was not recorded, but put together from recorded settings.",
    )
    rows: list[tuple[str, ...]] = []
    versions: dict[str, list[str]] = {}
    for source in contents.sources:
        name = source.name if source.path is None else os.path.relpath(source.path, folder)
        record = source.record
        rows.append(
            (name, source.command or "–", str(record.get("seed", "–")), _date(record.get("date", "–")))
        )
        if isinstance(record.get("versions"), dict):
            versions.setdefault(_versions(record), []).append(name)
        if source.path in contents.models and is_finished(source.path):
            facts = summarize_model(source.path)["provenance"]
            listing = "\n".join(f"{fact.name}: {fact.value}" for fact in facts)
            section.listings.append((f"{name}: hashes", listing))
        elif record:
            section.listings.append((f"{name}: record", _readable(record)))
    section.tables.append(Table("Files and commands", ("file", "command", "seed", "date"), rows))
    if versions:
        table = [("; ".join(names), text) for text, names in versions.items()]
        section.tables.append(Table("Versions", ("of", "packages"), table))
    return section


def _date(text: object) -> str:
    return str(text).replace("+00:00", " UTC").replace("T", " ", 1)


def _versions(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def _readable(record: dict[str, Any]) -> str:
    shown = {name: value for name, value in record.items() if name not in _LONG}
    return json.dumps(shown, indent=2, default=str, ensure_ascii=False)
