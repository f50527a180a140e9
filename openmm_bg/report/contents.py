"""What a run's files hold, reduced to what a report shows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.analysis import Ramachandran, torsion_angles, torsion_pairs
from openmm_bg.errors import InputError
from openmm_bg.generator import model_hash
from openmm_bg.report.commands import exchange_command, sample_command

if TYPE_CHECKING:
    from openmm_bg.exchange import ExchangeRecord
    from openmm_bg.trajectories import Frames

_KINDS = ("samples", "exchange", "simulation", "reference")
_SAME_TEMPERATURE = 0.5  # [K]
_TRAJECTORIES = (".dcd", ".xtc", ".trr", ".pdb")


@dataclass(frozen=True, eq=False)
class ConfigurationSet:
    """Configurations at one temperature, reduced to torsions and energies.

    Attributes:
        kind: "samples", "exchange", "simulation" or "reference".
        label: What they are, for plots and tables; different for each set of a report.
        path: The file they come from; None for the package's reference.
        temperature: Their temperature [K], or None if the file does not tell.
        n_atoms: The number of atoms.
        ramachandran: Backbone torsions by residue.
        energies: Potential energies [kJ/mol] with shape=(n,), if known.
        log_weights: Log-weights with shape=(n,) of samples, None of a chain.
        n_walkers: Walkers of a chain, interleaved.
        command: The command that made them.
        record: What is recorded about them.
        n_draws: The number of draws of samples, those outside the domain included; of others that of frames.
    """

    kind: str
    label: str
    path: Path | None
    temperature: float | None
    n_atoms: int
    ramachandran: dict[str, Ramachandran]
    energies: np.ndarray | None
    log_weights: np.ndarray | None = None
    n_walkers: int = 1
    command: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    n_draws: int = 0

    @property
    def all_log_weights(self) -> np.ndarray:
        """Log-weights of all draws, -inf for those outside the domain, with shape=(n_draws,)."""
        inside = np.zeros(self.n_draws) if self.log_weights is None else self.log_weights
        return np.concatenate([inside, np.full(self.n_draws - len(inside), -np.inf)])

    def is_at(self, temperature: float) -> bool:
        """Tell whether it is of a temperature [K]."""
        return self.temperature is not None and abs(self.temperature - temperature) < _SAME_TEMPERATURE


@dataclass(frozen=True, eq=False)
class ExchangeRun:
    """A replica exchange run, its command and its file."""

    path: Path
    run: ExchangeRecord
    command: str


@dataclass(eq=False)
class Contents:
    """All that a report is about.

    Attributes:
        title: What it is about.
        models: Directories of models, and of trainings under way.
        exchanges: Replica exchange runs.
        sets: Configurations; the package's references included where they are of the same energy function.
        summary: The summary of a main job, if there is one.
        sources: The files and directories that were read.
    """

    title: str = ""
    models: list[Path] = field(default_factory=list)
    exchanges: list[ExchangeRun] = field(default_factory=list)
    sets: list[ConfigurationSet] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)

    @property
    def temperatures(self) -> list[float]:
        """The temperatures [K] of the sets, ascending."""
        found: list[float] = []
        for one in self.sets:
            if one.temperature is not None and not any(one.is_at(t) for t in found):
                found.append(one.temperature)
        return sorted(found)

    @property
    def residues(self) -> list[str]:
        """The residues that have both phi and psi, in order."""
        return list(dict.fromkeys(residue for one in self.sets for residue in one.ramachandran))


def gather(paths: Iterable[str | Path], topology: str | Path | None = None) -> Contents:
    """Read what files and directories hold.

    Args:
        paths: Directories of a main job, of a model or of a simulation, or others that hold such; samples, replica
            exchange runs and trajectories.
        topology: A file with the topology, for formats without one.

    Raises:
        InputError: If there is nothing to report, a file cannot be read, or the molecules differ.
    """
    paths = [Path(path) for path in paths]
    files = _find(paths)
    contents = Contents(title=", ".join(dict.fromkeys(_name(path) for path in paths)))
    contents.models = files["model"]
    contents.sources = [path for found in files.values() for path in found]
    for path in files["summary"]:
        contents.summary |= _json(path)
    run_command = str(contents.summary.get("record", {}).get("command", ""))
    for path in files["simulation"]:
        contents.sets.append(_simulation(path, topology))
    for path in files["samples"]:
        contents.sets.append(_samples(path, run_command))
    for path in files["exchange"]:
        _add_exchange(contents, path, topology, run_command)
    _check_one_molecule(contents.sets)
    _add_references(contents)
    contents.sets.sort(key=lambda one: (one.temperature or np.inf, _KINDS.index(one.kind)))
    contents.sets = _with_different_labels(contents.sets)
    return contents


def _find(paths: list[Path]) -> dict[str, list[Path]]:
    """Return the files by kind; directories are searched one level deep."""
    found: dict[str, list[Path]] = {
        kind: [] for kind in ("model", "simulation", "samples", "exchange", "summary")
    }
    for path in paths:
        if not path.exists():
            raise InputError(f"There is no file or directory {path}.")
        before = sum(map(len, found.values()))
        candidates = [path]
        if path.is_dir() and _kind(path) is None:
            # Trajectories beside a run may be anything; those that belong to the report are named.
            children = (child for child in path.iterdir() if not child.name.startswith("."))
            candidates = sorted(child for child in children if child.suffix not in _TRAJECTORIES)
        for candidate in candidates:
            kind = _kind(candidate)
            if kind is not None and candidate not in found[kind]:
                found[kind].append(candidate)
        if sum(map(len, found.values())) == before and not any(path in known for known in found.values()):
            raise InputError(
                f"{path} holds nothing to report: no model, simulation, samples (.h5) or exchange run (.nc)."
            )
    return found


def _kind(path: Path) -> str | None:
    if path.is_dir():
        if (path / "model.json").is_file() or (path / "log.csv").is_file():
            return "model"
        return "simulation" if (path / "trajectory.h5").is_file() else None
    if path.name == "summary.json":
        return "summary"
    if path.suffix == ".nc" and not path.stem.endswith("_checkpoint"):
        return "exchange"
    if path.suffix == ".h5":
        return "samples" if path.with_suffix(".json").is_file() else "simulation"
    return "simulation" if path.suffix in _TRAJECTORIES else None


def _simulation(path: Path, topology: str | Path | None) -> ConfigurationSet:
    from openmm_bg.io import read_frames

    directory = path if path.is_dir() else path.parent
    file = path / "trajectory.h5" if path.is_dir() else path
    record = {}
    if (directory / "provenance.json").is_file() and file.name == "trajectory.h5":
        record = _json(directory / "provenance.json")
    return _set("simulation", read_frames(file, topology), path, str(record.get("command", "")), record)


def _samples(path: Path, run_command: str) -> ConfigurationSet:
    from openmm_bg.io import read_frames

    frames = read_frames(path)
    summary = _json(path.with_suffix(".json"))
    record = {**summary.get("record", {}), **{k: v for k, v in summary.items() if k != "record"}}
    command = str(record.get("command") or run_command or sample_command(path, record))
    found = _set("samples", frames, path, command, record)
    return replace(found, n_draws=int(record["n_draws"]))


def _add_exchange(contents: Contents, path: Path, topology: str | Path | None, run_command: str) -> None:
    """Add a run, its lowest temperature, and those at which there are other configurations."""
    from openmm_bg.exchange import read_exchange
    from openmm_bg.io import read_frames

    run = read_exchange(path)
    command = run_command or exchange_command(path, run)
    contents.exchanges.append(ExchangeRun(path, run, command))
    if run.n_iterations - run.n_tuning < 2:  # errors need two
        return
    if topology is None and not (Path(run.settings["model"]) / "topology.pdb").is_file():
        topology = _topology_of_model(contents.models, run.settings["model_hash"])
    others = contents.temperatures
    for k, temperature in enumerate(run.temperatures):
        if k == 0 or any(abs(temperature - other) < _SAME_TEMPERATURE for other in others):
            frames = read_frames(path, topology, temperature=float(temperature))
            contents.sets.append(_set("exchange", frames, path, command, run.settings))


def _topology_of_model(models: list[Path], wanted: str) -> Path | None:
    """Return the topology of a model that was moved together with the run."""
    for model in models:
        if (model / "model.json").is_file() and model_hash(model) == wanted:
            return model / "topology.pdb"
    return None


def _set(kind: str, frames: Frames, path: Path, command: str, record: dict[str, Any]) -> ConfigurationSet:
    from openmm_bg.systems.torsions import backbone_torsions

    if len(frames) < 2:
        raise InputError(f"{path} has a single frame; a report needs at least two.")
    label = frames.label()
    torsions = backbone_torsions(frames.topology.to_openmm())
    pairs = torsion_pairs(torsions)
    wanted = {name: torsions[name] for pair in pairs.values() for name in pair}
    angles = torsion_angles(frames.positions, wanted)
    return ConfigurationSet(
        kind,
        label,
        path,
        frames.temperature,
        frames.positions.shape[1],
        {
            residue: Ramachandran(label, angles[phi], angles[psi], frames.log_weights, frames.n_walkers)
            for residue, (phi, psi) in pairs.items()
        },
        frames.potential_energy,
        frames.log_weights,
        frames.n_walkers,
        command,
        record,
        len(frames),
    )


def _add_references(contents: Contents) -> None:
    """Add the package's references of the same energy function at the sets' temperatures."""
    from openmm_bg.reference import load_reference

    records = [one.record for one in contents.sets if one.kind == "simulation"]
    records += [_header_record(model) for model in contents.models]
    known = {(str(record.get("name")), record.get("system_hash")) for record in records}
    for temperature in contents.temperatures:
        for name, own_hash in known:
            try:
                reference = load_reference(name, temperature)
            except InputError:
                continue
            if own_hash != reference.record.get("system_hash"):
                continue
            residue = contents.residues[0] if contents.residues else ""
            contents.sets.append(
                ConfigurationSet(
                    "reference",
                    reference.ramachandran.label,
                    None,
                    reference.temperature,
                    contents.sets[0].n_atoms,
                    {residue: reference.ramachandran},
                    reference.potential_energy,
                    n_walkers=reference.ramachandran.n_walkers,
                    command=str(reference.record.get("command", "")),
                    record=reference.record,
                    n_draws=len(reference.potential_energy),
                )
            )


def _header_record(model: Path) -> dict[str, Any]:
    if not (model / "model.json").is_file():
        return {}
    header = _json(model / "model.json")
    return {"name": (header.get("system") or {}).get("name"), "system_hash": header.get("system_hash")}


def _check_one_molecule(sets: list[ConfigurationSet]) -> None:
    for one in sets[1:]:
        same = one.n_atoms == sets[0].n_atoms and one.ramachandran.keys() == sets[0].ramachandran.keys()
        if not same:
            raise InputError(
                f"{one.path} and {sets[0].path} are of different molecules; make a report of each."
            )


def _with_different_labels(sets: list[ConfigurationSet]) -> list[ConfigurationSet]:
    labels = [one.label for one in sets]
    different = []
    for one in sets:
        label = one.label
        if labels.count(label) > 1 and one.path is not None:
            label = f"{_name(one.path.resolve().parent)}/{label}"
        torsions = {name: replace(found, label=label) for name, found in one.ramachandran.items()}
        different.append(replace(one, label=label, ramachandran=torsions))
    return different


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: If it holds none.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is not JSON.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no record.")
    return content
