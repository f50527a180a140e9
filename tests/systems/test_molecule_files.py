"""Molecules from the files of several programs, and files that are not one molecule."""

import re
import warnings
from pathlib import Path

import numpy as np
import openmm
import pytest
from molecule_examples import ETHANOL_POSITIONS, FORCE_FIELD, TOLUENE, alanine_pdb, pdb_of, write_ethanol
from openmm import app
from ring_examples import cyclopropane

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.systems import MolecularSystem, build_peptide
from openmm_bg.systems.molecule_files import (
    read_amber_molecule,
    read_charmm_molecule,
    read_pdb_molecule,
    read_system_molecule,
)
from openmm_bg.systems.pdb_files import check_pdb, read_pdb
from openmm_bg.systems.topology_checks import check_bonds, check_names, split_chains

PRMTOP, INPCRD = TOLUENE / "solvent.prmtop", TOLUENE / "solvent.inpcrd"


@pytest.mark.parametrize("solvent", ["none", "obc1", "GBn2"])
@pytest.mark.filterwarnings("ignore:Non-optimal GB parameters")
def test_toluene_from_amber_is_that_of_openmmtools(solvent, reference_energies_and_forces):
    from openmmtools import testsystems

    parts = read_amber_molecule(PRMTOP, INPCRD, solvent)
    models = {"none": None, "obc1": app.OBC1, "GBn2": app.GBn2}
    if solvent == "none":
        expected = testsystems.TolueneVacuum(constraints=None)
    else:
        expected = testsystems.TolueneImplicit(constraints=None, implicitSolvent=models[solvent])
    positions = parts.positions + 0.005 * np.random.default_rng(0).normal(size=(3, 15, 3))
    ours = reference_energies_and_forces(parts.system, positions)
    theirs = reference_energies_and_forces(expected.system, positions)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(parts.positions, expected.positions.value_in_unit(openmm.unit.nanometer))
    assert parts.solvent == ("" if solvent == "none" else solvent.upper().replace("GBN", "GBn"))


def test_what_openmm_warns_of_becomes_a_note():
    assert read_amber_molecule(PRMTOP, INPCRD).notes == ()
    parts = read_amber_molecule(PRMTOP, INPCRD, "OBC1")
    assert "Non-optimal GB parameters" in parts.notes[0]
    with pytest.warns(ReliabilityWarning, match="Non-optimal GB parameters"):
        molecule = parts.molecule("toluene", 600)
    assert (molecule.name, molecule.temperature, molecule.n_atoms) == ("toluene", 600.0, 15)


def test_amber_positions_from_a_pdb_file():
    parts = read_amber_molecule(PRMTOP, TOLUENE / "solvent.pdb")
    np.testing.assert_allclose(parts.positions, read_amber_molecule(PRMTOP, INPCRD).positions, atol=6e-5)


def test_ethanol_from_charmm(tmp_path, reference_energies_and_forces):
    files = write_ethanol(tmp_path)
    molecule = MolecularSystem.from_psf(files["psf"], [files["prm"]], files["crd"], temperature=350)
    assert (molecule.name, molecule.temperature, len(molecule.bonds)) == ("ethanol", 350.0, 8)
    np.testing.assert_allclose(molecule.positions, ETHANOL_POSITIONS, atol=1e-6)
    direct = app.CharmmPsfFile(str(files["psf"])).createSystem(app.CharmmParameterSet(str(files["prm"])))
    ours, theirs = (
        reference_energies_and_forces(system, ETHANOL_POSITIONS[None]) for system in (molecule.system, direct)
    )
    np.testing.assert_array_equal(ours[0], theirs[0])
    from_pdb = read_charmm_molecule(files["psf"], [files["prm"]], files["pdb"], "obc2")
    np.testing.assert_allclose(from_pdb.positions, ETHANOL_POSITIONS, atol=6e-5)
    assert any(isinstance(force, openmm.CustomGBForce) for force in from_pdb.system.getForces())
    assert [atom.element.symbol for atom in molecule.topology.atoms()] == list("CCOHHHHHH")


def test_implicit_solvent_adds_its_file(tmp_path):
    path = tmp_path / "ala.pdb"
    path.write_text(alanine_pdb())
    by_name = read_pdb_molecule(path, ["amber14-all.xml"], "OBC2").molecule()
    assert by_name.system_hash == MolecularSystem.from_pdb(path, FORCE_FIELD).system_hash
    assert by_name.system_hash != MolecularSystem.from_pdb(path, ["amber14-all.xml"]).system_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PRMTOP, INPCRD, "water"), "no implicit solvent 'water'; there are: none, HCT, OBC1"),
        ((Path("no.prmtop"), INPCRD), "There is no file no.prmtop"),
        ((PRMTOP, Path("no.inpcrd")), "There is no file no.inpcrd"),
        ((INPCRD, INPCRD), "cannot be read as an AMBER prmtop file"),
        ((PRMTOP, PRMTOP), "cannot be read as a file of coordinates"),
        ((PRMTOP, TOLUENE / "complex.inpcrd"), "has 27 positions but the molecule 15 atoms; give"),
        ((PRMTOP, TOLUENE / "complex.pdb"), "has 27 positions but the molecule 15 atoms; give"),
        ((TOLUENE / "complex.prmtop", TOLUENE / "complex.inpcrd"), "2 separate molecules .12 atoms, BEN 1"),
    ],
)
def test_amber_files_that_cannot_be_used(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        read_amber_molecule(*arguments)
    assert "\n" not in str(error.value)


def test_charmm_files_that_cannot_be_used(tmp_path):
    files = write_ethanol(tmp_path)
    psf, prm, pdb = files["psf"], files["prm"], files["pdb"]
    for arguments, message in (
        ((psf, [], pdb), "needs CHARMM's parameter files: give them with --parameters"),
        ((psf, [tmp_path / "no.prm"], pdb), "There is no file"),
        ((psf, [pdb], pdb), "cannot be read as a set of CHARMM parameters: Unrecognized file type"),
        ((pdb, [prm], pdb), "cannot be read as a CHARMM PSF file: Unrecognized PSF file"),
    ):
        with pytest.raises(InputError, match=message):
            read_charmm_molecule(*arguments)
    prm.write_text(prm.read_text().replace("CT2 OH1 HO 50.0 106.0\n", ""))
    with pytest.raises(InputError, match=r"No system can be made of .*Missing angle type.*mend or add"):
        read_charmm_molecule(psf, [prm], pdb)


def test_atoms_that_openmm_calls_the_same(tmp_path):
    """CHARMM makes a capped residue one, with HN and HT1: names of the Protein Data Bank for one hydrogen."""
    files = write_ethanol(tmp_path)
    text = files["psf"].read_text().replace(" ETO ", " ALA ").replace(" H1 ", " HN ").replace(" H2 ", " HT1")
    files["psf"].write_text(text)
    parsed = app.CharmmPsfFile(str(files["psf"])).topology
    assert [atom.name for atom in parsed.atoms()].count("H") == 2  # what has to be undone
    molecule = MolecularSystem.from_psf(files["psf"], [files["prm"]], files["crd"])
    names = [atom.name for atom in molecule.topology.atoms()]
    assert names == ["C1", "C2", "O1", "HN", "HT1", "H3", "H4", "H5", "HO"]
    # What is saved comes back, and can be saved again.
    xml, pdb = tmp_path / "system.xml", tmp_path / "topology.pdb"
    xml.write_text(molecule.system_xml())
    for _ in range(2):
        pdb.write_text(molecule.topology_pdb())
        molecule = MolecularSystem.from_files(xml, pdb, bonds=molecule.bonds)
        assert [atom.name for atom in molecule.topology.atoms()] == names
        np.testing.assert_allclose(molecule.positions, ETHANOL_POSITIONS, atol=6e-5)
    files["psf"].write_text(text.replace(" HT1", " HN "))
    with pytest.raises(InputError, match="2 atoms called HN in ALA 1; give each"):
        read_charmm_molecule(files["psf"], [files["prm"]], files["crd"])


def test_positions_in_another_order(tmp_path):
    files = write_ethanol(tmp_path)
    lines = files["pdb"].read_text().splitlines()
    files["pdb"].write_text("\n".join([lines[2], *lines[:2], *lines[3:]]))
    with pytest.raises(InputError, match=r"Atom 0 of .* is O, but should be C: give the coordinates"):
        read_charmm_molecule(files["psf"], [files["prm"]], files["pdb"])


@pytest.fixture
def system_files(alanine, tmp_path):
    xml, pdb = tmp_path / "system.xml", tmp_path / "topology.pdb"
    xml.write_text(alanine.system_xml())
    pdb.write_text(alanine.topology_pdb())
    return xml, pdb


def test_system_and_topology(alanine, system_files):
    molecule = read_system_molecule(*system_files).molecule()
    assert molecule.system_hash == alanine.system_hash
    np.testing.assert_array_equal(molecule.bonds, alanine.bonds)
    assert dict(molecule.torsions) == dict(alanine.torsions)


def changed_system(alanine, change):
    system = openmm.XmlSerializer.clone(alanine.system)
    change(system)
    return openmm.XmlSerializer.serialize(system)


def heavier(system):
    system.setParticleMass(4, 14.0)


def repartitioned(system):
    system.setParticleMass(0, system.getParticleMass(0) + 2 * openmm.unit.dalton)
    system.setParticleMass(1, system.getParticleMass(1) - 2 * openmm.unit.dalton)


def with_constraint_for_a_bond(system, keep=True):
    bonds, others = system.getForce(0), openmm.HarmonicBondForce()
    for k in range(1, bonds.getNumBonds()):
        others.addBond(*bonds.getBondParameters(k))
    if keep:
        system.addConstraint(*bonds.getBondParameters(0)[:3])
    system.removeForce(0)
    system.addForce(others)


def test_system_of_other_atoms_than_the_topology(alanine, system_files):
    xml, pdb = system_files
    xml.write_text(changed_system(alanine, heavier))
    with pytest.raises(InputError, match=r"a mass of 146\.\d Da, but .* is a molecule of 144\.2 Da; give"):
        read_system_molecule(xml, pdb)
    xml.write_text(changed_system(alanine, lambda system: with_constraint_for_a_bond(system, keep=False)))
    with pytest.raises(InputError, match=r"has a bond between .* where .* has none: .*constraints=None"):
        read_system_molecule(xml, pdb)
    # Neither repartitioned masses nor constraints are a disagreement; constraints are refused later.
    xml.write_text(changed_system(alanine, repartitioned))
    read_system_molecule(xml, pdb)
    xml.write_text(changed_system(alanine, with_constraint_for_a_bond))
    parts = read_system_molecule(xml, pdb)
    with pytest.raises(InputError, match="1 constraint"):
        parts.molecule()


def test_topology_that_lacks_the_bond_of_a_ring(tmp_path):
    molecule = cyclopropane()
    xml, pdb = tmp_path / "system.xml", tmp_path / "topology.pdb"
    xml.write_text(molecule.system_xml())
    pdb.write_text(molecule.topology_pdb())
    np.testing.assert_array_equal(read_system_molecule(xml, pdb).molecule().bonds, molecule.bonds)
    modeller = app.Modeller(molecule.topology, molecule.positions * openmm.unit.nanometer)
    modeller.delete([next(molecule.topology.bonds())])
    pdb.write_text(pdb_of(modeller.topology, molecule.positions))
    with pytest.raises(InputError, match=r"has a bond between C1 of CPR 1 and C2 .* has none: add CONECT"):
        read_system_molecule(xml, pdb)


def test_springs_that_are_no_bonds(alanine, system_files):
    def with_spring(length):
        springs = openmm.HarmonicBondForce()
        springs.addBond(1, 5, length, 1e4)  # CH3 and O of ACE, which are bonded to the same C
        springs.addBond(1, 10, 0.3, 1e3)  # a restraint
        return changed_system(alanine, lambda system: system.addForce(springs))

    xml, pdb = system_files
    xml.write_text(with_spring(0.24))  # as of Urey and Bradley
    assert read_system_molecule(xml, pdb).notes == ()
    xml.write_text(with_spring(0.15))
    with pytest.raises(InputError, match="has a bond between CH3 of ACE 1 and O of ACE 1 where"):
        read_system_molecule(xml, pdb)


def test_system_without_bonds_is_noted(alanine, system_files):
    xml, pdb = system_files
    xml.write_text(changed_system(alanine, lambda system: system.removeForce(0)))
    (note,) = read_system_molecule(xml, pdb).notes
    assert re.search("no force along bonds: .* not compared bond by bond", note)


def test_leaves_of_a_centre_in_another_order(tmp_path):
    """H and F of CHFCl-CH3: bonds and the sum of all masses do not tell, the mass of C with its hydrogens does."""
    masses = {"C": 12.011, "H": 1.008, "F": 18.998, "Cl": 35.453}
    lengths = {"C": 0.152, "H": 0.109, "F": 0.135, "Cl": 0.177}
    directions = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3.0)

    def files(*leaves):
        topology, system, springs, x = (
            app.Topology(),
            openmm.System(),
            openmm.HarmonicBondForce(),
            [np.zeros(3)],
        )
        residue = topology.addResidue("FCE", topology.addChain())
        for k, symbol in enumerate(("C", *leaves, "H", "H", "H")):
            centre = 0 if k < 5 else 4
            atom = topology.addAtom(f"{symbol}{k}", app.Element.getBySymbol(symbol), residue)
            system.addParticle(masses[symbol])
            if k:
                x.append(x[centre] + lengths[symbol] * (directions[k - 1] if k < 5 else -directions[k - 5]))
                springs.addBond(centre, k, lengths[symbol], 3e5)
                topology.addBond(list(topology.atoms())[centre], atom)
        system.addForce(springs)
        xml, pdb = tmp_path / f"{leaves[0]}.xml", tmp_path / f"{leaves[0]}.pdb"
        xml.write_text(openmm.XmlSerializer.serialize(system))
        pdb.write_text(pdb_of(topology, np.array(x)))
        return xml, pdb

    (xml, pdb), (_, other) = files("H", "F", "Cl", "C"), files("F", "H", "Cl", "C")
    read_system_molecule(xml, pdb)
    with pytest.raises(InputError, match=r"31\.0 Da where .* has C0 of FCE 1 with its hydrogens, 13\.0 Da"):
        read_system_molecule(xml, other)


def test_topology_without_bonds(tmp_path):
    xml = tmp_path / "toluene.xml"
    xml.write_text(openmm.XmlSerializer.serialize(read_amber_molecule(PRMTOP, INPCRD).system))
    with pytest.raises(InputError, match=r"no bonds in TOL 1, as OpenMM knows .* add CONECT records"):
        read_system_molecule(xml, TOLUENE / "solvent.pdb")


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            " CB  ALA 1   2",
            " CB AALA 1   2",
            "alternate locations .atom CB of ALA 2 .chain 1., location A.; keep",
        ),
        (
            " ALA 1   2 ",
            " ALA 1   2B",
            "insertion codes .B of residue ALA 2 .chain 1..; number the residues anew",
        ),
        (" HB2 ALA", " HB1 ALA", "two atoms called HB1 in ALA 2 .chain 1.; give each atom"),
    ],
)
def test_what_openmm_would_drop_from_a_pdb_file(tmp_path, old, new, message):
    path = tmp_path / "odd.pdb"
    path.write_text(alanine_pdb())
    check_pdb(path)
    path.write_text(replaced(alanine_pdb(), old, new))
    with pytest.raises(InputError, match=message):
        read_pdb(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_pdb(path, strict=False).topology.getNumAtoms() <= 22  # as OpenMM reads it
    # Only the first model counts, and the same atoms may come again in another one.
    text = alanine_pdb().replace("END\n", "")
    path.write_text(f"MODEL        1\n{text}ENDMDL\nMODEL        2\n{text}ENDMDL\n")
    check_pdb(path)
    (note,) = read_pdb_molecule(path, FORCE_FIELD).notes
    assert note == f"{path} has 2 models, of which the first one is read."


def test_remarks_in_any_encoding(tmp_path):
    path = tmp_path / "latin.pdb"
    path.write_bytes("REMARK   1 made at Orléans\n".encode("latin-1") + alanine_pdb().encode())
    assert read_pdb(path).topology.getNumAtoms() == 22


def test_what_parsers_do_not_say(tmp_path):
    """Some raise an error without a text, or with the name of what they miss only."""
    pdb = tmp_path / "cut.pdb"
    pdb.write_text(alanine_pdb()[: alanine_pdb().index(" CB  ALA")])
    with pytest.raises(InputError, match=r"cut\.pdb cannot be read as a PDB file: it is incomplete, or of"):
        read_pdb(pdb)
    prmtop, text = tmp_path / "cut.prmtop", PRMTOP.read_text()
    for part, message in (
        (0, "cannot be read as an AMBER prmtop file"),
        (text.index("%FLAG ANGLES_INC_HYDROGEN"), "No system can be"),
    ):
        prmtop.write_text(text[:part])
        with pytest.raises(
            InputError, match=rf"{message}.*: it is incomplete, or of another kind .KeyError."
        ):
            read_amber_molecule(prmtop, INPCRD)


def test_force_field_problems(tmp_path):
    path = tmp_path / "odd.pdb"

    def refused(text):
        path.write_text(text)
        with pytest.raises(InputError) as error:
            read_pdb_molecule(path, FORCE_FIELD)
        return str(error.value)

    def without(text, *names):
        return "".join(
            f"{x}\n" for x in text.splitlines() if x[12:16].strip() not in names and "CONECT" not in x
        )

    text = alanine_pdb()
    assert re.search("lacks hydrogens: ALA 2 is without 1 of them; add them", refused(without(text, "HA")))
    assert "ALA 2 is not what it knows (lacks 1 C); complete the residue" in refused(without(text, "CB"))
    stray = replaced(without(text), " HA  ALA", " QQ  ALA")
    assert "has atoms without a bond in ALA 2 (QQ): rename them" in refused(stray)
    uncapped = "\n".join(line for line in without(text).splitlines() if " NME " not in line)
    assert re.search(
        "ALA 2 is not what it knows .*externally bonded.*cap the chain's ends", refused(uncapped)
    )
    unknown = without(text).replace(" ALA ", " SEP ")
    assert "no bond from ACE 1 to SEP 2, as OpenMM's PDB reader knows no residue called SEP" in refused(
        unknown
    )


def test_water_of_four_sites(tmp_path):
    path = tmp_path / "water.pdb"
    atoms = (("O", "O", 0.0, 0.0), ("H1", "H", 0.957, 0.0), ("H2", "H", -0.24, 0.927))
    path.write_text(
        "".join(
            f"HETATM{k:5d}  {name:<3} HOH A   1    {x:8.3f}{y:8.3f}   0.000  1.00  0.00           {element}\n"
            for k, (name, element, x, y) in enumerate(atoms, start=1)
        )
    )
    assert read_pdb_molecule(path, ["tip3p.xml"]).topology.getNumAtoms() == 3
    with pytest.raises(
        InputError, match=r"gives HOH 1 .* particles beside its atoms .*, e\.g\. with three sites"
    ):
        read_pdb_molecule(path, ["tip4pew.xml"])


def test_histidine_is_known_by_its_name(tmp_path):
    """His stands for three residues of a force field, so its name is none of its names."""
    topology, positions = build_peptide("H")
    text = pdb_of(topology, positions)
    path = tmp_path / "his.pdb"
    path.write_text(text)
    read_pdb_molecule(path, FORCE_FIELD)
    path.write_text(
        "\n".join(line for line in text.splitlines() if line[12:16].strip() not in ("HB2", "HB3"))
    )
    with pytest.raises(InputError, match="lacks hydrogens: HIS 2 is without 2 of them"):
        read_pdb_molecule(path, FORCE_FIELD)


def test_check_bonds(alanine):
    check_bonds(alanine.topology, alanine.positions, "x")
    broken = alanine.positions.copy()
    broken[15:] += 3.0  # as if cut by a periodic box
    with pytest.raises(InputError, match=r"C of ALA 2 and O of ALA 2, which are bonded, 5\.\d+ nm apart"):
        check_bonds(alanine.topology, broken, "x")
    with pytest.raises(InputError, match=r"bonded, 0\.0\d+ nm apart"):
        check_bonds(alanine.topology, 0.1 * alanine.positions, "x")  # angstrom taken for nm
    broken[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        check_bonds(alanine.topology, broken, "x")


def test_check_names():
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    for name in ("C1234", "C1235"):
        topology.addAtom(name, app.Element.getBySymbol("C"), residue)
    with pytest.raises(InputError, match="2 atoms called C123 in LIG 1; give"):
        check_names(topology, "x")
    other = app.Topology()
    residue = other.addResidue("LIG", other.addChain())
    other.addAtom("EP", None, residue)
    with pytest.raises(InputError, match="does not tell the element of atom EP"):
        check_names(other, "x")


def disulfide_in_one_chain():
    """Two peptides of Gly and Cys, joined by a disulfide, in one chain as in AMBER's files."""
    one, positions = build_peptide("GC", None)
    joined, sulfurs = app.Topology(), []
    chain = joined.addChain()
    for _ in range(2):
        atoms = {}
        for residue in one.residues():
            own = joined.addResidue(residue.name, chain)
            atoms |= {
                atom: joined.addAtom(atom.name, atom.element, own)
                for atom in residue.atoms()
                if (residue.name, atom.name) != ("CYS", "HG")
            }
        for bond in one.bonds():
            if bond[0] in atoms and bond[1] in atoms:
                joined.addBond(atoms[bond[0]], atoms[bond[1]])
        sulfurs.append(next(atom for atom in atoms.values() if atom.name == "SG"))
    joined.addBond(*sulfurs)
    kept = [atom.index for atom in one.atoms() if (atom.residue.name, atom.name) != ("CYS", "HG")]
    return joined, np.concatenate([positions[kept], positions[kept] + 2.0])


def test_chains_are_split_where_no_bond_joins_them(tmp_path):
    topology, positions = disulfide_in_one_chain()
    split = split_chains(topology)
    assert [len(list(chain.residues())) for chain in split.chains()] == [2, 2]
    assert [atom.name for atom in split.atoms()] == [atom.name for atom in topology.atoms()]

    def peptide_bonds(one):
        path = tmp_path / "x.pdb"
        path.write_text(pdb_of(one, positions))
        bonds = read_pdb(path).topology.bonds()
        return sum(sorted((bond[0].name, bond[1].name)) == ["C", "N"] for bond in bonds)

    assert peptide_bonds(split) == 2
    assert peptide_bonds(topology) == 3  # the negative control: what a PDB file of one chain would say
    whole, _ = build_peptide("AGS")
    assert split_chains(whole).getNumChains() == 1
