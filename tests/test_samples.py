"""Samples of a harmonic oscillator, for which everything is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from openmm_bg import systems
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.samples import Samples
from openmm_bg.units import thermal_energy


def oscillator_samples(n: int = 20_000, width: float = 1.3, seed: int = 0) -> Samples:
    """One atom drawn from N(0, width^2) in each direction; u = |x|^2 / 2, so Z = (2 pi)^(3/2)."""
    positions = np.random.default_rng(seed).normal(scale=width, size=(n, 1, 3))
    squared = (positions**2).sum(axis=(1, 2))
    log_q = -0.5 * squared / width**2 - 1.5 * np.log(2 * np.pi * width**2)
    return Samples(positions, log_q, 0.5 * squared, temperature=300.0)


def test_ess_expectations_and_free_energy_of_an_oscillator():
    samples = oscillator_samples(200_000)
    kappa = 1.3**2
    assert samples.ess() == pytest.approx((np.sqrt(2 * kappa - 1) / kappa) ** 3, abs=0.01)
    assert samples.ess(clip=1e-4) >= samples.ess()
    assert samples.pareto_k() < 0.5
    assert samples.weights.sum() == pytest.approx(1.0)
    x = samples.positions[:, 0, 0]
    for values, expected in ((x, 0.0), (x**2, 1.0), (samples.energies, 1.5 * thermal_energy(300.0))):
        mean, stderr = samples.expectation(values)
        assert abs(mean - expected) < 4 * stderr
        assert stderr < 0.01 * max(1.0, expected)
    value, stderr = samples.free_energy()
    assert abs(value + 1.5 * np.log(2 * np.pi)) < 4 * stderr
    assert 0 < stderr < 0.01


def test_free_energy_difference_of_two_states():
    samples = oscillator_samples(200_000)
    x = samples.positions[:, 0, 0]
    # P(x > 1) = 0.1587 and P(x < 1) = 0.8413: A is the larger state, so going to B costs free energy.
    value, stderr = samples.free_energy_difference(x < 1, x > 1)
    assert abs(value - np.log(0.8413447 / 0.1586553)) < 4 * stderr
    assert samples.population(x > 1).value == pytest.approx(
        0.1586553, abs=4 * samples.population(x > 1).stderr
    )
    with pytest.raises(InputError, match="no weight"):
        samples.free_energy_difference(x < 1, x > 1e6)


def test_resampled_configurations_follow_the_target():
    samples = oscillator_samples(100_000)
    positions = samples.resample(20_000, seed=1)
    assert positions.shape == (20_000, 1, 3)
    np.testing.assert_array_equal(positions, samples.resample(20_000, seed=1))
    # The draws have the variance 1.69; 60,000 resampled coordinates the target's, 1.
    assert positions.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 60_000) * 1.5)
    assert len(samples.resample()) == len(samples)


def test_draws_without_a_density_weigh_nothing_and_are_counted():
    samples = oscillator_samples(1000)
    positions, log_q, reduced = samples.positions.copy(), samples.log_q.copy(), samples.reduced_energy.copy()
    positions[0] = np.nan
    log_q[1] = np.nan
    reduced[[2, 3, 4]] = np.inf, np.nan, -np.inf
    damaged = Samples(positions, log_q, reduced, 300.0)
    assert (damaged.n_out_of_domain, damaged.n_nonfinite) == (1, 4)
    assert np.isneginf(damaged.log_weights[:5]).all()
    np.testing.assert_array_equal(damaged.log_weights[5:], samples.log_weights[5:])
    assert (damaged.weights[:5] == 0).all()
    rest = Samples(positions[5:], log_q[5:], reduced[5:], 300.0)
    assert damaged.ess() == pytest.approx(rest.ess() * 995 / 1000)
    assert damaged.expectation(positions[:, 0, 0]).value == pytest.approx(
        rest.expectation(positions[5:, 0, 0])[0]
    )
    assert damaged.free_energy().value == pytest.approx(rest.free_energy().value - np.log(995 / 1000))
    assert np.isfinite(damaged.resample(500, seed=0)).all()
    assert np.isposinf(damaged.energies[2:5]).all()


def test_all_draws_outside_the_domain_is_a_clear_error():
    samples = Samples(np.full((5, 1, 3), np.nan), np.zeros(5), np.full(5, np.inf), 300.0)
    for result in (samples.ess, samples.pareto_k, samples.free_energy, samples.resample):
        with pytest.raises(InputError, match="All 5 weights are zero"):
            result()


def test_unreliable_weights_are_announced_once():
    narrow = oscillator_samples(20_000, width=0.4)  # the weights' tail index is 1 - 0.16 = 0.84
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrow.ess()  # diagnostics alone do not warn
        assert narrow.pareto_k() > 0.7
    with pytest.warns(ReliabilityWarning, match="Pareto k is"):
        narrow.free_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrow.expectation(narrow.energies)


def test_too_few_samples_to_judge_their_weights():
    few = oscillator_samples(10, width=1.0)
    with pytest.warns(ReliabilityWarning, match="Too few of the 10 samples have weights"):
        few.free_energy()


def test_samples_print_without_their_numbers():
    assert repr(oscillator_samples(10)) == "<Samples of 1 atoms: 10 at 300 K>"
    system = systems.load("alanine_dipeptide")
    chains = Samples(np.zeros((4, 22, 3)), np.zeros(4), np.zeros(4), 300.0, system, n_walkers=2)
    assert str(chains) == "<Samples of alanine_dipeptide: 4 at 300 K, along 2 chains>"


def test_wrong_shapes_and_temperatures_are_refused():
    positions = np.zeros((4, 2, 3))
    with pytest.raises(InputError, match=r"shape \(n, n_atoms, 3\)"):
        Samples(positions[0], np.zeros(2), np.zeros(2), 300.0)
    with pytest.raises(InputError, match="log_q has the shape"):
        Samples(positions, np.zeros(3), np.zeros(4), 300.0)
    with pytest.raises(InputError, match="reduced_energy has the shape"):
        Samples(positions, np.zeros(4), np.zeros((4, 1)), 300.0)
    with pytest.raises(InputError, match="positive number of kelvin"):
        Samples(positions, np.zeros(4), np.zeros(4), 0.0)
    with pytest.raises(InputError, match="2 atoms, but the system 22"):
        Samples(positions, np.zeros(4), np.zeros(4), 300.0, systems.load("alanine_dipeptide"))


def test_export_to_mdtraj():
    molecule = systems.load("alanine_dipeptide")
    positions = np.stack([molecule.positions, np.full((22, 3), np.nan), molecule.positions + 0.1])
    samples = Samples(positions, np.zeros(3), np.zeros(3), 300.0, molecule)
    trajectory = samples.to_mdtraj()
    np.testing.assert_allclose(trajectory.xyz, positions[samples.in_domain], atol=1e-6)
    assert [atom.name for atom in trajectory.topology.atoms] == [a.name for a in molecule.topology.atoms()]
    assert trajectory.topology.n_bonds == 21
    with pytest.raises(InputError, match="topology"):
        Samples(positions, np.zeros(3), np.zeros(3), 300.0).to_mdtraj()
    with pytest.raises(InputError, match="nothing to export"):
        Samples(positions[[1]], np.zeros(1), np.zeros(1), 300.0, molecule).to_mdtraj()
