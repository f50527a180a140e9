"""``openmm-bg systems``: the molecules that come with the package."""

from __future__ import annotations

from collections.abc import Iterable

from openmm_bg.cli.console import print_table, say


def systems() -> None:
    """List the molecules that come with the package.

    Your own molecule needs no entry here: openmm-bg simulate --pdb FILE --forcefield FILE ...

    Example: openmm-bg systems
    """
    from openmm_bg.systems import load, names

    rows = []
    for name in names():
        system = load(name)
        rows.append((name, str(system.n_atoms), f"{system.temperature:g}", _torsions(system.torsions)))
    print_table(("name", "atoms", "temperature (K)", "torsions"), rows)
    say("Simulate one with: openmm-bg simulate NAME --temperature 600 --output data")


def _torsions(names: Iterable[str]) -> str:
    """Return torsions with a residue each, as in "phi 2 (ALA)", as their number by kind."""
    kinds = [name.split(" ")[0] for name in names]
    counts = {kind: kinds.count(kind) for kind in kinds}
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in counts.items())
