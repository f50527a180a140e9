"""A coarse-grained model: beads from their own potential, atoms from a flow, and weights that make both exact."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.bead_sampling import BeadSampler, BeadSamplingSettings
from openmm_bg.coarse_graining.maps import CoarseGrainedMap, LinearMap
from openmm_bg.coarse_graining.noisy_map import NoisyMap, map_from_config
from openmm_bg.coarse_graining.settings import MOST_TRIES, check_tries
from openmm_bg.errors import InputError, ModelFileError, ReliabilityWarning
from openmm_bg.model_files import (
    Content,
    check_files,
    load_system,
    model_hash,
    read_header,
    save_model,
    system_entry,
    system_files,
)
from openmm_bg.models import COARSE_GRAINED, find_model
from openmm_bg.potentials.base import Potential
from openmm_bg.potentials.torch_potential import TorchPotential
from openmm_bg.samples import Samples
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms import FibreCoordinates
from openmm_bg.units import thermal_energy

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem

_CHUNK = MOST_TRIES  # configurations that are backmapped at once
_FAR = 3.0  # standard deviations of an invariant beyond the range of the training data


class Backmapped(NamedTuple):
    """Configurations of given beads.

    Attributes:
        positions: Configurations [nm] with shape=(n, n_atoms, 3); NaN outside the domain.
        log_p: log p_inv(x | z) with shape=(n,); of several tries, that of the one that was chosen.
        reduced_energy: Energies in kT with shape=(n,); +inf where there is none.
        log_weights: -U/kT + log r(z | x) - log rho(z) - log p_inv(x | z), up to a constant, with shape=(n,); -inf
            outside the domain. Of several tries, the logarithm of the mean of their weights.
        far: Whether the beads are far outside the range of the training data, with shape=(n,).
    """

    positions: np.ndarray
    log_p: np.ndarray
    reduced_energy: np.ndarray
    log_weights: np.ndarray
    far: np.ndarray


class CoarseGrainedGenerator:
    """A map, a bead energy and a backmapping flow, with the potential that gives samples their weights.

    Args:
        coarse_map: The map.
        energy: The bead energy, -log rho(z) up to a constant.
        flow: The backmapping flow p_inv(x | z).
        start: Bead configurations [nm] where sampling begins, with shape=(n, n_beads, 3).
        potential: The all-atom potential.
        system: The molecule, for its topology and name.
        sampling: How bead configurations are sampled if nothing else is said.
        record: How the model was made, kept with it.

    Attributes:
        path: The directory that the model was saved to or loaded from, or None.

    Raises:
        InputError: If the parts are of different molecules or maps.
    """

    def __init__(
        self,
        coarse_map: CoarseGrainedMap,
        energy: BeadEnergy,
        flow: BackmappingFlow,
        *,
        start: torch.Tensor,
        potential: Potential | None = None,
        system: MolecularSystem | None = None,
        sampling: BeadSamplingSettings | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        atoms = {
            "map": coarse_map.n_atoms,
            "flow": flow.n_atoms,
            "potential": potential and potential.n_atoms,
        }
        atoms["system"] = system and system.n_atoms
        beads = {"map": coarse_map.n_beads, "flow": flow.n_beads, "energy": energy.n_beads}
        for what, sizes in (("atoms", atoms), ("beads", beads)):
            if len({size for size in sizes.values() if size is not None}) > 1:
                raise InputError(f"The parts of the model have different numbers of {what}: {sizes}.")
        if not _is_of(flow, coarse_map):
            raise InputError(
                "The flow is of another map than the model's; build it from the map's coordinates."
            )
        self.coarse_map, self.energy, self.flow = coarse_map, energy, flow
        self.start, self.potential, self.system = start, potential, system
        self.sampling = sampling or BeadSamplingSettings()
        self.record = dict(record or {})
        self.path: Path | None = None

    def __repr__(self) -> str:
        """Say what it samples, and how."""
        molecule = self.system.name if self.system else f"{self.flow.n_atoms} atoms"
        kind = f"{type(self.coarse_map).__name__} to {self.coarse_map.n_beads} beads"
        return f"<{type(self).__name__} of {molecule}: {kind}, {self.temperature:g} K>"

    @property
    def temperature(self) -> float:
        """The temperature [K]."""
        return self.energy.temperature

    @property
    def temperature_range(self) -> tuple[float, float]:
        """The temperatures that the model is meant for: its own."""
        return self.temperature, self.temperature

    @property
    def system_hash(self) -> str | None:
        """The hash of the energy function, if known."""
        return self.system.system_hash if self.system is not None else None

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        n_tries: int = 1,
        sampling: BeadSamplingSettings | None = None,
        progress: bool = False,
        on_frame: Callable[[BeadSampler], None] | None = None,
    ) -> Samples:
        """Draw configurations with weights.

        Args:
            n: How many; rounded up to a multiple of the number of walkers.
            seed: Same seed, same samples.
            n_tries: Of how many configurations of the same beads each is chosen; see `backmap`.
            sampling: How bead configurations are sampled.
            progress: Show a progress bar.
            on_frame: Called with the sampler of the beads after each of its frames, as for the configurations that
                it has at higher temperatures.

        Returns:
            Samples along the walkers' chains (`Samples.n_walkers`). Their log q is log rho(z) + log p_inv(x | z) -
            log r(z | x), up to a constant, so that there are no absolute free energies.

        Raises:
            InputError: If there is no potential, or n or the number of tries is not positive.
        """
        check_tries(n_tries)
        if n < 1 or n != int(n):
            raise InputError(f"The number of samples must be a whole number of at least 1, not {n}.")
        sampler = BeadSampler(self.energy, self.start, sampling or self.sampling, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        n_walkers = sampler.settings.n_walkers
        n_frames = -(-int(n) // n_walkers)
        all_beads, parts = [], []
        for _ in _tracked(n_frames, "sampling", progress):
            beads = sampler.frame()
            if on_frame is not None:
                on_frame(sampler)
            all_beads.append(beads)
            parts += [self._backmapped(some, generator, n_tries) for some in beads.split(_at_once(n_tries))]
        beads = torch.cat(all_beads)
        found = Backmapped(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        record = {
            "seed": seed,
            "n_tries": n_tries,
            "bead_acceptance": sampler.acceptance,
            "bead_timestep": sampler.timestep,
            "n_bead_evaluations": sampler.potential.n_evaluations,
        }
        return self._samples(found, beads, n_walkers, record)

    def _samples(
        self, found: Backmapped, beads: torch.Tensor, n_walkers: int, record: dict[str, Any]
    ) -> Samples:
        weighted = np.isfinite(found.log_weights)
        log_q = np.full(len(beads), np.nan)
        log_q[weighted] = -found.reduced_energy[weighted] - found.log_weights[weighted]
        return Samples(
            positions=found.positions,
            log_q=log_q,
            reduced_energy=found.reduced_energy,
            temperature=self.temperature,
            system=self.system,
            record={
                **record,
                "model_hash": model_hash(self.path) if self.path else None,
                "energies_from": self.potential.description if self.potential else None,
            },
            n_walkers=n_walkers,
            normalized=False,
            beads=beads.numpy(),
        )

    def backmap(self, beads: Any, *, seed: int = 0, n_tries: int = 1, progress: bool = False) -> Backmapped:
        """Draw a configuration of each given bead configuration.

        With several tries, so many configurations are drawn of the same beads, and one of them is chosen with a
        probability that is proportional to its weight. The mean of their weights is the weight of the chosen one:
        that keeps weighted averages exact, while configurations that clash are hardly ever chosen. This is
        sampling by importance resampling.

        Args:
            beads: Bead configurations [nm] with shape=(n, n_beads, 3).
            seed: Same seed, same configurations.
            n_tries: How many configurations of the same beads one is chosen of.
            progress: Show a progress bar.

        Raises:
            InputError: If there is no potential, the number of beads is another, there are no configurations, a
                position is not finite, or the number of tries is not positive.
        """
        check_tries(n_tries)
        beads = self._checked(positions_tensor(beads))
        if not len(beads):
            raise InputError("There is no bead configuration to backmap.")
        if not torch.isfinite(beads).all():
            raise InputError("A bead's position is NaN or infinite; remove that configuration.")
        generator, chunks = torch.Generator().manual_seed(seed), beads.split(_at_once(n_tries))
        tracked = _tracked(len(chunks), "backmapping", progress)
        parts = [self._backmapped(chunks[k], generator, n_tries) for k in tracked]
        found = Backmapped(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        if n_far := int(found.far.sum()):
            message = (
                f"{n_far} of {len(beads)} bead configurations are far outside the range of the training data; "
                f"the largest of their log-weights is {found.log_weights[found.far].max():.1f}"
            )
            if n_far < len(beads):
                message += f", that of the others {found.log_weights[~found.far].max():.1f}"
            warnings.warn(f"{message}.", ReliabilityWarning, stacklevel=2)
        return found

    def samples_of(
        self,
        positions: Any,
        *,
        seed: int = 0,
        n_tries: int = 1,
        n_walkers: int = 1,
        progress: bool = False,
    ) -> Samples:
        """Backmap the beads of given configurations.

        Args:
            positions: Configurations [nm] with shape=(n, n_atoms, 3).
            seed: Same seed, same samples.
            n_tries: Of how many configurations of the same beads each is chosen; see `backmap`.
            n_walkers: Of configurations along chains, how many chains there are, interleaved. With one, errors are
                those of independent configurations.
            progress: Show a progress bar.

        Returns:
            One configuration for the beads of each. The weights are those of `sample`: they hold if the beads are
            distributed as rho.

        Raises:
            InputError: As `backmap`; or if the configurations are of another molecule, or beads.
        """
        generator, positions = torch.Generator().manual_seed(seed), positions_tensor(positions)
        n_atoms, n_beads = self.flow.n_atoms, self.energy.n_beads
        if n_beads != n_atoms and positions.shape[1:] == (n_beads, 3):
            raise InputError(
                f"These are {n_beads} beads, for `backmap`; samples are made of configurations of {n_atoms} atoms."
            )
        beads = self.coarse_map.draw(positions, generator)
        found = self.backmap(beads, seed=seed + 1, n_tries=n_tries, progress=progress)
        return self._samples(found, beads, n_walkers, {"seed": seed, "n_tries": n_tries})

    def is_far(self, beads: torch.Tensor) -> torch.Tensor:
        """Tell which bead configurations are far outside the range of the training data, with shape=(n,)."""
        invariants = self.energy.invariants
        return (invariants.excess(invariants(beads.double())) > _FAR).any(1)

    def log_density(self, positions: Any, beads: torch.Tensor) -> torch.Tensor:
        """Return log(rho p_inv / r) with shape=(n,) in float64, up to a constant; -inf outside the domain.

        Args:
            positions: Configurations x [nm] with shape=(n, n_atoms, 3).
            beads: Bead configurations z [nm] with shape=(n, n_beads, 3); of a map without noise, those of x.

        Raises:
            InputError: If the number of beads is another.
        """
        positions, beads = positions_tensor(positions), self._checked(beads)
        with torch.no_grad():
            log_rho = -self.energy.exact()(beads.double())
        log_r = self.coarse_map.log_prob(beads, positions)
        return log_rho + self.flow.log_prob(positions, beads) - log_r

    def _checked(self, beads: torch.Tensor) -> torch.Tensor:
        if beads.ndim != 3 or beads.shape[1:] != (self.energy.n_beads, 3):
            raise InputError(
                f"The model has {self.energy.n_beads} beads; the configurations have the shape "
                f"{tuple(beads.shape)}, not (n, {self.energy.n_beads}, 3)."
            )
        return beads

    def _backmapped(self, beads: torch.Tensor, generator: torch.Generator, n_tries: int) -> Backmapped:
        if self.potential is None:
            raise InputError(
                "The model has no potential, so configurations would have no weights; give it one."
            )
        n, tried = len(beads), beads.repeat_interleave(n_tries, dim=0)
        positions, log_p = self.flow.sample(tried, generator=generator)
        reduced = self.potential.energy(positions).detach().double() / thermal_energy(self.temperature)
        inside = torch.isfinite(positions).all(dim=(1, 2))
        log_r = self.coarse_map.log_prob(tried, torch.where(inside[:, None, None], positions, 0.0))
        with torch.no_grad():
            log_rho = -self.energy.exact()(beads.double())
        log_weights = log_r - reduced - log_rho.repeat_interleave(n_tries) - log_p
        log_weights = torch.where(inside & torch.isfinite(reduced), log_weights, -torch.inf).view(n, n_tries)
        if n_tries > 1:
            noise = torch.rand(n, n_tries, generator=generator, dtype=torch.float64)
            chosen = (log_weights - (-noise.log()).log()).argmax(1)  # Gumbel's trick
            rows = torch.arange(n) * n_tries + chosen
            positions, log_p, reduced = positions[rows], log_p[rows], reduced[rows]
            log_weights = log_weights.logsumexp(1) - math.log(n_tries)
        tensors = (positions, log_p, reduced, log_weights.flatten(), self.is_far(beads))
        return Backmapped(*(tensor.numpy() for tensor in tensors))

    def save(self, directory: str | Path) -> Path:
        """Write the model to a directory, as `BoltzmannGenerator.save` does.

        Returns:
            The directory.

        Raises:
            InputError: If the path is taken by something that is not a model.
        """
        from safetensors.torch import save

        modules = {"flow": self.flow, "energy": self.energy}
        state = {
            f"{part}.{name}": tensor
            for part, module in modules.items()
            for name, tensor in module.state_dict().items()
            if not _is_identity(tensor)
        }
        state["start"] = self.start.double()
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        files: dict[str, Content] = {"networks.safetensors": save(state)}
        if self.system is not None:
            files |= system_files(self.system)
        if isinstance(self.potential, TorchPotential):
            files["potential.safetensors"] = self.potential.save
        header = {
            "kind": COARSE_GRAINED,
            "map": self.coarse_map.config(),
            "flow": self.flow.config(),
            "energy": self.energy.config(),
            "sampling": vars(self.sampling),
            "system": system_entry(self.system),
            "system_hash": self.system_hash,
            "record": self.record,
        }
        self.path = save_model(directory, files, header)
        return self.path

    @classmethod
    def load(cls, directory: str | Path, *, dtype: torch.dtype = torch.float32) -> CoarseGrainedGenerator:
        """Read a model that `save` wrote. Nothing in it is executed.

        Args:
            directory: The model's directory, or the name of one that comes with the package.
            dtype: Precision of the networks when they draw; densities and energies of weights are float64 anyway.

        Raises:
            ModelFileError: If a file is missing, truncated or was changed, or the model is of another kind.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        directory = find_model(directory)
        header = read_header(directory, COARSE_GRAINED)
        check_files(directory, header)
        try:
            flow = BackmappingFlow.from_config(header["flow"])
            energy = BeadEnergy.from_config(header["energy"])
            state = load((directory / "networks.safetensors").read_bytes())
            for name, module in (("flow.", flow), ("energy.", energy)):
                own = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
                unsaid = {key: value for key, value in module.state_dict().items() if _is_identity(value)}
                module.load_state_dict(unsaid | own)
            coarse_map, start = map_from_config(header["map"]), state["start"]
            sampling = BeadSamplingSettings(**header["sampling"])
        except (SafetensorError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"The networks in {directory} do not fit their description: {error}"
            ) from error
        flow.set_dtype(dtype)
        energy.set_dtype(dtype)
        system = load_system(directory, header)
        potential: Potential | None = None
        if "potential.safetensors" in header["sha256"]:
            potential = TorchPotential.load(directory / "potential.safetensors")
        elif system is not None:
            from openmm_bg.potentials import OpenMMPotential

            potential = OpenMMPotential(system)
        generator = cls(
            coarse_map,
            energy.eval(),
            flow.eval(),
            start=start,
            potential=potential,
            system=system,
            sampling=sampling,
            record=header["record"],
        )
        generator.path = directory
        return generator


def _is_identity(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is an identity matrix, which is not written: large ones say nothing."""
    square = tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1] > 1
    return square and torch.equal(tensor, torch.eye(len(tensor)).to(tensor))


def _at_once(n_tries: int) -> int:
    """Return how many bead configurations are backmapped at once."""
    return max(1, _CHUNK // n_tries)


def _is_of(flow: BackmappingFlow, coarse_map: CoarseGrainedMap) -> bool:
    """Tell whether a flow's coordinates are what a map leaves free."""
    if isinstance(flow.coordinates, FibreCoordinates):
        return isinstance(coarse_map, LinearMap) and torch.allclose(
            flow.coordinates.weights, coarse_map.weights
        )
    return isinstance(coarse_map, NoisyMap)


def _tracked(n: int, label: str, progress: bool) -> Iterator[int]:
    if not progress:
        yield from range(n)
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(label, total=n)
        for k in range(n):
            yield k
            bar.advance(task)
