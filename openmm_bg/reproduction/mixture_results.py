"""What figure 2 of seed 001 says in numbers: curves, their differences, and the acceptance figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmm_bg import statistics
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

_Z_LIMIT = 3.5
_EQUAL = 0.1  # [nats] that count as equal, if errors are smaller

Curves = dict[str, np.ndarray]
"""For each curve of a dimension, means of the excess with shape=(n_seeds, n_evaluated, n_walkers)."""


def difference(a: np.ndarray, b: np.ndarray) -> statistics.Estimate:
    """Return the mean of a less that of b, both with shape=(n_seeds, n_walkers), with its standard error.

    The error has two parts: the scatter of the trainings, which are independent in a and b (left out if there is
    one only), and that of the samples, which are the same in a and b.
    """
    parts = [(a.mean(axis=0) - b.mean(axis=0)).std(ddof=1) / np.sqrt(a.shape[1])]
    parts += [one.mean(axis=1).std(ddof=1) / np.sqrt(len(one)) for one in (a, b) if len(one) > 1]
    return statistics.Estimate(float(a.mean() - b.mean()), float(np.linalg.norm(parts)))


def at(values: np.ndarray, temperature: float) -> np.ndarray:
    """Return the part of a curve at one of its temperatures, with shape=(n_seeds, n_walkers)."""
    return values[:, int(np.abs(ladder()[evaluated()] - temperature).argmin())]


def claim_rows(dimension: int, curves: Curves, seeds: list[int]) -> list[dict[str, Any]]:
    """Return the seed's claims about a dimension, against both ways to use RealNVP; findings, not conditions."""
    rows = []
    for steerable in ("tsf-affine", "tsf"):
        for baseline in ("realnvp", FIXED):
            for temperature in CHECKED:
                found = difference(at(curves[steerable], temperature), at(curves[baseline], temperature))
                equal = dimension == 5 and temperature == 1.0
                if equal:
                    bound = f"|difference| <= {_EQUAL} or 2 stderr"
                    holds = abs(found.value) <= max(_EQUAL, 2 * found.stderr)
                else:
                    bound, holds = "< -2 stderr", found.value < -2 * found.stderr
                claim = "equal to" if equal else "below"
                line = (
                    f"d={dimension}, T={temperature:g}: NLL of {LABELS[steerable]} {claim} {LABELS[baseline]}"
                )
                rows.append(_row(line, found.value, found.stderr, bound, holds, seeds) | {"finding": True})
    return rows


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


def csv_text(table: list[dict[str, Any]]) -> str:
    """Return rows with the same keys as a table."""
    lines = [",".join(table[0])]
    lines += [
        ",".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values())
        for row in table
    ]
    return "\n".join(lines) + "\n"


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


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _row(line: str, value: float, stderr: float | None, bound: str, holds: bool, seed: Any) -> dict[str, Any]:
    row = {"line": line, "value": value, "stderr": stderr, "bound": bound, "holds": bool(holds)}
    return row | {"command": COMMAND, "seed": seed}
