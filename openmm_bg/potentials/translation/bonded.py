"""Translation of the forces of bonds, angles and torsions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.potentials.tables import SplineTable, Table
from openmm_bg.potentials.terms import BondedTerm, Term
from openmm_bg.potentials.translation.common import atoms_of, finite_table, label, plain, rows

if TYPE_CHECKING:
    import openmm


def bonded_term(
    expression: str,
    inputs: dict[str, list[Any]],
    parameters: Mapping[str, np.ndarray],
    atoms: np.ndarray,
    constants: dict[str, float] | None = None,
    tables: Mapping[str, Table] | None = None,
) -> BondedTerm:
    """Return a term whose parameters are given as arrays with shape=(n_groups,)."""
    return BondedTerm(
        {
            "expression": expression,
            "globals": constants or {},
            "group_parameters": list(parameters),
            "inputs": inputs,
        },
        tables,
        atoms=atoms,
        group_parameters=np.array(list(parameters.values()), dtype=np.float64).reshape(-1, atoms.shape[1]),
    )


def harmonic_bonds(force: openmm.HarmonicBondForce, n_atoms: int) -> list[Term]:
    """Translate a HarmonicBondForce."""
    found = rows(force.getBondParameters, force.getNumBonds())
    if not found:
        return []
    atoms = atoms_of(force, "bond", [row[:2] for row in found], n_atoms)
    length, k = finite_table(force, "bond", ["length", "k"], [row[2:] for row in found])
    parameters = {"length": length, "half_k": 0.5 * k}
    return [bonded_term("half_k*(r-length)^2", {"r": ["distance", [0, 1]]}, parameters, atoms)]


def harmonic_angles(force: openmm.HarmonicAngleForce, n_atoms: int) -> list[Term]:
    """Translate a HarmonicAngleForce."""
    found = rows(force.getAngleParameters, force.getNumAngles())
    if not found:
        return []
    atoms = atoms_of(force, "angle", [row[:3] for row in found], n_atoms)
    angle, k = finite_table(force, "angle", ["angle", "k"], [row[3:] for row in found])
    parameters = {"angle": angle, "half_k": 0.5 * k}
    return [bonded_term("half_k*(theta-angle)^2", {"theta": ["angle", [0, 1, 2]]}, parameters, atoms)]


def periodic_torsions(force: openmm.PeriodicTorsionForce, n_atoms: int) -> list[Term]:
    """Translate a PeriodicTorsionForce: all terms of one dihedral become one Fourier series of it.

    k (1 + cos(n phi - phase)) = k + k cos(phase) cos(n phi) + k sin(phase) sin(n phi), and cos(n phi) is a
    polynomial of cos(phi) and sin(phi): neither an angle nor its cosine needs to be computed.
    """
    found = rows(force.getTorsionParameters, force.getNumTorsions())
    if not found:
        return []
    particles = atoms_of(force, "torsion", [row[:4] for row in found], n_atoms)
    names = ["periodicity", "phase", "k"]
    parameters = finite_table(force, "torsion", names, [row[4:] for row in found])
    if (parameters[0] < 1).any():
        number = int(np.argmax(parameters[0] < 1))
        raise InputError(
            f"{label(force)} has periodicity = {parameters[0, number]:.0f} in torsion {number}; "
            "it must be positive."
        )
    used = parameters[2] != 0.0  # force fields write terms of zero height
    if not used.any():
        return []
    periodicity, phase, k = parameters[:, used]
    atoms, torsion = np.unique(particles[:, used].T, axis=0, return_inverse=True)
    torsion, highest = torsion.reshape(-1), int(periodicity.max())
    columns = {"constant": np.zeros(len(atoms))}
    np.add.at(columns["constant"], torsion, k)
    energy, definitions = ["constant"], []
    for n in range(1, highest + 1):
        for letter, coefficient in (("c", k * np.cos(phase)), ("s", k * np.sin(phase))):
            # Phases are 0 or 180 degrees in most force fields, up to the digits that they are written with.
            chosen = (periodicity == n) & (np.abs(coefficient) > 1e-12 * np.abs(k))
            if chosen.any():
                columns[f"{letter}{n}_height"] = np.zeros(len(atoms))
                np.add.at(columns[f"{letter}{n}_height"], torsion[chosen], coefficient[chosen])
                energy.append(f"{letter}{n}_height*{letter}{n}")
    for n in range(highest, 1, -1):  # an expression's definitions see those to their right
        definitions += [f"c{n}=c{n - 1}*c1-s{n - 1}*s1", f"s{n}=s{n - 1}*c1+c{n - 1}*s1"]
    inputs = {"c1": ["cos_dihedral", [0, 1, 2, 3]], "s1": ["sin_dihedral", [0, 1, 2, 3]]}
    return [bonded_term("; ".join(["+".join(energy), *definitions]), inputs, columns, atoms.T.copy())]


def rb_torsions(force: openmm.RBTorsionForce, n_atoms: int) -> list[Term]:
    """Translate an RBTorsionForce: a polynomial of fifth degree in -cos(phi)."""
    found = rows(force.getTorsionParameters, force.getNumTorsions())
    if not found:
        return []
    atoms = atoms_of(force, "torsion", [row[:4] for row in found], n_atoms)
    names = [f"c{n}" for n in range(6)]
    columns = finite_table(force, "torsion", names, [row[4:] for row in found])
    parameters = dict(zip(names, columns, strict=True))
    # The angle of the polynomial is zero in trans; that of a dihedral is, in cis.
    expression = "c0+x*(c1+x*(c2+x*(c3+x*(c4+x*c5)))); x=-cosine"
    return [bonded_term(expression, {"cosine": ["cos_dihedral", [0, 1, 2, 3]]}, parameters, atoms)]


def cmap_torsions(force: openmm.CMAPTorsionForce, n_atoms: int) -> list[Term]:
    """Translate a CMAPTorsionForce: a periodic spline of two dihedrals for each map that is used."""
    found = rows(force.getTorsionParameters, force.getNumTorsions())
    if not found:
        return []
    particles = atoms_of(force, "torsion", [row[1:] for row in found], n_atoms)
    chosen = np.array([row[0] for row in found])
    if wrong := [int(number) for number in chosen if not 0 <= number < force.getNumMaps()]:
        raise InputError(
            f"{label(force)} uses map {wrong[0]}, but has {force.getNumMaps()} maps; mend the force."
        )
    inputs = {"phi": ["dihedral", [0, 1, 2, 3]], "psi": ["dihedral", [4, 5, 6, 7]]}
    terms = []
    for number in np.unique(chosen):
        size, energies = plain(force.getMapParameters(int(number)))
        values = (
            np.array(plain(energies), dtype=np.float64).reshape(size, size).T
        )  # phi is the fastest in OpenMM
        if not np.isfinite(values).all():
            raise InputError(
                f"{label(force)} has energies that are not finite in map {number}; "
                "every parameter must be a finite number."
            )
        values = np.pad(values, (0, 1), mode="wrap")
        spline = SplineTable.interpolate(values, [0.0, 0.0], [2.0 * math.pi] * 2, [True, True])
        atoms = particles[:, chosen == number]
        terms.append(bonded_term("cmap(phi, psi)", inputs, {}, atoms, tables={"cmap": spline}))
    return terms
