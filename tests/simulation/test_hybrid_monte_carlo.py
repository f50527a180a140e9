"""Hybrid Monte Carlo against the averages of theory, at time steps that are too long for dynamics."""

import math

import numpy as np
import pytest
import torch
from openmm import unit
from toy_potentials import Box, Harmonic, generator

from openmm_bg.errors import InputError
from openmm_bg.simulation import HybridMonteCarlo
from openmm_bg.units import thermal_energy


class WithoutAcceptance(HybridMonteCarlo):
    """The negative control: every trajectory is taken."""

    def _accepts(self, reduced_difference):
        super()._accepts(reduced_difference)
        return torch.ones_like(reduced_difference, dtype=torch.bool)


def _energies(cls, temperature, dtype=torch.float64):
    # omega dt is 0.7 for one atom, 1.2 for the other.
    sampler = cls(
        Harmonic(2),
        np.zeros((512, 2, 3)),
        [12.0, 4.0],
        temperature,
        n_leapfrog=3,
        timestep=0.012,
        generator=generator(2),
        dtype=dtype,
    )
    sampler.step(100)
    energies = []
    for _ in range(300):
        sampler.step(1)
        energies.append(sampler.energy.double().numpy())
    return np.array(energies), sampler


def _agrees(samples, expected):
    means = np.mean(samples, axis=0)  # walkers are independent, their frames are not
    return abs(means.mean() - expected) < 3.5 * means.std(ddof=1) / math.sqrt(len(means))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_harmonic_energies_are_those_of_theory(dtype):
    """Mean 3 kT and variance 3 (kT)^2 for six coordinates; three percent colder must fail."""
    energies, sampler = _energies(HybridMonteCarlo, 300.0, dtype)
    for temperature, agrees in ((300.0, True), (291.0, False)):
        reduced = energies / thermal_energy(temperature)
        assert _agrees(reduced, 3.0) == agrees
        assert _agrees((reduced - 3.0) ** 2, 3.0) == agrees
    assert sampler.n_proposed.unique().tolist() == [400]
    assert 0.3 < float(sampler.acceptance.mean()) < 0.95  # there was something to reject
    assert torch.equal(sampler.acceptance, sampler.n_accepted / 400)
    assert not sampler.n_nonfinite.any()


def test_without_acceptance_the_time_step_is_too_long():
    reduced = _energies(WithoutAcceptance, 300.0)[0] / thermal_energy(300.0)
    assert not _agrees(reduced, 3.0)
    assert not _agrees((reduced - 3.0) ** 2, 3.0)


def test_walkers_have_their_own_temperatures():
    energies, sampler = _energies(HybridMonteCarlo, np.repeat([300.0, 900.0], 256))
    assert _agrees(energies[:, :256] / thermal_energy(300.0), 3.0)
    assert _agrees(energies[:, 256:] / thermal_energy(900.0), 3.0)
    # Of harmonic oscillators the acceptance does not depend on the temperature.
    cold, hot = sampler.acceptance[:256], sampler.acceptance[256:]
    assert abs(float(cold.mean() - hot.mean())) < 3.5 * float((cold.var() + hot.var()).div(256).sqrt())


def test_trajectories_to_a_non_finite_energy_are_rejected():
    """Walls of infinite energy: a uniform distribution with the variance (edge)^2 / 12."""
    sampler = HybridMonteCarlo(
        Box(1), np.zeros((512, 1, 3)), [12.0], 300.0, n_leapfrog=5, timestep=0.03, generator=generator()
    )
    sampler.step(50)
    squares = []
    for _ in range(200):
        sampler.step(1)
        squares.append(sampler.positions.square().mean((1, 2)).double().numpy())
    assert _agrees(squares, 0.2**2 / 12)
    assert not _agrees(squares, 1.03 * 0.2**2 / 12)
    assert (sampler.acceptance < 1).all()
    # Without forces, nothing else is rejected.
    assert torch.equal(sampler.n_proposed - sampler.n_accepted, sampler.n_nonfinite)
    assert torch.isfinite(sampler.energy).all()


def test_exploding_trajectories_leave_the_walker_where_it_was():
    sampler = HybridMonteCarlo(
        Harmonic(2),
        np.full((4, 2, 3), 0.001),
        [12.0, 4.0],
        300.0,
        n_leapfrog=500,
        timestep=1.0,
        generator=generator(),
    )
    start = sampler.positions.clone()
    sampler.step(3)
    assert torch.equal(sampler.positions, start)
    assert sampler.n_accepted.tolist() == [0] * 4
    assert sampler.n_nonfinite.tolist() == [3] * 4
    assert sampler.n_restarts == 0
    assert torch.equal(sampler.energy, Harmonic(2).energy(start))


def _short(timestep):
    return HybridMonteCarlo(
        Harmonic(2),
        np.full((16, 2, 3), 0.001),
        [12.0, 4.0],
        300.0,
        n_leapfrog=4,
        timestep=timestep,
        generator=generator(3),
        dtype=torch.float64,
    )


@pytest.mark.parametrize("timestep", [0.004, 0.004 * unit.picoseconds, 4 * unit.femtoseconds])
def test_a_time_step_that_was_set_is_that_of_a_new_object(timestep):
    changed, new, unchanged = _short(0.001), _short(0.004), _short(0.001)
    changed.set_timestep(timestep)
    assert changed.timestep == pytest.approx(0.004, rel=1e-12)
    for sampler in (changed, new, unchanged):
        sampler.step(3)
    for name, expected in new.state().items():
        np.testing.assert_allclose(changed.state()[name], expected, rtol=1e-10, atol=1e-13)
    assert (unchanged.positions - new.positions).abs().max() > 1e-3
    changed.set_timestep(0.008)
    new.step(3)
    changed.step(3)
    assert (changed.positions - new.positions).abs().max() > 1e-3


@pytest.mark.parametrize("timestep", [0.0, -0.001, math.nan, math.inf, "long", 1.0 * unit.nanometer])
def test_time_steps_that_cannot_be_are_refused_and_change_nothing(timestep):
    sampler, other = _short(0.001), _short(0.001)
    with pytest.raises(InputError, match="time step"):
        sampler.set_timestep(timestep)
    assert sampler.timestep == 0.001
    sampler.step(3)
    other.step(3)
    assert torch.equal(sampler.positions, other.positions)


@pytest.mark.parametrize(
    ("n_leapfrog", "message"), [(0, "at least 1, not 0"), (1.5, "a whole number, not 1.5")]
)
def test_a_trajectory_has_a_step(n_leapfrog, message):
    with pytest.raises(InputError, match=f"time steps of a trajectory must be {message}"):
        HybridMonteCarlo(
            Harmonic(1), np.zeros((2, 1, 3)), [12.0], 300.0, n_leapfrog=n_leapfrog, generator=generator()
        )
