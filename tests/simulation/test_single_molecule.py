"""Langevin dynamics of one molecule on machine code: against OpenMM's integrator, and against theory."""

import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.simulation.single_molecule import SingleMoleculeDynamics
from openmm_bg.units import BOLTZMANN_CONSTANT

TIMESTEP = 0.002
NM_PER_PS = unit.nanometer / unit.picosecond


@pytest.fixture(scope="module")
def ala():
    return systems.load("alanine_dipeptide")


@pytest.fixture(scope="module")
def velocities(ala):
    rng = np.random.default_rng(3)
    width = np.sqrt(BOLTZMANN_CONSTANT * 300.0 / ala.masses)
    return rng.normal(size=ala.positions.shape) * width[:, None]


def openmm_steps(system, positions, velocities, n_steps, timestep):
    """What OpenMM's integrator does without friction; its Reference platform is in double precision."""
    integrator = openmm.LangevinMiddleIntegrator(300.0, 0.0, timestep)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    context.setVelocities(velocities)
    integrator.step(n_steps)
    state = context.getState(positions=True, velocities=True, energy=True)
    return (
        state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
        state.getVelocities(asNumpy=True).value_in_unit(NM_PER_PS),
        state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
    )


@pytest.mark.parametrize("interval", [None, 1, 3])
def test_steps_without_friction_are_openmm_s(ala, velocities, interval):
    system = openmm.XmlSerializer.clone(ala.system)
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)
    if interval:
        system.addForce(openmm.CMMotionRemover(interval))
    pull = openmm.CustomExternalForce("-20*x")  # so that it matters when the motion is removed
    for index in range(ala.n_atoms):
        pull.addParticle(index, [])
    system.addForce(pull)
    expected = openmm_steps(system, ala.positions, velocities, 50, 0.001)
    dynamics = SingleMoleculeDynamics(TorchPotential.from_system(system), ala.masses, interval)
    options = {"timestep": 0.001, "friction": 0.0, "temperature": 300.0}
    generator = torch.Generator().manual_seed(1)
    found = dynamics.run(ala.positions, velocities, 50, generator=generator, **options)
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one, other, rtol=0, atol=2e-6)
    # Control: with another interval the molecule is elsewhere.
    other = SingleMoleculeDynamics(TorchPotential.from_system(system), ala.masses, 2)
    there = other.run(ala.positions, velocities, 50, generator=generator, **options)[0]
    assert np.abs(there - expected[0]).max() > 1e-5


def oscillators(frequencies, n=400):
    """A system of independent particles, each with the same three frequencies, and its masses."""
    system = openmm.System()
    force = openmm.CustomExternalForce("0.5*(kx*x^2 + ky*y^2 + kz*z^2)")
    for name, k in zip(("kx", "ky", "kz"), 2.0 * frequencies**2, strict=True):
        force.addGlobalParameter(name, k)
    for index in range(n):
        system.addParticle(2.0)
        force.addParticle(index, [])
    system.addForce(force)
    return system, np.full(n, 2.0)


@pytest.mark.parametrize("wrong", [False, True])
def test_oscillators_have_the_stationary_distribution_of_the_scheme(wrong):
    """<x^2> = kT/k for every frequency, and half-step velocities kT/m; a control at a wrong temperature fails."""
    frequencies, n, n_draws = np.array([0.1, 0.4, 0.7]) / TIMESTEP, 400, 400
    system, masses = oscillators(frequencies, n)
    dynamics = SingleMoleculeDynamics(TorchPotential.from_system(system), masses)
    generator = torch.Generator().manual_seed(2)
    # 60 steps are 0.12 ps, several correlation times of all three (the slowest: omega = 50, friction 100 /ps).
    options = {"timestep": TIMESTEP, "friction": 100.0, "temperature": 320.0 if wrong else 300.0}
    width = np.sqrt(BOLTZMANN_CONSTANT * 300.0 / 2.0)
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(n, 3)) * width / frequencies, rng.normal(size=(n, 3)) * width
    x, v, _ = dynamics.run(x, v, 300, generator=generator, **options)
    squares = np.zeros((2, 3))
    for _ in range(n_draws):
        x, v, _ = dynamics.run(x, v, 60, generator=generator, **options)
        squares[0] += ((x * frequencies / width) ** 2).mean(axis=0) / n_draws
        squares[1] += ((v / width) ** 2).mean(axis=0) / n_draws
    z = np.abs(squares - 1.0) / np.sqrt(2.0 / (n * n_draws))
    assert (z < 4.5).all() != wrong, z


def test_the_same_random_numbers_give_the_same_steps(ala, velocities):
    dynamics = SingleMoleculeDynamics(TorchPotential.from_system(ala), ala.masses)
    options = {"timestep": TIMESTEP, "friction": 1.0, "temperature": 300.0}
    runs = [
        dynamics.run(ala.positions, velocities, 20, generator=torch.Generator().manual_seed(seed), **options)
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert not np.array_equal(runs[0][0], runs[2][0])
    energy = TorchPotential.from_system(ala).energy(torch.tensor(runs[0][0])[None])
    assert float(energy[0]) == pytest.approx(runs[0][2], abs=1e-6)


def test_a_start_without_a_finite_energy_is_refused(ala, velocities):
    dynamics = SingleMoleculeDynamics(TorchPotential.from_system(ala), ala.masses)
    options = {"timestep": TIMESTEP, "friction": 1.0, "temperature": 300.0}
    options["generator"] = torch.Generator().manual_seed(1)
    clash = ala.positions.copy()
    clash[1] = clash[0]
    with pytest.raises(InputError, match="not finite"):
        dynamics.run(clash, velocities, 1, **options)
    dynamics.run(ala.positions, velocities, 1, **options)
    with pytest.raises(InputError, match="not finite"):
        dynamics.run(np.full_like(clash, np.nan), velocities, 1, **options)


def test_tensor_modes_are_refused(ala):
    with pytest.raises(InputError, match="fused"):
        TorchPotential.from_system(ala, mode="eager").single(ala.positions)
