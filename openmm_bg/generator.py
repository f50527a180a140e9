"""A Boltzmann generator: a flow and the potential that gives its samples their weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openmm_bg.errors import InputError, ModelFileError, ReliabilityWarning
from openmm_bg.flows import Flow, PositionFlow, flow_from_config
from openmm_bg.model_files import (
    Content,
    check_files,
    energy_evaluations,
    load_system,
    model_hash,
    read_header,
    save_model,
    system_entry,
    system_files,
)
from openmm_bg.models import find_model
from openmm_bg.potentials.base import Potential
from openmm_bg.potentials.torch_potential import TorchPotential
from openmm_bg.samples import Samples
from openmm_bg.units import kelvin, thermal_energy

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem


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

    def __repr__(self) -> str:
        """Say what it samples, and how."""
        molecule = self.system.name if self.system else f"{self.flow.n_atoms} atoms"
        low, high = self.temperature_range
        trained = f"trained at {self.temperature:g} K, for {low:g} to {high:g} K"
        return f"<{type(self).__name__} of {molecule}: {type(self.flow).__name__}, {trained}>"

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
        return energy_evaluations(self.record)

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

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.flow.state_dict().items()}
        files: dict[str, Content] = {"flow.safetensors": save(state)}
        if self.system is not None:
            files |= system_files(self.system)
        if isinstance(self.potential, TorchPotential):
            files["potential.safetensors"] = self.potential.save
        header = {
            "flow": self.flow.config(),
            "temperature_range": self.temperature_range,
            "system": system_entry(self.system),
            "system_hash": self.system_hash,
            "record": self.record,
        }
        self.path = save_model(directory, files, header)
        self._model_hash = model_hash(self.path)
        return self.path

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
        system = load_system(directory, header)
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
