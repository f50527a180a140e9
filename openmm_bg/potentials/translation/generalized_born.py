"""Translation of implicit solvents."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.potentials.terms import GeneralizedBornTerm, Term
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
    tables_of,
    with_cutoff,
)
from openmm_bg.potentials.translation.nonbonded import pair_index

if TYPE_CHECKING:
    import openmm

_OFFSET = 0.009  # [nm], by which the Born radii of the integral are smaller
_PROBE = 0.14  # [nm], radius of water
# An atom wholly inside another one adds 2 (1/or - 1/L), which the CustomGBForce models leave out.
_INTEGRAL = (
    "select(step(r+sr2-or1), 0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r"
    "+select(step(sr2-r-or1), 2*(1/or1-1/L), 0)), 0); U=r+sr2; L=max(or1, D); D=abs(r-sr2)"
)


def custom_gb(force: openmm.CustomGBForce, n_atoms: int) -> list[Term]:
    """Translate a CustomGBForce."""
    import openmm

    check_particles(force, n_atoms)
    cutoff = _cutoff(force)
    kinds = {
        openmm.CustomGBForce.SingleParticle: "single",
        openmm.CustomGBForce.ParticlePair: "pair_excluded",
        openmm.CustomGBForce.ParticlePairNoExclusions: "pair",
    }
    constants, tables = global_parameters(force), tables_of(force)
    names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
    parameters = finite_table(
        force, "particle", names, [force.getParticleParameters(k) for k in range(n_atoms)]
    )

    def expression(text: str, kind: str, computed: list[str]) -> str:
        if kind == "single":
            check_expression(force, text, [*"xyz", *computed], [*constants, *names], tables)
            return text
        inputs = ["r", *(f"{name}{end}" for name in computed for end in (1, 2))]
        known = [*constants, *(f"{name}{end}" for name in names for end in (1, 2))]
        check_expression(force, text, inputs, known, tables)
        return text if cutoff is None else with_cutoff(text, cutoff, None, [*inputs, *known, *tables])

    values, energies, computed = [], [], []
    for number in range(force.getNumComputedValues()):
        name, text, kind = force.getComputedValueParameters(number)
        # Pairs see no computed values: OpenMM allows them for the first value only.
        values.append([name, expression(text, kinds[kind], computed), kinds[kind]])
        computed.append(name)
    for number in range(force.getNumEnergyTerms()):
        text, kind = force.getEnergyTermParameters(number)
        energies.append([expression(text, kinds[kind], computed), kinds[kind]])
    included = np.ones(n_atoms * (n_atoms - 1) // 2)
    exclusions = rows(force.getExclusionParticles, force.getNumExclusions())
    excluded = atoms_of(force, "exclusion", exclusions or np.zeros((0, 2)), n_atoms)
    included[pair_index(*excluded, n_atoms)] = 0.0
    if not energies:
        return []
    return [
        GeneralizedBornTerm(
            {"particle_parameters": names, "globals": constants, "values": values, "energies": energies},
            tables,
            particle_parameters=parameters.reshape(-1, n_atoms),
            included=included,
        )
    ]


def gbsa_obc(force: openmm.GBSAOBCForce, n_atoms: int) -> list[Term]:
    """Translate a GBSAOBCForce: OBC2 with a fixed functional form, written as the same kind of expressions.

    With a cutoff, the energy of a pair is shifted to be zero where its Born radii are of no effect.
    """
    check_particles(force, n_atoms)
    cutoff = _cutoff(force)
    names = ["charge", "radius", "scale"]
    charge, radius, scale = finite_table(force, "particle", names, rows(force.getParticleParameters, n_atoms))
    surface = 4.0 * math.pi * finite_number(force, "surface area energy", force.getSurfaceAreaEnergy())
    solute = finite_number(force, "solute dielectric", force.getSoluteDielectric())
    solvent = finite_number(force, "solvent dielectric", force.getSolventDielectric())
    integral = _INTEGRAL
    pair = "-prefactor*charge1*charge2/f; f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))"
    if cutoff is not None:
        integral = with_cutoff(integral, cutoff)
        pair = with_cutoff(pair.replace("/f", f"*(1/f-{1.0 / cutoff!r})", 1), cutoff)
    return [
        GeneralizedBornTerm(
            {
                "particle_parameters": ["charge", "or", "sr", "radius"],
                "globals": {
                    "prefactor": COULOMB_CONSTANT * (1.0 / solute - 1.0 / solvent),
                    "surface": surface,
                },
                "values": [
                    ["I", integral, "pair"],
                    ["B", "1/(1/or-tanh(psi-0.8*psi^2+4.85*psi^3)/radius); psi=I*or", "single"],
                ],
                "energies": [
                    ["-0.5*prefactor*charge^2/B", "single"],
                    [f"surface*(radius+{_PROBE})^2*(radius/B)^6", "single"],
                    [pair, "pair"],
                ],
            },
            particle_parameters=np.stack([charge, radius - _OFFSET, (radius - _OFFSET) * scale, radius]),
            included=np.ones(n_atoms * (n_atoms - 1) // 2),
        )
    ]


def _cutoff(force: openmm.CustomGBForce | openmm.GBSAOBCForce) -> float | None:
    """Return the cutoff [nm], or None if there is none."""
    method = force.getNonbondedMethod()
    if method == force.NoCutoff:
        return None
    if method != force.CutoffNonPeriodic:
        raise InputError(f"{label(force)} is periodic; use the method NoCutoff or CutoffNonPeriodic.")
    return finite_number(force, "cutoff distance", force.getCutoffDistance())
