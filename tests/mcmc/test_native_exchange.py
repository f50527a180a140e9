"""OpenMM's own replica exchange with flow moves: the same distribution, whatever the states differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from scipy import stats

from openmm_bg import mcmc
from openmm_bg.errors import InputError
from openmm_bg.exchange import FlowReplicaExchangeSampler
from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, MultipleTryMove
from openmm_bg.mcmc.target import Target
from openmm_bg.statistics import chain_mean
from openmm_bg.units import thermal_energy

STIFFNESS = 50_000.0  # [kJ/mol/nm^2]
TEMPERATURES = (270.0, 345.0)


def simulation(parameter: bool = False) -> app.Simulation:
    """A particle on a spring, whose stiffness may be a parameter of the Context."""
    system, topology = openmm.System(), app.Topology()
    system.addParticle(39.948)
    topology.addAtom("AR", app.Element.getBySymbol("Ar"), topology.addResidue("AR", topology.addChain()))
    force = openmm.CustomExternalForce("0.5 * stiffness * scale * (x^2 + y^2 + z^2)")
    force.addGlobalParameter("stiffness", STIFFNESS)
    force.addPerParticleParameter("scale")
    force.addParticle(0, [1.0])
    system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(
        TEMPERATURES[0] * unit.kelvin, 1.0 / unit.picosecond, 0.001 * unit.picosecond
    )
    integrator.setRandomNumberSeed(1)
    made = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    made.context.setPositions(np.zeros((1, 3)))
    made.context.setVelocitiesToTemperature(TEMPERATURES[0], 2)
    if parameter:
        made.context.setParameter("stiffness", 2.0 * STIFFNESS)
    return made


def variances(sampler: FlowReplicaExchangeSampler, n_iterations: int) -> list[tuple[float, float]]:
    """Return <x^2> of each state with its error, over all three directions."""
    squares = np.empty((n_iterations, len(sampler.states)))

    def report(sampler: Any) -> None:
        for replica, state in enumerate(sampler.replicaStateIndex):
            x = sampler.replicaConformation[replica].getPositions(asNumpy=True)._value
            squares[sampler.currentIteration - 1, state] = (x**2).mean()

    sampler.reporters.append(report)
    sampler.simulate(n_iterations)
    return [chain_mean(squares[:, k]) for k in range(squares.shape[1])]


@pytest.mark.parametrize("kind", [FlowMove, MultipleTryMove, LatentMonteCarloMove])
def test_each_temperature_has_its_distribution(oscillator_model: Path, kind: Any) -> None:
    mcmc.seed(1)
    settings = {"n_tuning": 0, "step_size": 1.0} if kind is LatentMonteCarloMove else {}
    move = kind(oscillator_model, n_proposals=4, timestep=0.001, **settings)
    states = [{"temperature": t * unit.kelvin} for t in TEMPERATURES]
    sampler = FlowReplicaExchangeSampler(states, simulation(), 3, move)
    assert sampler._fitting_potential(torch.zeros(1, 3), TEMPERATURES[0]) is not None
    for (value, stderr), t in zip(variances(sampler, 240), TEMPERATURES, strict=True):
        assert abs(value - thermal_energy(t) / STIFFNESS) < 4 * stderr
    assert [one.n_proposed for (one,) in sampler.moves] == [960, 960]
    assert min(one.acceptance_fraction for (one,) in sampler.moves) > 0.1


def test_a_wrong_ratio_is_noticed(
    oscillator_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Target, "log_weights", lambda self, reduced, momenta, log_density: -reduced + 0.0 * log_density
    )
    mcmc.seed(1)
    states = [{"temperature": t * unit.kelvin} for t in TEMPERATURES]
    move = MultipleTryMove(oscillator_models["real_nvp"], 64)
    found = variances(FlowReplicaExchangeSampler(states, simulation(), 1, move), 240)
    exact = [thermal_energy(t) / STIFFNESS for t in TEMPERATURES]
    assert max(abs(v - e) / s for (v, s), e in zip(found, exact, strict=True)) > 6


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_states_may_differ_in_parameters(oscillator_model: Path) -> None:
    mcmc.seed(1)
    states = [{"stiffness": s} for s in (STIFFNESS, 2.0 * STIFFNESS)]
    sampler = FlowReplicaExchangeSampler(states, simulation(), 3, [FlowMove(oscillator_model, 4)])
    sampler._sampler.applyState(1)
    assert sampler._fitting_potential(torch.zeros(1, 3), TEMPERATURES[0]) is None
    for (value, stderr), state in zip(variances(sampler, 240), states, strict=True):
        assert abs(value - thermal_energy(TEMPERATURES[0]) / state["stiffness"]) < 4 * stderr


def test_a_parameter_that_was_changed_in_the_context_counts(oscillator_model: Path) -> None:
    mcmc.seed(1)
    states = [{"temperature": t * unit.kelvin} for t in TEMPERATURES]
    sampler = FlowReplicaExchangeSampler(states, simulation(parameter=True), 3, FlowMove(oscillator_model, 4))
    for (value, stderr), t in zip(variances(sampler, 240), TEMPERATURES, strict=True):
        assert abs(value - thermal_energy(t) / (2.0 * STIFFNESS)) < 4 * stderr


def _set_parameter(sampler: FlowReplicaExchangeSampler) -> None:
    """Of all replicas, as a checkpoint of another simulation does."""
    context = sampler.simulation.context
    context.setParameter("stiffness", 2.0 * STIFFNESS)
    state = context.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
    sampler.replicaConformation = [state] * len(sampler.states)


def _update_parameters(sampler: FlowReplicaExchangeSampler) -> None:
    (force,) = sampler.simulation.system.getForces()
    force.setParticleParameters(0, 0, [2.0])
    force.updateParametersInContext(sampler.simulation.context)


@pytest.mark.parametrize("change", [_set_parameter, _update_parameters])
@pytest.mark.parametrize("noticed", [True, False])
def test_an_energy_function_that_is_changed_later_counts(
    oscillator_model: Path, monkeypatch: pytest.MonkeyPatch, change: Any, noticed: bool
) -> None:
    """The negative control trusts the batched potential, without a look at the Context."""
    mcmc.seed(1)
    states = [{"temperature": t * unit.kelvin} for t in TEMPERATURES]
    sampler = FlowReplicaExchangeSampler(states, simulation(), 3, FlowMove(oscillator_model, 4))
    potential = sampler._fitting_potential(torch.zeros(1, 3), TEMPERATURES[0])
    assert potential is not None
    if not noticed:
        monkeypatch.setattr(sampler, "_fitting_potential", lambda positions, temperature: potential)
    change(sampler)
    exact = [thermal_energy(t) / (2.0 * STIFFNESS) for t in TEMPERATURES]
    deviations = [abs(v - e) / s for (v, s), e in zip(variances(sampler, 300), exact, strict=True)]
    assert max(deviations) < 4 if noticed else max(deviations) > 6


def test_force_groups_are_refused(oscillator_model: Path) -> None:
    """OpenMM's dynamics is the same in states that differ in them."""
    move = FlowMove(oscillator_model)
    with pytest.raises(InputError, match="cannot differ in force groups"):
        FlowReplicaExchangeSampler([{"groups": {0}}, {"groups": {0: 0.5}}], simulation(), 1, move)
    one_group = simulation()
    one_group.integrator.setIntegrationForceGroups({1})
    states = [{"temperature": t * unit.kelvin} for t in TEMPERATURES]
    with pytest.raises(InputError, match=r"leaves out the force group 0 \(CustomExternalForce\)"):
        FlowReplicaExchangeSampler(states, one_group, 1, move)


def test_velocities_after_a_move_are_those_of_the_state(oscillator_model: Path) -> None:
    """Without steps of dynamics they are what the move left: Maxwell-Boltzmann of the replica's temperature."""
    mcmc.seed(1)
    states = [{"temperature": t * unit.kelvin} for t in TEMPERATURES]
    move = FlowMove(oscillator_model, 4, reassign_velocities=True)
    sampler = FlowReplicaExchangeSampler(states, simulation(), 0, move)
    speeds: dict[int, list] = {0: [], 1: []}
    for _ in range(300):
        for replica, state in enumerate(sampler.replicaStateIndex):
            sampler.simulateReplica(replica)
            velocities = sampler.replicaConformation[replica].getVelocities(asNumpy=True)._value
            speeds[state].extend(velocities[0] / np.sqrt(thermal_energy(TEMPERATURES[state]) / 39.948))
        sampler.replicaStateIndex.reverse()
    for found in speeds.values():
        assert stats.kstest(found, "norm").pvalue > 1e-3


def test_what_does_not_fit_is_refused(oscillator_model: Path, alanine_model: Path) -> None:
    states = [{"temperature": t * unit.kelvin} for t in TEMPERATURES]
    with pytest.raises(
        InputError, match="22 atoms, but the system of the thermodynamic state has 1 particles"
    ):
        FlowReplicaExchangeSampler(states, simulation(), 1, FlowMove(alanine_model))
    for given in (["flow"], "flow"):
        with pytest.raises(InputError, match=r"must be FlowMove, LatentMonteCarloMove, .* not str;"):
            FlowReplicaExchangeSampler(states, simulation(), 1, given)
    barostat = simulation()
    barostat.system.addConstraint(0, 0, 0.1)
    with pytest.raises(InputError, match="constraint"):
        FlowReplicaExchangeSampler(states, barostat, 1, FlowMove(oscillator_model))
