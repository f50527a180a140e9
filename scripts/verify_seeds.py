"""Judge everything about seeds 000 and 001, and write docs/results/seeds.json.

The figures of the experiments come from the outputs of the two reproduction scripts, whose numbers are copied to
docs/results; the law of the temperature-steerable flow and the detailed balance of the moves are measured here.
Checks whose rows exist are not run again unless --redo names them.

Example: python scripts/verify_seeds.py --redo law
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json
from openmm_bg.reproduction.verification import CHECKS, Sources, failed

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def read(output: Path) -> list[dict[str, Any]]:
    """Return the rows that there are."""
    return json.loads(output.read_text()) if output.exists() else []


def main() -> int:
    """Run the checks that have no rows yet, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--redo", nargs="+", choices=CHECKS, metavar="CHECK", default=[], help="run again")
    parser.add_argument("--seed-000", type=Path, default=Path("seed_000"), help="output of its reproduction")
    parser.add_argument("--seed-001", type=Path, default=Path("seed_001/full"), help="likewise")
    parser.add_argument("--work", type=Path, default=Path("verify_seeds"), help="where toys' models are kept")
    parser.add_argument("--chains", type=int, default=100, help="chains for each seed of the balance")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small
    sources = Sources(arguments.seed_000, arguments.seed_001, RESULTS, arguments.work, arguments.chains)
    output = RESULTS / "seeds.json"
    missing = 0
    for name in arguments.only or arguments.redo or CHECKS:
        rows = read(output)
        if any(row["check"] == name for row in rows) and name not in arguments.redo:
            continue
        try:
            found = [{"check": name, **row} for row in CHECKS[name](sources)]
        except InputError as error:
            print(f"{name}: {error}", file=sys.stderr)
            missing += 1
            continue
        rows = [row for row in read(output) if row["check"] != name] + found
        atomic_write_json(output, rows)
    rows = read(output)
    for row in rows:
        mark = (
            "ok  "
            if row["holds"]
            else "goal"
            if row.get("goal")
            else "note"
            if row.get("finding")
            else "FAIL"
        )
        print(f"{mark} {row['line']}: {float(row['value']):.3g} {row['bound']}")
    return 2 if missing else int(bool(failed(rows)))


if __name__ == "__main__":
    sys.exit(main())
