"""What a report says of a coarse-grained model: its map, its training, and the rounds that close the loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from openmm_bg.coarse_graining.free_energy_loss import DATA, OWN
from openmm_bg.model_files import read_any_header
from openmm_bg.models import COARSE_GRAINED
from openmm_bg.report import figures
from openmm_bg.report.model_summary import read_log, summarize_model
from openmm_bg.report.page import KeyFigure, Picture, Section, Table
from openmm_bg.report.records import is_finished
from openmm_bg.samples import UNRELIABLE_PARETO_K
from openmm_bg.statistics import Estimate, with_error
from openmm_bg.trajectories import convergence_statement

_COLUMNS = {"step", "likelihood", "held_out_likelihood", "force_error", "dispersion", "own_dispersion"}
_HEADINGS = ("coarse-grained map", "networks", "training")


def is_coarse_grained(model: Path) -> bool:
    """Tell whether a directory holds a coarse-grained model, or a training of one that is under way."""
    if is_finished(model):
        return read_any_header(model).get("kind") == COARSE_GRAINED
    return bool(rows := read_log(model)) and rows[0].keys() >= _COLUMNS


def coarse_grained_section(model: Path, name: str, ending: str) -> Section:
    """Return the section about a model.

    Args:
        model: Its directory.
        name: What it is called.
        ending: What its heading ends with.
    """
    section = Section("Coarse-grained model" + ending)
    command = ""
    if is_finished(model):
        facts = summarize_model(model)
        command = next(fact.value for fact in facts["provenance"] if fact.name == "command")
        section.tables = [
            Table(f"The model: {heading}", ("figure", "value", "meaning"), facts[heading])
            for heading in _HEADINGS
        ]
        if rounds := (record := read_any_header(model)["record"])["rounds"]:
            section.tables += _round_tables(rounds, record["kept_round"])
    else:
        section.warnings.append(f"The training in {name} is not finished: the same command continues it.")
    if log := read_log(model):
        section.text = (
            "The beads' potential and the flow that puts the atoms back are trained together on the data, and "
            + ("the potential alone" if math.isfinite(_last(log, DATA)) else "again")
            + " in rounds on beads of the potential itself. Figures of batches scatter."
        )
        if is_finished(model) and (statement := convergence_statement(record.get("data") or {})):
            section.text += f" The data: {statement}."
        section.pictures = _pictures(log, command)
    return section


def coarse_grained_figure(model: Path) -> KeyFigure | None:
    """Return the number that a report starts with: what the draws of the best round were worth, or None."""
    record = read_any_header(model)["record"] if is_finished(model) else {}
    if not record.get("rounds"):
        return None
    last = record["rounds"][record["kept_round"]]
    return KeyFigure(
        "ESS after training",
        f"{last['effective_sample_size']:.1%}",
        f"of {last['n_samples']:,} draws{_of_tries(last)}; Pareto k {float(last['pareto_k']):.2f}",
        warns=float(last["pareto_k"]) > UNRELIABLE_PARETO_K,
    )


def _of_tries(one: dict[str, Any]) -> str:
    """Say of how many tries the samples of a round are, if of several."""
    return f" of {one['n_tries']} tries" if one.get("n_tries", 1) > 1 else ""


def _round_tables(rounds: list[dict[str, Any]], kept: int) -> list[Table]:
    lines = [
        (
            str(one["round"]),
            f"{one['step']:,}",
            f"{one['n_samples']:,}",
            f"{one['effective_sample_size']:.2%}",
            f"{one['data_effective_sample_size']:.2%}" if "data_effective_sample_size" in one else "–",
            f"{float(one['pareto_k']):.2f}",
            f"{float(one.get('log_weight_range', math.nan)):.3g}",
            f"{float(one['bead_acceptance']):.1%}",
            f"{float(one.get('hot_dispersion', math.nan)):.3g}",
            f"{float(one['largest_deviation']):.1f}",
        )
        for one in rounds
    ]
    header = ("round", "after step", "draws", "ESS", "ESS by the data", "Pareto k")
    header += ("middle half of ln(weight)", "hybrid Monte Carlo accepted")
    header += ("dispersion at higher temperatures", "largest deviation (standard errors)")
    return [
        Table(
            f"Rounds: beads sampled, backmapped{_of_tries(rounds[kept])}, weighted; round {kept} is kept",
            header,
            lines,
        ),
        _observables(rounds[kept]["table"], kept),
    ]


def _observables(table: list[dict[str, Any]], kept: int) -> Table:
    """Return the table of observables of the kept round, those that deviate most first."""

    def deviation(line: dict[str, Any], kind: str) -> float:
        error = math.hypot(line[f"{kind}_stderr"], line["reference_stderr"])
        return (line[kind] - line["reference"]) / error if error > 0 else 0.0

    ordered = sorted(table, key=lambda line: -abs(deviation(line, "weighted")))
    rows = []
    for line in ordered:
        unit = f" ({line['unit']}{'²' if line['moment'] == 2 else ''})" if line["unit"] else ""
        cells = [
            with_error(Estimate(line[kind], line[f"{kind}_stderr"]))
            for kind in ("weighted", "unweighted", "reference")
        ]
        shifts = [f"{deviation(line, kind):+.1f}" for kind in ("weighted", "unweighted")]
        name = f"mean square of {line['name']}" if line["moment"] == 2 else line["name"]
        rows.append((name + unit, *cells, *shifts))
    caption = (
        f"Observables of round {kept} against the data, those that deviate most first; deviations in combined "
        "standard errors"
    )
    header = ("average of", "weighted", "without weights", "data", "deviation", "without weights")
    return Table(caption, header, rows)


def _pictures(log: list[dict[str, float]], command: str) -> list[Picture]:
    curves: list[tuple[str, dict[str, str], str, bool, str]] = [
        (
            "Negative log-likelihood of the atoms",
            {"likelihood": "training batches", "held_out_likelihood": "held-out frames"},
            "nats",
            False,
            f"Held out: {log[-1]['held_out_likelihood']:.4g} at the end.",
        ),
        (
            "Dispersion of the weights",
            {"dispersion": "of the data's batches", "own_dispersion": "of the flow's own draws"},
            "dispersion of ln(weight)",
            True,
            "Zero if and only if all weights are equal. On the data alone it could be learned by heart; "
            + (
                "draws of the flow itself did not count."
                if math.isnan(own := _last(log, "own_dispersion"))
                else f"that of own draws is {own:.3g} at the end."
            ),
        ),
        (
            "Forces on the beads",
            {"force_error": "training batches"},
            "mean square error / mean square",
            False,
            "Projected forces scatter about their mean, so that even the exact potential of mean force leaves a "
            f"rest; {log[-1]['force_error']:.3g} at the end.",
        ),
        (
            "Free energies of the atoms around given beads",
            {DATA: "beads of the data", OWN: "beads that the potential has drawn"},
            "dispersion of the difference (kT²)",
            True,
            "In rounds, in which the flow stays as it is. Estimates scatter, so that even the exact potential "
            f"leaves a rest; {_last(log, OWN):.3g} of the potential's own beads at the end.",
        ),
    ]
    drawn = []
    for title, columns, label, logarithmic, caption in curves:
        there = {name: text for name, text in columns.items() if not math.isnan(_last(log, name))}
        if there:
            figure = figures.plot_training(log, there, label, logarithmic=logarithmic)
            drawn.append(Picture(title, figure, caption, command))
    return drawn


def _last(log: list[dict[str, float]], name: str) -> float:
    """Return the last number in a column that is one; NaN if there is none."""
    return next((row[name] for row in reversed(log) if not math.isnan(row.get(name, math.nan))), math.nan)
