"""Energies of the host: of the thermodynamic state that openmmtools hands to a move."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.systems import check_system
from openmm_bg.systems.molecular_system import system_hash
from openmm_bg.units import thermal_energy

if TYPE_CHECKING:
    import openmm
    from openmmtools.cache import ContextCache
    from openmmtools.states import ThermodynamicState

    from openmm_bg.potentials import TorchPotential

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HostSystem:
    """What a move needs to know of a host's system, worked out once.

    Args:
        system: The system, without thermostat.
        masses: The particles' masses [Da] with shape=(n_atoms,).

    Attributes:
        system_hash: The hash of the energy function, see `openmm_bg.systems`.
    """

    system: openmm.System
    masses: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Check that the move is exact for this system, and read the masses."""
        from openmm import unit

        check_system(self.system)
        particles = range(self.system.getNumParticles())
        masses = [self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in particles]
        object.__setattr__(self, "masses", np.array(masses))

    @cached_property
    def system_hash(self) -> str:
        """The hash of the energy function."""
        return system_hash(self.system)

    @cached_property
    def potential(self) -> TorchPotential | None:
        """The batched potential; None if the system has a force that cannot be translated."""
        if self.system_hash not in _potentials:
            _potentials[self.system_hash] = _translate(self.system)
        return _potentials[self.system_hash]


# openmmtools shares one standard system between all states that differ in temperature alone, copies
# and restored states included, and replaces it when it changes: its identity is an exact and free key.
# It is also shared with states that have parameters (compound ones), whose own systems may differ from that of a
# plain state in the values of these: what is known of one type of state is not used for another.
_hosts: WeakKeyDictionary[openmm.System, dict[type, HostSystem]] = WeakKeyDictionary()
_potentials: dict[str, TorchPotential | None] = {}
_defaults: WeakKeyDictionary[openmm.System, dict[str, float]] = WeakKeyDictionary()


def host_system(thermodynamic_state: ThermodynamicState) -> HostSystem:
    """Return what is known of the system of a thermodynamic state, checked when it is first seen.

    Raises:
        InputError: If it has constraints, virtual sites, massless particles, a barostat or a
            periodic box.
    """
    key = getattr(thermodynamic_state, "_standard_system", None)
    kind = type(thermodynamic_state)
    host = None if key is None else _hosts.get(key, {}).get(kind)
    if host is None:
        host = HostSystem(thermodynamic_state.get_system(remove_thermostat=True))
        if key is not None:
            _hosts.setdefault(key, {})[kind] = host
    return host


def energy_function_name(thermodynamic_state: ThermodynamicState) -> str:
    """Return a name of the energy function of a thermodynamic state that no other one has."""
    from openmmtools.states import ThermodynamicState

    if type(thermodynamic_state) is ThermodynamicState:
        return host_system(thermodynamic_state).system_hash
    # The parameters of a compound state are those of its system.
    return system_hash(thermodynamic_state.get_system(remove_thermostat=True))


def context_parameters(context: openmm.Context) -> dict[str, float]:
    """Return the parameters of a Context that may change the energy: all but those of thermostats."""
    import openmm

    thermostat = openmm.AndersenThermostat
    ignored = (thermostat.Temperature(), thermostat.CollisionFrequency())
    return {name: value for name, value in dict(context.getParameters()).items() if name not in ignored}


def default_parameters(system: openmm.System) -> dict[str, float]:
    """Return the values that a system gives to the parameters of a new Context, see `context_parameters`."""
    import openmm

    if system not in _defaults:
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        _defaults[system] = context_parameters(context)
    return _defaults[system]


def reduced_energies(
    thermodynamic_state: ThermodynamicState, positions: torch.Tensor, context_cache: ContextCache
) -> np.ndarray:
    """Return the reduced energies of a batch of configurations in a thermodynamic state.

    A plain `ThermodynamicState` is evaluated as one batch, by a translation of its system. Every other
    state (compound states with their parameters, systems with forces that cannot be translated) is
    evaluated by its own Context, one configuration after the other.

    The energy function is that of the state's own System: parameters that no composable state controls have
    their default values. openmmtools does not set these in its Contexts, which compatible states share, so they may
    have been changed by another state, or by a script's ``context.setParameter``. Such a Context is refused.

    Args:
        thermodynamic_state: The host's state.
        positions: Configurations [nm] with shape=(batch, n_atoms, 3), float64. NaN is allowed.
        context_cache: Where Contexts come from.

    Returns:
        Energies over kT with shape=(batch,), ``+inf`` where they are not finite.

    Raises:
        InputError: If the system is not supported, or a parameter of the Context has another value than in it.
    """
    batched = batched_potential(thermodynamic_state, context_cache)
    if batched is None:
        context, _ = context_cache.get_context(thermodynamic_state)
        return one_by_one(context, positions.numpy(), lambda: thermodynamic_state.reduced_potential(context))
    with torch.no_grad():
        energies = batched.energy(positions).double().cpu().numpy()
    return energies / thermal_energy(thermodynamic_state.temperature)


def batched_potential(
    thermodynamic_state: ThermodynamicState, context_cache: ContextCache
) -> TorchPotential | None:
    """Return the potential of a state; None if only its Context knows the energies, see `reduced_energies`.

    Raises:
        InputError: If the system is not supported, or a parameter of the Context has another value than in it.
    """
    from openmmtools.states import ThermodynamicState

    host = host_system(thermodynamic_state)
    # Subclasses may add to the energy; their standard system leaves parameters out.
    batched = host.potential if type(thermodynamic_state) is ThermodynamicState else None
    standard = getattr(thermodynamic_state, "_standard_system", None)
    defaults = {} if standard is None else default_parameters(standard)
    if batched is None or defaults:
        context, _ = context_cache.get_context(thermodynamic_state)
        _refuse_other_parameters(thermodynamic_state, context, defaults)
    return batched


def _refuse_other_parameters(
    thermodynamic_state: ThermodynamicState, context: openmm.Context, defaults: dict[str, float]
) -> None:
    """Refuse a Context whose parameters the state neither controls nor has at their default values."""
    found = context_parameters(context)
    changed = {name: value for name, value in defaults.items() if found[name] != value}
    for name, value in changed.items():
        context.setParameter(name, value)
    if changed:
        thermodynamic_state.apply_to_context(context)
    expected = {name: context.getParameter(name) for name in changed}
    for name in changed:
        context.setParameter(name, found[name])
    for name, value in expected.items():
        if found[name] != value:
            raise InputError(
                f"The Context of this thermodynamic state has {name} = {found[name]:g}, but its System {value:g}: "
                "another state that shares the Context has set it, or a script; control it by a "
                "CompoundThermodynamicState with a GlobalParameterState, or give each state its own ContextCache."
            )


def one_by_one(
    context: openmm.Context, positions: np.ndarray, reduced_energy: Callable[[], float]
) -> np.ndarray:
    """Evaluate configurations in a Context.

    Args:
        context: The Context, which is left at one of them.
        positions: Configurations [nm] with shape=(batch, n_atoms, 3). NaN is allowed.
        reduced_energy: Returns the reduced energy of the Context as it is.

    Returns:
        Energies over kT with shape=(batch,), ``+inf`` where they are not finite.
    """
    import openmm

    energies = np.full(len(positions), np.inf)
    for k, configuration in enumerate(positions):
        # The CPU platform raises at NaN positions and keeps them, so they must not get there.
        if not np.isfinite(configuration).all():
            continue
        try:
            context.setPositions(configuration)
            energy = float(reduced_energy())
        except openmm.OpenMMException as error:
            logger.debug("A proposal has no energy: %s", error)
            continue
        if np.isfinite(energy):
            energies[k] = energy
    return energies


def _translate(system: Any) -> TorchPotential | None:
    from openmm_bg.potentials import TorchPotential

    try:
        return TorchPotential.from_system(system, dtype=torch.float64)
    except InputError as error:
        logger.warning("The host's energies come from its Context, one configuration at a time: %s", error)
        return None
