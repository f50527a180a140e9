"""Translation of an ``openmm.System`` to the terms of a `TorchPotential`, checked against OpenMM."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials.terms import (
    CustomGeneralizedBorn,
    HarmonicAngles,
    HarmonicBonds,
    NonbondedPairs,
    PeriodicTorsions,
    Term,
)

if TYPE_CHECKING:
    import openmm

COULOMB_CONSTANT = 138.93545764438198  # [kJ/mol nm/e^2], OpenMM's ONE_4PI_EPS0
_GBSA_COULOMB_CONSTANT = 138.935485  # the rounded one that OpenMM's generalized-Born expressions use
_WAY_OUT = "use OpenMMPotential, which evaluates every force that OpenMM has"


def translate(system: openmm.System) -> list[Term]:
    """Translate a system's forces and check each against OpenMM's Reference platform.

    Raises:
        InputError: If a force is not supported, or the system is constrained, periodic and so on.
        TranslationError: If energies or forces disagree.
    """
    import openmm

    from openmm_bg.systems import check_system

    check_system(system)
    translators = {
        openmm.HarmonicBondForce: _harmonic_bonds,
        openmm.HarmonicAngleForce: _harmonic_angles,
        openmm.PeriodicTorsionForce: _periodic_torsions,
        openmm.NonbondedForce: _nonbonded,
        openmm.CustomGBForce: _custom_gb,
        openmm.GBSAOBCForce: _gbsa_obc,
    }
    ignored = (openmm.CMMotionRemover, openmm.AndersenThermostat)
    terms = []
    for force in system.getForces():
        if isinstance(force, ignored):
            continue
        if type(force) not in translators:
            raise InputError(f"TorchPotential does not support {type(force).__name__}; {_WAY_OUT}.")
        term = translators[type(force)](force, system.getNumParticles())
        if term is not None:
            _verify(system, force, term)
            terms.append(term)
    return terms


def _column(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64).reshape(-1, 1)


def _harmonic_bonds(force: openmm.HarmonicBondForce, n_atoms: int) -> Term | None:
    rows = [_plain(force.getBondParameters(k)) for k in range(force.getNumBonds())]
    if not rows:
        return None
    i, j, length, k = zip(*rows, strict=True)
    return HarmonicBonds(atoms=np.array([i, j]), length=_column(length), k=_column(k))


def _harmonic_angles(force: openmm.HarmonicAngleForce, n_atoms: int) -> Term | None:
    rows = [_plain(force.getAngleParameters(k)) for k in range(force.getNumAngles())]
    if not rows:
        return None
    i, j, k, angle, constant = zip(*rows, strict=True)
    return HarmonicAngles(atoms=np.array([i, j, k]), angle=_column(angle), k=_column(constant))


def _periodic_torsions(force: openmm.PeriodicTorsionForce, n_atoms: int) -> Term | None:
    rows = [_plain(force.getTorsionParameters(k)) for k in range(force.getNumTorsions())]
    rows = [row for row in rows if row[6] != 0.0]  # force fields write terms of zero height
    if not rows:
        return None
    quadruples, torsion = np.unique(np.array([row[:4] for row in rows]), axis=0, return_inverse=True)
    return PeriodicTorsions(
        atoms=quadruples.T.copy(),
        torsion=torsion.reshape(-1),
        periodicity=_column([row[4] for row in rows]),
        phase=_column([row[5] for row in rows]),
        k=_column([row[6] for row in rows]),
    )


def _nonbonded(force: openmm.NonbondedForce, n_atoms: int) -> Term:
    import openmm

    if force.getNonbondedMethod() != openmm.NonbondedForce.NoCutoff:
        raise InputError(
            f"TorchPotential supports a NonbondedForce without cutoff only (NoCutoff); {_WAY_OUT}."
        )
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise InputError(
            f"TorchPotential does not support parameter offsets of a NonbondedForce; {_WAY_OUT}."
        )
    charge, sigma, epsilon = np.array([_plain(force.getParticleParameters(k)) for k in range(n_atoms)]).T
    i, j = np.triu_indices(n_atoms, 1)
    pair = {(a, b): k for k, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True))}
    product = charge[i] * charge[j]
    sigma, epsilon = 0.5 * (sigma[i] + sigma[j]), np.sqrt(epsilon[i] * epsilon[j])
    for number in range(force.getNumExceptions()):
        a, b, *values = _plain(force.getExceptionParameters(number))
        k = pair[min(a, b), max(a, b)]
        product[k], sigma[k], epsilon[k] = values
    return NonbondedPairs(
        coulomb=COULOMB_CONSTANT * product[:, None], sigma=sigma[:, None], epsilon=epsilon[:, None]
    )


def _custom_gb(force: openmm.CustomGBForce, n_atoms: int) -> Term:
    import openmm

    if force.getNonbondedMethod() != openmm.CustomGBForce.NoCutoff:
        raise InputError(
            f"TorchPotential supports a CustomGBForce without cutoff only (NoCutoff); {_WAY_OUT}."
        )
    if force.getNumTabulatedFunctions():
        raise InputError(
            f"TorchPotential does not support tabulated functions of a CustomGBForce; {_WAY_OUT}."
        )
    kinds = {
        openmm.CustomGBForce.SingleParticle: "single",
        openmm.CustomGBForce.ParticlePair: "pair_excluded",
        openmm.CustomGBForce.ParticlePairNoExclusions: "pair",
    }
    values = [force.getComputedValueParameters(k) for k in range(force.getNumComputedValues())]
    energies = [force.getEnergyTermParameters(k) for k in range(force.getNumEnergyTerms())]
    i, j = np.triu_indices(n_atoms, 1)
    included = np.ones((n_atoms, n_atoms))
    for number in range(force.getNumExclusions()):
        a, b = force.getExclusionParticles(number)
        included[a, b] = included[b, a] = 0.0
    return CustomGeneralizedBorn(
        config={
            "parameter_names": [
                force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())
            ],
            "globals": {
                force.getGlobalParameterName(k): force.getGlobalParameterDefaultValue(k)
                for k in range(force.getNumGlobalParameters())
            },
            "values": [[name, text, kinds[kind]] for name, text, kind in values],
            "energies": [[text, kinds[kind]] for text, kind in energies],
        },
        parameters_per_atom=np.array([force.getParticleParameters(k) for k in range(n_atoms)])
        .reshape(n_atoms, -1)
        .T.copy(),
        included=included[i, j][:, None],
    )


def _gbsa_obc(force: openmm.GBSAOBCForce, n_atoms: int) -> Term:
    """GBSAOBCForce is OBC2 with a fixed functional form; it is written as the same kind of expressions."""
    import openmm

    if force.getNonbondedMethod() != openmm.GBSAOBCForce.NoCutoff:
        raise InputError(
            f"TorchPotential supports a GBSAOBCForce without cutoff only (NoCutoff); {_WAY_OUT}."
        )
    charge, radius, scale = np.array([_plain(force.getParticleParameters(k)) for k in range(n_atoms)]).T
    offset = 0.009
    surface = 4.0 * math.pi * _plain([force.getSurfaceAreaEnergy()])[0]
    prefactor = COULOMB_CONSTANT * (1.0 / force.getSoluteDielectric() - 1.0 / force.getSolventDielectric())
    # An atom wholly inside another one adds 2 (1/or - 1/L), which the CustomGBForce models leave out.
    integral = (
        "select(step(r+sr2-or1), 0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r"
        "+select(step(sr2-r-or1), 2*(1/or1-1/L), 0)), 0); U=r+sr2; L=max(or1, D); D=abs(r-sr2)"
    )
    return CustomGeneralizedBorn(
        config={
            "parameter_names": ["charge", "or", "sr", "radius"],
            "globals": {"prefactor": prefactor, "surface": surface},
            "values": [
                ["I", integral, "pair"],
                ["B", "1/(1/or-tanh(psi-0.8*psi^2+4.85*psi^3)/radius); psi=I*or", "single"],
            ],
            "energies": [
                ["-0.5*prefactor*charge^2/B", "single"],
                ["surface*(radius+0.14)^2*(radius/B)^6", "single"],
                ["-prefactor*charge1*charge2/f; f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))", "pair"],
            ],
        },
        parameters_per_atom=np.stack([charge, radius - offset, (radius - offset) * scale, radius]),
        included=np.ones((n_atoms * (n_atoms - 1) // 2, 1)),
    )


def _plain(values: Any) -> list[Any]:
    """Strip units to OpenMM's default unit system (nm, kJ/mol, rad, e)."""
    from openmm import unit

    return [v.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(v) else v for v in values]


def _verify(system: openmm.System, force: openmm.Force, term: Term) -> None:
    """Compare one term with the force it came from, on random compact configurations."""
    import openmm
    from openmm import unit

    from openmm_bg.potentials.torch_potential import TorchPotential, TranslationError

    n_atoms = system.getNumParticles()
    alone = openmm.System()
    for _ in range(n_atoms):
        alone.addParticle(1.0)
    alone.addForce(copy.deepcopy(force))
    context = openmm.Context(
        alone, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    generator = np.random.default_rng(20)
    potential = TorchPotential(n_atoms, [term.copy()])
    n_compared = 0
    for spacing in (0.12, 0.2, 0.35, 0.5):
        positions = _jittered_lattice(n_atoms, spacing, generator)
        context.setPositions(positions)
        state = context.getState(getEnergy=True, getForces=True)
        expected = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        expected_forces = state.getForces(asNumpy=True).value_in_unit(
            unit.kilojoule_per_mole / unit.nanometer
        )
        energy, forces = potential.energy_and_forces(torch.as_tensor(positions)[None])
        if not math.isfinite(expected) and torch.isposinf(energy[0]):
            continue  # some solvent models are undefined (negative Born radii) where atoms crowd
        n_compared += 1
        energy_error = abs(float(energy[0]) - expected)
        force_error = np.linalg.norm(forces[0].numpy() - expected_forces)
        if not (
            energy_error <= 1e-6 * max(abs(expected), 100.0)
            and force_error <= 1e-5 * max(np.linalg.norm(expected_forces), 100.0)
        ):
            raise TranslationError(
                f"The translation of {type(force).__name__} disagrees with OpenMM by {energy_error:.3g} kJ/mol "
                f"in energy and {force_error:.3g} kJ/mol/nm in force; {_WAY_OUT}, and please report this."
            )
    if n_compared < 2:
        raise TranslationError(
            f"The translation of {type(force).__name__} could not be compared with OpenMM; {_WAY_OUT}."
        )


def _jittered_lattice(n_atoms: int, spacing: float, generator: np.random.Generator) -> np.ndarray:
    """Return positions [nm] on a cubic lattice in random order, displaced by up to a fifth of its spacing."""
    side = math.ceil(n_atoms ** (1 / 3))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)
    sites = generator.permutation(len(grid))[:n_atoms]
    return spacing * (grid[sites] + generator.uniform(-0.2, 0.2, size=(n_atoms, 3)))
