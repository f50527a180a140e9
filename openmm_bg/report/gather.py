"""Reading all that a report is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.analysis import Ramachandran, torsion_angles, torsion_pairs
from openmm_bg.errors import InputError
from openmm_bg.model_files import check_files, read_any_header
from openmm_bg.observables.molecules import molecule_of
from openmm_bg.plotting import COLOURS
from openmm_bg.report.commands import exchange_command, sample_command
from openmm_bg.report.contents import SAME_TEMPERATURE, ConfigurationSet, Contents, ExchangeRun, Source
from openmm_bg.report.facts import model_topology
from openmm_bg.report.records import find_model, is_finished, read_json, read_summary, system_hash
from openmm_bg.report.search import distinct, find, name_of

if TYPE_CHECKING:
    import mdtraj

    from openmm_bg.trajectories import Frames

_KINDS = ("samples", "exchange", "simulation", "reference")


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
    reader = _Reader(find(paths), topology)
    contents = reader.contents
    contents.title = ", ".join(dict.fromkeys(name_of(path) for path in paths))
    _add_references(contents)
    contents.sets.sort(key=lambda one: (one.temperature or np.inf, _KINDS.index(one.kind)))
    contents.sets = _with_labels_and_colours(contents.sets)
    return contents


class _Reader:
    """Reads the files of one report, which are all of one molecule."""

    def __init__(self, files: dict[str, list[Path]], topology: str | Path | None) -> None:
        self.topology = topology
        self.contents = Contents(models=files["model"])
        self.contents.model_names = distinct([name_of(model) for model in files["model"]], files["model"])
        self._molecule: tuple[Path, Any] | None = None
        self._torsions: dict[str, Any] | None = None
        self._run_commands: dict[Path, str] = {}
        for path in files["summary"]:
            self._add_summary(path)
        for path in files["model"]:
            self._add_model(path)
        for path in files["simulation"]:
            self._add_simulation(path)
        for path in files["samples"]:
            self._add_samples(path)
        names = distinct([name_of(path) for path in files["exchange"]], files["exchange"])
        for path, name in zip(files["exchange"], names, strict=True):
            self._add_exchange(path, name)
        if topology is not None:
            self._add_source(Path(topology), "", {})

    def _add_source(self, path: Path, command: str, record: dict[str, Any]) -> None:
        self.contents.sources.append(Source(path, name_of(path), command, record))

    def _add_summary(self, path: Path) -> None:
        summary = read_summary(path)
        command = str(summary.get("record", {}).get("command", ""))
        self._run_commands[path.parent.resolve()] = command
        self.contents.summary |= summary
        self._add_source(path, command, _flattened(summary))

    def _add_model(self, path: Path) -> None:
        record: dict[str, Any] = {}
        if is_finished(path):
            header = read_any_header(path)
            check_files(path, header)
            record = {"versions": {"openmm-bg": header.get("version")}, **header["record"]}
            if header.get("system"):
                self._check_molecule(path, model_topology(path))
        self._add_source(path, str(record.get("command", "")), record)

    def _add_simulation(self, path: Path) -> None:
        from openmm_bg.io import read_frames

        directory = path if path.is_dir() else path.parent
        file = path / "trajectory.h5" if path.is_dir() else path
        record = {}
        if (directory / "provenance.json").is_file() and file.name == "trajectory.h5":
            record = read_json(directory / "provenance.json")
        self._add_source(path, str(record.get("command", "")), record)
        self._add_set("simulation", read_frames(file, self.topology), path, record.get("system_hash"))

    def _add_samples(self, path: Path) -> None:
        from openmm_bg.io import read_frames

        frames = read_frames(path)
        summary = read_json(path.with_suffix(".json"))
        record = _flattened(summary)
        command = record.get("command") or self._run_command(path) or sample_command(path, record)
        self._add_source(path, str(command), record)
        model = self._find_model(path, record)
        self._add_set("samples", frames, path, system_hash(model), n_draws=record["n_draws"])

    def _add_exchange(self, path: Path, name: str) -> None:
        """Add a run, its lowest temperature, and those at which there are other configurations."""
        from openmm_bg.exchange import read_exchange
        from openmm_bg.io import read_frames

        run = read_exchange(path)
        command = self._run_command(path) or exchange_command(path, run)
        self._add_source(path, command, run.settings)
        self.contents.exchanges.append(ExchangeRun(path, run, command, name))
        topology, model = self.topology, self._find_model(path, run.settings)
        if model is not None:
            self._check_molecule(path, model_topology(model))
            topology = topology or model / "topology.pdb"  # perhaps moved together with the run
        if run.n_iterations - run.n_tuning < 2:  # errors need two
            return
        others = self.contents.temperatures
        for k, temperature in enumerate(run.temperatures):
            if k == 0 or any(abs(temperature - other) < SAME_TEMPERATURE for other in others):
                frames = read_frames(path, topology, temperature=float(temperature))
                self._add_set("exchange", frames, path, system_hash(model))

    def _run_command(self, path: Path) -> str:
        return self._run_commands.get(path.parent.resolve(), "")

    def _find_model(self, path: Path, record: dict[str, Any]) -> Path | None:
        """Return the model that samples or an exchange run were made with, if it is still somewhere."""
        recorded = Path(str(record.get("model", "model")))
        elsewhere = recorded, path.parent / recorded.name
        return find_model(record.get("model_hash"), self.contents.models, elsewhere)

    def _check_molecule(self, path: Path, topology: mdtraj.Topology) -> None:
        molecule = molecule_of(topology)
        first, expected = self._molecule = self._molecule or (path, molecule)
        if molecule != expected:
            raise InputError(f"{path} and {first} are of different molecules; make a report of each.")

    def _add_set(
        self, kind: str, frames: Frames, path: Path, own_hash: Any, n_draws: int | None = None
    ) -> None:
        from openmm_bg.systems.torsions import backbone_torsions

        if len(frames) < 2:
            raise InputError(f"{path} has a single frame; a report needs at least two.")
        self._check_molecule(path, frames.topology)
        if self._torsions is None:  # the same residues in all files, however these number them
            self._torsions = backbone_torsions(frames.topology.to_openmm())
            self.contents.residue_names = {
                residue: residue or str(frames.topology.atom(self._torsions[phi][1]).residue)
                for residue, (phi, _) in torsion_pairs(self._torsions).items()
            }
        pairs = torsion_pairs(self._torsions)
        wanted = {name: self._torsions[name] for pair in pairs.values() for name in pair}
        angles = torsion_angles(frames.positions, wanted)
        label = frames.label()
        source = self.contents.sources[-1]
        self.contents.sets.append(
            ConfigurationSet(
                kind,
                label,
                path,
                frames.temperature,
                {
                    residue: Ramachandran(
                        label, angles[phi], angles[psi], frames.log_weights, frames.n_walkers
                    )
                    for residue, (phi, psi) in pairs.items()
                },
                frames.potential_energy,
                frames.log_weights,
                frames.n_walkers,
                source.command,
                source.record,
                len(frames) if n_draws is None else n_draws,
                None if own_hash is None else str(own_hash),
            )
        )


def _add_references(contents: Contents) -> None:
    """Add the package's references of the same energy function at the sets' temperatures."""
    from openmm_bg.reference import load_reference

    known = {
        (str(one.record.get("name")), one.system_hash) for one in contents.sets if one.kind == "simulation"
    }
    for model in contents.models:
        if is_finished(model):
            header = read_any_header(model)
            known.add((str((header.get("system") or {}).get("name")), header["system_hash"]))
    for temperature in contents.temperatures:
        for name, own_hash in known:
            try:
                reference = load_reference(name, temperature)
            except InputError:
                continue
            if own_hash != reference.record.get("system_hash"):
                continue
            label = reference.ramachandran.label
            command = str(reference.record.get("command", ""))
            record = {name: value for name, value in reference.record.items() if name != "estimates"}
            contents.sources.append(Source(None, f"{label} (in the package)", command, record))
            residue = contents.residues[0] if contents.residues else ""
            contents.sets.append(
                ConfigurationSet(
                    "reference",
                    label,
                    None,
                    reference.temperature,
                    {residue: reference.ramachandran},
                    reference.potential_energy,
                    n_walkers=reference.ramachandran.n_walkers,
                    command=command,
                    record=reference.record,
                    n_draws=len(reference.potential_energy),
                    system_hash=own_hash,
                )
            )


def _with_labels_and_colours(sets: list[ConfigurationSet]) -> list[ConfigurationSet]:
    """Make the labels differ; give each set a colour, all temperatures of an exchange run the same."""
    labels = distinct([one.label for one in sets], [one.path for one in sets])
    colours: dict[object, str] = {}
    finished = []
    for one, label in zip(sets, labels, strict=True):
        key = one.path if one.kind == "exchange" else label
        colour = colours.setdefault(key, COLOURS[len(colours) % len(COLOURS)])
        torsions = {name: replace(found, label=label) for name, found in one.ramachandran.items()}
        finished.append(replace(one, label=label, ramachandran=torsions, colour=colour))
    return finished


def _flattened(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary with the entries of its record among its own."""
    return {
        **summary.get("record", {}),
        **{name: value for name, value in summary.items() if name != "record"},
    }
