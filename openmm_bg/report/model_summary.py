"""What a saved model is, in words and numbers: for ``openmm-bg info`` and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.model_files import check_files, energy_evaluations, model_hash, read_any_header
from openmm_bg.models import COARSE_GRAINED, find_model
from openmm_bg.report.coarse_grained_summary import summarize_coarse_grained
from openmm_bg.report.facts import Fact, model_topology, shortened

_LOG = "log.csv"
_MOST_TORSIONS = 12  # that are named; one page is enough
_VALIDATION_SAMPLES = "validation_samples"
_COLUMNS = {"step", "seconds", "energy_evaluations", "loss_dispersion", "held_out_nll", "kl", "ess"}


def summarize_model(directory: str | Path) -> dict[str, list[Fact]]:
    """Return what a model is, without computing anything with it.

    Args:
        directory: The model's directory.

    Returns:
        Facts under the headings "flow", "molecule", "training" if it was trained by `openmm_bg.training`,
        "annealing" if it was annealed, and "provenance"; of a coarse-grained model "coarse-grained map",
        "networks", "training" and "provenance".

    Raises:
        ModelFileError: If a file is missing, truncated or was changed.
    """
    directory = find_model(directory)
    header = read_any_header(directory)
    check_files(directory, header)
    try:
        if header.get("kind") == COARSE_GRAINED:
            groups = summarize_coarse_grained(directory, header)
            return groups | {"provenance": _provenance(directory, header)}
        groups = {"flow": _flow(directory, header), "molecule": _molecule(directory, header)}
        if "training" in header["record"]:
            groups["training"] = _training(header["record"])
        if "annealing" in header["record"]:
            groups["annealing"] = _annealing(header["record"])
        groups["provenance"] = _provenance(directory, header)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelFileError(
            f"The header of the model in {directory} is not as this version writes it ({error!r})."
        ) from error
    return groups


def training_log(model: str | Path) -> list[dict[str, float]]:
    """Return the rows of the log of a generator's training, finished or under way.

    Raises:
        InputError: If it cannot be read.
    """
    rows = read_log(model)
    if rows and not rows[0].keys() >= _COLUMNS:
        raise InputError(f"{Path(model) / _LOG} is not the log of a training.")
    return rows


def read_log(model: str | Path) -> list[dict[str, float]]:
    """Return the rows of the log of any training.

    Raises:
        InputError: If it cannot be read.
    """
    path = Path(model) / _LOG
    try:
        lines = [line.split(",") for line in path.read_text().splitlines()]
        if lines and "step" not in lines[0]:
            raise ValueError("Columns are missing.")
        return [dict(zip(lines[0], map(float, row), strict=True)) for row in lines[1:]] if lines else []
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise InputError(f"{path} is not the log of a training.") from error


def best_validation(log: list[dict[str, Any]]) -> dict[str, float]:
    """Return the row of the validation whose model is kept: that with the lowest sum of both KL divergences."""
    rows = [{name: float(value) for name, value in row.items()} for row in log]
    finite = [row for row in rows if math.isfinite(row["held_out_nll"] + row["kl"])] or rows
    return min(finite, key=lambda row: row["held_out_nll"] + row["kl"])


def count_parameters(directory: Path) -> int:
    """Return the number of parameters in a model's flow."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / "flow.safetensors", framework="numpy") as file:
            # What is under "coordinates" was fitted to data, not trained.
            names = [name for name in file.keys() if not name.startswith("coordinates.")]  # noqa: SIM118
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ModelFileError(f"{directory / 'flow.safetensors'} cannot be read; copy it again.") from error


def _flow(directory: Path, header: Mapping[str, Any]) -> list[Fact]:
    flow = header["flow"]
    low, high = header["temperature_range"]
    settings = ", ".join(f"{name} {value}" for name, value in flow["settings"].items() if value is not None)
    return [
        Fact("kind", flow["kind"], settings),
        Fact("parameters", f"{count_parameters(directory):,}", "trained numbers"),
        Fact("training temperature", f"{flow['temperature']:g} K", "the flow's own"),
        Fact("temperatures", f"{low:g} to {high:g} K", "what it is meant for; it warns outside"),
    ]


def _molecule(directory: Path, header: Mapping[str, Any]) -> list[Fact]:
    system, coordinates = header["system"], header["flow"]["coordinates"]
    facts = []
    names: Callable[[int], str] = str
    if system is not None:
        topology = model_topology(directory)
        residues = [residue.name for residue in topology.residues]
        facts.append(Fact("molecule", system["name"], shortened("-".join(residues))))
        facts.append(Fact("atoms", str(topology.n_atoms), f"{len(system['bonds'])} bonds"))
        names = [str(atom) for atom in topology.atoms].__getitem__
    if "z_matrix" in coordinates:
        facts += _z_matrix(coordinates["z_matrix"], header["flow"]["circular"], system, names)
    else:
        facts.append(Fact("coordinates", coordinates["kind"], "of the flow"))
    return facts


def _z_matrix(
    z_matrix: Mapping[str, Any],
    circular: list[int],
    system: Mapping[str, Any] | None,
    names: Callable[[int], str],
) -> list[Fact]:
    n = len(z_matrix["atoms"])
    seed = ", ".join(names(atom) for atom in z_matrix["atoms"][:3])
    siblings = int((np.array(z_matrix["sibling"]) >= 0).sum())
    known = {}
    for name, (_, b, c, _) in (system["torsions"] if system else {}).items():
        known[frozenset((b, c))] = name
    labels = []
    for feature in circular:
        row = feature - (2 * n - 3) + 3
        axis = z_matrix["bond"][row], z_matrix["angle"][row]
        name = known.get(frozenset(axis))
        bond = f"{names(axis[1])}–{names(axis[0])}"
        labels.append(f"{name} ({bond})" if name else bond)
    listed = ", ".join(labels[:_MOST_TORSIONS]) + (", ..." if len(labels) > _MOST_TORSIONS else "")
    return [
        Fact("Z-matrix", f"{n} atoms", f"{n - 1} bonds, {n - 2} angles, {n - 3} torsions; starts at {seed}"),
        Fact("relative torsions", str(siblings), "measured from a sibling's, as in methyl groups"),
        Fact(
            "circular torsions",
            str(len(circular)),
            f"turn freely, about: {listed}" if labels else "none turns",
        ),
    ]


def _training(record: Mapping[str, Any]) -> list[Fact]:
    training, settings = record["training"], record["settings"]
    facts = []
    if data := record.get("data"):
        meaning = f"of {data['n_walkers']} walkers at {data['temperature']:g} K: {data.get('command', '')}"
        facts.append(Fact("data", f"{data['n_frames']:,} frames", meaning))
    names = ("batch_size", "learning_rate", "kl_weight", "dispersion_weight", "averaging", "seed")
    text = ", ".join(f"{name} {settings[name]:g}" for name in names if name in settings)
    facts.append(Fact("steps", f"{settings['n_steps']:,}", text))
    facts.append(Fact("time", f"{training['seconds'] / 60:.1f} min", "of the steps, without validations"))
    evaluations = training["n_energy_evaluations"]
    facts.append(Fact("energy evaluations", f"{evaluations:,}", training.get("energies_from", "")))
    if training["log"]:
        best = best_validation(training["log"])
        meaning = f"of {settings[_VALIDATION_SAMPLES]:,} samples at step {best['step']:g}, which was kept"
        facts.append(Fact("validation ESS", f"{best['ess']:.1%}", meaning))
        facts.append(
            Fact("held-out NLL", f"{best['held_out_nll']:.2f}", "of frames that were not trained on, in nats")
        )
    return facts


def _annealing(whole: Mapping[str, Any]) -> list[Fact]:
    record = whole["annealing"]
    settings = record["settings"]
    best = next(row for row in record["log"] if row["step"] == record["best_step"])
    names = ("batch_size", "learning_rate", "averaging", "seed")
    text = ", ".join(f"{name} {settings[name]:g}" for name in names)
    rungs = ", ".join(f"{rung['temperature']:.4g} K" for rung in record["rungs"])
    meaning = f"of {settings[_VALIDATION_SAMPLES]:,} samples at step {best['step']:g}, which was kept"
    return [
        Fact("rungs", rungs, "temperatures taken in, one after the other"),
        Fact("steps", f"{settings['n_steps']:,}", text),
        Fact("time", f"{record['seconds'] / 60:.1f} min", "validations included"),
        Fact("energy evaluations", f"{record['n_energy_evaluations']:,}", record["energies_from"]),
        Fact(f"validation ESS at {best['lowest']:g} K", f"{best['ess']:.1%}", meaning),
        Fact("Pareto k", f"{best['pareto_k']:.2f}", "of these samples; below 0.5 weights have a variance"),
        Fact("covered", f"{best['covered']:.1%}", "of earlier samples of the target kept a fair density"),
        Fact("command", str(record.get("command", "unknown")), f"{record.get('date', '')}"),
        *_earlier(record.get("before")),
        _all_evaluations(whole),
    ]


def _earlier(record: Mapping[str, Any] | None) -> list[Fact]:
    """Return a fact about each annealing before the last one, the latest first."""
    facts = []
    while record:
        cost = f"{record['seconds'] / 60:.1f} min, {record['n_energy_evaluations']:,} energy evaluations"
        facts.append(Fact("annealed before", cost, str(record.get("command", "unknown"))))
        record = record.get("before")
    return facts


def _all_evaluations(record: Mapping[str, Any]) -> Fact:
    counts = energy_evaluations(record)
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return Fact("energy evaluations in all", f"{sum(counts.values()):,}", listed)


def _provenance(directory: Path, header: Mapping[str, Any]) -> list[Fact]:
    record = header["record"]
    versions = record.get("versions", {})
    facts = [
        Fact("command", str(record.get("command", "unknown")), f"seed {record.get('seed')}"),
        Fact("date", str(record.get("date", "unknown")), f"format {header['format']}"),
        Fact("model hash", model_hash(directory), "SHA-256 of model.json, which holds its files' hashes"),
        Fact("system hash", str(header["system_hash"]), "SHA-256 of the energy function"),
        Fact("files", f"{len(header['sha256'])} intact", ", ".join(sorted(header["sha256"]))),
    ]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [*facts, Fact("versions", f"openmm-bg {header['version']}", listed)]
