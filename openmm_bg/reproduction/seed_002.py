"""The figures of seed 002 remade: coarse-graining and backmapping with weights.

Source: Rotskoff (2023); Chennakesavalu, Toomer and Rotskoff, arXiv 2210.07882. Here of alanine dipeptide (300 K)
and chignolin (350 K).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from openmm_bg import statistics
from openmm_bg.analysis import torsion_pairs
from openmm_bg.coarse_graining.consistency import ConsistencyLine, consistency_table
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.files import atomic_write_json, provenance
from openmm_bg.io import load_samples
from openmm_bg.observables.figures import plot_profiles, plot_surfaces
from openmm_bg.observables.names import Observable, observable
from openmm_bg.observables.tables import write_profiles, write_surfaces
from openmm_bg.plotting import plot_ramachandran, write_torsions_csv
from openmm_bg.reproduction import chignolin, coarse_graining
from openmm_bg.reproduction.seed_002_figures import Folder, plot_densities, plot_map
from openmm_bg.reproduction.seed_002_sets import (
    FrameSet,
    bead_extents,
    bead_torsions,
    check_deeptime,
    energy_profiles,
    frame_sets,
    profiles_of,
    side_chain_profiles,
    slow_observables,
    surfaces_of,
)
from openmm_bg.reproduction.state_of_the_art import Run, run_commands
from openmm_bg.samples import UNRELIABLE_PARETO_K, Samples
from openmm_bg.stages import Stages
from openmm_bg.training import load_data
from openmm_bg.training.data import TrainingData

LABEL = "selection map"
"""The map of alanine dipeptide."""

ALANINE = ("rg", "distance:ACE1-O,NME3-N")
"""The observables of alanine dipeptide whose free energies are compared."""

QUICK = {
    "simulate": {"--frames": 480, "--walkers": 16, "--burn-in": 500, "--interval": 20},
    "coarse-grain": {
        **{"--steps": 60, "--batch-size": 64, "--layers": 2, "--hidden-features": 16},
        **{"--energy-features": 16, "--rounds": 1, "--round-steps": 20, "--round-samples": 96},
        **{"--walkers": 32, "--rungs": 2, "--burn-in": 20, "--interval": 5},
    },
    "backmap": {"-n": 480},
}
"""Options of a quick run by command of openmm-bg."""

_QUICK_GIVEN = 320


def quick_command(command: list[str]) -> list[str]:
    """Return a command line of openmm-bg with the sizes of a quick run."""
    command = list(command)
    for option, value in QUICK[command[0]].items():
        if option in command:
            command[command.index(option) + 1] = str(value)
        else:
            command += [option, str(value)]
    return command


def run_command(arguments: list[str]) -> None:
    """Run a command line of openmm-bg in a process of its own.

    Raises:
        CalledProcessError: If it fails.
    """
    print("openmm-bg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "openmm_bg.cli", *arguments], check=True)


def run_alanine(
    work: Path,
    output: Path,
    *,
    quick: bool = False,
    run: Run = run_command,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Remake the figures of alanine dipeptide, or go on where an earlier call was stopped.

    Args:
        work: The directory of simulations, models and samples; what is finished there is not made again.
        output: The directory of the figures, which gets ``summary.json``, too.
        quick: Run all in minutes; such figures prove nothing.
        run: Runs a command line of openmm-bg.
        say: Called with a line before the figures are drawn.

    Returns:
        The summary.

    Raises:
        InputError: If a directory holds the results of other settings.
    """
    seconds = _run_commands(work / "simulations", coarse_graining.data_commands(work), run, quick)
    commands = coarse_graining.model_commands(work, LABEL)
    seconds |= _run_commands(work / LABEL.replace(" ", "_"), commands, run, quick)
    stages = _stages(work, output, quick, say)
    with stages.stage("figures", "Figures of alanine dipeptide"):
        name = LABEL.split()[0]
        data = load_data(work / "reference")
        samples = load_samples(work / f"samples_{name}.h5", data.system)
        model = CoarseGrainedGenerator.load(work / f"model_{name}")
        folder = Folder(output, _caption(data, quick))
        kinds = bead_torsions(model.coarse_map, data.system.torsions)
        observables = [_observable(name, data) for name in ALANINE]
        draw_common(folder, model, data, frame_sets(samples, data), kinds, observables)
    return write_summary(folder, samples, data, seconds | stages.wall_seconds, quick)


def run_chignolin(
    work: Path,
    output: Path,
    *,
    quick: bool = False,
    run: Run = run_command,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Remake the figures of chignolin; arguments, result and errors as of `run_alanine`.

    Raises:
        InputError: Also if deeptime is not installed, before anything is run.
    """
    check_deeptime()
    work = work / "chignolin"
    seconds = _run_commands(work / "simulation", chignolin.data_commands(work), run, quick)
    seconds |= _run_commands(work, chignolin.commands(work), run, quick)
    stages = _stages(work, output, quick, say)
    with stages.stage("figures", "Figures of chignolin"):
        data = with_native(load_data(work / "data"))
        samples = load_samples(work / "samples.h5", data.system)
        model = CoarseGrainedGenerator.load(work / "model")
        folder = Folder(output, _caption(data, quick))
        sets = frame_sets(samples, data)
        draw_common(
            folder, model, data, sets, bead_extents(model.coarse_map.n_beads), chignolin.surfaces(data.system)
        )
        slow = draw_slow_components(folder, data, sets)
    with stages.stage("side chains", "Backmapping of the beads of the reference"):
        n_given = {"n_given": _QUICK_GIVEN} if quick else {}
        panels = side_chain_profiles(
            model, data, work / "side_chains.npz", n_tries=chignolin.TRIES, **n_given
        )
        table = folder.save(plot_densities(panels), "side_chains")
        write_profiles([line for panel in panels for line in panel], table)
    return write_summary(folder, samples, data, seconds | stages.wall_seconds, quick, slow_components=slow)


PARTS: dict[str, Callable[..., dict[str, Any]]] = {"alanine": run_alanine, "chignolin": run_chignolin}
"""The molecules of seed 002."""


def with_native(data: TrainingData) -> TrainingData:
    """Return data of chignolin whose system has the native structure; a simulation's directory does not keep it."""
    if "native" in data.system.starts:
        return data
    return replace(data, system=replace(data.system, starts={"native": chignolin.native_structure()}))


def draw_common(
    folder: Folder,
    model: CoarseGrainedGenerator,
    data: TrainingData,
    sets: list[FrameSet],
    bead_kinds: tuple[Observable, Observable],
    observables: list[Observable],
) -> None:
    """Draw the figures that both molecules have.

    Args:
        folder: Where to.
        model: The model.
        data: The reference.
        sets: What `frame_sets` returned.
        bead_kinds: Observables of the beads, for their free-energy surface.
        observables: Observables of the atoms, for free energies along them.
    """
    system, weights = data.system, model.coarse_map.weights.numpy()
    reference = system.starts.get("native", system.positions)
    folder.save(plot_map(reference, system.bonds, weights), "map")
    in_beads = surfaces_of([one.beads(model.coarse_map) for one in sets], bead_kinds)
    write_surfaces(in_beads, folder.save(plot_surfaces(in_beads), "beads"))
    for residue, names in torsion_pairs(system.torsions).items():
        panels = [one.ramachandran(system.torsions, names) for one in sets]
        suffix = "_" + residue.replace("(", "").replace(")", "").replace(" ", "_") if residue else ""
        before = f"Residue {residue}. " if residue else ""
        table = folder.save(plot_ramachandran(panels), f"ramachandran{suffix}", before)
        write_torsions_csv(panels, table)
    lines = [profiles_of(sets, kind) for kind in observables]
    table = folder.save(plot_profiles(lines), "profiles")
    write_profiles([line for panel in lines for line in panel], table)
    energies = energy_profiles(sets)
    write_profiles(energies, folder.save(plot_densities([energies]), "energies"))


def draw_slow_components(folder: Folder, data: TrainingData, sets: list[FrameSet]) -> dict[str, Any]:
    """Draw the free energy of the two slowest components, and return their record."""
    import mdtraj

    topology = mdtraj.Topology.from_openmm(data.system.topology)
    kinds, found = slow_observables(sets[0], topology, data.system.starts["native"])
    slow = surfaces_of(sets, kinds)
    write_surfaces(slow, folder.save(plot_surfaces(slow), "slow_components"))
    return {"lag_frames": found.lag, "autocorrelations": found.autocorrelations}


def write_summary(
    folder: Folder,
    samples: Samples,
    data: TrainingData,
    seconds: dict[str, float],
    quick: bool,
    **extra: Any,
) -> dict[str, Any]:
    """Write ``summary.json`` into the folder of the figures, and return it."""
    ess, stderr = statistics.effective_sample_size_estimate(samples.log_weights)
    k = samples.pareto_k()
    table = consistency_table(samples, data)

    def largest(deviation: Callable[[ConsistencyLine], float]) -> dict[str, Any]:
        worst = max(table, key=lambda line: abs(deviation(line)))
        return {"value": abs(deviation(worst)), "observable": worst.name, "moment": worst.moment}

    summary = {
        "molecule": data.system.name,
        "temperature": data.temperature,
        "quick": quick,
        "n_samples": len(samples),
        "n_without_weight": samples.n_out_of_domain + samples.n_nonfinite,
        "n_walkers": samples.n_walkers,
        "ess": ess,
        "ess_stderr": stderr,
        "pareto_k": k,
        "weights_are_reliable": bool(k <= UNRELIABLE_PARETO_K),
        "n_moments": len(table),
        "largest_deviation": largest(lambda line: line.deviation),
        "largest_deviation_without_weights": largest(lambda line: line.unweighted_deviation),
        "reference_frames": len(data.positions),
        "start_comparison": data.record.get("start_comparison"),
        "figures": folder.names,
        "caption": folder.caption,
        "seconds": seconds,
        **extra,
        "record": provenance(seed=1, samples=samples.record),
    }
    atomic_write_json(folder.path / "summary.json", summary)
    return summary


def _run_commands(output: Path, commands: dict[str, list[str]], run: Run, quick: bool) -> dict[str, float]:
    if quick:
        commands = {name: quick_command(command) for name, command in commands.items()}
    return run_commands(output, commands, run).wall_seconds


def _stages(work: Path, output: Path, quick: bool, say: Callable[[str], None]) -> Stages:
    return Stages(output, {"work": str(work), "quick": quick}, say)


def _caption(data: TrainingData, quick: bool) -> str:
    """Return what stands above the figures: the molecule, and whether its reference has converged."""
    name = data.system.name.replace("_", " ")
    parts = [f"{name[:1].upper()}{name[1:]} at {data.temperature:g} K."]
    if quick:
        parts.insert(0, "A quick run, which proves nothing.")
    if comparison := data.record.get("start_comparison"):
        parts.append(f"Molecular dynamics: {comparison['statement']}.")
    elif data.system.starts:
        parts.append("Molecular dynamics: all walkers began from one start, so convergence is not known.")
    return " ".join(parts)


def _observable(name: str, data: TrainingData) -> Observable:
    import mdtraj

    return observable(name, mdtraj.Topology.from_openmm(data.system.topology))
