"""What the moves of this package share: the contract with openmmtools, and the model that they propose from."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from openmm import unit
from openmmtools.mcmc import MCMCMove

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.mcmc import registry
from openmm_bg.mcmc.host import HostSystem, energy_function_name, host_system, reduced_energies
from openmm_bg.mcmc.target import Target
from openmm_bg.mcmc.velocities import new_velocities
from openmm_bg.models import GENERATOR
from openmm_bg.threads import single_threaded
from openmm_bg.units import kelvin, picoseconds

if TYPE_CHECKING:
    import os

    from openmmtools.cache import ContextCache
    from openmmtools.states import SamplerState, ThermodynamicState

    from openmm_bg.generator import BoltzmannGenerator

_given_warnings: set[tuple[str, ...]] = set()


class ProposalMove(MCMCMove):
    """A Metropolis-Hastings move that proposes configurations with the help of a trained flow.

    A subclass says how configurations are proposed and accepted (`_steps`). This class does the rest: it checks
    the host, sets positions, velocities and energies, counts, and keeps the state that openmmtools stores: the
    model's path and hash, the settings and the statistics, less than 1 kB.

    Args:
        model: The directory of a saved model, or a generator that was saved to or loaded from one.
        n_proposals: Proposals in each call.
        reassign_velocities: Draw new velocities in every call, not only after an acceptance.
        timestep: The time step [ps] of a leap-frog integrator that continues from the new velocities.

    Raises:
        ModelFileError: If there is no model, or it is damaged.
        InputError: If another argument cannot be used.
    """

    _MODEL: ClassVar[str] = GENERATOR
    _SETTINGS: ClassVar[tuple[str, ...]] = ("n_proposals", "reassign_velocities", "timestep")
    _STATISTICS: ClassVar[dict[str, type]] = {"n_accepted": int, "n_proposed": int, "n_nonfinite": int}

    def __init__(
        self,
        model: str | os.PathLike | BoltzmannGenerator,
        n_proposals: int,
        reassign_velocities: bool,
        timestep: Any,
    ) -> None:
        """Load the model, unless this process has it already."""
        super().__init__()
        if not isinstance(n_proposals, int | np.integer) or n_proposals < 1:
            raise InputError(f"n_proposals must be a positive whole number, not {n_proposals!r}.")
        self._path = registry.resolve(model)
        self._hash = registry.current_hash(self._path)
        self.n_proposals = int(n_proposals)
        self.reassign_velocities = bool(reassign_velocities)
        self.timestep = leap_frog_step(timestep)
        self.n_accepted = self.n_proposed = self.n_nonfinite = 0
        registry.load(self._path, self._hash, self._MODEL)  # a damaged model is refused now, not hours later

    @classmethod
    def __subclasshook__(cls, subclass: type) -> Any:
        """Let isinstance test for this class; openmmtools' hook accepts every object."""
        return NotImplemented

    @property
    def model(self) -> str:
        """The absolute path of the model directory."""
        return self._path

    @property
    def model_hash(self) -> str:
        """The hash of the model, by which a changed file is noticed."""
        return self._hash

    @property
    def generator(self) -> BoltzmannGenerator:
        """The model, which all moves of this process share."""
        return registry.load(self._path, self._hash, self._MODEL)

    @property
    def statistics(self) -> dict[str, Any]:
        """What changes from call to call, as plain numbers; openmmtools shares it between MPI processes."""
        return {name: getattr(self, name) for name in self._STATISTICS}

    @statistics.setter
    def statistics(self, value: dict[str, Any]) -> None:
        for name, kind in self._STATISTICS.items():
            setattr(self, name, kind(value[name]))

    @property
    def acceptance_fraction(self) -> float:
        """Accepted over made proposals; NaN before the first one."""
        return self.n_accepted / self.n_proposed if self.n_proposed else float("nan")

    def apply(
        self,
        thermodynamic_state: ThermodynamicState,
        sampler_state: SamplerState,
        context_cache: ContextCache | None = None,
    ) -> None:
        """Make ``n_proposals`` Metropolis-Hastings steps with a sampler state, which is changed in place.

        Args:
            thermodynamic_state: Gives the temperature and the energies.
            sampler_state: Gets new positions and velocities if a proposal is accepted, velocities also
                if it had none, and its energies in any case.
            context_cache: Where Contexts come from; openmmtools' global cache if not given.

        Raises:
            InputError: If the model does not fit the system, the system is not supported, or the
                current configuration lies outside the model's domain.
            ModelFileError: If the model is missing or was changed since the move was made.
        """
        cache = self._get_context_cache(context_cache)
        host = host_system(thermodynamic_state)
        generator = self.generator
        temperature = kelvin(thermodynamic_state.temperature)
        check_model(generator, host, temperature)

        start = torch.tensor(sampler_state.positions.value_in_unit(unit.nanometer), dtype=torch.float64)
        target = Target(
            generator.flow,
            temperature,
            lambda x: reduced_energies(thermodynamic_state, x, cache),
            lambda: energy_function_name(thermodynamic_state),
        )
        end = self.steps(target, start)

        if end is not start:
            sampler_state.positions = unit.Quantity(end.numpy().copy(), unit.nanometer)
        context, _ = cache.get_context(thermodynamic_state)
        if end is not start or self.reassign_velocities or sampler_state.velocities is None:
            sampler_state.velocities = new_velocities(
                context, end.numpy(), host.masses, temperature, self.timestep
            )
        # The Context is shared and holds another replica's velocities: set both before reading both.
        sampler_state.apply_to_context(context)
        sampler_state.update_from_context(context)

    def steps(self, target: Target, start: torch.Tensor) -> torch.Tensor:
        """Make ``n_proposals`` steps outside openmmtools, and count them.

        Args:
            target: What the steps have to keep.
            start: The current configuration [nm] with shape=(n_atoms, 3), float64.

        Returns:
            The final configuration; ``start`` itself if nothing was accepted.

        Raises:
            InputError: If the current configuration is not finite or outside the model's domain.
        """
        if not torch.isfinite(start).all():
            raise InputError("The current configuration contains NaN or infinite positions.")
        with torch.no_grad(), single_threaded():
            return self._steps(target, start)

    @abstractmethod
    def _steps(self, target: Target, start: torch.Tensor) -> torch.Tensor:
        """Make the steps, see `steps`."""

    def _count(self, log_weights: np.ndarray, n_accepted: int) -> None:
        """Count proposals, given their log-weights with shape=(n,)."""
        self.n_proposed += len(log_weights)
        self.n_accepted += n_accepted
        self.n_nonfinite += int(np.isneginf(log_weights).sum())

    def __getstate__(self) -> dict[str, Any]:
        """Return the state as a few scalars; the model itself stays in the registry."""
        settings = {name: getattr(self, name) for name in self._SETTINGS}
        return {"model": self._path, "model_hash": self._hash, **settings, **self.statistics}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, and check that the model is still there."""
        missing = {"model", "model_hash", *self._SETTINGS, *self._STATISTICS} - state.keys()
        if missing:  # a KeyError would leave openmmtools with a half-built move
            raise InputError(
                f"The stored state of a {type(self).__name__} lacks {', '.join(sorted(missing))}."
            )
        self._path = state["model"]
        self._hash = state["model_hash"]
        for name in self._SETTINGS:
            setattr(self, name, state[name])
        self.statistics = state
        registry.verify(self._path, self._hash)

    def __repr__(self) -> str:
        """Return the call that makes a move of these settings."""
        settings = "".join(f", {name}={getattr(self, name)!r}" for name in self._SETTINGS)
        return f"{type(self).__name__}({self._path!r}{settings})"


def check_model(generator: BoltzmannGenerator, host: HostSystem, temperature: float) -> None:
    """Refuse a model of another molecule; warn, once, of one that was made for other conditions.

    Args:
        generator: The model, as `registry.load` returned it.
        host: The host's system.
        temperature: The host's temperature [K].

    Raises:
        InputError: If the number of atoms differs.
    """
    n_model, n_host = generator.flow.n_atoms, len(host.masses)
    if n_model != n_host:
        raise InputError(
            f"The model {generator.path} has {n_model} atoms, but the system of the thermodynamic state has "
            f"{n_host} particles; use a model that was trained for this system."
        )
    key = str(generator.path)
    if generator.system_hash not in (None, host.system_hash):
        _warn_once(
            ("system", key, host.system_hash),
            f"The model {generator.path} was trained for another energy function than the host's; the chain "
            "is exact all the same, but few proposals may be accepted.",
        )
    low, high = generator.temperature_range
    # A little play: a range that ends at half the training temperature includes that half.
    if not low * (1 - 1e-9) <= temperature <= high * (1 + 1e-9):
        meant = f"{low:g} K" if low == high else f"{low:g}-{high:g} K"
        _warn_once(
            ("temperature", key),
            f"The model {generator.path} was made for {meant} and is used at {temperature:g} K; "
            "the chain is exact all the same, but few proposals may be accepted.",
        )


def leap_frog_step(timestep: Any) -> float | None:
    """Return the time step [ps] of a leap-frog integrator, or None if there is none.

    Raises:
        InputError: If dynamics cannot have it.
    """
    if timestep is None:
        return None
    step = picoseconds(timestep)
    if not 0 < step < 0.1:
        raise InputError(f"The time step must be between 0 and 0.1 ps, not {step:g} ps.")
    return step


def refuse_outside(model: str, log_density: float) -> None:
    """Raise an `InputError` if the current configuration has no density in a model's flow."""
    if not np.isfinite(log_density):
        raise InputError(
            f"The current configuration lies outside the domain of the model {model}: its chirality, or the "
            "labels of equivalent hydrogens, differ from the reference, and the move would never leave it; "
            "start from the configuration in the model's topology.pdb."
        )


def _warn_once(key: tuple[str, ...], message: str) -> None:
    if key not in _given_warnings:
        _given_warnings.add(key)
        warnings.warn(message, ReliabilityWarning, stacklevel=4)
