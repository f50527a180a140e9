"""Measure energies and forces per second of every way to evaluate them, against batch size and atoms.

The peers are timed in turn in one process: one OpenMM Context on each platform and thread setting; the loop that
other packages use, one Context on OpenMM's default platform (a single Context, too); each candidate of the pool of
`OpenMMPotential`; and `TorchPotential` eager, compiled and fused, on the CPU and on a GPU if there is one.
"Best" is always the best batch size of the fastest peer of its kind, whatever its precision.

Example: python scripts/benchmark_potential.py --output benchmark --systems alanine-obc1 peptide-172
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_peers import SINGLES, Bench
from benchmark_systems import SYSTEMS, load_system, thermal_positions

from openmm_bg import TorchPotential
from openmm_bg.cli.console import say
from openmm_bg.files import atomic_path, atomic_write_text

BATCHES = (1, 16, 64, 256, 4096, 32768)  # a pool needs several configurations, and a slow one cannot do many
# What has to be reached, and what is hoped for: (system, denominator, at least, goal).
ACCEPTANCE = (
    ("alanine-obc1", "best single context", 25, 100),
    ("alanine-obc1", "default-platform loop", 50, None),
    ("alanine-gbsaobc", "best pool", 4, 10),
    ("peptide-172", "best pool", 3, 8),
    ("peptide-172-gbsaobc", "best pool", 3, 8),
)


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of one system, with energies and forces or energies alone."""
    from rich.console import Console
    from rich.table import Table

    batches = sorted({row["batch"] for row in rows})
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["rate"]):
        best[row["peer"]] = row
    fastest = [
        max((row["rate"] for row in rows if row["kind"] in kinds), default=np.nan)
        for kinds in (SINGLES, ("default",), ("pool",))
    ]
    what = "energies and forces" if rows[0]["forces"] else "energies"
    found = Table(
        title=f"{rows[0]['system']} ({rows[0]['atoms']} atoms): {what} a second, by batch size",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    found.add_column("peer", no_wrap=True)
    for column in ("precision", *map(str, batches), "spread of the best"):
        found.add_column(column, justify="right")
    for column in (
        "x best single OpenMM context",
        "x default- platform loop",
        "x best pool",
        "max error of U",
    ):
        found.add_column(column, justify="right", max_width=13)
    for peer, row in sorted(best.items(), key=lambda item: -item[1]["rate"]):
        by_batch = {other["batch"]: other["rate"] for other in rows if other["peer"] == peer}
        rates = [f"{by_batch[n]:.3g}" if n in by_batch else "-" for n in batches]
        spread = f"{(row['upper'] - row['lower']) / row['rate']:.0%}"
        ratios = [f"{row['rate'] / other:.2f}" for other in fastest]
        found.add_row(peer, row["precision"], *rates, spread, *ratios, f"{row['error']:.0e}")
    console = Console(highlight=False)
    console = console if console.width > 150 else Console(highlight=False, width=150)
    console.print(found)
    console.print(
        "Spread: between the quartiles. Errors: against Reference, divided by max(|U|, 100 kJ/mol).\n"
    )


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write all rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())


def plot(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Draw rate against batch size for each system, and the cost of an evaluation against the atoms."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["forces"]]
    shown = list(dict.fromkeys(row["system"] for row in rows))[:4]
    rates = Figure(figsize=(4.6 * len(shown), 5.4), layout="constrained")
    for axes, name in zip(np.atleast_1d(rates.subplots(1, len(shown))), shown, strict=True):
        for label, (own, style) in _lines([row for row in rows if row["system"] == name]).items():
            batches = sorted({row["batch"] for row in own})
            best = [max(row["rate"] for row in own if row["batch"] == n) for n in batches]
            axes.loglog(batches, best, style, marker=".", label=label)
        axes.set(title=name, xlabel="batch size", ylabel="energies and forces a second")
        axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    series = [row for row in rows if row["system"].startswith("peptide") and row["system"].count("-") == 1]
    atoms = Figure(figsize=(6.0, 4.4), layout="constrained")
    axes = atoms.subplots()
    for label, (own, style) in _lines(series).items():
        sizes = sorted({row["atoms"] for row in own})
        cost = [1e6 / max(row["rate"] for row in own if row["atoms"] == n) for n in sizes]
        axes.loglog(sizes, cost, style, marker=".", label=label)
    axes.set(xlabel="atoms (ACE-(ALA)n-NME, OBC1)", ylabel="microseconds per energy and forces")
    if series:
        axes.legend(fontsize=7)
    paths = []
    for file, drawn in (("potential_rate.png", rates), ("potential_atoms.png", atoms if series else None)):
        if drawn is not None:
            FigureCanvasAgg(drawn)
            with atomic_path(folder / file) as path:
                drawn.savefig(path, dpi=150)
            paths.append(folder / file)
    return paths


def _lines(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[dict[str, Any]], str]]:
    """Return what is drawn as one line, and its style: Contexts by kind, the best of each, and every mode."""
    found = {
        "best single OpenMM context": ([row for row in rows if row["kind"] in SINGLES], ":"),
        "default-platform loop": ([row for row in rows if row["kind"] == "default"], "-."),
        "best pool of Contexts": ([row for row in rows if row["kind"] == "pool"], "--"),
    }
    for peer in dict.fromkeys(row["peer"] for row in rows if row["kind"] == "torch"):
        found[peer] = [row for row in rows if row["peer"] == peer], "-"
    return {label: line for label, line in found.items() if line[0]}


def describe(
    name: str, over: str, ratio: dict[str, Any], bound: float | None = None, goal: float | None = None
) -> str:
    """Return a ratio as a line."""
    lower, upper = ratio["quartiles"]
    text = f"{name}: fused / {over} = {ratio['value']:.1f} (quartiles {lower:.1f} to {upper:.1f})"
    if bound is not None:
        text += f"; at least {bound}: {'yes' if ratio['value'] >= bound else 'NO'}"
    if goal is not None:
        text += f"; goal {goal}: {'yes' if ratio['value'] >= goal else 'no'}"
    rates = " / ".join(
        f"{rate:.3g} by {peer}" for rate, peer in zip(ratio["rates"], ratio["peers"], strict=True)
    )
    return f"{text}\n    {rates}"


# The GPU


def count_operations(potential: TorchPotential, positions: torch.Tensor) -> dict[str, float]:
    """Count what the eager form does: numbers computed (each as one operation), and bytes if nothing is fused."""
    from torch.utils._python_dispatch import TorchDispatchMode

    total = {"operations": 0.0, "bytes": 0.0}

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            outputs = [
                t for t in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(t)
            ]
            inputs = [t for t in args if torch.is_tensor(t)]
            if not function.is_view:
                total["operations"] += max((t.numel() for t in (*inputs, *outputs)), default=0)
                total["bytes"] += sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
            return result

    with Counter():
        potential.energy_and_forces(positions)
    return total


def profile_gpu(name: str, batch: int) -> None:
    """Print the kernels of the compiled form on the GPU, and estimates of its operations and bytes a second."""
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        say("--profile-gpu: torch finds no CUDA device.")
        return
    molecule = load_system(name)
    positions = np.resize(thermal_positions(molecule), (batch, molecule.n_atoms, 3))
    x = torch.as_tensor(positions, dtype=torch.float32, device="cuda")
    compiled = TorchPotential.from_system(molecule, dtype=torch.float32, device="cuda", mode="compiled")
    for _ in range(3):
        compiled.energy_and_forces(x)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        compiled.energy_and_forces(x)
        torch.cuda.synchronize()
    events = record.key_averages()
    print(events.table(sort_by="self_device_time_total", row_limit=12))
    seconds = sum(event.self_device_time_total for event in events) * 1e-6
    counts = count_operations(compiled.to(mode="eager"), x)
    least = 2 * x.numel() * x.element_size()  # positions in, forces out
    say(
        f"{name}, batch {batch}, {compiled.mode}: {seconds * 1e3:.3g} ms in kernels, about "
        f"{counts['operations'] / seconds / 1e12:.3g} T operations/s; between {least / seconds / 1e9:.3g} GB/s "
        f"(all fused) and {counts['bytes'] / seconds / 1e9:.3g} GB/s (nothing fused)."
    )


# The command


def main() -> int:
    """Measure, print, write and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark"), help="folder of the CSV file and plots"
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--repeats", type=int, default=7, help="timings of each peer (default: 7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (default: all cores)")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, metavar="N", help="batch sizes")
    parser.add_argument("--no-tensors", action="store_true", help="leave out the eager and the compiled mode")
    parser.add_argument(
        "--quick", action="store_true", help="3 repeats, small batches, no tensors, 3 systems"
    )
    parser.add_argument(
        "--profile-gpu", action="store_true", help="only profile the compiled form on the GPU"
    )
    arguments = parser.parse_args()
    chosen = arguments.systems or (SYSTEMS[1:4] if arguments.quick else SYSTEMS)
    if arguments.quick:
        arguments.repeats, arguments.batches, arguments.no_tensors = 3, (1, 64, 4096), True
    torch.set_num_threads(arguments.threads)
    if arguments.profile_gpu:
        for name in chosen:
            profile_gpu(name, max(arguments.batches))
        return 0
    rows: list[dict[str, Any]] = []
    try:
        lines = measure(chosen, arguments, rows)
    except KeyboardInterrupt:
        print(f"interrupted: the systems that were finished are in {arguments.output}.", file=sys.stderr)
        return 130
    for path in (arguments.output / "potential.csv", *plot(arguments.output, rows)):
        say(f"written: {path}")
    say(f"\nRatios of energies and forces a second, {arguments.threads} threads, medians of timings in turn:")
    say("\n".join(lines))
    return 0


def measure(names: Sequence[str], arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    """Measure systems, adding to the rows, and return the lines with the ratios."""
    from rich.console import Console

    lines = []
    with Console(stderr=True).status("") as status:
        for name in names:
            status.update(f"{name}: building, thermal configurations, compilation")
            bench = Bench(name, arguments.threads, arguments.repeats, tensors=not arguments.no_tensors)
            for with_forces in (True, False):
                bench.sweep(arguments.batches, with_forces, status.update)
                table([row for row in bench.rows if row["forces"] == with_forces])
            rows += bench.rows
            write_csv(arguments.output / "potential.csv", rows)
            limits = {over: (least, goal) for system, over, least, goal in ACCEPTANCE if system == name}
            for over, ratio in bench.ratios(status.update).items():
                lines.append(describe(name, over, ratio, *limits.get(over, ())))
            bench.close()
    return lines


if __name__ == "__main__":
    sys.exit(main())
