"""What the flows of seed 001, figure 3, are worth: effective sample sizes, chains against the reference, rows."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import PHI_POSITIVE, Basin, Ramachandran
from openmm_bg.comparison import AGREEMENT, Ensemble, compare
from openmm_bg.reference import load_reference
from openmm_bg.reproduction.alanine_chains import Chain
from openmm_bg.reproduction.alanine_dipeptide import COLD, FLOWS, HOT, AlanineSettings, Draws, draw_all

COMMAND = "python scripts/reproduce_seed_001.py"
STEERABLE = ("tsf", "tsf-affine")
"""The flows with momenta."""


def quality(log_weights: np.ndarray) -> dict[str, float]:
    """Return what weights with shape=(n,) are worth: ESS, unclipped and clipped, Pareto k, and zeros."""
    none = float(np.isneginf(log_weights).mean())
    if none == 1.0:
        return {
            "ess": 0.0,
            "ess_clipped_1e-4": 0.0,
            "pareto_k": np.inf,
            "n": len(log_weights),
            "outside": none,
        }
    return {
        "ess": statistics.effective_sample_size(log_weights),
        "ess_clipped_1e-4": statistics.effective_sample_size(log_weights, 1e-4),
        "pareto_k": statistics.pareto_k(log_weights),
        "n": len(log_weights),
        "outside": none,
    }


def effective_sizes(
    output: Path, settings: AlanineSettings, *, progress: bool = False
) -> list[dict[str, Any]]:
    """Judge every flow at every temperature, sampled there ("scaled") and reweighted from 600 K ("plain").

    Returns:
        A row for each flow, temperature and way, with what `quality` returns.
    """
    rows = []
    for flow in FLOWS:
        draws = draw_all(output, flow, settings, progress=progress)
        for temperature, own in draws.items():
            common = {"flow": flow, "temperature": temperature}
            rows.append({**common, "way": "scaled", **quality(own.log_weights())})
            if temperature != HOT:
                rows.append({**common, "way": "plain", **quality(draws[HOT].log_weights(temperature))})
    return rows


def ess_of(table: list[dict[str, Any]], flow: str, temperature: float, way: str = "scaled") -> float:
    """Return one effective sample size of what `effective_sizes` returned."""
    return next(
        row["ess"]
        for row in table
        if (row["flow"], row["temperature"], row["way"]) == (flow, temperature, way)
    )


def ess_rows(table: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return the acceptance figures of effective sample sizes."""
    common = {"stderr": None, "command": COMMAND, "seed": seed}
    tsf = {flow: ess_of(table, flow, COLD) for flow in STEERABLE}
    best = max(tsf, key=tsf.__getitem__)
    plain = max(ess_of(table, flow, COLD, "plain") for flow in FLOWS if flow not in STEERABLE)
    rows = [
        {
            "line": f"ESS of the best TSF ({best}) at 300 K, joint, unclipped",
            "value": tsf[best],
            "bound": ">= 0.03",
            "holds": tsf[best] >= 0.03,
        },
        {
            "line": "the same over plain reweighting of the best other flow",
            "value": tsf[best] / plain,
            "bound": ">= 5",
            "holds": tsf[best] >= 5 * plain,
        },
        {
            "line": f"ESS of the best TSF ({best}) at 300 K (goal)",
            "value": tsf[best],
            "bound": ">= 0.30",
            "holds": tsf[best] >= 0.30,
            "goal": True,
        },
    ]
    for row in table:
        if row["temperature"] in (HOT, COLD):
            way = "sampled there" if row["way"] == "scaled" else "reweighted from 600 K"
            line = f"ESS of {row['flow']} at {row['temperature']:g} K, {way} (Pareto k {row['pareto_k']:.2f})"
            rows.append({"line": line, "value": row["ess"], "bound": "", "holds": True, "finding": True})
    return [row | common for row in rows]


def unweighted(draws: Draws, label: str) -> Ensemble:
    """Return the draws inside the domain as they are, without weights."""
    inside = np.isfinite(draws.energy)
    torsions = Ramachandran(label, draws.phi[inside], draws.psi[inside])
    return Ensemble(torsions, draws.energy[inside], draws.temperature)


def reference() -> Ensemble:
    """Return the reference at 300 K that comes with the package."""
    found = load_reference("alanine_dipeptide", COLD)
    torsions = dataclasses.replace(found.ramachandran, label="parallel tempering")
    return Ensemble(torsions, found.potential_energy, COLD)


def chain_rows(
    chains: dict[str, Chain], plain: Chain, biased: Draws, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare chains at 300 K, and the unweighted samples as the control, with the reference.

    Args:
        chains: Chains with moves by a flow, which are judged, by name.
        plain: A chain without a flow, which is shown beside them.
        biased: Draws of the flow, which are taken without weights.
        seed: Seed of the experiment.

    Returns:
        The acceptance figures, and the whole comparison.
    """
    table = compare(
        reference(),
        {name: chain.ensemble() for name, chain in {**chains, plain.name: plain}.items()}
        | {"TSF, unweighted": unweighted(biased, "TSF, unweighted")},
    )
    common = {"command": COMMAND, "seed": seed}
    rows = []
    for name, chain in {**chains, plain.name: plain}.items():
        finding = {} if name in chains else {"finding": True}
        phi = table["P(phi > 0)"][name]
        relative = phi["stderr"] / phi["value"] if phi["value"] else np.inf
        own = [
            {
                "line": f"{name}: P(phi > 0) at 300 K, difference from the reference in standard errors",
                "value": phi["z"],
                "stderr": None,
                "bound": f"|z| <= {AGREEMENT}",
                "holds": bool(phi["agrees"]),
            },
            {
                "line": f"{name}: P(phi > 0) at 300 K, relative standard error",
                "value": relative,
                "stderr": None,
                "bound": "<= 0.25",
                "holds": bool(relative <= 0.25),
            },
            _histogram_row(name, chain.ensemble().ramachandran),
        ]
        rows += [row | finding for row in own]
    control = table["P(phi > 0)"]["TSF, unweighted"]
    rows.append(
        {
            "line": "control: P(phi > 0) of unweighted TSF samples, difference in standard errors",
            "value": control["z"],
            "stderr": None,
            "bound": f"|z| > {AGREEMENT}",
            "holds": not control["agrees"],
        }
    )
    return [row | common for row in rows], table


# Narrow where most of the distribution is; phi > 0 has too few visits at 300 K for narrow bins.
_EDGES = (*range(-180, 0, 10), 0, 60, 120, 180)  # degrees
_RARE = 3e-4  # of a bin in the reference: such bins are left out


def _histogram_row(name: str, found: Ramachandran) -> dict[str, Any]:
    """Compare the phi histogram with the reference's, wherever the reference has some probability.

    A bin that was never visited has no error of its own; it gets that of independent frames, times the usual ratio
    of the two in the other bins.
    """
    bins = [Basin(edges, (-180.0, 180.0)) for edges in itertools.pairwise(_EDGES)]
    pairs = [(reference().ramachandran.population(basin), found.population(basin)) for basin in bins]
    pairs = [(expected, own) for expected, own in pairs if expected.value >= _RARE]
    independent = [np.sqrt(p.value * (1.0 - p.value) / len(found.phi)) for p, _ in pairs]
    visited = [own.value > 0 for _, own in pairs]
    ratios = [own.stderr / i for (_, own), i, seen in zip(pairs, independent, visited, strict=True) if seen]
    slowness = max(1.0, float(np.median(ratios)))
    z = [
        (own.value - expected.value) / np.hypot(own.stderr if seen else slowness * i, expected.stderr)
        for (expected, own), i, seen in zip(pairs, independent, visited, strict=True)
    ]
    worst = float(np.abs(z).max())
    return {
        "line": f"{name}: phi histogram at 300 K, largest difference of {len(z)} bins in standard errors",
        "value": worst,
        "stderr": None,
        "bound": f"<= {AGREEMENT}",
        "holds": worst <= AGREEMENT,
    }


def p_phi_positive(draws: Draws, *, weighted: bool) -> statistics.Estimate:
    """Return P(phi > 0) of draws and its standard error."""
    weights = draws.log_weights() if weighted else np.where(np.isfinite(draws.energy), 0.0, -np.inf)
    return statistics.population(PHI_POSITIVE.contains(draws.phi, draws.psi), weights)
