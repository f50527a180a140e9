"""Coarse-graining of chignolin at 350 K: atoms put back on given beads, and the whole chain, against dynamics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_bg import statistics
from openmm_bg.coarse_graining.consistency import ConsistencyLine, consistency_table, write_table
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.errors import InputError
from openmm_bg.io import load_samples
from openmm_bg.observables.names import Observable, observable
from openmm_bg.reproduction.backmapping_quality import (
    Quality,
    quality,
    side_chain_torsions,
    side_chain_variation,
    with_median_geometry,
)
from openmm_bg.reproduction.coarse_graining import deviation_row, row
from openmm_bg.samples import UNRELIABLE_PARETO_K, Samples
from openmm_bg.systems import MolecularSystem, load
from openmm_bg.training import load_data
from openmm_bg.training.data import TrainingData
from openmm_bg.transforms import FibreCoordinates

N_FRAMES = 40_000
TRIES = 2
"""Configurations of the same beads, of which one is chosen by its weight, if the beads are given."""

WHOLE_TRIES = 16
"""The same if beads are sampled: their weights are the steadier the more there are."""

SURFACES = ("rmsd:backbone", "distance:ASP3-N,THR8-O", "rg")
"""The observables whose free energies are compared."""

NATIVE_RMSD = 0.2
"""Configurations whose backbone is within this distance [nm] of the native one are in the native basin."""

_N_GIVEN = 10_000  # frames, whose beads are given to the flow
_DRAWS = 4  # of each of them
_EFFECTIVE = 100  # samples, of which averages over the native basin have errors that mean something
_SIGMA = 3.5
_FREE, _VARIATION, _SHIFT = 0.99, 0.05, 3.0


def data_commands(output: Path) -> dict[str, list[str]]:
    """Return the command that makes the data."""
    return {"data": ["simulate", "chignolin", "--frames", str(N_FRAMES), "-o", str(output / "data")]}


def commands(output: Path) -> dict[str, list[str]]:
    """Return the commands that make a model with beads on the backbone, and its samples."""
    data, model, samples = output / "data", output / "model", output / "samples.h5"
    return {
        "train": [
            *["coarse-grain", str(data), "-o", str(model), "--atoms", "name N CA C"],
            *["--flow", "autoregressive", "--layers", "4", "--bins", "5", "--hidden-features", "32"],
            *["--steps", "2000", "--batch-size", "256", "--own-start", "1"],
            *["--dispersion-weight", "0.02", "--dispersion-range", "100"],
            *["--frozen-flow", "--rounds", "40", "--round-samples", "640", "--round-tries", "4"],
            *["--round-steps", "500", "--round-learning-rate", "5e-4"],
            *["--walkers", "64", "--rungs", "3", "--interval", "10", "--burn-in", "100"],
        ],
        "sample": [
            *["backmap", str(model), "-o", str(samples), "-n", "12800"],
            *["--tries", str(WHOLE_TRIES), "--seed", "1"],
        ],
    }


def rows(output: Path, tables: Path | None = None) -> Iterator[dict[str, Any]]:
    """Judge the model that the commands have made.

    Args:
        output: Where they have left data, model and samples.
        tables: Where to write the table of observables, if anywhere.
    """
    data = load_data(output / "data")
    model = CoarseGrainedGenerator.load(output / "model")
    convergence = data.record.get("start_comparison")
    for found in given_beads_rows(model, data):
        yield found | {"convergence": convergence}
    for found in whole_chain_rows(load_samples(output / "samples.h5", data.system), data, tables):
        yield found | {"convergence": convergence}


def given_beads_rows(model: CoarseGrainedGenerator, data: TrainingData) -> Iterator[dict[str, Any]]:
    """Judge the configurations that a model makes of the beads of molecular dynamics.

    Each is chosen by its weight among several of the same beads; averages over them have no weights. Beside each
    figure is that of a single try, that of bonds and angles at the medians of the data, and that of the frames
    alone that were held out when the model was trained. These are the last of each walker, and far fewer: how much
    side chains of the dynamics itself differ there from the frames before is given too, and how much those of two
    random halves of the frames differ, which is more than chance makes of all.
    """
    import mdtraj

    fraction = model.record["settings"]["validation_fraction"]
    first = int(len(data.positions) * (1 - fraction))
    chosen = _thinned(data)
    ours, published = _qualities(model, data, chosen, TRIES)
    single, _ = _qualities(model, data, chosen, 1)
    held_out, _ = _qualities(model, data, np.arange(first, len(data.positions)), TRIES)
    torsions = side_chain_torsions(mdtraj.Topology.from_openmm(data.system.topology))
    drift = side_chain_variation(data.positions[first:], data.positions[:first], torsions)
    halves = np.array_split(np.random.default_rng(1).permutation(chosen), 2)
    noise = side_chain_variation(*(data.positions[half] for half in halves), torsions)
    yield from quality_rows(ours, published, held_out, drift, single, noise)


def _thinned(data: TrainingData) -> np.ndarray:
    """Return the indices of frames at even times, of all walkers at each."""
    n_walkers = int(data.record["n_walkers"])
    n_times = len(data.positions) // n_walkers
    times = np.linspace(0, n_times - 1, max(1, min(n_times, _N_GIVEN // n_walkers))).round().astype(np.int64)
    return (times[:, None] * n_walkers + np.arange(n_walkers)).ravel()


def _qualities(
    model: CoarseGrainedGenerator, data: TrainingData, chosen: np.ndarray, n_tries: int
) -> tuple[Quality, Quality | None]:
    """Return the quality of draws of the beads of some frames, and of the same with median bonds and angles."""
    reference, energies = data.positions[chosen], data.energies[chosen]
    drawn = model.samples_of(np.repeat(reference, _DRAWS, axis=0), seed=1, n_tries=n_tries)
    ours = quality(data.system, drawn.positions, drawn.energies, reference, energies)
    if not isinstance(model.flow.coordinates, FibreCoordinates):
        return ours, None
    frozen = with_median_geometry(model.flow.coordinates, model.coarse_map, drawn.positions, reference)
    return ours, quality(data.system, frozen, _energies(model, frozen), reference, energies)


def quality_rows(
    ours: Quality,
    published: Quality | None,
    held_out: Quality | None = None,
    drift: dict[str, float] | None = None,
    single: Quality | None = None,
    noise: dict[str, float] | None = None,
) -> Iterator[dict[str, Any]]:
    """Judge a `Quality`, with others beside it.

    Args:
        ours: Of the beads of the reference.
        published: The same with median bonds and angles.
        held_out: Of beads of frames that the model has never seen.
        drift: The total variation of side chains between those frames and the others.
        single: Of a single try of the beads of the reference.
        noise: The total variation of side chains between two random halves of the reference.
    """

    def beside(figure: Any) -> dict[str, Any]:
        others = {"one_try": single, "median_bonds_and_angles": published, "held_out_frames": held_out}
        figures = {name: None if other is None else figure(other) for name, other in others.items()}
        return {"n": ours.n, "n_tries": TRIES, **figures}

    name = "chignolin, beads of the reference"
    yield row(
        f"{name}: draws of another handedness, or of impossible bonds, that were refused",
        ours.n_outside / ours.n,
        "reported",
        True,
        **beside(lambda q: q.n_outside / q.n),
    )
    wrong = ours.n_wrong_chirality
    yield row(
        f"{name}: configurations with a wrong chirality",
        wrong,
        "0",
        wrong == 0,
        **beside(lambda q: q.n_wrong_chirality),
    )
    free = ours.free_of_contacts
    yield row(
        f"{name}: without heavy atoms that are not bonded and nearer than 0.15 nm",
        free,
        f">= {_FREE}",
        free >= _FREE,
        **beside(lambda q: q.free_of_contacts),
    )
    worst = max(ours.side_chains, key=ours.side_chains.__getitem__)
    variation = ours.side_chains[worst]
    yield row(
        f"{name}: largest total variation of {len(ours.side_chains)} chi1 and chi2 from the reference's",
        variation,
        f"<= {_VARIATION}",
        variation <= _VARIATION,
        torsion=worst,
        all=ours.side_chains,
        held_out_from_other_frames=drift,
        between_random_halves=noise,
        **beside(lambda q: q.side_chains),
    )
    shift = ours.energy_shift
    yield row(
        f"{name}: median energy, difference from the reference in standard deviations of the latter",
        shift,
        f"|d| <= {_SHIFT:g}",
        abs(shift) <= _SHIFT,
        median=ours.median_energy,
        reference=ours.reference_median,
        **beside(lambda q: q.energy_shift),
    )


def whole_chain_rows(
    samples: Samples, data: TrainingData, tables: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Judge samples of the whole model: beads from the bead potential, atoms from the flow, with weights.

    Args:
        samples: The samples.
        data: Molecular dynamics.
        tables: Where to write the table of observables, if anywhere.
    """
    name = "chignolin, whole chain"
    ess, stderr = statistics.effective_sample_size_estimate(samples.log_weights)
    yield row(f"{name}: ESS of the weights", ess, "reported", True, stderr=stderr, n_samples=len(samples))
    smoothed = statistics.effective_sample_size(samples.pareto_smoothed_log_weights)
    yield row(f"{name}: ESS of the Pareto-smoothed weights", smoothed, "reported", True)
    yield row(f"{name}: Pareto k", samples.pareto_k(), "reported", True)
    made = np.isfinite(samples.reduced_energy)
    shift = (np.median(samples.energies[made]) - np.median(data.energies)) / np.std(data.energies)
    yield row(
        f"{name}: median energy without weights, difference from the reference in its standard deviations",
        float(shift),
        "reported",
        True,
    )
    table = consistency_table(samples, data)
    if tables is not None:
        write_table(table, tables / "chignolin.csv")
    yield deviation_row(f"{name}: largest deviation of {len(table)} moments from the reference", table, None)
    native = native_table(samples, data)
    n_effective, k = native_worth(samples)
    if n_effective < _EFFECTIVE or k > UNRELIABLE_PARETO_K or not native:
        yield row(
            f"{name}: observables of the native basin",
            n_effective,
            f"no statement: fewer than {_EFFECTIVE} effective samples there, or a Pareto k above "
            f"{UNRELIABLE_PARETO_K}",
            True,
            pareto_k=k,
        )
        return
    yield deviation_row(
        f"{name}: largest deviation of {len(native)} moments of the native basin", native, _SIGMA
    )


def native_worth(samples: Samples) -> tuple[float, float]:
    """Return how many samples those in the native basin are worth, and the Pareto k of their weights."""
    here = _in_native_basin(samples)
    if not here.any():
        return 0.0, np.inf
    log_weights = np.where(here, samples.log_weights, -np.inf)
    n_effective = statistics.effective_sample_size(log_weights) * len(log_weights)
    return n_effective, statistics.pareto_k(log_weights[here])


def _in_native_basin(samples: Samples) -> np.ndarray:
    """Tell which samples have a weight and are in the native basin, with shape=(n,)."""
    if samples.system is None:
        raise InputError("Samples without a system have no native basin.")
    distance = surfaces(samples.system)[0](samples.positions)
    return np.isfinite(samples.log_weights) & (distance < NATIVE_RMSD)


def surfaces(system: MolecularSystem) -> list[Observable]:
    """Return the observables of the free-energy surfaces."""
    import mdtraj

    topology = mdtraj.Topology.from_openmm(system.topology)
    return [observable(name, topology, native_structure()) for name in SURFACES]


def native_structure() -> np.ndarray:
    """Return the native structure [nm] with shape=(n_atoms, 3), which a simulation's directory does not keep."""
    return load("chignolin").starts["native"]


def native_table(samples: Samples, data: TrainingData) -> list[ConsistencyLine]:
    """Return the first two moments of `SURFACES` in the native basin, of samples with weights and of the data.

    Averages over the basin alone: configurations elsewhere have no weight. Empty if nothing is there.
    """
    functions = surfaces(data.system)
    ours = {one.name: one(samples.positions) for one in functions}
    theirs = {one.name: one(data.positions) for one in functions}
    here = _in_native_basin(samples)
    there = theirs[SURFACES[0]] < NATIVE_RMSD
    if not here.any() or not there.any():
        return []
    weighted = np.where(here, samples.log_weights, -np.inf), samples.n_walkers
    plain = np.where(here, 0.0, -np.inf), samples.n_walkers
    dynamics = np.where(there, 0.0, -np.inf), int(data.record["n_walkers"])
    lines = []
    for one in functions:
        values, reference = np.where(here, ours[one.name], 0.0), theirs[one.name]
        for moment in (1, 2):
            estimates = [statistics.weighted_mean(values**moment, *how) for how in (weighted, plain)]
            estimates.append(statistics.weighted_mean(reference**moment, *dynamics))
            lines.append(ConsistencyLine(one.name, one.unit, moment, *chain.from_iterable(estimates)))
    return lines


def _energies(model: CoarseGrainedGenerator, positions: np.ndarray) -> np.ndarray:
    made = np.isfinite(positions).all(axis=(1, 2))
    energies = np.full(len(positions), np.inf)
    if model.potential is not None and made.any():
        with torch.no_grad():
            energies[made] = model.potential.energy(torch.tensor(positions[made])).double().numpy()
    return energies
