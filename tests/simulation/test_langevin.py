"""Batched Langevin dynamics and parallel tempering on systems with known averages."""

import math

import numpy as np
import pytest
import torch

from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.langevin import LangevinDynamics
from openmm_bg.simulation.tempering import ParallelTempering
from openmm_bg.statistics import chain_mean
from openmm_bg.units import thermal_energy

K = 40_000.0  # kJ/mol/nm^2


class Harmonic(Potential):
    """Independent particles on springs."""

    def _evaluate(self, positions, with_forces):
        return 0.5 * K * positions.square().sum((1, 2)), -K * positions


class DoubleWell(Potential):
    """A barrier along x: U = 20 ((x / 0.1)^2 - 1)^2 + 4 (x / 0.1), and springs along y and z."""

    def _evaluate(self, positions, with_forces):
        x = positions[:, 0, 0] / 0.1
        rest = positions[:, 0, 1:]
        energy = 20.0 * (x.square() - 1).square() + 4.0 * x + 0.5 * K * rest.square().sum(1)
        force = torch.empty_like(positions)
        force[:, 0, 0] = -(80.0 * x * (x.square() - 1) + 4.0) / 0.1
        force[:, 0, 1:] = -K * rest
        return energy, force


def _dynamics(temperature, n_walkers=64, seed=0, **options):
    return LangevinDynamics(
        Harmonic(2),
        np.zeros((n_walkers, 2, 3)),
        np.array([12.0, 4.0]),
        temperature,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
        **{"timestep": 0.002, "friction": 20.0} | options,
    )


@pytest.mark.parametrize("temperature", [300.0, 600.0])
def test_harmonic_energies_are_those_of_theory(temperature):
    """Six coordinates: mean 3 kT, variance 3 (kT)^2; kinetic energies too. A colder law must fail."""
    dynamics = _dynamics(temperature)
    dynamics.step(500)
    energies, kinetic = [], []
    for _ in range(300):
        dynamics.step(20)
        energies.append(dynamics.energy.numpy().copy())
        kinetic.append((0.5 * dynamics._mass * dynamics.velocities.square()).sum((1, 2)).numpy())
    kt = thermal_energy(temperature)
    potential = chain_mean(np.array(energies).T / kt)
    assert abs(potential.value - 3.0) < 3.5 * potential.stderr
    assert potential.stderr < 0.05
    assert abs(potential.value - 3.0 * 0.9) > 3.5 * potential.stderr
    variance = chain_mean((np.array(energies).T / kt - 3.0) ** 2)
    assert abs(variance.value - 3.0) < 3.5 * variance.stderr
    mean_kinetic = chain_mean(np.array(kinetic).T / kt)
    # Velocities of a leap-frog-like scheme are exact to second order in the time step.
    assert abs(mean_kinetic.value - 3.0) < 3.5 * mean_kinetic.stderr + 3.0 * 0.002**2 * K / 4.0 / 8.0


def test_walkers_have_their_own_temperatures():
    temperatures = np.repeat([300.0, 900.0], 64)
    dynamics = _dynamics(temperatures, n_walkers=128)
    dynamics.step(500)
    energies = []
    for _ in range(200):
        dynamics.step(20)
        energies.append(dynamics.energy.numpy().copy())
    for part, temperature in ((slice(64), 300.0), (slice(64, 128), 900.0)):
        mean = chain_mean(np.array(energies)[:, part].T / thermal_energy(temperature))
        assert abs(mean.value - 3.0) < 3.5 * mean.stderr


def test_restore_continues_exactly():
    one, two = _dynamics(300.0), _dynamics(300.0, seed=5)
    one.step(50)
    state = {name: np.array(value) for name, value in one.state().items()}
    one.step(50)
    two.restore(state)
    two.step(50)
    assert torch.equal(one.positions, two.positions)
    assert torch.equal(one.velocities, two.velocities)


def test_exploding_walkers_restart_from_their_last_good_frame():
    dynamics = _dynamics(300.0)
    dynamics.step(10)
    good = dynamics.positions.clone()
    dynamics.velocities[3] = torch.inf
    dynamics.step(1)
    assert dynamics.n_restarts == 1
    assert torch.equal(dynamics.positions[3], good[3])
    assert torch.isfinite(dynamics.positions).all()
    assert torch.isfinite(dynamics.energy).all()


def test_parallel_tempering_has_the_exact_populations():
    """Populations of the wells against numerical integration at every rung; without exchange 300 K has others."""
    temperatures = [300.0, 500.0, 900.0]
    n_ladders = 128
    start = np.zeros((3 * n_ladders, 1, 3))
    start[:, 0, 0] = 0.1  # all in the upper well
    sampler = ParallelTempering(
        DoubleWell(1),
        start,
        np.array([12.0]),
        np.repeat(temperatures, n_ladders),
        n_ladders=n_ladders,
        timestep=0.002,
        friction=10.0,
        generator=torch.Generator().manual_seed(3),
        dtype=torch.float64,
    )
    for _ in range(150):
        sampler.step(20)
    left = []
    for _ in range(500):
        sampler.step(20)
        left.append((sampler.positions[:, 0, 0] < 0).numpy().copy())
    left = np.array(left)
    grid = np.linspace(-3, 3, 20_001)
    energy = 20.0 * (grid**2 - 1) ** 2 + 4.0 * grid
    for rung, temperature in enumerate(temperatures):
        density = np.exp(-energy / thermal_energy(temperature))
        expected = density[grid < 0].sum() / density.sum()
        # Ladders are independent: the error is the scatter of their means.
        means = left[:, rung * n_ladders : (rung + 1) * n_ladders].mean(0)
        stderr = means.std(ddof=1) / math.sqrt(n_ladders)
        assert abs(means.mean() - expected) < 3.5 * stderr
        assert stderr < 0.03
    assert (sampler.n_accepted / sampler.n_proposed > 0.2).all()
    # Negative control: the same number of steps at 300 K alone does not reach equilibrium.
    alone = LangevinDynamics(
        DoubleWell(1),
        start[:n_ladders],
        np.array([12.0]),
        300.0,
        timestep=0.002,
        friction=10.0,
        generator=torch.Generator().manual_seed(3),
        dtype=torch.float64,
    )
    means = np.zeros(n_ladders)
    for _ in range(500):
        alone.step(20)
        means += (alone.positions[:, 0, 0] < 0).numpy() / 500
    density = np.exp(-energy / thermal_energy(300.0))
    expected = density[grid < 0].sum() / density.sum()
    assert abs(means.mean() - expected) > 3.5 * means.std(ddof=1) / math.sqrt(n_ladders)


def test_exchange_keeps_detailed_balance_of_a_pair():
    """The acceptance is min(1, exp((beta_i - beta_j)(U_i - U_j))), seen from its frequency."""
    temperatures = np.repeat([300.0, 600.0], 20_000)
    dynamics = _dynamics(temperatures, n_walkers=40_000)
    positions = torch.zeros_like(dynamics.positions)
    positions[:20_000, 0, 0], positions[20_000:, 0, 0] = 0.005, 0.015
    dynamics.positions = positions
    dynamics.energy, dynamics._forces = dynamics.potential.energy_and_forces(positions)
    pairs = torch.stack([torch.arange(20_000), torch.arange(20_000, 40_000)], 1)
    accepted = dynamics.exchange(pairs).double().mean()
    difference = 0.5 * K * (0.005**2 - 0.015**2)
    expected = math.exp((1 / thermal_energy(300) - 1 / thermal_energy(600)) * difference)
    assert 0.1 < expected < 0.9
    assert abs(float(accepted) - expected) < 3.5 * math.sqrt(expected * (1 - expected) / 20_000)
