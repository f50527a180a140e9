"""What a check finds in molecules that are supported, and in those that are not."""

import re

import numpy as np
import openmm
import pytest
from molecule_examples import TOLUENE, write_acetonitrile
from openmm import app, unit
from ring_examples import cyclic_peptide

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.molecule_check import STRAINED, VACUUM, check_molecule, require_internal_coordinates
from openmm_bg.potentials.torch_potential import TranslationError
from openmm_bg.systems.molecule_files import MoleculeParts, read_amber_molecule, read_system_molecule


def parts_of(molecule, change=lambda system: None, positions=None):
    """A molecule's parts, its system changed by a function."""
    system = openmm.XmlSerializer.clone(molecule.system)
    change(system)
    positions = molecule.positions if positions is None else positions
    return MoleculeParts(molecule.name, system, molecule.topology, positions)


def test_alanine_dipeptide(alanine, reference_energies_and_forces):
    report = check_molecule(parts_of(alanine))
    assert report.is_supported
    assert report.is_translated
    assert (report.problems, report.notes) == ((), ())
    assert (report.n_atoms, report.n_residues, report.formula) == (22, 3, "C6 H12 N2 O2")
    assert report.mass == pytest.approx(alanine.masses.sum())
    assert report.charge == 0
    assert report.solvent == "implicit (CustomGBForce)"
    assert (report.rings, report.chiral_centres) == ((), ("CA of ALA 2 (L)",))
    sizes = {force.name: (force.size, force.translated) for force in report.forces}
    assert sizes["HarmonicBondForce"] == ("21 bonds", True)
    assert sizes["NonbondedForce"] == ("22 particles, 98 exceptions", True)
    assert sizes["CMMotionRemover"] == ("", None)
    energies, forces = reference_energies_and_forces(alanine.system, alanine.positions[None])
    assert report.energies.openmm == pytest.approx(energies[0], abs=1e-9)
    assert report.energies.torch == pytest.approx(energies[0], abs=1e-6)
    assert report.energies.largest_force == pytest.approx(np.linalg.norm(forces[0], axis=1).max())
    assert report.energies.force_error < 1e-6
    assert dict(report.conditions)["constraints"] == "0"
    assert np.degrees(abs(report.torsions["phi"])) == pytest.approx(180, abs=1)


def test_z_matrix_of_alanine_dipeptide(alanine):
    z = check_molecule(parts_of(alanine)).z_matrix
    assert (z.n_bonds, z.n_angles, z.n_free + z.n_in_rings + z.n_relative) == (21, 20, 19)
    # By hand: two methyls at the ends, two peptide bonds, phi, psi and the side chain's methyl.
    assert z.free == {
        "ACE 1": ["CH3-C", "omega"],
        "ALA 2": ["phi", "CA-CB", "psi", "omega"],
        "NME 3": ["N-C"],
    }
    assert (z.n_in_rings, z.n_centres) == (0, 4)


def test_toluene():
    report = check_molecule(read_amber_molecule(TOLUENE / "solvent.prmtop", TOLUENE / "solvent.inpcrd"))
    assert report.is_supported
    assert (report.formula, report.rings, report.chiral_centres) == ("C7 H8", ("TOL 1 (6)",), ())
    assert report.solvent == VACUUM
    assert report.z_matrix.free == {"TOL 1": ["C6-C7"]}
    assert report.z_matrix.n_free + report.z_matrix.n_in_rings + report.z_matrix.n_relative == 12
    assert report.torsions == {}


def test_peptide_with_rings_and_several_chiral_centres():
    topology, positions = systems.build_peptide("PWT")
    system = systems.force_fields.implicit_solvent_system(topology)
    report = check_molecule(MoleculeParts("peptide", system, topology, positions))
    assert sorted(report.rings) == ["PRO 1 (5)", "TRP 2 (5)", "TRP 2 (6)"]
    centres = ("CA of PRO 1 (L)", "CA of TRP 2 (L)", "CA of THR 3 (L)", "CB of THR 3")
    assert report.chiral_centres == centres
    assert report.z_matrix.free["TRP 2"] == ["phi", "CA-CB", "psi", "CB-CG", "omega"]
    assert "phi" not in report.z_matrix.free["PRO 1"]


def test_mirror_image_is_told(alanine):
    report = check_molecule(parts_of(alanine, positions=alanine.positions * [1, 1, -1]))
    assert report.chiral_centres == ("CA of ALA 2 (D)",)


def add_rmsd(system):
    system.addForce(openmm.RMSDForce(np.zeros((22, 3)) + np.arange(66).reshape(22, 3)))


def test_force_that_is_not_translated(alanine):
    report = check_molecule(parts_of(alanine, add_rmsd))
    assert report.is_supported
    assert not report.is_translated
    (force,) = (force for force in report.forces if force.translated is False)
    assert force.name == "RMSDForce"
    assert "does not support RMSDForce" in force.remark
    assert (report.energies.torch, report.energies.force_error) == (None, None)
    assert "--engine openmm" in report.notes[0]


def spoil(system):
    system.addConstraint(0, 1, 0.1)
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin))
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce | openmm.CustomGBForce):
            force.setNonbondedMethod(force.CutoffPeriodic)


def test_all_problems_are_told(alanine):
    report = check_molecule(parts_of(alanine, spoil))
    assert not report.is_supported
    assert [re.search("constraint|barostat|periodic", problem)[0] for problem in report.problems] == [
        "constraint",
        "barostat",
        "periodic",
    ]
    assert dict(report.conditions) == {
        "constraints": "1",
        "virtual sites": "0",
        "periodic box": "used",
        "barostat": "MonteCarloBarostat",
        "cutoff": "1 nm",
    }
    assert report.notes == ()


def test_system_that_openmm_refuses(alanine):
    def disagree(system):
        for value in (1.0, 2.0):
            force = openmm.CustomBondForce("strength*r")
            force.addGlobalParameter("strength", value)
            system.addForce(force)

    report = check_molecule(parts_of(alanine, disagree))
    assert report.energies is None
    assert re.search("OpenMM does not accept the system: .*strength.*; mend it", report.problems[0])


def test_wrong_translation_is_a_problem(alanine, monkeypatch):
    def wrong(n_atoms, force, terms):
        if isinstance(force, openmm.HarmonicBondForce):
            raise TranslationError("The translation of HarmonicBondForce disagrees with OpenMM.")

    monkeypatch.setattr("openmm_bg.potentials.translation.verify", wrong)
    report = check_molecule(parts_of(alanine))
    assert report.problems == ("The translation of HarmonicBondForce disagrees with OpenMM.",)
    assert [force.name for force in report.forces if force.translated is False] == ["HarmonicBondForce"]


def test_positions_that_are_strained_or_impossible(alanine):
    close = alanine.positions.copy()
    close[0] = close[19] + 0.05  # two hydrogens of the ends
    report = check_molecule(parts_of(alanine, positions=close))
    assert report.energies.largest_force > STRAINED
    assert "minimise the structure first" in report.notes[0]
    close[0] = close[19]
    report = check_molecule(parts_of(alanine, positions=close))
    assert "is not finite: give positions" in report.problems[0]


def test_parameters_that_are_not_finite(alanine):
    def spoil_charge(system):
        force = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
        force.setParticleParameters(0, np.nan, 0.1, 0.1)

    report = check_molecule(parts_of(alanine, spoil_charge))
    assert report.problems == ("NonbondedForce has parameters that are NaN or infinite: mend them.",)


def test_solvent_that_counts_twice(alanine):
    gb = next(force for force in alanine.system.getForces() if isinstance(force, openmm.CustomGBForce))
    report = check_molecule(parts_of(alanine, lambda system: system.addForce(openmm.XmlSerializer.clone(gb))))
    assert report.solvent == "implicit (CustomGBForce, CustomGBForce)"
    (problem,) = report.problems
    assert "2 generalized Born forces (CustomGBForce, CustomGBForce), so that the solvent counts" in problem


def test_ring_over_several_residues():
    molecule = cyclic_peptide("ALA")
    assert check_molecule(parts_of(molecule)).rings == ("ALA 1 to ALA 4 (12)",)


def test_centres_of_sulfur_with_three_bonds_are_noted():
    """Dimethyl sulfoxide without its hydrogens."""
    topology, system, springs = app.Topology(), openmm.System(), openmm.HarmonicBondForce()
    residue = topology.addResidue("DMS", topology.addChain())
    positions = np.array([(0.0, 0.0, 0.0), (0.0, 0.0, 0.149), (0.17, 0.0, -0.055), (-0.03, 0.168, -0.055)])
    atoms = [
        topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("S1", "O1", "C1", "C2")
    ]
    for k, atom in enumerate(atoms):
        system.addParticle(atom.element.mass)
        if k:
            topology.addBond(atoms[0], atom)
            springs.addBond(0, k, float(np.linalg.norm(positions[k])), 3e5)
    system.addForce(springs)
    report = check_molecule(MoleculeParts("sulfoxide", system, topology, positions))
    assert report.is_supported
    (note,) = report.notes
    assert note.startswith("S or P with three bonds (S1 of DMS 1): both hands belong to the target")


def test_straight_molecule(tmp_path):
    parts = read_system_molecule(*write_acetonitrile(tmp_path))
    report = check_molecule(parts)
    assert report.z_matrix is None
    assert re.search(r"N1 \(ACN 1\), .* are nearly in a straight line", report.problems[0])
    with pytest.raises(InputError, match=r"C1 \(ACN 1\).* nearly in a straight line"):
        require_internal_coordinates(parts.molecule())
    require_internal_coordinates(systems.load("alanine_dipeptide"))
