"""Learned replica exchange of alanine dipeptide: two replicas in the place of a ladder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.analysis import PHI_POSITIVE, Ramachandran, torsion_angles
from openmm_bg.errors import InputError
from openmm_bg.exchange import read_exchange
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.model_files import model_hash
from openmm_bg.reproduction.state_of_the_art import TEMPERATURE, many_samples, phi_references, row
from openmm_bg.statistics import Estimate
from openmm_bg.training import load_data

_CLOSE = 0.1  # kT


@dataclass(frozen=True)
class LearnedExchange:
    """One run.

    Attributes:
        label: Its name in the rows.
        highest: The temperature [K] of the hot replica.
        bound: The least acceptance of swaps, or None if there is only a goal.
        goal: The acceptance that is aimed at.
        n_chains: Independent chains.
        n_iterations: Iterations of each.
        dynamics: The options of the dynamics in an iteration.
    """

    label: str
    highest: float
    bound: float | None
    goal: float
    n_chains: int
    n_iterations: int
    dynamics: str


VACUUM = LearnedExchange(
    "learned exchange, vacuum, 1000 to 300 K", 1000.0, 0.25, 0.6, 2, 40_000, "--steps 60"
)
SOLVENT = LearnedExchange(
    "learned exchange, OBC1, 600 to 300 K",
    600.0,
    None,
    0.8,
    2,
    50_000,
    "--steps 400 --timestep 0.002 --hydrogen-mass 4 --dynamics fused",
)


def vacuum_commands(output: Path) -> dict[str, list[str]]:
    """Return the commands that make a generator in vacuum, and a reference without any flow."""
    ladder = " ".join(f"--ladder {t}" for t in (378, 476, 600, 756, 952))
    data, model, annealed, reference = (output / n for n in ("data", "model", "annealed", "reference"))
    name = "alanine_dipeptide_vacuum"
    lines = {
        "simulate": f"simulate {name} -T 1000 --frames 102400 -o {data}",
        "train": f"train {data} -o {model} --layers 16 --steps 4000 --kl-weight 0",
        "anneal": f"anneal {model} -T 300 --data {data} --steps 8000 --cooled-share 0.3 -o {annealed}",
        "reference": f"simulate {name} -T 300 {ladder} --hot-start 952 --walkers 128 --frames 716800 "
        f"--interval 200 --burn-in 20000 --seed 3 -o {reference}",
    }
    return {stage: line.split() for stage, line in lines.items()}


def exchange_command(run: LearnedExchange, model: Path, storage: Path, seed: int) -> list[str]:
    """Return the command of one of a run's chains."""
    line = (
        f"exchange {model} -o {storage} --sampler learned --temperature-min {TEMPERATURE:g} "
        f"--temperature-max {run.highest:g} --iterations {run.n_iterations} {run.dynamics} --seed {seed} "
        "--checkpoint-interval 200"
    )
    return line.split()


def storages(run: LearnedExchange, output: Path) -> dict[int, Path]:
    """Return the netCDF file of each of a run's chains, by its seed."""
    return {seed: output / f"exchange_{seed}.nc" for seed in range(1, run.n_chains + 1)}


def free_energy_difference(p: Estimate) -> Estimate:
    """Return the free energy [kT] of phi > 0 relative to phi < 0, from the probability of the former.

    It is infinite, with an unknown error, if one of them has not been seen.
    """
    if not 0.0 < p.value < 1.0:
        return Estimate(np.inf if p.value <= 0.0 else -np.inf, np.nan)
    value = float(np.log((1.0 - p.value) / p.value))
    return Estimate(value, float(p.stderr / (p.value * (1.0 - p.value))))


def vacuum_reference(output: Path) -> Estimate:
    """Return P(phi > 0) at 300 K in vacuum, by parallel tempering without any flow; the first tenth is left out."""
    data = load_data(output / "reference")
    n_walkers = int(data.record["n_walkers"])
    first = len(data.positions) // n_walkers // 10 * n_walkers
    angles = torsion_angles(data.positions[first:], data.system.torsions)
    law = Ramachandran("reference", angles["phi"], angles["psi"], n_walkers=n_walkers)
    return law.population(PHI_POSITIVE)


def rows(
    run: LearnedExchange, model: Path, output: Path, reference: Estimate, n_samples: int
) -> Iterator[dict[str, Any]]:
    """Judge a run.

    Args:
        run: The run.
        model: The model's directory.
        output: The directory of the run's netCDF files, where the model's own samples are kept, too.
        reference: P(phi > 0) at 300 K without any flow.
        n_samples: How many samples of the model are reweighted.

    Raises:
        InputError: If the chains are of another model.
    """
    records = [read_exchange(storage) for storage in storages(run, output).values()]
    if any(record.settings["model_hash"] != model_hash(model) for record in records):
        raise InputError(
            f"{output} holds chains of another model than {model}; remove it, or name that model."
        )
    share = float(np.mean([record.exchange_acceptance[0] for record in records]))
    errors = [record.exchange_acceptance_stderr[0] for record in records]
    stderr = float(np.linalg.norm(errors) / len(records))
    line = f"{run.label}: accepted swaps, {len(records)} x {run.n_iterations} iterations"
    if run.bound is not None:
        yield row(line, share, f">= {run.bound}", share >= run.bound, stderr=stderr)
    yield row(f"{line} (goal)", share, f">= {run.goal}", share >= run.goal, stderr=stderr, goal=True)
    first = run.n_iterations // 50
    torsions = BoltzmannGenerator.load(model).system.torsions
    chains = [record.torsions(torsions) for record in records]
    phi, psi = (np.stack([chain[n][first:, 0] for chain in chains], 1).ravel() for n in ("phi", "psi"))
    chain = Ramachandran(run.label, phi, psi, n_walkers=len(chains))
    drawn = many_samples(model, n_samples, 2, output / "samples.npz")
    weighted = Ramachandran(run.label, drawn["phi"], drawn["psi"], log_weights=drawn["log_weights"])
    expected = free_energy_difference(reference)
    for name, law in (("counting", chain), ("reweighting", weighted)):
        found = free_energy_difference(law.population(PHI_POSITIVE))
        difference = found.value - expected.value
        error = float(np.hypot(found.stderr, expected.stderr))
        yield row(
            f"{run.label}: free energy of the phi basins by {name}, difference from the reference (kT)",
            difference,
            f"|difference| <= {_CLOSE}",
            abs(difference) <= _CLOSE,
            stderr=error,
            found=found.value,
            reference=expected.value,
        )


def solvent_reference() -> Estimate:
    """Return P(phi > 0) at 300 K in OBC1, by umbrella sampling."""
    return phi_references()["umbrella sampling"]
