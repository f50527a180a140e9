"""Translation of the forces between pairs of atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials.expressions import Expression
from openmm_bg.potentials.terms import PairTerm, Term
from openmm_bg.potentials.translation.common import (
    COULOMB_CONSTANT,
    atoms_of,
    check_expression,
    check_particles,
    finite_number,
    finite_table,
    global_parameters,
    label,
    rows,
    switching,
    tables_of,
    with_cutoff,
)

if TYPE_CHECKING:
    import openmm


def nonbonded(force: openmm.NonbondedForce, n_atoms: int) -> list[Term]:
    """Translate a NonbondedForce: Coulomb and Lennard-Jones energies, exclusions and exceptions.

    Beyond a cutoff there is nothing, and below it a reaction field (OpenMM user guide, "Coulomb
    Interaction With Cutoff"); exceptions have neither.
    """
    import openmm

    check_particles(force, n_atoms)
    method = force.getNonbondedMethod()
    if method not in (openmm.NonbondedForce.NoCutoff, openmm.NonbondedForce.CutoffNonPeriodic):
        raise InputError(
            f"{label(force)} is periodic; build the system with nonbondedMethod=NoCutoff or CutoffNonPeriodic."
        )
    names = ["charge", "sigma", "epsilon"]
    particles = finite_table(force, "particle", names, rows(force.getParticleParameters, n_atoms))
    found = rows(force.getExceptionParameters, force.getNumExceptions())
    exceptions = finite_table(
        force, "exception", ["chargeProd", "sigma", "epsilon"], [row[2:] for row in found]
    )
    excepted = atoms_of(force, "exception", [row[:2] for row in found] or np.zeros((0, 2)), n_atoms)
    _add_offsets(force, particles, exceptions)

    charge, sigma, epsilon = particles
    i, j = np.triu_indices(n_atoms, 1)
    pairs = [charge[i] * charge[j], 0.5 * (sigma[i] + sigma[j])]
    with np.errstate(invalid="ignore"):  # OpenMM refuses a negative epsilon, in its own words
        pairs = np.stack([*pairs, np.sqrt(epsilon[i] * epsilon[j])])
    index = pair_index(*excepted, n_atoms)
    if method == openmm.NonbondedForce.NoCutoff:
        pairs[:, index] = exceptions
        return _pair_terms(np.stack([i, j]), pairs, n_atoms, "(repulsion*u-attraction)*u+coulomb/r; u=1/r^6")
    others = np.ones(len(i), dtype=bool)
    others[index] = False
    near = _pair_terms(np.stack([i, j])[:, others], pairs[:, others], n_atoms, _below_cutoff(force))
    text = "(repulsion*u-attraction)*u+coulomb/r; u=1/r^6"
    return near + _pair_terms(np.stack([i[index], j[index]]), exceptions, n_atoms, text)


def _below_cutoff(force: openmm.NonbondedForce) -> str:
    """Return the energy of two atoms: only that of Lennard and Jones is switched."""
    cutoff = finite_number(force, "cutoff distance", force.getCutoffDistance())
    dielectric = finite_number(force, "reaction field dielectric", force.getReactionFieldDielectric())
    stiffness = (dielectric - 1.0) / (2.0 * dielectric + 1.0) / cutoff**3
    shift = 3.0 * dielectric / (2.0 * dielectric + 1.0) / cutoff
    field = f"coulomb*(1/r+{stiffness!r}*r^2-{shift!r})"
    if not force.getUseSwitchingFunction():
        return with_cutoff(f"(repulsion*u-attraction)*u+{field}; u=1/r^6", cutoff)
    switch = finite_number(force, "switching distance", force.getSwitchingDistance())
    parts = [f"s*(repulsion*u-attraction)*u+{field}", "u=1/r^6", *switching(switch, cutoff, "s", "t")]
    return with_cutoff("; ".join(parts), cutoff)


def _add_offsets(force: openmm.NonbondedForce, particles: np.ndarray, exceptions: np.ndarray) -> None:
    """Add the parameter offsets, with the global parameters at their default values, in place."""
    constants = global_parameters(force)
    for thing, get, count, parameters in (
        (
            "particle",
            force.getParticleParameterOffset,
            force.getNumParticleParameterOffsets(),
            particles,
        ),
        (
            "exception",
            force.getExceptionParameterOffset,
            force.getNumExceptionParameterOffsets(),
            exceptions,
        ),
    ):
        offsets = rows(get, count)
        names = ["chargeScale", "sigmaScale", "epsilonScale"]
        scales = finite_table(force, f"{thing} parameter offset", names, [row[2:] for row in offsets])
        for (name, number, *_), scale in zip(offsets, scales.T, strict=True):
            if not 0 <= number < parameters.shape[1] or name not in constants:
                raise InputError(
                    f"{label(force)} has an offset of {thing} {number} by {name!r}, one of which it does not have; "
                    "mend the force."
                )
            parameters[:, number] += constants[name] * scale


def pair_index(a: np.ndarray, b: np.ndarray, n_atoms: int) -> np.ndarray:
    """Return where pairs are in the order of ``triu_indices``, whichever of their atoms comes first."""
    if np.any(a == b):
        raise InputError("An exception or exclusion names the same particle twice; remove it.")
    i, j = np.minimum(a, b), np.maximum(a, b)
    return i * (2 * n_atoms - i - 1) // 2 + j - i - 1


def _pair_terms(pairs: np.ndarray, parameters: np.ndarray, n_atoms: int, text: str) -> list[Term]:
    """Return the term of pairs with these products of charges, sigmas and epsilons, or none."""
    product, sigma, epsilon = parameters
    interacting = (product != 0.0) | (epsilon != 0.0)
    if not interacting.any():
        return []
    attraction = 4.0 * epsilon * sigma**6
    columns = np.stack([attraction * sigma**6, attraction, COULOMB_CONSTANT * product])
    return [
        PairTerm(
            {
                "expression": text,
                "globals": {},
                "pair_parameters": ["repulsion", "attraction", "coulomb"],
                "particle_parameters": [],
            },
            pairs=pairs[:, interacting],
            pair_parameters=columns[:, interacting],
            particle_parameters=np.zeros((0, n_atoms)),
        )
    ]


def custom_nonbonded(force: openmm.CustomNonbondedForce, n_atoms: int) -> list[Term]:
    """Translate a CustomNonbondedForce.

    Values computed for each particle depend on its parameters only, so they are parameters as well.
    """
    import openmm

    check_particles(force, n_atoms)
    method = force.getNonbondedMethod()
    if method not in (openmm.CustomNonbondedForce.NoCutoff, openmm.CustomNonbondedForce.CutoffNonPeriodic):
        raise InputError(f"{label(force)} is periodic; use the method NoCutoff or CutoffNonPeriodic.")
    constants, tables = global_parameters(force), tables_of(force)
    names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
    rows_found = [force.getParticleParameters(k) for k in range(n_atoms)]
    columns = list(finite_table(force, "particle", names, rows_found).reshape(len(names), n_atoms))
    parameters = dict(zip(names, columns, strict=True))
    for k in range(force.getNumComputedValues()):
        name, text = force.getComputedValueParameters(k)
        check_expression(force, text, [], [*names, *constants], tables)
        inputs = {key: torch.from_numpy(column) for key, column in zip(names, columns, strict=True)}
        value = torch.as_tensor(Expression(text, constants, tables)(inputs), dtype=torch.float64)
        parameters[name] = finite_table(
            force, f"computed value {k} of particle", [name], value.expand(n_atoms).numpy()
        )[0]
    text = force.getEnergyFunction()
    known = [*constants, *(f"{name}{end}" for name in parameters for end in (1, 2))]
    check_expression(force, text, ["r"], known, tables)
    if method == openmm.CustomNonbondedForce.CutoffNonPeriodic:
        cutoff = finite_number(force, "cutoff distance", force.getCutoffDistance())
        switch = None
        if force.getUseSwitchingFunction():
            switch = finite_number(force, "switching distance", force.getSwitchingDistance())
        text = with_cutoff(text, cutoff, switch, [*known, *tables])
    pairs = _interacting_pairs(force, n_atoms)
    if not pairs.shape[1]:
        return []
    return [
        PairTerm(
            {
                "expression": text,
                "globals": constants,
                "pair_parameters": [],
                "particle_parameters": list(parameters),
            },
            tables,
            pairs=pairs,
            pair_parameters=np.zeros((0, pairs.shape[1])),
            particle_parameters=np.array(list(parameters.values())).reshape(-1, n_atoms),
        )
    ]


def _interacting_pairs(force: openmm.CustomNonbondedForce, n_atoms: int) -> np.ndarray:
    """Return the pairs that are not excluded, or of those the ones of the interaction groups."""
    exclusions = rows(force.getExclusionParticles, force.getNumExclusions())
    excluded = np.eye(n_atoms, dtype=bool)
    a, b = atoms_of(force, "exclusion", exclusions or np.zeros((0, 2)), n_atoms)
    excluded[a, b] = excluded[b, a] = True
    if not force.getNumInteractionGroups():
        return np.stack(np.nonzero(np.triu(~excluded)))
    found = []
    for number in range(force.getNumInteractionGroups()):
        first, second = np.zeros(n_atoms, dtype=bool), np.zeros(n_atoms, dtype=bool)
        for members, group in zip((first, second), force.getInteractionGroupParameters(number), strict=True):
            members[atoms_of(force, f"interaction group {number}, place", [[k] for k in group], n_atoms)] = (
                True
            )
        chosen = first[:, None] & second[None, :] & ~excluded
        both = first & second
        chosen &= ~np.tril(both[:, None] & both[None, :])  # a pair within both sets counts once
        found.append(np.stack(np.nonzero(chosen)))
    return np.concatenate(found, axis=1)
