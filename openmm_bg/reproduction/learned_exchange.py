"""Learned replica exchange of alanine dipeptide: two replicas in the place of a ladder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.analysis import PHI_POSITIVE, Ramachandran, torsion_angles
from openmm_bg.exchange import read_exchange
from openmm_bg.generator import BoltzmannGenerator
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
    """

    label: str
    highest: float
    bound: float | None
    goal: float


VACUUM = LearnedExchange("learned exchange, vacuum, 1000 to 300 K", 1000.0, 0.25, 0.6)
SOLVENT = LearnedExchange("learned exchange, OBC1, 600 to 300 K", 600.0, None, 0.8)


def vacuum_commands(output: Path) -> dict[str, list[str]]:
    """Return the commands that make a generator in vacuum, and a reference without any flow."""
    ladder = " ".join(f"--ladder {t}" for t in (378, 476, 600, 756, 952))
    data, model, annealed, reference = (output / n for n in ("data", "model", "annealed", "reference"))
    name = "alanine_dipeptide_vacuum"
    lines = {
        "simulate": f"simulate {name} -T 1000 --frames 102400 -o {data}",
        "train": f"train {data} -o {model} --steps 3000 --kl-weight 0",
        "anneal": f"anneal {model} -T 300 --data {data} --steps 3000 -o {annealed}",
        "reference": f"simulate {name} -T 300 {ladder} --hot-start 952 --walkers 128 --frames 716800 "
        f"--burn-in 20000 --seed 3 -o {reference}",
    }
    return {stage: line.split() for stage, line in lines.items()}


def exchange_command(run: LearnedExchange, model: Path, storage: Path, n_iterations: int) -> list[str]:
    """Return the command of a run."""
    line = (
        f"exchange {model} -o {storage} --sampler learned --temperature-min {TEMPERATURE:g} "
        f"--temperature-max {run.highest:g} --iterations {n_iterations} --steps 20 --checkpoint-interval 200"
    )
    return line.split()


def free_energy_difference(p: Estimate) -> Estimate:
    """Return the free energy [kT] of phi > 0 relative to phi < 0, from the probability of the former."""
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
    run: LearnedExchange, model: Path, storage: Path, reference: Estimate, samples: Path, n_samples: int
) -> Iterator[dict[str, Any]]:
    """Judge a run.

    Args:
        run: The run.
        model: The model's directory.
        storage: The run's netCDF file.
        reference: P(phi > 0) at 300 K without any flow.
        samples: Where the model's own samples are kept, for reweighting.
        n_samples: How many of them.
    """
    record = read_exchange(storage)
    share, stderr = float(record.exchange_acceptance[0]), float(record.exchange_acceptance_stderr[0])
    line = f"{run.label}: accepted swaps, {record.n_iterations} iterations"
    if run.bound is not None:
        yield row(line, share, f">= {run.bound}", share >= run.bound, stderr=stderr)
    yield row(f"{line} (goal)", share, f">= {run.goal}", share >= run.goal, stderr=stderr, goal=True)
    angles = record.torsions(BoltzmannGenerator.load(model).system.torsions)
    first = record.n_iterations // 50
    chain = Ramachandran(run.label, angles["phi"][first:, 0], angles["psi"][first:, 0])
    drawn = many_samples(model, n_samples, 2, samples)
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
