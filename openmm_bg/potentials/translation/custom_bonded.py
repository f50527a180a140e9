"""Translation of custom forces that act on a few particles each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from openmm_bg.errors import InputError
from openmm_bg.potentials.expressions import OF_PARTICLES
from openmm_bg.potentials.terms import Term
from openmm_bg.potentials.translation.bonded import bonded_term
from openmm_bg.potentials.translation.common import (
    atoms_of,
    check_expression,
    finite_table,
    global_parameters,
    label,
    rows,
    tables_of,
)

if TYPE_CHECKING:
    import openmm


def custom_bonds(force: openmm.CustomBondForce, n_atoms: int) -> list[Term]:
    """Translate a CustomBondForce."""
    names = [force.getPerBondParameterName(k) for k in range(force.getNumPerBondParameters())]
    found = rows(force.getBondParameters, force.getNumBonds())
    groups = [(row[:2], row[2]) for row in found]
    return _custom(force, n_atoms, "bond", names, groups, {"r": ["distance", [0, 1]]})


def custom_angles(force: openmm.CustomAngleForce, n_atoms: int) -> list[Term]:
    """Translate a CustomAngleForce."""
    names = [force.getPerAngleParameterName(k) for k in range(force.getNumPerAngleParameters())]
    found = rows(force.getAngleParameters, force.getNumAngles())
    groups = [(row[:3], row[3]) for row in found]
    return _custom(force, n_atoms, "angle", names, groups, {"theta": ["angle", [0, 1, 2]]})


def custom_torsions(force: openmm.CustomTorsionForce, n_atoms: int) -> list[Term]:
    """Translate a CustomTorsionForce."""
    names = [force.getPerTorsionParameterName(k) for k in range(force.getNumPerTorsionParameters())]
    found = rows(force.getTorsionParameters, force.getNumTorsions())
    groups = [(row[:4], row[4]) for row in found]
    return _custom(force, n_atoms, "torsion", names, groups, {"theta": ["dihedral", [0, 1, 2, 3]]})


def custom_external(force: openmm.CustomExternalForce, n_atoms: int) -> list[Term]:
    """Translate a CustomExternalForce."""
    names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
    found = rows(force.getParticleParameters, force.getNumParticles())
    groups = [(row[:1], row[1]) for row in found]
    return _custom(force, n_atoms, "particle", names, groups, {axis: [axis, [0]] for axis in "xyz"})


def custom_compound_bonds(force: openmm.CustomCompoundBondForce, n_atoms: int) -> list[Term]:
    """Translate a CustomCompoundBondForce."""
    names = [force.getPerBondParameterName(k) for k in range(force.getNumPerBondParameters())]
    found = rows(force.getBondParameters, force.getNumBonds())
    size = force.getNumParticlesPerBond()
    coordinates = {f"{axis}{k + 1}": [axis, [k]] for k in range(size) for axis in "xyz"}

    def functions(variables: Sequence[str]) -> dict[str, list[Any]]:
        """Return the inputs for ``distance(p1,p2)`` and the like, as which the parser returns them."""
        result = {}
        for variable in variables:
            kind, opened, _ = variable.partition("(")
            if opened and kind in OF_PARTICLES:
                places = [int(number) - 1 for number in re.findall(r"p(\d+)", variable)]
                if max(places) >= size:
                    raise InputError(
                        f"The expression of {label(force)} uses p{max(places) + 1}, but its bonds have "
                        f"{size} particles; mend the expression."
                    )
                result[variable] = [kind, places]
        return result

    return _custom(force, n_atoms, "bond", names, found, coordinates, functions)


def _custom(
    force: Any,
    n_atoms: int,
    thing: str,
    names: list[str],
    groups: Sequence[tuple[Sequence[int], Sequence[float]]],
    inputs: dict[str, list[Any]],
    functions: Callable[[Sequence[str]], dict[str, list[Any]]] | None = None,
) -> list[Term]:
    """Return the term of a force whose groups are pairs of particles and parameters."""
    constants, tables = global_parameters(force), tables_of(force)
    text = force.getEnergyFunction()
    parameters = [*names, *constants]
    variables = check_expression(force, text, inputs, parameters, tables, geometry=functions is not None)
    if not groups:
        return []
    inputs = {name: inputs[name] for name in inputs if name in variables}
    if functions is not None:
        inputs |= functions(sorted(variables))
    atoms = atoms_of(force, thing, [list(particles) for particles, _ in groups], n_atoms)
    columns = finite_table(force, thing, names, [values for _, values in groups])
    by_name = dict(zip(names, columns, strict=True))
    return [bonded_term(text, inputs, by_name, atoms, constants, tables)]
