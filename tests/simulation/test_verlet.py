"""Newtonian dynamics against OpenMM's own integrator, and against what it must conserve."""

import numpy as np
import pytest
import torch
from toy_potentials import Box, Harmonic, K, generator

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.potentials import OpenMMPotential
from openmm_bg.simulation import VelocityVerlet
from openmm_bg.units import thermal_energy


@pytest.fixture(scope="module")
def potential(alanine):
    with OpenMMPotential(alanine, platform="Reference", n_contexts=1) as potential:
        yield potential


def _verlet(potential, alanine, md_positions, timestep=0.001):
    return VelocityVerlet(
        potential,
        md_positions[[100, 600]],
        alanine.masses,
        temperature=300.0,
        timestep=timestep,
        generator=generator(4),
        dtype=torch.float64,
    )


def test_trajectory_is_that_of_openmm(potential, alanine, md_positions):
    import openmm

    system = openmm.XmlSerializer.clone(alanine.system)
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)
    dynamics = _verlet(potential, alanine, md_positions)
    mass = alanine.masses[:, None]
    # OpenMM's leapfrog keeps velocities half a step behind.
    behind = dynamics.velocities.numpy() - 0.5 * 0.001 * dynamics.forces.numpy() / mass
    start = dynamics.positions.numpy().copy()
    dynamics.step(100)
    for k in range(2):
        integrator = openmm.VerletIntegrator(0.001)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(start[k])
        context.setVelocities(behind[k])
        integrator.step(100)
        state = context.getState(getPositions=True, getVelocities=True)
        assert np.abs(state.getPositions(asNumpy=True)._value - dynamics.positions[k].numpy()).max() < 1e-9
        expected = state.getVelocities(asNumpy=True)._value + 0.5 * 0.001 * dynamics.forces[k].numpy() / mass
        assert np.abs(expected - dynamics.velocities[k].numpy()).max() < 1e-7


def test_energy_errors_are_of_second_order(potential, alanine, md_positions):
    """Half the time step, a quarter of the error, over the same time; and no drift."""
    errors = []
    for timestep, n_steps in ((0.0005, 1), (0.00025, 2)):
        dynamics = _verlet(potential, alanine, md_positions, timestep)
        start, energies = dynamics.total_energy(), []
        for _ in range(80):
            dynamics.step(n_steps)
            energies.append(dynamics.total_energy() - start)
        errors.append(torch.stack(energies).square().mean(0).sqrt())
    assert (errors[0] < 1.0).all()  # kJ/mol
    assert ((errors[0] / errors[1] - 4.0).abs() < 0.4).all()


def test_it_runs_backwards(potential, alanine, md_positions):
    dynamics = _verlet(potential, alanine, md_positions)
    start, velocities = dynamics.positions.clone(), dynamics.velocities.clone()
    dynamics.step(40)
    assert (dynamics.positions - start).abs().max() > 0.005
    dynamics.set_velocities(-dynamics.velocities)
    dynamics.step(40)
    assert (dynamics.positions - start).abs().max() < 1e-10
    assert (dynamics.velocities + velocities).abs().max() < 1e-8


def test_harmonic_oscillator_follows_its_discrete_solution():
    """x_n = x_0 cos(n theta) with cos(theta) = 1 - (omega dt)^2 / 2, from rest."""
    dynamics = VelocityVerlet(
        Harmonic(1),
        np.full((3, 1, 3), 0.01),
        [12.0],
        velocities=np.zeros((3, 1, 3)),
        timestep=0.005,
        dtype=torch.float64,
    )
    dynamics.step(1000)
    theta = np.arccos(1.0 - 0.5 * K / 12.0 * 0.005**2)
    assert np.abs(dynamics.positions.numpy() - 0.01 * np.cos(1000 * theta)).max() < 1e-12


def test_velocities_are_those_of_maxwell():
    masses, n = np.array([1.0, 16.0]), 20_000
    temperatures = np.repeat([300.0, 600.0], n // 2)
    dynamics = VelocityVerlet(
        Harmonic(2), np.zeros((n, 2, 3)), masses, temperature=temperatures, generator=generator()
    )
    kinetic = dynamics.kinetic_energy().numpy()
    explicit = 0.5 * (masses[:, None] * dynamics.velocities.double().numpy() ** 2).sum((1, 2))
    assert np.allclose(kinetic, explicit, rtol=1e-12)
    reduced = kinetic / np.array([thermal_energy(t) for t in temperatures])
    assert abs(reduced.mean() - 3.0) < 3.5 * np.sqrt(3.0 / n)
    # The variance of a variance with the fourth central moment of a gamma distribution: 3 a^2 + 6 a.
    assert abs(reduced.var() - 3.0) < 3.5 * np.sqrt((45.0 - 9.0) / n)
    estimate = dynamics.kinetic_temperature().numpy() / temperatures
    assert abs(estimate.mean() - 1.0) < 3.5 * np.sqrt(1.0 / 3.0 / n)
    assert np.allclose(dynamics.kinetic_temperature(3).numpy(), 2.0 * dynamics.kinetic_temperature().numpy())
    per_atom = dynamics.velocities[: n // 2].double().square().mean((0, 2)).numpy() * masses
    assert np.abs(per_atom / thermal_energy(300.0) - 1.0).max() < 3.5 * np.sqrt(2.0 / (1.5 * n))


def test_an_exploding_walker_goes_back_and_the_others_go_on():
    dynamics = VelocityVerlet(
        Box(1), np.zeros((3, 1, 3)), [12.0], velocities=np.zeros((3, 1, 3)), timestep=0.01
    )
    dynamics.velocities[:, 0, 0] = torch.tensor([0.1, 0.2, 20.0])
    velocities = dynamics.velocities.clone()
    with pytest.warns(ReliabilityWarning, match="energy of walker 2 became non-finite.*use a shorter"):
        dynamics.step(2)
    assert torch.allclose(dynamics.positions[:, 0, 0], torch.tensor([0.002, 0.004, 0.0]))
    assert torch.equal(dynamics.velocities, velocities)
    assert dynamics.energy.tolist() == [0.0] * 3
    assert dynamics.restarts.tolist() == [0, 0, 1]
    dynamics.step(2)  # said once: warnings are errors here
    assert dynamics.restarts.tolist() == [0, 0, 2]
    dynamics.velocities[2] = 0.0
    dynamics.step(1)
    assert dynamics.n_restarts == 2


def test_a_walker_that_went_through_a_wall_goes_back():
    """Its energy is finite at the end of the call, but not on the way."""

    class Wall(Harmonic):
        def _evaluate(self, positions, with_forces):
            inside = (positions[:, 0, 0] - 0.05).abs() < 0.025
            return torch.where(inside, torch.inf, positions.new_zeros(())), torch.zeros_like(positions)

    dynamics = VelocityVerlet(
        Wall(1), np.zeros((2, 1, 3)), [12.0], velocities=np.zeros((2, 1, 3)), timestep=0.01
    )
    dynamics.velocities[1, 0, 0] = 5.0
    with pytest.warns(ReliabilityWarning, match="walker 1"):
        dynamics.step(2)
    assert not dynamics.positions.any()
    assert dynamics.restarts.tolist() == [0, 1]


def test_a_walker_without_a_good_frame_is_an_error():
    dynamics = VelocityVerlet(Box(1), np.zeros((3, 1, 3)), [12.0], velocities=np.ones((3, 1, 3)))
    dynamics.velocities[1] = torch.inf
    before = dynamics.state()
    with pytest.raises(
        InputError, match="energy of walker 1 is not finite; set the positions and velocities"
    ):
        dynamics.step(1)
    after = dynamics.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("options", [{}, {"velocities": np.zeros((2, 1, 3)), "temperature": 300.0}])
def test_velocities_or_a_temperature(options):
    with pytest.raises(InputError, match="either the velocities, or a temperature"):
        VelocityVerlet(Harmonic(1), np.zeros((2, 1, 3)), [12.0], **options)
