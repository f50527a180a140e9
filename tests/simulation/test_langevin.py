"""Batched Langevin dynamics against the averages of theory; walkers that explode."""

import numpy as np
import pytest
import torch
from toy_potentials import Box, Harmonic, generator

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.simulation import LangevinDynamics
from openmm_bg.units import thermal_energy


def _dynamics(temperature, n_walkers=512, potential=None, seed=1, **options):
    return LangevinDynamics(
        potential or Harmonic(2),
        np.zeros((n_walkers, 2, 3)),
        np.array([12.0, 4.0]),
        temperature,
        generator=generator(seed),
        **{"timestep": 0.002, "friction": 20.0} | options,
    )


def _mean(samples):
    """Return the mean and its standard error; walkers are independent, their frames are not."""
    means = np.mean(samples, axis=0)
    return means.mean(), means.std(ddof=1) / np.sqrt(len(means))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_harmonic_energies_are_those_of_theory(dtype):
    """Six coordinates: mean 3 kT, variance 3 (kT)^2, at any time step. Three percent colder must fail."""
    dynamics = _dynamics(300.0, dtype=dtype)
    dynamics.step(200)
    energies, kinetic = [], []
    for _ in range(250):
        dynamics.step(10)
        energies.append(dynamics.energy.double().numpy().copy())
        kinetic.append(dynamics.kinetic_energy().numpy())
    for temperature, agrees in ((300.0, True), (291.0, False)):
        reduced = np.array(energies) / thermal_energy(temperature)
        mean, error = _mean(reduced)
        assert (abs(mean - 3.0) < 3.5 * error) == agrees
        # Around the mean of theory, the average square is the variance.
        variance, error = _mean((reduced - 3.0) ** 2)
        assert (abs(variance - 3.0) < 3.5 * error) == agrees
        assert error < 0.03
    mean, error = _mean(np.array(kinetic) / thermal_energy(300.0))
    # The scheme's velocities are exact to second order in the time step, (omega dt / 2)^2.
    assert abs(mean - 3.0) < 3.5 * error + 3.0 * 0.002**2 * 10_000.0 / 4.0


def test_walkers_have_their_own_temperatures():
    dynamics = _dynamics(np.repeat([300.0, 900.0], 128), n_walkers=256)
    dynamics.step(200)
    energies = []
    for _ in range(100):
        dynamics.step(20)
        energies.append(dynamics.energy.numpy().copy())
    for part, temperature in ((slice(128), 300.0), (slice(128, 256), 900.0)):
        mean, error = _mean(np.array(energies)[:, part] / thermal_energy(temperature))
        assert abs(mean - 3.0) < 3.5 * error


def test_same_trajectory_however_the_steps_are_grouped():
    one, two = _dynamics(300.0, n_walkers=5), _dynamics(300.0, n_walkers=5)
    one.step(20)
    for _ in range(4):
        two.step(5)
    assert torch.equal(one.positions, two.positions)
    assert torch.equal(one.velocities, two.velocities)


def test_without_friction_it_is_leapfrog():
    """Half a kick apart, the scheme without friction is velocity Verlet."""
    from openmm_bg.simulation import VelocityVerlet

    start = 0.01 * torch.randn(4, 2, 3, generator=generator(1), dtype=torch.float64)
    langevin = LangevinDynamics(
        Harmonic(2), start, [12.0, 4.0], 300.0, timestep=0.001, friction=0.0, generator=generator()
    )
    verlet = VelocityVerlet(
        Harmonic(2), start, [12.0, 4.0], velocities=torch.zeros_like(start), timestep=0.001
    )
    mass = torch.tensor([12.0, 4.0], dtype=torch.float64)[None, :, None]
    langevin.set_velocities(verlet.velocities - 0.5 * 0.001 * verlet.forces / mass)
    langevin.step(100)
    verlet.step(100)
    assert (langevin.positions - verlet.positions).abs().max() < 1e-12


def test_start_positions_are_not_changed():
    start = torch.zeros(3, 2, 3)
    dynamics = LangevinDynamics(Harmonic(2), start, [12.0, 4.0], 300.0, generator=generator())
    dynamics.step(5)
    assert not start.any()
    assert dynamics.positions.any(-1).all()


def test_exploding_walkers_restart_from_their_last_good_frame():
    dynamics = _dynamics(300.0, n_walkers=64)
    dynamics.step(10)
    good, velocities = dynamics.positions.clone(), dynamics.velocities.clone()
    dynamics.velocities[[3, 7]] = torch.inf
    with pytest.warns(ReliabilityWarning, match="walkers 3, 7 became non-finite"):
        dynamics.step(1)
    assert dynamics.n_restarts == 2
    assert dynamics.restarts.nonzero()[:, 0].tolist() == [3, 7]
    assert torch.equal(dynamics.positions[[3, 7]], good[[3, 7]])
    assert not torch.equal(dynamics.positions[4], good[4])
    assert not torch.equal(dynamics.velocities[3], velocities[3])
    assert torch.isfinite(dynamics.velocities).all()
    assert torch.equal(dynamics.energy, Harmonic(2).energy(dynamics.positions))
    dynamics.velocities[3] = torch.nan
    dynamics.step(1)  # said once: warnings are errors here
    assert dynamics.n_restarts == 3
    state = dynamics.state()
    other = _dynamics(300.0, n_walkers=64)
    other.restore(state)
    assert torch.equal(other.restarts, dynamics.restarts)


def test_a_walker_that_went_through_a_non_finite_energy_restarts():
    """Within one call it tunnelled through a wall; its last energy is finite."""

    class Wall(Harmonic):
        def _evaluate(self, positions, with_forces):
            inside = (positions[:, 0, 0] + 0.125).abs() < 0.025
            return torch.where(inside, torch.inf, positions.new_zeros(())), torch.zeros_like(positions)

    dynamics = _dynamics(300.0, n_walkers=2, potential=Wall(2), friction=0.0, timestep=0.01)
    start = torch.full((2, 2, 3), -0.09)
    dynamics.set_positions(start)
    dynamics.set_velocities(torch.zeros(2, 2, 3))
    dynamics.velocities[1, 0, 0] = -4.0
    with pytest.warns(ReliabilityWarning, match="walker 1 became"):
        dynamics.step(2)
    assert torch.equal(dynamics.positions, start)
    assert dynamics.restarts.tolist() == [0, 1]


def test_a_walker_without_a_good_frame_is_an_error():
    with pytest.raises(InputError, match="energy of walker 1 is not finite at the start"):
        LangevinDynamics(Box(1), [[[0.0, 0, 0]], [[0.5, 0, 0]]], [12.0], 300.0, generator=generator())
    dynamics = LangevinDynamics(Box(1), np.zeros((2, 1, 3)), [12.0], 300.0, generator=generator())
    with pytest.raises(InputError, match="energy of walker 0 is not finite"):
        dynamics.set_positions([[[0.5, 0, 0]], [[0.0, 0, 0]]])
