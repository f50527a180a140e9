"""Alanine dipeptide (ACE-ALA-NME) in implicit solvent: the system of the published benchmarks."""

from __future__ import annotations

from importlib import resources

from openmm_bg.systems.molecular_system import MolecularSystem


def alanine_dipeptide(*, solvent: bool = True) -> MolecularSystem:
    """Build alanine dipeptide: 22 atoms, AMBER ff96, OBC1 solvent, no cutoff, no constraints.

    The energies equal those of ``openmmtools.testsystems.AlanineDipeptideImplicit(constraints=None)``, or without
    solvent those of ``AlanineDipeptideVacuum(constraints=None)``.

    Args:
        solvent: Whether there is a solvent; otherwise the molecule is called "alanine_dipeptide_vacuum".
    """
    from openmm import app

    data = resources.files("openmm_bg.systems") / "data"
    with resources.as_file(data / "alanine_dipeptide.prmtop") as path:
        prmtop = app.AmberPrmtopFile(str(path))
    with resources.as_file(data / "alanine_dipeptide.inpcrd") as path:
        positions = app.AmberInpcrdFile(str(path)).getPositions(asNumpy=True)
    system = prmtop.createSystem(
        nonbondedMethod=app.NoCutoff, constraints=None, implicitSolvent=app.OBC1 if solvent else None
    )
    return MolecularSystem(
        name="alanine_dipeptide" if solvent else "alanine_dipeptide_vacuum",
        system=system,
        topology=prmtop.topology,
        positions=positions,
        temperature=300.0,
        torsions={"phi": (4, 6, 8, 14), "psi": (6, 8, 14, 16)},
    )
