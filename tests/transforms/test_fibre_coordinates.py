"""Coordinates of the atoms over given beads: round trips, the Jacobian of linear maps, the domain."""

import math

import numpy as np
import pytest
import torch
from fibre_examples import (
    LINEAR,
    MAPS,
    MIRROR,
    SMALL,
    everything_forward,
    everything_inverse,
    example,
    log_det,
    molecule,
    standing,
    thermal,
    trees,
    turn,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openmm_bg.coarse_graining.maps import centroid_map
from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.transforms import FibreCoordinates


@pytest.mark.parametrize("name", MAPS)
def test_positions_come_back(name):
    bead_map, fitted, _, x = example(name)
    features, logabsdet = fitted.forward(x)
    assert features.shape == (len(x), 3 * (bead_map.n_atoms - bead_map.n_beads))
    assert torch.isfinite(logabsdet).all()
    back, inverse = fitted.inverse(features, bead_map.beads(x))
    assert (back - x).abs().max() < 1e-9
    assert (logabsdet + inverse).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["dipeptide, atoms", "rings, soft"])
def test_features_come_back_and_are_white(name):
    bead_map, fitted, _, x = example(name)
    features = fitted.forward(x)[0]
    assert features.mean(0)[~fitted.circular].abs().max() < 1e-9
    beads = bead_map.beads(x).flip(0)  # those of other configurations
    positions = fitted.inverse(features, beads)[0]
    inside = torch.isfinite(positions).all(2).all(1)
    assert inside.sum() >= 5
    assert (fitted.forward(positions[inside])[0] - features[inside]).abs().max() < 1e-6


@pytest.mark.parametrize("name", MAPS)
def test_beads_of_the_inverse_are_the_given_ones_for_any_features(name):
    """Without handedness all bonds above zero, angles between 0 and 180 degrees and torsions are in the domain."""
    bead_map, fitted, plain, x = example(name)
    free = FibreCoordinates(plain.matrix, plain.weights)
    generator, n = torch.Generator().manual_seed(0), plain.n_features // 3
    uniform = torch.rand(len(x), 3, n, generator=generator, dtype=torch.float64)
    raw = torch.cat([1e-5 + 2e-3 * uniform[:, 0], 1.9 * uniform[:, 1] - 0.95, 6.28 * uniform[:, 2] - 3.14], 1)
    beads = torch.randn(len(x), bead_map.n_beads, 3, generator=generator, dtype=torch.float64)
    for given_beads in (beads, bead_map.beads(x)):
        positions = free.inverse(raw, given_beads)[0]
        assert torch.isfinite(positions).all()
        # Rounding errors of P x grow with the anchors' positions.
        assert (
            bead_map.beads(positions) - given_beads
        ).abs().max() < 1e-12 * positions.abs().max().clamp_min(1)
    positions = fitted.inverse(fitted.forward(x)[0] + 0.3 * uniform.reshape(len(x), -1), bead_map.beads(x))[0]
    inside = torch.isfinite(positions).all(2).all(1)
    assert (bead_map.beads(positions) - bead_map.beads(x))[inside].abs().max() < 1e-9
    if name not in LINEAR:
        assert torch.equal(free.inverse(raw, beads)[0][:, free.matrix.anchors], beads)


@pytest.mark.parametrize("name", SMALL)
def test_log_determinant_is_that_of_autograd(name):
    """Both directions; of a map whose beads share atoms it would be wrong without its factor |det M|^3."""
    bead_map, fitted, _, x = example(name)
    features, logabsdet = fitted.forward(x)
    beads = np.eye(bead_map.n_beads)[trees(fitted.matrix)]
    factor = 3.0 * math.log(abs(np.linalg.det(bead_map.weights.numpy() @ beads)))
    for k in (0, 7):
        forward = log_det(everything_forward(fitted, x[k]))
        inverse = log_det(everything_inverse(fitted, bead_map.beads(x)[k], features[k]))
        assert forward == pytest.approx(float(logabsdet[k]), abs=1e-6)
        assert inverse == pytest.approx(-float(logabsdet[k]), abs=1e-6)
        # Control: the whitening alone is not enough.
        without = float(torch.linalg.slogdet(fitted.whiten)[1])
        assert forward == pytest.approx(without + factor, abs=1e-6)
        assert (abs(forward - without) > 1.0) == (name in LINEAR)
        assert abs(factor) > 1.0 or "soft" not in name


def test_log_determinant_of_a_large_molecule():
    bead_map, fitted, _, x = example("chignolin, groups")
    features, logabsdet = fitted.forward(x[:1])
    inverse = log_det(everything_inverse(fitted, bead_map.beads(x[:1])[0], features[0]))
    assert inverse == pytest.approx(-float(logabsdet[0]), abs=1e-6)


def test_of_connected_disjoint_groups_the_factor_is_one_and_all_bonds_are_coordinates():
    one = molecule("rings")
    residues = [[atom.index for atom in residue.atoms()] for residue in one.topology.residues()]
    bead_map = centroid_map(one.n_atoms, residues, one.masses)
    plain = bead_map.coordinates(one.positions, one.bonds, one.masses)
    matrix = plain.matrix
    placed = {frozenset(pair) for pair in zip(matrix.atoms.tolist(), matrix.bond.tolist(), strict=True)}
    within = {frozenset(pair) for pair in np.asarray(one.bonds).tolist()}
    n_bonds = len(within)
    within = {pair for pair in within if any(pair <= set(group) for group in residues)}
    assert len(within) == n_bonds - 3  # the peptide bonds are between groups
    assert placed <= within
    assert len(within - placed) == 3  # each of three rings closes with a bond that follows from the others
    x = thermal("rings")[:1]
    assert float(plain.log_jacobian()) == pytest.approx(0.0, abs=1e-12)
    assert float(plain.forward(x)[1]) == pytest.approx(0.0, abs=1e-12)  # before the fit nothing is scaled
    assert log_det(everything_forward(plain, x[0])) == pytest.approx(0.0, abs=1e-9)


@st.composite
def random_maps(draw):
    """A random tree of atoms, random positions, and weights of any sign."""
    n_atoms = draw(st.integers(4, 9))
    n_beads = draw(st.integers(3, n_atoms - 1))
    bonds = [(k, draw(st.integers(0, k - 1))) for k in range(1, n_atoms)]
    anchors = np.array(draw(st.permutations(range(n_atoms)))[:n_beads])
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = generator.normal(size=(n_beads, n_atoms))
    weights[np.arange(n_beads), anchors] += draw(st.sampled_from([0.0, 3.0]))
    return 0.2 * generator.normal(size=(n_atoms, 3)), np.array(bonds), weights, anchors


@settings(max_examples=40, deadline=None, derandomize=True)
@given(random_maps())
def test_jacobian_of_random_maps_of_random_molecules(example):
    """Weights of any sign: what is needed is that P_A is not singular."""
    positions, bonds, weights, anchors = example
    assume(np.linalg.cond(weights[:, anchors]) < 1e3)
    try:
        coordinates = FibreCoordinates.from_reference(positions, bonds, weights, anchors)
    except InputError:
        assume(False)  # nearly in line
    x = torch.as_tensor(positions)
    features, logabsdet = coordinates.forward(x[None])
    beads = coordinates.weights @ x
    back, inverse = coordinates.inverse(features, beads[None])
    assert (back[0] - x).abs().max() < 1e-8  # up to 1e3 for P_A, and as much for angles of 5 degrees
    assert log_det(everything_forward(coordinates, x)) == pytest.approx(float(logabsdet), abs=1e-6)
    assert log_det(everything_inverse(coordinates, beads, features[0])) == pytest.approx(
        float(inverse), abs=1e-6
    )


@pytest.mark.parametrize("name", MAPS)
def test_matrix_places_each_atom_once_along_bonds(name):
    bead_map, _, plain, _ = example(name)
    one, matrix = molecule(MAPS[name][0]), plain.matrix
    pairs = {frozenset(pair) for pair in np.asarray(one.bonds).tolist()}
    assert sorted([*matrix.anchors, *matrix.atoms]) == list(range(one.n_atoms))
    assert matrix.n_atoms == one.n_atoms
    points = standing(bead_map, matrix, torch.tensor(one.positions)[None])[0]
    placed = set(matrix.anchors.tolist())
    for row, atom in enumerate(matrix.atoms.tolist()):
        bond, angle, torsion = (int(column[row]) for column in (matrix.bond, matrix.angle, matrix.torsion))
        assert frozenset((atom, bond)) in pairs
        assert len({atom, bond, angle, torsion}) == 4
        assert {bond, angle, torsion} <= placed
        for a, b, c in ((atom, bond, angle), (bond, angle, torsion)):
            u, v = points[a] - points[b], points[c] - points[b]
            assert abs(torch.nn.functional.cosine_similarity(u, v, dim=0)) < math.cos(math.radians(4.9))
        if (leader := int(matrix.leader[row])) >= 0:
            assert leader < row
            assert [column[leader] for column in (matrix.bond, matrix.angle, matrix.torsion)] == [
                bond,
                angle,
                torsion,
            ]
            assert matrix.leader[leader] == -1
        else:  # the first at its centre
            assert bond not in matrix.bond[:row]
        placed.add(atom)


@pytest.mark.parametrize("name", ["dipeptide, atoms", "rings, groups"])
def test_coordinates_before_the_fit_are_bonds_angles_and_torsions(name):
    """Against numpy's lengths and angles, and the package's dihedrals, so that errors cannot cancel."""
    bead_map, _, plain, x = example(name)
    matrix, n = plain.matrix, len(plain.matrix.atoms)
    points = standing(bead_map, matrix, x).numpy()
    features = plain.forward(x)[0].numpy()
    u = points[:, matrix.atoms] - points[:, matrix.bond]
    v = points[:, matrix.angle] - points[:, matrix.bond]
    lengths = np.linalg.norm(u, axis=-1)
    np.testing.assert_allclose(features[:, :n], lengths**3 / 3, atol=1e-12)
    cosine = (u * v).sum(-1) / lengths / np.linalg.norm(v, axis=-1)
    np.testing.assert_allclose(features[:, n : 2 * n], -cosine, atol=1e-10)
    quadruples = np.stack([matrix.atoms, matrix.bond, matrix.angle, matrix.torsion], axis=1)
    torsions = np.asarray(dihedrals(points, quadruples))
    leading = np.where(matrix.leader >= 0, torsions[:, matrix.leader], 0.0)
    difference = features[:, 2 * n :] - torsions + leading
    assert np.abs(np.angle(np.exp(1j * difference))).max() < 1e-8


@pytest.mark.parametrize("name", ["dipeptide, atoms", "rings, soft", "chignolin, groups"])
def test_beads_that_are_turned_and_moved_turn_and_move_the_atoms(name):
    bead_map, fitted, _, x = example(name)
    rotation, translation = turn()
    features, logabsdet = fitted.forward(x)
    turned, moved_logabsdet = fitted.forward(x @ rotation.T + translation)
    assert (turned - features).abs().max() < 1e-7  # features in units of deviations of about 1e-3 nm
    assert torch.equal(logabsdet, moved_logabsdet)
    positions = fitted.inverse(features, bead_map.beads(x) @ rotation.T + translation)[0]
    assert (positions - x @ rotation.T - translation).abs().max() < 1e-9
    mirrored = fitted.inverse(features, bead_map.beads(x) * MIRROR)[0]
    assert not ((mirrored - x * MIRROR).abs() < 1e-3).all(2).all(1).any()  # control: a mirror is no rotation
