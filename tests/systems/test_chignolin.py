"""Chignolin: native and extended structures against the deposited ones, solvents against their formula."""

import importlib
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_bg import OpenMMPotential, TorchPotential, systems
from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals, distances
from openmm_bg.systems import chignolin
from openmm_bg.systems.chignolin import NATIVE
from openmm_bg.systems.force_fields import FORCE_FIELDS

CLN025, CHIGNOLIN = "YYDPETGTWY", "GYDPETGTWG"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# Backbone torsions phi, psi, omega [degrees] and the distance of the first and last C-alpha [nm], computed from
# 5AWL and from the first model of 1UAO apart from the package.
DEPOSITED = {
    CLN025: (
        [np.nan, -93.3, -75.6, -71.8, -91.9, -106.3, 70.4, -104.0, -80.6, -136.8],
        [150.4, 138.4, 133.6, -20.9, -40.8, -17.1, 17.0, 153.3, 133.2, np.nan],
        [169.4, 178.6, -174.3, 179.4, -172.9, -179.4, -178.6, -177.9, 174.3, np.nan],
        0.551,
    ),
    CHIGNOLIN: (
        [np.nan, -84.8, -71.7, -76.0, -60.3, -107.0, 90.8, -160.7, -69.2, -49.5],
        [-176.7, 97.9, 115.2, -12.8, -39.4, -22.5, 34.1, 165.4, 107.1, np.nan],
        [180.0, 179.7, -179.9, 179.5, 179.6, 179.6, 179.9, 179.8, -179.9, np.nan],
        0.661,
    ),
}
N_ATOMS = {CLN025: 175, CHIGNOLIN: 147}


@pytest.fixture(scope="module")
def molecules():
    """The structures that come with the package."""
    return {
        (sequence, conformation): chignolin(sequence, conformation=conformation)
        for sequence in (CLN025, CHIGNOLIN)
        for conformation in ("native", "extended")
    }


def atoms_of(molecule):
    return {(int(atom.residue.id), atom.name): atom.index for atom in molecule.topology.atoms()}


def separation(molecule, first, second):
    """Return the distance [nm] of two atoms, each given by residue number and name."""
    atoms = atoms_of(molecule)
    return float(distances(molecule.positions, np.array([[atoms[first], atoms[second]]]))[0])


def largest_turn(molecule, sequence):
    """Return the largest deviation [degrees] of phi, psi and omega from the deposited structure."""
    atoms, quadruples, expected = atoms_of(molecule), [], []
    phi, psi, omega, _ = DEPOSITED[sequence]
    for k in range(1, 11):
        n, ca, c = (atoms[k, name] for name in ("N", "CA", "C"))
        if k > 1:
            quadruples.append((atoms[k - 1, "C"], n, ca, c))
            expected.append(phi[k - 1])
        if k < 10:
            after = atoms[k + 1, "N"]
            quadruples += [(n, ca, c, after), (ca, c, after, atoms[k + 1, "CA"])]
            expected += [psi[k - 1], omega[k - 1]]
    turned = np.degrees(dihedrals(molecule.positions, np.array(quadruples))) - expected
    assert len(turned) == 27
    return float(np.abs((turned + 180) % 360 - 180).max())


def assert_native(molecule, sequence):
    assert separation(molecule, (3, "N"), (8, "O")) < 0.35
    assert abs(separation(molecule, (1, "CA"), (10, "CA")) - DEPOSITED[sequence][-1]) < 0.15
    assert largest_turn(molecule, sequence) < 25


@pytest.mark.parametrize("sequence", [CLN025, CHIGNOLIN])
def test_native(molecules, sequence):
    molecule = molecules[sequence, "native"]
    assert_native(molecule, sequence)
    # What the criteria are worth: the extended chain fails each of them.
    extended = molecules[sequence, "extended"]
    assert separation(extended, (3, "N"), (8, "O")) > 1.5
    assert largest_turn(extended, sequence) > 90


@pytest.mark.parametrize("sequence", [CLN025, CHIGNOLIN])
def test_extended(molecules, sequence):
    molecule = molecules[sequence, "extended"]
    assert separation(molecule, (1, "CA"), (10, "CA")) > 2.5


@pytest.mark.parametrize("sequence", [CLN025, CHIGNOLIN])
@pytest.mark.parametrize("conformation", ["native", "extended"])
def test_structures_are_sound(molecules, sequence, conformation):
    """Bonds as long as bonds are, no contact closer than a hydrogen bond, all residues L."""
    molecule = molecules[sequence, conformation]
    assert molecule.n_atoms == N_ATOMS[sequence]
    bonds = molecule.bonds
    assert len(bonds) == molecule.n_atoms - 1 + 3 + sequence.count("Y")  # rings: Pro, Trp has two, Tyr
    bonded = np.eye(molecule.n_atoms, dtype=int)
    bonded[tuple(bonds.T)] = bonded[tuple(bonds.T[::-1])] = 1
    apart = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
    length = apart[tuple(bonds.T)]
    assert length.min() > 0.09
    assert length.max() < 0.157
    far = np.linalg.matrix_power(bonded, 3) == 0
    heavy = np.array([atom.element.symbol != "H" for atom in molecule.topology.atoms()])
    assert apart[far].min() > 0.16
    assert apart[far & heavy & heavy[:, None]].min() > 0.25
    atoms = atoms_of(molecule)
    chiral = [k for k, letter in enumerate(sequence, start=1) if letter != "G"]
    ca, n, c, cb = (
        np.array([molecule.positions[atoms[k, name]] for k in chiral]) for name in ("CA", "N", "C", "CB")
    )
    # CORN: seen from HA, the groups CO, R and N follow each other clockwise, a right-handed triple.
    assert (np.einsum("ij,ij->i", np.cross(c - ca, cb - ca), n - ca) > 0).all()


def test_default(molecules):
    molecule = systems.load("chignolin")
    assert molecule.name == "chignolin"
    assert molecule.temperature == 350.0
    assert molecule.system.getNumConstraints() == 0
    residues = "-".join(residue.name for residue in molecule.topology.residues())
    assert residues == "ACE-TYR-TYR-ASP-PRO-GLU-THR-GLY-THR-TRP-TYR-NME"
    np.testing.assert_array_equal(molecule.positions, molecules[CLN025, "native"].positions)
    assert molecules[CHIGNOLIN, "native"].name == "chignolin_GYDPETGTWG"
    names = [f"{kind} {k}" for kind in ("phi", "psi") for k in range(1, 11)]
    assert [name.rpartition(" ")[0] for name in molecule.torsions] == names
    atoms = atoms_of(molecule)
    assert molecule.torsions["phi 9 (TRP)"] == (
        *(atoms[8, "C"], atoms[9, "N"]),
        *(atoms[9, "CA"], atoms[9, "C"]),
    )
    methods = {
        force.getNonbondedMethod()
        for force in molecule.system.getForces()
        if isinstance(force, openmm.NonbondedForce | openmm.CustomGBForce)
    }
    assert methods == {openmm.NonbondedForce.NoCutoff}


def test_starts_are_both_conformations(molecules):
    for conformation in ("native", "extended"):
        starts = molecules[CLN025, conformation].starts
        assert list(starts) == ["native", "extended"]
        for name, positions in starts.items():
            np.testing.assert_array_equal(positions, molecules[CLN025, name].positions)
    # Otherwise only the one that was asked for is minimised.
    other = chignolin(forcefield="amber96", conformation="extended")
    np.testing.assert_array_equal(other.starts["extended"], other.positions)
    assert not np.array_equal(other.positions, molecules[CLN025, "extended"].positions)
    np.testing.assert_array_equal(other.starts["native"], molecules[CLN025, "native"].positions)


def born_energy(molecule, alpha, beta, gamma):
    """Return the energy [kJ/mol] of Onufriev, Bashford and Case (2004), their equations 2 to 8, with ACE."""
    radii, screens, charges = [], [], []
    nonbonded = next(f for f in molecule.system.getForces() if isinstance(f, openmm.NonbondedForce))
    partner = {first: second for a, b in molecule.bonds for first, second in ((a, b), (b, a))}
    atoms = list(molecule.topology.atoms())
    for atom in atoms:
        element = atom.element.symbol
        on_nitrogen = element == "H" and atoms[partner[atom.index]].element.symbol == "N"
        radii.append(0.13 if on_nitrogen else {"H": 0.12, "C": 0.17, "N": 0.155, "O": 0.15}[element])
        screens.append({"H": 0.85, "C": 0.72, "N": 0.79, "O": 0.85}[element])
        charges.append(nonbonded.getParticleParameters(atom.index)[0].value_in_unit(unit.elementary_charge))
    radius, charge = np.array(radii), np.array(charges)
    own = radius - 0.009
    other = own * screens
    r = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
    np.fill_diagonal(r, np.inf)
    lower, upper = np.maximum(own[:, None], np.abs(r - other)), r + other
    with np.errstate(invalid="ignore"):
        pairs = 0.5 * (
            1 / lower
            - 1 / upper
            + 0.25 * (r - other**2 / r) * (1 / upper**2 - 1 / lower**2)
            + 0.5 * np.log(lower / upper) / r
        )
    np.fill_diagonal(pairs, 0)
    psi = own * np.where(upper > own[:, None], pairs, 0).sum(1)
    born = 1 / (1 / own - np.tanh(alpha * psi - beta * psi**2 + gamma * psi**3) / radius)
    np.fill_diagonal(r, 0)
    both = born[:, None] * born
    f = np.sqrt(r**2 + both * np.exp(-(r**2) / (4 * both)))
    polar = -0.5 * 138.935456 * (1 - 1 / 78.5) * (charge[:, None] * charge / f).sum()
    surface = 28.3919551 * ((radius + 0.14) ** 2 * (radius / born) ** 6).sum()
    return polar + surface


@pytest.mark.parametrize(
    ("solvent", "parameters"), [("obc1", (0.8, 0.0, 2.909125)), ("obc2", (1.0, 0.8, 4.85))]
)
@pytest.mark.parametrize("name", ["amber99sb", "amber96"])
def test_energies_are_those_of_force_field_and_solvent(
    molecules, reference_energies_and_forces, name, solvent, parameters
):
    """OpenMM's force field without a solvent, plus the solvent's formula."""
    native = molecules[CLN025, "native"]
    system = systems.force_fields.implicit_solvent_system(native.topology, name, solvent)
    vacuum = app.ForceField(FORCE_FIELDS[name]).createSystem(native.topology, nonbondedMethod=app.NoCutoff)
    both = [reference_energies_and_forces(s, native.positions[None])[0][0] for s in (system, vacuum)]
    assert both[0] - both[1] == pytest.approx(born_energy(native, *parameters), abs=0.01)


@pytest.mark.parametrize("sequence", [CLN025, CHIGNOLIN])
@pytest.mark.parametrize("name", ["amber96", "amber14", "amber03"])
def test_other_force_fields(molecules, reference_energies_and_forces, sequence, name):
    """Native after minimisation in the force field, whose energy is lower than that of the shipped structure."""
    molecule = chignolin(sequence, forcefield=name)
    assert_native(molecule, sequence)
    shipped = molecules[sequence, "native"]
    positions = np.stack([shipped.positions, molecule.positions])
    energies, _ = reference_energies_and_forces(molecule.system, positions)
    assert energies[1] < energies[0] - 1
    assert molecule.system_hash != shipped.system_hash


@pytest.mark.parametrize("sequence", [CLN025, CHIGNOLIN])
@pytest.mark.parametrize(
    ("name", "solvent"),
    [("amber99sb", "obc1"), ("amber96", "obc1"), ("amber14", "obc1"), ("amber99sb", "obc2")],
)
def test_both_potentials_agree(molecules, rng, sequence, name, solvent):
    native = molecules[sequence, "native"]
    system = systems.force_fields.implicit_solvent_system(native.topology, name, solvent)
    extended = molecules[sequence, "extended"].positions
    positions = np.stack([native.positions, extended]) + 0.003 * rng.standard_normal((2, native.n_atoms, 3))
    with OpenMMPotential(system, platform="Reference") as reference:
        energies, forces = reference.energy_and_forces(positions)
    ours, our_forces = TorchPotential.from_system(system).energy_and_forces(positions)
    np.testing.assert_allclose(ours.numpy(), energies.numpy(), atol=1e-8)
    np.testing.assert_allclose(our_forces.numpy(), forces.numpy(), atol=1e-6)
    assert np.abs(forces.numpy()).max() > 1000


def test_the_wall_is_idle_for_the_default(molecules):
    """What the docstring says: free to go 20 degrees, CLN025 needs less; the other sequence stands at the wall."""
    assert largest_turn(molecules[CLN025, "native"], CLN025) < 19
    assert 19 < largest_turn(molecules[CHIGNOLIN, "native"], CHIGNOLIN) < 21


def test_without_caps():
    molecule = chignolin(CHIGNOLIN, None, conformation="extended")
    assert molecule.n_atoms == 138
    assert len(molecule.torsions) == 18
    names = {(int(atom.residue.id), atom.name) for atom in molecule.topology.atoms()}
    assert {(1, "H2"), (1, "H3"), (10, "OXT")} <= names
    assert separation(molecule, (1, "CA"), (10, "CA")) > 2.5
    with pytest.raises(InputError, match="no cap 'ACT' in front"):
        chignolin(caps=("ACT", "NME"))


def test_the_script_makes_the_files_that_come_with_the_package(
    monkeypatch, tmp_path, molecules, reference_energies_and_forces
):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = sys.modules[chignolin.__module__]  # the function has the name of its module
    monkeypatch.setattr(module, "NATIVE", {CHIGNOLIN: NATIVE[CHIGNOLIN]})
    monkeypatch.setattr(module, "CONFORMATIONS", ("extended",))
    monkeypatch.setattr(sys, "argv", ["make_chignolin.py", "--output", str(tmp_path)])
    importlib.import_module("make_chignolin").main()
    (made,) = tmp_path.iterdir()
    again = app.PDBFile(str(made)).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    shipped = molecules[CHIGNOLIN, "extended"]
    # Another processor rounds otherwise, and the path down is long: the same minimum, not the same digits.
    energies, _ = reference_energies_and_forces(shipped.system, np.stack([shipped.positions, again]))
    assert energies[1] == pytest.approx(energies[0], abs=3)
    between = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (shipped.positions, again)]
    assert np.abs(between[0] - between[1]).max() < 0.1


@pytest.mark.parametrize("sequence", [CLN025, CHIGNOLIN])
@pytest.mark.parametrize("conformation", ["native", "extended"])
def test_remarks_tell_how_a_file_was_made(molecules, reference_energies_and_forces, sequence, conformation):
    folder = resources.files("openmm_bg.systems") / "data"
    lines = (folder / f"chignolin_{sequence}_{conformation}.pdb").read_text().splitlines()
    remarks = [line for line in lines if line.startswith("REMARK")]
    assert "scripts/make_chignolin.py" in remarks[-1]
    energy = float(remarks[1].split()[-2])
    molecule = molecules[sequence, conformation]
    energies, _ = reference_energies_and_forces(molecule.system, molecule.positions[None])
    assert energies[0] == pytest.approx(energy, abs=0.1)


def test_solvent_in_any_case(molecules):
    assert chignolin(solvent="OBC1").system_hash == molecules[CLN025, "native"].system_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence": ["Y"]}, r"sequences of chignolin are YYDPETGTWY and GYDPETGTWG, not \['Y'\]"),
        ({"sequence": "YYDPETGTW"}, "sequences of chignolin are YYDPETGTWY and GYDPETGTWG, not 'YYDPETGTW'"),
        ({"conformation": "folded"}, "no conformation 'folded' of chignolin; there are: native, extended"),
        ({"forcefield": "amber99sb.xml"}, "no force field called 'amber99sb.xml'"),
        ({"forcefield": ["amber99sb"]}, r"no force field called \['amber99sb'\]"),
        ({"solvent": "gbn2"}, "no solvent called 'gbn2'; there are: obc1, obc2"),
        ({"caps": "ACE"}, "Give the cap in front and the cap at the end"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        chignolin(**arguments)
