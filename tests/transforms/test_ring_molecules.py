"""Whole molecules with rings, or several chains: their internal coordinates, and their energies against OpenMM."""

import functools

import numpy as np
import openmm
import pytest
import torch
from coordinate_checks import check_z_matrix, log_volume, round_trip, thermal
from molecule_examples import FORCE_FIELD, pdb_of
from ring_examples import biphenyl, cyclic_peptide, cyclopropane, disulfide, toluene

from openmm_bg.geometry import dihedrals
from openmm_bg.potentials import TorchPotential
from openmm_bg.systems import chignolin, load
from openmm_bg.systems.molecule_files import read_pdb_molecule
from openmm_bg.transforms import InternalCoordinates

GAS_CONSTANT = 8.31446261815324e-3  # [kJ/mol/K]
MIRROR = torch.tensor([1.0, 1.0, -1.0])
MOLECULES = {
    "toluene": toluene,
    "biphenyl": biphenyl,
    "disulfide": disulfide,
    "cyclo-(Gly)4": lambda: cyclic_peptide("GLY"),
    "cyclo-(Ala)4": lambda: cyclic_peptide("ALA"),
}
N_RINGS = {"toluene": 1, "biphenyl": 2, "disulfide": 0, "cyclo-(Gly)4": 1, "cyclo-(Ala)4": 1}
SEQUENCES = ("YYDPETGTWY", "GYDPETGTWG")
FORCE_FIELDS = {"amber99sb": "obc1", "amber14": "obc2", "amber03": "obc1"}  # each with a solvent


@functools.cache
def example(name):
    """A molecule, its potential, and 100 thermal configurations."""
    molecule = MOLECULES[name]()
    potential = TorchPotential.from_system(molecule, dtype=torch.float64)
    return molecule, potential, thermal(molecule, potential=potential)


@functools.cache
def native(sequence):
    """Chignolin in its default force field, its potential, and 100 thermal configurations of ten walkers."""
    molecule = chignolin(sequence)
    potential = TorchPotential.from_system(molecule, dtype=torch.float64)
    single = potential.to(dtype=torch.float32)  # half as long
    return molecule, potential, thermal(molecule, potential=single, n_frames=10)


def coordinates_of(molecule):
    return InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)


def indices(molecule):
    """Return the atoms' indices by residue number and name."""
    residues = enumerate(molecule.topology.residues(), start=1)
    return {(k, atom.name): atom.index for k, residue in residues for atom in residue.atoms()}


def exchanged(x, pairs):
    """Return configurations with the labels of some pairs of atoms exchanged."""
    first, second = (list(atoms) for atoms in zip(*pairs, strict=True))
    swapped = x.clone()
    swapped[:, first + second] = x[:, second + first]
    return swapped


def check_thermal(molecule, potential, x):
    """Each of 3N - 6 vibrations has an energy of kT/2 on average; springs that are not harmonic differ a little."""
    assert x.shape == (100, molecule.n_atoms, 3)
    lowest = float(potential.energy(torch.tensor(molecule.positions[None]))[0])
    expected = 0.5 * GAS_CONSTANT * 300.0 * (3 * molecule.n_atoms - 6)
    assert 0.8 < (float(potential.energy(x).mean()) - lowest) / expected < 1.15


def check_coordinates(molecule, x, n_rings):
    coordinates = coordinates_of(molecule).fit(x)
    check_z_matrix(coordinates.z_matrix, molecule.bonds, n_rings)
    _, logabsdet, error = round_trip(coordinates, x)
    assert torch.isfinite(logabsdet).all()
    assert error < 1e-9
    return coordinates


def check_energies(molecule, potential, x, reference):
    """Errors are in units of max(|U|, 100 kJ/mol), and of the norm of the forces."""
    energies, forces = reference(molecule.system, x.numpy())
    for mode in ("fused", "eager"):
        found, found_forces = (values.numpy() for values in potential.to(mode=mode).energy_and_forces(x))
        assert (np.abs(found - energies) <= 1e-10 * np.maximum(np.abs(energies), 100.0)).all()
        error = np.linalg.norm(found_forces - forces, axis=(1, 2))
        assert (error <= 1e-10 * np.linalg.norm(forces, axis=(1, 2))).all()


@pytest.mark.parametrize("name", MOLECULES)
def test_coordinates(name):
    molecule, potential, x = example(name)
    check_thermal(molecule, potential, x)
    check_coordinates(molecule, x, N_RINGS[name])
    assert abs(log_volume(coordinates_of(molecule), x[0])) < 1e-9


@pytest.mark.parametrize("name", MOLECULES)
def test_energies_and_forces(name, reference_energies_and_forces):
    check_energies(*example(name), reference_energies_and_forces)


@pytest.mark.parametrize("name", [name for name in MOLECULES if name != "biphenyl"])
def test_mirror_images_are_told_apart(name):
    molecule, _, x = example(name)
    assert torch.isneginf(coordinates_of(molecule).forward(x * MIRROR)[1]).all()


@pytest.mark.parametrize(
    ("name", "residues", "hydrogens", "inside"),
    [
        ("toluene", [1], ("H7", "H8"), True),
        ("cyclo-(Gly)4", [1, 2, 3, 4], ("HA2", "HA3"), True),
        ("cyclo-(Gly)4", [1, 2, 3], ("HA2", "HA3"), False),  # one is left
        ("cyclo-(Ala)4", [1, 2, 3, 4], ("HB2", "HB3"), False),  # the alanines are D
    ],
)
def test_mirror_images_with_other_hydrogen_labels(name, residues, hydrogens, inside):
    """Where nothing else is chiral, the mirror image is the same molecule with some hydrogens exchanged."""
    molecule, _, x = example(name)
    atoms = indices(molecule)
    pairs = [tuple(atoms[k, hydrogen] for hydrogen in hydrogens) for k in residues]
    logabsdet = coordinates_of(molecule).forward(exchanged(x * MIRROR, pairs))[1]
    assert (torch.isfinite(logabsdet) == inside).all()


def test_chirality_is_told_at_every_alpha_carbon_of_a_ring():
    molecule, _, x = example("cyclo-(Ala)4")
    coordinates, atoms = coordinates_of(molecule), indices(molecule)
    for k in range(1, 5):
        n, ca, c, cb = (x[:, atoms[k, name]] for name in ("N", "CA", "C", "CB"))
        # CORN: seen from HA, the groups CO, R and N follow each other clockwise, a right-handed triple.
        assert (torch.linalg.det(torch.stack([c - ca, cb - ca, n - ca], dim=1)) > 0).all()
        assert torch.isneginf(coordinates.forward(turned_over(molecule, x, k))[1]).all()


def test_biphenyl_has_no_forbidden_mirror_image():
    """It is twisted, so that its mirror image is another configuration; turning the rings leads there."""
    molecule, _, x = example("biphenyl")
    coordinates = coordinates_of(molecule)
    assert not len(coordinates.handedness)
    atoms = indices(molecule)
    middle = [[atoms[1, name] for name in ("C2", "C1", "C7", "C8")]]
    twists = dihedrals(x.numpy(), middle)[:, 0]
    assert twists.min() < -0.2  # [rad]
    assert twists.max() > 0.2
    # Of coordinates that were fitted to one of the two images only, too.
    coordinates.fit(x[twists > 0])
    _, logabsdet, error = round_trip(coordinates, x * MIRROR)
    assert torch.isfinite(logabsdet).all()
    assert error < 1e-9
    turned = torch.stack([turn_ring(molecule, angle) for angle in torch.arange(0.0, 2 * np.pi, 0.1).double()])
    assert torch.isfinite(coordinates.forward(turned)[1]).all()


def turn_ring(molecule, angle):
    """Return positions of biphenyl with its second ring turned about the middle bond."""
    atoms, x = indices(molecule), torch.tensor(molecule.positions)
    ring = [index for (_, name), index in atoms.items() if int(name[1:]) > 6]
    x[ring] = rotated(x[ring], x[atoms[1, "C1"]], x[atoms[1, "C7"]], angle)
    return x


def rotated(x, start, end, angle):
    """Return positions turned by an angle [rad] about the axis from one point to another."""
    axis, relative = (end - start) / (end - start).norm(), x - start
    along = torch.outer(relative @ axis, axis)
    across = relative - along
    return start + along + angle.cos() * across + angle.sin() * torch.linalg.cross(axis.expand_as(x), across)


def test_biphenyl_has_the_torsion_of_gaff():
    """Four terms with barriers of 1 kcal/mol each, twice as high as their factors; the others do not change."""
    molecule, _, _ = example("biphenyl")
    system = openmm.XmlSerializer.clone(molecule.system)
    for force in system.getForces():
        force.setForceGroup(isinstance(force, openmm.PeriodicTorsionForce))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    atoms = indices(molecule)
    energies = []
    for twist in (0.0, np.pi / 2, np.pi):
        now = float(dihedrals(molecule.positions[None], [[atoms[1, f"C{k}"] for k in (2, 1, 7, 8)]])[0, 0])
        context.setPositions(turn_ring(molecule, torch.tensor(twist - now)).numpy())
        energies.append(context.getState(energy=True, groups={1}).getPotentialEnergy()._value)
    # The rings are not quite plane at the minimum.
    np.testing.assert_allclose(np.diff(energies), [8 * 4.184, -8 * 4.184], rtol=0.01)


def test_chains_that_a_bond_joins_are_one_molecule(tmp_path, reference_energies_and_forces):
    molecule, potential, x = example("disulfide")
    assert [len(list(chain.residues())) for chain in molecule.topology.chains()] == [3, 3]
    path = tmp_path / "disulfide.pdb"
    path.write_text(pdb_of(molecule.topology, molecule.positions))
    read = read_pdb_molecule(path, FORCE_FIELD).molecule()
    np.testing.assert_array_equal(read.bonds, molecule.bonds)
    check_energies(read, potential, x[:5], reference_energies_and_forces)
    # Each of the two chains has its own chirality.
    for k in (2, 5):
        assert torch.isneginf(coordinates_of(read).forward(turned_over(molecule, x, k))[1]).all()


@pytest.mark.parametrize("forcefield", FORCE_FIELDS)
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_chignolin(sequence, forcefield, reference_energies_and_forces):
    molecule, potential, x = native(sequence)
    if forcefield != "amber99sb":
        molecule = chignolin(sequence, forcefield=forcefield, solvent=FORCE_FIELDS[forcefield])
        potential = TorchPotential.from_system(molecule, dtype=torch.float64)
        x = thermal(molecule, potential=potential, start=x, n_steps=25)
    check_thermal(molecule, potential, x)
    coordinates = check_coordinates(molecule, x, 3 + sequence.count("Y"))  # Pro, the two of Trp, Tyr
    assert torch.isneginf(coordinates.forward(x * MIRROR)[1]).all()
    check_energies(molecule, potential, x[::5], reference_energies_and_forces)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_volume_of_chignolin(sequence):
    molecule, _, x = native(sequence)
    assert abs(log_volume(coordinates_of(molecule), x[-1])) < 1e-9


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_chirality_is_told_at_every_alpha_carbon_of_chignolin(sequence):
    """One residue that becomes D, with all else as it was, has density zero; another rotamer has not."""
    molecule, _, x = native(sequence)
    coordinates, atoms = coordinates_of(molecule), indices(molecule)
    four_bonds = neighbours_of_four(molecule)
    for k, letter in enumerate(sequence, start=2):  # the cap is the first
        if letter == "G":
            continue
        changed = turned_over(molecule, x, k)
        centres = {
            centre
            for centre, around in four_bonds.items()
            if (handedness(changed, centre, around) * handedness(x, centre, around) < 0).any()
        }
        assert atoms[k, "CA"] in centres
        if letter != "P":  # its side chain is bonded to N, too
            assert centres == {atoms[k, "CA"]}
            rotamer = x.clone()
            for one in rotamer:
                moved = side_chain(atoms, k)
                one[moved] = rotated(
                    one[moved], one[atoms[k, "CA"]], one[atoms[k, "CB"]], torch.tensor(2.0).double()
                )
            assert torch.isfinite(coordinates.forward(rotamer)[1]).all()
        assert torch.isneginf(coordinates.forward(changed)[1]).all()


def side_chain(atoms, residue):
    """Return the indices of a residue's atoms from C-beta on."""
    backbone = ("N", "H", "CA", "HA", "C", "O")
    return [index for (k, name), index in atoms.items() if k == residue and name not in backbone]


def turned_over(molecule, x, residue):
    """Return configurations with H-alpha and the whole side chain exchanged, by half a turn of both."""
    atoms = indices(molecule)
    moved = [atoms[residue, "HA"], *side_chain(atoms, residue)]
    changed = x.clone()
    for one in changed:
        centre = one[atoms[residue, "CA"]]
        towards = [one[atoms[residue, name]] - centre for name in ("HA", "CB")]
        bisector = sum(vector / vector.norm() for vector in towards)
        one[moved] = rotated(one[moved], centre, centre + bisector, torch.tensor(np.pi))
    return changed


def neighbours_of_four(molecule):
    """Return the neighbours of each atom that has four, by its index."""
    near = {}
    for first, second in molecule.bonds.tolist():
        near.setdefault(first, []).append(second)
        near.setdefault(second, []).append(first)
    return {centre: around for centre, around in near.items() if len(around) == 4}


def handedness(x, centre, around):
    """Return the volume that the first three neighbours of a centre span with the fourth."""
    edges = x[:, around[:3]] - x[:, around[3:]]
    return torch.linalg.det(edges)


def test_vibrations_do_not_leave_the_class():
    """In a strained ring, torsions of siblings pass 180 degrees although no centre is turned over."""
    molecule = cyclopropane()
    x = thermal(molecule, 2000, temperature=600.0)
    coordinates = coordinates_of(molecule)
    z_matrix, raw = coordinates.z_matrix, coordinates._raw(x)[:, 2 * 9 - 3 :]
    siblings = torch.as_tensor(z_matrix.sibling[3:] >= 0)
    reference = coordinates._raw(torch.tensor(molecule.positions)[None])[:, 2 * 9 - 3 :]
    assert (raw * reference < 0)[:, siblings].any(1).float().mean() > 0.005
    four_bonds = neighbours_of_four(molecule)
    assert len(four_bonds) == 3
    for centre, around in four_bonds.items():
        start = handedness(torch.tensor(molecule.positions)[None], centre, around)
        assert (handedness(x, centre, around) * start > 0).all()
    _, logabsdet, error = round_trip(coordinates.fit(x), x)
    assert torch.isfinite(logabsdet).all()
    assert error < 1e-9
    assert abs(log_volume(coordinates_of(molecule), x[0])) < 1e-9
    swapped = x.clone()
    swapped[:, [3, 4]] = x[:, [4, 3]]
    assert torch.isneginf(coordinates.forward(swapped)[1]).all()


def test_hot_alanine_dipeptide_stays_in_the_class():
    molecule = load("alanine_dipeptide")
    x = thermal(molecule, 3000, temperature=1200.0, n_frames=10)
    coordinates = coordinates_of(molecule)
    assert torch.isfinite(coordinates.fit(x).forward(x)[1]).all()
