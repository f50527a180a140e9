"""Condense a simulation to a reference file that comes with the package.

The reference of alanine dipeptide at 300 K was made by:

    openmm-bg simulate alanine_dipeptide --temperature 300 --ladder 378 --ladder 476 --ladder 600 --ladder 756 \\
        --ladder 952 --walkers 128 --frames 1433600 --interval 50 --burn-in 40000 --hot-start 952 --seed 8 \\
        --output reference_300K_long
    python scripts/make_reference.py reference_300K_long --output systems/data --thin 18

With --frames whole configurations are kept, of any molecule, and no torsions.
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
    parser.add_argument("--discard", type=float, default=0.1, help="first part of each walker to leave out")
    parser.add_argument("--thin", type=int, default=4, help="every how many frames of a walker one is kept")
    parser.add_argument("--frames", type=int, help="keep at most this many configurations, as a trajectory")
    arguments = parser.parse_args()

    from openmm_bg.reference import make_reference
    from openmm_bg.reference_frames import make_reference_frames

    given = arguments.simulation, arguments.output
    if arguments.frames is not None:
        path = make_reference_frames(*given, n_frames=arguments.frames, discard=arguments.discard)
    else:
        path = make_reference(*given, discard=arguments.discard, thin=arguments.thin)
    print(path)


if __name__ == "__main__":
    main()
