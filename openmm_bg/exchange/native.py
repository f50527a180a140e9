"""OpenMM's own replica-exchange sampler with moves by a flow."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
import torch
from openmm import app, unit

from openmm_bg.errors import InputError
from openmm_bg.mcmc.host import HostSystem, context_parameters, default_parameters, one_by_one
from openmm_bg.mcmc.proposal_move import ProposalMove, check_model
from openmm_bg.mcmc.target import Target
from openmm_bg.mcmc.velocities import new_velocities
from openmm_bg.units import kelvin, thermal_energy

if TYPE_CHECKING:
    from openmm.app import Simulation

    from openmm_bg.potentials import TorchPotential


# [kT, and relative] What two evaluations of the same energy may differ by, in single precision.
_SAME_KT, _SAME = 0.01, 1e-5
_DISPLACEMENT = 0.002  # [nm] of the configuration at which they are compared


class FlowReplicaExchangeSampler(app.ReplicaExchangeSampler):
    """`openmm.app.ReplicaExchangeSampler` in which flow moves come before the dynamics of every replica.

    It is used as OpenMM's, states, reporters and checkpoints included; the moves are those for openmmtools
    (`FlowMove`, `MultipleTryMove`, `LatentMonteCarloMove`), and each state has copies of its own. Energies are
    those of the simulation's Context in the replica's state, whatever the states differ in. They come from the
    batched potential where the Context has the parameters of its system and gives a configuration nearby the
    same energy; otherwise the Context evaluates one configuration after the other.

    Force groups are refused, in the states and in the integrator: OpenMM's dynamics and its energies would be of
    different forces.

    Example::

        move = FlowMove("model", n_proposals=16, timestep=0.0005)
        states = [{"temperature": t * kelvin} for t in (300, 600)]
        sampler = FlowReplicaExchangeSampler(states, simulation, 100, move)
        sampler.simulate(1000)
        print(sampler.moves[0][0].acceptance_fraction)

    Args:
        states: The states, as of `openmm.app.ReplicaExchangeSampler`.
        simulation: A simulation whose system has no constraints and no periodic box.
        stepsPerIteration: Steps of dynamics of each replica in an iteration.
        moves: The move, or several, to apply one after the other before the dynamics. Give them the integrator's
            time step as their ``timestep``, as OpenMM's Langevin integrators keep velocities half a step behind.
        reinitializeVelocities: Draw new velocities whenever a replica's state has changed.

    Attributes:
        moves: The moves of each state, which count their proposals.

    Raises:
        InputError: If a move, or its model, does not fit the system, or dynamics does not keep the states'
            distributions.
    """

    def __init__(
        self,
        states: list[dict[str, Any]],
        simulation: Simulation,
        stepsPerIteration: int,
        moves: ProposalMove | Sequence[ProposalMove],
        reinitializeVelocities: bool = False,
    ) -> None:
        """Check that the moves are exact for the system."""
        given = [moves] if isinstance(moves, ProposalMove | str) else list(moves)
        for move in given:
            if not isinstance(move, ProposalMove):
                raise InputError(
                    "The moves must be FlowMove, LatentMonteCarloMove, MultipleTryMove or CoarseGrainedMove, not "
                    f"{type(move).__name__}; dynamics are those of the Simulation."
                )
        _refuse_force_groups(states, simulation)
        super().__init__(states, simulation, stepsPerIteration, reinitializeVelocities)
        self._host = HostSystem(simulation.system)
        self._defaults = default_parameters(simulation.system)
        self.moves = [copy.deepcopy(given) for _ in states]
        for index in range(len(states)):
            for move in given:
                check_model(move.generator, self._host, self._temperature(index))

    def simulateReplica(self, index: int, steps: int | None = None) -> None:
        """Move a replica by the flow, and then simulate it for a number of steps."""
        state, context = self.replicaStateIndex[index], self.simulation.context
        temperature = self._temperature(state)
        positions = self.replicaConformation[index].getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        start = end = torch.tensor(np.array(positions), dtype=torch.float64)
        context.setState(self.replicaConformation[index])
        self._sampler.applyState(state)
        batched = self._fitting_potential(start, temperature)

        parameters = str(sorted(context_parameters(context).items()))

        def reduced_energies(x: torch.Tensor) -> np.ndarray:
            if batched is None:
                return self._context_energies(x, state)
            with torch.no_grad():
                return batched.energy(x).double().numpy() / thermal_energy(temperature)

        for move in self.moves[state]:
            target = Target(move.generator.flow, temperature, reduced_energies, lambda: parameters)
            end = move.steps(target, end)
        if end is not start or any(move.reassign_velocities for move in self.moves[state]):
            timestep = next((move.timestep for move in self.moves[state] if move.timestep is not None), None)
            masses = self._host.masses
            context.setVelocities(new_velocities(context, end.numpy(), masses, temperature, timestep))
            self.replicaConformation[index] = context.getState(
                positions=True, velocities=True, parameters=True, integratorParameters=True
            )
            self._previousReplicaStateIndex[index] = state  # the velocities are of this state already
        super().simulateReplica(index, steps)

    def _temperature(self, state: int) -> float:
        if "temperature" in self.states[state]:
            return kelvin(self.states[state]["temperature"])
        return kelvin(self.simulation.integrator.getTemperature())

    def _fitting_potential(self, positions: torch.Tensor, temperature: float) -> TorchPotential | None:
        """Return the batched potential if it has the energy function that the Context has at the moment.

        The Context's may change at any time, by ``setParameter``, ``updateParametersInContext`` or a checkpoint.
        This leaves it at other positions.

        Args:
            positions: The Context's positions [nm] with shape=(n_atoms, 3).
            temperature: The replica's temperature [K].
        """
        context, potential = self.simulation.context, self._host.potential
        if potential is None or context_parameters(context) != self._defaults:
            return None
        # At a minimum, where runs like to start, other energy functions may have the same value.
        noise = np.random.default_rng(0).normal(scale=_DISPLACEMENT, size=tuple(positions.shape))
        displaced = positions + torch.tensor(noise)
        (expected,) = one_by_one(context, displaced[None].numpy(), lambda: _energy(context))
        with torch.no_grad():
            found = float(potential.energy(displaced[None])[0])
        close = abs(found - expected) <= _SAME_KT * thermal_energy(temperature) + _SAME * abs(expected)
        return potential if close else None

    def _context_energies(self, positions: torch.Tensor, state: int) -> np.ndarray:
        """Return energies over kT in a state with shape=(batch,), +inf where they are not finite."""
        context, kT = self.simulation.context, thermal_energy(self._temperature(state))
        self._sampler.applyState(state)
        return one_by_one(context, positions.numpy(), lambda: _energy(context) / kT)


def _energy(context: openmm.Context) -> float:
    """Return a Context's potential energy [kJ/mol]."""
    return context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def _refuse_force_groups(states: list[dict[str, Any]], simulation: Simulation) -> None:
    if any("groups" in state for state in states):
        raise InputError(
            "States cannot differ in force groups, since OpenMM simulates all of them with the same forces: let "
            "them differ in a parameter of the Context that scales a force."
        )
    integrated = simulation.integrator.getIntegrationForceGroups()
    for force in simulation.system.getForces():
        if not integrated >> force.getForceGroup() & 1:
            raise InputError(
                f"The integrator leaves out the force group {force.getForceGroup()} ({force.getName()}), whose "
                "energy the exchanges contain: let it integrate all groups."
            )
