"""An openmmtools move that proposes whole configurations from a trained flow."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from openmm import unit
from openmmtools.mcmc import MCMCMove

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.mcmc import registry
from openmm_bg.mcmc.host import HostSystem, host_system, reduced_energies
from openmm_bg.mcmc.randomness import random_generator
from openmm_bg.units import BOLTZMANN_CONSTANT, kelvin, picoseconds

if TYPE_CHECKING:
    import os

    import openmm
    from openmmtools.cache import ContextCache
    from openmmtools.states import SamplerState, ThermodynamicState

    from openmm_bg.generator import BoltzmannGenerator

_COUNTERS = ("n_accepted", "n_proposed", "n_nonfinite")
_given_warnings: set[tuple[str, ...]] = set()


class FlowMove(MCMCMove):
    r"""Independence Metropolis-Hastings with a Boltzmann generator's flow as the proposal density.

    In each call ``n_proposals`` configurations y are drawn from the flow q at the host's temperature
    and offered one after the other to the current configuration x, with the acceptance probability
    (Hastings 1970)

    .. math:: \min\{1, \exp[-u(y) + u(x) - \log q(y) + \log q(x)]\}

    where u is the reduced potential of the host's thermodynamic state, whatever its system is. All
    densities come from the same ``flow.log_prob`` and all energies from one batch. A proposal takes
    over the position of the current configuration's seed atom and its orientation, so that the chain
    is exact for Cartesian positions, restraints in the lab frame included. Since the frame stays, and
    a flow may miss what it was not trained on, use the move in a `SequenceMove` with dynamics.

    After an acceptance all velocities are drawn from the Maxwell-Boltzmann distribution. Random
    numbers come from `openmm_bg.mcmc.seed`'s stream.

    Args:
        model: The directory of a saved model, or a generator that was saved to or loaded from one.
        n_proposals: Proposals in each call.
        reassign_velocities: Draw new velocities in every call, not only after an acceptance. In a
            replica-exchange run of short dynamics this keeps the exchanges exact, since openmmtools
            hands velocities to another temperature as they are.
        timestep: The time step [ps] of a leap-frog integrator that continues from the new velocities, as
            openmmtools' `LangevinDynamicsMove` does. It keeps velocities half a step behind the positions;
            velocities drawn for the positions' own time would set stiff bonds ringing (in alanine dipeptide
            at 1 fs, by 2 kT within 10 fs), which biases short runs. Leave it out before moves that keep both at the
            same time, e.g. `HMCMove`, `GHMCMove`, `LangevinSplittingDynamicsMove`.

    Attributes:
        n_accepted: Proposals accepted so far.
        n_proposed: Proposals made so far.
        n_nonfinite: Proposals rejected so far since they had no finite energy or density.

    Raises:
        ModelFileError: If there is no model, or it is damaged.
        InputError: If another argument cannot be used.
    """

    def __init__(
        self,
        model: str | os.PathLike | BoltzmannGenerator,
        n_proposals: int = 16,
        reassign_velocities: bool = False,
        timestep: Any = None,
    ) -> None:
        """Load the model, unless this process has it already."""
        super().__init__()
        if not isinstance(n_proposals, int | np.integer) or n_proposals < 1:
            raise InputError(f"n_proposals must be a positive whole number, not {n_proposals!r}.")
        self._path = registry.resolve(model)
        self._hash = registry.current_hash(self._path)
        self.n_proposals = int(n_proposals)
        self.reassign_velocities = bool(reassign_velocities)
        self.timestep = None if timestep is None else picoseconds(timestep)
        if self.timestep is not None and not 0 < self.timestep < 0.1:
            raise InputError(f"The time step must be between 0 and 0.1 ps, not {self.timestep:g} ps.")
        self.n_accepted = self.n_proposed = self.n_nonfinite = 0
        registry.load(self._path, self._hash)  # a damaged model is refused now, not hours later

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
        return registry.load(self._path, self._hash)

    @property
    def statistics(self) -> dict[str, int]:
        """Accepted, proposed and non-finite proposals so far."""
        return {name: getattr(self, name) for name in _COUNTERS}

    @statistics.setter
    def statistics(self, value: dict[str, int]) -> None:
        for name in _COUNTERS:
            setattr(self, name, int(value[name]))

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
        """Offer ``n_proposals`` configurations to a sampler state, which is changed in place.

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
        self._check(generator, host, temperature)

        current = torch.tensor(sampler_state.positions.value_in_unit(unit.nanometer), dtype=torch.float64)
        if not torch.isfinite(current).all():
            raise InputError("The current configuration contains NaN or infinite positions.")
        candidates, log_q = self._draw(generator, temperature, current)
        reduced = reduced_energies(thermodynamic_state, candidates, cache)
        accepted, chosen = self._walk(reduced, log_q)

        self.n_proposed += self.n_proposals
        self.n_accepted += accepted
        self.n_nonfinite += int((~_has_weight(reduced, log_q))[1:].sum())
        if accepted:
            sampler_state.positions = unit.Quantity(candidates[chosen].numpy().copy(), unit.nanometer)
        renewed = accepted or self.reassign_velocities or sampler_state.velocities is None
        if renewed:
            sampler_state.velocities = _maxwell_boltzmann(host.masses, temperature)
        # The Context is shared and holds another replica's velocities: set both before reading both.
        context, _ = cache.get_context(thermodynamic_state)
        sampler_state.apply_to_context(context)
        if renewed and self.timestep is not None:
            sampler_state.velocities -= _half_kick(context, host.masses, self.timestep)
            sampler_state.apply_to_context(context)
        sampler_state.update_from_context(context)

    def _check(self, generator: BoltzmannGenerator, host: HostSystem, temperature: float) -> None:
        """Refuse a model of another molecule; warn, once, of one that was made for other conditions."""
        n_model, n_host = generator.flow.n_atoms, len(host.masses)
        if n_model != n_host:
            raise InputError(
                f"The model {self._path} has {n_model} atoms, but the system of the thermodynamic state has "
                f"{n_host} particles; use a model that was trained for this system."
            )
        if generator.system_hash not in (None, host.system_hash):
            _warn_once(
                ("system", self._hash, host.system_hash),
                f"The model {self._path} was trained for another energy function than the host's; the chain "
                "is exact all the same, but few proposals may be accepted.",
            )
        low, high = generator.temperature_range
        # A little play: a range that ends at half the training temperature includes that half.
        if not low * (1 - 1e-9) <= temperature <= high * (1 + 1e-9):
            _warn_once(
                ("temperature", self._hash),
                f"The model {self._path} was made for {low:g}-{high:g} K and is used at {temperature:g} K; "
                "the chain is exact all the same, but few proposals may be accepted.",
            )

    def _draw(
        self, generator: BoltzmannGenerator, temperature: float, current: torch.Tensor
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Return the current configuration followed by the proposals, and log q of each."""
        flow = generator.flow
        with torch.no_grad():
            proposals, _ = flow.sample(
                self.n_proposals, temperature, generator=random_generator(), frame=current
            )
            candidates = torch.cat([current[None], proposals.to(torch.float64)])
            finite = torch.isfinite(candidates).all(dim=(1, 2))
            # Both densities of a ratio come from the same code, and draws outside the domain have none.
            log_q = torch.full((len(candidates),), -torch.inf, dtype=torch.float64)
            log_q[finite] = flow.log_prob(candidates[finite], temperature).to(torch.float64)
        if not torch.isfinite(log_q[0]):
            raise InputError(
                f"The current configuration lies outside the domain of the model {self._path}: "
                "its chirality, or the labels of equivalent hydrogens, differ from the reference, and "
                "the move would never leave it; start from the configuration in the model's topology.pdb."
            )
        return candidates, log_q.numpy()

    @staticmethod
    def _walk(reduced: np.ndarray, log_q: np.ndarray) -> tuple[int, int]:
        """Offer candidates 1, 2, ... in turn, starting from candidate 0.

        Args:
            reduced: Reduced energies with shape=(1 + n_proposals,).
            log_q: Log densities of the proposal with shape=(1 + n_proposals,).

        Returns:
            The number of acceptances and the index of the final configuration.
        """
        uniform = torch.rand(len(reduced), dtype=torch.float64, generator=random_generator()).numpy()
        log_weights = _log_weights(reduced, log_q)
        allowed = _has_weight(reduced, log_q)
        accepted = chosen = 0
        for k in range(1, len(reduced)):
            # A start with infinite energy has weight zero, and any allowed proposal is better.
            if allowed[k] and np.log1p(-uniform[k]) <= log_weights[k] - log_weights[chosen]:
                accepted, chosen = accepted + 1, k
        return accepted, chosen

    def __getstate__(self) -> dict[str, Any]:
        """Return the state as a few scalars; the model itself stays in the registry."""
        return {
            "model": self._path,
            "model_hash": self._hash,
            "n_proposals": self.n_proposals,
            "reassign_velocities": self.reassign_velocities,
            "timestep": self.timestep,
            **self.statistics,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, and check that the model is still there."""
        missing = {
            "model",
            "model_hash",
            "n_proposals",
            "reassign_velocities",
            "timestep",
            *_COUNTERS,
        } - state.keys()
        if missing:  # a KeyError would leave openmmtools with a half-built move
            raise InputError(f"The stored state of a FlowMove lacks {', '.join(sorted(missing))}.")
        self._path = state["model"]
        self._hash = state["model_hash"]
        self.n_proposals = int(state["n_proposals"])
        self.reassign_velocities = bool(state["reassign_velocities"])
        self.timestep = state["timestep"]
        self.statistics = state
        registry.verify(self._path, self._hash)

    def __repr__(self) -> str:
        """Return the call that makes this move."""
        return f"FlowMove({self._path!r}, n_proposals={self.n_proposals})"


def _log_weights(reduced: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Return the log of target over proposal density, up to a constant; NaN where both are zero."""
    with np.errstate(invalid="ignore"):
        return -reduced - log_q


def _has_weight(reduced: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Tell which configurations have a finite energy and a finite density."""
    return np.isfinite(reduced) & np.isfinite(log_q)


def _maxwell_boltzmann(masses: np.ndarray, temperature: float) -> unit.Quantity:
    """Draw velocities [nm/ps] with shape=(n_atoms, 3); masses in Da, so kT/m is in nm^2/ps^2."""
    noise = torch.randn(len(masses), 3, dtype=torch.float64, generator=random_generator()).numpy()
    width = np.sqrt(BOLTZMANN_CONSTANT * temperature / masses)
    return unit.Quantity(noise * width[:, None], unit.nanometer / unit.picosecond)


def _half_kick(context: openmm.Context, masses: np.ndarray, timestep: float) -> unit.Quantity:
    """Return the change of the velocities in half a time step [ps] under a Context's forces."""
    forces = context.getState(forces=True).getForces(asNumpy=True)
    plain = forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return unit.Quantity(0.5 * timestep * plain / masses[:, None], unit.nanometer / unit.picosecond)


def _warn_once(key: tuple[str, ...], message: str) -> None:
    if key not in _given_warnings:
        _given_warnings.add(key)
        warnings.warn(message, ReliabilityWarning, stacklevel=4)
