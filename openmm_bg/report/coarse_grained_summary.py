"""What a saved coarse-grained model is, in words and numbers: for ``openmm-bg info``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.errors import ModelFileError
from openmm_bg.report.facts import Fact, model_topology, shortened
from openmm_bg.trajectories import convergence_statement

_NETWORKS = "networks.safetensors"
_MOST_BEADS = 12  # that are named
# The entry of the header, how the names of its trained numbers begin, and what it is; the rest was fitted to data.
_PARTS = (
    ("flow", ("flow.transform.", "flow.networks.", "flow.couplings."), "backmapping flow"),
    ("energy", ("energy.network.",), "bead energy"),
)


def summarize_coarse_grained(directory: Path, header: Mapping[str, Any]) -> dict[str, list[Fact]]:
    """Return facts of a model under headings, but for its provenance.

    Args:
        directory: The model's directory.
        header: Its header.
    """
    return {
        "coarse-grained map": _map(directory, header),
        "networks": _networks(directory, header),
        "training": _training(header["record"]),
    }


def _map(directory: Path, header: Mapping[str, Any]) -> list[Fact]:
    config, system = header["map"], header["system"]
    topology = model_topology(directory)
    noisy = config["kind"] == "NoisyMap"
    linear = config["centre"] if noisy else config
    weights = np.array(linear["weights"])
    n_beads, n_atoms = weights.shape
    names = [str(atom) for atom in topology.atoms]
    largest = [names[atom] for atom in weights.argmax(axis=1)[:_MOST_BEADS]]
    single = bool((weights.max(axis=1) == 1.0).all())
    coordinates = header["flow"]["coordinates"]
    matrix = coordinates["z_matrix"] if noisy else coordinates["matrix"]
    listed = ", ".join(largest) + (", ..." if n_beads > _MOST_BEADS else "")
    kind = "atoms" if single else "averages of atoms"
    fixed = (
        "no coordinate of the atoms" if noisy else f"{3 * n_beads} of {3 * n_atoms} coordinates of the atoms"
    )
    record = header["record"].get("map") or {}
    chosen = ", ".join(f"{name} {value}" for name, value in record.items() if _is_brief(value))
    facts = [
        Fact("molecule", system["name"], f"{n_atoms} atoms, {shortened('-'.join(_residues(topology)))}"),
        Fact("beads", str(n_beads), f"{kind}: {listed}" if single else f"{kind}, most weight on: {listed}"),
        Fact("kind", config["kind"], f"the beads fix {fixed}"),
        Fact("backmapped atoms", str(len(matrix["atoms"])), "placed by bonds, angles and torsions"),
        Fact("chosen by", chosen or "unknown", "how the map was asked for"),
    ]
    if pieces := record.get("pieces"):
        listed = ", ".join(str(number) for number in pieces)
        facts.append(Fact("pieces", listed, "into which each bead's atoms fall along bonds; all should be 1"))
    return facts


def _networks(directory: Path, header: Mapping[str, Any]) -> list[Fact]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / _NETWORKS, framework="numpy") as file:
            sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelFileError(f"{directory / _NETWORKS} cannot be read; copy it again.") from error
    facts = []
    for entry, prefixes, name in _PARTS:
        count = sum(size for key, size in sizes.items() if key.startswith(prefixes))
        settings = header[entry]["settings"].items()
        text = ", ".join(f"{key} {value}" for key, value in settings if _is_brief(value))
        if kind := header[entry].get("kind"):
            text = f"{kind}: {text}"
        facts.append(Fact(name, f"{count:,} parameters", text))
    temperature = header["energy"]["temperature"]
    return [*facts, Fact("temperature", f"{temperature:g} K", "the only one that it is for")]


def _training(record: Mapping[str, Any]) -> list[Fact]:
    training, settings, facts = record["training"], record["settings"], []
    if data := record.get("data"):
        parts = (f"{data['n_walkers']} walkers", str(data.get("command", "")))
        frames = f"{data['n_frames']:,} frames" if "n_frames" in data else "frames"
        facts.append(Fact("data", frames, ": ".join(part for part in parts if part)))
    if statement := convergence_statement(record.get("data") or {}):
        facts.append(Fact("convergence", record["data"]["start_comparison"]["verdict"], statement))
    names = ("batch_size", "learning_rate", "force_weight", "dispersion_weight")
    names += ("dispersion_range", "reverse_weight", "own_start", "even_fraction", "seed")
    text = ", ".join(f"{name} {settings[name]:g}" for name in names if name in settings)
    if settings.get("frozen_flow"):
        text += ", flow in rounds as it is"
    facts.append(Fact("steps", f"{training['n_steps']:,}", text))
    facts.append(Fact("energy evaluations", f"{training['n_energy_evaluations']:,}", "of atoms"))
    for one in record["rounds"]:
        of_data = one.get("data_effective_sample_size")
        meaning = f"of {one['n_samples']:,} samples" + (
            "" if of_data is None else f", {of_data:.1%} by the data"
        )
        meaning += (
            f"; Pareto k {float(one['pareto_k']):.2f}; largest deviation of "
            f"an average from the data {float(one['largest_deviation']):.1f} standard errors"
        )
        facts.append(Fact(f"ESS, round {one['round']}", f"{one['effective_sample_size']:.1%}", meaning))
    return facts


def _residues(topology: Any) -> list[str]:
    return [residue.name for residue in topology.residues]


def _is_brief(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
