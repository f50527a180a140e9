"""Measure the expensive acceptance figures of potentials and batched dynamics: docs/results/potentials.json.

Resumable: each check writes its rows as soon as it is done, and is not run again unless --redo names it.

    speed-SYSTEM   energies and forces a second over those of OpenMM (benchmark_potential.py)
    oscillators    batched Langevin dynamics of harmonic oscillators against theory
    dynamics-T     batched Langevin dynamics of alanine dipeptide at T against OpenMM's integrator
    tempering      batched parallel tempering against the reference that comes with the package
    hmc            hybrid Monte Carlo against Langevin dynamics of a short time step

Example: python scripts/verify_potentials.py --only speed-alanine-obc1 tempering
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_peers import Bench
from benchmark_potential import ACCEPTANCE, BATCHES, describe
from verify_walkers import INTERVAL, Alanine, Effort, OpenMMWalkers

from openmm_bg import TorchPotential
from openmm_bg.analysis import Ramachandran, torsion_angles
from openmm_bg.cli.console import say
from openmm_bg.comparison import AGREEMENT, Ensemble, compare
from openmm_bg.files import atomic_write_json
from openmm_bg.simulation import HybridMonteCarlo, LangevinDynamics
from openmm_bg.statistics import Estimate, z_score
from openmm_bg.units import BOLTZMANN_CONSTANT, thermal_energy

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "potentials.json"
WAVE_NUMBERS = (50.0, 500.0, 1500.0, 3000.0)  # 1/cm
_LIGHT = 2.99792458e-2  # cm/ps


def entry(line: str, value: float, bound: str, holds: bool, **extra: Any) -> dict[str, Any]:
    """Return one row of the results."""
    return {"line": line, "value": value, "stderr": None, "bound": bound, "holds": bool(holds)} | extra


def agreement(line: str, found: Estimate, expected: Estimate, **extra: Any) -> dict[str, Any]:
    """Return a row that says by how many standard errors two figures differ."""
    z = z_score(found, expected)
    extra |= {"found": list(found), "expected": list(expected)}
    return entry(
        f"{line}: difference in standard errors", z, f"|z| <= {AGREEMENT}", abs(z) <= AGREEMENT, **extra
    )


def control(line: str, found: Estimate, expected: Estimate) -> dict[str, Any]:
    """Return a row of a negative control: two figures that must differ."""
    z = z_score(found, expected)
    extra = {"found": list(found), "expected": list(expected), "control": True}
    return entry(f"negative control, {line}", z, f"|z| > {AGREEMENT}", abs(z) > AGREEMENT, **extra)


def grouped_mean(values: np.ndarray) -> Estimate:
    """Return the mean of values with shape=(n_groups, ...) and its error from the scatter of independent groups."""
    means = values.reshape(len(values), -1).mean(axis=1)
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))))


def moments(energies: np.ndarray) -> dict[str, Estimate]:
    """Return mean and variance of energies with shape=(n_groups, ...), independent groups."""
    mean = grouped_mean(energies)
    # Its own error enters the variance in second order only.
    return {"mean": mean, "variance": grouped_mean((energies - mean.value) ** 2)}


# Speed


def check_speed(name: str, effort: Effort) -> list[dict[str, Any]]:
    """Compare the fused potential with OpenMM on one system of the benchmark."""
    bench = Bench(name, effort.threads, 3, tensors=False)
    bench.sweep(BATCHES, True, lambda text: effort.advance(text, 0, 1))
    bench.repeats = 15 if effort.short == 1 else 3
    ratios = bench.ratios(lambda text: effort.advance(text, 0, 1))
    errors = {peer.name: bench.errors[peer.name] for peer in bench.peers}
    bench.close()
    rows = []
    for system, over, least, goal in ACCEPTANCE:
        if system != name:
            continue
        ratio = dict(ratios[over])
        say(describe(name, over, ratio, least, goal))
        value, line = ratio.pop("value"), f"{name}: energies and forces a second, fused over {over}"
        ratio |= {"threads": effort.threads, "seed": 0}
        rows.append(entry(line, value, f">= {least}", value >= least, **ratio))
        if goal is not None:
            rows.append(entry(f"{line} (goal)", value, f">= {goal}", value >= goal, goal=True, **ratio))
    double = dict(ratios["Reference, float64"])
    line = f"{name}: the same in double precision, fused over one Reference Context"
    value = double.pop("value")
    rows.append(entry(line, value, "> 1", value > 1, **double, threads=effort.threads, seed=0))
    for peer, bound in (("torch fused float32", 1e-4), ("torch fused float64", 1e-6)):
        line = f"{name}: {peer}, thermal configurations: max |dU| / max(|U|, 100)"
        rows.append(entry(line, errors[peer], f"<= {bound:g}", errors[peer] <= bound, seed=0))
    return rows


# Oscillators


def stationary_variance(angular_frequency: float, timestep: float, friction: float) -> float:
    """Return <x^2> of the middle scheme for a harmonic oscillator, in units of its kT / k.

    One step is linear, (x, v) -> M (x, v) + noise, so that its stationary covariance S solves S = M S M^T + Q.
    It is exactly 1, since the scheme has no error of the time step here (Leimkuhler and Matthews, J. Chem. Phys.
    138, 174102 (2013)); this is computed, not assumed.
    """
    keep = np.exp(-friction * timestep)
    kick = np.array([[1.0, 0.0], [-(angular_frequency**2) * timestep, 1.0]])
    drift = np.array([[1.0, 0.5 * timestep], [0.0, 1.0]])
    matrix = drift @ np.diag([1.0, keep]) @ drift @ kick
    noise = drift @ np.diag([0.0, (1.0 - keep**2) * angular_frequency**2]) @ drift.T
    solution = np.linalg.solve(np.eye(4) - np.kron(matrix, matrix), noise.reshape(4))
    return float(solution[0])


def check_oscillators(effort: Effort) -> list[dict[str, Any]]:
    """Compare mean and variance of the energy of harmonic oscillators with theory."""
    import openmm

    temperature, timestep, friction, seed, mass = 300.0, 0.001, 5.0, 11, 12.0
    n_walkers, burn_in, n_frames = 512, 5000, 2000 // effort.short
    omega = 2.0 * np.pi * _LIGHT * np.array(WAVE_NUMBERS)
    system, force = openmm.System(), openmm.CustomExternalForce("0.5*k*(x^2+y^2+z^2)")
    force.addPerParticleParameter("k")
    for k, w in enumerate(omega):
        system.addParticle(mass)
        force.addParticle(k, [mass * w**2])
    system.addForce(force)
    potential = TorchPotential.from_system(system, dtype=torch.float32, threads=effort.threads)
    dynamics = LangevinDynamics(
        potential,
        np.zeros((n_walkers, len(omega), 3)),
        np.full(len(omega), mass),
        temperature,
        timestep=timestep,
        friction=friction,
        generator=torch.Generator().manual_seed(seed),
    )
    dynamics.step(burn_in)
    energies = np.empty((n_walkers, n_frames, len(omega) + 1))
    for frame in range(n_frames):
        dynamics.step(10)
        squares = dynamics.positions.double().square().sum(-1).numpy()
        energies[:, frame, :-1] = 0.5 * mass * omega**2 * squares
        energies[:, frame, -1] = dynamics.energy.double().numpy()
        effort.advance("oscillators", frame, n_frames)
    kt = thermal_energy(temperature)
    scale = [stationary_variance(w, timestep, friction) for w in omega]
    # 3/2 kT each, with the variance 3/2 (kT)^2; oscillators are independent.
    means, variances = 1.5 * kt * np.array(scale), 1.5 * (kt * np.array(scale)) ** 2
    cases = [f"{w:g} /cm" for w in WAVE_NUMBERS] + ["all together"]
    rows = []
    for k, (mean, variance) in enumerate(
        zip([*means, means.sum()], [*variances, variances.sum()], strict=True)
    ):
        found = grouped_mean(energies[:, :, k])
        line = f"harmonic oscillators, {cases[k]}, {n_walkers} walkers, time step {timestep * 1e3:g} fs"
        rows.append(agreement(f"{line}, mean energy (kJ/mol)", found, Estimate(float(mean), 0.0)))
        spread = grouped_mean((energies[:, :, k] - mean) ** 2)
        rows.append(agreement(f"{line}, variance of the energy", spread, Estimate(float(variance), 0.0)))
    hot = Estimate(float(means.sum()) * 310.0 / temperature, 0.0)
    rows.append(control("oscillators at 300 K against the theory of 310 K, mean energy", found, hot))
    return [row | {"seed": seed} for row in rows]


# Alanine dipeptide


def check_dynamics(temperature: float, effort: Effort) -> list[dict[str, Any]]:
    """Compare batched Langevin dynamics of 512 walkers with OpenMM's integrator."""
    seed = int(temperature)
    alanine = Alanine(effort)
    starts = alanine.starts(temperature, seed)
    discard, n_frames, openmm_frames = 20, 500 // effort.short, 400 // effort.short
    groups = (len(starts), -1)  # walkers that started from one ladder count as one: fewer, but independent
    ours = {}
    for k, t in enumerate((temperature, temperature + 10.0)):
        dynamics = alanine.dynamics(starts.flatten(0, 1), t, seed + k + 1)
        dynamics.step(discard * INTERVAL)
        energies, rate = alanine.energies(dynamics, n_frames, INTERVAL, f"batched dynamics at {t:g} K")
        ours[t] = moments(energies.reshape(groups)), rate
    walkers = OpenMMWalkers(alanine, starts[:, -1].double().numpy(), temperature, seed + 1000, effort.threads)
    walkers.step(discard * INTERVAL)
    frames, start, rounds = [], time.perf_counter(), max(1, openmm_frames // 10)
    try:
        for k in range(rounds):
            frames.append(walkers.step(10 * INTERVAL))
            effort.advance(f"OpenMM at {temperature:g} K", k, rounds)
    finally:
        walkers.close()
    energies = np.concatenate(frames, axis=1)
    their_rate = energies.size * INTERVAL / (time.perf_counter() - start)
    theirs = moments(energies)
    platform, properties, workers = walkers.chosen
    how = f"{platform} {properties or ''}, {workers} Contexts at a time"
    lengths = {"steps": len(starts) * 8 * n_frames * INTERVAL, "openmm_steps": energies.size * INTERVAL}
    extra = {"openmm": how, "threads": effort.threads, **lengths}
    (found, rate), (warmer, _) = ours[temperature], ours[temperature + 10.0]
    rows = [
        agreement(
            f"alanine dipeptide, {temperature:g} K, {name} of U against OpenMM",
            found[name],
            theirs[name],
            **extra,
        )
        for name in ("mean", "variance")
    ]
    rows.append(
        control(
            f"{temperature + 10:g} K against {temperature:g} K, mean of U", warmer["mean"], theirs["mean"]
        )
    )
    line = f"alanine dipeptide, {temperature:g} K: Langevin steps a second over those of OpenMM"
    rates = {"rates": [rate, their_rate]}
    rows.append(entry(line, rate / their_rate, "> 1", rate > their_rate, **rates, **extra))
    return [row | {"seed": seed} for row in rows]


def check_tempering(effort: Effort) -> list[dict[str, Any]]:
    """Compare parallel tempering with the reference, which was made before with another code and seed."""
    seed, n_ladders, n_frames = 2024, 128, 1500 // effort.short
    alanine, start = Alanine(effort), time.perf_counter()
    ladders = alanine.tempering(n_ladders, 20_000 // effort.short, seed)
    positions, energies = [], []
    for frame in range(n_frames):
        ladders.step(INTERVAL)
        positions.append(ladders.positions[:n_ladders].numpy().copy())
        energies.append(ladders.energy[:n_ladders].double().numpy().copy())
        effort.advance("parallel tempering", frame, n_frames)
    seconds = time.perf_counter() - start
    angles = torsion_angles(np.concatenate(positions), alanine.molecule.torsions)
    torsions = Ramachandran("parallel tempering", angles["phi"], angles["psi"], n_walkers=n_ladders)
    reference = Ensemble(alanine.reference.ramachandran, alanine.reference.potential_energy, 300.0)
    found = Ensemble(torsions, np.concatenate(energies), 300.0)
    rows = []
    for name, figure in compare(reference, {"found": found}).items():
        values = (Estimate(figure[key]["value"], figure[key]["stderr"]) for key in ("found", "reference"))
        rows.append(agreement(f"parallel tempering, 300 K, {name} against the reference", *values))
    warmer = alanine.dynamics(positions[-1], 310.0, seed + 1)
    warmer.step(2000)
    kept, _ = alanine.energies(warmer, 400 // effort.short, INTERVAL, "negative control")
    kt = BOLTZMANN_CONSTANT * 300.0
    energy = Estimate(*(value / kt for value in grouped_mean(kept)))
    rows.append(
        control(
            "310 K against the reference at 300 K, mean energy (kT)",
            energy,
            reference.figures()["mean energy (kT)"],
        )
    )
    steps = {
        "evaluations": ladders.potential.n_evaluations,
        "acceptance": ladders.n_accepted / ladders.n_proposed,
    }
    rows.append(entry("parallel tempering: wall time (s)", seconds, "<= 600", seconds <= 600, **steps))
    restarts = ladders.n_restarts
    rows.append(
        entry("parallel tempering: walkers that came to a non-finite energy", restarts, "0", restarts == 0)
    )
    return [row | {"seed": seed, "threads": effort.threads} for row in rows]


def check_hmc(effort: Effort) -> list[dict[str, Any]]:
    """Compare hybrid Monte Carlo, which is exact at any time step, with Langevin dynamics of a short one."""
    seed = 77
    alanine = Alanine(effort)
    starts = alanine.starts(300.0, seed)
    x, groups = starts.flatten(0, 1), (len(starts), -1)
    generator = torch.Generator().manual_seed(seed + 1)
    chain = HybridMonteCarlo(
        alanine.potential, x, alanine.masses, 300.0, n_leapfrog=10, timestep=0.002, generator=generator
    )
    chain.step(100 // effort.short)
    energies, _ = alanine.energies(chain, 1500 // effort.short, 1, "hybrid Monte Carlo")
    dynamics = alanine.dynamics(x, 300.0, seed + 2, timestep=0.0005)
    dynamics.step(4000 // effort.short)
    expected, _ = alanine.energies(dynamics, 800 // effort.short, INTERVAL, "Langevin dynamics, 0.5 fs")
    found, expected = moments(energies.reshape(groups)), moments(expected.reshape(groups))
    acceptance = float(chain.acceptance.mean())
    line = "hybrid Monte Carlo, 300 K, time step 2 fs, against Langevin dynamics of 0.5 fs"
    rows = [
        agreement(f"{line}, {name} of U", found[name], expected[name], acceptance=acceptance)
        for name in ("mean", "variance")
    ]
    return [row | {"seed": seed} for row in rows]


CHECKS: dict[str, Callable[[Effort], list[dict[str, Any]]]] = {
    **{f"speed-{name}": partial(check_speed, name) for name in dict.fromkeys(row[0] for row in ACCEPTANCE)},
    "oscillators": check_oscillators,
    "dynamics-300K": partial(check_dynamics, 300.0),
    "dynamics-600K": partial(check_dynamics, 600.0),
    "tempering": check_tempering,
    "hmc": check_hmc,
}


# The command


def main() -> int:
    """Run the checks that have no results yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument(
        "--redo", nargs="+", choices=CHECKS, metavar="CHECK", default=[], help="run these again"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (default: all cores)")
    parser.add_argument(
        "--quick", action="store_true", help="a short trial, which writes only if --output is given"
    )
    parser.add_argument(
        "--output", type=Path, help=f"file to write (default: {RESULTS.name} in docs/results)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # tensors of the dynamics are small; the potential has threads of its own
    output = arguments.output or (None if arguments.quick else RESULTS)
    rows = json.loads(output.read_text()) if output and output.exists() else []
    chosen = arguments.only or arguments.redo or list(CHECKS)
    try:
        for name in chosen:
            if name in {row["check"] for row in rows} and name not in arguments.redo:
                say(f"{name}: done before; --redo {name} runs it again")
                continue
            start = time.perf_counter()
            with progress() as advance:
                new = CHECKS[name](Effort(arguments.threads, 10 if arguments.quick else 1, advance))
            seconds = round(time.perf_counter() - start, 1)
            command = f"python scripts/verify_potentials.py --only {name} --threads {arguments.threads}"
            command += " --quick" if arguments.quick else ""
            new = [row | {"command": command, "check": name, "seconds": seconds} for row in new]
            rows = sorted([row for row in rows if row["check"] != name] + new, key=by_check)
            if output:
                atomic_write_json(output, rows)
            report(name, seconds, new)
    except KeyboardInterrupt:
        print("interrupted: the same command continues with the check that was interrupted.", file=sys.stderr)
        return 130
    return 0 if all(row["holds"] or row.get("goal") for row in rows) else 1


def by_check(row: dict[str, Any]) -> int:
    """Return the place of a row among the results."""
    return list(CHECKS).index(row["check"])


def report(name: str, seconds: float, rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of one check."""
    say(f"{name} ({seconds:.0f} s)")
    for row in rows:
        mark = "ok  " if row["holds"] else "goal" if row.get("goal") else "FAIL"
        detail = ""
        if "found" in row:
            (value, error), (other, other_error) = row["found"], row["expected"]
            detail = f"   [{value:.5g} ± {error:.2g}, {other:.5g} ± {other_error:.2g}]"
        elif "rates" in row:
            detail = f"   [{row['rates'][0]:.3g}/s, {row['rates'][1]:.3g}/s]"
        say(f"  {mark} {row['line']}: {row['value']:.4g} ({row['bound']}){detail}")


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar, and give a function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task, shown = bar.add_task("", total=1), [""]

        def advance(label: str, done: int, total: int) -> None:
            if label != shown[0]:
                shown[0] = label
                bar.reset(task, total=total, description=label)
            bar.update(task, completed=done + 1)

        yield advance


if __name__ == "__main__":
    sys.exit(main())
