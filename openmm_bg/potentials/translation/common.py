"""What the translators share: parameters, expressions and tables of OpenMM's forces, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.potentials.expressions import Expression
from openmm_bg.potentials.tables import DiscreteTable, SplineTable, Table

if TYPE_CHECKING:
    import openmm

COULOMB_CONSTANT = 138.93545764438198  # [kJ/mol nm/e^2], OpenMM's ONE_4PI_EPS0
WAY_OUT = "use OpenMMPotential, which evaluates every force that OpenMM has"


def label(force: openmm.Force) -> str:
    """Return what messages call a force: its class, and its name if it was given one."""
    kind = type(force).__name__
    return kind if force.getName() == kind else f"{kind} {force.getName()!r}"


def plain(values: Iterable[Any]) -> list[Any]:
    """Strip units to OpenMM's default unit system (nm, kJ/mol, rad, e)."""
    from openmm import unit

    return [v.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(v) else v for v in values]


def rows(get: Callable[[int], Iterable[Any]], count: int) -> list[list[Any]]:
    """Return what ``get`` returns for each of ``count`` indices, without units."""
    return [plain(get(k)) for k in range(count)]


def table(values: Sequence[Sequence[float]], n_columns: int) -> np.ndarray:
    """Return parameters given row by row with shape=(n_columns, n_rows)."""
    return np.array(values, dtype=np.float64).reshape(len(values), n_columns).T.copy()


def finite_table(
    force: openmm.Force, thing: str, names: Sequence[str], values: Sequence[Sequence[float]]
) -> np.ndarray:
    """Return parameters given row by row with shape=(n_parameters, n_rows), all of them finite.

    Args:
        force: The force that they belong to.
        thing: What a row describes, e.g. "bond".
        names: The parameters' names.
        values: The rows.

    Raises:
        InputError: If a parameter is NaN or infinite.
    """
    array = table(values, len(names))
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array.T))[0]
        raise InputError(
            f"{label(force)} has {names[column]} = {array[column, row]} in {thing} {row}; "
            "every parameter must be a finite number."
        )
    return array


def finite_number(force: openmm.Force, name: str, value: Any) -> float:
    """Return a force's setting without its unit.

    Raises:
        InputError: If it is NaN or infinite.
    """
    (number,) = plain([value])
    if not math.isfinite(number):
        raise InputError(f"{label(force)} has {name} = {number}; every parameter must be a finite number.")
    return float(number)


def atoms_of(force: openmm.Force, thing: str, values: Sequence[Sequence[int]], n_atoms: int) -> np.ndarray:
    """Return particles given group by group with shape=(particles of a group, n_groups).

    Raises:
        InputError: If the system has no such particle.
    """
    atoms = np.array(values, dtype=np.int64).T.copy()
    wrong = (atoms < 0) | (atoms >= n_atoms)
    if wrong.any():
        group = int(np.argwhere(wrong.T)[0, 0])
        raise InputError(
            f"{label(force)} uses particle {atoms[wrong][0]} in {thing} {group}, "
            f"but the system has the particles 0 to {n_atoms - 1}; mend the force."
        )
    return atoms


def check_particles(force: openmm.Force, n_atoms: int) -> None:
    """Refuse a force that does not describe every particle of the system.

    Raises:
        InputError: If it has more or fewer.
    """
    if force.getNumParticles() != n_atoms:
        raise InputError(
            f"{label(force)} has parameters for {force.getNumParticles()} particles, but the system has "
            f"{n_atoms}; add the force's parameters with addParticle for every particle, in order."
        )


def global_parameters(force: openmm.Force) -> dict[str, float]:
    """Return the default values of a force's global parameters.

    Raises:
        InputError: If one is not finite.
    """
    names = [force.getGlobalParameterName(k) for k in range(force.getNumGlobalParameters())]
    defaults = [force.getGlobalParameterDefaultValue(k) for k in range(force.getNumGlobalParameters())]
    return {
        name: finite_number(force, f"global parameter {name!r}", value)
        for name, value in zip(names, defaults, strict=True)
    }


def tables_of(force: openmm.Force) -> dict[str, Table]:
    """Return a force's tabulated functions by name.

    Raises:
        InputError: If one has values that are not finite.
    """
    if not hasattr(force, "getNumTabulatedFunctions"):
        return {}
    result = {}
    for k in range(force.getNumTabulatedFunctions()):
        name = force.getTabulatedFunctionName(k)
        result[name] = _table(force, name, force.getTabulatedFunction(k))
    return result


_KINDS = {f"{kind}{d}DFunction": d for kind in ("Continuous", "Discrete") for d in (1, 2, 3)}


def _table(force: openmm.Force, name: str, function: openmm.TabulatedFunction) -> Table:
    kind = type(function).__name__
    if kind not in _KINDS:
        raise InputError(f"TorchPotential does not support the tabulated function {kind}; {WAY_OUT}.")
    dimensions, parameters = _KINDS[kind], function.getFunctionParameters()
    if kind == "Discrete1DFunction":
        parameters = [parameters]
    if dimensions == 1:
        parameters = [len(parameters[0]), *parameters]
    shape, values, bounds = parameters[:dimensions], parameters[dimensions], parameters[dimensions + 1 :]
    if not np.isfinite(values).all() or not np.isfinite(bounds).all():
        raise InputError(
            f"The tabulated function {name!r} of {label(force)} has values that are not finite; mend them."
        )
    grid = np.array(values, dtype=np.float64).reshape(shape[::-1]).T  # OpenMM's first index is the fastest
    if kind.startswith("Discrete"):
        return DiscreteTable(grid.copy(), {})
    periodic = function.getPeriodic()
    _check_grid(force, name, grid, periodic)
    return SplineTable.interpolate(grid, bounds[0::2], bounds[1::2], [periodic] * dimensions)


def _check_grid(force: openmm.Force, name: str, values: np.ndarray, periodic: bool) -> None:
    if not periodic:
        return
    for axis in range(values.ndim):
        if values.shape[axis] < 3:
            problem = "has fewer than three points along an axis"
        elif not np.array_equal(values.take(0, axis), values.take(-1, axis)):
            problem = "has a first value that differs from the last"
        else:
            continue
        raise InputError(
            f"The periodic tabulated function {name!r} of {label(force)} {problem}, "
            "which a periodic function cannot have; mend its values."
        )


def check_expression(
    force: openmm.Force,
    text: str,
    inputs: Collection[str],
    parameters: Collection[str],
    tables: dict[str, Table] | None = None,
    geometry: bool = False,
) -> frozenset[str]:
    """Return the variables of an expression of a force.

    Args:
        force: The force.
        text: The expression.
        inputs: The variables that it may use and is differentiated by.
        parameters: Those that it may use besides.
        tables: The functions that it may call beside those of OpenMM.
        geometry: Whether it may call ``distance(p1,p2)`` and the like, which need not be known.

    Raises:
        InputError: If it cannot be read, uses another variable, or it or its derivative has an undefined number.
    """
    try:
        expression = Expression(text, None, tables, geometry)
    except InputError as error:
        problem = str(error).rstrip(".")
        raise InputError(
            f"{label(force)} has a wrong expression, which has to be mended: {problem}."
        ) from error
    known, used = {*inputs, *parameters}, expression.variables
    if unknown := sorted(name for name in used if name not in known and "(" not in name):
        raise InputError(
            f"The expression {text!r} of {label(force)} uses {unknown[0]!r}, which is neither a parameter of "
            f"the force nor one of {', '.join(sorted(known))}; define it."
        )
    program = expression.program
    differentiated = sorted(name for name in used if name in inputs or "(" in name)
    steps = [*program.steps, *program.with_gradient(differentiated).steps]
    if any(step.kind == "number" and not math.isfinite(float(step.value)) for step in steps):
        # OpenMM would wait for ever: its simplification repeats until NaN equals NaN.
        raise InputError(
            f"The expression {text!r} of {label(force)}, or its derivative, contains an undefined number, "
            "like 1/0; mend it."
        )
    return expression.variables


def with_cutoff(text: str, cutoff: float, switch: float | None = None, taken: Iterable[str] = ()) -> str:
    """Return an expression of ``r`` that is zero from the cutoff on.

    Args:
        text: The expression.
        cutoff: The cutoff [nm].
        switch: Where it starts to be switched off [nm]; None if it is cut off.
        taken: Names that the expression sees.
    """
    used = " ".join([text, *taken])

    def free(name: str) -> str:
        while re.search(rf"\b{name}\b", used):
            name += "_"
        return name

    whole, inside, factor, t = (free(name) for name in ("whole", "inside", "switch", "t"))
    first, _, definitions = text.strip().strip(";").partition(";")
    energy = whole if switch is None else f"{factor}*{whole}"
    # Our own definitions rightmost, where none of the expression hides r.
    own = [f"{inside}=step({cutoff!r}-r)"]
    if switch is not None:
        own += switching(switch, cutoff, factor, t)
    parts = [f"select({inside}, {energy}, 0)", f"{whole}={first}", definitions, *own]
    return "; ".join(part.strip() for part in parts if part.strip())


def switching(switch: float, cutoff: float, factor: str, t: str) -> list[str]:
    """Return the definitions of OpenMM's switching function, a polynomial of fifth degree in ``t``.

    Source: OpenMM user guide, "Lennard-Jones Interaction With Cutoff".
    """
    return [
        f"{factor}=1-{t}^3*(10-{t}*(15-6*{t}))",
        f"{t}=max(0, (r-{switch!r})/{cutoff - switch!r})",
    ]
