"""A Boltzmann generator: a flow and the potential that gives its samples their weights."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openmm_bg.errors import InputError, ModelFileError, ReliabilityWarning
from openmm_bg.files import atomic_write_bytes, atomic_write_text, json_text
from openmm_bg.flows import Flow, PositionFlow, flow_from_config
from openmm_bg.models import find_model, shipped_models
from openmm_bg.potentials.base import Potential
from openmm_bg.potentials.torch_potential import TorchPotential
from openmm_bg.samples import Samples
from openmm_bg.units import kelvin, thermal_energy

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem

_FORMAT = 2
_HEADER = "model.json"
CHECKPOINT = "checkpoint.safetensors"
"""The file that an interrupted training leaves in the directory that becomes its model."""


class BoltzmannGenerator:
    """A flow and a potential: samples with weights, at any temperature near that of training.

    Args:
        flow: The flow.
        potential: The potential whose Boltzmann distribution is sampled; not needed for densities alone.
        system: The molecule, for its topology and name.
        record: How the flow was made (settings, seed, versions, figures), kept with the model.
        temperature_range: Lowest and highest temperature [K] that the flow is meant for; a warning is given
            outside. Half to four thirds of the training temperature if not given.

    Attributes:
        path: The directory that the generator was saved to or loaded from, or None.

    Raises:
        InputError: If flow, potential and system are of different molecules.
    """

    def __init__(
        self,
        flow: Flow,
        potential: Potential | None = None,
        *,
        system: MolecularSystem | None = None,
        record: dict[str, Any] | None = None,
        temperature_range: tuple[float, float] | None = None,
    ) -> None:
        sizes = {
            "flow": flow.n_atoms,
            "potential": potential and potential.n_atoms,
            "system": system and system.n_atoms,
        }
        if len({size for size in sizes.values() if size is not None}) > 1:
            raise InputError(f"Flow, potential and system have different numbers of atoms: {sizes}.")
        self.flow, self.potential, self.system = flow, potential, system
        self.record = dict(record or {})
        low, high = temperature_range or (0.5 * flow.temperature, 4.0 / 3.0 * flow.temperature)
        self.temperature_range = (kelvin(low), kelvin(high))
        self.path: Path | None = None
        self._model_hash: str | None = None
        self._system_hash: str | None = None

    @property
    def temperature(self) -> float:
        """The temperature of training [K]."""
        return self.flow.temperature

    @property
    def system_hash(self) -> str | None:
        """The hash of the energy function that the flow was made for, if known."""
        if self._system_hash is None and self.system is not None:
            self._system_hash = self.system.system_hash
        return self._system_hash

    @property
    def energy_evaluations(self) -> dict[str, int]:
        """Energy evaluations that the model has cost, by stage: "simulation", "training" and "annealing"."""
        counts = {"simulation": (self.record.get("data") or {}).get("n_energy_evaluations", 0)}
        counts["training"] = (self.record.get("training") or {}).get("n_energy_evaluations", 0)
        counts["annealing"], annealing = 0, self.record.get("annealing")
        while annealing:
            counts["annealing"] += annealing["n_energy_evaluations"]
            annealing = annealing.get("before")
        return counts

    def sample(
        self,
        n: int,
        temperature: Any = None,
        *,
        seed: int = 0,
        batch_size: int = 2048,
        progress: bool = False,
    ) -> Samples:
        """Draw samples with weights.

        Args:
            n: How many.
            temperature: Temperature [K]; that of training if not given.
            seed: Same seed (and batch size), same samples.
            batch_size: How many at once.
            progress: Show a progress bar.

        Returns:
            Positions in the flow's standard frame, log-densities and reduced energies at that temperature. Of a
            flow with momenta, `Samples.log_q` is its joint log-density minus that of the momenta in the target,
            so that the weights are those of the joint space.

        Raises:
            InputError: If there is no potential, or n or the temperature is not positive.
        """
        temperature = self.temperature if temperature is None else kelvin(temperature)
        if self.potential is None:
            raise InputError("The generator has no potential, so samples would have no weights; give it one.")
        if n < 1:
            raise InputError(f"The number of samples must be at least 1, not {n}.")
        self.warn_outside_range(temperature)
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for size in _tracked(_batches(n, batch_size), f"sampling at {temperature:g} K", n, progress):
            positions, momenta, log_q = self.flow.joint_sample(size, temperature, generator=generator)
            log_q = log_q - self.flow.momenta_log_prob(momenta, temperature)
            energy = self.potential.energy(positions)
            parts.append([tensor.detach().cpu().double() for tensor in (positions, log_q, energy)])
        positions, log_q, energy = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return Samples(
            positions=positions,
            log_q=log_q,
            reduced_energy=energy / thermal_energy(temperature),
            temperature=temperature,
            system=self.system,
            record={
                "seed": seed,
                "batch_size": batch_size,
                "model_hash": self._model_hash,
                "energies_from": self.potential.description,
            },
        )

    def log_prob(self, positions: Any, temperature: Any = None) -> torch.Tensor:
        """Return the flow's exact log-densities with shape=(batch,) in float64.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            temperature: Temperature [K]; that of training if not given.

        Raises:
            InputError: If the flow has momenta: see `TemperatureSteerableFlow.log_prob`.
        """
        temperature = None if temperature is None else kelvin(temperature)
        if isinstance(self.flow, PositionFlow):
            return self.flow.log_prob(positions, temperature)
        raise InputError(
            "The density of this flow is one of positions and momenta: call generator.flow.log_prob(positions, "
            "momenta, temperature), or its estimate_log_prob for an estimate of that of positions alone."
        )

    def warn_outside_range(self, temperature: float) -> None:
        """Issue a `ReliabilityWarning` if a temperature [K] is outside the range the flow is meant for."""
        low, high = self.temperature_range
        # A little play: a range that ends at half the training temperature includes that half.
        if not low * (1 - 1e-9) <= temperature <= high * (1 + 1e-9):
            warnings.warn(
                f"{temperature:g} K is outside the range that this model is meant for ({low:g} to {high:g} K); "
                "densities stay exact, but weights may be poor: look at the effective sample size.",
                ReliabilityWarning,
                stacklevel=3,
            )

    def save(self, directory: str | Path) -> Path:
        """Write the model to a directory: readers see no model, the old one or the new one, never a mixture.

        The directory holds ``model.json`` (architecture, Z-matrix, units, versions, record, and the other
        files' hashes), ``flow.safetensors``, and where known ``potential.safetensors``, ``system.xml`` and
        ``topology.pdb``.

        Returns:
            The directory.

        Raises:
            InputError: If the path is taken by something that is not a model.
        """
        from safetensors.torch import save

        directory = Path(directory).expanduser().resolve()
        if directory.exists() and not (directory.is_dir() and _replaceable(directory)):
            raise InputError(f"{directory} exists and is not a model; choose another path or remove it.")
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.flow.state_dict().items()}
        files = {"flow.safetensors": save(state)}
        if self.system is not None:
            files |= _system_files(self.system)
        if (directory / _HEADER).exists():
            self._replace(directory, files)
        else:
            self._write(directory, files)  # beside what a training has left there
        self.path, self._model_hash = directory, model_hash(directory)
        return directory

    def _write(self, directory: Path, files: dict[str, bytes]) -> None:
        """Write the model's files; the header, which makes them a model, comes last."""
        directory.mkdir(parents=True, exist_ok=True)
        names = list(files)
        for name, content in files.items():
            atomic_write_bytes(directory / name, content)
        if isinstance(self.potential, TorchPotential):
            self.potential.save(directory / "potential.safetensors")
            names.append("potential.safetensors")
        header = self._header({name: _sha256(directory / name) for name in sorted(names)})
        atomic_write_text(directory / _HEADER, json_text(header))

    def _replace(self, directory: Path, files: dict[str, bytes]) -> None:
        """Put a new model in the place of an old one; both are whole on disk until the old one is deleted."""
        mark = uuid.uuid4().hex[:12]
        new, old = (directory.with_name(f".{directory.name}.{mark}.{kind}") for kind in ("new", "old"))
        try:
            self._write(new, files)
            directory.rename(old)
            new.rename(directory)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old)

    def _header(self, hashes: dict[str, str]) -> dict[str, Any]:
        from openmm_bg import __version__

        return {
            "format": _FORMAT,
            "package": "openmm_bg",
            "version": __version__,
            "units": {"length": "nm", "energy": "kJ/mol", "temperature": "K", "angle": "rad"},
            "flow": self.flow.config(),
            "temperature_range": self.temperature_range,
            "system": self.system
            and {
                "name": self.system.name,
                "temperature": self.system.temperature,
                "torsions": dict(self.system.torsions),
                "bonds": self.system.bonds,
            },
            "system_hash": self.system_hash,
            "record": self.record,
            "sha256": hashes,
        }

    @classmethod
    def load(
        cls, directory: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> BoltzmannGenerator:
        """Read a model that `save` wrote. Nothing in it is executed.

        Args:
            directory: The model's directory, or the name of a model that comes with the package
                ("alanine_dipeptide").
            device: Where flow and potential compute.
            dtype: Precision of the network when it draws; densities and energies are float64 anyway.

        Raises:
            ModelFileError: If a file is missing, truncated or was changed.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        directory = find_model(directory)
        header = read_header(directory)
        check_files(directory, header)
        flow = flow_from_config(header["flow"])
        try:
            flow.load_state_dict(load((directory / "flow.safetensors").read_bytes()))
        except (SafetensorError, RuntimeError) as error:
            raise ModelFileError(f"The flow in {directory} does not fit its description: {error}") from error
        flow.set_dtype(dtype)
        flow.to(device).eval()
        system = _load_system(directory, header) if "system.xml" in header["sha256"] else None
        potential: Potential | None = None
        if "potential.safetensors" in header["sha256"]:
            potential = TorchPotential.load(directory / "potential.safetensors", device=device)
        elif system is not None:
            from openmm_bg.potentials import OpenMMPotential

            potential = OpenMMPotential(system)
        generator = cls(
            flow,
            potential,
            system=system,
            record=header["record"],
            temperature_range=tuple(header["temperature_range"]),
        )
        generator.path, generator._system_hash = directory, header["system_hash"]
        generator._model_hash = model_hash(directory)
        return generator


def model_hash(directory: str | Path) -> str:
    """Return the hash of a saved model (hexadecimal): that of its header, which holds its files' hashes.

    Raises:
        ModelFileError: If there is no model.
    """
    directory = find_model(directory)
    read_header(directory)
    return _sha256(directory / _HEADER)


def read_header(directory: str | Path) -> dict[str, Any]:
    """Return a saved model's header: what it is, how it was made, and its files' hashes.

    Raises:
        ModelFileError: If there is no model, or this version cannot read it.
    """
    path = find_model(directory) / _HEADER
    if not path.is_file():
        names = ", ".join(shipped_models())
        raise ModelFileError(
            f"There is no model in {directory} (no {_HEADER}); models that come with the package: {names}."
        )
    try:
        header = json.loads(path.read_text())
        found = header["format"]
        complete = {"flow", "sha256", "record", "temperature_range", "system_hash"} <= header.keys()
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} is truncated or is not a model's header.") from error
    if found != _FORMAT or not complete:
        raise ModelFileError(f"{path} has format {found}; this version of openmm_bg reads format {_FORMAT}.")
    return header


def check_files(directory: Path, header: dict[str, Any]) -> None:
    """Compare a saved model's files with the hashes in its header.

    Raises:
        ModelFileError: If one is missing, truncated or was changed.
    """
    for name, expected in header["sha256"].items():
        if not (directory / name).is_file():
            raise ModelFileError(f"The model in {directory} lacks its file {name}; copy the whole directory.")
        if _sha256(directory / name) != expected:
            raise ModelFileError(
                f"The file {name} of the model in {directory} is truncated or was changed; copy it again."
            )


def _load_system(directory: Path, header: dict[str, Any]) -> MolecularSystem:
    from openmm_bg.systems import MolecularSystem

    own = header["system"]
    system = MolecularSystem.from_files(
        directory / "system.xml",
        directory / "topology.pdb",
        name=own["name"],
        temperature=own["temperature"],
        bonds=own["bonds"],
    )
    torsions = {name: tuple(atoms) for name, atoms in own["torsions"].items()}
    return system.with_torsions(torsions)


def _system_files(system: MolecularSystem) -> dict[str, bytes]:
    return {"system.xml": system.system_xml().encode(), "topology.pdb": system.topology_pdb().encode()}


def _replaceable(directory: Path) -> bool:
    """Tell whether a directory is empty, or was written by `save` or by a training."""
    names = {path.name for path in directory.iterdir()}
    return not names or bool(names & {_HEADER, CHECKPOINT})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _batches(n: int, size: int) -> list[int]:
    return [min(size, n - start) for start in range(0, n, size)]


def _tracked(batches: list[int], label: str, total: int, progress: bool) -> Iterator[int]:
    if not progress:
        yield from batches
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(label, total=total)
        for size in batches:
            yield size
            bar.advance(task, size)
