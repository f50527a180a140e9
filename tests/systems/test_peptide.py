"""Peptides from their sequence, against OpenMM's force fields and a protein that AMBER has minimised."""

import importlib.util
import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_bg.errors import InputError
from openmm_bg.geometry import angles, dihedrals
from openmm_bg.systems import MolecularSystem, build_peptide
from openmm_bg.systems.force_fields import FORCE_FIELDS, implicit_solvent_system

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
CAPPED = ("ACE", "NME")
# The heavy atoms along each side chain, from N on: every four in a row make a chi.
SIDE_CHAINS = {
    **dict.fromkeys("FYWL", "N CA CB CG CD1"),
    **dict.fromkeys("DN", "N CA CB CG OD1"),
    **dict.fromkeys("EQ", "N CA CB CG CD OE1"),
    **{"C": "N CA CB SG", "S": "N CA CB OG", "T": "N CA CB OG1", "V": "N CA CB CG1"},
    **{"H": "N CA CB CG ND1", "I": "N CA CB CG1 CD1", "M": "N CA CB CG SD CE"},
    **{"K": "N CA CB CG CD CE NZ", "R": "N CA CB CG CD NE CZ", "A": "", "G": "", "P": ""},
}
CHI = {
    letter: [path.split()[k : k + 4] for k in range(len(path.split()) - 3)]
    for letter, path in SIDE_CHAINS.items()
}


def atoms_of(topology):
    """Return the atoms' indices by residue number and name."""
    return {(int(atom.residue.id), atom.name): atom.index for atom in topology.atoms()}


def neighbours_of(topology):
    neighbours = defaultdict(set)
    for first, second in topology.bonds():
        neighbours[first.index].add(second.index)
        neighbours[second.index].add(first.index)
    return neighbours


def contacts(topology, positions):
    """Return the distances [nm] of all atoms more than three bonds apart, as a matrix; infinite for the others."""
    neighbours, n_atoms = neighbours_of(topology), topology.getNumAtoms()
    bonded = np.eye(n_atoms, dtype=bool)
    for first, others in neighbours.items():
        bonded[first, list(others)] = True
    near = np.linalg.matrix_power(bonded.astype(int), 3) > 0
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return np.where(near, np.inf, distances)


def handedness(positions, centre, *around):
    """Return the sign of the volume that three atoms around a centre span."""
    return np.sign(np.linalg.det(positions[list(around)] - positions[centre]))


def read_pdb(text):
    return app.PDBFile(io.StringIO(text))


def written(topology, positions):
    text = io.StringIO()
    app.PDBFile.writeFile(topology, positions * unit.nanometer, text, keepIds=True)
    return text.getvalue()


@pytest.fixture(scope="module")
def protein():
    """A protein of all twenty residues that openmmtools brings along, minimised with AMBER in implicit solvent."""
    (folder,) = importlib.util.find_spec("openmmtools").submodule_search_locations
    pdb = app.PDBFile(str(Path(folder) / "data" / "src-implicit" / "1yi6-minimized.pdb"))
    return pdb.topology, pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)


@pytest.fixture(scope="module")
def amber99sb():
    return app.ForceField("amber99sb.xml")


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("caps", [CAPPED, ("ACE", "NH2"), (None, "NME"), ("ACE", None), None])
def test_names_and_bonds_are_those_of_openmm(letter, caps):
    """Written to a PDB file and read again, the peptide is the same: OpenMM knows all residues and atoms."""
    topology, positions = build_peptide(letter + letter, caps)
    again = read_pdb(written(topology, positions)).topology
    names = [[(a.name, a.residue.name, a.residue.id) for a in t.atoms()] for t in (topology, again)]
    assert names[0] == names[1]
    assert positions.shape == (len(names[0]), 3)
    bonds = [{frozenset((b[0].index, b[1].index)) for b in t.bonds()} for t in (topology, again)]
    assert bonds[0] == bonds[1]
    assert topology.getNumBonds() == len(bonds[0])  # none of them twice


@pytest.mark.parametrize("caps", [CAPPED, ("ACE", "NH2"), None])
@pytest.mark.parametrize("name", FORCE_FIELDS)
def test_force_fields_know_all_residues(name, caps):
    """In the middle and, of a chain without caps, at both ends; with the charges of pH 7."""
    loaded = app.ForceField(FORCE_FIELDS[name])
    sequences = [LETTERS] if caps else [letter + letter for letter in LETTERS]
    charges = []
    for sequence in sequences:
        topology, _ = build_peptide(sequence, caps)
        system = loaded.createSystem(topology)
        nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
        charges.append(
            sum(nonbonded.getParticleParameters(k)[0]._value for k in range(topology.getNumAtoms()))
        )
    expected = {"D": -2, "E": -2, "K": 2, "R": 2}
    np.testing.assert_allclose(
        charges, [0] if caps else [expected.get(letter, 0) for letter in LETTERS], atol=2e-3
    )


def test_protonation_at_ph_7():
    names = {(atom.residue.name, atom.name) for atom in build_peptide(LETTERS)[0].atoms()}
    assert ("HIS", "HE2") in names
    assert ("HIS", "HD1") not in names
    assert {("CYS", "HG"), ("TYR", "HH"), ("LYS", "HZ3"), ("ARG", "HH22")} <= names
    assert not {("ASP", "HD2"), ("GLU", "HE2")} & names


@pytest.mark.parametrize("letter", LETTERS)
def test_bonds_and_angles_are_near_the_equilibrium_of_amber(amber99sb, letter):
    """Within 5 pm and 6 degrees; AMBER's angles in rings of five are those of open chains: 14 degrees."""
    for topology, positions in (build_peptide(letter), build_peptide(letter + letter, None)):
        lengths, lengths_0, bent, bent_0 = [], [], [], []
        system = amber99sb.createSystem(topology)
        for force in system.getForces():
            if isinstance(force, openmm.HarmonicBondForce):
                for k in range(force.getNumBonds()):
                    i, j, length, _ = force.getBondParameters(k)
                    lengths.append(np.linalg.norm(positions[i] - positions[j]))
                    lengths_0.append(length._value)
            if isinstance(force, openmm.HarmonicAngleForce):
                for k in range(force.getNumAngles()):
                    *triple, angle, _ = force.getAngleParameters(k)
                    bent.append(angles(positions, np.array([triple]))[0])
                    bent_0.append(angle._value)
        assert len(lengths) == topology.getNumBonds()
        np.testing.assert_allclose(lengths, lengths_0, atol=0.005)
        np.testing.assert_allclose(np.degrees(bent), np.degrees(bent_0), atol=14 if letter in "PH" else 6)


def angle_triples(topology):
    """Yield a label and the atoms of each bond angle; a neighbouring residue's atom has no residue in the label."""
    atoms, neighbours = list(topology.atoms()), neighbours_of(topology)
    for centre, around in neighbours.items():
        own = atoms[centre].residue
        ends = sorted(around, key=lambda k: (atoms[k].name, atoms[k].residue.index))
        for k, first in enumerate(ends):
            for second in ends[k + 1 :]:
                label = [(atoms[i].name, atoms[i].residue is own) for i in (first, centre, second)]
                yield (own.name, *label), (first, centre, second)


def test_bonds_and_angles_are_near_those_of_a_protein(protein):
    """Within 5 pm and 5 degrees of the mean in a minimised protein, rings included."""
    topology, positions = protein
    found = defaultdict(list)
    for label, triple in angle_triples(topology):
        found[label].append(triple)
    means = {
        label: np.degrees(angles(positions, np.array(triples))).mean() for label, triples in found.items()
    }
    lengths = defaultdict(list)
    for a, b in topology.bonds():
        lengths[a.residue.name, frozenset((a.name, b.name))].append(
            np.linalg.norm(positions[a.index] - positions[b.index])
        )
    for letter in LETTERS:
        ours, x = build_peptide("A" + letter + "A")
        middle = list(ours.residues())[2]
        for label, triple in angle_triples(ours):
            if label[0] == middle.name:
                angle = np.degrees(angles(x, np.array([triple]))[0])
                assert abs(angle - means[label]) < 5, (label, angle, means[label])
        for a, b in ours.bonds():
            if a.residue is middle and b.residue is middle:
                mean = np.mean(lengths[middle.name, frozenset((a.name, b.name))])
                assert abs(np.linalg.norm(x[a.index] - x[b.index]) - mean) < 0.005, (middle, a, b)


CENTRES = {
    "CA": ("N", "C", "CB"),
    "ILE CB": ("CA", "CG1", "CG2"),
    "THR CB": ("CA", "OG1", "CG2"),
    "VAL CB": ("CA", "CG1", "CG2"),
    "LEU CG": ("CB", "CD1", "CD2"),
}


def all_handednesses(topology, positions):
    """Yield the residue and the centre of each carbon with three heavy neighbours, and its handedness."""
    for residue in topology.residues():
        atoms = {atom.name: atom.index for atom in residue.atoms()}
        for centre, around in CENTRES.items():
            name, _, atom = centre.rpartition(" ")
            if name in ("", residue.name) and {atom, *around} <= atoms.keys():
                yield residue.name, atom, handedness(positions, atoms[atom], *(atoms[a] for a in around))


@pytest.mark.parametrize("caps", [CAPPED, None])
def test_all_residues_are_l(protein, caps):
    """Chiral carbons, and the names of the branches of Val and Leu, are as in a protein."""
    expected = {(name, atom): sign for name, atom, sign in all_handednesses(*protein)}
    ours = list(all_handednesses(*build_peptide(LETTERS, caps)))
    assert len(ours) == 19 + 4
    assert {(name, atom): sign for name, atom, sign in ours} == expected
    # An absolute statement: seen from HA, the groups CO, R and N of an L residue follow each other clockwise.
    topology, positions = build_peptide("A")
    atoms = atoms_of(topology)
    ca, *around = (positions[atoms[1, name]] for name in ("CA", "C", "CB", "N"))
    from_ha = ca - positions[atoms[1, "HA"]]
    first, second, third = (position - ca for position in around)
    assert np.cross(first, second) @ from_ha > 0
    assert np.cross(second, third) @ from_ha > 0


def test_numbers_of_equal_hydrogens_run_clockwise():
    """Seen from the atom before: the next heavy atom, hydrogen 2, hydrogen 3 (IUPAC)."""
    topology, positions = build_peptide("GSKP")
    atoms = atoms_of(topology)
    for residue, before, centre, after, first, second in (
        (2, "CA", "CB", "OG", "HB2", "HB3"),
        (3, "CA", "CB", "CG", "HB2", "HB3"),
        (3, "CD", "CE", "NZ", "HE2", "HE3"),
        (4, "CB", "CG", "CD", "HG2", "HG3"),
        (4, "CG", "CD", "N", "HD2", "HD3"),
    ):
        index = [atoms[residue, name] for name in (before, centre, after, first, second)]
        assert handedness(positions, index[1], index[0], index[2], index[3]) == -1
        assert handedness(positions, index[1], index[0], index[2], index[4]) == 1
    # HA2 of glycine takes the place of the HA of the others.
    signs = {
        handedness(positions, *(atoms[residue, name] for name in ("CA", "N", "C", ha)))
        for residue, ha in ((1, "HA2"), (2, "HA"))
    }
    assert len(signs) == 1


@pytest.mark.parametrize("sequence", [*LETTERS, LETTERS, "WWPPWW"])
def test_an_extended_chain_has_no_clash(sequence):
    for caps in (CAPPED, None):
        topology, positions = build_peptide(sequence, caps)
        heavy = [atom.index for atom in topology.atoms() if atom.element.symbol != "H"]
        distances = contacts(topology, positions)
        assert distances[np.ix_(heavy, heavy)].min() > 0.26
        assert distances.min() > 0.19
        atoms = atoms_of(topology)
        if len(sequence) > 1:
            ends = positions[atoms[1, "CA"]] - positions[atoms[len(sequence), "CA"]]
            assert np.linalg.norm(ends) > 0.28 * (len(sequence) - 1)


@pytest.mark.parametrize("caps", [CAPPED, None])
def test_torsions_are_those_asked_for(rng, caps):
    n = len(LETTERS)
    phi, psi, omega = rng.uniform(-np.pi, np.pi, (3, n))
    phi[LETTERS.index("P")] = np.radians(-50)
    chi = [rng.uniform(-np.pi, np.pi, len(CHI[letter])) for letter in LETTERS]
    topology, positions = build_peptide(LETTERS, caps, phi=phi, psi=psi, omega=omega, chi=chi)
    atoms, quadruples, expected = atoms_of(topology), [], []
    for k, letter in enumerate(LETTERS, start=1):
        if caps or k > 1:
            quadruples.append([atoms[k - 1, "C"], *(atoms[k, name] for name in ("N", "CA", "C"))])
            expected.append(phi[k - 1])
        if caps or k < n:
            next_ca = (k + 1, "C" if k == n else "CA")
            quadruples.append([*(atoms[k, name] for name in ("N", "CA", "C")), atoms[k + 1, "N"]])
            quadruples.append([atoms[k, "CA"], atoms[k, "C"], atoms[k + 1, "N"], atoms[next_ca]])
            expected += [psi[k - 1], omega[k - 1]]
        quadruples += [[atoms[k, name] for name in names] for names in CHI[letter]]
        expected += list(chi[k - 1])
    if caps is None:
        quadruples += [
            [atoms[1, name] for name in ("H", "N", "CA", "C")],
            [atoms[n, name] for name in ("N", "CA", "C", "OXT")],
        ]
        expected += [phi[0], psi[-1]]
    turned = dihedrals(positions, np.array(quadruples)) - np.array(expected)
    np.testing.assert_allclose((turned + np.pi) % (2 * np.pi) - np.pi, 0, atol=1e-9)


def test_default_torsions():
    """Omega is trans, every residue has a rotamer, peptide groups and rings are planar."""
    topology, positions = build_peptide("AFP")
    atoms = atoms_of(topology)
    named = {
        180: [
            [(0, "CH3"), (0, "C"), (1, "N"), (1, "CA")],
            [(3, "CA"), (3, "C"), (4, "N"), (4, "C")],
            [(1, "O"), (1, "C"), (2, "N"), (2, "H")],
            [(2, "CA"), (2, "C"), (3, "N"), (3, "CA")],
            [(2, "CB"), (2, "CG"), (2, "CD1"), (2, "CE1")],
        ],
        0: [[(2, "O"), (2, "C"), (3, "N"), (3, "CA")], [(2, "CG"), (2, "CD1"), (2, "CE1"), (2, "CZ")]],
        -71: [[(2, "C"), (3, "N"), (3, "CA"), (3, "C")]],
        -65: [[(2, "N"), (2, "CA"), (2, "CB"), (2, "CG")]],
    }
    for expected, quadruples in named.items():
        index = np.array([[atoms[atom] for atom in quadruple] for quadruple in quadruples])
        turned = np.degrees(dihedrals(positions, index)) - expected
        np.testing.assert_allclose((turned + 180) % 360 - 180, 0, atol=1e-6)
    # The ring's CD lies in the plane of the peptide bond before it.
    planar = np.array([[atoms[2, "O"], atoms[2, "C"], atoms[3, "N"], atoms[3, "CD"]]])
    assert abs(np.degrees(dihedrals(positions, planar)[0])) > 175


def test_numbers_quantities_and_lists_are_the_same():
    expected = build_peptide("AGS", phi=np.radians([-60.0] * 3), psi=np.radians([-45.0] * 3))[1]
    listed = [-60 * unit.degree, np.radians(-60), -60 * unit.degree]
    psis = [np.radians(-45)] * 3
    for phi, psi in ((-60 * unit.degree, -45 * unit.degree), (np.radians(-60), psis), (listed, psis)):
        np.testing.assert_allclose(build_peptide("AGS", phi=phi, psi=psi)[1], expected, atol=1e-12)
    chi = [None, None, [1.0]]
    other = [None, None, [np.degrees(1.0)] * unit.degree]
    np.testing.assert_allclose(
        build_peptide("AGS", chi=chi)[1], build_peptide("AGS", chi=other)[1], atol=1e-12
    )
    assert not np.allclose(build_peptide("AGS", chi=chi)[1], build_peptide("AGS")[1], atol=1e-3)


def test_the_ring_of_proline_bounds_phi():
    build_peptide("APA", phi=np.radians([60, -100, 60]))
    build_peptide("APA", phi=np.radians([60, 300, 60]))  # which is -60
    with pytest.raises(InputError, match="ring of proline 2 needs a phi from -110 to -35 degrees, not 60"):
        build_peptide("APA", phi=np.radians(60))


def test_a_peptide_becomes_a_molecular_system():
    topology, positions = build_peptide("GP")
    system = implicit_solvent_system(topology, "amber14", "obc2")
    molecule = MolecularSystem("peptide", system, topology, positions)
    assert molecule.n_atoms == 33
    assert [residue.name for residue in topology.residues()] == ["ACE", "GLY", "PRO", "NME"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence": ""}, "A sequence is a text of one-letter codes"),
        ({"sequence": ["A", "G"]}, "A sequence is a text of one-letter codes"),
        ({"sequence": "AXG"}, r"no amino acid 'X' \(in 'AXG'\); the letters are ACDEFGHIKLMNPQRSTVWY"),
        ({"sequence": "ag"}, "no amino acid 'a'"),
        ({"caps": ("NME", "ACE")}, "no cap 'NME' in front; there are None and ACE"),
        ({"caps": ("ACE", "OMe")}, "no cap 'OMe' at the end; there are None and NME, NH2"),
        ({"caps": "ACE"}, "Give the cap in front and the cap at the end"),
        ({"caps": ("ACE",)}, "Give the cap in front and the cap at the end"),
        ({"caps": 2}, "Give the cap in front and the cap at the end"),
        ({"phi": [0.0, 0.0, 0.0]}, r"phi must be one number or 2 numbers.*shape \(3,\)"),
        ({"psi": [[0.0, 0.0]]}, r"psi must be one number or 2 numbers.*shape \(1, 2\)"),
        ({"omega": [0.0, np.nan]}, "omega must be finite"),
        ({"phi": "trans"}, "phi must be numbers, not 'trans'"),
        ({"chi": 5}, "chi must have one entry for each of the 2 residues, not 5"),
        ({"chi": [None]}, "chi must have one entry for each of the 2 residues, not 1"),
        ({"chi": [[1.0], None]}, r"ALA 1 has 0 side-chain torsions, but chi of the shape \(1,\)"),
        ({"chi": [None, [1.0, 2.0]]}, r"SER 2 has 1 side-chain torsions, but chi of the shape \(2,\)"),
        ({"chi": [None, [np.inf]]}, "chi must be finite"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        build_peptide(**{"sequence": "AS", **arguments})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("amber", "obc1"), "no force field called 'amber'; there are: amber96, amber99sb"),
        (("amber99sb", "gbsaobc"), "no solvent called 'gbsaobc'; there are: obc1, obc2"),
    ],
)
def test_unknown_force_fields(names, message):
    with pytest.raises(InputError, match=message):
        implicit_solvent_system(build_peptide("A")[0], *names)


def test_a_free_amino_acid_has_no_parameters():
    with pytest.raises(InputError, match=r"amber99sb lacks parameters for this molecule: No template found"):
        implicit_solvent_system(build_peptide("A", None)[0])
