"""Molecules from files: PDB with force fields, AMBER, CHARMM, and serialised OpenMM systems.

Each function returns `MoleculeParts`: checked to be one molecule with positions that fit its bonds, but not yet for
what `MolecularSystem` refuses (constraints, boxes and so on), so that a report can say all that is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.systems.coordinate_files import parsed, read_positions
from openmm_bg.systems.pdb_files import cause, existing, keep_names, models_note, read_pdb, sentence
from openmm_bg.systems.residue_problems import refuse_several_molecules, refuse_solvent, template_problem
from openmm_bg.systems.topology_checks import check_bonds, check_names, check_terms, split_chains
from openmm_bg.systems.torsions import backbone_torsions
from openmm_bg.systems.validation import solvent_problems

if TYPE_CHECKING:
    import openmm
    from openmm import app

    from openmm_bg.systems.molecular_system import MolecularSystem

IMPLICIT_SOLVENTS = ("none", "HCT", "OBC1", "OBC2", "GBn", "GBn2")
"""The generalised Born models for AMBER and CHARMM files; "none" is vacuum."""


@dataclass(frozen=True, eq=False)
class MoleculeParts:
    """What files say of a molecule.

    Attributes:
        name: A short name.
        system: The OpenMM system.
        topology: The OpenMM topology, with bonds.
        positions: Positions [nm] with shape=(n_atoms, 3).
        notes: What is not as it should be, but does not hinder.
        solvent: The implicit solvent that was asked for, e.g. "OBC2".
    """

    name: str
    system: openmm.System
    topology: app.Topology
    positions: np.ndarray
    notes: tuple[str, ...] = ()
    solvent: str = ""

    def molecule(self, name: str | None = None, temperature: Any = 300.0) -> MolecularSystem:
        """Return the molecular system; the notes become warnings.

        Args:
            name: The system's name; that of the file if not given.
            temperature: The temperature of interest [K].

        Raises:
            InputError: If it has constraints, virtual sites, a periodic box, a barostat or two solvents.
        """
        from openmm_bg.systems.molecular_system import MolecularSystem

        for problem in solvent_problems(self.system):
            raise InputError(problem)
        molecule = MolecularSystem(
            name=name or self.name,
            system=self.system,
            topology=self.topology,
            positions=self.positions,
            temperature=temperature,
            torsions=backbone_torsions(self.topology),
        )
        for note in self.notes:
            warnings.warn(note, ReliabilityWarning, stacklevel=3)
        return molecule


def read_pdb_molecule(
    path: str | Path, forcefield: Sequence[str], implicit_solvent: str = "none"
) -> MoleculeParts:
    """Read a PDB file and give it the parameters of OpenMM's force-field files.

    Args:
        path: The PDB file, with all hydrogens. A periodic box in it is ignored.
        forcefield: Names of force-field XML files, e.g. ``["amber14-all.xml", "implicit/obc1.xml"]``.
        implicit_solvent: One of `IMPLICIT_SOLVENTS`, in any case: its file is added to the others.

    Raises:
        InputError: If the file cannot be used, is not of one molecule, or the force field lacks parameters.
    """
    from openmm import app

    files = [forcefield] if isinstance(forcefield, str) else list(forcefield)
    if not files:
        raise InputError('Give the names of force-field files, e.g. "amber14-all.xml implicit/obc1.xml".')
    solvent_name, _ = _solvent(implicit_solvent)
    if solvent_name:
        files.append(f"implicit/{solvent_name.lower()}.xml")
    pdb = read_pdb(path)
    try:
        loaded = app.ForceField(*files)
    except Exception as error:
        raise InputError(f"The force field {files} cannot be loaded: {cause(error)}") from error
    topology = pdb.topology
    refuse_solvent(topology, path)
    topology.setPeriodicBoxVectors(None)
    try:
        system = loaded.createSystem(
            topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
        )
    except Exception as error:
        raise InputError(template_problem(error, loaded, topology, files, path)) from error
    positions, notes = pdb.getPositions(asNumpy=True), models_note(pdb, path)
    return _checked(Path(path).stem, system, topology, positions, path, path, notes, solvent_name)


def read_amber_molecule(
    prmtop: str | Path, coordinates: str | Path, implicit_solvent: str = "none"
) -> MoleculeParts:
    """Read AMBER's files, without cutoff and constraints.

    Args:
        prmtop: The parameter and topology file.
        coordinates: Positions: an inpcrd or restart file, or a PDB file (``.pdb``) of the same atoms.
        implicit_solvent: One of `IMPLICIT_SOLVENTS`, in any case.

    Raises:
        InputError: If a file cannot be used, or they are not of one molecule without a periodic box.
    """
    from openmm import app

    solvent_name, solvent = _solvent(implicit_solvent)
    loaded = parsed(lambda: app.AmberPrmtopFile(str(existing(prmtop))), prmtop, "an AMBER prmtop file")
    refuse_solvent(loaded.topology, prmtop)
    if loaded.topology.getPeriodicBoxVectors() is not None:
        raise InputError(
            f"{prmtop} has a periodic box, so that it is meant for a cutoff and PME: remove the box, e.g. with "
            "cpptraj (parm FILE; parmbox nobox; parmwrite out NEW), and use implicit solvent."
        )
    system, notes = _created(
        lambda: loaded.createSystem(
            nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, implicitSolvent=solvent
        ),
        prmtop,
    )
    topology = split_chains(loaded.topology)
    positions, more = read_positions(coordinates, topology)
    notes += more
    return _checked(Path(prmtop).stem, system, topology, positions, prmtop, coordinates, notes, solvent_name)


def read_charmm_molecule(
    psf: str | Path,
    parameters: Sequence[str | Path],
    coordinates: str | Path,
    implicit_solvent: str = "none",
) -> MoleculeParts:
    """Read CHARMM's files, without cutoff and constraints.

    Args:
        psf: The structure file.
        parameters: Parameter files (``.prm``, ``.par``), and topology (``.rtf``, ``.top``) and stream files
            (``.str``) where they hold masses or parameters.
        coordinates: Positions: a PDB file (``.pdb``) or a CHARMM coordinate file (``.crd``, ``.cor``).
        implicit_solvent: One of `IMPLICIT_SOLVENTS`, in any case.

    Raises:
        InputError: If a file cannot be used, a parameter is missing, or they are not of one molecule.
    """
    from openmm import app

    solvent_name, solvent = _solvent(implicit_solvent)
    if not parameters:
        raise InputError(f"{psf} needs CHARMM's parameter files: give them with --parameters, once for each.")
    files = [str(existing(file)) for file in parameters]
    loaded = parsed(lambda: app.CharmmPsfFile(str(existing(psf))), psf, "a CHARMM PSF file")
    known = parsed(lambda: app.CharmmParameterSet(*files), ", ".join(files), "a set of CHARMM parameters")
    system, notes = _created(
        lambda: loaded.createSystem(
            known, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, implicitSolvent=solvent
        ),
        psf,
    )
    topology = loaded.topology
    refuse_solvent(topology, psf)
    keep_names(topology, _psf_names(psf))
    positions, more = read_positions(coordinates, topology)
    notes += more
    return _checked(Path(psf).stem, system, topology, positions, psf, coordinates, notes, solvent_name)


def read_system_molecule(system_xml: str | Path, topology_pdb: str | Path) -> MoleculeParts:
    """Read a serialised OpenMM system, and a PDB file with its topology and positions.

    Args:
        system_xml: What ``openmm.XmlSerializer.serialize(system)`` gave.
        topology_pdb: A PDB file of the same atoms in the same order, with CONECT records for residues that OpenMM
            does not know.

    Raises:
        InputError: If a file cannot be used, they disagree, or are not of one molecule.
    """
    system = read_system(system_xml)
    pdb = read_pdb(topology_pdb)
    n_particles, n_atoms = system.getNumParticles(), pdb.topology.getNumAtoms()
    if n_particles != n_atoms:
        raise InputError(
            f"{system_xml} has {n_particles} particles but the topology has {n_atoms} atoms; give the PDB file "
            "that the system was made from."
        )
    refuse_solvent(pdb.topology, topology_pdb)
    if not system.usesPeriodicBoundaryConditions():
        pdb.topology.setPeriodicBoxVectors(None)
    parts = _checked(
        Path(topology_pdb).stem,
        system,
        pdb.topology,
        pdb.getPositions(asNumpy=True),
        topology_pdb,
        topology_pdb,
    )
    notes = check_terms(system, pdb.topology, system_xml, topology_pdb)
    return replace(parts, notes=(*models_note(pdb, topology_pdb), *notes))


def read_system(path: str | Path) -> openmm.System:
    """Read a serialised OpenMM system.

    Raises:
        InputError: If there is no such file, or it holds something else.
    """
    import openmm

    try:
        system = openmm.XmlSerializer.deserialize(existing(path).read_text())
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} is not a serialised OpenMM system: {cause(error)}") from error
    if not isinstance(system, openmm.System):
        raise InputError(f"{path} holds a {type(system).__name__}, not an OpenMM system.")
    return system


def _psf_names(path: str | Path) -> list[str]:
    """Return the names of the atoms in a PSF file, which OpenMM has read without a complaint."""
    with Path(path).open(errors="replace") as file:
        count = next(int(line.split()[0]) for line in file if "!NATOM" in line)
        return [next(file).split()[4] for _ in range(count)]


def _checked(
    name: str,
    system: openmm.System,
    topology: app.Topology,
    positions: Any,
    source: str | Path,
    coordinates: str | Path,
    notes: Sequence[str] = (),
    solvent: str = "",
) -> MoleculeParts:
    from openmm_bg.units import nanometers

    array = np.array(nanometers(positions), dtype=np.float64)
    check_names(topology, source)
    refuse_several_molecules(topology, source)
    check_bonds(topology, array, coordinates)
    return MoleculeParts(name, system, topology, array, tuple(notes), solvent)


def _solvent(name: str) -> tuple[str, Any]:
    """Return an implicit solvent's name and OpenMM's object for it."""
    from openmm import app

    for known in IMPLICIT_SOLVENTS:
        if name.lower() == known.lower():
            return ("", None) if known == "none" else (known, getattr(app, known))
    raise InputError(f"There is no implicit solvent {name!r}; there are: {', '.join(IMPLICIT_SOLVENTS)}.")


def _created(create: Callable[[], openmm.System], source: str | Path) -> tuple[openmm.System, list[str]]:
    """Return a system, and what OpenMM warned of."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            system = create()
    except Exception as error:  # a parameter is missing, a radius is out of range: many kinds
        raise InputError(
            f"No system can be made of {source}: {cause(error).rstrip('.')}; mend or add its parameters."
        ) from error
    return system, [f"OpenMM says of {source}: {sentence(str(one.message))}" for one in caught]
