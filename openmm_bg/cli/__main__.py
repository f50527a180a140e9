"""``python -m openmm_bg.cli``: the command line without its entry point."""

import sys

from openmm_bg.cli import main

sys.argv[0] = "openmm-bg"  # in records
main()
