"""Draw Ramachandran free-energy surfaces of trajectories and weighted samples, side by side.

Example:
    python scripts/ramachandran.py data samples.h5 --output ramachandran.png
"""

import sys

from openmm_bg.cli import run

if __name__ == "__main__":
    sys.exit(run(["ramachandran", *sys.argv[1:]]))
