"""The systems: energies as openmmtools has them, your own molecule, and what is refused with which words."""

import copy
import dataclasses
import pickle

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.systems import MolecularSystem, check_system
from openmm_bg.systems.molecular_system import backbone_torsions, system_hash

FORCE_FIELD = ["amber99sb.xml", "amber99_obc.xml"]


@pytest.fixture
def system(alanine):
    """A copy of alanine dipeptide's system that a test may change."""
    return openmm.XmlSerializer.clone(alanine.system)


@pytest.fixture(scope="module")
def pdb_file(alanine, tmp_path_factory):
    path = tmp_path_factory.mktemp("pdb") / "peptide.pdb"
    with path.open("w") as file:
        app.PDBFile.writeFile(alanine.topology, alanine.positions * unit.nanometer, file)
    return path


def test_alanine_dipeptide_is_that_of_openmmtools(alanine, md_configurations, reference_energies_and_forces):
    from openmmtools.testsystems import AlanineDipeptideImplicit

    theirs = AlanineDipeptideImplicit(constraints=None)
    assert theirs.system.getNumConstraints() == 0
    energies, forces = reference_energies_and_forces(theirs.system, md_configurations.positions[::5])
    np.testing.assert_allclose(energies, md_configurations.energies[::5], rtol=0, atol=1e-9)
    np.testing.assert_allclose(forces, md_configurations.forces[::5], rtol=0, atol=1e-6)
    np.testing.assert_allclose(alanine.positions, theirs.positions.value_in_unit(unit.nanometer), atol=1e-12)
    assert [a.name for a in alanine.topology.atoms()] == [a.name for a in theirs.topology.atoms()]
    masses = [theirs.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(22)]
    np.testing.assert_array_equal(alanine.masses, masses)


def test_alanine_dipeptide_in_vacuum(md_positions, reference_energies_and_forces):
    from openmmtools.testsystems import AlanineDipeptideVacuum

    ours, theirs = systems.load("alanine_dipeptide_vacuum"), AlanineDipeptideVacuum(constraints=None)
    assert ours.name == "alanine_dipeptide_vacuum"
    expected = reference_energies_and_forces(theirs.system, md_positions[::50])
    found = reference_energies_and_forces(ours.system, md_positions[::50])
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)


def test_alanine_dipeptide(alanine):
    assert alanine.name == "alanine_dipeptide"
    assert alanine.n_atoms == 22
    assert alanine.temperature == 300.0
    assert alanine.positions.shape == (22, 3)
    assert dict(alanine.torsions) == {"phi": (4, 6, 8, 14), "psi": (6, 8, 14, 16)}
    assert backbone_torsions(alanine.topology) == dict(alanine.torsions)
    # A tree: 21 bonds for 22 atoms; all of them as short as bonds are.
    assert alanine.bonds.shape == (21, 2)
    lengths = np.linalg.norm(np.subtract(*alanine.positions[alanine.bonds.T]), axis=1)
    assert lengths.max() < 0.16
    names = [force.getName() for force in alanine.system.getForces()]
    assert "CustomGBForce" in names


def test_each_load_is_independent():
    first, second = systems.load("alanine_dipeptide"), systems.load("alanine_dipeptide")
    first.system.removeForce(0)
    assert second.system.getNumForces() == first.system.getNumForces() + 1


def test_names():
    assert systems.names() == ["alanine_dipeptide", "alanine_dipeptide_vacuum", "chignolin"]
    with pytest.raises(
        InputError,
        match=r"no system called 'chignolin2'; the systems are: alanine_dipeptide, .*, chignolin\.",
    ):
        systems.load("chignolin2")


@pytest.mark.parametrize("name", ["double_well", "double_well_mixture", "harmonic_oscillator"])
def test_names_of_toys_lead_to_their_functions(name):
    with pytest.raises(InputError, match=rf"Toy systems are made by functions .*\b{name}\(\)") as error:
        systems.load(name)
    assert "\n" not in str(error.value)
    assert name in systems.__all__


def test_frozen(alanine):
    with pytest.raises(dataclasses.FrozenInstanceError):
        alanine.temperature = 310.0
    with pytest.raises(ValueError, match="read-only"):
        alanine.positions[0, 0] = 1.0
    with pytest.raises(TypeError):
        alanine.torsions["omega"] = (0, 1, 2, 3)


def test_the_callers_array_stays_the_callers(alanine, system):
    positions = np.array(alanine.positions)
    made = MolecularSystem("mine", system, alanine.topology, positions)
    positions[0, 0] += 1.0
    assert made.positions[0, 0] == alanine.positions[0, 0]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
def test_copies(alanine, duplicate):
    second = duplicate(alanine)
    assert second.system is not alanine.system
    assert (second.name, second.temperature, dict(second.torsions)) == (
        *(alanine.name, alanine.temperature),
        dict(alanine.torsions),
    )
    assert second.system_hash == alanine.system_hash
    np.testing.assert_array_equal(second.positions, alanine.positions)
    np.testing.assert_array_equal(second.bonds, alanine.bonds)
    assert not second.positions.flags.writeable


def test_quantities(alanine, system):
    positions = (alanine.positions * 10.0).tolist() * unit.angstrom
    made = MolecularSystem("mine", system, alanine.topology, positions, temperature=600 * unit.kelvin)
    np.testing.assert_allclose(made.positions, alanine.positions, atol=1e-14)
    assert made.temperature == 600.0


def test_hash_is_that_of_the_energy_function(alanine, system):
    assert system_hash(system) == alanine.system_hash
    system.setParticleMass(1, 4.0)
    system.addForce(openmm.AndersenThermostat(300, 1))
    system.getForce(0).setForceGroup(3)
    system.getForce(1).setName("angles")
    index = next(k for k, f in enumerate(system.getForces()) if isinstance(f, openmm.CMMotionRemover))
    system.removeForce(index)
    assert system_hash(system) == alanine.system_hash
    assert system.getForce(0).getForceGroup() == 3
    bonds = system.getForce(0)
    i, j, length, k = bonds.getBondParameters(0)
    bonds.setBondParameters(0, i, j, length, k * (1 + 1e-12))
    assert system_hash(system) != alanine.system_hash


def test_from_pdb(alanine, pdb_file, reference_energies_and_forces):
    made = MolecularSystem.from_pdb(pdb_file, FORCE_FIELD, temperature=310)
    assert made.name == "peptide"
    assert made.temperature == 310.0
    assert dict(made.torsions) == dict(alanine.torsions)
    np.testing.assert_array_equal(made.bonds, alanine.bonds)
    np.testing.assert_allclose(made.positions, alanine.positions, atol=5.1e-5)  # a PDB file's digits
    direct = app.ForceField(*FORCE_FIELD).createSystem(app.PDBFile(str(pdb_file)).topology)
    positions = np.stack(
        [made.positions, made.positions + 0.01 * np.random.default_rng(0).normal(size=(22, 3))]
    )
    ours = reference_energies_and_forces(made.system, positions)
    for one, other in zip(ours, reference_energies_and_forces(direct, positions), strict=True):
        np.testing.assert_array_equal(one, other)
    assert made.system_hash != alanine.system_hash


def test_from_pdb_ignores_a_box(pdb_file, tmp_path):
    path = tmp_path / "boxed.pdb"
    box = "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1 \n"
    path.write_text(box + pdb_file.read_text())
    assert app.PDBFile(str(path)).topology.getPeriodicBoxVectors() is not None
    made = MolecularSystem.from_pdb(path, FORCE_FIELD, name="boxed")
    assert made.topology.getPeriodicBoxVectors() is None
    assert made.name == "boxed"


def test_from_pdb_takes_one_file_name(pdb_file):
    made = MolecularSystem.from_pdb(pdb_file, "amber99sb.xml")
    assert made.system_hash == MolecularSystem.from_pdb(pdb_file, ["amber99sb.xml"]).system_hash


def without_hydrogens(text):
    return "\n".join(line for line in text.splitlines() if line[76:78].strip() != "H")


@pytest.mark.parametrize(
    ("change", "forcefield", "message"),
    [
        (without_hydrogens, FORCE_FIELD, r"lacks hydrogens: ACE 1 is without 3 of them; add them"),
        (lambda text: text.replace(" ALA ", " XYZ "), FORCE_FIELD, r"lacks parameters for .*XYZ"),
        (lambda text: text, ["tip3p.xml"], r"lacks parameters for .*it has no residue ACE \(ACE 1\); add"),
        (lambda text: text, ["nosuch.xml"], r"force field \['nosuch.xml'\] cannot be loaded"),
        (lambda text: text, [], "Give the names of force-field files"),
        (lambda text: "ATOM  nonsense\n" + text, FORCE_FIELD, "cannot be read as a PDB file"),
        (lambda text: "", FORCE_FIELD, "cannot be read as a PDB file"),
    ],
)
def test_from_pdb_refusals(pdb_file, tmp_path, change, forcefield, message):
    path = tmp_path / "changed.pdb"
    path.write_text(change(pdb_file.read_text()))
    with pytest.raises(InputError, match=message) as error:
        MolecularSystem.from_pdb(path, forcefield)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"There is no file .*nosuch\.pdb"):
        MolecularSystem.from_pdb(tmp_path / "nosuch.pdb", FORCE_FIELD)


def test_from_files(alanine, pdb_file, tmp_path):
    xml = tmp_path / "system.xml"
    xml.write_text(openmm.XmlSerializer.serialize(alanine.system))
    made = MolecularSystem.from_files(xml, pdb_file, name="again", temperature=600)
    assert made.system_hash == alanine.system_hash
    assert (made.name, made.temperature) == ("again", 600.0)
    np.testing.assert_array_equal(made.bonds, alanine.bonds)
    assert dict(made.torsions) == dict(alanine.torsions)


def test_from_files_with_bonds(alanine, tmp_path):
    """A PDB file names the bonds of standard residues only, if its names are standard; others can be given."""
    xml, pdb = tmp_path / "system.xml", tmp_path / "topology.pdb"
    xml.write_text(alanine.system_xml())
    text = alanine.topology_pdb().replace(" ACE ", " XYZ ")
    pdb.write_text("\n".join(line for line in text.splitlines() if not line.startswith("CONECT")))
    with pytest.raises(InputError, match=r"no bond between the atoms .* of XYZ 1 and the rest"):
        MolecularSystem.from_files(xml, pdb)
    made = MolecularSystem.from_files(xml, pdb, bonds=alanine.bonds)
    np.testing.assert_array_equal(made.bonds, alanine.bonds)
    # Those that are given replace what OpenMM guesses.
    assert len(MolecularSystem.from_files(xml, pdb, bonds=alanine.bonds[:-1]).bonds) == len(alanine.bonds) - 1
    for wrong in ([*alanine.bonds, (0, 22)], [*alanine.bonds, (-1, 0)]):
        with pytest.raises(InputError, match="bonds do not belong to this molecule: it has no atoms"):
            MolecularSystem.from_files(xml, pdb, bonds=wrong)


def test_from_files_compares_system_and_topology(alanine, pdb_file, tmp_path):
    system = openmm.XmlSerializer.clone(alanine.system)
    masses = [system.getParticleMass(k) for k in (5, 6)]  # oxygen and nitrogen, which a bond does not join
    system.setParticleMass(5, masses[1])
    system.setParticleMass(6, masses[0])
    xml = tmp_path / "system.xml"
    xml.write_text(openmm.XmlSerializer.serialize(system))
    with pytest.raises(InputError, match=r"14\.0 Da where .* has O of ACE 1 with its hydrogens, 16\.0 Da"):
        MolecularSystem.from_files(xml, pdb_file)


def test_starts(alanine):
    far = alanine.positions * 1.1
    other = alanine.with_starts({"far": far * 10.0 * unit.angstrom})
    assert dict(alanine.starts) == {}
    for copied in (other, copy.deepcopy(other), other.with_torsions({}), pickle.loads(pickle.dumps(other))):
        assert list(copied.starts) == ["far"]
        np.testing.assert_allclose(copied.starts["far"], far, atol=1e-14)
        assert not copied.starts["far"].flags.writeable
    with pytest.raises(InputError, match="'reference' is the reference configuration"):
        alanine.with_starts({"reference": far})
    for bad in (far[:-1], np.full_like(far, np.nan)):
        with pytest.raises(InputError, match=r"start 'bad' needs finite positions with the shape \(22, 3\)"):
            alanine.with_starts({"bad": bad})


def test_other_torsions(alanine):
    other = alanine.with_torsions({"omega": (1, 4, 6, 8)})
    assert dict(other.torsions) == {"omega": (1, 4, 6, 8)}
    assert other.system_hash == alanine.system_hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not XML", "is not a serialised OpenMM system"),
        (openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001)), "holds a VerletIntegrator, not"),
    ],
)
def test_from_files_refusals(pdb_file, tmp_path, content, message):
    xml = tmp_path / "system.xml"
    with pytest.raises(InputError, match="There is no file"):
        MolecularSystem.from_files(xml, pdb_file)
    xml.write_text(content)
    with pytest.raises(InputError, match=message):
        MolecularSystem.from_files(xml, pdb_file)


def test_system_and_topology_of_different_size(alanine, system):
    system.addParticle(12.0)
    with pytest.raises(InputError, match="23 particles but the topology has 22 atoms"):
        MolecularSystem("mine", system, alanine.topology, alanine.positions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.zeros((21, 3))}, r"shape \(21, 3\), but the system needs \(22, 3\)"),
        ({"positions": np.full((22, 3), np.nan)}, "NaN or infinite"),
        ({"temperature": 0}, "positive number of kelvin, not 0"),
        ({"temperature": -300}, "positive number of kelvin, not -300"),
        ({"temperature": float("nan")}, "positive number of kelvin, not nan"),
        ({"temperature": "warm"}, "number of kelvin, not 'warm'"),
        (
            {"torsions": {"phi": (4, 6, 8, 22)}},
            "torsion 'phi' needs four different atoms with indices from 0 to 21",
        ),
        ({"torsions": {"phi": (4, 6, 8)}}, "torsion 'phi' needs four different atoms"),
        ({"torsions": {"phi": (4, 6, 8, 8)}}, "torsion 'phi' needs four different atoms"),
    ],
)
def test_fields_that_cannot_be(alanine, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(alanine, **changes)


def constrain(system):
    system.addConstraint(0, 1, 0.1)
    system.addConstraint(1, 2, 0.1)


def make_virtual_site(system):
    system.setVirtualSite(3, openmm.TwoParticleAverageSite(1, 4, 0.5, 0.5))


def make_periodic(system):
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    nonbonded.setNonbondedMethod(nonbonded.CutoffPeriodic)


def make_pme(system):
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    nonbonded.setNonbondedMethod(nonbonded.PME)


def make_bonds_periodic(system):
    bonds = next(f for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))
    bonds.setUsesPeriodicBoundaryConditions(True)


def remove_forces(system):
    for index in reversed(range(system.getNumForces())):
        if not isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            constrain,
            r"2 constraints, but all 3N coordinates must be free .* "
            "build it with constraints=None and rigidWater=False",
        ),
        (make_virtual_site, "1 virtual site"),
        (lambda s: s.addForce(openmm.MonteCarloBarostat(1, 300)), r"barostat \(MonteCarloBarostat\)"),
        (lambda s: s.addForce(openmm.MonteCarloAnisotropicBarostat((1, 1, 1), 300)), "barostat"),
        (
            make_periodic,
            r"periodic \(NonbondedForce uses CutoffPeriodic\): build it with nonbondedMethod=NoCutoff or "
            r"CutoffNonPeriodic, constraints=None",
        ),
        (make_pme, r"NonbondedForce uses PME"),
        (make_bonds_periodic, r"HarmonicBondForce uses periodic boundary conditions"),
        (lambda s: s.setParticleMass(5, 0.0), "particles without mass"),
        (remove_forces, "no forces"),
    ],
)
def test_unsupported_systems(system, change, message):
    check_system(system)
    change(system)
    with pytest.raises(InputError, match=message):
        check_system(system)


def test_constrained_system_of_openmmtools_is_refused_with_the_way_out():
    from openmmtools.testsystems import AlanineDipeptideImplicit

    with pytest.raises(InputError, match=r"12 constraints.*AlanineDipeptideImplicit\(constraints=None\)"):
        check_system(AlanineDipeptideImplicit().system)


def test_empty_system():
    with pytest.raises(InputError, match="no particles"):
        check_system(openmm.System())


def test_harmonic_oscillator_of_openmmtools_is_supported():
    from openmmtools.testsystems import HarmonicOscillator

    check_system(HarmonicOscillator().system)


def test_backbone_torsions_of_several_residues(tmp_path):
    """Three residues, of which the last is not bonded to the one before."""
    topology = app.Topology()
    chain = topology.addChain()
    atoms = []
    for name in ("GLY", "ALA", "GLY"):
        residue = topology.addResidue(name, chain)
        atoms.append([topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in ("N", "CA", "C")])
        topology.addBond(atoms[-1][0], atoms[-1][1])
        topology.addBond(atoms[-1][1], atoms[-1][2])
    topology.addBond(atoms[0][2], atoms[1][0])
    assert backbone_torsions(topology) == {"phi": (2, 3, 4, 5), "psi": (0, 1, 2, 3)}
    topology.addBond(atoms[1][2], atoms[2][0])
    assert backbone_torsions(topology) == {
        "phi 2 (ALA)": (2, 3, 4, 5),
        "phi 3 (GLY)": (5, 6, 7, 8),
        "psi 1 (GLY)": (0, 1, 2, 3),
        "psi 2 (ALA)": (3, 4, 5, 6),
    }
