"""Measure the expensive acceptance figures of the main job and write them to docs/results/main_job.json.

Resumable: the job and the checkout's tests are not run again where their results exist. Without options it judges
the job in --job (running it if need be); --clone also runs `make demo` and `make test` in a fresh clone.

Example: python scripts/verify_main_job.py --job demo --clone /tmp/clone
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

COMMAND = "python scripts/verify_main_job.py --job demo --clone CLONE"
ROOT = Path(__file__).resolve().parent.parent


def entry(line: str, value: float, bound: str, holds: bool, **extra: object) -> dict:
    """Return one row of the results."""
    row = {"line": line, "value": value, "stderr": None, "bound": bound, "holds": bool(holds)}
    return row | {"command": COMMAND, "seed": 0} | extra


def job_figures(job: Path) -> list[dict]:
    """Judge the summary of the main job."""
    summary = json.loads((job / "summary.json").read_text())
    rows = [
        entry("ESS at 600 K, unclipped", summary["ess_600K"], ">= 0.10", summary["ess_600K"] >= 0.10),
        entry(
            "ESS at 300 K, unclipped, base scaled",
            summary["ess_300K"],
            ">= 0.10",
            summary["ess_300K"] >= 0.10,
        ),
        entry("ESS at 300 K (goal)", summary["ess_300K"], ">= 0.30", summary["ess_300K"] >= 0.30, goal=True),
        entry("samples behind each ESS", summary["n_samples"], ">= 1e5", summary["n_samples"] >= 100_000),
        entry(
            "wall time of all stages (s)",
            summary["wall_seconds_total"],
            "<= 1200",
            summary["wall_seconds_total"] <= 1200,
        ),
    ]
    phi = summary["figures_300K"]["P(phi > 0)"]["samples"]
    relative = phi["stderr"] / phi["value"]
    rows.append(
        entry("relative standard error of P(phi > 0), samples", relative, "<= 0.20", relative <= 0.20)
    )
    for name, by_label in summary["figures_300K"].items():
        for label in ("samples", "chain"):
            found = by_label[label]
            line = f"{name} at 300 K, {label}: difference from the reference in standard errors"
            rows.append(entry(line, found["z"], "|z| <= 3.5", abs(found["z"]) <= 3.5))
            limit = {"mean energy (kT)": 0.5}.get(
                name, 0.03 if name in ("P(beta/PPII)", "P(alpha-R)") else None
            )
            if limit is not None:
                line = f"{name} at 300 K, {label}: value with its standard error"
                rows.append(
                    entry(
                        line,
                        found["value"],
                        f"stderr <= {limit}",
                        found["stderr"] <= limit,
                        stderr=found["stderr"],
                    )
                )
    return rows


def potential_figures(job: Path) -> list[dict]:
    """Compare both potentials with OpenMM's Reference platform on 600 K frames and perturbed ones."""
    import openmm

    from openmm_bg import OpenMMPotential, TorchPotential
    from openmm_bg.training import load_data

    data = load_data(job / "data")
    system = data.system.system
    chosen = np.linspace(0, len(data.positions) - 1, 1000).astype(int)
    thermal = data.positions[chosen]
    noise = (
        np.random.default_rng(0).normal(size=thermal.shape)
        * np.resize([0.001, 0.003, 0.01, 0.03], 1000)[:, None, None]
    )
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    rows = []
    for label, positions in (("600 K frames", thermal), ("perturbed frames", thermal + noise)):
        energies, forces = [], []
        for x in positions:
            context.setPositions(x)
            state = context.getState(energy=True, forces=True)
            energies.append(state.getPotentialEnergy()._value)
            forces.append(state.getForces(asNumpy=True)._value)
        energies, forces = np.array(energies), np.array(forces)
        for potential in (TorchPotential.from_system(system), OpenMMPotential(system)):
            u, f = (tensor.numpy() for tensor in potential.energy_and_forces(torch.as_tensor(positions)))
            error = float((np.abs(u - energies) / np.maximum(np.abs(energies), 100.0)).max())
            norm = np.linalg.norm(forces, axis=(1, 2))
            force_error = float((np.linalg.norm(f - forces, axis=(1, 2)) / norm).max())
            name = type(potential).__name__
            rows.append(
                entry(f"{name}, 1000 {label}: max |dU| / max(|U|, 100)", error, "<= 1e-6", error <= 1e-6)
            )
            rows.append(
                entry(f"{name}, 1000 {label}: max |dF| / |F|", force_error, "<= 1e-5", force_error <= 1e-5)
            )
    return rows


def coordinate_figures(job: Path) -> list[dict]:
    """Send 10,000 frames through the internal coordinates and back."""
    from openmm_bg import BoltzmannGenerator
    from openmm_bg.training import load_data

    positions = load_data(job / "data").positions
    chosen = positions[np.linspace(0, len(positions) - 1, 10_000).astype(int)]
    coordinates = BoltzmannGenerator.load(job / "model").flow.coordinates
    worst = 0.0
    for x in torch.as_tensor(chosen):
        back, _ = coordinates.inverse(coordinates.forward(x[None])[0], frame=x)
        worst = max(worst, float((back[0] - x).abs().max()))
    return [entry("round trip of 10,000 frames (nm)", worst, "< 1e-10", worst < 1e-10)]


def move_figures(job: Path) -> list[dict]:
    """Measure the state of the move, with the benchmark script."""
    script = ROOT / "scripts" / "benchmark_move_state.py"
    command = [sys.executable, str(script), str(job / "model")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    size = int(re.search(r" with FlowMove:.*?(\d+) bytes", text)[1])
    cost = float(re.search(r"adds ([-\d.]+) ms", text)[1])
    return [
        entry("state of the move as YAML (bytes)", size, "< 1000", size < 1000),
        entry("state handling of three temperatures (ms per iteration)", cost, "< 10", cost < 10),
    ]


def clone_figures(clone: Path) -> list[dict]:
    """Run the two commands in a fresh clone, installation apart."""
    record = clone / "timings.json"
    if not clone.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    seconds = json.loads(record.read_text()) if record.exists() else {}
    for target in ("install", "demo", "test"):
        if target not in seconds:
            start = time.perf_counter()
            subprocess.run(["make", target], cwd=clone, check=True)
            seconds[target] = round(time.perf_counter() - start, 1)
            record.write_text(json.dumps(seconds))
    return [
        entry(
            "make demo in a fresh clone, after the downloads (s)",
            seconds["demo"],
            "<= 1200",
            seconds["demo"] <= 1200,
        ),
        entry("make test in a fresh clone (s)", seconds["test"], "<= 600", seconds["test"] <= 600),
    ]


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--job", type=Path, default=Path("demo"), help="output of the main job, made if missing"
    )
    parser.add_argument("--clone", type=Path, help="where to clone the repository and run its two commands")
    arguments = parser.parse_args()

    from openmm_bg.files import atomic_write_json

    rows = clone_figures(arguments.clone) if arguments.clone else []
    job = arguments.clone / "demo" if arguments.clone else arguments.job
    if not (job / "summary.json").exists():
        script = ROOT / "scripts" / "train_600K_sample_300K.py"
        subprocess.run([sys.executable, str(script), "--output", str(job)], check=True)
    rows += job_figures(job) + potential_figures(job) + coordinate_figures(job) + move_figures(job)
    atomic_write_json(ROOT / "docs" / "results" / "main_job.json", rows)
    for row in rows:
        print(
            "ok  " if row["holds"] else "goal" if row.get("goal") else "FAIL",
            row["line"],
            row["value"],
            row["bound"],
        )


if __name__ == "__main__":
    main()
