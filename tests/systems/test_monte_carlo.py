"""Parallel tempering Monte Carlo against the exact answers of toy systems."""

import numpy as np
import pytest
from openmm import unit

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.systems.monte_carlo import ParallelTemperingMonteCarlo
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE as T

KTS = (1.0, 1.7, 3.0, 6.0)


@pytest.fixture(scope="module")
def well():
    return systems.double_well()


@pytest.fixture(scope="module")
def run(well):
    """Walkers that all start in the left well, from which moves alone hardly ever lead at T = 1."""
    start = np.tile([-2.5, 0.0], (200, 1))
    sampler = ParallelTemperingMonteCarlo(well.energy, [kt * T for kt in KTS], start, seed=1)
    sampler.tune(1000)
    tuned = sampler.step_sizes.copy()
    samples = sampler.run(2000, every=5)
    np.testing.assert_array_equal(sampler.step_sizes, tuned)
    return sampler, samples


def errors(per_walker, exact):
    """Return the deviation of a mean over independent walkers, in standard errors."""
    return abs(per_walker.mean() - exact) / (per_walker.std(ddof=1) / np.sqrt(len(per_walker)))


def test_populations_and_energies_are_exact(well, run):
    samples = run[1]
    assert samples.shape == (400, len(KTS), 200, 2)
    for k, kt in enumerate(KTS):
        left = (samples[:, k, :, 0] < well.barrier).mean(axis=0)
        energy = well.energy(samples[:, k].reshape(-1, 2)).reshape(400, 200).mean(axis=0)
        assert errors(left, well.marginal_cdf(well.barrier, kt * T)) < 4
        assert errors(energy, well.mean_energy(kt * T)) < 4
        # The negative control: the exact answers at another temperature.
        assert errors(left, well.marginal_cdf(well.barrier, 1.3 * kt * T)) > 4
        assert errors(energy, well.mean_energy(1.3 * kt * T)) > 4


def test_acceptance_is_tuned_and_counted(run):
    sampler = run[0]
    np.testing.assert_allclose(sampler.acceptance, 0.3, atol=0.03)
    assert (np.diff(sampler.step_sizes) > 0).all()
    assert sampler.exchange_acceptance.shape == (len(KTS) - 1,)
    assert ((sampler.exchange_acceptance > 0.3) & (sampler.exchange_acceptance < 1)).all()


def test_same_seed_same_samples(well):
    def samples(seed):
        sampler = ParallelTemperingMonteCarlo(well.energy, [T, 2 * T], np.zeros((3, 2)), seed=seed)
        sampler.tune(10)
        return sampler.run(20)

    np.testing.assert_array_equal(samples(1), samples(1))
    assert not np.array_equal(samples(1), samples(2))


def test_walls_are_never_crossed():
    toy = systems.harmonic_oscillator()
    sampler = ParallelTemperingMonteCarlo(toy.energy, [T, 4 * T], np.full((50, 2), 2.0), seed=0)
    sampler.tune(200)
    samples = sampler.run(1000)
    assert np.isfinite(sampler.energies).all()
    assert samples[..., 0].min() >= 0
    assert samples[..., 0].max() <= toy.length
    assert errors(samples[:, 0, :, 1].mean(axis=0), 0.5 * toy.length) < 4


def test_many_temperatures_from_a_tenth_to_ten():
    toy = systems.double_well_mixture(5)
    kts = np.geomspace(0.1, 10.0, 100)
    start = toy.from_positions(np.tile(toy.molecule.positions, (4, 1, 1)))
    temperatures = list(kts * T * unit.kelvin)
    sampler = ParallelTemperingMonteCarlo(toy.energy, temperatures, start)
    sampler.tune(300)
    samples = sampler.run(100, every=10)
    assert samples.shape == (10, 100, 4, 5)
    np.testing.assert_allclose(sampler.kt, kts, rtol=1e-12)
    assert sampler.exchange_acceptance.min() > 0.5
    assert (np.abs(sampler.acceptance - 0.3) < 0.2).all()


def test_one_temperature_has_no_exchange(well):
    sampler = ParallelTemperingMonteCarlo(well.energy, [T], np.zeros((2, 2)))
    assert np.isnan(sampler.acceptance).all()
    assert sampler.run(7, every=3).shape == (2, 1, 2, 2)
    assert sampler.exchange_acceptance.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperatures": []}, "at least one temperature"),
        ({"temperatures": [T, -T]}, "positive number of kelvin"),
        ({"start": np.zeros(2)}, r"shape \(n_walkers, d\)"),
        ({"start": np.array([[1.0, 0.0], [np.nan, 0.0]])}, "1 of 2 walkers start where the energy is not"),
        ({"step_size": 0.0}, "step size must be a positive number"),
        ({"energy": lambda x: x}, r"must return the shape \(2,\), not \(2, 2\)"),
    ],
)
def test_refusals(well, arguments, message):
    defaults = {"energy": well.energy, "temperatures": [T], "start": np.zeros((2, 2))}
    with pytest.raises(InputError, match=message):
        ParallelTemperingMonteCarlo(**{**defaults, **arguments})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.run(0), "number of sweeps must be a whole number of at least 1, not 0"),
        (lambda s: s.run(10, every=0), "between kept samples must be a whole number of at least 1"),
        (lambda s: s.tune(10, target_acceptance=1.0), "between 0 and 1, not 1.0"),
        (lambda s: s.tune(1.5), "whole number of at least 0, not 1.5"),
    ],
)
def test_runs_that_cannot_be(well, call, message):
    with pytest.raises(InputError, match=message):
        call(ParallelTemperingMonteCarlo(well.energy, [T], np.zeros((2, 2))))
