"""``python -m openmm_bg.cli``: the command line without its entry point."""

from openmm_bg.cli import main

main()
