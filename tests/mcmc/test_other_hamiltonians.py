"""Host states with an energy function of their own: alchemical parameters, restraints in the lab frame, pressure.

Whatever the flow was made for, the moves and the exchanges keep the distribution of the state they are applied to.
It is known exactly, from theory or by quadrature of energies of an OpenMM Context that no code of ours has touched.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from host_cases import (
    COLD,
    HOT,
    Case,
    OtherRestraintState,
    RestraintState,
    alchemical,
    chain,
    energies,
    pair,
    pair_flow,
)
from openmm import app, unit
from openmmtools import cache
from openmmtools.alchemy import AbsoluteAlchemicalFactory, AlchemicalRegion, AlchemicalState
from openmmtools.mcmc import LangevinDynamicsMove, MCMCMove
from openmmtools.multistate import MultiStateReporter
from openmmtools.states import CompoundThermodynamicState, SamplerState, ThermodynamicState
from scipy import stats

from openmm_bg import BoltzmannGenerator, TorchPotential, mcmc
from openmm_bg.errors import InputError
from openmm_bg.exchange import FlowReplicaExchangeSampler, LearnedReplicaExchangeSampler, learned
from openmm_bg.flows import Flow
from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, MultipleTryMove, proposal_move
from openmm_bg.mcmc.host import reduced_energies
from openmm_bg.units import thermal_energy

pytestmark = pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")

MOVES: dict[str, Callable[[Path], MCMCMove]] = {
    "FlowMove": lambda model: FlowMove(model, n_proposals=4),
    "MultipleTryMove": lambda model: MultipleTryMove(model, n_candidates=4),
    "LatentMonteCarloMove": lambda model: LatentMonteCarloMove(model, 4, step_size=1.0, n_tuning=0),
}


@pytest.fixture(scope="module", params=[alchemical, chain])
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


def saved(flow: Flow, directory: Path) -> Path:
    """Save a model of a flow that is not the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return BoltzmannGenerator(flow, temperature_range=(200.0, 500.0)).save(directory / "model")


@pytest.fixture(scope="module")
def model(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(case.flow(), tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def pair_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(pair_flow(), tmp_path_factory.mktemp("pair"))


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> cache.ContextCache:
    """Contexts in double precision, openmmtools' global ones included."""
    precise = cache.ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))
    monkeypatch.setattr(cache, "global_context_cache", precise)
    return precise


def with_default_parameters(standard: openmm.System) -> Callable[..., np.ndarray]:
    """The bug that these tests look for: a batched potential that knows no parameters."""
    potential = TorchPotential.from_system(standard, dtype=torch.float64)

    def evaluate(state: ThermodynamicState, positions: torch.Tensor, _: Any) -> np.ndarray:
        return potential.energy(positions).numpy() / thermal_energy(state.temperature)

    return evaluate


def p_value(case: Case, ends: dict[float, np.ndarray]) -> float:
    """Return the least p-value of Kolmogorov-Smirnov tests of positions by temperature."""
    return min(
        stats.kstest(u, "uniform").pvalue for t, x in ends.items() for u in case.uniforms(np.array(x), t)
    )


def moved(
    case: Case, model: Path, kind: str, contexts: cache.ContextCache, n: int = 120
) -> tuple[dict[float, np.ndarray], float]:
    """Apply a move to each of n exact samples; return where they end, and the fraction that has moved."""
    mcmc.seed(1)
    move, state = MOVES[kind](model), case.state(COLD)
    starts = case.sample(n, COLD, np.random.default_rng(1))
    ends = np.empty_like(starts)
    for k, start in enumerate(starts):
        current = SamplerState(start * unit.nanometer)
        move.apply(state, current, context_cache=contexts)
        ends[k] = current.positions.value_in_unit(unit.nanometer)
    return {COLD: ends}, float((ends != starts).any(axis=(1, 2)).mean())


@pytest.mark.parametrize("kind", list(MOVES))
def test_moves_keep_the_distribution_of_the_state(
    case: Case, model: Path, contexts: cache.ContextCache, kind: str
) -> None:
    ends, fraction = moved(case, model, kind, contexts)
    assert fraction > 0.3
    assert p_value(case, ends) > 1e-3


def test_default_parameters_would_be_noticed(
    case: Case, model: Path, contexts: cache.ContextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal_move, "reduced_energies", with_default_parameters(case.system))
    assert p_value(case, moved(case, model, "MultipleTryMove", contexts)[0]) < 1e-6


def exchanged(case: Case, model: Path, storage: Path, n: int) -> tuple[dict[float, list], float]:
    """Exchange n pairs of exact samples through the map; return where they end, and the fraction accepted."""
    sampler = LearnedReplicaExchangeSampler(
        model, mcmc_moves=LangevinDynamicsMove(n_steps=1), online_analysis_interval=None
    )
    rng = np.random.default_rng(1)
    starts = {t: case.sample(n, t, rng) for t in (COLD, HOT)}
    sampler.create(
        case.state(COLD),
        SamplerState(starts[COLD][0] * unit.nanometer),
        MultiStateReporter(str(storage), checkpoint_interval=1),
        temperatures=[COLD, HOT] * unit.kelvin,
        n_temperatures=2,
    )
    mcmc.seed(1)
    ends: dict[float, list] = {COLD: [], HOT: []}
    n_accepted = 0
    for pair_of_starts in zip(*starts.values(), strict=True):
        for replica, start in zip(sampler._sampler_states, pair_of_starts, strict=True):
            replica.positions = start * unit.nanometer
        sampler._replica_thermodynamic_states = np.array([0, 1])
        states = sampler._mix_replicas()
        n_accepted += sampler._n_accepted_matrix[0, 1]
        for replica, state in zip(sampler._sampler_states, states, strict=True):
            ends[(COLD, HOT)[state]].append(replica.positions.value_in_unit(unit.nanometer))
    sampler._reporter.close()
    return ends, n_accepted / n


def test_learned_exchange_keeps_the_distributions_of_its_states(
    case: Case, model: Path, contexts: cache.ContextCache, tmp_path: Path
) -> None:
    ends, acceptance = exchanged(case, model, tmp_path / "run.nc", 120)
    assert 0.2 < acceptance < 0.98
    assert p_value(case, ends) > 1e-3


def test_default_parameters_would_be_noticed_in_exchanges(
    pair_model: Path, contexts: cache.ContextCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = alchemical()
    monkeypatch.setattr(learned, "reduced_energies", with_default_parameters(case.system))
    assert p_value(case, exchanged(case, pair_model, tmp_path / "run.nc", 200)[0]) < 1e-4


@pytest.mark.parametrize("noticed", [True, False])
def test_openmms_own_sampler_keeps_the_distribution_of_the_state(
    case: Case, model: Path, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    """The parameters are the Context's, and the states differ in the temperature alone."""
    mcmc.seed(1)
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(case.system.getNumParticles()):
        topology.addAtom("AR", app.Element.getBySymbol("Ar"), topology.addResidue("AR", chain))
    integrator = openmm.LangevinMiddleIntegrator(COLD, 1.0, 0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, case.system, integrator, platform)
    context, starts = simulation.context, case.sample(120, COLD, np.random.default_rng(1))
    for name, value in case.values.items():
        context.setParameter(name, value)
    context.setPositions(starts[0])
    states = [{"temperature": t * unit.kelvin} for t in (COLD, HOT)]
    sampler = FlowReplicaExchangeSampler(states, simulation, 0, MOVES["MultipleTryMove"](model))
    if not noticed:
        monkeypatch.setattr(sampler, "_fitting_potential", lambda *_: sampler._host.potential)
    ends = []
    for start in starts:
        context.setPositions(start)
        sampler.replicaConformation[0] = context.getState(positions=True, velocities=True, parameters=True)
        sampler.simulateReplica(0)
        ends.append(sampler.replicaConformation[0].getPositions(asNumpy=True)._value)
    p = p_value(case, {COLD: np.array(ends)})
    assert p > 1e-3 if noticed else p < 1e-6


def test_energies_of_an_alchemical_molecule(
    alanine: Any, md_positions: np.ndarray, contexts: cache.ContextCache
) -> None:
    region = AlchemicalRegion(alchemical_atoms=range(6))
    system = AbsoluteAlchemicalFactory().create_alchemical_system(alanine.system, region)
    plain = ThermodynamicState(system, COLD * unit.kelvin)
    state = CompoundThermodynamicState(plain, [AlchemicalState.from_system(system)])
    x = md_positions[:3]
    seen = []
    for sterics, electrostatics in ((1.0, 1.0), (0.5, 0.0), (0.0, 0.0), (1.0, 1.0)):
        state.lambda_sterics, state.lambda_electrostatics = sterics, electrostatics
        expected = energies(system, x, lambda_sterics=sterics, lambda_electrostatics=electrostatics)
        seen.append(reduced_energies(state, torch.tensor(x), contexts))
        np.testing.assert_allclose(seen[-1], expected / thermal_energy(COLD), rtol=1e-9)
    # Fully coupled it is the original molecule, and so is a plain state, which has the default parameters.
    original = energies(alanine.system, x) / thermal_energy(COLD)
    np.testing.assert_allclose(seen[-1], original, rtol=1e-6)
    np.testing.assert_allclose(reduced_energies(plain, torch.tensor(x), contexts), original, rtol=1e-6)
    assert np.abs(seen[1] - seen[0]).min() > 1.0


# Hosts whose dynamics would be that of another energy function


def _shared_with_a_compound_state(state: ThermodynamicState, contexts: cache.ContextCache) -> None:
    contexts.get_context(CompoundThermodynamicState(state, [RestraintState(stiffness=3.0)]))


def _set_by_hand(state: ThermodynamicState, contexts: cache.ContextCache) -> None:
    contexts.get_context(state)[0].setParameter("stiffness", 3.0)


@pytest.mark.parametrize("change", [_shared_with_a_compound_state, _set_by_hand])
@pytest.mark.parametrize("composable", [[], [OtherRestraintState(other_stiffness=5.0)]])
def test_parameters_that_the_state_does_not_know_are_refused(
    pair_model: Path, contexts: cache.ContextCache, change: Any, composable: list
) -> None:
    """openmmtools' own moves would go on with them: plain states, and compound ones that control others."""
    plain = ThermodynamicState(pair("stiffness", "other_stiffness"), COLD * unit.kelvin)
    state = CompoundThermodynamicState(plain, composable) if composable else plain
    current = SamplerState(np.full((2, 3), 0.2) * unit.nanometer)
    move = FlowMove(pair_model)
    move.apply(state, current, context_cache=contexts)
    change(plain, contexts)
    before = current.positions._value.copy()
    with pytest.raises(
        InputError, match=r"has stiffness = 3, but its System 0: .* CompoundThermodynamicState"
    ):
        move.apply(state, current, context_cache=contexts)
    np.testing.assert_array_equal(current.positions._value, before)
    both = [RestraintState(stiffness=2.0), OtherRestraintState(other_stiffness=1.0)]
    controlled = CompoundThermodynamicState(plain, both)
    move.apply(controlled, current, context_cache=contexts)
    context, _ = contexts.get_context(controlled)
    assert context.getParameter("stiffness") == 2.0


def test_pressure_is_refused(pair_model: Path, contexts: cache.ContextCache, tmp_path: Path) -> None:
    system = pair("stiffness")
    system.addForce(openmm.MonteCarloBarostat(1.0, COLD))
    system.setDefaultPeriodicBoxVectors(*np.eye(3) * 5.0)
    (nonbonded,) = (one for one in system.getForces() if isinstance(one, openmm.NonbondedForce))
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    plain = ThermodynamicState(system, COLD * unit.kelvin, 1.0 * unit.bar)
    positions = np.full((2, 3), 0.2) * unit.nanometer
    for state in (plain, CompoundThermodynamicState(plain, [RestraintState(stiffness=3.0)])):
        current = SamplerState(positions, box_vectors=np.eye(3) * 5.0 * unit.nanometer)
        with pytest.raises(InputError, match="has a barostat"):
            FlowMove(pair_model).apply(state, current, context_cache=contexts)
        sampler = LearnedReplicaExchangeSampler(pair_model, mcmc_moves=LangevinDynamicsMove(n_steps=1))
        with pytest.raises(InputError, match="has a barostat"):
            sampler.create(
                state, current, MultiStateReporter(str(tmp_path / "run.nc")),
                temperatures=[COLD, HOT] * unit.kelvin, n_temperatures=2,
            )  # fmt: skip
        assert list(tmp_path.iterdir()) == []
