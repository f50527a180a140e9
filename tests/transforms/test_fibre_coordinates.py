"""Coordinates of the atoms over given beads: round trips, the Jacobian of linear maps, the domain."""

import functools
import json
import math

import numpy as np
import openmm
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from molecule_examples import FORCE_FIELD
from openmm import app, unit
from torch.autograd.functional import jacobian

from openmm_bg.coarse_graining.maps import assignment_map, centroid_map, selection_map
from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.systems import MolecularSystem, build_peptide, load
from openmm_bg.systems.minimisation import minimise
from openmm_bg.transforms import COORDINATES, FibreCoordinates, FibreMatrix

MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
TRIPLES = {"ACE": [0, 2, 3], "CB": [11, 12, 13], "NME": [19, 20, 21]}  # alanine dipeptide's methyl hydrogens
BEADS = [4, 8, 16, 10]  # C, CA, N and CB of alanine dipeptide, not in the atoms' order


@functools.cache
def molecule(name):
    if name != "rings":
        return load(name)
    topology, positions = build_peptide("PW")
    system = app.ForceField(*FORCE_FIELD).createSystem(topology, nonbondedMethod=app.NoCutoff)
    return MolecularSystem("PW", system, topology, minimise(system, positions)[0])


@functools.cache
def thermal(name, n=40):
    """Configurations of Langevin dynamics at 300 K."""
    one = molecule(name)
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 10 / unit.picosecond, 0.0005)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(one.system, integrator, platform, {"Threads": "1"})
    context.setPositions(one.positions)
    context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    integrator.step(100)
    frames = []
    for _ in range(n if one.n_atoms < 100 else n // 8):
        integrator.step(10)
        state = context.getState(positions=True)
        frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    return torch.as_tensor(np.array(frames))


def atoms_named(one, name):
    return [atom.index for atom in one.topology.atoms() if atom.name == name]


def by_residue(one):
    """Return the backbone and the rest of each residue."""
    groups = []
    for residue in one.topology.residues():
        backbone = [a.index for a in residue.atoms() if a.name in ("N", "H", "CA", "HA", "C", "O")]
        groups += [backbone, [a.index for a in residue.atoms() if a.index not in backbone]]
    return [group for group in groups if group]


def groups_of(one):
    return centroid_map(one.n_atoms, by_residue(one), one.masses)


def soft(one, n_beads, seed):
    """A random assignment in which no atom belongs to one bead only."""
    logits = 3.0 * np.random.default_rng(seed).normal(size=(one.n_atoms, n_beads))
    parts = np.exp(logits)
    return assignment_map(parts / parts.sum(1, keepdims=True), one.masses)


MAPS = {
    "dipeptide, atoms": ("alanine_dipeptide", lambda one: selection_map(22, BEADS)),
    "dipeptide, three atoms": ("alanine_dipeptide", lambda one: selection_map(22, [15, 1, 7])),
    "dipeptide, all but one": ("alanine_dipeptide", lambda one: selection_map(22, range(1, 22))),
    "dipeptide, groups": ("alanine_dipeptide", groups_of),
    "dipeptide, soft": ("alanine_dipeptide", lambda one: soft(one, 5, 0)),
    "dipeptide, softer": ("alanine_dipeptide", lambda one: soft(one, 3, 1)),
    "rings, atoms": (
        "rings",
        lambda one: selection_map(one.n_atoms, [*atoms_named(one, "CA"), *atoms_named(one, "CH3")]),
    ),
    "rings, groups": ("rings", groups_of),
    "rings, soft": ("rings", lambda one: soft(one, 6, 2)),
    "chignolin, atoms": ("chignolin", lambda one: selection_map(one.n_atoms, atoms_named(one, "CA"))),
    "chignolin, groups": ("chignolin", groups_of),
    "chignolin, soft": ("chignolin", lambda one: soft(one, 10, 3)),
}
LINEAR = [name for name in MAPS if "atoms" not in name and "all but" not in name]
SMALL = [name for name in MAPS if "chignolin" not in name]


@functools.cache
def example(name):
    """A map, fitted coordinates, the same before the fit, and thermal configurations; do not change them."""
    name, make = MAPS[name]
    one, x = molecule(name), thermal(name)
    bead_map = make(one)
    plain, fitted = (bead_map.coordinates(one.positions, one.bonds, one.masses) for _ in range(2))
    return bead_map, fitted.fit(x), plain, x


def dipeptide(bead_map=None):
    one = molecule("alanine_dipeptide")
    return (bead_map or selection_map(22, BEADS)).coordinates(one.positions, one.bonds, one.masses)


def everything_forward(coordinates, x):
    """The full Jacobian, with shape=(3N, 3N), of beads and features by positions."""

    def function(flat):
        positions = flat.reshape(1, -1, 3)
        beads = torch.einsum("ba,nax->nbx", coordinates.weights, positions)
        return torch.cat([beads.reshape(-1), coordinates.forward(positions)[0][0]])

    return jacobian(function, x.reshape(-1), vectorize=True)


def everything_inverse(coordinates, beads, features):
    """The full Jacobian, with shape=(3N, 3N), of positions by beads and features."""

    def function(flat):
        given = flat[: beads.numel()].reshape(1, -1, 3)
        return coordinates.inverse(flat[None, beads.numel() :], given)[0].reshape(-1)

    return jacobian(function, torch.cat([beads.reshape(-1), features]), vectorize=True)


def log_det(matrix):
    assert matrix.shape[0] == matrix.shape[1]
    return float(torch.linalg.slogdet(matrix)[1])


def turn(seed=0):
    """A rotation and a translation [nm]."""
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    return torch.as_tensor(rotation), torch.as_tensor(generator.normal(size=3))


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
    """Both directions; of a linear map without its factor |det P_A|^3 it would be wrong."""
    bead_map, fitted, _, x = example(name)
    features, logabsdet = fitted.forward(x)
    factor = 3.0 * math.log(abs(np.linalg.det(bead_map.weights[:, fitted.matrix.anchors].numpy())))
    for k in (0, 7):
        forward = log_det(everything_forward(fitted, x[k]))
        inverse = log_det(everything_inverse(fitted, bead_map.beads(x)[k], features[k]))
        assert forward == pytest.approx(float(logabsdet[k]), abs=1e-6)
        assert inverse == pytest.approx(-float(logabsdet[k]), abs=1e-6)
        # Control: the whitening alone is not enough.
        without = float(torch.linalg.slogdet(fitted.whiten)[1])
        assert forward == pytest.approx(without + factor, abs=1e-6)
        assert (abs(forward - without) > 1.0) == (name in LINEAR)


def test_log_determinant_of_a_large_molecule():
    bead_map, fitted, _, x = example("chignolin, groups")
    features, logabsdet = fitted.forward(x[:1])
    inverse = log_det(everything_inverse(fitted, bead_map.beads(x[:1])[0], features[0]))
    assert inverse == pytest.approx(-float(logabsdet[0]), abs=1e-6)


def test_factor_of_disjoint_groups_is_the_product_of_the_anchors_mass_fractions():
    one = molecule("rings")
    _, _, plain, x = example("rings, groups")
    expected = 0.0
    for group, anchor in zip(by_residue(one), plain.matrix.anchors, strict=True):
        expected += 3.0 * math.log(one.masses[anchor] / one.masses[group].sum())
    assert float(plain.log_jacobian()) == pytest.approx(expected, abs=1e-9)
    assert float(plain.forward(x[:1])[1]) == pytest.approx(
        expected, abs=1e-9
    )  # before the fit nothing is scaled
    assert float(example("rings, atoms")[2].log_jacobian()) == 0.0


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
    points = torch.tensor(one.positions)
    points[matrix.anchors] = bead_map.beads(one.positions[None])[0]
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
    points = x.clone()
    points[:, matrix.anchors] = bead_map.beads(x)
    points = points.numpy()
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


@pytest.mark.parametrize("name", MAPS)
def test_mirror_images_are_outside(name):
    bead_map, fitted, plain, x = example(name)
    mirrored = x * MIRROR
    assert torch.isneginf(fitted.forward(mirrored)[1]).all()
    both = FibreCoordinates(plain.matrix, plain.weights)  # admits both hands
    features, logabsdet = both.forward(mirrored)
    assert torch.isfinite(logabsdet).all()
    beads = bead_map.beads(mirrored)
    assert (both.inverse(features, beads)[0] - mirrored).abs().max() < 1e-9
    assert torch.isnan(plain.inverse(features, beads)[0]).all()


@pytest.mark.parametrize("name", ["dipeptide, atoms", "dipeptide, groups", "dipeptide, soft"])
@pytest.mark.parametrize("hydrogens", TRIPLES)
def test_swapped_hydrogen_labels_are_outside(name, hydrogens):
    bead_map, fitted, plain, x = example(name)
    a, b, c = TRIPLES[hydrogens]
    swapped, cycled = x.clone(), x.clone()
    swapped[:, [a, b]] = x[:, [b, a]]
    cycled[:, [a, b, c]] = x[:, [b, c, a]]
    assert torch.isneginf(fitted.forward(swapped)[1]).all()
    features = FibreCoordinates(plain.matrix, plain.weights).forward(swapped)[0]
    assert torch.isnan(plain.inverse(features, bead_map.beads(swapped))[0]).all()
    assert torch.isfinite(fitted.forward(cycled)[1]).all()  # control: a methyl group may turn


def beyond(bead_map, fitted, raw):
    """Yield a feature's index and an impossible value of each kind."""
    n = fitted.n_features // 3
    yield 0, -1e-9
    yield n // 2, -1e-4
    yield n, 1.0 + 1e-9
    yield n + n // 2, -1.2
    narrow = [k for k in range(2 * n, 3 * n) if not fitted.circular[k]]
    yield narrow[0], float(fitted.center[narrow[0]]) + 3.2
    yield narrow[-1], float(fitted.center[narrow[-1]]) - 3.2
    if bead_map.weights.max() == 1:  # at a tetrahedral centre: a bead that is no atom does not span one
        siblings = [2 * n + row for row in np.flatnonzero(fitted.matrix.leader >= 0)]
        chiral = next(k for k in siblings if abs(raw[k].abs() - 2.1) < 0.2 and not fitted.circular[k])
        yield chiral, -float(raw[chiral])


@pytest.mark.parametrize("name", ["dipeptide, atoms", "dipeptide, groups", "rings, soft"])
def test_impossible_features_are_never_clamped_and_leave_other_rows_alone(name):
    bead_map, fitted, plain, x = example(name)
    raw_good = plain.forward(x[:1])[0][0]
    beads = bead_map.beads(x[:1]).expand(3, -1, -1)
    good = fitted.forward(x[:1])[0]
    alone = good.clone().requires_grad_(True)
    expected = fitted.inverse(alone, beads[:1])[0]
    expected.square().sum().backward()
    for index, value in beyond(bead_map, fitted, raw_good):
        offset = good.repeat(3, 1) @ fitted.unwhiten.T
        offset[1, index] = value - fitted.center[index]
        features = offset @ fitted.whiten.T
        features.requires_grad_(True)
        given = beads.clone().requires_grad_(True)
        positions, logabsdet = fitted.inverse(features, given)
        assert torch.isnan(positions[1]).all()
        assert torch.isfinite(logabsdet).all()
        assert (positions[[0, 2]] - expected).abs().max() < 1e-10
        positions[[0, 2]].square().sum().backward()
        assert torch.isfinite(features.grad).all()
        assert torch.isfinite(given.grad).all()
        assert (features.grad[[0, 2]] - alone.grad).abs().max() < 1e-8
        assert not features.grad[1].any()


def test_the_boundary_is_outside():
    """Before the fit, where no rounding of the whitening is between features and coordinates."""
    bead_map, _, plain, x = example("dipeptide, soft")
    n = plain.n_features // 3
    good, beads = plain.forward(x[:1])[0], bead_map.beads(x[:1])
    for index, value in ((3, 0.0), (n + 3, 1.0), (n + 3, -1.0), (2 * n + 3, math.pi), (2 * n + 3, -math.pi)):
        features = good.clone()
        features[0, index] = value
        assert torch.isnan(plain.inverse(features, beads)[0]).all()
        features[0, index] = value * (1 - 1e-12) or 1e-30
        assert torch.isfinite(FibreCoordinates(plain.matrix, plain.weights).inverse(features, beads)[0]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_stay_in_their_row(value):
    bead_map, fitted, _, x = example("dipeptide, groups")
    features, logabsdet = fitted.forward(x[:3])
    bad = features.clone()
    bad[1, 5] = value
    positions = fitted.inverse(bad, bead_map.beads(x[:3]))[0]
    assert torch.isnan(positions[1]).all()
    assert (positions[[0, 2]] - x[[0, 2]]).abs().max() < 1e-9
    broken = x[:3].clone()
    broken[1, 5, 0] = value
    found, density = fitted.forward(broken)
    assert torch.isneginf(density[1])
    assert torch.equal(density[[0, 2]], logabsdet[[0, 2]])
    assert (found[[0, 2]] - features[[0, 2]]).abs().max() < 1e-9
    beads = bead_map.beads(x[:3])
    beads[1, 0, 0] = math.nan
    positions = fitted.inverse(features, beads)[0]
    assert torch.isnan(positions[1]).any()
    assert (positions[[0, 2]] - x[[0, 2]]).abs().max() < 1e-9


def test_free_torsions_become_circular_and_can_be_cut_open():
    """A methyl group that turns: its first hydrogen's torsion is circular, and what stays narrow is not."""
    bead_map, _, _, x = example("dipeptide, atoms")
    coordinates = dipeptide(bead_map)
    matrix = coordinates.matrix
    row = next(k for k, atom in enumerate(matrix.atoms) if atom in TRIPLES["NME"] and matrix.leader[k] < 0)
    k = 2 * coordinates.n_features // 3 + row
    many = coordinates.forward(x)[0].repeat(5, 1)
    many[:, k] = torch.linspace(-3.1, 3.1, len(many), dtype=torch.float64)
    turning, beads = (
        coordinates.inverse(many, bead_map.beads(x).repeat(5, 1, 1))[0],
        bead_map.beads(x).repeat(5, 1, 1),
    )
    coordinates.fit(turning)
    assert torch.nonzero(coordinates.circular).flatten().tolist() == [k]
    features, logabsdet = coordinates.forward(turning)
    assert (coordinates.inverse(features, beads)[0] - turning).abs().max() < 1e-9
    assert log_det(everything_forward(coordinates, turning[3])) == pytest.approx(
        float(logabsdet[3]), abs=1e-6
    )
    features[:, k] += 2.0 * math.pi  # an angle
    assert (coordinates.inverse(features, beads)[0] - turning).abs().max() < 1e-9
    coordinates.fit(turning, circular=False)
    assert not coordinates.circular.any()
    features = coordinates.forward(turning)[0]
    assert (coordinates.inverse(features, beads)[0] - turning).abs().max() < 1e-9


@pytest.mark.parametrize("n_frames", [2, 3, 10])
def test_fit_with_few_frames_scales_and_stays_invertible(n_frames):
    bead_map, _, _, x = example("rings, groups")
    one = molecule("rings")
    coordinates = bead_map.coordinates(one.positions, one.bonds, one.masses).fit(x[:n_frames])
    features, logabsdet = coordinates.forward(x)
    assert torch.isfinite(features).all()
    inside = torch.isfinite(logabsdet)
    assert inside.all()
    assert (coordinates.inverse(features, bead_map.beads(x))[0] - x).abs().max() < 1e-9
    assert log_det(everything_forward(coordinates, x[0])) == pytest.approx(float(logabsdet[0]), abs=1e-6)


def test_single_precision_in_single_precision_out():
    bead_map, fitted, _, x = example("dipeptide, groups")
    features, logabsdet = fitted.forward(x.float())
    positions, inverse = fitted.inverse(features, bead_map.beads(x).float())
    assert {t.dtype for t in (features, logabsdet, positions, inverse)} == {torch.float32}
    assert (positions - x).abs().max() < 1e-4  # 2^-23 of 1 nm, times the bonds' and angles' conditions


@pytest.mark.parametrize("name", ["dipeptide, atoms", "rings, soft"])
def test_config_rebuilds_the_transform(name):
    bead_map, fitted, _, x = example(name)
    config = json.loads(json.dumps(fitted.config()))
    copy = COORDINATES[config["kind"]].from_config(config)
    copy.load_state_dict(fitted.state_dict())
    assert torch.equal(copy.forward(x)[0], fitted.forward(x)[0])
    assert torch.equal(copy.forward(x)[1], fitted.forward(x)[1])
    assert torch.isneginf(copy.forward(x * MIRROR)[1]).all()
    features, beads = fitted.forward(x)[0], bead_map.beads(x)
    assert torch.equal(copy.inverse(features, beads)[0], fitted.inverse(features, beads)[0])
    assert copy.config() == fitted.config()


def test_config_without_centres():
    """Four atoms in a chain: none has four bonds."""
    positions = np.array([[0.0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.3, 0.15, 0.1]])
    bonds = np.array([[0, 1], [1, 2], [2, 3]])
    coordinates = FibreCoordinates.from_reference(positions, bonds, np.eye(4)[:3], [0, 1, 2])
    copy = FibreCoordinates.from_config(json.loads(json.dumps(coordinates.config())))
    copy.load_state_dict(coordinates.state_dict())
    x = torch.as_tensor(positions)[None]
    assert torch.equal(copy.forward(x)[0], coordinates.forward(x)[0])
    assert torch.isfinite(copy.forward(-x)[1]).all()  # no handedness


def test_beads_that_cannot_be_a_frame():
    one = molecule("alanine_dipeptide")
    with pytest.raises(InputError, match="at least three beads for an orientation, not 2"):
        FibreCoordinates.from_reference(one.positions, one.bonds, np.eye(22)[[4, 8]], [4, 8])
    with pytest.raises(InputError, match="same anchor"):
        FibreCoordinates.from_reference(one.positions, one.bonds, np.eye(22)[[4, 8, 8]], [4, 8, 8])
    with pytest.raises(InputError, match="nothing is left"):
        FibreCoordinates.from_reference(one.positions, one.bonds, np.eye(22), np.arange(22))
    with pytest.raises(InputError, match="not connected"):
        FibreMatrix.from_bonds(one.positions, np.asarray(one.bonds)[1:], [4, 8, 14])


def test_beads_in_line_are_refused():
    """Two atoms of water's shape at the end of a straight chain: beads in line do not tell the torsion."""
    positions = np.array([[0.0, 0, 0], [0, 0, 0.1], [0, 0, 0.2], [0.1, 0, 0.23], [0.1, 0.1, 0.23]])
    chain = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    with pytest.raises(InputError, match="beads that are not in line"):
        FibreCoordinates.from_reference(positions, chain, np.eye(5)[:3], [0, 1, 2])
    FibreCoordinates.from_reference(positions, chain, np.eye(5)[[0, 1, 3]], [0, 1, 3])  # control
    straight = np.arange(5)[:, None] * np.array([0.0, 0.0, 0.1])
    with pytest.raises(InputError, match="straight line; choose other beads"):
        FibreCoordinates.from_reference(straight, chain, np.eye(5)[:3], [0, 1, 2])


def test_anchors_that_do_not_follow_from_the_beads_are_refused():
    one = molecule("alanine_dipeptide")
    weights = np.zeros((3, 22))
    weights[0, 4] = weights[1, 8] = weights[2, 14] = 1.0
    FibreCoordinates.from_reference(one.positions, one.bonds, weights, [4, 8, 14])  # control
    with pytest.raises(InputError, match="do not follow from those of the beads"):
        FibreCoordinates.from_reference(one.positions, one.bonds, weights, [4, 8, 15])  # no weight
    weights[:2] = 0.0
    weights[0, [1, 18, 10]] = 0.3, 0.3, 0.4
    weights[1, [1, 18]] = 0.5, 0.5  # the first two beads tell only the middle of atoms 1 and 18
    with pytest.raises(InputError, match="do not follow from those of the beads"):
        FibreCoordinates.from_reference(one.positions, one.bonds, weights, [1, 18, 14])
    FibreCoordinates.from_reference(one.positions, one.bonds, weights, [10, 18, 14])  # others do


def test_arguments_of_different_molecules_are_refused():
    one = molecule("alanine_dipeptide")
    with pytest.raises(InputError, match="shape"):
        FibreCoordinates.from_reference(one.positions[:-1], one.bonds, np.eye(22)[BEADS], BEADS)
    with pytest.raises(InputError, match="shape"):
        FibreCoordinates.from_reference(one.positions, one.bonds, np.eye(22)[BEADS], BEADS[:3])
    with pytest.raises(InputError, match="from 0 to 21"):
        FibreCoordinates.from_reference(one.positions, one.bonds, np.eye(22)[:3], [0, 1, 22])
    with pytest.raises(InputError, match="shape"):
        FibreCoordinates(dipeptide().matrix, np.eye(22)[:3])
    broken = np.array(one.positions)
    broken[3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        FibreCoordinates.from_reference(broken, one.bonds, np.eye(22)[BEADS], BEADS)


@pytest.mark.parametrize("make", [lambda one: selection_map(22, BEADS), lambda one: soft(one, 4, 5)])
def test_fit_refuses_bad_data(make):
    x = thermal("alanine_dipeptide")
    coordinates = dipeptide(make(molecule("alanine_dipeptide")))
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[3, 0, 0] = bad
        with pytest.raises(InputError, match=f"1 of {len(x)} configurations are not finite"):
            coordinates.fit(broken)
    mixed = x.clone()
    mixed[:2] *= MIRROR
    with pytest.raises(InputError, match=rf"2 of {len(x)} .* another chirality"):
        coordinates.fit(mixed)
    for few in (x[:1], x[:0], x[0], x[:, :-1], x[:, :, :2]):
        with pytest.raises(InputError, match="at least two configurations of 22 atoms"):
            coordinates.fit(few)
    assert torch.equal(coordinates.whiten, torch.eye(coordinates.n_features).double())  # nothing was learned
