"""Alanine dipeptide at 300 K without data from there: the runs, and the figures that others publish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CalledProcessError, Popen
from typing import Any

import numpy as np
import torch

from openmm_bg import statistics
from openmm_bg.analysis import (
    PHI_POSITIVE,
    Ramachandran,
    kl_divergence,
    torsion_angles,
    total_variation,
    total_variation_floor,
)
from openmm_bg.files import atomic_path
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.model_files import model_hash
from openmm_bg.reference import Reference, load_reference, load_umbrella_reference
from openmm_bg.stages import Stages
from openmm_bg.statistics import z_score
from openmm_bg.threads import THREADS_VARIABLE
from openmm_bg.units import thermal_energy

COMMAND = "python scripts/verify_state_of_the_art.py"
TEMPERATURE = 300.0
_CHUNK = 4096

Run = Callable[[list[str]], None]
"""Runs a command line of openmm-bg."""


def hour_commands(output: Path) -> dict[str, list[str]]:
    """Return the commands that make a generator for 300 K from nothing within an hour on two cores."""
    data, model, annealed = (str(output / name) for name in ("data", "model", "annealed"))
    return {
        "simulate": f"simulate alanine_dipeptide -T 600 --hot-start 1200 --frames 204800 -o {data}".split(),
        "train": f"train {data} -o {model} --layers 16 --steps 2500 --kl-weight 0".split(),
        "anneal": f"anneal {model} -o {annealed} -T 300 --data {data} --steps 8000".split(),
        "sample": f"sample {annealed} -T 300 -n 100000 --seed 1 -o {output / 'samples_300K.h5'}".split(),
    }


def run_commands(output: Path, commands: dict[str, list[str]], run: Run) -> Stages:
    """Run commands that are not finished yet, each of which continues where it was interrupted.

    Args:
        output: The directory of their outputs.
        commands: The commands by name.
        run: Runs one.

    Returns:
        The record with the wall time of each, over all calls.
    """
    output.mkdir(parents=True, exist_ok=True)
    stages = Stages(output, {name: " ".join(command) for name, command in commands.items()})
    for name, command in commands.items():
        done = output / f".{name}.done"
        if not done.exists():
            with stages.stage(name):
                run(command)
            done.write_text("")
    return stages


def run_side_by_side(
    output: Path, commands: dict[str, list[str]], start: Callable[[list[str], dict[str, str]], Popen]
) -> Stages:
    """Run commands that are not finished yet all at once, each on one thread, and on its own core if there is one.

    Args:
        output: The directory of their outputs.
        commands: The commands by name.
        start: Starts one with variables added to the environment.

    Returns:
        The record with the wall time of all together, over all calls.

    Raises:
        CalledProcessError: If one fails; the others are stopped then.
    """
    output.mkdir(parents=True, exist_ok=True)
    stages = Stages(output, {name: " ".join(command) for name, command in commands.items()})
    done = {name: output / f".{name}.done" for name in commands}
    missing = [name for name in commands if not done[name].exists()]
    variables = dict.fromkeys((THREADS_VARIABLE, "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    with stages.stage("side by side"):
        running: dict[str, Popen] = {}
        try:
            for k, name in enumerate(missing):
                running[name] = start(commands[name], variables)
                if len(cores) >= len(missing):
                    os.sched_setaffinity(running[name].pid, {cores[k]})
            for name, process in running.items():
                if process.wait():
                    raise CalledProcessError(process.returncode, process.args)
                done[name].write_text("")
        finally:
            for process in running.values():
                if process.poll() is None:
                    process.terminate()
                    process.wait()
    return stages


def many_samples(model: Path, n: int, seed: int, path: Path) -> dict[str, np.ndarray]:
    """Draw many samples and keep what figures need of them: phi, psi, log-weights, energies.

    Args:
        model: The model's directory.
        n: How many.
        seed: Seed of the draws.
        path: Where they are kept (.npz); read if these samples are there.
    """
    wanted = f"{model_hash(model)}, {n} samples, seed {seed}, {TEMPERATURE:g} K"
    if path.exists():
        with np.load(path) as arrays:
            if "of" not in arrays or str(arrays["of"]) != wanted:
                path.unlink()
    if not path.exists():
        generator = BoltzmannGenerator.load(model)
        draw = torch.Generator().manual_seed(seed)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in ("phi", "psi", "log_weights", "energy")}
        for start in range(0, n, _CHUNK):
            size = min(_CHUNK, n - start)
            positions, _, log_q = generator.flow.joint_sample(size, TEMPERATURE, generator=draw)
            reduced = generator.potential.energy(positions) / thermal_energy(TEMPERATURE)
            log_weights = torch.where(torch.isfinite(reduced), -reduced - log_q, -torch.inf)
            angles = torsion_angles(positions.numpy(), generator.system.torsions)
            for name in ("phi", "psi"):
                parts[name].append(angles[name])
            parts["log_weights"].append(log_weights.numpy())
            parts["energy"].append(reduced.numpy())
        with atomic_path(path) as temporary:
            joined = {name: np.concatenate(values) for name, values in parts.items()}
            np.savez(temporary, of=np.array(wanted), **joined)
    with np.load(path) as arrays:
        return dict(arrays)


def row(line: str, value: float, bound: str, holds: bool, **extra: Any) -> dict[str, Any]:
    """Return one row of the results."""
    found = {"line": line, "value": value, "stderr": None, "bound": bound, "holds": bool(holds)}
    return found | {"command": COMMAND, "seed": 1} | extra


def hour_rows(output: Path, stages: Stages) -> Iterator[dict[str, Any]]:
    """Judge the run of an hour."""
    summary = json.loads((output / "samples_300K.json").read_text())
    seconds = sum(stages.wall_seconds.values())
    name = "2 cores, from nothing"
    yield row(f"{name}: wall time with data (s)", seconds, "<= 3600", seconds <= 3600)
    ess = summary["ess"]
    yield row(f"{name}: ESS at 300 K, unclipped, 1e5 samples", ess, ">= 0.50", ess >= 0.5)
    yield row(f"{name}: ESS at 300 K (goal)", ess, ">= 0.80", ess >= 0.8, goal=True)
    counted = BoltzmannGenerator.load(output / "annealed").energy_evaluations
    total = sum(counted.values())
    yield row(f"{name}: energy evaluations", total, "reported", True, by_stage=counted)


def annealed_rows(
    samples: dict[str, np.ndarray], counted: dict[str, int], label: str
) -> Iterator[dict[str, Any]]:
    """Judge a generator by many samples at 300 K.

    Args:
        samples: What `many_samples` returned.
        counted: The model's energy evaluations by stage.
        label: The name of the generator in the rows.
    """
    log_weights, n = samples["log_weights"], len(samples["log_weights"])
    ess = statistics.effective_sample_size_estimate(log_weights)
    name = f"{label}: ESS at 300 K, unclipped"
    yield row(name, ess.value, ">= 0.90", ess.value >= 0.9, stderr=ess.stderr)
    yield row(f"{name} (goal)", ess.value, ">= 0.985", ess.value >= 0.985, stderr=ess.stderr, goal=True)
    clipped = statistics.effective_sample_size(log_weights, clip=1e-4)
    yield row(f"{label}: ESS at 300 K, top 1e-4 of the weights clipped", clipped, "reported", True)
    yield row(f"{label}: samples behind it", n, ">= 1e6", n >= 1_000_000)
    k = statistics.pareto_k(log_weights)
    yield row(f"{label}: Pareto k at 300 K", k, "< 0.5", k < 0.5)
    total = sum(counted.values())
    name = f"{label}: energy evaluations"
    yield row(name, total, "<= 1e8", total <= 1e8, by_stage=counted)
    yield row(f"{name} (goal)", total, "<= 2e7", total <= 2e7, goal=True)
    yield from _ramachandran_rows(samples, label)


def _ramachandran_rows(samples: dict[str, np.ndarray], label: str) -> Iterator[dict[str, Any]]:
    """Compare phi and psi with the reference that was made by parallel tempering."""
    reference: Reference = load_reference("alanine_dipeptide", TEMPERATURE)
    found = Ramachandran(label, samples["phi"], samples["psi"], log_weights=samples["log_weights"])
    one = found.population(PHI_POSITIVE)
    relative = one.stderr / one.value
    line = f"{label}: relative standard error of P(phi > 0)"
    yield row(line, relative, "<= 0.05", relative <= 0.05, p=one.value)
    for name, other in phi_references().items():
        z = z_score(one, other)
        line = f"{label}: P(phi > 0) at 300 K, difference from {name} in standard errors"
        yield row(line, z, "|z| <= 2.5", abs(z) <= 2.5, p=one.value, reference=other.value)
    distance = total_variation(found, reference.ramachandran, bins=50)
    floor = total_variation_floor(found, reference.ramachandran, bins=50)
    excess = distance - floor
    line = f"{label}: Ramachandran total variation, 50 x 50 bins, minus the split-half floor"
    yield row(line, excess, "<= 0.01", excess <= 0.01, distance=distance, floor=floor)
    unweighted = Ramachandran(label, samples["phi"], samples["psi"])
    for weighting, law in (("weighted", found), ("unweighted", unweighted)):
        published = total_variation(law, reference.ramachandran, bins=100)
        line = f"{label}: Ramachandran total variation as published, 100 x 100 bins, {weighting}"
        yield row(line, published, "reported", True)
        divergence = kl_divergence(reference.ramachandran, law)
        yield row(f"{label}: Ramachandran KL as published, {weighting}", divergence, "reported", True)


def phi_references() -> dict[str, statistics.Estimate]:
    """Return P(phi > 0) at 300 K by the references that know nothing of flows."""
    tempering = load_reference("alanine_dipeptide", TEMPERATURE).record["estimates"]["P(phi > 0)"]
    umbrella = load_umbrella_reference("alanine_dipeptide", TEMPERATURE).p_phi_positive()
    return {"parallel tempering": statistics.Estimate(**tempering), "umbrella sampling": umbrella}


def reference_rows() -> Iterator[dict[str, Any]]:
    """Compare the two references with each other."""
    references = phi_references()
    for name, estimate in references.items():
        relative = estimate.stderr / estimate.value
        line = f"{name}: relative standard error of P(phi > 0) at 300 K"
        yield row(line, relative, "<= 0.05", relative <= 0.05, p=estimate.value)
    z = z_score(*references.values())
    line = "P(phi > 0) at 300 K, parallel tempering against umbrella sampling, in standard errors"
    yield row(line, z, "|z| <= 2.5", abs(z) <= 2.5)
