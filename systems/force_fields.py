"""OpenMM's AMBER force fields with generalised Born solvents, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import openmm
    from openmm import app

FORCE_FIELDS: Mapping[str, str] = {
    "amber96": "amber96.xml",
    "amber99sb": "amber99sb.xml",
    "amber99sbildn": "amber99sbildn.xml",
    "amber03": "amber03.xml",
    "amber14": "amber14/protein.ff14SB.xml",
}
"""OpenMM's files of force fields for proteins."""

SOLVENTS: Mapping[str, str] = {"obc1": "implicit/obc1.xml", "obc2": "implicit/obc2.xml"}
"""OpenMM's files of the solvents of Onufriev, Bashford and Case, Proteins 55 (2004) 383: their models I and II.

Both are a `CustomGBForce` with mbondi2 radii, a surface term and dielectric constants of 1 and 78.5. They are
AMBER's igb=2 and igb=5. OpenMM's `GBSAOBCForce`, which files such as ``amber99_obc.xml`` use, is OBC2.
"""


def implicit_solvent_system(
    topology: app.Topology, forcefield: str = "amber99sb", solvent: str = "obc1"
) -> openmm.System:
    """Return a molecule's OpenMM system in implicit solvent, without cutoff and constraints.

    Args:
        topology: The molecule's topology, with all hydrogens and bonds.
        forcefield: One of `FORCE_FIELDS`.
        solvent: One of `SOLVENTS`.

    Raises:
        InputError: If there is no force field or solvent of that name, or the force field lacks parameters.
    """
    from openmm import app

    for name, known, kind in ((forcefield, FORCE_FIELDS, "force field"), (solvent, SOLVENTS, "solvent")):
        if name not in tuple(known):  # not all that may be given can be hashed
            raise InputError(f"There is no {kind} called {name!r}; there are: {', '.join(known)}.")
    try:
        return _force_field(FORCE_FIELDS[forcefield], SOLVENTS[solvent]).createSystem(
            topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
        )
    except ValueError as error:
        raise InputError(f"{forcefield} lacks parameters for this molecule: {error}") from error


@cache
def _force_field(*files: str) -> app.ForceField:
    from openmm import app

    return app.ForceField(*files)
