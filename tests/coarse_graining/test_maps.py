"""Linear coarse-grained maps: beads, forces on them, the choice of anchors, and what is refused."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from openmm_bg.coarse_graining.maps import LinearMap, assignment_map, centroid_map, selection_map
from openmm_bg.errors import InputError
from openmm_bg.systems import load
from openmm_bg.transforms import FibreCoordinates

N_ATOMS, ATOMS = 9, [7, 2, 4, 0]
GROUPS = [[3, 1, 0], [4, 8], [2], [6, 7]]  # atom 5 is in none
MASSES = np.array([1.0, 12.0, 14.0, 1.0, 16.0, 1.0, 12.0, 1.0, 16.0])


def assignment(seed=0, n_beads=4):
    parts = np.random.default_rng(seed).dirichlet(np.full(n_beads, 0.3), size=N_ATOMS)
    return parts / parts.sum(1, keepdims=True)


MAPS = {
    "atoms": lambda: selection_map(N_ATOMS, ATOMS),
    "centres": lambda: centroid_map(N_ATOMS, GROUPS),
    "centres of mass": lambda: centroid_map(N_ATOMS, GROUPS, MASSES),
    "soft": lambda: assignment_map(assignment()),
    "soft, by mass": lambda: assignment_map(assignment(1), MASSES),
    "weights of both signs": lambda: LinearMap(
        np.eye(N_ATOMS)[ATOMS] * 1.5 - np.roll(np.eye(N_ATOMS)[ATOMS], 1, axis=1) * 0.5, ATOMS
    ),
}


@pytest.fixture
def x(rng):
    return torch.as_tensor(rng.normal(size=(20, N_ATOMS, 3)))


def rotation(rng):
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return torch.as_tensor(matrix * np.sign(np.linalg.det(matrix)))


def test_beads_of_a_selection_are_its_atoms_in_its_order(x):
    selection = selection_map(N_ATOMS, ATOMS)
    assert torch.equal(selection.beads(x), x[:, ATOMS])
    assert selection.anchors.tolist() == ATOMS
    assert (selection.n_atoms, selection.n_beads) == (N_ATOMS, 4)


@pytest.mark.parametrize("masses", [None, MASSES])
def test_beads_of_groups_are_their_centres(x, masses):
    beads = centroid_map(N_ATOMS, GROUPS, masses).beads(x)
    for bead, group in zip(beads.unbind(1), GROUPS, strict=True):
        expected = np.average(x[:, group].numpy(), axis=1, weights=None if masses is None else masses[group])
        np.testing.assert_allclose(bead, expected, atol=1e-14)


@pytest.mark.parametrize("masses", [None, MASSES])
def test_weights_of_a_soft_assignment_are_parts_of_beads(x, masses):
    parts = assignment()
    soft = assignment_map(parts, masses)
    for k, bead in enumerate(soft.beads(x).unbind(1)):
        weights = parts[:, k] * (1.0 if masses is None else masses)
        np.testing.assert_allclose(bead, np.average(x.numpy(), axis=1, weights=weights), atol=1e-14)


def test_hard_assignment_is_that_of_groups(x):
    groups = [[3, 1, 0], [4, 8, 5], [2], [6, 7]]
    hard = np.zeros((N_ATOMS, 4))
    for k, group in enumerate(groups):
        hard[group, k] = 1.0
    soft, centres = assignment_map(hard, MASSES), centroid_map(N_ATOMS, groups, MASSES)
    assert (soft.weights - centres.weights).abs().max() < 1e-15


@pytest.mark.parametrize("name", MAPS)
def test_weights_of_each_bead_sum_to_one(name):
    bead_map = MAPS[name]()
    assert bead_map.weights.dtype == torch.float64
    assert bead_map.weights.shape == (bead_map.n_beads, bead_map.n_atoms) == (4, N_ATOMS)
    assert (bead_map.weights.sum(1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("name", MAPS)
def test_beads_turn_move_and_are_mirrored_with_the_atoms(name, x, rng):
    bead_map, matrix, shift = MAPS[name](), rotation(rng), torch.as_tensor(rng.normal(size=3))
    for turning in (matrix, -matrix):
        moved = bead_map.beads(x @ turning.T + shift)
        assert (moved - bead_map.beads(x) @ turning.T - shift).abs().max() < 1e-9
    assert (bead_map.bead_forces(x @ matrix.T) - bead_map.bead_forces(x) @ matrix.T).abs().max() < 1e-9


def test_forces_on_beads_that_are_atoms_are_their_own(x):
    assert (selection_map(N_ATOMS, ATOMS).bead_forces(x) - x[:, ATOMS]).abs().max() < 1e-14


def test_forces_on_centres_are_the_averages_times_the_number_of_atoms(x):
    """Disjoint groups: the sum of the forces on a group, which is what moves its centre."""
    forces = centroid_map(N_ATOMS, GROUPS).bead_forces(x)
    for force, group in zip(forces.unbind(1), GROUPS, strict=True):
        assert (force - x[:, group].sum(1)).abs().max() < 1e-12


@pytest.mark.parametrize("name", MAPS)
def test_forces_of_an_energy_of_the_beads_come_back(name, x, rng):
    """U(x) = V(P x): -grad U by autograd, projected, is -grad V; for quadratic V, and one that is not."""
    bead_map = MAPS[name]()
    stiffness = torch.as_tensor(rng.normal(size=(12, 12)))
    stiffness = stiffness @ stiffness.T

    def quadratic(beads):
        flat = beads.flatten(1)
        return 0.5 * ((flat @ stiffness) * flat).sum()

    def distances(beads):
        return torch.cdist(beads, beads).square().add(0.1).sqrt().sum()

    for energy in (quadratic, distances):
        atoms = x.clone().requires_grad_(True)
        energy(torch.einsum("ba,nax->nbx", bead_map.weights, atoms)).backward()
        beads = bead_map.beads(x).requires_grad_(True)
        energy(beads).backward()
        scale = float(beads.grad.abs().max())
        assert (bead_map.bead_forces(-atoms.grad) + beads.grad).abs().max() < 1e-9 * scale
        if name != "atoms":  # control: averages of forces are no forces on averages
            assert (bead_map.beads(-atoms.grad) + beads.grad).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("name", MAPS)
def test_mean_of_the_forces_is_the_mean_force(name, rng):
    """A harmonic U = x K x / 2: beads have the free energy z (P K^-1 P^T)^-1 z / 2.

    Forces are linear in x, so that their mean at given beads is the force at the mean of x given z.
    """
    bead_map = MAPS[name]()
    p = bead_map.weights.numpy()
    root = rng.normal(size=(N_ATOMS, N_ATOMS))
    stiffness = root @ root.T + np.eye(N_ATOMS)
    spread = np.linalg.inv(stiffness)
    z = rng.normal(size=(4, 3))
    mean_force = -np.linalg.solve(p @ spread @ p.T, z)
    mean_x = spread @ p.T @ np.linalg.solve(p @ spread @ p.T, z)
    np.testing.assert_allclose(p @ mean_x, z, atol=1e-10)
    found = bead_map.bead_forces(-(stiffness @ mean_x)[None])[0]
    np.testing.assert_allclose(found, mean_force, atol=1e-9 * np.abs(mean_force).max())


def test_drawing_from_a_linear_map_is_taking_its_beads(x):
    bead_map = MAPS["soft"]()
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    z = bead_map.draw(x, generator)
    assert torch.equal(z, bead_map.beads(x))
    assert torch.equal(generator.get_state(), state)  # nothing is random
    log_prob = bead_map.log_prob(z, x)
    assert torch.equal(log_prob, torch.zeros(len(x), dtype=torch.float64))


@pytest.mark.parametrize("name", MAPS)
def test_config_rebuilds_the_map(name, x):
    bead_map = MAPS[name]()
    config = json.loads(json.dumps(bead_map.config()))
    assert config.pop("kind") == "LinearMap"
    again = LinearMap(**config)
    assert torch.equal(again.beads(x), bead_map.beads(x))
    np.testing.assert_array_equal(again.anchors, bead_map.anchors)
    assert (again.anchors is None) == (name not in ("atoms", "weights of both signs"))


def test_coordinates_are_of_the_atoms_that_the_map_leaves_free():
    one = load("alanine_dipeptide")
    backbone = selection_map(22, [4, 6, 8, 14])
    coordinates = backbone.coordinates(one.positions, one.bonds, one.masses)
    assert isinstance(coordinates, FibreCoordinates)
    assert coordinates.n_features == 3 * (22 - 4)
    assert torch.equal(coordinates.weights, backbone.weights)
    assert coordinates.matrix.anchors.tolist() == [4, 6, 8, 14]
    with pytest.raises(InputError, match="shape"):
        selection_map(21, [4, 6, 8]).coordinates(one.positions, one.bonds)
    with pytest.raises(InputError, match="nothing is left"):
        selection_map(22, range(22)).coordinates(one.positions, one.bonds)


CHAIN = np.array([[k, k + 1] for k in range(N_ATOMS - 1)])


def chosen(bead_map, positions, bonds=CHAIN, masses=None):
    """Return the anchors that the coordinates of a map have."""
    return bead_map.coordinates(positions, bonds, masses).matrix.anchors


@pytest.mark.parametrize("masses", [None, MASSES])
def test_anchors_of_groups_are_the_nearest_of_their_heavy_atoms(masses, rng):
    for _ in range(10):
        x = rng.normal(size=(N_ATOMS, 3))
        expected, nearest = [], []
        for group in GROUPS:
            m = np.ones(len(group)) if masses is None else masses[group]
            distance = np.linalg.norm(x[group] - np.average(x[group], axis=0, weights=m), axis=1)
            nearest.append(group[distance.argmin()])
            expected.append(group[np.where(m >= 0.5 * m.max(), distance, np.inf).argmin()])
        assert chosen(centroid_map(N_ATOMS, GROUPS, masses), x).tolist() == expected
    # Control: with masses the nearest of all can be a hydrogen.
    light = np.array([[0.0, 0, 0], [1.0, 0, 0], [0.6, 0.1, 0]])  # atoms 0 and 1 are carbons, 2 is a hydrogen
    x = np.concatenate([light, rng.normal(size=(6, 3))])
    groups, m = [[0, 1, 2], [4, 8], [5], [6, 7]], np.array([12.0, 12.0, 1.0, *np.ones(6)])
    assert chosen(centroid_map(N_ATOMS, groups, m), x)[0] == 1
    assert chosen(centroid_map(N_ATOMS, groups), x)[0] == 2


def soft_example(seed):
    """A soft map, a configuration, distances of beads and atoms, and which atoms are large in which bead."""
    soft = assignment_map(assignment(seed), MASSES)
    x, weights = np.random.default_rng(seed + 100).normal(size=(N_ATOMS, 3)), soft.weights.numpy()
    distances = np.linalg.norm((weights @ x)[:, None] - x, axis=-1)
    return soft, x, distances, weights >= 0.5 * weights.max(1, keepdims=True)


@pytest.mark.parametrize("seed", [0, 1, 2, 5, 6, 7, 8, 9])
def test_anchors_of_a_soft_assignment_are_chosen_by_the_closest_pairs(seed):
    """No free pair of a bead and one of its large atoms is closer than the last of the chosen."""
    soft, x, distances, large = soft_example(seed)
    anchors = chosen(soft, x)
    assert large[range(4), anchors].all()
    distances, own = np.where(large, distances, np.inf), distances[range(4), anchors]
    beads, atoms = list(range(4)), list(range(N_ATOMS))
    for bead in np.argsort(own):
        assert own[bead] == pytest.approx(distances[np.ix_(beads, atoms)].min(), abs=1e-12)
        beads.remove(bead)
        atoms.remove(anchors[bead])


@pytest.mark.parametrize(("seed", "fewest"), [(3, 0), (4, 1)])
def test_beads_that_compete_for_their_large_atoms_share_them_well(seed, fewest):
    """Of all choices, as few small atoms as can be, and then the smallest sum of distances.

    By the closest pairs alone the last bead would be left without a large atom; of seed 4 it cannot have one.
    """
    soft, x, distances, large = soft_example(seed)
    choices = np.array(list(itertools.permutations(range(N_ATOMS), 4)))
    n_small = (~large[range(4), choices]).sum(1)
    assert n_small.min() == fewest
    total = distances[range(4), choices].sum(1)
    best = choices[np.lexsort([total, n_small])[0]]
    assert chosen(soft, x).tolist() == best.tolist()


def test_anchors_do_not_depend_on_place_orientation_and_the_order_of_the_beads(rng):
    soft, x = assignment_map(assignment(3)), rng.normal(size=(N_ATOMS, 3))
    anchors, turn = chosen(soft, x), rotation(rng).numpy()
    np.testing.assert_array_equal(chosen(soft, x @ turn + 1.0), anchors)
    np.testing.assert_array_equal(chosen(LinearMap(soft.weights.flip(0)), x), anchors[::-1])
    np.testing.assert_array_equal(soft.coordinates(x, CHAIN).weights, soft.weights)
    assert soft.anchors is None  # another reference may have others


def test_beads_that_take_the_atoms_of_another_leave_it_one():
    """The two closest pairs are bead 0 with atom 0 and bead 1 with atom 2, which are all that bead 2 has."""
    x = np.array([[-0.5, 0.0, 0.0], [0.0, 0.1, 0.0], [0.5, 0.0, 0.0], [0.6, 0.3, 0.1], [0.3, 0.2, 0.5]])
    weights = np.zeros((3, 5))
    weights[0, [0, 1]], weights[1, [1, 2]], weights[2, [0, 2]] = (0.6, 0.4), (0.4, 0.6), (0.5, 0.5)
    anchors = chosen(LinearMap(weights), x, CHAIN[:4])
    assert sorted(anchors) == [0, 1, 2]
    assert (weights[range(3), anchors] > 0).all()
    # A bead whose large atoms are all taken has a small one.
    weights = np.zeros((3, 5))
    weights[0, 0], weights[1, [0, 4]], weights[2, 2] = 1.0, (0.7, 0.3), 1.0
    assert chosen(LinearMap(weights), x, CHAIN[:4]).tolist() == [0, 4, 2]
    weights[1] = weights[0]  # two beads in one place
    with pytest.raises(InputError, match="an average of others, or the same as another"):
        LinearMap(weights)
    weights[1, [0, 4]] = (1.3, -0.3)  # only atom 0 has a positive weight in either
    with pytest.raises(InputError, match="too few atoms for an anchor each"):
        chosen(LinearMap(weights), x, CHAIN[:4])


def test_given_anchors_are_kept(rng):
    weights, x = MAPS["soft"]().weights, rng.normal(size=(N_ATOMS, 3))
    other = np.roll(chosen(LinearMap(weights), x), 1)
    given = LinearMap(weights, other)
    np.testing.assert_array_equal(chosen(given, x), other)
    np.testing.assert_array_equal(given.anchors, other)


def backbone_and_side_chains(one):
    groups = []
    for residue in one.topology.residues():
        backbone = [a.index for a in residue.atoms() if a.name in ("N", "H", "CA", "HA", "C", "O")]
        groups += [backbone, [a.index for a in residue.atoms() if a.index not in backbone]]
    return [group for group in groups if group]


@pytest.mark.parametrize("choice", ["nearest", "heaviest"])
def test_beads_in_the_place_of_an_atom_are_no_obstacle(choice):
    """The centres of chignolin's Asp and Glu side chains are next to a carbon, whichever atom is the anchor."""
    one = load("chignolin")
    groups = backbone_and_side_chains(one)
    bead_map = centroid_map(one.n_atoms, groups, one.masses)
    x = torch.as_tensor(np.array(one.positions))[None]
    nearest = (bead_map.beads(x)[0][:, None] - x[0]).norm(dim=2).min(dim=1).values
    assert nearest.min() < 0.02  # nm
    if choice == "heaviest":
        masses = np.asarray(one.masses)
        bead_map = LinearMap(bead_map.weights, [group[masses[group].argmax()] for group in groups])
    coordinates = bead_map.coordinates(one.positions, one.bonds, one.masses)
    assert all(anchor in group for anchor, group in zip(coordinates.matrix.anchors, groups, strict=True))
    features, logabsdet = coordinates.forward(x)
    assert torch.isfinite(logabsdet).all()
    assert (coordinates.inverse(features, bead_map.beads(x))[0] - x).abs().max() < 1e-9


def test_references_that_cannot_be():
    soft, x = MAPS["soft"](), np.random.default_rng(0).normal(size=(N_ATOMS, 3))
    with pytest.raises(InputError, match="9 atoms; the positions have the shape"):
        soft.coordinates(x[:8], CHAIN[:7])
    x[3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        soft.coordinates(x, CHAIN)


def test_tensors_lists_and_arrays_are_the_same_map(x):
    weights, parts = MAPS["soft"]().weights, assignment()
    for given in (weights, weights.requires_grad_(True), weights.detach().tolist(), weights.detach().numpy()):
        assert torch.equal(LinearMap(given, [0, 1, 2, 3]).weights, weights.detach())
    for given in (torch.as_tensor(parts), torch.as_tensor(parts).requires_grad_(True), parts.tolist()):
        assert torch.equal(assignment_map(given).weights, assignment_map(parts).weights)
    given = np.eye(N_ATOMS)[ATOMS]
    bead_map = LinearMap(given, ATOMS)
    given[:] = 0.0  # the map has a copy
    assert torch.equal(bead_map.beads(x), x[:, ATOMS])
    assert torch.equal(bead_map.beads(x.numpy()), bead_map.beads(x))


@pytest.mark.parametrize("shape", [(5, 8, 3), (9, 3), (5, 9, 2), (5, 27)])
def test_positions_and_forces_of_another_molecule_are_refused(shape):
    bead_map = selection_map(N_ATOMS, ATOMS)
    with pytest.raises(InputError, match="9 atoms; the positions have the shape"):
        bead_map.beads(np.zeros(shape))
    with pytest.raises(InputError, match="9 atoms; the forces have the shape"):
        bead_map.bead_forces(np.zeros(shape))


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ([0, 1, 2, 3, 4, 5], "more beads \\(6\\) than atoms \\(5\\)"),
        ([0, 1], "at least three beads"),
        ([], "at least three beads"),
        ([0, 1, 5], "names the atom 5, but the molecule has the atoms 0 to 4"),
        ([0, -1, 2], "names the atom -1"),
        ([0, 2, 2], "atom 2 twice"),
        ([0.0, 1.5, 2.0], "whole numbers"),
    ],
)
def test_selections_that_cannot_be(atoms, message):
    with pytest.raises(InputError, match=message):
        selection_map(5, atoms)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0], [1], [2], [3], [4], [0]], "more beads"),
        ([[0, 1], [2, 3]], "at least three beads"),
        ([[0, 1], [], [2, 3]], "Bead 1 has no atoms"),
        ([[0, 1], [1], [2, 3]], "atom 1 twice"),
        ([[0, 0], [1], [2, 3]], "atom 0 twice"),
        ([[0, 1], [2], [5]], "names the atom 5"),
        ([[0, 1], [2], [-1]], "names the atom -1"),
        ([[0, 1], [2], [3.5]], "whole numbers"),
    ],
)
def test_groups_that_cannot_be(groups, message):
    with pytest.raises(InputError, match=message):
        centroid_map(5, groups)


@pytest.mark.parametrize("masses", [np.ones(8), np.ones(10), np.zeros(9), -np.ones(9), np.full(9, np.nan)])
def test_masses_that_cannot_be(masses):
    with pytest.raises(InputError, match="9 positive numbers"):
        centroid_map(N_ATOMS, GROUPS, masses)
    with pytest.raises(InputError, match="9 positive numbers"):
        assignment_map(assignment(), masses)


def test_assignments_that_cannot_be():
    with pytest.raises(InputError, match="sum to one"):
        assignment_map(1.01 * assignment())
    negative = assignment()
    negative[0] = [1.5, -0.5, 0.0, 0.0]
    with pytest.raises(InputError, match="sum to one"):
        assignment_map(negative)
    with pytest.raises(InputError, match="a row for each atom"):
        assignment_map(np.ones(5))
    broken = assignment()
    broken[0, 0] = math.nan
    with pytest.raises(InputError, match="sum to one"):
        assignment_map(broken)
    with pytest.raises(InputError, match="Bead 2 has no atoms"):
        assignment_map(np.insert(assignment(n_beads=3), 2, 0.0, axis=1))
    with pytest.raises(InputError, match="more beads"):
        assignment_map(assignment()[:3])
    with pytest.raises(InputError, match="at least three beads"):
        assignment_map(assignment(n_beads=2))


def test_weights_that_are_no_averages():
    weights = np.eye(N_ATOMS)[ATOMS]
    LinearMap(weights, ATOMS)  # control
    for bad in (0.999 * weights, np.zeros_like(weights), np.where(weights == 1, np.nan, 0.0)):
        with pytest.raises(InputError, match="finite and sum to one"):
            LinearMap(bad, ATOMS)
    with pytest.raises(InputError, match="shape \\(n_beads, n_atoms\\)"):
        LinearMap(weights[0], ATOMS)
    with pytest.raises(InputError, match="more beads"):
        LinearMap(np.full((4, 3), 1 / 3), [0, 1, 2, 3])


def test_anchors_that_cannot_be():
    weights = np.eye(N_ATOMS)[ATOMS]
    with pytest.raises(InputError, match="Bead 3 has the anchor atom 1, which has no weight"):
        LinearMap(weights, [7, 2, 4, 1])
    with pytest.raises(InputError, match="one anchor atom for each of the 4 beads"):
        LinearMap(weights, ATOMS[:3])
    with pytest.raises(InputError, match="names the atom 9"):
        LinearMap(weights, [7, 2, 4, 9])
    with pytest.raises(InputError, match="atom 7 twice"):
        LinearMap(weights, [7, 2, 4, 7])
    with pytest.raises(InputError, match="whole numbers"):
        LinearMap(weights, [7, 2, 4, 0.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearMap([[1.0, 0.0], [1.0]]), "numbers, a row for each bead"),
        (lambda: selection_map(5, "abc"), "whole numbers"),
        (lambda: centroid_map(5, [0, 1, 2]), "a list of atoms for each bead"),
        (lambda: assignment_map(np.zeros((0, 3))), "a row for each atom"),
        (lambda: LinearMap(np.eye(5)[[0, 1, 1]]), "the same as another"),
        (lambda: LinearMap([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0]]), "an average of others"),
    ],
)
def test_what_is_no_map_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
