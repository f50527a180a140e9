"""Fused Langevin dynamics as a move of openmmtools."""

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from openmm import unit
from openmmtools import cache, utils
from openmmtools.mcmc import LangevinDynamicsMove
from openmmtools.states import CompoundThermodynamicState, SamplerState, ThermodynamicState

from openmm_bg import mcmc, systems
from openmm_bg.errors import InputError
from openmm_bg.exchange import run_parallel_tempering
from openmm_bg.mcmc import FusedLangevinMove
from openmm_bg.units import BOLTZMANN_CONSTANT
from tests.mcmc.host_cases import RestraintState, pair

NM_PER_PS = unit.nanometer / unit.picosecond
T = 300.0


@pytest.fixture
def contexts() -> cache.ContextCache:
    return cache.ContextCache(openmm.Platform.getPlatformByName("Reference"))


@pytest.fixture
def ala_state(alanine: Any) -> ThermodynamicState:
    return ThermodynamicState(alanine.system, T * unit.kelvin)


@pytest.fixture
def start(alanine: Any) -> SamplerState:
    return SamplerState(alanine.positions * unit.nanometer)


def springs(n: int, stiffness: np.ndarray, mass: float) -> openmm.System:
    system = openmm.System()
    force = openmm.CustomExternalForce("0.5*(kx*x^2 + ky*y^2 + kz*z^2)")
    for name, k in zip(("kx", "ky", "kz"), stiffness, strict=True):
        force.addGlobalParameter(name, k)
    for index in range(n):
        system.addParticle(mass)
        force.addParticle(index, [])
    system.addForce(force)
    return system


@pytest.mark.parametrize("wrong", [False, True])
def test_it_takes_turns_with_openmmtools_own_move(contexts: cache.ContextCache, wrong: bool) -> None:
    """Both keep velocities half a step behind: <x^2> stays kT/k for stiff springs, whoever begins.

    Control: velocities at the time of the positions, passed between the moves, heat the stiff springs.
    """
    n, mass, step = 1000, 2.0, 0.002
    frequencies = np.array([0.2, 0.5, 0.8]) / step
    state = ThermodynamicState(springs(n, mass * frequencies**2, mass), T * unit.kelvin)
    options = {"timestep": step * unit.picosecond, "collision_rate": 20.0 / unit.picosecond, "n_steps": 7}
    moves = (FusedLangevinMove(**options), LangevinDynamicsMove(**options))
    width = np.sqrt(BOLTZMANN_CONSTANT * T / mass)
    x = np.random.default_rng(0).normal(size=(n, 3)) * width / frequencies
    current = SamplerState(x * unit.nanometer)  # velocities are drawn, as they belong to x
    squares, n_turns = np.zeros(3), 300
    for k in range(n_turns):
        if wrong and k % 2 == 0:
            current.velocities = mcmc.velocities.maxwell_boltzmann(np.full(n, mass), T)
        moves[k % 2].apply(state, current, context_cache=contexts)
        x = current.positions.value_in_unit(unit.nanometer)
        squares += ((x * frequencies / width) ** 2).mean(axis=0) / n_turns
    # Every other turn counts as independent at least: energies decay with the friction, by half in two turns.
    z = (squares - 1.0) / np.sqrt(2.0 / n) / np.sqrt(4.0 / n_turns)
    assert (np.abs(z) < 4.5).all() != wrong, z


def test_energies_are_those_of_the_context(
    ala_state: ThermodynamicState, start: SamplerState, contexts: cache.ContextCache, alanine: Any
) -> None:
    move = FusedLangevinMove(0.001, 1.0, 20)
    move.apply(ala_state, start, context_cache=contexts)
    context = openmm.Context(
        alanine.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(start.positions)
    energy = context.getState(energy=True).getPotentialEnergy()
    assert start.potential_energy._value == pytest.approx(energy._value, abs=1e-6)
    kinetic = 0.5 * (alanine.masses * (start.velocities.value_in_unit(NM_PER_PS) ** 2).sum(axis=1)).sum()
    assert start.kinetic_energy._value == pytest.approx(kinetic, rel=1e-6)


def test_the_centre_of_mass_rests_as_the_system_wants_it(
    ala_state: ThermodynamicState, start: SamplerState, contexts: cache.ContextCache, alanine: Any
) -> None:
    def centre() -> np.ndarray:
        return alanine.masses @ start.positions.value_in_unit(unit.nanometer) / alanine.masses.sum()

    before = centre()
    FusedLangevinMove(0.001, 1.0, 200).apply(ala_state, start, context_cache=contexts)
    moved = np.linalg.norm(centre() - before)
    free = openmm.XmlSerializer.clone(alanine.system)
    for index in reversed(range(free.getNumForces())):
        if isinstance(free.getForce(index), openmm.CMMotionRemover):
            free.removeForce(index)
    before = centre()
    state = ThermodynamicState(free, T * unit.kelvin)
    FusedLangevinMove(0.001, 1.0, 200).apply(state, start, context_cache=contexts)
    # Each step has its noise of one step; that of all 200 adds up only if nothing removes it.
    assert 5 * moved < np.linalg.norm(centre() - before)


def test_temperatures_of_replicas_that_share_a_context(
    ala_state: ThermodynamicState, contexts: cache.ContextCache, alanine: Any
) -> None:
    found = []
    for temperature in (T, 2 * T):
        state = ThermodynamicState(alanine.system, temperature * unit.kelvin)
        current = SamplerState(alanine.positions * unit.nanometer)
        move, kinetic = FusedLangevinMove(0.001, 20.0, 50), []
        for _ in range(200):
            move.apply(state, current, context_cache=contexts)
            kinetic.append(current.kinetic_energy.value_in_unit(unit.kilojoule_per_mole))
        # 63 degrees of freedom, as the centre of mass rests.
        found.append(2 * np.mean(kinetic[20:]) / (63 * BOLTZMANN_CONSTANT) / temperature)
    error = np.sqrt(2 / 63 / 180 * 2)
    assert np.abs(np.array(found) - 1.0).max() < 4 * error


def test_its_state_is_its_settings(
    ala_state: ThermodynamicState, start: SamplerState, contexts: cache.ContextCache
) -> None:
    move = FusedLangevinMove(2 * unit.femtoseconds, 5.0, 30, reassign_velocities=True, n_restart_attempts=2)
    again = utils.deserialize(utils.serialize(move))
    assert type(again) is FusedLangevinMove
    assert again.__getstate__() == move.__getstate__()
    positions = []
    for one in (move, again):
        mcmc.seed(4)
        current = SamplerState(start.positions)
        one.apply(ala_state, current, context_cache=contexts)
        positions.append(current.positions._value)
    np.testing.assert_array_equal(*positions)


def test_states_that_cannot_be_fused_are_refused(contexts: cache.ContextCache) -> None:
    move = FusedLangevinMove(0.001, 1.0, 5)
    here = SamplerState(np.array([[0.0, 0, 0], [0.3, 0, 0]]) * unit.nanometer)
    system = pair("stiffness")
    compound = CompoundThermodynamicState(
        ThermodynamicState(system, T * unit.kelvin), [RestraintState.from_system(system)]
    )
    with pytest.raises(InputError, match="use openmmtools' LangevinDynamicsMove"):
        move.apply(compound, here, context_cache=contexts)
    system = pair()
    system.addForce(openmm.RMSDForce(here.positions))
    with pytest.raises(InputError, match="use openmmtools' LangevinDynamicsMove"):
        move.apply(ThermodynamicState(system, T * unit.kelvin), here, context_cache=contexts)
    system = pair()
    system.addConstraint(0, 1, 0.3)
    with pytest.raises(InputError, match="constraint"):
        move.apply(ThermodynamicState(system, T * unit.kelvin), here, context_cache=contexts)


def test_dynamics_that_explode_leave_the_state_as_it_was(
    ala_state: ThermodynamicState, start: SamplerState, contexts: cache.ContextCache, alanine: Any
) -> None:
    with pytest.raises(InputError, match="at 3 attempts; use a shorter time step"):
        FusedLangevinMove(0.05, 1.0, 200, n_restart_attempts=2).apply(
            ala_state, start, context_cache=contexts
        )
    np.testing.assert_array_equal(start.positions._value, alanine.positions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 5), "time step must be positive"),
        ((0.001, -1.0, 5), "collision rate must not be negative"),
        ((0.001, 1.0, 0), "number of steps must be at least 1"),
        ((0.001, 1.0, 2.5), "number of steps must be a whole number"),
    ],
)
def test_settings_that_make_no_sense(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FusedLangevinMove(*arguments)


def test_exchange_with_it_is_reproduced_continued_and_not_confused(
    alanine_model: Path, tmp_path: Path, alanine: systems.MolecularSystem
) -> None:
    settings = {"sampler": "learned", "n_steps": 5, "checkpoint_interval": 2, "platform": "Reference"}
    runs = [
        run_parallel_tempering(
            alanine_model, tmp_path / f"{k}.nc", n_iterations=4, seed=seed, dynamics="fused", **settings
        )
        for k, seed in enumerate((3, 3, 4))
    ]
    np.testing.assert_array_equal(runs[0].positions, runs[1].positions)
    assert not np.array_equal(runs[0].positions, runs[2].positions)
    assert runs[0].settings["dynamics"] == "fused"
    longer = run_parallel_tempering(
        alanine_model, tmp_path / "0.nc", n_iterations=6, dynamics="fused", **settings
    )
    np.testing.assert_array_equal(longer.positions[:4], runs[0].positions)
    assert not np.array_equal(longer.positions[5], longer.positions[4])
    with pytest.raises(InputError, match="holds a run with dynamics=fused, not openmm"):
        run_parallel_tempering(alanine_model, tmp_path / "0.nc", n_iterations=7, **settings)
    with pytest.raises(InputError, match="no dynamics 'brownian'; choose from openmm, fused"):
        run_parallel_tempering(alanine_model, tmp_path / "9.nc", dynamics="brownian", **settings)
