"""Langevin dynamics in openmmtools on the fused potential, for small molecules on a CPU."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from openmm import unit
from openmmtools.mcmc import LangevinDynamicsMove

from openmm_bg.errors import InputError
from openmm_bg.mcmc.host import HostSystem, batched_potential, host_system
from openmm_bg.mcmc.randomness import random_generator
from openmm_bg.mcmc.velocities import new_velocities
from openmm_bg.simulation.checks import per_picosecond, time_step, whole_number
from openmm_bg.simulation.single_molecule import SingleMoleculeDynamics
from openmm_bg.units import kelvin, picoseconds

if TYPE_CHECKING:
    from openmmtools.cache import ContextCache
    from openmmtools.states import SamplerState, ThermodynamicState

_NM_PER_PS = unit.nanometer / unit.picosecond

# openmmtools copies moves all the time, and machine code is compiled once; a thread has arrays of its own.
_dynamics: dict[tuple[Any, ...], SingleMoleculeDynamics] = {}


class FusedLangevinMove(LangevinDynamicsMove):
    """openmmtools' `LangevinDynamicsMove` on the fused potential instead of an OpenMM Context.

    The machine code of `TorchPotential` makes several steps in the time of one of OpenMM's where a small molecule's
    implicit solvent is a ``CustomGBForce``; elsewhere there is little to gain (``scripts/benchmark_dynamics.py``).
    The integrator is the same, ``LangevinMiddleIntegrator``, in double precision, and so is the meaning of
    velocities, so that the two moves can take turns in a run. A ``CMMotionRemover`` of the system is obeyed.
    Random numbers are those of all moves of this package (`openmm_bg.mcmc.seed`).

    Args:
        timestep: Time step, a number of picoseconds or a quantity.
        collision_rate: Collision rate, a number per picosecond or a quantity.
        n_steps: Steps in each application.
        reassign_velocities: Draw new velocities at each application.
        **kwargs: As of `LangevinDynamicsMove`: ``n_restart_attempts`` is how often dynamics that explode are
            started again before the run is given up.

    Raises:
        InputError: If a number cannot be used.
    """

    def __init__(
        self,
        timestep: Any = 1.0 * unit.femtosecond,
        collision_rate: Any = 1.0 / unit.picosecond,
        n_steps: int = 1000,
        reassign_velocities: bool = False,
        **kwargs: Any,
    ) -> None:
        """Check the settings; the system is checked when the move is applied."""
        super().__init__(
            timestep=time_step(timestep) * unit.picosecond,
            collision_rate=per_picosecond("collision rate", collision_rate) / unit.picosecond,
            n_steps=whole_number("number of steps", n_steps, least=1),
            reassign_velocities=bool(reassign_velocities),
            **kwargs,
        )

    def apply(
        self,
        thermodynamic_state: ThermodynamicState,
        sampler_state: SamplerState,
        context_cache: ContextCache | None = None,
    ) -> None:
        """Propagate a sampler state, which is changed in place.

        Args:
            thermodynamic_state: Gives the temperature and the energy function.
            sampler_state: Gets new positions, velocities and energies. If it has no velocities, they are drawn.
            context_cache: Where Contexts come from; openmmtools' global cache if not given.

        Raises:
            InputError: If the system has a force that cannot be fused, the state has parameters, the molecule
                has constraints or a periodic box, or dynamics explode at every attempt.
        """
        cache = self._get_context_cache(context_cache)
        host = host_system(thermodynamic_state)
        dynamics = _dynamics_of(thermodynamic_state, host, cache)
        temperature, timestep = kelvin(thermodynamic_state.temperature), picoseconds(self.timestep)
        start = sampler_state.positions.value_in_unit(unit.nanometer)
        context, _ = cache.get_context(thermodynamic_state)
        for _ in range(self.n_restart_attempts + 1):
            velocities = sampler_state.velocities
            if self.reassign_velocities or velocities is None:
                velocities = new_velocities(context, start, host.masses, temperature, timestep)
            positions, velocities, energy = dynamics.run(
                start,
                velocities.value_in_unit(_NM_PER_PS),
                self.n_steps,
                timestep=timestep,
                friction=per_picosecond("collision rate", self.collision_rate),
                temperature=temperature,
                generator=random_generator(),
            )
            if np.isfinite(energy):
                break
        else:
            raise InputError(
                f"Dynamics with steps of {timestep:g} ps came to a non-finite energy at "
                f"{self.n_restart_attempts + 1} attempts; use a shorter time step, or minimise the energy first."
            )
        sampler_state.positions = unit.Quantity(positions, unit.nanometer)
        sampler_state.velocities = unit.Quantity(velocities, _NM_PER_PS)
        # The Context is shared and holds another replica's velocities: set both before reading both.
        sampler_state.apply_to_context(context)
        sampler_state.update_from_context(context)


def _dynamics_of(
    thermodynamic_state: ThermodynamicState, host: HostSystem, cache: ContextCache
) -> SingleMoleculeDynamics:
    """Return the dynamics of a host's system, made once in a thread.

    Raises:
        InputError: If the potential cannot be fused.
    """
    potential = batched_potential(thermodynamic_state, cache)
    if potential is None:
        raise InputError(
            "The energy of this thermodynamic state cannot be fused to machine code: it is a compound state, or "
            "its System has a force that is not supported; use openmmtools' LangevinDynamicsMove."
        )
    interval = removal_interval(host)
    key = (threading.get_ident(), id(potential), host.masses.tobytes(), interval)
    if key not in _dynamics:
        _dynamics[key] = SingleMoleculeDynamics(potential, host.masses, interval)
    return _dynamics[key]


def removal_interval(host: HostSystem) -> int | None:
    """Return the steps between two removals of the motion of the centre of mass; None if there are none."""
    import openmm

    removers = [force for force in host.system.getForces() if isinstance(force, openmm.CMMotionRemover)]
    return min((force.getFrequency() for force in removers), default=None)
