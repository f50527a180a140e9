"""Measure the acceptance figures of coarse-graining, and write docs/results/coarse_graining.json.

The tables of observables go to docs/results/coarse_graining, as CSV.

Resumable: every part keeps its outputs in --work, and continues where it was interrupted. Parts that are not asked
for keep their rows. On two cores with nothing else running, selection takes about half an hour, learned an hour,
and chignolin four hours of dynamics and one of the rest.

Example: python scripts/verify_coarse_graining.py --part selection
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "coarse_graining.json"
TABLES = RESULTS.with_suffix("")
MAPS = {"selection": "selection map", "learned": "learned map"}
PARTS = (*MAPS, "chignolin")


def openmm_bg(arguments: list[str]) -> None:
    """Run a command line of openmm-bg."""
    print("openmm-bg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "openmm_bg.cli", *arguments], check=True)


def alanine(work: Path, label: str) -> Iterator[dict[str, Any]]:
    """Train a model of alanine dipeptide and judge its samples."""
    from openmm_bg.reproduction import coarse_graining
    from openmm_bg.reproduction.state_of_the_art import run_commands

    run_commands(work / "simulations", coarse_graining.data_commands(work), openmm_bg)
    run_commands(work / label.replace(" ", "_"), coarse_graining.model_commands(work, label), openmm_bg)
    yield from coarse_graining.alanine_rows(work, label, TABLES)


def chignolin(work: Path) -> Iterator[dict[str, Any]]:
    """Simulate chignolin, train a model and judge it."""
    from openmm_bg.reproduction import chignolin as reproduction
    from openmm_bg.reproduction.state_of_the_art import run_commands

    output = work / "chignolin"
    run_commands(output / "simulation", reproduction.data_commands(output), openmm_bg)
    run_commands(output, reproduction.commands(output), openmm_bg)
    yield from reproduction.rows(output, TABLES)


def main() -> int:
    """Measure the parts that are asked for, and write and print all rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work = Path("verify_coarse_graining")
    parser.add_argument(
        "--work", type=Path, default=work, help="directory of all outputs (default: %(default)s)"
    )
    parser.add_argument(
        "--part", action="append", choices=sorted(PARTS), help="can be repeated; all if not given"
    )
    arguments = parser.parse_args()

    from openmm_bg.errors import InputError
    from openmm_bg.files import atomic_write_json

    rows: list[dict[str, Any]] = []
    try:
        for part in arguments.part or PARTS:
            judged = alanine(arguments.work, MAPS[part]) if part in MAPS else chignolin(arguments.work)
            found = [{**row, "part": part} for row in judged]
            # Read only now: other parts may have been measured meanwhile.
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
