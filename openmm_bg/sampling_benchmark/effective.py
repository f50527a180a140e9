r"""Effective samples, by a definition that is the same for chains, replica exchange and weighted samples.

The effective number of samples of an indicator, of probability p, is the number of independent configurations that
would estimate p as well:

.. math:: n_\text{eff} = p (1 - p) / \mathrm{Var}(\hat p)

with p from the reference. It counts configurations, not visits: at p = 0.003 three of a thousand effective samples
are inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import BASINS
from openmm_bg.errors import InputError
from openmm_bg.samples import UNRELIABLE_PARETO_K
from openmm_bg.sampling_benchmark.basins import Indicator, Population, count_crossings, count_entries
from openmm_bg.sampling_benchmark.trace import Trace
from openmm_bg.statistics import Estimate, z_score

ENOUGH = 30
"""Crossings, or independent arrivals, that are needed to believe the scatter of a chain."""

_MANY = 8  # walkers whose scatter is used, instead of the correlation in time
_GROUPS = 20  # that the jackknife leaves out in turn
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effective:
    """What a method knows of an indicator.

    Attributes:
        probability: Its estimate; with status "bound" its standard error is at least that of the bound.
        z: Its difference from the reference in combined standard errors; NaN with status "unknown".
        number: Effective samples and their standard error; with status "bound" an upper limit, whose error is NaN,
            and with "unknown" NaN.
        status: "measured", "bound" or "unknown".
        crossings: How often the configurations at the lowest temperature went from core to core; NaN where
            neighbours in a series are no neighbours in time.
        entries: Independent arrivals in the slow part; of weighted samples the effective number that are inside.
    """

    probability: Estimate
    z: float
    number: Estimate
    status: str
    crossings: float
    entries: float


def judge(trace: Trace, indicator: Indicator, known: Population, *, recycled: bool = False) -> Effective:
    """Return what a method knows of an indicator.

    A chain that has not crossed at least 30 times (replica exchange: has not had 30 independent arrivals) does not
    know its own error. Its effective samples are then only bounded, by `largest_number`. Weighted samples, and
    averages over candidates, must have 30 effective ones inside and outside. Weights must have a Pareto k of 0.7 at
    most, those of the slow part alone as well: a flow that nearly misses a rare basin has good weights elsewhere.

    Args:
        trace: What the method has sampled.
        indicator: The indicator.
        known: The reference.
        recycled: Judge the averages over all candidates of multiple tries instead of the chain.

    Raises:
        InputError: If there are no such averages.
    """
    if recycled:
        return _judge_recycled(trace, indicator, known)
    if trace.log_weights is not None:
        return _judge_weighted(trace, indicator, known)
    cores = indicator.cores_of(trace.phi, trace.psi)
    crossings = count_crossings(cores[:, 0])
    replicas = np.zeros_like(cores) if trace.replicas is None else trace.replicas
    entries = count_entries(cores, replicas)
    inside = indicator.inside.contains(trace.phi[:, 0], trace.psi[:, 0])
    probability, number = of_chain(inside, known.variance)
    enough = (crossings if trace.replicas is None else entries) >= ENOUGH
    if not enough:
        number = Estimate(largest_number(entries, inside.size, known), np.nan)
        least = float(np.sqrt(known.variance / number.value))
        probability = probability._replace(stderr=max(probability.stderr, least))
    return _effective(probability, known, number, "measured" if enough else "bound", crossings, entries)


def of_chain(inside: np.ndarray, variance: float) -> tuple[Estimate, Estimate]:
    """Return the fraction of a chain that is inside, and its effective number of samples, each with standard error.

    The error of the fraction comes from the scatter of the walkers if there are at least 8, from the correlation in
    time otherwise; that of the number from the jackknife, over walkers or blocks.

    Args:
        inside: Whether each frame is inside, with shape=(n_frames, n_walkers).
        variance: The variance of the indicator, p (1 - p).
    """
    walkers = np.asarray(inside, dtype=np.float64).T

    def scatter(some: np.ndarray) -> Estimate:
        return statistics.block_mean(some, n_blocks=1)

    if len(walkers) >= _MANY:
        return scatter(walkers), _with_jackknife(scatter, walkers, scatter(walkers), variance)
    length = walkers.shape[1] // _GROUPS
    blocks = walkers[:, : _GROUPS * length].reshape(-1, max(length, 1))
    probability = statistics.chain_population(np.asarray(inside, dtype=bool).T)
    return probability, _with_jackknife(statistics.chain_mean, blocks, probability, variance)


def of_weighted(inside: np.ndarray, log_weights: np.ndarray, variance: float) -> tuple[Estimate, Estimate]:
    """Return the weight inside, by the delta method, and its effective number of samples, each with standard error.

    Args:
        inside: Whether each sample is inside, with shape=(n,).
        log_weights: Log-weights with shape=(n,).
        variance: The variance of the indicator, p (1 - p).
    """
    probability = statistics.population(inside, log_weights)
    members = np.arange(len(inside))[: len(inside) // _GROUPS * _GROUPS].reshape(_GROUPS, -1)
    number = _with_jackknife(
        lambda some: statistics.population(inside[some.ravel()], log_weights[some.ravel()]),
        members,
        probability,
        variance,
    )
    return probability, number


def largest_number(entries: int, n_frames: int, known: Population) -> float:
    r"""Return the largest effective number of samples that goes with so few arrivals, at 95 % confidence.

    The stays in a metastable state last exponential times (geometric ones, in frames), or times that scatter
    more. If n frames have :math:`\lambda` arrivals by expectation, the variance of the fraction of frames inside is
    at least that of a two-state Markov chain, whose neighbouring frames have the correlation 1 - c:

    .. math:: \mathrm{Var}(\hat p) \ge \frac{p (1 - p)}{n} \, \frac{2 - c}{c}, \quad c = \frac{\lambda}{p (1 - p) n}

    Here p is the probability of the slow part, and :math:`\lambda` the upper limit of a Poisson variable's mean.
    The number of crossings itself is no such limit: of independent configurations only 2 p (1 - p) n cross.

    Args:
        entries: Independent arrivals.
        n_frames: Frames of all walkers together.
        known: The reference.
    """
    from scipy.stats import chi2

    most = float(chi2.ppf(_CONFIDENCE, 2 * (entries + 1))) / 2.0
    slow = known.slow * (1.0 - known.slow)
    share = min(1.0, most / (slow * n_frames))
    return min(1.0, known.variance / slow * share / (2.0 - share)) * n_frames


def _judge_weighted(trace: Trace, indicator: Indicator, known: Population) -> Effective:
    inside = indicator.inside.contains(trace.phi, trace.psi).reshape(-1)
    if not np.isfinite(trace.log_weights).any():  # a flow of something else
        nothing = Estimate(np.nan, np.nan)
        return Effective(nothing, np.nan, nothing, "unknown", np.nan, 0.0)
    probability, number = of_weighted(inside, trace.log_weights, known.variance)
    weights = statistics.normalized_weights(trace.log_weights)
    evidence = min(_kish(weights[inside]), _kish(weights[~inside]))
    slow = BASINS[indicator.slow].contains(trace.phi, trace.psi).reshape(-1)
    parts = (trace.log_weights, trace.log_weights[slow])
    reliable = weights[slow].sum() > 0 and all(
        statistics.pareto_k(part) <= UNRELIABLE_PARETO_K for part in parts
    )
    return _measured_or_unknown(probability, known, number, evidence, reliable=reliable)


def _judge_recycled(trace: Trace, indicator: Indicator, known: Population) -> Effective:
    if indicator.name not in trace.recycled:
        raise InputError(f"There are no averages of {indicator.label} over candidates.")
    series = trace.recycled[indicator.name]
    probability = statistics.chain_mean(series)
    length = len(series) // _GROUPS
    blocks = series[: _GROUPS * length].reshape(-1, max(length, 1))
    number = _with_jackknife(statistics.chain_mean, blocks, probability, known.variance)
    # Every try has new candidates. How many tries the estimate rests on, by weight:
    return _measured_or_unknown(probability, known, number, min(_kish(series), _kish(1.0 - series)))


def _measured_or_unknown(
    probability: Estimate, known: Population, number: Estimate, evidence: float, *, reliable: bool = True
) -> Effective:
    enough = reliable and evidence >= ENOUGH
    number = number if enough else Estimate(np.nan, np.nan)
    return _effective(probability, known, number, "measured" if enough else "unknown", np.nan, evidence)


def _effective(
    probability: Estimate,
    known: Population,
    number: Estimate,
    status: str,
    crossings: float,
    entries: float,
) -> Effective:
    z = np.nan if status == "unknown" else z_score(probability, known.probability)
    return Effective(probability, z, number, status, float(crossings), float(entries))


def _kish(weights: np.ndarray) -> float:
    """Return the effective number of weights; zero if there is none."""
    total = float((weights**2).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0


def _with_jackknife(
    estimate: Callable[[np.ndarray], Estimate], groups: np.ndarray, of_all: Estimate, variance: float
) -> Estimate:
    """Return the number of samples that goes with an estimate, and its error by leaving out each of the groups."""
    if not of_all.stderr > 0:
        return Estimate(np.nan, np.nan)
    value = variance / of_all.stderr**2
    n = min(_GROUPS, len(groups))
    if groups.shape[-1] < 2 and len(groups) < _MANY:
        return Estimate(value, np.nan)
    parts = np.array_split(np.arange(len(groups)), n)
    errors = np.array([estimate(np.delete(groups, part, axis=0)).stderr for part in parts])
    if not (errors > 0).all():
        return Estimate(value, np.nan)
    logarithms = -2.0 * np.log(errors)
    return Estimate(value, value * float(np.sqrt((n - 1) ** 2 / n * logarithms.var(ddof=1))))
