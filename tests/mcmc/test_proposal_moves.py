"""What a call of a move does to a sampler state, whatever its way to propose and whatever its flow."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmtools import cache
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, MultipleTryMove, proposal_move
from openmm_bg.mcmc.target import Target

NM_PER_PS = unit.nanometer / unit.picosecond
MoveClass = type[FlowMove] | type[LatentMonteCarloMove] | type[MultipleTryMove]


@pytest.fixture(params=[FlowMove, LatentMonteCarloMove, MultipleTryMove])
def kind(request: pytest.FixtureRequest) -> MoveClass:
    """The class of the move."""
    return request.param


@pytest.fixture(params=["spline", "conditioned", "real_nvp", "steerable"])
def any_model(request: pytest.FixtureRequest, oscillator_models: dict[str, Path]) -> Path:
    """The oscillator's model by every kind of flow."""
    return oscillator_models[request.param]


@pytest.fixture
def state(oscillator: Any) -> ThermodynamicState:
    return ThermodynamicState(oscillator.system, 298 * unit.kelvin)


@pytest.fixture
def alanine_state(alanine: Any) -> ThermodynamicState:
    return ThermodynamicState(alanine.system, 600 * unit.kelvin)


def one_by_one(kind: MoveClass) -> dict[str, int]:
    """Settings by which every proposal is a step of its own."""
    return {"n_candidates": 1} if kind is MultipleTryMove else {}


def sampler_state(positions: Any, velocities: Any = None) -> SamplerState:
    if velocities is not None:
        velocities = np.asarray(velocities) * NM_PER_PS
    return SamplerState(np.array(positions) * unit.nanometer, velocities=velocities)


def nanometers(state: SamplerState) -> np.ndarray:
    return state.positions.value_in_unit(unit.nanometer)


def energy(quantity: Any) -> float:
    return quantity.value_in_unit(unit.kilojoule_per_mole)


def fix_log_ratios(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    def constant(proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        return np.full(np.broadcast(proposed, current).shape, value)

    monkeypatch.setattr(Target, "log_ratios", staticmethod(constant))


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_log_ratios(monkeypatch, 0.0)


def reject_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_log_ratios(monkeypatch, -np.inf)


def test_energies_and_statistics_after_a_call(
    any_model: Path, oscillator: Any, state: ThermodynamicState, kind: MoveClass
) -> None:
    move = kind(any_model, n_proposals=5, **one_by_one(kind))
    current = sampler_state([[0.001, 0, 0]])
    for _ in range(8):
        move.apply(state, current)
    assert (move.n_proposed, move.n_nonfinite) == (40, 0)
    assert 0 < move.n_accepted < 40
    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    mass = oscillator.mass.value_in_unit(unit.dalton)
    speed = current.velocities.value_in_unit(NM_PER_PS)
    potential, kinetic = 0.5 * stiffness * (nanometers(current) ** 2).sum(), 0.5 * mass * (speed**2).sum()
    assert energy(current.potential_energy) == pytest.approx(potential, rel=1e-5)
    assert energy(current.kinetic_energy) == pytest.approx(kinetic, rel=1e-5)


def test_velocities_are_redrawn_after_an_acceptance_only(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch, kind: MoveClass
) -> None:
    velocities = np.array([[0.1, 0.2, 0.3]])
    reject_all(monkeypatch)
    current = sampler_state([[0.001, 0.002, 0.003]], velocities)
    kind(oscillator_model).apply(state, current)
    np.testing.assert_allclose(current.velocities.value_in_unit(NM_PER_PS), velocities, rtol=1e-6)
    np.testing.assert_allclose(nanometers(current), [[0.001, 0.002, 0.003]], rtol=1e-6)

    kind(oscillator_model, reassign_velocities=True).apply(state, current)
    redrawn = current.velocities.value_in_unit(NM_PER_PS).copy()
    assert not np.isclose(redrawn, velocities).any()

    accept_all(monkeypatch)
    current = sampler_state([[0.001, 0.002, 0.003]], velocities)
    kind(oscillator_model).apply(state, current)
    assert not np.isclose(nanometers(current), [[0.001, 0.002, 0.003]]).any()
    assert not np.isclose(current.velocities.value_in_unit(NM_PER_PS), velocities).any()


def test_new_velocities_lag_half_a_step_for_leap_frog(
    oscillator_model: Path, oscillator: Any, state: ThermodynamicState, kind: MoveClass
) -> None:
    """v(t - dt/2) = (1 - dt^2 K / 8m) w - f(x) dt / 2m with f = -K x from theory, w being Maxwell's."""
    velocities = []
    for timestep in (None, 2 * unit.femtoseconds):
        mcmc.seed(5)
        current = sampler_state([[0.001, 0, 0]])
        kind(oscillator_model, reassign_velocities=True, timestep=timestep).apply(state, current)
        velocities.append(current.velocities.value_in_unit(NM_PER_PS))
    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    mass = oscillator.mass.value_in_unit(unit.dalton)
    cooling = -(0.002**2) * stiffness / (8 * mass) * velocities[0]
    expected = 0.5 * 0.002 * stiffness * nanometers(current) / mass + cooling
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(velocities[1] - velocities[0], expected, rtol=1e-3, atol=1e-6)
    mcmc.seed()


def test_two_replicas_never_exchange_velocities(
    alanine_model: Path,
    alanine: Any,
    alanine_state: ThermodynamicState,
    monkeypatch: pytest.MonkeyPatch,
    kind: MoveClass,
) -> None:
    reject_all(monkeypatch)
    context_cache = cache.ContextCache()
    move = kind(alanine_model, n_proposals=2)
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
    oscillator_model: Path,
    oscillator: Any,
    state: ThermodynamicState,
    monkeypatch: pytest.MonkeyPatch,
    kind: MoveClass,
) -> None:
    reject_all(monkeypatch)
    move, context_cache = kind(oscillator_model), cache.ContextCache()
    fast, resting = sampler_state([[0, 0, 0]], [[9.0, 9.0, 9.0]]), sampler_state([[0, 0, 0]], [[0.0, 0, 0]])
    for current in (fast, resting):
        move.apply(state, current, context_cache=context_cache)
    assert resting.kinetic_energy == 0 * unit.kilojoule_per_mole
    expected = 0.5 * oscillator.mass.value_in_unit(unit.dalton) * 243.0
    assert energy(fast.kinetic_energy) == pytest.approx(expected, rel=1e-5)


def test_positions_in_angstrom_give_the_same_chain(
    any_model: Path, state: ThermodynamicState, kind: MoveClass
) -> None:
    chains = []
    for positions in ([[0.01, 0.02, 0.03]] * unit.angstrom, [[0.001, 0.002, 0.003]] * unit.nanometer):
        mcmc.seed(5)
        move = kind(any_model, n_proposals=5, **one_by_one(kind))
        current = SamplerState(positions)
        for _ in range(5):
            move.apply(state, current)
        assert current.positions.unit == unit.nanometer
        chains.append((nanometers(current), move.statistics))
    np.testing.assert_allclose(chains[0][0], chains[1][0], rtol=1e-9)
    assert chains[0][1] == pytest.approx(chains[1][1], rel=1e-9)
    assert 0 < chains[0][1]["n_accepted"] < 25


def test_rejected_positions_in_angstrom_keep_their_place(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch, kind: MoveClass
) -> None:
    reject_all(monkeypatch)
    current = SamplerState(np.array([[0.1, 0.2, 0.3]]) * unit.angstrom)
    kind(oscillator_model).apply(state, current)
    np.testing.assert_allclose(current.positions.value_in_unit(unit.angstrom), [[0.1, 0.2, 0.3]], rtol=1e-6)


@pytest.mark.parametrize("flow", ["spline", "steerable"])
def test_the_frame_is_kept(
    alanine_models: dict[str, Path],
    flow: str,
    alanine: Any,
    alanine_state: ThermodynamicState,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
    kind: MoveClass,
) -> None:
    accept_all(monkeypatch)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))  # turned, not mirrored
    start = alanine.positions @ rotation.T + [1.0, -2.0, 3.0]
    move, current = kind(alanine_models[flow], n_proposals=1), sampler_state(start)
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


# Proposals that have no weight, and starts that cannot be used


def test_proposals_outside_the_domain_are_rejected(
    any_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch, kind: MoveClass
) -> None:
    move = kind(any_model, n_proposals=6, **one_by_one(kind))
    coordinates = move.generator.flow.coordinates
    forward, inverse = coordinates.forward, coordinates.inverse

    def broken_inverse(
        features: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions, logabsdet = inverse(features, *args, **kwargs)
        positions[0:1] = torch.nan
        positions[1:2, 0, 2] = torch.inf
        positions[2:3] = 5.0
        positions[3:4] = 1e200  # finite, but with an infinite energy
        return positions, logabsdet

    def narrow_forward(positions: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        assert torch.isfinite(positions).all()
        features, logabsdet = forward(positions, *args)
        return features, torch.where(positions[:, 0, 0] == 5.0, -torch.inf, logabsdet)

    monkeypatch.setattr(coordinates, "inverse", broken_inverse)
    monkeypatch.setattr(coordinates, "forward", narrow_forward)
    # All six in one batch; those that follow an acceptance in the latent walk are the first ones of another.
    monkeypatch.setattr(LatentMonteCarloMove, "_batch_size", lambda self, remaining: remaining)
    current = sampler_state([[0, 0, 0]])
    for _ in range(20):
        move.apply(state, current)
        assert np.abs(nanometers(current)).max() < 0.1
    assert move.n_proposed == 120
    assert 80 <= move.n_nonfinite <= 100 if kind is LatentMonteCarloMove else move.n_nonfinite == 80
    assert 0 < move.n_accepted <= 40


def test_a_start_with_infinite_energy_is_left_at_once(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch, kind: MoveClass
) -> None:
    evaluate = proposal_move.reduced_energies

    def infinite_at_first(*args: Any) -> np.ndarray:
        energies = evaluate(*args)
        energies[0] = np.inf
        return energies

    monkeypatch.setattr(proposal_move, "reduced_energies", infinite_at_first)
    move = kind(oscillator_model, n_proposals=1)
    move.apply(state, sampler_state([[0, 0, 0]]))
    assert (move.n_accepted, move.n_nonfinite) == (1, 0)


def test_a_start_of_the_wrong_chirality_is_refused(
    alanine_model: Path, alanine: Any, alanine_state: ThermodynamicState, kind: MoveClass
) -> None:
    move = kind(alanine_model)
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


def test_a_start_with_nan_is_refused(
    oscillator_model: Path, state: ThermodynamicState, kind: MoveClass
) -> None:
    with pytest.raises(InputError, match="NaN or infinite positions"):
        kind(oscillator_model).apply(state, sampler_state([[np.nan, 0, 0]]))


def test_a_model_of_another_molecule_is_refused(
    alanine_model: Path, state: ThermodynamicState, kind: MoveClass
) -> None:
    with pytest.raises(InputError, match=r"has 22 atoms, but the system .* has 1 particles"):
        kind(alanine_model).apply(state, sampler_state([[0, 0, 0]]))


def test_only_context_caches_are_taken(
    oscillator_model: Path, state: ThermodynamicState, kind: MoveClass
) -> None:
    with pytest.raises(ValueError, match="not a valid ContextCache"):
        kind(oscillator_model).apply(state, sampler_state([[0, 0, 0]]), context_cache="cache")


# Warnings, once each


def test_a_temperature_outside_the_range_warns_once(
    oscillator_model: Path, oscillator: Any, recwarn: pytest.WarningsRecorder, kind: MoveClass
) -> None:
    hot = ThermodynamicState(oscillator.system, 500 * unit.kelvin)
    move = kind(oscillator_model)
    with pytest.warns(ReliabilityWarning, match="made for 250-350 K and is used at 500 K"):
        move.apply(hot, sampler_state([[0, 0, 0]]))
    copy.deepcopy(move).apply(hot, sampler_state([[0, 0, 0]]))
    assert len(recwarn) == 0


def test_another_energy_function_warns_once_and_stays_exact(
    alanine_model: Path, alanine: Any, recwarn: pytest.WarningsRecorder, kind: MoveClass
) -> None:
    system = copy.deepcopy(alanine.system)
    restraint = openmm.CustomExternalForce("100*((x-0.3)^2+y^2+z^2)")
    restraint.addParticle(4)
    system.addForce(restraint)
    restrained = ThermodynamicState(system, 600 * unit.kelvin)
    move = kind(alanine_model)
    with pytest.warns(ReliabilityWarning, match="another energy function"):
        move.apply(restrained, sampler_state(alanine.positions))
    move.apply(restrained, sampler_state(alanine.positions))
    assert len(recwarn) == 0


def test_openmmtools_own_alanine_dipeptide_is_the_system_of_the_model(
    alanine_model: Path, kind: MoveClass
) -> None:
    from openmmtools import testsystems

    theirs = testsystems.AlanineDipeptideImplicit(constraints=None)
    current = SamplerState(theirs.positions)
    kind(alanine_model).apply(ThermodynamicState(theirs.system, 300 * unit.kelvin), current)
    assert current.potential_energy is not None  # and no warning, which would be an error
