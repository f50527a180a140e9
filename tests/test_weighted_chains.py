"""Errors of samples with weights along Markov chains: those of the scatter of the chains, not of the draws."""

import warnings

import numpy as np
import pytest

from openmm_bg import statistics
from openmm_bg.analysis import Basin, Ramachandran
from openmm_bg.errors import InputError
from openmm_bg.histograms import cell_fractions
from openmm_bg.samples import Samples

N_WALKERS, N_FRAMES, N_REPLICAS, RHO, TILT = 24, 150, 2500, 0.9, 0.4
"""AR(1) chains with the law N(0, 1), weighted by exp(TILT x) towards N(TILT, 1)."""


def chains(n_replicas=N_REPLICAS, n_frames=N_FRAMES, n_walkers=N_WALKERS, rho=RHO, seed=0):
    """Return stationary chains, interleaved: frame t of walker k is number t n_walkers + k."""
    rng = np.random.default_rng(seed)
    x = np.empty((n_replicas, n_frames, n_walkers))
    x[:, 0] = rng.normal(size=(n_replicas, n_walkers))
    for t in range(1, n_frames):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=(n_replicas, n_walkers))
    return x.reshape(n_replicas, -1)


def cells_of(x):
    """Three cells, and some frames in none."""
    return np.where(np.abs(x) > 2.5, -1, np.digitize(x, [-0.5, 1.0]))


def of_basin(x, log_weights, n_walkers):
    """P(phi > 1 rad) of angles phi = x."""
    angles = np.clip(x, -3.0, 3.0)
    ramachandran = Ramachandran("chain", angles, np.zeros_like(x), log_weights, n_walkers)
    return ramachandran.population(Basin((np.degrees(1.0), 180.0), (-180.0, 180.0)))


def of_marginal(x, log_weights, n_walkers):
    angles = np.clip(x, -3.0, 3.0)
    _, density, error = Ramachandran("chain", angles, np.zeros_like(x), log_weights, n_walkers).marginal(
        "phi", 4
    )
    return statistics.Estimate(density[2], error[2])


def of_samples(x, log_weights, n_walkers, method, *arguments):
    n = len(x)
    samples = Samples(np.zeros((n, 1, 3)), -log_weights, np.zeros(n), 300.0, n_walkers=n_walkers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return getattr(samples, method)(*arguments)


ESTIMATORS = {
    "mean": lambda x, w, n: statistics.weighted_mean(x, w, n),
    "mean square": lambda x, w, n: statistics.weighted_mean(x**2, w, n),
    "population": lambda x, w, n: statistics.population(x > 1.0, w, n),
    "ratio": lambda x, w, n: statistics.log_population_ratio(x > 1.0, x < 0.0, w, n),
    "cell": lambda x, w, n: statistics.Estimate(
        *(column[1] for column in cell_fractions(cells_of(x), 3, w, n))
    ),
    "last cell": lambda x, w, n: statistics.Estimate(
        *(column[2] for column in cell_fractions(cells_of(x), 3, w, n))
    ),
    "basin": of_basin,
    "marginal": of_marginal,
    "expectation of samples": lambda x, w, n: of_samples(x, w, n, "expectation", x),
    "population of samples": lambda x, w, n: of_samples(x, w, n, "population", x > 1.0),
    "free-energy difference of samples": lambda x, w, n: of_samples(
        x, w, n, "free_energy_difference", x < 0.0, x > 1.0
    ),
}


@pytest.fixture(scope="module")
def many():
    return chains()


@pytest.mark.parametrize("name", ["mean", "mean square", "population", "ratio", "cell", "last cell", "basin"])
def test_errors_from_walkers_are_the_scatter_of_the_estimates(name, many):
    """Scatter of 2500 replicas is known to 1.4 percent: 3.5 of these, and 1 percent for the delta method.

    The errors themselves scatter by 1 / sqrt(2 * 24) = 15 percent, in the mean of squares by 0.6.
    """
    estimate = ESTIMATORS[name]
    found = np.array([estimate(x, TILT * x - 7.0, N_WALKERS) for x in many])
    scatter = found[:, 0].std(ddof=1)
    claimed = np.sqrt(np.mean(found[:, 1] ** 2))
    assert claimed == pytest.approx(scatter, rel=3.5 * np.hypot(0.014, 0.006) + 0.01)
    # Control: as if draws were independent, of chains that are 19 times as long as they seem.
    naive = np.sqrt(np.mean([estimate(x, TILT * x, 1).stderr ** 2 for x in many[:50]]))
    assert naive < 0.5 * scatter


def test_estimates_are_those_of_the_weighted_law(many):
    """N(0.4, 1): its mean, mean square, and P(x > 1) = P(normal > 0.6); weights of one would not do."""
    for name, expected in (("mean", TILT), ("mean square", 1 + TILT**2), ("population", 0.2742531177500736)):
        found = np.array([ESTIMATORS[name](x, TILT * x, N_WALKERS) for x in many])
        error = found[:, 0].std(ddof=1) / np.sqrt(len(found))
        bias = found[:, 1].mean() ** 2 * 4  # of a ratio of means, of the order of its variance
        assert abs(found[:, 0].mean() - expected) < 3.5 * error + bias
        plain = np.mean([ESTIMATORS[name](x, 0.0 * x, N_WALKERS).value for x in many[:200]])
        assert abs(plain - expected) > 0.05


def test_independent_draws_have_the_same_errors_by_walkers_and_by_draws():
    many = chains(500, rho=0.0)
    for name in ("mean", "population", "ratio", "last cell"):
        by = [[ESTIMATORS[name](x, TILT * x, n).stderr ** 2 for x in many] for n in (N_WALKERS, 1)]
        # Each of the former scatters by sqrt(2 / 24).
        assert np.mean(by[0]) == pytest.approx(np.mean(by[1]), rel=3.5 * np.sqrt(2 / 24 / 500) + 0.01)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_values_do_not_depend_on_the_number_of_walkers_and_errors_do(name, many):
    x = many[0]
    one, walkers = (ESTIMATORS[name](x, TILT * x, n) for n in (1, N_WALKERS))
    assert walkers.value == pytest.approx(one.value, rel=1e-12)
    assert walkers.stderr > 1.5 * one.stderr


def test_one_walker_is_the_formula_for_independent_draws(many):
    """The delta method: the sum of squared influences of draws, times n / (n - 1) but in cells."""
    x = many[0][:500]
    w = np.exp(TILT * x) / np.exp(TILT * x).sum()

    def error(influence):
        return np.sqrt((influence**2).sum() * len(x) / (len(x) - 1))

    above, below = x > 1.0, x < 0.0
    expected = {
        "mean": error(w * (x - w @ x)),
        "population": error(w * (above - w @ above)),
        "ratio": error(w * (above / (w @ above) - below / (w @ below))),
        "expectation of samples": error(w * (x - w @ x)),
        "population of samples": error(w * (above - w @ above)),
        "free-energy difference of samples": error(w * (above / (w @ above) - below / (w @ below))),
        "basin": error(w * (above - w @ above)),
        "last cell": np.sqrt(((w * ((cells_of(x) == 2) - w @ (cells_of(x) == 2))) ** 2).sum()),
    }
    for name, value in expected.items():
        assert ESTIMATORS[name](x, TILT * x, 1).stderr == pytest.approx(value, rel=1e-10)
    # One walker is what was meant before there was a choice.
    log_weights = TILT * x
    assert statistics.weighted_mean(x, log_weights) == statistics.weighted_mean(x, log_weights, 1)
    assert statistics.population(above, log_weights) == statistics.population(above, log_weights, 1)
    assert statistics.log_population_ratio(above, below, log_weights) == statistics.log_population_ratio(
        above, below, log_weights, 1
    )
    for former, now in zip(
        cell_fractions(cells_of(x), 3, log_weights),
        cell_fractions(cells_of(x), 3, log_weights, 1),
        strict=True,
    ):
        np.testing.assert_array_equal(former, now)


def test_errors_by_hand_of_walkers_that_never_move():
    """Two of three walkers in a state, with weights 1, 2 and 5: sums of influences are exact."""
    stuck, weights = np.array([1.0, 1.0, 0.0]), np.array([1.0, 2.0, 5.0])
    x, log_weights = np.tile(stuck, 10), np.log(np.tile(weights, 10))
    p, w = 3 / 8, weights / 8
    expected = np.sqrt(np.sum((w * (stuck - p)) ** 2) * 3 / 2)
    assert statistics.weighted_mean(x, log_weights, 3) == pytest.approx((p, expected), rel=1e-12)
    assert statistics.population(x > 0, log_weights, 3) == pytest.approx((p, expected), rel=1e-12)
    fractions, errors = cell_fractions(x.astype(int), 2, log_weights, 3)
    np.testing.assert_allclose(fractions, [1 - p, p], rtol=1e-12)
    np.testing.assert_allclose(errors, [expected, expected], rtol=1e-12)
    ratio = statistics.log_population_ratio(x > 0, x == 0, log_weights, 3)
    influence = w * (stuck / p - (1 - stuck) / (1 - p))
    assert ratio == pytest.approx((np.log(3 / 5), np.sqrt(np.sum(influence**2) * 3 / 2)), rel=1e-12)


def test_draws_without_a_weight_belong_to_their_walker():
    x, log_weights = chains(1, 50, 4)[0], np.zeros(200)
    x[::7], log_weights[::7] = np.nan, -np.inf
    walkers = np.where(np.isnan(x), 0.0, x).reshape(50, 4), (log_weights == 0).reshape(50, 4)
    mean = walkers[0].sum() / walkers[1].sum()
    influence = (walkers[0] - mean * walkers[1]).sum(0) / walkers[1].sum()
    expected = mean, np.sqrt(np.sum(influence**2) * 4 / 3)
    assert statistics.weighted_mean(x, log_weights, 4) == pytest.approx(expected, rel=1e-10)


def test_frames_that_are_not_the_same_number_for_each_walker_are_refused():
    x, log_weights = chains(1, 10, 10)[0], np.zeros(100)
    for name in ("mean", "population", "ratio"):
        ESTIMATORS[name](x, log_weights, 20)
        with pytest.raises(InputError, match="100 draws are not the same number for 7 walkers"):
            ESTIMATORS[name](x, log_weights, 7)
    with pytest.raises(InputError, match="100 frames are not the same number for 7 walkers"):
        cell_fractions(cells_of(x), 3, log_weights, 7)
    for n_walkers in (7, 0, -1):
        with pytest.raises(InputError, match=f"not the same number for {n_walkers} walkers"):
            Samples(np.zeros((100, 1, 3)), log_weights, log_weights, 300.0, n_walkers=n_walkers)
        with pytest.raises(InputError, match=f"not the same number for {n_walkers} walkers"):
            Ramachandran("chain", 0 * x, 0 * x, log_weights, n_walkers)


def test_samples_of_a_density_that_is_not_normalised_have_differences_only(many):
    x = many[0]
    positions, n = np.zeros((len(x), 1, 3)), len(x)
    unnormalised, normalised = (
        Samples(positions, -TILT * x, np.zeros(n), 300.0, n_walkers=N_WALKERS, normalized=known)
        for known in (False, True)
    )
    with pytest.raises(InputError, match="is not normalised"):
        unnormalised.free_energy()
    assert np.isfinite(normalised.free_energy()).all()
    difference = unnormalised.free_energy_difference(x < 0.0, x > 1.0)
    assert difference == normalised.free_energy_difference(x < 0.0, x > 1.0)
    # P(x < 0) = P(normal < -0.4) and P(x > 1) = P(normal > 0.6).
    expected = np.log(0.3445782583896758 / 0.2742531177500736)
    assert abs(difference.value - expected) < 4 * difference.stderr
    # A constant in log q changes nothing.
    moved = Samples(positions, 50 - TILT * x, np.zeros(n), 300.0, n_walkers=N_WALKERS, normalized=False)
    assert moved.free_energy_difference(x < 0.0, x > 1.0) == pytest.approx(difference, rel=1e-9)


def test_samples_at_another_temperature_are_of_the_same_chains():
    x = chains(1)[0]
    samples = Samples(np.zeros((len(x), 1, 3)), 0 * x, 0.1 * x, 300.0, n_walkers=N_WALKERS, normalized=False)
    warmer = samples.reweighted(600.0)
    assert (warmer.n_walkers, warmer.normalized) == (N_WALKERS, False)
    expected = statistics.weighted_mean(x, -0.05 * x, N_WALKERS)
    assert warmer.expectation(x) == pytest.approx(expected, rel=1e-12)
    plain = Samples(np.zeros((2, 1, 3)), np.zeros(2), np.zeros(2), 300.0)
    assert (plain.n_walkers, plain.normalized) == (1, True)
