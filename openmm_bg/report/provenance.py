"""The sections of a report on models, their training, the cost, and how everything was made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.report import figures
from openmm_bg.report.model_summary import best_validation, summarize_model, training_log
from openmm_bg.report.page import Picture, Section, Table

if TYPE_CHECKING:
    from openmm_bg.report.contents import Contents

_LONG = {"bonds", "torsions", "log", "data"}  # entries of records that say nothing to a reader


def training_sections(contents: Contents) -> list[Section]:
    """A section for each model, finished or under way: training curves, and what it is."""
    return [_training_section(model, len(contents.models) > 1) for model in contents.models]


def _training_section(model: Path, named: bool) -> Section:
    section = Section("Training" + (f" of {model.name}" if named else ""))
    log = training_log(model)
    finished = (model / "model.json").is_file()
    command = ""
    if finished:
        facts = summarize_model(model)
        command = next(fact.value for fact in facts["provenance"] if fact.name == "command")
        for heading in ("flow", "molecule", "training"):
            if heading in facts:
                section.tables.append(
                    Table(f"The model: {heading}", ("figure", "value", "meaning"), facts[heading])
                )
    else:
        section.warnings.append(
            f"The training in {model.name} is not finished: the same command continues it."
        )
    if log:
        section.text = _training_text(log)
        section.pictures = _training_pictures(log, command)
    return section


def _training_text(log: list[dict[str, float]]) -> str:
    best, last = best_validation(log), log[-1]
    return (
        f"{last['step']:,.0f} steps, {last['seconds'] / 60:.1f} minutes and {last['energy_evaluations']:,.0f} "
        f"energy evaluations. The model of step {best['step']:,.0f} is kept, with the lowest sum of both KL "
        "divergences. "
        "The log has no errors; the scatter of neighbouring points shows them."
    )


def _training_pictures(log: list[dict[str, float]], command: str) -> list[Picture]:
    best = best_validation(log)
    scatter = _scatter([row["ess"] for row in log])
    curves: list[tuple[str, dict[str, str], str, bool, str]] = [
        (
            "Effective sample size",
            {"ess": "samples of a validation", "batch_ess": "batches of the training"},
            "ESS (fraction)",
            False,
            f"{best['ess']:.3f} ± {scatter:.3f} at the best step (scatter of the last validations).",
        ),
        (
            "Negative log-likelihood",
            {"loss_ml": "training frames", "held_out_nll": "held-out frames"},
            "nats",
            False,
            f"Held out: {best['held_out_nll']:.3f} ± {_scatter([row['held_out_nll'] for row in log]):.3f}.",
        ),
        (
            "Reverse KL divergence",
            {"kl": "samples of a validation"},
            "KL(q‖p) + constant (nats)",
            False,
            f"{best['kl']:.3f} ± {_scatter([row['kl'] for row in log]):.3f} at the best step.",
        ),
        (
            "Dispersion of the data's energies",
            {"loss_dispersion": "training frames"},
            "Var(ln q + u)",
            True,
            f"{best['loss_dispersion']:.3g} ± {_scatter([row['loss_dispersion'] for row in log]):.2g} at the best "
            "step; zero where the flow is exact.",
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


def _scatter(values: list[float], n: int = 6) -> float:
    """Return the scatter of the last values about their own trend: the width of successive differences."""
    steps = np.diff(np.array(values[-n:], dtype=np.float64))
    return float(np.sqrt(np.mean(steps**2) / 2)) if len(steps) else np.nan


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
        "Provenance", "Every figure on this page comes from these files, named from the page's folder."
    )
    rows: list[tuple[str, ...]] = []
    versions: set[str] = set()
    for model in contents.models:
        if not (model / "model.json").is_file():
            continue
        facts = {fact.name: fact for fact in summarize_model(model)["provenance"]}
        seed = facts["command"].meaning.removeprefix("seed ")
        name = os.path.relpath(model, folder)
        rows.append((name, facts["command"].value, seed, _date(facts["date"].value)))
        section.listings.append(
            (f"{name}: hashes", "\n".join(f"{fact.name}: {fact.value}" for fact in facts.values()))
        )
    for one in contents.sets:
        record = one.record
        name = os.path.relpath(one.path, folder) if one.path else f"{one.label} (in the package)"
        if any(name == row[0] for row in rows):
            continue
        rows.append((name, one.command, str(record.get("seed", "–")), _date(record.get("date", "–"))))
        versions |= {_versions(record)} if "versions" in record else set()
        section.listings.append((f"{name}: record", _readable(record)))
    if contents.summary:
        record = contents.summary.get("record", {})
        versions |= {_versions(record)} if "versions" in record else set()
        section.listings.append(("summary.json", _readable(contents.summary)))
    if rows:
        section.tables.append(Table("Files and commands", ("file", "command", "seed", "date"), rows))
    if versions:
        table = [
            (f"set {k}" if len(versions) > 1 else "all", text) for k, text in enumerate(sorted(versions), 1)
        ]
        section.tables.append(Table("Versions", ("of", "packages"), table))
    return section


def _date(text: str) -> str:
    return str(text).replace("+00:00", " UTC").replace("T", " ", 1)


def _versions(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def _readable(record: dict[str, Any]) -> str:
    shown = {name: value for name, value in record.items() if name not in _LONG}
    return json.dumps(shown, indent=2, default=str, ensure_ascii=False)
