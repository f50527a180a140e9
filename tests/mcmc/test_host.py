"""Energies of the host's thermodynamic state, and the hosts that are refused."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmtools import cache, testsystems
from openmmtools.states import (
    CompoundThermodynamicState,
    GlobalParameterState,
    SamplerState,
    ThermodynamicState,
)

from openmm_bg.errors import InputError
from openmm_bg.mcmc import FlowMove, host
from openmm_bg.mcmc.host import host_system, reduced_energies


class RestraintState(GlobalParameterState):
    """A stiffness that the host's state controls."""

    stiffness = GlobalParameterState.GlobalParameter("stiffness", standard_value=1.0)


def restrained(system: openmm.System) -> openmm.System:
    system = copy.deepcopy(system)
    force = openmm.CustomExternalForce("1000*stiffness*((x-0.3)^2+2*y^2+3*z^2)")
    force.addGlobalParameter("stiffness", 1.0)
    force.addParticle(4, [])
    system.addForce(force)
    return system


def context_energies(state: ThermodynamicState, positions: np.ndarray) -> np.ndarray:
    """Reduced energies by a Reference Context of the state, without our code."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = state.create_context(openmm.VerletIntegrator(0.001), platform)
    state.apply_to_context(context)
    energies = []
    for x in positions:
        context.setPositions(x)
        energies.append(state.reduced_potential(context))
    return np.array(energies)


@pytest.fixture
def reference_cache() -> cache.ContextCache:
    return cache.ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))


@pytest.mark.parametrize("temperature", [300.0, 600.0])
def test_a_plain_state_is_evaluated_as_one_batch(
    alanine: Any, md_positions: np.ndarray, reference_cache: cache.ContextCache, temperature: float
) -> None:
    state = ThermodynamicState(alanine.system, temperature * unit.kelvin)
    energies = reduced_energies(state, torch.tensor(md_positions[:50]), reference_cache)
    np.testing.assert_allclose(energies, context_energies(state, md_positions[:50]), rtol=1e-6, atol=1e-4)
    assert len(reference_cache) == 0


def test_states_that_differ_in_temperature_share_what_is_known(alanine: Any) -> None:
    state = ThermodynamicState(alanine.system, 300 * unit.kelvin)
    known = host_system(state)
    hotter, restored = copy.deepcopy(state), ThermodynamicState.__new__(ThermodynamicState)
    hotter.temperature = 600 * unit.kelvin
    restored.__setstate__(state.__getstate__())
    for other in (hotter, restored, ThermodynamicState(alanine.system, 400 * unit.kelvin)):
        assert host_system(other) is known
    assert known.system_hash == alanine.system_hash
    changed = ThermodynamicState(restrained(alanine.system), 300 * unit.kelvin)
    assert host_system(changed) is not known
    assert host_system(changed).system_hash != known.system_hash


def test_a_system_is_translated_once(alanine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    translations = []
    translate = host._translate
    monkeypatch.setattr(host, "_potentials", {})
    monkeypatch.setattr(host, "_translate", lambda system: translations.append(1) or translate(system))
    system = copy.deepcopy(alanine.system)
    for mass in (1.0, 2.0):
        system.setParticleMass(0, mass * unit.dalton)  # another system, but the same energy function
        state = ThermodynamicState(system, 300 * unit.kelvin)
        reduced_energies(state, torch.tensor(alanine.positions[None]), cache.ContextCache())
        assert host_system(state).masses[0] == mass
    assert len(translations) == 1


def test_a_compound_state_is_evaluated_with_its_parameters(
    alanine: Any, md_positions: np.ndarray, reference_cache: cache.ContextCache
) -> None:
    plain = ThermodynamicState(restrained(alanine.system), 300 * unit.kelvin)
    compound = CompoundThermodynamicState(plain, [RestraintState(stiffness=1.0)])
    batch = torch.tensor(md_positions[:10])
    found = {}
    for stiffness in (0.0, 1.0, 3.0):
        compound.stiffness = stiffness
        found[stiffness] = reduced_energies(compound, batch, reference_cache)
        np.testing.assert_allclose(found[stiffness], context_energies(compound, md_positions[:10]), rtol=1e-9)
    free = ThermodynamicState(alanine.system, 300 * unit.kelvin)
    np.testing.assert_allclose(found[0.0], context_energies(free, md_positions[:10]), rtol=1e-9)
    # The restraint is linear in its stiffness, and the plain state's own is 1.
    np.testing.assert_allclose(found[3.0] - found[0.0], 3 * (found[1.0] - found[0.0]), rtol=1e-6)
    np.testing.assert_allclose(found[1.0], reduced_energies(plain, batch, cache.ContextCache()), rtol=1e-5)


def test_a_force_that_cannot_be_translated_is_left_to_the_context(
    oscillator: Any, reference_cache: cache.ContextCache, caplog: pytest.LogCaptureFixture
) -> None:
    system = copy.deepcopy(oscillator.system)
    inner = openmm.CustomExternalForce("x^2")
    inner.addParticle(0, [])
    force = openmm.CustomCVForce("1000*v^2")
    force.addCollectiveVariable("v", inner)
    system.addForce(force)
    state = ThermodynamicState(system, 298 * unit.kelvin)
    positions = np.random.default_rng(1).normal(0, 0.02, (6, 1, 3))
    positions[2] = np.nan
    energies = reduced_energies(state, torch.tensor(positions), reference_cache)
    assert "one configuration at a time" in caplog.text
    usable = np.isfinite(positions).all(axis=(1, 2))
    np.testing.assert_allclose(energies[usable], context_energies(state, positions[usable]), rtol=1e-9)
    assert energies[2] == np.inf


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_a_configuration_without_energy_spoils_neither_the_others_nor_the_context(
    alanine: Any, platform: str
) -> None:
    context_cache = cache.ContextCache(platform=openmm.Platform.getPlatformByName(platform))
    compound = CompoundThermodynamicState(
        ThermodynamicState(restrained(alanine.system), 300 * unit.kelvin), [RestraintState(stiffness=0.0)]
    )
    batch = np.repeat(alanine.positions[None], 4, axis=0)
    batch[1, 3, 0] = np.nan
    batch[2, 0] = batch[2, 21]  # two atoms in one place
    energies = reduced_energies(compound, torch.tensor(batch), context_cache)
    assert np.isinf(energies[1])
    assert energies[2] == np.inf or energies[2] > 1e6
    expected = context_energies(compound, alanine.positions[None])[0]
    np.testing.assert_allclose(energies[[0, 3]], expected, rtol=1e-4)


def _periodic() -> tuple[ThermodynamicState, Any]:
    system = testsystems.LennardJonesFluid(nparticles=8, reduced_density=0.01, nx=None)
    return ThermodynamicState(system.system, 300 * unit.kelvin), system.positions


def _barostat() -> tuple[ThermodynamicState, Any]:
    system = testsystems.LennardJonesFluid(nparticles=8, reduced_density=0.01)
    return ThermodynamicState(system.system, 300 * unit.kelvin, 1 * unit.atmosphere), system.positions


def _constrained() -> tuple[ThermodynamicState, Any]:
    system = testsystems.AlanineDipeptideImplicit()
    return ThermodynamicState(system.system, 300 * unit.kelvin), system.positions


def _virtual_sites() -> tuple[ThermodynamicState, Any]:
    system = openmm.System()
    for mass in (16.0, 1.0, 0.0):
        system.addParticle(mass)
    system.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    force = openmm.CustomExternalForce("x^2")
    force.addParticle(0, [])
    system.addForce(force)
    return ThermodynamicState(system, 300 * unit.kelvin), np.zeros((3, 3)) * unit.nanometer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_constrained, "12 constraints.*constraints=None"),
        (_periodic, "periodic"),
        (_barostat, "barostat"),
        (_virtual_sites, "virtual sites"),
    ],
)
def test_hosts_for_which_the_move_would_be_wrong_are_refused(
    alanine_model: Any, make: Callable[[], tuple[ThermodynamicState, Any]], message: str
) -> None:
    state, positions = make()
    current = SamplerState(positions)
    before = copy.deepcopy(positions)
    move = FlowMove(alanine_model)
    for _ in range(2):  # the second time from memory
        with pytest.raises(InputError, match=message):
            move.apply(state, current)
    np.testing.assert_array_equal(current.positions / unit.nanometer, before / unit.nanometer)
    assert move.n_proposed == 0
