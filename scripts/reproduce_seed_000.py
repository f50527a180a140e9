"""Remake figures 2 to 5 of seed 000 (a double well, an oscillator in a box) from nothing, with checked numbers.

A run that was interrupted is continued by the same command. --quick shows the way in about two minutes; its
figures prove nothing. The exit code of a full run is 1 if a condition does not hold.

Example: python scripts/reproduce_seed_000.py --output seed_000 --quick
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run both experiments and print their acceptance figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("seed_000"), help="directory to write (default: seed_000)"
    )
    parser.add_argument("--quick", action="store_true", help="small and fast, into a subdirectory")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()

    import torch

    from openmm_bg.cli.console import print_table, say
    from openmm_bg.errors import InputError
    from openmm_bg.reproduction.seed_000 import Seed000Settings, reproduce

    torch.set_num_threads(1)  # the networks are small: several threads are not faster
    output = arguments.output / "quick" if arguments.quick else arguments.output
    try:
        settings = Seed000Settings.of(arguments.seed, quick=arguments.quick)
        rows = reproduce(output, settings, progress=not arguments.quiet, say=say)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command continues where it stopped.", file=sys.stderr)
        return 130
    for title, finding in (("Seed 000: conditions", False), ("Seed 000: findings, not conditions", True)):
        chosen = [row for row in rows if row.get("finding", False) == finding]
        no = "no" if finding else "NO"
        cells = [
            (row["line"], f"{row['value']:.4g}", row["bound"], "yes" if row["holds"] else no)
            for row in chosen
        ]
        print_table(("figure", "value", "bound", "holds"), cells, title=title)
    if arguments.quick:
        say("A quick run is far too small for these bounds: only the full one is judged by them.")
    say(f"Figures and numbers are in {output}.")
    return 0 if arguments.quick or all(row["holds"] or row.get("finding") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
