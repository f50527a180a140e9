"""Statistics against laws whose answers are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_bg import statistics
from openmm_bg.errors import InputError


def gaussian_draws(n: int, kappa: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws from N(0, kappa) and log-weights towards exp(-x^2/2), whose integral is sqrt(2 pi)."""
    x = np.random.default_rng(seed).normal(scale=np.sqrt(kappa), size=n)
    return x, -0.5 * x**2 + 0.5 * x**2 / kappa + 0.5 * np.log(2 * np.pi * kappa)


@pytest.mark.parametrize("kappa", [0.8, 1.0, 2.0, 5.0])
def test_effective_sample_size_of_a_gaussian(kappa):
    _, log_weights = gaussian_draws(400_000, kappa, seed=1)
    assert statistics.effective_sample_size(log_weights) == pytest.approx(
        np.sqrt(2 * kappa - 1) / kappa, abs=0.01
    )


def test_log_weights_may_be_huge():
    x, log_weights = gaussian_draws(1000, 2.0, seed=2)
    for function in (
        statistics.effective_sample_size,
        statistics.pareto_k,
        lambda w: statistics.weighted_mean(x, w).value,
        lambda w: statistics.log_mean_weight(w).stderr,
    ):
        assert function(log_weights + 1e5) == pytest.approx(function(log_weights), rel=1e-8)
        assert function(log_weights - 1e5) == pytest.approx(function(log_weights), rel=1e-8)
    shifted = statistics.log_mean_weight(log_weights - 1e5).value
    assert shifted + 1e5 == pytest.approx(statistics.log_mean_weight(log_weights).value, abs=1e-9)


def test_draws_outside_the_support_count_as_draws():
    _, log_weights = gaussian_draws(10_000, 2.0, seed=3)
    half_outside = np.concatenate([log_weights, np.full(10_000, -np.inf)])
    expected = statistics.effective_sample_size(log_weights)
    assert statistics.effective_sample_size(half_outside) == pytest.approx(expected / 2, rel=1e-12)
    expected = statistics.log_mean_weight(log_weights).value - np.log(2)
    assert statistics.log_mean_weight(half_outside).value == pytest.approx(expected, abs=1e-12)
    assert (statistics.normalized_weights(half_outside)[10_000:] == 0).all()


def test_effective_sample_size_clipped():
    # One exploded weight in 20,000: the two largest weights are set to the smaller one.
    log_weights = np.zeros(20_000)
    log_weights[7] = 1000.0
    assert statistics.effective_sample_size(log_weights) == pytest.approx(1 / 20_000)
    assert statistics.effective_sample_size(log_weights, clip=1e-4) == pytest.approx(1.0)
    log_weights[[8, 9]] = np.log(100.0)
    expected = (19_997 + 300) ** 2 / (19_997 + 3e4) / 20_000
    assert statistics.effective_sample_size(log_weights, clip=1e-4) == pytest.approx(expected)
    with pytest.raises(InputError, match="clipped fraction"):
        statistics.effective_sample_size(log_weights, clip=1.0)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9, 1.5])
def test_pareto_k_of_a_pareto_law(k):
    log_weights = k * np.random.default_rng(4).exponential(size=200_000)
    # 1342 tail weights: the standard error of the shape is about (1 + k) / sqrt(1342).
    assert statistics.pareto_k(log_weights) == pytest.approx(k, abs=4 * (1 + k) / np.sqrt(1342))


def test_pareto_k_of_a_gaussian():
    # q narrower than p with variance kappa: w ~ exp(x^2 (1/kappa - 1)/2) has the tail index 1 - kappa.
    for kappa in (0.3, 0.6):
        _, log_weights = gaussian_draws(400_000, kappa, seed=5)
        assert statistics.pareto_k(log_weights) == pytest.approx(1 - kappa, abs=0.12)
    _, log_weights = gaussian_draws(100_000, 2.0, seed=5)
    assert statistics.pareto_k(log_weights) < 0.1  # bounded weights


@pytest.mark.parametrize(("k", "better"), [(0.6, 0.8), (0.2, 1.05)])
def test_smoothed_weights_have_less_variance(rng, k, better):
    """Weights of a Pareto law of shape k have the mean 1 / (1 - k); 400 repetitions of 1,000 of them."""
    errors = []
    for _ in range(400):
        log_weights = k * rng.exponential(size=1000)
        smoothed = statistics.pareto_smoothed(log_weights)
        assert smoothed.max() <= log_weights.max() + 1e-9
        errors.append([np.exp(one).mean() * (1 - k) - 1 for one in (log_weights, smoothed)])
    raw, ours = np.sqrt(np.mean(np.square(errors), axis=0))
    assert ours < better * raw
    assert abs(np.mean(errors, axis=0)[1]) < 0.1


def test_smoothing_leaves_small_weights_and_the_order_alone(rng):
    log_weights = np.r_[0.5 * rng.exponential(size=1000), np.full(50, -np.inf)]
    smoothed = statistics.pareto_smoothed(log_weights + 700.0) - 700.0  # as without the constant
    changed = np.flatnonzero(~np.isclose(smoothed, log_weights, atol=1e-9))
    tail = np.argsort(log_weights)[-98:]  # 3 sqrt(1050) of them
    assert 90 < len(changed) <= 98
    assert set(changed) <= set(tail)
    assert (np.diff(smoothed[tail]) >= 0).all()
    for few in (np.zeros(100), np.arange(20.0)):  # no tail, or too few to fit one
        np.testing.assert_array_equal(statistics.pareto_smoothed(few), few)


def test_pareto_k_of_degenerate_weights():
    assert statistics.pareto_k(np.zeros(100)) == -np.inf
    assert statistics.pareto_k(np.r_[np.full(5, -np.inf), np.zeros(95)]) == -np.inf
    assert statistics.pareto_k(np.arange(20.0)) == np.inf  # too few to say
    assert statistics.pareto_k(np.r_[np.zeros(4), np.full(1000, -np.inf)]) == np.inf
    assert statistics.pareto_k(np.r_[0.0, np.linspace(-900, -800, 1000)]) == np.inf


def test_pareto_k_equals_arviz():
    """Values of ``arviz.psislw`` (arviz 0.23.4) on the same numbers; it is too large a library to depend on."""
    expected = iter([0.130844, 0.361279, 0.424937, 0.42528, 1.393607, 0.565952, 0.148712, 2.070984, 0.562715])
    rng = np.random.default_rng(6)
    for n in (50, 1000, 20_000):
        for log_weights in (rng.normal(size=n), 2 * rng.standard_t(5, size=n), 0.7 * rng.exponential(size=n)):
            assert statistics.pareto_k(log_weights) == pytest.approx(next(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "non-empty"),
        ([[0.0]], "non-empty"),
        ([0.0, np.nan], "NaN"),
        ([0.0, np.inf], "NaN or .inf"),
        ([-np.inf, -np.inf], "All 2 weights are zero"),
    ],
)
def test_impossible_weights_are_refused(bad, message):
    bad = np.array(bad)
    for function in (
        statistics.normalized_weights,
        statistics.effective_sample_size,
        lambda w: statistics.effective_sample_size(w, clip=0.9),
        statistics.pareto_k,
        statistics.log_mean_weight,
        lambda w: statistics.weighted_mean(np.zeros(w.shape), w),
        lambda w: statistics.resample(w, 3, seed=0),
    ):
        with pytest.raises(InputError, match=message):
            function(bad)


def test_weighted_mean_ignores_values_without_weight():
    values = np.array([1.0, 2.0, np.nan])
    estimate = statistics.weighted_mean(values, np.array([0.0, 0.0, -np.inf]))
    assert estimate.value == pytest.approx(1.5)
    with pytest.raises(InputError, match="NaN or infinite"):
        statistics.weighted_mean(values, np.zeros(3))
    with pytest.raises(InputError, match="3 weights"):
        statistics.weighted_mean(values[:2], np.zeros(3))


def test_equal_weights_give_the_textbook_standard_error():
    values = np.random.default_rng(7).normal(size=50)
    estimate = statistics.weighted_mean(values, np.full(50, 3.0))
    assert estimate == pytest.approx((values.mean(), values.std(ddof=1) / np.sqrt(50)))


def assert_calibrated(z_scores: np.ndarray) -> None:
    """Scores of 600 independent repeats are standard normal within 4 sigma."""
    n = len(z_scores)
    assert abs(z_scores.mean()) < 4 / np.sqrt(n) + 0.05  # the estimators' bias is O(1/n_draws)
    assert abs(z_scores.std() - 1) < 4 / np.sqrt(2 * n) + 0.02


def test_error_bars_cover_the_truth():
    found = {"x": [], "x2": [], "free energy": [], "population": [], "ratio": []}
    # P(x > 1), and P(x > 1) / P(x < 0.5), of a standard normal distribution.
    above_one, below_half = 0.15865525393145707, 0.691462461274013
    for seed in range(600):
        x, log_weights = gaussian_draws(2000, 3.0, seed=seed)
        estimates = {
            "x": (statistics.weighted_mean(x, log_weights), 0.0),
            "x2": (statistics.weighted_mean(x**2, log_weights), 1.0),
            "free energy": (statistics.log_mean_weight(log_weights), 0.5 * np.log(2 * np.pi)),
            "population": (statistics.population(x > 1, log_weights), above_one),
            "ratio": (
                statistics.log_population_ratio(x > 1, x < 0.5, log_weights),
                np.log(above_one / below_half),
            ),
        }
        for name, (estimate, truth) in estimates.items():
            found[name].append(statistics.z_score(estimate, (truth, 0.0)))
    for scores in found.values():
        assert_calibrated(np.array(scores))


def test_population_never_seen_has_an_honest_error():
    mask = np.zeros(100, dtype=bool)
    assert statistics.population(mask, np.zeros(100)) == pytest.approx((0.0, 0.01))
    assert statistics.population(~mask, np.zeros(100)) == pytest.approx((1.0, 0.01))
    with pytest.raises(InputError, match="no weight"):
        statistics.log_population_ratio(mask, ~mask, np.zeros(100))
    # A chain that never moved is worth one sample.
    assert statistics.chain_population(mask) == pytest.approx((0.0, 1.0))


def test_systematic_resampling():
    log_weights = np.log(np.array([0.1, 0.25, 0.65]))
    log_weights = np.append(log_weights, -np.inf)
    indices = statistics.resample(log_weights, 1000, seed=8)
    np.testing.assert_array_equal(indices, statistics.resample(log_weights, 1000, seed=8))
    counts = np.bincount(indices, minlength=4)
    assert (np.abs(counts - 1000 * np.exp(log_weights)) <= 1).all()
    # Unbiased: over many seeds a draw expected 0.65 times appears in 65 % of the single draws.
    single = np.array([statistics.resample(log_weights, 1, seed=seed)[0] for seed in range(2000)])
    assert np.mean(single == 2) == pytest.approx(0.65, abs=4 * np.sqrt(0.65 * 0.35 / 2000))
    assert 3 not in single
    with pytest.raises(InputError, match="positive"):
        statistics.resample(log_weights, 0, seed=8)


def autoregressive(shape: tuple[int, int], rho: float, seed: int) -> np.ndarray:
    """Stationary AR(1) chains with unit variance and inefficiency (1 + rho) / (1 - rho)."""
    noise = np.random.default_rng(seed).normal(size=shape)
    chain = np.empty(shape)
    chain[:, 0] = noise[:, 0]
    for t in range(1, shape[1]):
        chain[:, t] = rho * chain[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return chain


def test_statistical_inefficiency_of_an_autoregressive_chain():
    chains = autoregressive((8, 20_000), rho=0.8, seed=9)
    assert statistics.statistical_inefficiency(chains[0]) == pytest.approx(9.0, rel=0.15)
    assert statistics.statistical_inefficiency(chains) == pytest.approx(9.0, rel=0.1)
    assert statistics.statistical_inefficiency(chains[:, ::20]) == pytest.approx(1.02, abs=0.1)


def test_chain_and_block_errors_cover_the_truth():
    chains = autoregressive((600, 4000), rho=0.8, seed=10)
    by_inefficiency = [statistics.z_score(statistics.chain_mean(chain), (0.0, 0.0)) for chain in chains]
    assert_calibrated(np.array(by_inefficiency) * 0.97)  # the cut-off of the sum costs about 3 %
    by_blocks = np.array(
        [statistics.z_score(statistics.block_mean(chain, 40), (0.0, 0.0)) for chain in chains]
    )
    assert_calibrated(by_blocks * np.sqrt(37 / 39))  # Student's t with 39 degrees of freedom
    # Negative control: without the correlation the errors are three times too small.
    naive = chains.mean(axis=1) / (chains.std(axis=1) / np.sqrt(4000))
    assert naive.std() == pytest.approx(3.0, rel=0.1)


def test_walkers_stuck_in_different_states_are_worth_one_sample_each():
    walkers = np.repeat([[0.0], [1.0], [0.0], [0.0]], 500, axis=1)
    assert statistics.effective_number(walkers) == pytest.approx(4.0, rel=0.01)
    assert statistics.chain_mean(walkers).stderr == pytest.approx(np.sqrt(0.25 * 0.75 / 4), rel=0.01)


def test_chains_that_cannot_be_judged_are_refused():
    with pytest.raises(InputError, match="NaN"):
        statistics.chain_mean(np.array([0.0, np.nan, 1.0]))
    with pytest.raises(InputError, match="shape"):
        statistics.chain_mean(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="blocks"):
        statistics.block_mean(np.arange(10.0), 20)


def test_z_score():
    assert statistics.z_score((3.0, 0.3), (1.0, 0.4)) == pytest.approx(4.0)
    assert statistics.z_score((1.0, 0.0), (1.0, 0.0)) == 0.0
    assert statistics.z_score((0.0, 0.0), (1.0, 0.0)) == -np.inf


def test_error_of_the_effective_sample_size(rng):
    """Log-normal weights of width s: the effective fraction is exp(-s^2)."""
    width = 0.5
    estimates = [
        statistics.effective_sample_size_estimate(width * rng.standard_normal(4000) + 100.0)
        for _ in range(300)
    ]
    values, errors = np.array(estimates).T
    assert values.mean() == pytest.approx(np.exp(-(width**2)), rel=0.005)
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.15)
    log_weights = np.append(rng.standard_normal(50), -np.inf)
    found = statistics.effective_sample_size_estimate(log_weights)
    assert found.value == pytest.approx(statistics.effective_sample_size(log_weights))
    # Draws that were all kept, and as many that were all lost: a fraction with a binomial error.
    half = np.where(np.arange(1000) < 500, 0.0, -np.inf)
    assert statistics.effective_sample_size_estimate(half) == pytest.approx((0.5, 0.5 / np.sqrt(999)))


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ((0.00312, 0.0004), "0.00312 ± 0.00040"),
        ((-582.11, 3.2), "-582.1 ± 3.2"),
        ((0.0, 0.02), "0.000 ± 0.020"),
        ((1234.5, 17.0), "1234 ± 17"),
        # A single sample has all the weight: the rest is rounding.
        ((-582.1137, 3e-40), "-582.1 ± 3e-40"),
        ((0.25, 0.0), "0.25 ± 0"),
        ((0.25, float("nan")), "0.25 ± nan"),
    ],
)
def test_estimates_have_as_many_digits_as_their_errors_allow(estimate, text):
    assert statistics.with_error(estimate) == text
