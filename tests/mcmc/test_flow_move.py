"""The contract of an openmmtools move: what a call does to a sampler state, and what the move's state is."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmtools import cache, utils
from openmmtools.mcmc import LangevinDynamicsMove, MCMCMove, MetropolizedMove, SequenceMove, WeightedMove
from openmmtools.multistate import MultiStateReporter
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.mcmc import FlowMove, flow_move
from openmm_bg.units import BOLTZMANN_CONSTANT

NM_PER_PS = unit.nanometer / unit.picosecond


@pytest.fixture
def state(oscillator: Any) -> ThermodynamicState:
    return ThermodynamicState(oscillator.system, 298 * unit.kelvin)


@pytest.fixture
def alanine_state(alanine: Any) -> ThermodynamicState:
    return ThermodynamicState(alanine.system, 600 * unit.kelvin)


def sampler_state(positions: Any, velocities: Any = None) -> SamplerState:
    if velocities is not None:
        velocities = np.asarray(velocities) * NM_PER_PS
    return SamplerState(np.array(positions) * unit.nanometer, velocities=velocities)


def nanometers(state: SamplerState) -> np.ndarray:
    return state.positions.value_in_unit(unit.nanometer)


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_move, "_log_weights", lambda reduced, log_q: np.zeros(len(reduced)))


def reject_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_move, "_log_weights", lambda reduced, log_q: -1e9 * np.arange(len(reduced)))


# What the move is made of


def test_it_is_a_move_of_openmmtools_but_not_a_metropolized_one(oscillator_model: Path) -> None:
    assert issubclass(FlowMove, MCMCMove)
    assert FlowMove not in MetropolizedMove.__subclasses__()
    assert isinstance(FlowMove(oscillator_model), FlowMove)
    # openmmtools' own classes claim every object as their instance.
    assert not isinstance(3, FlowMove)
    assert not isinstance(LangevinDynamicsMove(), FlowMove)


@pytest.mark.parametrize("n_proposals", [0, -1, 2.0, "4", None])
def test_a_wrong_number_of_proposals_is_refused(oscillator_model: Path, n_proposals: Any) -> None:
    with pytest.raises(InputError, match="n_proposals must be a positive whole number"):
        FlowMove(oscillator_model, n_proposals=n_proposals)


def test_every_way_to_name_a_model_gives_the_absolute_path(
    oscillator_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_bg import BoltzmannGenerator

    monkeypatch.chdir(oscillator_model.parent)
    loaded = BoltzmannGenerator.load(oscillator_model)
    expected = str(oscillator_model.resolve())
    for model in (oscillator_model, str(oscillator_model), oscillator_model.name, loaded):
        assert FlowMove(model).model == expected


def test_a_generator_that_was_not_saved_is_refused(oscillator_model: Path) -> None:
    from openmm_bg import BoltzmannGenerator

    generator = BoltzmannGenerator(BoltzmannGenerator.load(oscillator_model).flow)
    with pytest.raises(InputError, match=r"save it with generator\.save"):
        FlowMove(generator)
    with pytest.raises(InputError, match="must be the path of a model directory"):
        FlowMove(42)


def test_statistics_are_plain_numbers_that_can_be_set(oscillator_model: Path) -> None:
    move = FlowMove(oscillator_model)
    assert np.isnan(move.acceptance_fraction)
    # Under MPI, openmmtools collects statistics from the ranks and sets them on all.
    move.statistics = {"n_accepted": np.int64(3), "n_proposed": np.int64(12), "n_nonfinite": 1}
    assert move.statistics == {"n_accepted": 3, "n_proposed": 12, "n_nonfinite": 1}
    assert {type(value) for value in move.statistics.values()} == {int}
    assert move.acceptance_fraction == 0.25
    assert pickle.loads(pickle.dumps(move.statistics)) == move.statistics


def moves(model: Path) -> dict[str, Any]:
    return {
        "alone": FlowMove(model, n_proposals=3),
        "sequence": SequenceMove([FlowMove(model), LangevinDynamicsMove()]),
        "weighted": WeightedMove([(FlowMove(model), 0.5), (LangevinDynamicsMove(), 0.5)]),
    }


@pytest.mark.parametrize("kind", ["alone", "sequence", "weighted"])
def test_serialization_is_pickle_equal_as_upstream_demands(oscillator_model: Path, kind: str) -> None:
    move = moves(oscillator_model)[kind]
    original = pickle.dumps(move)
    restored = utils.deserialize(utils.serialize(move))
    assert pickle.dumps(restored) == original


def test_the_state_in_storage_is_small_and_complete(oscillator_model: Path, tmp_path: Path) -> None:
    move = FlowMove(oscillator_model, n_proposals=7, reassign_velocities=True)
    move.statistics = {"n_accepted": 10**9, "n_proposed": 10**10, "n_nonfinite": 10**8}
    reporter = MultiStateReporter(str(tmp_path / "moves.nc"), open_mode="w")
    reporter.write_mcmc_moves([move, SequenceMove([move, LangevinDynamicsMove()])])
    text = str(reporter._storage_analysis["mcmc_moves/move0"][0])
    assert len(text.encode()) < 1000
    alone, sequence = reporter.read_mcmc_moves()
    reporter.close()
    for restored in (alone, sequence.move_list[0]):
        assert type(restored) is FlowMove
        assert restored.__getstate__() == move.__getstate__()


def test_a_copy_shares_the_model_and_counts_on_its_own(
    oscillator_model: Path, state: ThermodynamicState
) -> None:
    move = FlowMove(oscillator_model)
    duplicate = copy.deepcopy(move)
    assert duplicate.generator is move.generator
    assert {type(value) for value in vars(duplicate).values()} <= {str, int, bool, type(None)}
    duplicate.apply(state, sampler_state([[0, 0, 0]]))
    assert duplicate.n_proposed == 16
    assert move.n_proposed == 0


def test_a_stored_state_with_missing_entries_is_refused(oscillator_model: Path) -> None:
    stored = FlowMove(oscillator_model).__getstate__()
    del stored["n_accepted"]
    # openmmtools would swallow a KeyError and hand out a half-built move.
    with pytest.raises(InputError, match="lacks n_accepted"):
        FlowMove.__new__(FlowMove).__setstate__(stored)


# What one call does


def test_energies_and_statistics_after_a_call(
    oscillator_model: Path, oscillator: Any, state: ThermodynamicState
) -> None:
    move = FlowMove(oscillator_model, n_proposals=5)
    current = sampler_state([[0.001, 0, 0]])
    for _ in range(4):
        move.apply(state, current)
    assert (move.n_proposed, move.n_nonfinite) == (20, 0)
    assert 0 < move.n_accepted < 20
    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    mass = oscillator.mass.value_in_unit(unit.dalton)
    speed = current.velocities.value_in_unit(NM_PER_PS)
    potential, kinetic = 0.5 * stiffness * (nanometers(current) ** 2).sum(), 0.5 * mass * (speed**2).sum()
    assert current.potential_energy.value_in_unit(unit.kilojoule_per_mole) == pytest.approx(
        potential, rel=1e-5
    )
    assert current.kinetic_energy.value_in_unit(unit.kilojoule_per_mole) == pytest.approx(kinetic, rel=1e-5)


def test_velocities_are_redrawn_after_an_acceptance_only(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    velocities = np.array([[0.1, 0.2, 0.3]])
    reject_all(monkeypatch)
    current = sampler_state([[0.001, 0.002, 0.003]], velocities)
    FlowMove(oscillator_model).apply(state, current)
    np.testing.assert_allclose(current.velocities.value_in_unit(NM_PER_PS), velocities, rtol=1e-6)
    np.testing.assert_allclose(nanometers(current), [[0.001, 0.002, 0.003]], rtol=1e-6)

    FlowMove(oscillator_model, reassign_velocities=True).apply(state, current)
    redrawn = current.velocities.value_in_unit(NM_PER_PS).copy()
    assert not np.isclose(redrawn, velocities).any()

    accept_all(monkeypatch)
    current = sampler_state([[0.001, 0.002, 0.003]], velocities)
    FlowMove(oscillator_model).apply(state, current)
    assert not np.isclose(nanometers(current), [[0.001, 0.002, 0.003]]).any()
    assert not np.isclose(current.velocities.value_in_unit(NM_PER_PS), velocities).any()


def test_new_velocities_lag_half_a_step_for_leap_frog(
    oscillator_model: Path, oscillator: Any, state: ThermodynamicState
) -> None:
    """v(t - dt/2) = v(t) - f(x) dt / 2m, with f = -K x from theory."""
    velocities = []
    for timestep in (None, 2 * unit.femtoseconds):
        mcmc.seed(5)
        current = sampler_state([[0.001, 0, 0]])
        FlowMove(oscillator_model, reassign_velocities=True, timestep=timestep).apply(state, current)
        velocities.append(current.velocities.value_in_unit(NM_PER_PS))
    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    mass = oscillator.mass.value_in_unit(unit.dalton)
    expected = 0.5 * 0.002 * stiffness * nanometers(current) / mass
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(velocities[1] - velocities[0], expected, rtol=1e-3, atol=1e-6)
    mcmc.seed()


@pytest.mark.parametrize("lag", [True, False])
def test_short_dynamics_after_new_velocities_keep_the_distribution(lag: bool) -> None:
    """A stiff oscillator, h = omega dt = 0.5, for a few leap-frog steps: with the lag <x^2> stays within h^2 / 4.

    Without it the error is of first order: the negative control.
    """
    generator = np.random.default_rng(0)
    n, h = 200_000, 0.5
    x, v = generator.normal(size=(2, n))
    if lag:
        v += 0.5 * h * x  # v(-dt/2) = v(0) - f dt / 2 with f = -x
    worst = 0.0
    for _ in range(8):
        v = v - h * x
        x = x + h * v
        worst = max(worst, abs(float((x**2).mean()) - 1.0))
    noise = 4 * np.sqrt(2 / n)
    assert (worst < h**2 / 4 / (1 - h**2 / 4) + noise) if lag else (worst > 0.2)


def test_redrawn_velocities_are_maxwell_boltzmann() -> None:
    masses, temperature, n = np.array([1.008, 12.0, 39.948]), 450.0, 4000
    drawn = [flow_move._maxwell_boltzmann(masses, temperature).value_in_unit(NM_PER_PS) for _ in range(n)]
    reduced = np.array(drawn) / np.sqrt(BOLTZMANN_CONSTANT * temperature / masses)[:, None]
    # Means and mean squares of unit normals have standard errors of sqrt(1/n) and sqrt(2/n).
    assert np.abs(reduced.mean(axis=0)).max() < 4.5 / np.sqrt(n)
    assert np.abs((reduced**2).mean(axis=0) - 1).max() < 4.5 * np.sqrt(2 / n)


def test_two_replicas_never_exchange_velocities(
    alanine_model: Path, alanine: Any, alanine_state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject_all(monkeypatch)
    context_cache = cache.ContextCache()
    move = FlowMove(alanine_model, n_proposals=2)
    velocities = [np.full((22, 3), 0.1), np.full((22, 3), -0.3)]
    replicas = [sampler_state(alanine.positions, v) for v in velocities]
    without = sampler_state(alanine.positions)
    for current in (*replicas, without, *replicas):
        move.apply(alanine_state, current, context_cache=context_cache)
    assert len(context_cache) == 1  # all in one Context
    for current, own in zip(replicas, velocities, strict=True):
        np.testing.assert_allclose(current.velocities.value_in_unit(NM_PER_PS), own, rtol=1e-6)
    drawn = without.velocities.value_in_unit(NM_PER_PS)
    assert not np.isclose(drawn, 0.1).any()
    assert not np.isclose(drawn, -0.3).any()


def test_kinetic_energies_are_the_replicas_own(
    oscillator_model: Path, oscillator: Any, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject_all(monkeypatch)
    move, context_cache = FlowMove(oscillator_model), cache.ContextCache()
    fast, resting = sampler_state([[0, 0, 0]], [[9.0, 9.0, 9.0]]), sampler_state([[0, 0, 0]], [[0.0, 0, 0]])
    for current in (fast, resting):
        move.apply(state, current, context_cache=context_cache)
    assert resting.kinetic_energy == 0 * unit.kilojoule_per_mole
    expected = 0.5 * oscillator.mass.value_in_unit(unit.dalton) * 243.0
    assert fast.kinetic_energy.value_in_unit(unit.kilojoule_per_mole) == pytest.approx(expected, rel=1e-5)


def test_positions_in_angstrom_give_the_same_chain(oscillator_model: Path, state: ThermodynamicState) -> None:
    chains = []
    for positions in ([[0.01, 0.02, 0.03]] * unit.angstrom, [[0.001, 0.002, 0.003]] * unit.nanometer):
        mcmc.seed(5)
        move, current = FlowMove(oscillator_model, n_proposals=3), SamplerState(positions)
        for _ in range(5):
            move.apply(state, current)
        assert current.positions.unit == unit.nanometer
        chains.append((nanometers(current), move.statistics))
    np.testing.assert_allclose(chains[0][0], chains[1][0], rtol=1e-9)
    assert chains[0][1] == chains[1][1]
    assert 0 < chains[0][1]["n_accepted"] < 15


def test_rejected_positions_in_angstrom_keep_their_place(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject_all(monkeypatch)
    current = SamplerState(np.array([[0.1, 0.2, 0.3]]) * unit.angstrom)
    FlowMove(oscillator_model).apply(state, current)
    np.testing.assert_allclose(current.positions.value_in_unit(unit.angstrom), [[0.1, 0.2, 0.3]], rtol=1e-6)


def test_the_frame_is_kept(
    alanine_model: Path,
    alanine: Any,
    alanine_state: ThermodynamicState,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    accept_all(monkeypatch)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))  # turned, not mirrored
    start = alanine.positions @ rotation.T + [1.0, -2.0, 3.0]
    move, current = FlowMove(alanine_model, n_proposals=1), sampler_state(start)
    move.apply(alanine_state, current)
    assert move.n_accepted == 1
    end = nanometers(current)
    first, second, third = move.generator.flow.coordinates.z_matrix.atoms[:3]

    def frame(x: np.ndarray) -> np.ndarray:
        axis = (x[second] - x[first]) / np.linalg.norm(x[second] - x[first])
        normal = np.cross(axis, x[third] - x[first])
        return np.array([x[first], axis, normal / np.linalg.norm(normal)])

    np.testing.assert_allclose(frame(end), frame(start), atol=1e-5)
    assert np.abs(end - start).max() > 0.01


def test_random_numbers_come_from_one_seeded_stream(
    oscillator_model: Path, state: ThermodynamicState
) -> None:
    def chain(seed: int | None) -> np.ndarray:
        mcmc.seed(seed)
        move, current = FlowMove(oscillator_model), sampler_state([[0, 0, 0]])
        move.apply(state, current)
        first = nanometers(current).copy()
        # A copy goes on with new numbers: no seed travels with the state.
        copy.deepcopy(move).apply(state, current)
        return np.concatenate([first, nanometers(current)])

    np.testing.assert_array_equal(chain(3), chain(3))
    assert not np.isclose(chain(3), chain(4)).any()
    assert not np.isclose(chain(None), chain(None)).any()
    assert not np.isclose(*chain(3)).any()


# Proposals that have no weight, and starts that cannot be used


def test_proposals_outside_the_domain_are_rejected(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = FlowMove(oscillator_model, n_proposals=6)
    flow = move.generator.flow
    sample, log_prob = flow.sample, flow.log_prob

    def broken_sample(n: int, *args: Any, **kwargs: Any) -> Any:
        positions, log_q = sample(n, *args, **kwargs)
        positions[0] = torch.nan
        positions[1, 0, 2] = torch.inf
        positions[2] = 5.0
        positions[3] = 1e200  # finite, but with an infinite energy
        return positions, log_q

    def narrow_log_prob(positions: torch.Tensor, *args: Any) -> torch.Tensor:
        assert torch.isfinite(positions).all()
        outside = positions[:, 0, 0] == 5.0
        return torch.where(outside, -torch.inf, log_prob(positions.clamp(-1, 1), *args))

    monkeypatch.setattr(flow, "sample", broken_sample)
    monkeypatch.setattr(flow, "log_prob", narrow_log_prob)
    current = sampler_state([[0, 0, 0]])
    for _ in range(20):
        move.apply(state, current)
        assert np.abs(nanometers(current)).max() < 0.1
    assert (move.n_proposed, move.n_nonfinite) == (120, 80)
    assert 0 < move.n_accepted <= 40


def test_a_start_with_infinite_energy_is_left_at_once(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = flow_move.reduced_energies

    def infinite_at_first(*args: Any) -> np.ndarray:
        energies = evaluate(*args)
        energies[0] = np.inf
        return energies

    monkeypatch.setattr(flow_move, "reduced_energies", infinite_at_first)
    move = FlowMove(oscillator_model, n_proposals=1)
    move.apply(state, sampler_state([[0, 0, 0]]))
    assert (move.n_accepted, move.n_nonfinite) == (1, 0)


def test_a_start_of_the_wrong_chirality_is_refused(
    alanine_model: Path, alanine: Any, alanine_state: ThermodynamicState
) -> None:
    move = FlowMove(alanine_model)
    for wrong in (alanine.positions * [1, 1, -1], _with_swapped_methyl_hydrogens(alanine)):
        current = sampler_state(wrong)
        with pytest.raises(InputError, match=r"outside the domain of the model.*chirality"):
            move.apply(alanine_state, current)
        np.testing.assert_array_equal(nanometers(current), wrong)
    assert move.n_proposed == 0


def _with_swapped_methyl_hydrogens(alanine: Any) -> np.ndarray:
    names = [(atom.residue.name, atom.name) for atom in alanine.topology.atoms()]
    pair = [names.index(("ALA", name)) for name in ("HB2", "HB3")]
    positions = alanine.positions.copy()
    positions[pair] = positions[pair[::-1]]
    return positions


def test_a_start_with_nan_is_refused(oscillator_model: Path, state: ThermodynamicState) -> None:
    with pytest.raises(InputError, match="NaN or infinite positions"):
        FlowMove(oscillator_model).apply(state, sampler_state([[np.nan, 0, 0]]))


def test_a_model_of_another_molecule_is_refused(alanine_model: Path, state: ThermodynamicState) -> None:
    with pytest.raises(InputError, match=r"has 22 atoms, but the system .* has 1 particles"):
        FlowMove(alanine_model).apply(state, sampler_state([[0, 0, 0]]))


def test_only_context_caches_are_taken(oscillator_model: Path, state: ThermodynamicState) -> None:
    with pytest.raises(ValueError, match="not a valid ContextCache"):
        FlowMove(oscillator_model).apply(state, sampler_state([[0, 0, 0]]), context_cache="cache")


# Warnings, once each


def test_a_temperature_outside_the_range_warns_once(
    oscillator_model: Path, oscillator: Any, recwarn: pytest.WarningsRecorder
) -> None:
    hot = ThermodynamicState(oscillator.system, 500 * unit.kelvin)
    move = FlowMove(oscillator_model)
    with pytest.warns(ReliabilityWarning, match="made for 250-350 K and is used at 500 K"):
        move.apply(hot, sampler_state([[0, 0, 0]]))
    copy.deepcopy(move).apply(hot, sampler_state([[0, 0, 0]]))
    assert len(recwarn) == 0


def test_another_energy_function_warns_once_and_stays_exact(
    alanine_model: Path, alanine: Any, recwarn: pytest.WarningsRecorder
) -> None:
    system = copy.deepcopy(alanine.system)
    restraint = openmm.CustomExternalForce("100*((x-0.3)^2+y^2+z^2)")
    restraint.addParticle(4)
    system.addForce(restraint)
    restrained = ThermodynamicState(system, 600 * unit.kelvin)
    move = FlowMove(alanine_model)
    with pytest.warns(ReliabilityWarning, match="another energy function"):
        move.apply(restrained, sampler_state(alanine.positions))
    move.apply(restrained, sampler_state(alanine.positions))
    assert len(recwarn) == 0


def test_openmmtools_own_alanine_dipeptide_is_the_system_of_the_model(alanine_model: Path) -> None:
    from openmmtools import testsystems

    theirs = testsystems.AlanineDipeptideImplicit(constraints=None)
    current = SamplerState(theirs.positions)
    FlowMove(alanine_model).apply(ThermodynamicState(theirs.system, 300 * unit.kelvin), current)
    assert current.potential_energy is not None  # and no warning, which would be an error
