"""Measure the acceptance figures of alanine dipeptide at 300 K, and write docs/results/state_of_the_art.json.

Resumable: every part keeps its outputs in --work, and continues where it was interrupted. Parts that are not
asked for keep their rows. The part "annealed" judges the model in --model, which openmm-bg anneal made.

On two cores with nothing else running: hour half an hour, multiple-try, vacuum-exchange and sampling an hour each,
solvent-exchange two hours and a half, the others minutes.

Example: python scripts/verify_state_of_the_art.py --part hour --part multiple-try
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "state_of_the_art.json"


def openmm_bg(arguments: list[str]) -> None:
    """Run a command line of openmm-bg."""
    print("openmm-bg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "openmm_bg.cli", *arguments], check=True)


def start_openmm_bg(arguments: list[str], variables: dict[str, str]) -> subprocess.Popen:
    """Start a command line of openmm-bg that says nothing until it is done."""
    print("openmm-bg", *arguments, flush=True)
    command = [sys.executable, "-m", "openmm_bg.cli", *arguments, "--quiet"]
    return subprocess.Popen(command, env=os.environ | variables)


def hour(work: Path, _: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """From nothing to 300 K within an hour."""
    from openmm_bg.reproduction.state_of_the_art import hour_commands, hour_rows, run_commands

    stages = run_commands(work / "hour", hour_commands(work / "hour"), openmm_bg)
    yield from hour_rows(work / "hour", stages)


def annealed(work: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A million samples of the annealed model."""
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.reproduction.state_of_the_art import annealed_rows, many_samples

    samples = many_samples(arguments.model, 1_000_000, 1, work / "annealed_300K.npz")
    counted = BoltzmannGenerator.load(arguments.model).energy_evaluations
    yield from annealed_rows(samples, counted, "annealed")


def multiple_try(work: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The multiple-try move: exactness, and how often it changes the configuration."""
    from openmm_bg.reproduction.multiple_try import alanine_rows, chance_rows, double_well_rows
    from openmm_bg.training import load_data

    data = work / "data_300K"
    if not (data / "provenance.json").exists():
        ladder = [word for t in (378, 476, 600, 756, 952) for word in ("--ladder", str(t))]
        sizes = "--walkers 64 --frames 12800 --interval 200 --burn-in 20000 --hot-start 952 --seed 5"
        openmm_bg(["simulate", "alanine_dipeptide", "-T", "300", *ladder, *sizes.split(), "-o", str(data)])
    yield from double_well_rows(work / "toys")
    yield from alanine_rows(arguments.weak_model, load_data(data))
    yield from chance_rows(arguments.weak_model)


def reference(*_: Any) -> Iterator[dict[str, Any]]:
    """The references without any flow, against each other."""
    from openmm_bg.reproduction.state_of_the_art import reference_rows

    yield from reference_rows()


def vacuum_exchange(work: Path, _: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Learned replica exchange in vacuum, with a generator of its own."""
    from openmm_bg.reproduction import learned_exchange as learned
    from openmm_bg.reproduction.state_of_the_art import run_commands

    vacuum = work / "vacuum"
    run_commands(vacuum, learned.vacuum_commands(vacuum), openmm_bg)
    expected = learned.vacuum_reference(vacuum)
    yield from exchange(learned.VACUUM, vacuum / "annealed", expected, vacuum / "chains")


def solvent_exchange(work: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Learned replica exchange in implicit solvent, with the annealed model."""
    from openmm_bg.reproduction import learned_exchange as learned

    expected = learned.solvent_reference()
    yield from exchange(learned.SOLVENT, arguments.model, expected, work / "solvent" / "chains")


def exchange(run: Any, model: Path, expected: Any, output: Path) -> Iterator[dict[str, Any]]:
    """Run the chains of a learned replica exchange that are not finished, and judge them."""
    from openmm_bg.reproduction import learned_exchange as learned
    from openmm_bg.reproduction.state_of_the_art import run_side_by_side

    commands = {
        f"chain {seed}": learned.exchange_command(run, model, storage, seed)
        for seed, storage in learned.storages(run, output).items()
    }
    run_side_by_side(output, commands, start_openmm_bg)
    yield from learned.rows(run, model, output, expected, 400_000)


def sampling(work: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Effective samples per second of many methods."""
    from openmm_bg.errors import InputError

    script = ROOT / "scripts" / "benchmark_sampling.py"
    output = work / "sampling"
    command = [sys.executable, str(script), str(arguments.demo_model), "--output", str(output)]
    if subprocess.run(command, check=False).returncode not in (0, 1):  # 1: a bound is missed
        raise InputError("The benchmark has not run; see above.")
    yield from json.loads((output / "sampling.json").read_text())["rows"]


def training_step(*_: Any) -> Iterator[dict[str, Any]]:
    """A training step against nflows' own layers."""
    from openmm_bg.reproduction.state_of_the_art import row

    script = ROOT / "scripts" / "benchmark_training_step.py"
    text = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True).stdout
    for batch, ratio in re.findall(r"^(\d+) +[\d.]+ +[\d.]+ +([\d.]+)", text, flags=re.M):
        line = f"training step, batch {batch}, one thread of a CPU: median ratio to nflows"
        yield row(line, float(ratio), ">= 2", float(ratio) >= 2)


PARTS = {
    "reference": reference,
    "hour": hour,
    "annealed": annealed,
    "multiple-try": multiple_try,
    "vacuum-exchange": vacuum_exchange,
    "solvent-exchange": solvent_exchange,
    "sampling": sampling,
    "training-step": training_step,
}


def main() -> int:
    """Measure the parts that are asked for, and write and print all rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    paths = {
        "work": (Path("verify_state_of_the_art"), "directory of all outputs (default: %(default)s)"),
        "model": (Path("alanine_dipeptide"), "the annealed model (default: %(default)s)"),
        "weak-model": (None, "a model for the multiple-try move (default: hour/model in --work)"),
        "demo-model": (Path("demo/model"), "the benchmark's model (default: %(default)s)"),
    }
    parser.add_argument(
        "--part", action="append", choices=sorted(PARTS), help="can be repeated; all if not given"
    )
    for name, (default, text) in paths.items():
        parser.add_argument(f"--{name}", type=Path, default=default, help=text)
    arguments = parser.parse_args()
    arguments.weak_model = arguments.weak_model or arguments.work / "hour" / "model"

    from openmm_bg.errors import InputError
    from openmm_bg.files import atomic_write_json

    try:
        for part in arguments.part or PARTS:
            found = [{**row, "part": part} for row in PARTS[part](arguments.work, arguments)]
            # Read now: another part may have been measured meanwhile.
            rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
            rows = [row for row in rows if row["part"] != part] + found
            atomic_write_json(RESULTS, rows)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print("ok  " if row["holds"] else "goal" if row.get("goal") else "FAIL", row["line"], row["value"])
    return int(any(not row["holds"] and not row.get("goal") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
