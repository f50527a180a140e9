"""What a check of a molecule finds: its forces, energies and internal coordinates, and what is in the way."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ForceReport:
    """One force of a system.

    Attributes:
        name: Its class, and its own name if it has one.
        size: What it consists of, e.g. "21 bonds".
        translated: Whether `TorchPotential` evaluates it; None if it has no energy.
        remark: Why not, or what is to be known.
    """

    name: str
    size: str
    translated: bool | None
    remark: str = ""


@dataclass(frozen=True)
class EnergyReport:
    """Energies of a molecule at the given positions.

    Attributes:
        openmm: On OpenMM's Reference platform [kJ/mol].
        torch: By `TorchPotential` [kJ/mol]; None if a force is not translated.
        force_error: Largest difference of the two forces on an atom [kJ/mol/nm]; None likewise.
        largest_force: Largest force on an atom [kJ/mol/nm].
    """

    openmm: float
    torch: float | None
    force_error: float | None
    largest_force: float


@dataclass(frozen=True)
class ZMatrixReport:
    """A molecule's internal coordinates.

    Attributes:
        n_bonds: Bond lengths.
        n_angles: Bond angles.
        n_relative: Torsions relative to a sibling's, which are stiff.
        n_in_rings: Proper torsions about bonds of rings.
        free: Proper torsions about other bonds, by residue: the bonds, with the names of backbone torsions.
        n_centres: Centres with four bonds, whose handedness and hydrogen labels the reference structure fixes.
    """

    n_bonds: int
    n_angles: int
    n_relative: int
    n_in_rings: int
    free: dict[str, list[str]]
    n_centres: int

    @property
    def n_free(self) -> int:
        """The number of torsions about bonds outside rings."""
        return sum(len(names) for names in self.free.values())


@dataclass(frozen=True)
class MoleculeReport:
    """What `check_molecule` found.

    Attributes:
        name: The molecule's name.
        n_atoms: Atoms.
        n_residues: Residues.
        formula: Sum formula, in Hill's order.
        mass: Sum of the masses [Da].
        charge: Sum of the charges [e]; None if no force has charges.
        solvent: How the solvent is represented.
        rings: The residues and the size of each ring, e.g. "PHE 3 (6)" or "CYS 1 to CYS 4 (14)".
        chiral_centres: Atoms with four different neighbours.
        forces: The forces.
        energies: The energies; None if OpenMM does not accept the system.
        conditions: Constraints, box and so on: a name and what there is.
        z_matrix: The internal coordinates; None if there are none.
        torsions: Named torsions [rad] at the given positions.
        problems: What is in the way, each with its remedy.
        notes: What else is to be known.
    """

    name: str
    n_atoms: int
    n_residues: int
    formula: str
    mass: float
    charge: float | None
    solvent: str
    rings: tuple[str, ...]
    chiral_centres: tuple[str, ...]
    forces: tuple[ForceReport, ...]
    energies: EnergyReport | None
    conditions: tuple[tuple[str, str], ...]
    z_matrix: ZMatrixReport | None
    torsions: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_supported(self) -> bool:
        """Whether the molecule can be sampled."""
        return not self.problems

    @property
    def is_translated(self) -> bool:
        """Whether `TorchPotential` evaluates all of the energy."""
        return all(force.translated is not False for force in self.forces)
