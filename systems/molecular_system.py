"""What openmm_bg needs to know of a molecule: its OpenMM system, topology and a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.hashing import system_hash
from openmm_bg.systems.pdb_files import read_pdb
from openmm_bg.systems.torsions import backbone_torsions
from openmm_bg.systems.validation import check_system
from openmm_bg.units import kelvin, nanometers

if TYPE_CHECKING:
    import openmm
    from openmm import app


@dataclass(frozen=True, eq=False)
class MolecularSystem:
    """A molecule with its energy function: what a Boltzmann generator is made for.

    Args:
        name: A short name, used in file names and messages.
        system: The OpenMM system. It must have no constraints, virtual sites, periodic box or
            barostat; `InputError` says how to build it without them.
        topology: The OpenMM topology, with bonds.
        positions: A reference configuration [nm] with shape=(n_atoms, 3). Its chirality is the
            chirality that will be sampled.
        temperature: The temperature of interest [K].
        torsions: Torsions worth plotting: a name and four atom indices each.
        starts: Further configurations [nm] by name, each with shape=(n_atoms, 3), from which simulations can
            start. "reference" names `positions` and cannot be among them.

    Raises:
        InputError: If the system is not supported, or system, topology and positions disagree.
    """

    name: str
    system: openmm.System
    topology: app.Topology
    positions: np.ndarray
    temperature: float = 300.0
    torsions: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)
    starts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Convert units, make the fields read-only and check that they agree."""
        check_system(self.system)
        positions = np.array(nanometers(self.positions), dtype=np.float64)
        positions.setflags(write=False)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "temperature", kelvin(self.temperature))
        object.__setattr__(self, "torsions", MappingProxyType(dict(self.torsions)))
        n_particles = self.system.getNumParticles()
        n_topology = self.topology.getNumAtoms()
        if n_topology != n_particles:
            raise InputError(
                f"The system has {n_particles} particles but the topology has {n_topology} atoms; "
                "give the topology that the system was made from."
            )
        if positions.shape != (n_particles, 3):
            raise InputError(
                f"The positions have shape {positions.shape}, but the system needs ({n_particles}, 3)."
            )
        if not np.isfinite(positions).all():
            raise InputError("The reference positions contain NaN or infinite values.")
        for name, atoms in self.torsions.items():
            if len(set(atoms)) != 4 or not all(0 <= atom < n_particles for atom in atoms):
                raise InputError(
                    f"The torsion {name!r} needs four different atoms with indices from 0 to "
                    f"{n_particles - 1}, not {tuple(atoms)}."
                )
        object.__setattr__(self, "starts", MappingProxyType(self._checked_starts()))

    def _checked_starts(self) -> dict[str, np.ndarray]:
        starts = {}
        for name, configuration in self.starts.items():
            positions = np.array(nanometers(configuration), dtype=np.float64)
            if name == "reference":
                raise InputError(
                    "The start 'reference' is the reference configuration; name others otherwise."
                )
            if positions.shape != self.positions.shape or not np.isfinite(positions).all():
                raise InputError(
                    f"The start {name!r} needs finite positions with the shape {self.positions.shape}, "
                    f"and has the shape {positions.shape}."
                )
            positions.setflags(write=False)
            starts[name] = positions
        return starts

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by building anew: a read-only mapping can do neither."""
        values = (
            self.name,
            self.system,
            self.topology,
            self.positions,
            self.temperature,
            dict(self.torsions),
            dict(self.starts),
        )
        return MolecularSystem, values

    @property
    def n_atoms(self) -> int:
        """The number of atoms."""
        return len(self.positions)

    @property
    def bonds(self) -> np.ndarray:
        """The topology's bonds: atom indices with shape=(n_bonds, 2)."""
        pairs = [(bond[0].index, bond[1].index) for bond in self.topology.bonds()]
        return np.array(sorted(tuple(sorted(pair)) for pair in pairs), dtype=np.int64).reshape(-1, 2)

    @property
    def masses(self) -> np.ndarray:
        """The particles' masses [Da] with shape=(n_atoms,)."""
        from openmm import unit

        count = self.system.getNumParticles()
        return np.array([self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(count)])

    @property
    def system_hash(self) -> str:
        """SHA-256 of the energy function: forces and particle number, not masses or thermostats."""
        return system_hash(self.system)

    def with_torsions(self, torsions: Mapping[str, tuple[int, int, int, int]]) -> MolecularSystem:
        """Return the same system with other torsions to plot."""
        return replace(self, torsions=torsions)

    def with_starts(self, starts: Mapping[str, np.ndarray]) -> MolecularSystem:
        """Return the same system with other configurations [nm] from which simulations can start."""
        return replace(self, starts=starts)

    def system_xml(self) -> str:
        """Return the OpenMM system as XML."""
        import openmm

        return openmm.XmlSerializer.serialize(self.system)

    def topology_pdb(self) -> str:
        """Return topology and reference positions as a PDB file's text."""
        import io

        from openmm import app, unit

        text = io.StringIO()
        app.PDBFile.writeFile(self.topology, self.positions * unit.nanometer, text, keepIds=True)
        return text.getvalue()

    @classmethod
    def from_pdb(
        cls,
        path: str | Path,
        forcefield: Sequence[str],
        *,
        name: str | None = None,
        temperature: Any = 300.0,
    ) -> MolecularSystem:
        """Build a system from a PDB file and OpenMM force-field files.

        Args:
            path: The PDB file, with all hydrogens.
            forcefield: Names of force-field XML files, e.g. ``["amber14-all.xml", "implicit/obc1.xml"]``.
            name: The system's name; the file's stem if not given.
            temperature: The temperature of interest [K].

        Raises:
            InputError: If the file cannot be used, is not of one molecule, or the force field lacks parameters.
        """
        from openmm_bg.systems.molecule_files import read_pdb_molecule

        return read_pdb_molecule(path, forcefield).molecule(name, temperature)

    @classmethod
    def from_prmtop(
        cls,
        prmtop: str | Path,
        coordinates: str | Path,
        *,
        implicit_solvent: str = "none",
        name: str | None = None,
        temperature: Any = 300.0,
    ) -> MolecularSystem:
        """Build a system from AMBER's files, without cutoff and constraints.

        Args:
            prmtop: The parameter and topology file.
            coordinates: An inpcrd or restart file, or a PDB file (``.pdb``) of the same atoms.
            implicit_solvent: "HCT", "OBC1", "OBC2", "GBn", "GBn2", or "none" for vacuum.
            name: The system's name; the prmtop file's stem if not given.
            temperature: The temperature of interest [K].

        Raises:
            InputError: If a file cannot be used, or they are not of one molecule without a periodic box.
        """
        from openmm_bg.systems.molecule_files import read_amber_molecule

        return read_amber_molecule(prmtop, coordinates, implicit_solvent).molecule(name, temperature)

    @classmethod
    def from_psf(
        cls,
        psf: str | Path,
        parameters: Sequence[str | Path],
        coordinates: str | Path,
        *,
        implicit_solvent: str = "none",
        name: str | None = None,
        temperature: Any = 300.0,
    ) -> MolecularSystem:
        """Build a system from CHARMM's files, without cutoff and constraints.

        Args:
            psf: The structure file.
            parameters: Parameter, topology and stream files.
            coordinates: A PDB file (``.pdb``) or a CHARMM coordinate file of the same atoms.
            implicit_solvent: "HCT", "OBC1", "OBC2", "GBn", "GBn2", or "none" for vacuum.
            name: The system's name; the PSF file's stem if not given.
            temperature: The temperature of interest [K].

        Raises:
            InputError: If a file cannot be used, a parameter is missing, or they are not of one molecule.
        """
        from openmm_bg.systems.molecule_files import read_charmm_molecule

        parts = read_charmm_molecule(psf, parameters, coordinates, implicit_solvent)
        return parts.molecule(name, temperature)

    @classmethod
    def from_files(
        cls,
        system_xml: str | Path,
        topology_pdb: str | Path,
        *,
        name: str | None = None,
        temperature: Any = 300.0,
        bonds: np.ndarray | None = None,
    ) -> MolecularSystem:
        """Build a system from a serialised OpenMM system and a PDB file with its topology.

        Args:
            system_xml: What ``openmm.XmlSerializer.serialize(system)`` gave.
            topology_pdb: A PDB file of the same atoms in the same order.
            name: The system's name; the PDB file's stem if not given.
            temperature: The temperature of interest [K].
            bonds: All bonds, as pairs of atom indices, of files that were saved with them. If not given, they are
                those that OpenMM finds in the PDB file (it knows the bonds of standard residues and reads CONECT
                records), and the two files are compared.

        Raises:
            InputError: If a file cannot be read, the two disagree, or they are not of one molecule.
        """
        from openmm_bg.systems.molecule_files import read_system, read_system_molecule

        if bonds is None:
            return read_system_molecule(system_xml, topology_pdb).molecule(name, temperature)
        pdb = read_pdb(topology_pdb, strict=False)
        topology = _with_bonds(pdb, bonds)
        return cls(
            name=name or Path(topology_pdb).stem,
            system=read_system(system_xml),
            topology=topology,
            positions=pdb.getPositions(asNumpy=True),
            temperature=temperature,
            torsions=backbone_torsions(topology),
        )


def _with_bonds(pdb: app.PDBFile, bonds: np.ndarray) -> app.Topology:
    """Return a PDB file's topology with these bonds, not those that OpenMM guesses from the atoms' names."""
    from openmm import app

    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.delete(list(pdb.topology.bonds()))
    atoms = list(modeller.topology.atoms())
    for pair in np.asarray(bonds, dtype=np.int64).reshape(-1, 2).tolist():
        if not all(0 <= index < len(atoms) for index in pair):
            raise InputError(f"The bonds do not belong to this molecule: it has no atoms {tuple(pair)}.")
        modeller.topology.addBond(*(atoms[index] for index in pair))
    return modeller.topology
