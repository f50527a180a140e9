"""What figure 2 of seed 001 says in numbers: curves, their differences, and the acceptance figures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from openmm_bg.reproduction.mixture_equilibrium import CHECKED, ladder
from openmm_bg.reproduction.mixture_flows import FIXED, evaluated
from openmm_bg.samples import Samples
from openmm_bg.systems.double_well_mixture import DoubleWellMixture
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE

COMMAND = "python scripts/reproduce_seed_001.py --only mixture"
LABELS = {
    "tsf-affine": "TSF as published",
    "realnvp": "RealNVP, base N(0, T)",
    FIXED: "RealNVP, base N(0, 1)",
    "tsf": "TSF of spline layers",
}
"""The curves, and how plots and tables name them."""

STEERABLE, BASELINES = ("tsf-affine", "tsf"), ("realnvp", FIXED)
"""Of the seed's claims: the curves that are claimed to be lower, and those with which they are compared."""

AWAY = (0.7, 1.4)
"""Up to and from these temperatures, a flow is "away from T = 1"."""

_Z_LIMIT = 3.5
_EQUAL, _PRECISE = 0.1, 0.05  # [nats] that count as equal, if the standard error is below the second
_TAIL = 0.02275  # the probability that a normal number is above two

Curves = dict[str, np.ndarray]
"""For each curve of a dimension, means of the excess with shape=(n_seeds, n_evaluated, n_walkers)."""


class Difference(NamedTuple):
    """A difference of two means.

    Attributes:
        value: The difference.
        stderr: Its standard error.
        quantile: How many of these standard errors chance exceeds as rarely as two of a known one (2.3 %).
    """

    value: float
    stderr: float
    quantile: float

    @property
    def negative(self) -> bool:
        """Whether it is below zero by more than chance explains."""
        return self.value < -self.quantile * self.stderr


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Return the mean of a less that of b, both with shape=(n_seeds, n_walkers), with its standard error.

    The error has two parts: the scatter of the trainings, which are independent in a and b (left out if there is
    one only), and that of the samples, which are the same in a and b. Three trainings hardly know their scatter:
    the quantile is that of Student's t, with the degrees of freedom of Welch and Satterthwaite.
    """
    from scipy.stats import t

    of_samples = [a.mean(axis=0) - b.mean(axis=0)]
    means = of_samples + [one.mean(axis=1) for one in (a, b) if len(one) > 1]
    variances = np.array([one.var(ddof=1) / len(one) for one in means])
    freedom = np.array([len(one) - 1 for one in means])
    effective = variances.sum() ** 2 / (variances**2 / freedom).sum()
    return Difference(
        float(a.mean() - b.mean()), float(np.sqrt(variances.sum())), float(t.isf(_TAIL, effective))
    )


def at(values: np.ndarray, temperature: float) -> np.ndarray:
    """Return the part of a curve at one of its temperatures, with shape=(n_seeds, n_walkers)."""
    return values[:, int(np.abs(ladder()[evaluated()] - temperature).argmin())]


def claim_rows(dimension: int, curves: Curves, seeds: list[int]) -> list[dict[str, Any]]:
    """Return the seed's claims about a dimension, against both ways to use RealNVP; findings, not conditions."""
    rows = []
    for steerable in STEERABLE:
        for baseline in BASELINES:
            for temperature in CHECKED:
                found = difference(at(curves[steerable], temperature), at(curves[baseline], temperature))
                equal = dimension == 5 and temperature == 1.0
                if equal:
                    bound = f"|difference| <= {_EQUAL}, stderr < {_PRECISE}"
                    holds = abs(found.value) <= _EQUAL and found.stderr < _PRECISE
                else:
                    bound, holds = f"< -{found.quantile:.2f} stderr", found.negative
                claim = "equal to" if equal else "below"
                line = (
                    f"d={dimension}, T={temperature:g}: NLL of {LABELS[steerable]} {claim} {LABELS[baseline]}"
                )
                rows.append(_row(line, found.value, found.stderr, bound, holds, seeds) | {"finding": True})
            rows.append(_verdict(dimension, curves, steerable, baseline, seeds))
    return rows


def _verdict(
    dimension: int, curves: Curves, steerable: str, baseline: str, seeds: list[int]
) -> dict[str, Any]:
    """Return whether a claim holds at all temperatures that it is about: in five dimensions those of `AWAY`."""
    table = [
        row
        for row in difference_table(dimension, curves)
        if (row["curve"], row["baseline"]) == (steerable, baseline)
        and (dimension != 5 or not AWAY[0] < row["temperature"] < AWAY[1])
    ]
    where = f"T <= {AWAY[0]:g} or T >= {AWAY[1]:g}" if dimension == 5 else "every T"
    below = float(np.mean([row["below"] for row in table]))
    line = (
        f"d={dimension}, {where}: part of {len(table)} temperatures with NLL of {LABELS[steerable]} below "
        f"{LABELS[baseline]}"
    )
    return _row(line, below, None, ">= 1", below == 1.0, seeds) | {"finding": True}


def difference_table(dimension: int, curves: Curves) -> list[dict[str, Any]]:
    """Return the `Difference` of each steerable flow and baseline at each temperature as rows."""
    return [
        {
            "dimension": dimension,
            "curve": steerable,
            "baseline": baseline,
            "temperature": float(temperature),
            **(found := difference(curves[steerable][:, k], curves[baseline][:, k]))._asdict(),
            "below": found.negative,
        }
        for steerable in STEERABLE
        for baseline in BASELINES
        for k, temperature in enumerate(ladder()[evaluated()])
    ]


def convergence_rows(dimension: int, found: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Return the acceptance figures of the parallel tempering; see `mixture_equilibrium.convergence`."""
    rows = []
    for temperature in CHECKED:
        k = int(np.abs(found["temperature"] - temperature).argmin())
        where = f"d={dimension}, T={temperature:g}: parallel tempering"
        for name, line in (
            ("z", "mean energy less the exact one, in standard errors"),
            ("z_between_starts", "mean energy from either kind of start, difference in standard errors"),
        ):
            z = float(found[name][k])
            rows.append(_row(f"{where}, {line}", z, None, f"|z| <= {_Z_LIMIT}", abs(z) <= _Z_LIMIT, seed))
    smallest = float(found["exchange_acceptance"].min())
    line = f"d={dimension}: parallel tempering, smallest acceptance of exchanges"
    return [*rows, _row(line, smallest, None, ">= 0.2", smallest >= 0.2, seed)]


def curve_table(dimension: int, toy: DoubleWellMixture, curves: Curves) -> list[dict[str, Any]]:
    """Return all curves of a dimension as rows, with errors over trainings and over samples."""
    rows = []
    for name, values in curves.items():
        for k, temperature in enumerate(ladder()[evaluated()]):
            entropy, own = toy.entropy(temperature * UNIT_TEMPERATURE), values[:, k]
            by_seed, by_walker = own.mean(axis=1), own.mean(axis=0)
            rows.append(
                {
                    "dimension": dimension,
                    "curve": name,
                    "temperature": float(temperature),
                    "entropy": entropy,
                    "nll": entropy + float(own.mean()),
                    "excess": float(own.mean()),
                    "stderr_seeds": _stderr(by_seed),
                    "stderr_samples": _stderr(by_walker),
                    **{f"excess_seed_{seed}": float(value) for seed, value in enumerate(by_seed)},
                }
            )
    return rows


def bound_table(judged: dict[tuple[int, str], list[dict[str, np.ndarray]]]) -> list[dict[str, Any]]:
    """Compare the bounds that the curves show with those of importance sampling over momenta.

    Args:
        judged: For each dimension and flow, what `mixture_flows.judge` returned for each training.
    """
    rows = []
    for (dimension, kind), trainings in judged.items():
        for k, temperature in enumerate(CHECKED if "marginal" in trainings[0] else ()):
            plain = at(np.stack([one["scaled"] for one in trainings]), temperature)
            tighter = np.stack([one["marginal"] for one in trainings])[:, k]
            row = {"dimension": dimension, "curve": kind, "temperature": temperature}
            rows.append(row | {"excess": float(plain.mean()), "tighter": float(tighter.mean())})
    return rows


def marginals(
    toy: DoubleWellMixture, samples: Samples, tempered: np.ndarray, *, n_exact: int, n_coordinates: int = 5
) -> dict[str, Any]:
    """Return the densities of the first coordinates at T = 1, by several ways.

    Args:
        toy: The system.
        samples: Those of a flow.
        tempered: Those of parallel tempering [nm] with shape=(n, d).
        n_exact: How many exact samples are drawn.
        n_coordinates: How many coordinates.

    Returns:
        ``edges`` [nm] with shape=(n_coordinates, n_bins + 1); densities [1/nm] with shape=(n_coordinates, n_bins)
        as ``exact``, ``tempered``, ``unweighted`` and ``weighted``; ``total_variation`` of each from the exact one;
        the flow's ``ess`` and ``pareto_k``.
    """
    exact = toy.sample(n_exact, UNIT_TEMPERATURE, np.random.default_rng(0))
    x = toy.from_positions(samples.positions)
    sets = {
        "exact": (exact, None),
        "tempered": (tempered, None),
        "unweighted": (x, None),
        "weighted": (x, samples.weights),
    }
    edges, density = [], {name: [] for name in sets}
    for k in range(min(n_coordinates, toy.dimension)):
        limit = 1.05 * np.abs(exact[:, k]).max()
        edges.append(np.linspace(-limit, limit, 81))
        for name, (values, weights) in sets.items():
            density[name].append(np.histogram(values[:, k], edges[-1], weights=weights, density=True)[0])
    result = {"edges": np.array(edges), **{name: np.array(values) for name, values in density.items()}}
    width = np.diff(result["edges"], axis=1)
    distances = {
        name: 0.5 * (np.abs(result[name] - result["exact"]) * width).sum(axis=1)
        for name in sets
        if name != "exact"
    }
    return result | {
        "total_variation": distances,
        "ess": samples.ess(),
        "pareto_k": samples.pareto_k(),
        "n": len(x),
    }


def marginal_table(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the densities of `marginals` as rows, one for each bin of each coordinate."""
    names = ("exact", "tempered", "unweighted", "weighted")
    return [
        {
            "coordinate": k + 1,
            "from": float(edges[bin]),
            "to": float(edges[bin + 1]),
            **{name: float(found[name][k][bin]) for name in names},
        }
        for k, edges in enumerate(found["edges"])
        for bin in range(len(edges) - 1)
    ]


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _row(line: str, value: float, stderr: float | None, bound: str, holds: bool, seed: Any) -> dict[str, Any]:
    row = {"line": line, "value": value, "stderr": stderr, "bound": bound, "holds": bool(holds)}
    return row | {"command": COMMAND, "seed": seed}
