"""Coarse-graining of alanine dipeptide at 300 K, judged against molecular dynamics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import BASINS, PHI_POSITIVE, Ramachandran, torsion_angles
from openmm_bg.coarse_graining.consistency import ConsistencyLine, consistency_table, write_table
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.histograms import cell_fractions
from openmm_bg.io import load_samples
from openmm_bg.samples import Samples
from openmm_bg.statistics import z_score
from openmm_bg.training import load_data
from openmm_bg.training.data import TrainingData

COMMAND = "python scripts/verify_coarse_graining.py"
TEMPERATURE = 300.0
BINS = 36
_HIGHEST, _SURE, _CLOSE = 4.0, 0.1, 0.3  # kT
_SIGMA = 3.5

MAPS = {
    "selection map": [
        *["--steps", "4000", "--atoms", "index 4 6 8 14 16"],
        *["--flow", "autoregressive", "--layers", "4", "--hidden-features", "48"],
    ],
    "learned map": [
        *["--steps", "12000", "--map", "learned", "--beads", "6", "--even-fraction", "0.5"],
        *["--frozen-flow", "--rounds", "20", "--round-samples", "5120", "--round-tries", "16"],
        *["--round-steps", "500", "--round-learning-rate", "5e-4"],
    ],
}
"""Options of ``openmm-bg coarse-grain`` by the label of the map."""

_SAMPLING = {"selection map": ["-n", "307200"], "learned map": ["-n", "307200", "--tries", "16"]}


def data_commands(output: Path) -> dict[str, list[str]]:
    """Return the commands that make the training data, and an independent reference, by parallel tempering."""
    return {
        "data": _simulation(output / "data", 102_400, seed=1),
        "reference": _simulation(output / "reference", 204_800, seed=2),
    }


def model_commands(output: Path, label: str) -> dict[str, list[str]]:
    """Return the commands that train a model and draw samples from it.

    The learned map has data of its own: its flow has more to put back, and of 102,400 frames it would learn the
    0.2 % that are of the left-handed helix by heart.
    """
    name = label.split()[0]
    data, model, samples = output / "data", output / f"model_{name}", output / f"samples_{name}.h5"
    commands = {}
    if label == "learned map":
        data = output / f"data_{name}"
        commands[f"simulate {name}"] = _simulation(data, 819_200, seed=3)
    return commands | {
        f"train {name}": ["coarse-grain", str(data), "-o", str(model), *MAPS[label]],
        f"sample {name}": ["backmap", str(model), "-o", str(samples), *_SAMPLING[label], "--seed", "1"],
    }


def _simulation(output: Path, n_frames: int, *, seed: int) -> list[str]:
    ladder = [word for t in (378, 476, 600, 756, 952) for word in ("--ladder", str(t))]
    sizes = ["--hot-start", "952", "--walkers", "128", "--interval", "100", "--burn-in", "20000"]
    frames = ["--frames", str(n_frames), "--seed", str(seed), "-o", str(output)]
    return ["simulate", "alanine_dipeptide", "-T", f"{TEMPERATURE:g}", *ladder, *sizes, *frames]


def row(line: str, value: float, bound: str, holds: bool, **extra: Any) -> dict[str, Any]:
    """Return one row of the results."""
    found = {"line": line, "value": value, "stderr": None, "bound": bound, "holds": bool(holds)}
    return found | {"command": COMMAND, "seed": 1} | extra


def alanine_rows(output: Path, label: str, tables: Path | None = None) -> Iterator[dict[str, Any]]:
    """Judge the samples of a model of alanine dipeptide.

    Args:
        output: Where the commands have left data, model and samples.
        label: The label of the map.
        tables: Where to write the table of observables, if anywhere.
    """
    reference = load_data(output / "reference")
    samples = load_samples(output / f"samples_{label.split()[0]}.h5", reference.system)
    ess, stderr = statistics.effective_sample_size_estimate(samples.log_weights)
    k = samples.pareto_k()
    name = f"alanine dipeptide, {label}"
    yield row(
        f"{name}: ESS of the weights", ess, ">= 0.05", ess >= 0.05, stderr=stderr, n_samples=len(samples)
    )
    yield row(f"{name}: ESS of the weights (goal)", ess, ">= 0.30", ess >= 0.3, stderr=stderr, goal=True)
    yield row(f"{name}: Pareto k", k, "< 0.7", k < 0.7)
    expected = _law("reference", reference.positions, reference, None, int(reference.record["n_walkers"]))
    weighted, plain = (_samples_law(samples, reference, log_weights) for log_weights in _both(samples))
    smoothed = statistics.effective_sample_size(samples.pareto_smoothed_log_weights)
    yield row(f"{name}: ESS of the Pareto-smoothed weights", smoothed, "reported", True)
    record = CoarseGrainedGenerator.load(output / f"model_{label.split()[0]}").record
    kept = record["rounds"][record["kept_round"]]
    by_data = float(kept["data_effective_sample_size"])
    yield row(f"{name}: ESS by the data held out from training", by_data, "reported", True, seed=0)
    share, n_bins = surface_agreement(weighted, expected)
    yield row(
        f"{name}: (phi, psi) bins within {_CLOSE} kT, of those below {_HIGHEST:g} kT that the reference knows to "
        f"{_SURE} kT",
        share,
        ">= 0.9",
        share >= 0.9 and n_bins > 0,
        n_bins=n_bins,
        unweighted=surface_agreement(plain, expected)[0],
    )
    for basin, area in {**BASINS, "phi > 0": PHI_POSITIVE}.items():
        found = weighted.population(area)
        z = z_score(found, expected.population(area))
        yield row(
            f"{name}: P({basin}), difference from the reference in standard errors",
            z,
            f"|z| <= {_SIGMA}",
            abs(z) <= _SIGMA,
            found=found._asdict(),
            reference=expected.population(area)._asdict(),
            unweighted=plain.population(area)._asdict(),
        )
    table = consistency_table(samples, reference)
    if tables is not None:
        write_table(table, tables / f"alanine_dipeptide_{label.replace(' ', '_')}.csv")
    yield deviation_row(
        f"{name}: largest deviation of {len(table)} moments from the reference", table, _SIGMA
    )


def deviation_row(line: str, table: Sequence[ConsistencyLine], bound: float | None) -> dict[str, Any]:
    """Return the row of the moment that is furthest from the reference, in standard errors.

    Args:
        line: What the moments are of.
        table: The moments.
        bound: The most that holds; the deviation is only reported if None.
    """
    worst = max(table, key=lambda one: abs(one.deviation))
    value = abs(worst.deviation)
    return row(
        f"{line} in standard errors",
        value,
        "reported" if bound is None else f"<= {bound}",
        bound is None or value <= bound,
        observable=f"{worst.name}, moment {worst.moment}",
        unweighted=max(abs(one.unweighted_deviation) for one in table),
    )


def surface_agreement(found: Ramachandran, expected: Ramachandran) -> tuple[float, int]:
    """Return which part of the bins has the free energy of a reference, and how many bins were judged.

    Judged are the bins whose free energy in the reference is below 4 kT with a standard error of at most 0.1 kT,
    whatever was found there. The two surfaces are brought to the same height by the median difference; a bin in
    which nothing was found does not agree.
    """
    (p, _), (q, q_err) = (_bin_fractions(law) for law in (found, expected))
    known = q > 0
    known[known] = (-np.log(q[known] / q.max()) < _HIGHEST) & (q_err[known] / q[known] <= _SURE)
    if not known.any() or not (p[known] > 0).any():
        return 0.0, int(known.sum())
    with np.errstate(divide="ignore"):
        difference = -np.log(p[known] / q[known])
    difference -= np.median(difference[np.isfinite(difference)])
    return float((np.abs(difference) <= _CLOSE).mean()), int(known.sum())


def _bin_fractions(law: Ramachandran) -> tuple[np.ndarray, np.ndarray]:
    cells = _bin(law.phi) * BINS + _bin(law.psi)
    return cell_fractions(cells, BINS * BINS, law.log_weights, law.n_walkers)


def _bin(angle: np.ndarray) -> np.ndarray:
    scaled = (np.nan_to_num(angle) + np.pi) / (2 * np.pi) * BINS
    return np.floor(scaled).astype(np.int64) % BINS


def _both(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Return log-weights, and those of equal weights."""
    return samples.log_weights, np.where(np.isfinite(samples.log_weights), 0.0, -np.inf)


def _samples_law(samples: Samples, data: TrainingData, log_weights: np.ndarray) -> Ramachandran:
    return _law("samples", samples.positions, data, log_weights, samples.n_walkers)


def _law(
    label: str, positions: np.ndarray, data: TrainingData, log_weights: np.ndarray | None, n_walkers: int
) -> Ramachandran:
    angles = torsion_angles(positions, data.system.torsions)
    return Ramachandran(label, angles["phi"], angles["psi"], log_weights, n_walkers)
