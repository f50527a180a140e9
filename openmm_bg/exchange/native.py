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
from openmm_bg.mcmc.host import HostSystem
from openmm_bg.mcmc.proposal_move import ProposalMove, check_model
from openmm_bg.mcmc.target import Target
from openmm_bg.mcmc.velocities import half_kick, maxwell_boltzmann
from openmm_bg.units import kelvin, thermal_energy

if TYPE_CHECKING:
    from openmm.app import Simulation


class FlowReplicaExchangeSampler(app.ReplicaExchangeSampler):
    """`openmm.app.ReplicaExchangeSampler` in which flow moves come before the dynamics of every replica.

    It is used as OpenMM's, states, reporters and checkpoints included; the moves are those for openmmtools
    (`FlowMove`, `MultipleTryMove`, `LatentMonteCarloMove`), and each state has copies of its own. Energies are
    those of the simulation's Context in the replica's state, whatever the states differ in. If it is the
    temperature alone, they come from the batched potential.

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
        InputError: If a move, or its model, does not fit the system.
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
        given = [moves] if isinstance(moves, ProposalMove) else list(moves)
        for move in given:
            if not isinstance(move, ProposalMove):
                raise InputError(
                    f"The moves must be those of openmm_bg.mcmc, such as FlowMove, not {move!r}."
                )
        super().__init__(states, simulation, stepsPerIteration, reinitializeVelocities)
        self._host = HostSystem(simulation.system)
        self.moves = [copy.deepcopy(given) for _ in states]
        for index in range(len(states)):
            for move in given:
                check_model(move.generator, self._host, self._temperature(index))
        own = {key for state in states for key in state} - {"temperature"}
        plain = not own and _parameters_are_the_systems(simulation.context)
        self._batched = self._host.potential if plain else None

    def simulateReplica(self, index: int, steps: int | None = None) -> None:
        """Move a replica by the flow, and then simulate it for a number of steps."""
        state, context = self.replicaStateIndex[index], self.simulation.context
        temperature = self._temperature(state)
        positions = self.replicaConformation[index].getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        start = end = torch.tensor(np.array(positions), dtype=torch.float64)
        context.setState(self.replicaConformation[index])
        self._sampler.applyState(state)
        for move in self.moves[state]:
            target = Target(move.generator.flow, temperature, lambda x: self._reduced_energies(x, state))
            end = move.steps(target, end)
        if end is not start or any(move.reassign_velocities for move in self.moves[state]):
            context.setPositions(end.numpy())
            velocities = maxwell_boltzmann(self._host.masses, temperature)
            timestep = next((move.timestep for move in self.moves[state] if move.timestep is not None), None)
            if timestep is not None:
                velocities -= half_kick(context, self._host.masses, timestep)
            context.setVelocities(velocities)
            self.replicaConformation[index] = context.getState(
                positions=True, velocities=True, parameters=True, integratorParameters=True
            )
            self._previousReplicaStateIndex[index] = state  # the velocities are of this state already
        super().simulateReplica(index, steps)

    def _temperature(self, state: int) -> float:
        if "temperature" in self.states[state]:
            return kelvin(self.states[state]["temperature"])
        return kelvin(self.simulation.integrator.getTemperature())

    def _reduced_energies(self, positions: torch.Tensor, state: int) -> np.ndarray:
        """Return energies over kT in a state with shape=(batch,), +inf where they are not finite."""
        temperature = self._temperature(state)
        if self._batched is not None:
            with torch.no_grad():
                return self._batched.energy(positions).double().numpy() / thermal_energy(temperature)
        energies = np.full(len(positions), np.inf)
        for k, configuration in enumerate(positions.numpy()):
            # The CPU platform raises at NaN positions and keeps them, so they must not get there.
            if not np.isfinite(configuration).all():
                continue
            self.simulation.context.setPositions(configuration)
            energy = self._sampler.computeEnergy(state).value_in_unit(unit.kilojoule_per_mole)
            if np.isfinite(energy):
                energies[k] = energy / thermal_energy(temperature)
        return energies


def _parameters_are_the_systems(context: openmm.Context) -> bool:
    """Return whether a Context's parameters have the values that the system gives them."""
    fresh = openmm.Context(
        context.getSystem(),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    return dict(context.getParameters()) == dict(fresh.getParameters())
