"""Condense a simulation to a reference file that comes with the package.

The reference of alanine dipeptide at 300 K was made by:

    openmm-bg simulate alanine_dipeptide --temperature 300 --ladder 378 --ladder 476 --ladder 600 --ladder 756 \\
        --ladder 952 --walkers 64 --frames 320000 --interval 50 --burn-in 40000 --hot-start 952 --seed 7 \\
        --output reference_300K
    python scripts/make_reference.py reference_300K --output systems/data
"""

import argparse
from pathlib import Path


def main() -> None:
    """Write the reference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("simulation", type=Path, help="output directory of openmm-bg simulate")
    parser.add_argument("--output", type=Path, default=Path("systems/data"), help="folder to write")
    arguments = parser.parse_args()

    from openmm_bg.reference import make_reference

    print(make_reference(arguments.simulation, arguments.output))


if __name__ == "__main__":
    main()
