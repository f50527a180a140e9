"""Statistics of weighted samples and of correlated chains, each figure with its standard error.

Weighted samples are independent draws from a density q with unnormalised log-weights log w = log p~ - log q.
A log-weight of -inf is a draw outside the target's support: it counts as a draw and weighs nothing.
"""

from __future__ import annotations

import logging
import math
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np

from openmm_bg.errors import InputError

_NEGLIGIBLE = 1e-9  # relative errors below that of rounding say nothing


class Estimate(NamedTuple):
    """An estimated number, and its standard error (one sigma)."""

    value: float
    stderr: float


def normalized_weights(log_weights: np.ndarray) -> np.ndarray:
    """Return weights that sum to one, computed without overflow.

    Args:
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.

    Raises:
        InputError: If there are none, if one is NaN or +inf, or if all are -inf.
    """
    relative, _ = _relative_weights(log_weights)
    return relative / relative.sum()


def effective_sample_size(log_weights: np.ndarray, clip: float = 0.0) -> float:
    """Return Kish's effective sample size as a fraction of the draws, 1 / E_q[(p/q)^2].

    Args:
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.
        clip: The largest floor(clip * n) weights are first set to the smallest of them. Published
            figures often use 1e-4, which hides a few exploded samples; 0 clips nothing.

    Raises:
        InputError: As `normalized_weights`, or if `clip` is not in [0, 1).
    """
    if not 0.0 <= clip < 1.0:
        raise InputError(f"The clipped fraction of the weights must be in [0, 1), not {clip:g}.")
    log_weights = np.array(log_weights, dtype=np.float64)
    # Clipped before the exponential: relative to an exploded weight all others might underflow.
    n_top = int(clip * len(log_weights) + 1e-9)
    if n_top > 1 and not np.isnan(log_weights).any():
        log_weights = np.minimum(log_weights, np.partition(log_weights, -n_top)[-n_top])
    relative, _ = _relative_weights(log_weights)
    return float(relative.sum() ** 2 / (relative**2).sum() / len(relative))


def effective_sample_size_estimate(log_weights: np.ndarray) -> Estimate:
    """Return Kish's effective sample size as a fraction of the draws, with its standard error.

    The error is by the delta method on the means of w and w^2. It needs a finite fourth moment of the weights,
    so it is too small when `pareto_k` is above 0.25.

    Args:
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.

    Raises:
        InputError: As `normalized_weights`.
    """
    relative, _ = _relative_weights(log_weights)
    mean, square = relative.mean(), (relative**2).mean()
    influence = 2 * mean / square * (relative - mean) - (mean / square) ** 2 * (relative**2 - square)
    return Estimate(float(mean**2 / square), _delta_error(influence / len(relative)))


def pareto_k(log_weights: np.ndarray) -> float:
    """Return the shape k of the generalised Pareto distribution of the largest weights.

    Moments of order 1/k and above do not exist: above 0.5 the weights have no variance, above 0.7
    estimates and their errors are not reliable at any practical number of samples (Vehtari, Simpson,
    Gelman, Yao and Gabry, JMLR 25 (2024) 72). The tail has M = min(S/5, 3 sqrt(S)) of the S weights.

    Args:
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.

    Returns:
        The shape; +inf if fewer than 5 weights make up the tail, -inf if the largest weights are equal.

    Raises:
        InputError: As `normalized_weights`.
    """
    relative, _ = _relative_weights(log_weights)
    if _n_tail(len(relative)) < 5:
        return np.inf
    cutoff, largest = _tail(relative)
    if not len(largest):
        return -np.inf
    return _generalized_pareto(relative[largest] - cutoff)[0] if len(largest) >= 5 else np.inf


def pareto_smoothed(log_weights: np.ndarray) -> np.ndarray:
    """Return log-weights whose largest are those that their generalised Pareto distribution lets expect.

    Averages with these weights have less variance than with raw ones of heavy tails, and a bias that is small while
    `pareto_k` is below 0.7. No weight gets larger than the largest raw one (Vehtari et al., JMLR 25 (2024) 72).

    Args:
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.

    Returns:
        Unnormalised log-weights with the same shape: the raw ones if they have no tail to fit.

    Raises:
        InputError: As `normalized_weights`.
    """
    from scipy import stats

    smoothed = np.array(log_weights, dtype=np.float64)
    if not np.isfinite(pareto_k(smoothed)):
        return smoothed
    relative, log_scale = _relative_weights(smoothed)
    cutoff, largest = _tail(relative)
    shape, scale = _generalized_pareto(relative[largest] - cutoff)
    levels = (np.arange(len(largest)) + 0.5) / len(largest)
    expected = cutoff + stats.genpareto.ppf(levels, shape, scale=scale)
    smoothed[largest] = np.log(np.minimum(expected, relative.max())) + log_scale
    return smoothed


def _n_tail(n: int) -> int:
    """Return how many of n weights make up the tail."""
    return int(np.ceil(min(0.2 * n, 3.0 * np.sqrt(n))))


def _tail(relative: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the weight at which the tail begins, and the indices of larger ones, ascending by weight."""
    n_tail = _n_tail(len(relative))
    largest = np.argsort(relative, kind="stable")[-n_tail - 1 :]
    cutoff = float(relative[largest[0]]) or np.finfo(np.float64).tiny
    return cutoff, largest[relative[largest] > cutoff]


def weighted_mean(values: np.ndarray, log_weights: np.ndarray, n_walkers: int = 1) -> Estimate:
    """Return a self-normalised expectation with its standard error by the delta method.

    Args:
        values: A property of each draw with shape=(n,); ignored, NaN included, where the weight is zero.
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.
        n_walkers: Of draws from Markov chains, how many chains there are: draw i is of chain i % n_walkers, and the
            error comes from their scatter. 1 if all draws are independent.

    Raises:
        InputError: As `normalized_weights`, or if a value with weight is not finite.
    """
    weights = normalized_weights(log_weights)
    values = np.asarray(values, dtype=np.float64)
    if values.shape != weights.shape:
        raise InputError(f"There are {len(weights)} weights, but the values have the shape {values.shape}.")
    values = np.where(weights > 0, values, 0.0)
    if not np.isfinite(values).all():
        raise InputError("A value is NaN or infinite for a sample that has a weight.")
    mean = weights @ values
    return Estimate(float(mean), _delta_error(weights * (values - mean), n_walkers))


def population(mask: np.ndarray, log_weights: np.ndarray, n_walkers: int = 1) -> Estimate:
    """Return the weight of a state as a fraction of the whole, with its standard error.

    A state that was never seen, or always, gets the standard error 1/n_effective instead of zero.

    Args:
        mask: Whether each draw is in the state, shape=(n,).
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.
        n_walkers: Of draws from Markov chains, how many chains there are: draw i is of chain i % n_walkers, and the
            error comes from their scatter. 1 if all draws are independent.

    Raises:
        InputError: As `normalized_weights`.
    """
    estimate = weighted_mean(np.asarray(mask, dtype=bool), log_weights, n_walkers)
    return _bounded(estimate, effective_sample_size(log_weights) * len(log_weights))


def log_mean_weight(log_weights: np.ndarray) -> Estimate:
    """Return log(mean(w)) with its standard error by the delta method.

    Minus this is the free energy of the target relative to q in kT.

    Args:
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.

    Raises:
        InputError: As `normalized_weights`.
    """
    relative, offset = _relative_weights(log_weights)
    n = len(relative)
    return Estimate(
        float(np.log(relative.mean()) + offset), _delta_error(relative / relative.sum() - 1.0 / n)
    )


def log_population_ratio(
    mask_a: np.ndarray, mask_b: np.ndarray, log_weights: np.ndarray, n_walkers: int = 1
) -> Estimate:
    """Return log(population of A / population of B) with its standard error by the delta method.

    Minus this is the free-energy difference of A relative to B in kT.

    Args:
        mask_a: Whether each draw is in state A, shape=(n,).
        mask_b: Whether each draw is in state B, shape=(n,).
        log_weights: Unnormalised log-weights with shape=(n,); -inf is allowed.
        n_walkers: Of draws from Markov chains, how many chains there are: draw i is of chain i % n_walkers, and the
            error comes from their scatter. 1 if all draws are independent.

    Raises:
        InputError: As `normalized_weights`, or if a state has no weight.
    """
    weights = normalized_weights(log_weights)
    masks = [np.asarray(mask, dtype=bool) for mask in (mask_a, mask_b)]
    if any(mask.shape != weights.shape for mask in masks):
        raise InputError(f"The masks of the two states must both have the shape {weights.shape}.")
    in_a, in_b = (weights @ mask for mask in masks)
    if in_a == 0 or in_b == 0:
        raise InputError("One of the two states has no weight, so their free-energy difference is unknown.")
    influence = weights * (masks[0] / in_a - masks[1] / in_b)
    return Estimate(float(np.log(in_a / in_b)), _delta_error(influence, n_walkers))


def resample(log_weights: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draw indices in proportion to the weights by systematic resampling.

    Each draw i appears floor or ceil of n * weight[i] times: less noise than independent choices.

    Args:
        log_weights: Unnormalised log-weights with shape=(n_draws,); -inf is allowed.
        n: The number of indices to draw.
        seed: The seed; the same seed gives the same indices.

    Returns:
        Indices in ascending order with shape=(n,).

    Raises:
        InputError: As `normalized_weights`, or if `n` is not positive.
    """
    if n < 1:
        raise InputError(f"The number of resampled configurations must be positive, not {n}.")
    cumulative = np.cumsum(normalized_weights(log_weights))
    points = (np.arange(n) + np.random.default_rng(seed).random()) / n * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, points, side="right"), len(cumulative) - 1)


def statistical_inefficiency(series: np.ndarray) -> float:
    """Return how many successive values of a chain are worth one independent value (at least 1).

    Uses `pymbar.timeseries` (Chodera et al., J. Chem. Theory Comput. 3 (2007) 26).

    Args:
        series: Values with shape=(n_frames,), or (n_walkers, n_frames) for independent walkers with a
            common mean: walkers stuck in different states then count as correlated.

    Returns:
        The inefficiency; n_frames for a series that never changes, about which nothing is known.

    Raises:
        InputError: If a value is not finite or there are fewer than 2.
    """
    walkers = _as_walkers(series)
    n_frames = walkers.shape[1]
    if np.ptp(walkers) <= 1e-12 * np.abs(walkers).max() or n_frames < 3:
        return float(n_frames)
    timeseries = _import_timeseries()
    if len(walkers) == 1:
        return float(min(timeseries.statistical_inefficiency(walkers[0]), n_frames))
    return float(min(timeseries.statistical_inefficiency_multiple(list(walkers)), n_frames))


def effective_number(series: np.ndarray) -> float:
    """Return how many independent values a chain is worth: its length over its inefficiency.

    For the argument and errors see `statistical_inefficiency`.
    """
    walkers = _as_walkers(series)
    return walkers.size / statistical_inefficiency(walkers)


def chain_mean(series: np.ndarray) -> Estimate:
    """Return the mean of a correlated chain with its standard error, sigma sqrt(g / n).

    Args:
        series: Values with shape=(n_frames,) or (n_walkers, n_frames).

    Raises:
        InputError: If a value is not finite or there are fewer than 2.
    """
    walkers = _as_walkers(series)
    stderr = walkers.std(ddof=1) / np.sqrt(effective_number(walkers))
    return Estimate(float(walkers.mean()), float(stderr))


def chain_population(mask: np.ndarray) -> Estimate:
    """Return the fraction of a correlated chain that is in a state, with its standard error.

    A state that was never seen, or always, gets the standard error 1/n_effective instead of zero.

    Args:
        mask: Whether each frame is in the state, shape=(n_frames,) or (n_walkers, n_frames).

    Raises:
        InputError: If there are fewer than 2 frames.
    """
    mask = np.asarray(mask, dtype=bool)
    return _bounded(chain_mean(mask), effective_number(mask))


def block_mean(series: np.ndarray, n_blocks: int = 20) -> Estimate:
    """Return the mean of a chain with the standard error from the scatter of block averages.

    It needs blocks much longer than the correlation time, but no model of the correlation.

    Args:
        series: Values with shape=(n_frames,) or (n_walkers, n_frames); each walker is cut into blocks.
        n_blocks: The number of blocks of each walker; left-over frames at the start are dropped.

    Raises:
        InputError: If a value is not finite or the series is too short for the blocks.
    """
    walkers = _as_walkers(series)
    length = walkers.shape[1] // n_blocks if n_blocks > 0 else 0
    total = n_blocks * len(walkers)
    if length < 1 or total < 2:
        raise InputError(f"{walkers.shape[1]} frames cannot be cut into {n_blocks} blocks.")
    blocks = walkers[:, walkers.shape[1] - n_blocks * length :].reshape(total, length).mean(axis=1)
    return Estimate(float(blocks.mean()), float(blocks.std(ddof=1) / np.sqrt(total)))


def z_score(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return (a - b) in units of their combined standard error; each is (value, standard error)."""
    difference, stderr = a[0] - b[0], float(np.hypot(a[1], b[1]))
    if stderr == 0:
        return 0.0 if difference == 0 else float(np.copysign(np.inf, difference))
    return float(difference / stderr)


def with_error(estimate: Estimate | tuple[float, float]) -> str:
    """Return an estimate as text, e.g. "0.0031 ± 0.0004": as many digits as its standard error allows.

    An error that is nothing beside the value, as where a single sample has all the weight, gives no digits.
    """
    value, stderr = estimate
    if not (math.isfinite(stderr) and stderr > _NEGLIGIBLE * abs(value)):
        return f"{value:.4g} ± {stderr:.1g}"
    digits = max(0, 1 - math.floor(math.log10(stderr)))
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def _relative_weights(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights divided by the largest of them, and the logarithm of that one."""
    log_weights = np.asarray(log_weights, dtype=np.float64)
    if log_weights.ndim != 1 or len(log_weights) == 0:
        raise InputError(
            f"Log-weights must be a non-empty list of numbers, not of shape {log_weights.shape}."
        )
    if np.isnan(log_weights).any() or np.isposinf(log_weights).any():
        raise InputError("A log-weight is NaN or +inf: an energy or a density is wrong.")
    offset = float(log_weights.max())
    if np.isneginf(offset):
        raise InputError(
            f"All {len(log_weights)} weights are zero: no draw has a finite energy in the target's domain."
        )
    return np.exp(log_weights - offset), offset


def _generalized_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Fit a generalised Pareto distribution to ascending excesses over a threshold; return its shape k and scale.

    The quasi-Bayesian estimate of Zhang and Stephens, Technometrics 51 (2009) 316, and the weak prior
    (worth 10 observations at k = 0.5) of Vehtari et al. 2024, appendix C. With theta = -k/sigma their
    profile log-likelihood is n (log(-theta / k(theta)) - k(theta) - 1), k(theta) = mean(log(1 - theta x)).
    """
    n = len(excess)
    n_grid = 30 + int(np.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    steps = 1.0 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))
    theta = 1.0 / excess[-1] + steps / (3.0 * quartile)
    shape = np.log1p(-theta[:, None] * excess).mean(axis=1)
    log_likelihood = n * (np.log(-theta / shape) - shape - 1.0)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    mean_theta = (theta * posterior).sum() / posterior.sum()
    k = np.log1p(-mean_theta * excess).mean()
    return float((n * k + 10 * 0.5) / (n + 10)), float(-k / mean_theta)


def _delta_error(influence: np.ndarray, n_walkers: int = 1) -> float:
    """Return the standard error of a sum of influences, whose mean is zero: of independent draws, or of chains."""
    if n_walkers > 1:
        if len(influence) % n_walkers:
            raise InputError(f"{len(influence)} draws are not the same number for {n_walkers} walkers.")
        influence = influence.reshape(-1, n_walkers).sum(0)
    n = len(influence)
    return float(np.sqrt((influence**2).sum() * n / (n - 1))) if n > 1 else np.inf


def _bounded(estimate: Estimate, n_effective: float) -> Estimate:
    """Give a fraction of exactly 0 or 1 an honest error: the scatter of what was seen says zero."""
    if 0.0 < estimate.value < 1.0 - 1e-12:
        return estimate
    return estimate._replace(stderr=1.0 / n_effective)


def _import_timeseries() -> ModuleType:
    """Import `pymbar.timeseries` without the advertisement that pymbar logs as a warning."""
    loggers = [logging.getLogger(name) for name in ("pymbar", "pymbar.timeseries", "pymbar.mbar_solvers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        return import_module("pymbar.timeseries")
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _as_walkers(series: np.ndarray) -> np.ndarray:
    walkers = np.atleast_2d(np.asarray(series, dtype=np.float64))
    if walkers.ndim != 2 or walkers.size < 2:
        raise InputError(
            f"A chain must have the shape (n_frames,) or (n_walkers, n_frames), not {np.shape(series)}."
        )
    if not np.isfinite(walkers).all():
        raise InputError("A chain contains NaN or infinite values.")
    return walkers


def round_trips(replicas: np.ndarray) -> int:
    """Count how often a replica went from the lowest state to the highest and back.

    Args:
        replicas: The replica in each state with shape=(n_iterations, n_states), states ordered by temperature.
    """
    count, n_states = 0, replicas.shape[1]
    for replica in range(n_states):
        state = np.argmax(replicas == replica, axis=1)
        ends = state[(state == 0) | (state == n_states - 1)]
        # Visits to the two ends in turn, counted from the first one to the lowest state.
        visits = ends[np.flatnonzero(np.diff(ends, prepend=-1))]
        count += max(0, (len(visits) - int(visits[:1].any()) - 1) // 2)
    return count
