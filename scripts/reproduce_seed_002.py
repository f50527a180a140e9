"""Remake the figures of seed 002 (coarse-graining and backmapping, with weights) from nothing.

Alanine dipeptide at 300 K and chignolin at 350 K. A run that was interrupted is continued by the same command;
--quick shows the way in minutes, and its figures prove nothing. Chignolin needs pip install "openmm-bg[tica]".

Example: python scripts/reproduce_seed_002.py --output seed_002 --quick
"""

import argparse
import subprocess
import sys
from pathlib import Path

from openmm_bg.cli.console import say
from openmm_bg.errors import InputError
from openmm_bg.reproduction.seed_002 import PARTS


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("seed_002"), help="where everything goes")
    parser.add_argument(
        "--work",
        type=Path,
        help="where simulations, models and samples go, if not below the output; --work of "
        "scripts/verify_coarse_graining.py has those of a full run",
    )
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours")
    parser.add_argument("--only", choices=tuple(PARTS), help="one molecule alone")
    arguments = parser.parse_args()
    output = arguments.output / ("quick" if arguments.quick else "full")
    work = arguments.work or output / "work"
    try:
        for part in [arguments.only] if arguments.only else PARTS:
            found = PARTS[part](work, output / part, quick=arguments.quick, say=say)
            say(
                f"{part}: ESS {found['ess']:.2%} of {found['n_samples']} samples, Pareto k "
                f"{found['pareto_k']:.2f}; figures in {output / part}"
            )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print("A command failed; when its cause is mended, the same command goes on.", file=sys.stderr)
        return error.returncode if error.returncode > 0 else 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130
    if arguments.quick:
        say("A quick run is far too small: only the full one shows something.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
