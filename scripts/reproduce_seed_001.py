"""Remake the figures of seed 001 (temperature-steerable flows) from nothing, with the numbers that judge them.

Figure 2 is the mixture of double wells, figure 3 alanine dipeptide. A run that was interrupted is continued by the
same command; --quick shows the way in minutes, and its figures prove nothing.

Example: python scripts/reproduce_seed_001.py --output seed_001 --quick
"""

import argparse
import sys
from pathlib import Path

import torch

from openmm_bg.cli.console import say
from openmm_bg.errors import InputError
from openmm_bg.reproduction.alanine_dipeptide import AlanineSettings
from openmm_bg.reproduction.double_well_mixture import run_mixture
from openmm_bg.reproduction.seed_001 import PARTS, run_alanine
from openmm_bg.reproduction.verification import failed


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("seed_001"), help="where everything goes")
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything in the part on alanine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small
    output, rows = arguments.output / ("quick" if arguments.quick else "full"), []
    try:
        if arguments.only in (None, "mixture"):
            rows += run_mixture(output / "mixture", quick=arguments.quick, progress=True, say=say)["rows"]
        if arguments.only in (None, "alanine"):
            own = AlanineSettings.quick if arguments.quick else AlanineSettings
            rows += run_alanine(output / "alanine", own(seed=arguments.seed), progress=True, say=say)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130
    for row in rows:
        say(f"{'ok  ' if row['holds'] else 'no  '} {row['line']}: {float(row['value']):.4g} {row['bound']}")
    if arguments.quick:
        say("A quick run is far too small for these bounds: only the full one is judged by them.")
    return int(bool(failed(rows)) and not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
