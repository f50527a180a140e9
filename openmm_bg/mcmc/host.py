"""Energies of the host: of the thermodynamic state that openmmtools hands to a move."""

from __future__ import annotations

import logging
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


def reduced_energies(
    thermodynamic_state: ThermodynamicState, positions: torch.Tensor, context_cache: ContextCache
) -> np.ndarray:
    """Return the reduced energies of a batch of configurations in a thermodynamic state.

    A plain `ThermodynamicState` is evaluated as one batch, by a translation of its system. Every other
    state (compound states with their parameters, systems with forces that cannot be translated) is
    evaluated by its own Context, one configuration after the other.

    Args:
        thermodynamic_state: The host's state.
        positions: Configurations [nm] with shape=(batch, n_atoms, 3), float64. NaN is allowed.
        context_cache: Where Contexts come from.

    Returns:
        Energies over kT with shape=(batch,), ``+inf`` where they are not finite.
    """
    from openmmtools.states import ThermodynamicState

    host = host_system(thermodynamic_state)
    # Subclasses may add to the energy; their standard system leaves parameters out.
    if type(thermodynamic_state) is ThermodynamicState and host.potential is not None:
        with torch.no_grad():
            energies = host.potential.energy(positions).double().cpu().numpy()
        return energies / thermal_energy(thermodynamic_state.temperature)
    return _context_energies(thermodynamic_state, positions.numpy(), context_cache)


def _context_energies(
    thermodynamic_state: ThermodynamicState, positions: np.ndarray, context_cache: ContextCache
) -> np.ndarray:
    import openmm

    context, _ = context_cache.get_context(thermodynamic_state)
    energies = np.full(len(positions), np.inf)
    for k, configuration in enumerate(positions):
        # The CPU platform raises at NaN positions and keeps them, so they must not get there.
        if not np.isfinite(configuration).all():
            continue
        try:
            context.setPositions(configuration)
            energy = float(thermodynamic_state.reduced_potential(context))
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
