"""The page of ``openmm-bg check``, molecules from files, and bad input: one sentence from every command."""

from __future__ import annotations

import re
import shlex

import numpy as np
import openmm
import pytest
from molecule_examples import (
    DATA,
    FORCE_FIELD,
    TOLUENE,
    alanine_pdb,
    pdb_of,
    write_acetonitrile,
    write_ethanol,
)
from openmm import app
from ring_examples import cyclic_peptide

from openmm_bg import systems
from openmm_bg.training import load_data

FORCE_FIELD_OPTIONS = [word for file in FORCE_FIELD for word in ("--forcefield", file)]
TOLUENE_OPTIONS = ["--prmtop", TOLUENE / "solvent.prmtop", "--inpcrd", TOLUENE / "solvent.inpcrd"]
SHORT = ["--frames", "40", "--walkers", "4", "--burn-in", "20", "--interval", "5", "--quiet"]


@pytest.fixture
def write(tmp_path):
    """Write a file; return its path."""

    def write_(text, name="molecule.pdb"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_


def test_page_of_a_supported_molecule(run, write):
    result = run("check", "--pdb", write(alanine_pdb()), *FORCE_FIELD_OPTIONS)
    assert (result.code, result.err) == (0, "")
    for line in (
        r"atoms +22 in 3 residues: C6 H12 N2 O2",
        r"mass and charge +144\.\d\d Da, 0",
        r"chiral centres +CA of ALA 2 \(L\)",
        r"constraints +0",
        r"HarmonicBondForce +21 bonds +translated \(TorchPotential\)",
        r"OpenMM, Reference +-?\d+\.\d{4} kJ/mol",
        r"TorchPotential +-?\d+\.\d{4} kJ/mol \(differs by \S+, forces by at most \S+ kJ/mol/nm\)",
        r"coordinates +21 bonds, 20 angles, 19 torsions",
        r"torsions +7 free, 0 in rings, 12 relative to a sibling",
        r"free, by bond +ACE 1: CH3-C, omega; ALA 2: phi, CA-CB, psi, omega; NME 3: N-C",
        r"named \(degrees\) +phi -?1[78]\d, psi -?1[78]\d",
        r"Verdict: molecule is supported\. Next:",
    ):
        assert re.search(line, result.out), line
    assert len(result.out.splitlines()) < 50  # one page
    openmm_, torch_ = (
        float(re.search(rf"^{name} +(\S+) kJ/mol", result.out, re.M)[1])
        for name in ("OpenMM, Reference", "TorchPotential")
    )
    assert torch_ == pytest.approx(openmm_, abs=1e-3)


def test_page_of_every_molecule_of_the_package(run):
    for name in systems.names():
        result = run("check", name)
        assert result.code == 0
        assert f"openmm-bg simulate {name} --temperature 600 --output data" in result.out
        assert len(result.out.splitlines()) < 60


def test_page_of_a_force_that_is_not_translated(run, write):
    alanine = systems.load("alanine_dipeptide")
    system = openmm.XmlSerializer.clone(alanine.system)
    system.addForce(openmm.RMSDForce(alanine.positions))
    xml = write(openmm.XmlSerializer.serialize(system), "system.xml")
    result = run("check", "--system", xml, "--topology", write(alanine_pdb()))
    assert result.code == 0
    assert re.search(r"RMSDForce +OpenMM only +TorchPotential does not support", result.out)
    assert "--engine openmm --output data" in result.out


def test_page_of_a_system_with_problems(run, write):
    alanine = systems.load("alanine_dipeptide")
    system = openmm.XmlSerializer.clone(alanine.system)
    system.addConstraint(0, 1, 0.1)
    system.addForce(openmm.MonteCarloBarostat(1, 300))
    xml = write(openmm.XmlSerializer.serialize(system), "system.xml")
    result = run("check", "--system", xml, "--topology", write(alanine_pdb()))
    assert result.code == 2
    assert re.search(r"constraints +1", result.out)
    assert re.search(r"barostat +MonteCarloBarostat", result.out)
    assert len(re.findall("^Problem: ", result.out, re.M)) == 2
    assert "Verdict: molecule is not supported." in result.out
    assert re.fullmatch(r"error: The system has 1 constraint, .*\(1 more problem above\.\)\n", result.err)


@pytest.mark.filterwarnings("ignore:OpenMM says of:openmm_bg.errors.ReliabilityWarning")
def test_the_next_command_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ethanol = write_ethanol(tmp_path)
    charmm = ["--psf", ethanol["psf"], "--parameters", ethanol["prm"], "--crd", ethanol["crd"]]
    for options, n_atoms in ((TOLUENE_OPTIONS, 15), ([*charmm, "--implicit-solvent", "obc2"], 9)):
        result = run("check", *options)
        assert result.code == 0, result.err
        command = shlex.split(result.out.splitlines()[-1])
        assert command[:2] == ["openmm-bg", "simulate"]
        output = tmp_path / f"data_{n_atoms}"
        made = run(*[output if word == "data" else word for word in command[1:]], *SHORT)
        assert made.code == 0, made.err
        assert ("is in vacuum" in made.out) == (n_atoms == 15)
        data = load_data(output)
        assert data.positions.shape == (40, n_atoms, 3)
        assert len(data.system.bonds) == {15: 15, 9: 8}[n_atoms]


def test_cyclic_peptide_comes_back_with_all_its_bonds(run, write, tmp_path):
    """OpenMM writes no CONECT record for the bond from its end to its start; what simulate writes holds it."""
    molecule = cyclic_peptide("ALA")
    xml, text = write(molecule.system_xml(), "x.xml"), molecule.topology_pdb()
    result = run("check", "--system", xml, "--topology", write(text))
    assert re.search("has a bond between (N of ALA 1|C of ALA 4) and .* has none: add CONECT", result.err)
    atoms = {(atom.name, atom.residue.id): atom.index + 1 for atom in molecule.topology.atoms()}
    closing = f"CONECT{atoms['C', '4']:5d}{atoms['N', '1']:5d}\n"
    pdb = write(text.replace("END\n", f"{closing}END\n"))
    made = run("simulate", "--system", xml, "--topology", pdb, *SHORT, "-o", tmp_path / "data")
    assert made.code == 0, made.err
    np.testing.assert_array_equal(load_data(tmp_path / "data").system.bonds, molecule.bonds)


def test_gb_radii_that_do_not_fit_are_announced(run, tmp_path):
    options = [*TOLUENE_OPTIONS, "--implicit-solvent", "OBC1"]
    result = run("check", *options)
    assert re.search(r"solvent +implicit: OBC1 \(CustomGBForce\)", result.out)
    assert "Note: OpenMM says of" in result.out
    result = run("simulate", *options, *SHORT, "-o", tmp_path / "data")
    assert result.code == 0
    assert re.search(r"^warning: OpenMM says of .*Non-optimal GB parameters", result.err)


@pytest.mark.parametrize("flag", ["--system", "--system-xml"])
@pytest.mark.parametrize("topology", ["--topology", "--pdb"])
def test_names_of_the_options_for_a_system(run, write, flag, topology):
    xml = write(systems.load("alanine_dipeptide").system_xml(), "system.xml")
    assert run("check", flag, xml, topology, write(alanine_pdb())).code == 0


# Bad input: a function that writes what is needed and returns the options, and what the error says.


def without_hydrogens(text):
    return "\n".join(line for line in text.splitlines() if line[76:78].strip() != "H")


def two_peptides():
    alanine = systems.load("alanine_dipeptide")
    modeller = app.Modeller(alanine.topology, alanine.positions)
    modeller.add(alanine.topology, (alanine.positions + 2.0) * openmm.unit.nanometer)
    positions = modeller.positions.value_in_unit(openmm.unit.nanometer)
    return pdb_of(modeller.topology, np.array(positions))


def duplicated_names():
    text = (TOLUENE / "solvent.prmtop").read_text()
    names = text.index("%FLAG ATOM_NAME")
    return text[:names] + text[names:].replace("C2  ", "C1  ", 1)


def bad_pdb(text):
    return lambda write: ["--pdb", write(text()), *FORCE_FIELD_OPTIONS]


def larger_system():
    system = openmm.System()
    for _ in range(23):
        system.addParticle(12.0)
    return openmm.XmlSerializer.serialize(system)


def periodic_system():
    prmtop = app.AmberPrmtopFile(str(DATA / "alanine-dipeptide-gbsa" / "alanine-dipeptide.prmtop"))
    prmtop.topology.setUnitCellDimensions((3, 3, 3))
    return openmm.XmlSerializer.serialize(prmtop.createSystem(nonbondedMethod=app.PME))


SODIUM = "HETATM   23 NA    NA B   9       9.000   9.000   9.000  1.00  0.00          NA\n"


def with_sodium():
    head, ter, tail = alanine_pdb().rpartition("TER")
    return head + SODIUM + ter + tail


def other_forcefields(*files):
    return lambda write: [
        "--pdb",
        write(alanine_pdb()),
        *(w for file in files for w in ("--forcefield", file)),
    ]


def phosphoserine():
    lines = alanine_pdb().replace(" ALA ", " SEP ").splitlines()
    return "\n".join(line for line in lines if not line.startswith("CONECT"))


EXPLICIT = DATA / "alanine-dipeptide-explicit"
BAD = {
    "two molecules": (
        bad_pdb(two_peptides),
        r"holds 2 separate molecules .22 atoms, ACE 1 to NME 3; 22 atoms",
    ),
    "two molecules of AMBER": (
        lambda write: ["--prmtop", TOLUENE / "complex.prmtop", "--inpcrd", TOLUENE / "complex.inpcrd"],
        r"2 separate molecules .12 atoms, BEN 1; 15 atoms, TOL 2.*give one molecule at a time",
    ),
    "ion": (bad_pdb(with_sodium), r"holds 1 ion NA beside the molecule: remove them"),
    "only an ion": (
        bad_pdb(lambda: SODIUM),
        r"holds 1 atom .NA 9., but .* at least three: give a larger one",
    ),
    "no atoms": (
        bad_pdb(lambda: "HEADER\n"),
        r"cannot be read as a PDB file: it has no atoms with coordinates",
    ),
    "missing hydrogens": (
        bad_pdb(lambda: without_hydrogens(alanine_pdb())),
        r"lacks hydrogens: ACE 1 is without 3 of them; add them, e\.g\. with pdbfixer",
    ),
    "unknown residue": (
        lambda write: ["--pdb", TOLUENE / "solvent.pdb", *FORCE_FIELD_OPTIONS],
        r"it has no residue TOL .TOL 1.; add a force-field file",
    ),
    "water box": (
        lambda write: ["--pdb", DATA / "waterbox" / "watbox216.pdb", *FORCE_FIELD_OPTIONS],
        r"holds 216 water molecules.*and nothing else: give one molecule",
    ),
    "molecule in water": (
        lambda write: ["--pdb", EXPLICIT / "alanine-dipeptide.pdb", *FORCE_FIELD_OPTIONS],
        r"holds 749 water molecules beside the molecule.*: remove them .delete their lines.",
    ),
    "molecule in water of AMBER": (
        lambda write: [
            *("--prmtop", EXPLICIT / "alanine-dipeptide.prmtop"),
            *("--inpcrd", EXPLICIT / "alanine-dipeptide.crd"),
        ],
        r"holds 749 water molecules beside the molecule, in a periodic box: remove them .e\.g\. with cpptraj",
    ),
    "solvent by a file and by its name": (
        lambda write: ["--pdb", write(alanine_pdb()), *FORCE_FIELD_OPTIONS, "--implicit-solvent", "OBC1"],
        r"2 generalized Born forces .CustomGBForce, CustomGBForce.*counts more than once: give one only",
    ),
    "two solvents": (
        other_forcefields("amber99sb.xml", "amber99_obc.xml", "implicit/obc1.xml"),
        r"2 generalized Born forces .GBSAOBCForce, CustomGBForce.*counts more than once: give one only",
    ),
    "unknown residue in a chain": (
        bad_pdb(phosphoserine),
        r"no bond from ACE 1 to SEP 2, as OpenMM's PDB reader knows no residue called SEP: give it its name",
    ),
    "mmCIF": (bad_pdb(lambda: "data_1UAO\n#\n"), r"is an mmCIF file, which is not read: convert it to PDB"),
    "insertion codes": (
        bad_pdb(lambda: alanine_pdb().replace(" ALA 1   2 ", " ALA 1   2B")),
        r"insertion codes .B of residue ALA 2.*number the residues anew",
    ),
    "alternate locations": (
        bad_pdb(lambda: alanine_pdb().replace(" CB  ALA", " CB AALA")),
        r"alternate locations .atom CB of ALA 2.*keep one of each",
    ),
    "duplicate atom names": (
        bad_pdb(lambda: alanine_pdb().replace(" HB2 ALA", " HB1 ALA")),
        r"two atoms called HB1 in ALA 2.*a name of its own",
    ),
    "duplicate atom names of AMBER": (
        lambda write: [
            *("--prmtop", write(duplicated_names(), "x.prmtop")),
            *("--inpcrd", TOLUENE / "solvent.inpcrd"),
        ],
        r"2 atoms called C1 in TOL 1; give each atom of a residue a name of its own",
    ),
    "prmtop with a cutoff": (
        lambda write: [
            *("--prmtop", DATA / "methanol-box" / "methanol-box.prmtop"),
            *("--inpcrd", DATA / "methanol-box" / "methanol-box.crd"),
        ],
        r"has a periodic box, so that it is meant for a cutoff and PME: remove the box",
    ),
    "system with a cutoff": (
        lambda write: [
            *("--system", write(periodic_system(), "x.xml")),
            *("--topology", write(alanine_pdb())),
        ],
        r"The system is periodic .NonbondedForce uses PME.: build it with nonbondedMethod=NoCutoff",
    ),
    "XML of another size": (
        lambda write: [
            *("--system", write(larger_system(), "x.xml")),
            *("--topology", write(alanine_pdb())),
        ],
        r"has 23 particles but the topology has 22 atoms; give the PDB file that",
    ),
    "straight molecule": (
        lambda write: [
            word
            for pair in zip(("--system", "--topology"), write_acetonitrile(write("").parent), strict=True)
            for word in pair
        ],
        r"are nearly in a straight line, .*linear groups are not supported",
    ),
}


@pytest.mark.parametrize("command", ["check", "simulate"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(run, write, tmp_path, command, case):
    make, message = BAD[case]
    arguments = make(write)
    before = sorted(tmp_path.iterdir())
    output = ["-o", tmp_path / "data"] if command == "simulate" else []
    result = run(command, *arguments, *output)
    assert result.code == 2
    assert re.fullmatch(r"error: [^\n]+\n", result.err), result.err
    assert re.search(message, result.err), result.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "Give either the name of a system"),
        ("--inpcrd x", "Give either the name of a system"),
        ("alanine_dipeptide --prmtop x", "brings its force field and positions; leave out --prmtop"),
        ("alanine_dipeptide --pdb x", "Give either the name of a system"),
        ("--pdb x", "needs either --forcefield"),
        ("--prmtop x", "--prmtop needs positions: give either --inpcrd or --pdb"),
        ("--prmtop x --inpcrd y --pdb z", "Both --inpcrd and --pdb give positions: give only one of them"),
        (
            "my.pdb --forcefield x",
            "no system called 'my.pdb'; a file goes with an option, as in --pdb my.pdb",
        ),
        ("nonsense --forcefield x", "no system called 'nonsense'; the systems are"),
        ("--pdb= --forcefield x", "A file's name is empty"),
        ("--pdb x --forcefield y --implicit-solvent=", "no implicit solvent ''; there are: none"),
        ("--psf x --parameters y", "--psf needs positions: give either --pdb or --crd"),
        ("--system x", "--system needs positions: give either --topology or --pdb"),
        ("--system x --prmtop y", "Give only one of --prmtop, --system"),
        (
            "--prmtop x --inpcrd y --forcefield z",
            "--forcefield does not go with --prmtop, which takes --inpcrd",
        ),
        ("--system x --topology y --implicit-solvent OBC2", "--implicit-solvent does not go with --system"),
        ("--prmtop x --inpcrd y --implicit-solvent water", "no implicit solvent 'water'"),
        ("--prmtop x --inpcrd y", "There is no file x"),
        ("--psf x --parameters y --crd z", "There is no file"),
        ("nonsense", "no system called 'nonsense'"),
    ],
)
def test_options_that_do_not_go_together(refused, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("check", *options.split())
    assert message in refused("simulate", *options.split(), "-o", "data")


@pytest.mark.parametrize("case", ["insertion codes", "alternate locations", "duplicate atom names"])
def test_start_of_an_exchange_is_read_as_carefully(refused, write, model, tmp_path, case):
    make, message = BAD[case]
    arguments = make(write)
    error = refused("exchange", model, "-q", "-o", tmp_path / "x.nc", "--start", arguments[1])
    assert re.search(message, error)
