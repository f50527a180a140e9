"""Whether a molecule can be sampled, and how: its forces, its internal coordinates, and what is in the way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.molecule_report import EnergyReport, ForceReport, MoleculeReport, ZMatrixReport
from openmm_bg.systems.molecule_graph import chiral_centres, rings
from openmm_bg.systems.torsions import backbone_torsions
from openmm_bg.systems.validation import SOLVENT_FORCES, solvent_problems, system_problems

if TYPE_CHECKING:
    import openmm
    from openmm import app

    from openmm_bg.potentials.terms import Term
    from openmm_bg.systems import MolecularSystem
    from openmm_bg.systems.molecule_files import MoleculeParts

STRAINED = 2e4
"""A force on an atom [kJ/mol/nm] above which a structure should be minimised before anything else."""

VACUUM = "no generalized Born force (vacuum, unless a custom force stands for the solvent)"
"""How a molecule without a force that is known to be a solvent's is described."""

_COUNTED = ("Bonds", "Angles", "Torsions", "Maps", "Particles", "Exclusions", "Exceptions")
_NOT_FINITE = re.compile(r'="[+-]?(nan|inf)"', re.IGNORECASE)
_BACKBONE = {("N", "CA"): "phi", ("CA", "C"): "psi", ("C", "N"): "omega"}


def check_molecule(parts: MoleculeParts) -> MoleculeReport:
    """Find out whether a molecule is supported, and all that is in the way.

    Args:
        parts: The molecule, as its files gave it.
    """
    system, atoms, bonds = parts.system, list(parts.topology.atoms()), _bonds(parts.topology)
    found_rings = rings(len(atoms), bonds)
    elements = [atom.element.symbol for atom in atoms]
    problems, notes = [*system_problems(system), *solvent_problems(system)], list(parts.notes)
    z_matrix = None
    try:
        z_matrix = _z_matrix(parts, bonds, found_rings)
    except InputError as error:
        problems.append(_with_names(str(error), atoms))
    forces, terms, defects = _forces(system)
    problems += defects
    energies = None
    try:
        energies = _energies(system, parts.positions, terms)
    except InputError as error:
        problems.append(str(error))
    if energies is None:
        pass
    elif not np.isfinite(energies.openmm) or not np.isfinite(energies.largest_force):
        problems.append(_not_finite(system))
    elif energies.largest_force > STRAINED:
        notes.append(
            f"A force of {energies.largest_force:.3g} kJ/mol/nm acts on an atom: minimise the structure first."
        )
    if not problems and any(force.translated is False for force in forces):
        notes.append(
            "OpenMM evaluates the forces that are not translated, which is slower: use --engine openmm."
        )
    if three := _three_bonds(elements, bonds):
        names = ", ".join(f"{atoms[k].name} of {_label(atoms[k])}" for k in three)
        notes.append(
            f"S or P with three bonds ({names}): both hands belong to the target, but dynamics hardly ever turns "
            "one into the other, so that training data have one only."
        )
    torsions = backbone_torsions(parts.topology)
    angles = dihedrals(parts.positions, np.array(list(torsions.values())).reshape(-1, 4))
    return MoleculeReport(
        name=parts.name,
        n_atoms=len(atoms),
        n_residues=parts.topology.getNumResidues(),
        formula=_formula(elements),
        mass=_total_mass(system),
        charge=_charge(system),
        solvent=describe_solvent(parts),
        rings=tuple(_ring_label([atoms[k] for k in sorted(ring)]) for ring in found_rings),
        chiral_centres=tuple(
            f"{atoms[k].name} of {_label(atoms[k])}{_handedness(atoms[k], parts.positions)}"
            for k in chiral_centres(elements, bonds)
        ),
        forces=forces,
        energies=energies,
        conditions=tuple(_conditions(system)),
        z_matrix=z_matrix,
        torsions=dict(zip(torsions, angles.tolist(), strict=True)),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def require_internal_coordinates(molecule: MolecularSystem) -> None:
    """Refuse a molecule that no flow can be trained for.

    Raises:
        InputError: If it has no Z-matrix, or a straight angle.
    """
    from openmm_bg.transforms import InternalCoordinates

    try:
        InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)
    except InputError as error:
        raise InputError(_with_names(str(error), list(molecule.topology.atoms()))) from error


def _bonds(topology: app.Topology) -> np.ndarray:
    pairs = sorted(sorted((bond[0].index, bond[1].index)) for bond in topology.bonds())
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _label(atom: app.topology.Atom) -> str:
    return f"{atom.residue.name} {atom.residue.id}"


def _ring_label(atoms: Sequence[app.topology.Atom]) -> str:
    """Return the residues of a ring, from the first to the last one, and its size."""
    first, last = _label(atoms[0]), _label(atoms[-1])
    return f"{first if first == last else f'{first} to {last}'} ({len(atoms)})"


def _three_bonds(elements: Sequence[str], bonds: np.ndarray) -> list[int]:
    """Return the atoms whose three bonds hold their hand, unlike those of nitrogen."""
    counts = np.bincount(bonds.ravel(), minlength=len(elements))
    return [k for k, element in enumerate(elements) if element in ("P", "S") and counts[k] == 3]


def _not_finite(system: openmm.System) -> str:
    """Return why an energy is not finite: parameters, or else positions."""
    import openmm

    for force in system.getForces():
        if _NOT_FINITE.search(openmm.XmlSerializer.serialize(force)):
            return f"{type(force).__name__} has parameters that are NaN or infinite: mend them."
    return "The energy of the given positions is not finite: give positions without overlaps."


def _handedness(atom: app.topology.Atom, positions: np.ndarray) -> str:
    """Return " (L)" or " (D)" of the central atom of an amino acid, else nothing."""
    own = {other.name: positions[other.index] for other in atom.residue.atoms()}
    if atom.name != "CA" or not {"N", "C", "CB"} <= own.keys():
        return ""
    n, c, cb = (own[name] - own["CA"] for name in ("N", "C", "CB"))
    return " (L)" if np.linalg.det([n, c, cb]) > 0 else " (D)"


def _with_names(message: str, atoms: Sequence[app.topology.Atom]) -> str:
    """Put names for the indices of atoms in a message of the internal coordinates."""

    def names(match: re.Match[str]) -> str:
        found = [atoms[int(k)] for k in match[1].split(", ")]
        return ", ".join(f"{atom.name} ({_label(atom)})" for atom in found)

    return re.sub(r"\[(\d+(?:, \d+)*)\]", names, message)


def _formula(elements: Sequence[str]) -> str:
    """Return the sum formula: carbon, hydrogen, then by the alphabet (Hill, J. Am. Chem. Soc. 22 (1900) 478)."""
    counts = Counter(elements)
    first = ("C", "H") if "C" in counts else ()
    order = sorted(counts, key=lambda symbol: (symbol not in first, symbol))
    return " ".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)


def _total_mass(system: openmm.System) -> float:
    from openmm import unit

    particles = range(system.getNumParticles())
    return sum(system.getParticleMass(k).value_in_unit(unit.dalton) for k in particles)


def _charge(system: openmm.System) -> float | None:
    import openmm
    from openmm import unit

    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            charges = [force.getParticleParameters(k)[0] for k in range(force.getNumParticles())]
            total = sum(charge.value_in_unit(unit.elementary_charge) for charge in charges)
            return round(total, 4) + 0.0  # no "-0"
    return None


def describe_solvent(parts: MoleculeParts) -> str:
    """Return how a molecule's forces represent the solvent; `VACUUM` if they do not."""
    kinds = [type(force).__name__ for force in parts.system.getForces()]
    found = [kind for kind in kinds if kind in SOLVENT_FORCES]
    if not found:
        return VACUUM
    return f"implicit{f': {parts.solvent}' if parts.solvent else ''} ({', '.join(found)})"


def _conditions(system: openmm.System) -> Iterator[tuple[str, str]]:
    """Yield what a system must not have, and how far its forces reach."""
    from openmm import unit

    particles = range(system.getNumParticles())
    yield "constraints", str(system.getNumConstraints())
    yield "virtual sites", str(sum(system.isVirtualSite(k) for k in particles))
    yield "periodic box", "used" if system.usesPeriodicBoundaryConditions() else "none"
    barostats = [f.getName() for f in system.getForces() if "Barostat" in type(f).__name__]
    yield "barostat", ", ".join(barostats) or "none"
    cutoffs = {
        f"{force.getCutoffDistance().value_in_unit(unit.nanometer):g} nm"
        for force in system.getForces()
        if hasattr(force, "getNonbondedMethod") and force.getNonbondedMethod() != force.NoCutoff
    }
    yield "cutoff", ", ".join(sorted(cutoffs)) or "none"


def _forces(system: openmm.System) -> tuple[tuple[ForceReport, ...], list[Term] | None, list[str]]:
    """Return a report of each force, the terms of all (None if some have none), and wrong translations."""
    from openmm_bg.potentials.torch_potential import TranslationError
    from openmm_bg.potentials.translation import IGNORED, translate_force

    reports: list[ForceReport] = []
    terms: list[Term] | None = []
    defects: list[str] = []
    for force in system.getForces():
        kind = type(force).__name__
        name = kind if force.getName() == kind else f"{kind} {force.getName()!r}"
        if kind in IGNORED or "Barostat" in kind:
            reports.append(ForceReport(name, "", None, "no energy"))
            continue
        try:
            found = translate_force(force, system.getNumParticles())
        except InputError as error:
            reports.append(ForceReport(name, _size(force), False, str(error)))
            terms = None
            if isinstance(error, TranslationError):  # training refuses it
                defects.append(str(error))
        else:
            reports.append(ForceReport(name, _size(force), True))
            terms = None if terms is None else terms + found
    return tuple(reports), terms, defects


def _size(force: openmm.Force) -> str:
    """Return what a force consists of, e.g. "21 bonds"."""
    counts = {name.lower(): getattr(force, f"getNum{name}", int)() for name in _COUNTED}
    return ", ".join(
        f"{count} {name if count != 1 else name.removesuffix('s')}" for name, count in counts.items() if count
    )


def _energies(system: openmm.System, positions: np.ndarray, terms: list[Term] | None) -> EnergyReport:
    """Evaluate the energy in both ways.

    Raises:
        InputError: If OpenMM does not accept the system; barostats are left out.
    """
    import openmm
    from openmm import unit

    from openmm_bg.potentials import TorchPotential

    system = openmm.XmlSerializer.clone(system)
    for k in reversed(range(system.getNumForces())):
        if "Barostat" in type(system.getForce(k)).__name__:
            system.removeForce(k)
    platform = openmm.Platform.getPlatformByName("Reference")
    try:
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(positions)
        state = context.getState(energy=True, forces=True)
    except openmm.OpenMMException as error:
        raise InputError(f"OpenMM does not accept the system: {str(error).rstrip('.')}; mend it.") from error
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    largest = float(np.linalg.norm(forces, axis=1).max())
    if terms is None:
        return EnergyReport(energy, None, None, largest)
    potential = TorchPotential(len(positions), terms, mode="eager")
    ours, our_forces = potential.energy_and_forces(positions[None])
    difference = np.linalg.norm(our_forces[0].numpy() - forces, axis=1).max()
    return EnergyReport(energy, float(ours[0]), float(difference), largest)


def _z_matrix(parts: MoleculeParts, bonds: np.ndarray, found_rings: list[list[int]]) -> ZMatrixReport:
    """Count the internal coordinates, and name the torsions that turn freely.

    Raises:
        InputError: If the molecule has none.
    """
    from openmm import unit

    from openmm_bg.transforms import InternalCoordinates

    particles = range(parts.system.getNumParticles())
    masses = np.array([parts.system.getParticleMass(k).value_in_unit(unit.dalton) for k in particles])
    coordinates = InternalCoordinates.from_reference(parts.positions, bonds, masses)
    z, atoms = coordinates.z_matrix, list(parts.topology.atoms())
    ring_bonds = {
        frozenset(pair) for ring in found_rings for pair in zip(ring, [*ring[1:], ring[0]], strict=True)
    }
    proper = [row for row in range(3, z.n_atoms) if z.sibling[row] < 0]
    axes = sorted(sorted((int(z.bond[row]), int(z.angle[row]))) for row in proper)
    turning = [axis for axis in axes if frozenset(axis) not in ring_bonds]
    free: dict[str, list[str]] = {}
    for first, second in turning:
        free.setdefault(_label(atoms[first]), []).append(_bond_name(atoms[first], atoms[second]))
    neighbours = np.bincount(bonds.ravel(), minlength=z.n_atoms)
    return ZMatrixReport(
        n_bonds=z.n_atoms - 1,
        n_angles=z.n_atoms - 2,
        n_relative=z.n_atoms - 3 - len(proper),
        n_in_rings=len(axes) - len(turning),
        free=free,
        n_centres=int((neighbours == 4).sum()),
    )


def _bond_name(first: app.topology.Atom, second: app.topology.Atom) -> str:
    for one, other in ((first, second), (second, first)):
        name = _BACKBONE.get((one.name, other.name))
        if name and (name == "omega") == (one.residue is not other.residue):
            return name
    return f"{first.name}-{second.name}"
