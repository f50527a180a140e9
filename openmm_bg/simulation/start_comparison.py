"""Do walkers from different starts agree? What a simulation can say of its own convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.statistics import Estimate, with_error, z_score

VERDICTS = ("agree", "unclear", "differ")
"""From the best to the worst."""

_SIGMA = 2.0  # combined standard errors, with many walkers


class Difference(NamedTuple):
    """How the means of two starts compare.

    Attributes:
        first: The name of a start.
        second: The name of another.
        value: The mean of the first minus that of the second, with their combined standard error.
        n_errors: The same in combined standard errors; 0 if these are not known.
        resolution: Differences that are smaller would not be noticed: two combined standard errors, and more with
            few walkers (the quantile of Student's distribution, with Welch's degrees of freedom). Infinite with
            a single walker.
        verdict: One of `VERDICTS`.
    """

    first: str
    second: str
    value: Estimate
    n_errors: float
    resolution: float
    verdict: str


@dataclass(frozen=True)
class StartComparison:
    """An observable's means over walkers that began from different starts.

    Attributes:
        means: The mean of each start with its standard error, which is infinite for a single walker.
        n_walkers: How many walkers began there.
        spread: The standard deviation of the observable over all frames of all walkers.
        differences: All pairs of starts.
    """

    means: Mapping[str, Estimate]
    n_walkers: Mapping[str, int]
    spread: float
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> str:
        """The worst verdict of all pairs: "agree", "unclear" or "differ"."""
        return max((difference.verdict for difference in self.differences), key=VERDICTS.index)

    def statement(self, observable: str = "observable") -> str:
        """Return the comparison in one line, to stand beside a figure of the observable."""
        parts = [
            f"{name} {with_error(mean)} ({count} walker{'s' if count > 1 else ''})"
            for (name, mean), count in zip(self.means.items(), self.n_walkers.values(), strict=True)
        ]
        worst = max(self.differences, key=lambda d: (VERDICTS.index(d.verdict), abs(d.n_errors)))
        told = {
            "agree": "starts agree",
            "unclear": "too little data to tell whether starts agree",
            "differ": "starts do not agree: not converged",
        }
        if np.isfinite(worst.resolution):
            detail = f"{abs(worst.n_errors):.1f} standard errors apart, resolution {worst.resolution:.2g}"
        else:
            detail = "a single walker has no standard error"
        return f"{observable}: {', '.join(parts)}; {told[self.verdict]} ({detail})"

    def record(self, observable: str = "observable") -> dict[str, Any]:
        """Return the comparison as JSON has it, with null for what is infinite."""
        return {
            "observable": observable,
            "verdict": self.verdict,
            "statement": self.statement(observable),
            "means": {name: [_finite(number) for number in mean] for name, mean in self.means.items()},
            "n_walkers": dict(self.n_walkers),
            "spread": self.spread,
            "differences": [
                {
                    "starts": [difference.first, difference.second],
                    "value": [_finite(number) for number in difference.value],
                    "n_errors": _finite(difference.n_errors),
                    "resolution": _finite(difference.resolution),
                    "verdict": difference.verdict,
                }
                for difference in self.differences
            ],
        }


def compare_starts(values: Any, walker_starts: Sequence[str]) -> StartComparison:
    """Compare an observable's means over walkers from different starts.

    Each walker counts as one independent value, its mean over the frames, so that correlations in time do not
    matter. The verdict on two starts is

    - "differ" if the difference is larger than the resolution (see `Difference`): chance alone gives such a
      difference in less than one case of twenty;
    - "agree" if it is at most two combined standard errors, and the resolution is finer than the observable's own
      spread: if not even a difference of the spread would be noticed, agreement means nothing;
    - "unclear" otherwise, with a single walker at a start, and if the observable never changes.

    Agreement is necessary for convergence; it says nothing of what walkers from no start have seen. Leave out the
    frames at the beginning in which the starts are not forgotten yet.

    Args:
        values: The observable with shape=(n_frames, n_walkers). Of a value for each frame of `TrainingData`:
            ``values.reshape(-1, data.record["n_walkers"])``.
        walker_starts: The start of each walker with length n_walkers, as ``data.record["walker_starts"]`` has it.

    Raises:
        InputError: If the shapes disagree, a value is not finite, or there is only one start.
    """
    values = np.asarray(values, dtype=np.float64)
    starts = list(walker_starts or ())
    if values.ndim != 2 or not values.size or values.shape[1] != len(starts):
        raise InputError(
            "Values must have the shape (n_frames, n_walkers) and there must be one start for each walker, "
            f"not {values.shape} and {len(starts)} starts."
        )
    if not np.isfinite(values).all():
        raise InputError("The observable contains NaN or infinite values.")
    names = list(dict.fromkeys(starts))
    if len(names) < 2:
        raise InputError(f"All walkers began from {names[0]!r}; a comparison needs at least two starts.")
    walker_means = values.mean(axis=0)
    groups = {name: walker_means[[start == name for start in starts]] for name in names}
    spread = float(values.std())
    return StartComparison(
        means={name: _mean(group) for name, group in groups.items()},
        n_walkers={name: len(group) for name, group in groups.items()},
        spread=spread,
        differences=tuple(_difference(a, b, groups[a], groups[b], spread) for a, b in combinations(names, 2)),
    )


def _mean(group: np.ndarray) -> Estimate:
    """Return the mean of walkers' means with shape=(n,); one walker has no standard error."""
    stderr = group.std(ddof=1) / np.sqrt(len(group)) if len(group) > 1 else np.inf
    return Estimate(float(group.mean()), float(stderr))


def _difference(first: str, second: str, a: np.ndarray, b: np.ndarray, spread: float) -> Difference:
    means = _mean(a), _mean(b)
    value = Estimate(means[0].value - means[1].value, float(np.hypot(means[0].stderr, means[1].stderr)))
    n_errors = z_score(*means)
    resolution = _limit(a, b) * value.stderr if np.isfinite(value.stderr) else np.inf
    if abs(value.value) > resolution:
        verdict = "differ"
    elif spread > 0 and abs(n_errors) <= _SIGMA and resolution < spread:
        verdict = "agree"
    else:
        verdict = "unclear"
    return Difference(first, second, value, n_errors, float(resolution), verdict)


def _limit(a: np.ndarray, b: np.ndarray) -> float:
    """Return how many combined standard errors chance exceeds as rarely as it does two with many walkers.

    Source: Welch, Biometrika 34, 28 (1947).
    """
    from scipy import stats

    variances = np.array([group.var(ddof=1) / len(group) for group in (a, b)])
    if not variances.any():
        return _SIGMA
    shares = variances / variances.sum()  # before squares, which could underflow
    degrees = 1.0 / (shares**2 / [len(a) - 1, len(b) - 1]).sum()
    return float(stats.t.ppf(stats.norm.cdf(_SIGMA), degrees))


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
