"""Internal coordinates: round trips, the unit Jacobian, chirality and the domain."""

import math

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import jacobian

from openmm_bg.errors import InputError
from openmm_bg.systems import load
from openmm_bg.transforms import InternalCoordinates, ZMatrix


@pytest.fixture(scope="module")
def ala():
    return load("alanine_dipeptide")


@pytest.fixture(scope="module")
def thermal(ala):
    """Configurations near the reference, without the simulation's cost: 5 pm noise keeps all signs."""
    generator = np.random.default_rng(0)
    return torch.as_tensor(ala.positions + 0.005 * generator.normal(size=(500, 22, 3)))


@pytest.fixture
def fitted(ala, thermal):
    return InternalCoordinates.from_reference(ala.positions, ala.bonds, ala.masses).fit(thermal)


def _rotation(vector):
    zero = torch.zeros((), dtype=vector.dtype)
    x, y, z = vector
    generator = torch.stack(
        [torch.stack([zero, -z, y]), torch.stack([z, zero, -x]), torch.stack([-y, x, zero])]
    )
    return torch.matrix_exp(generator)


@st.composite
def molecules(draw):
    """A random tree of bonded atoms, with positions that have no straight angles."""
    n_atoms = draw(st.integers(4, 12))
    parents = [draw(st.integers(max(0, k - 4), k - 1)) for k in range(1, n_atoms)]
    label = draw(st.permutations(range(n_atoms)))
    bonds = np.array([(label[k], label[parent]) for k, parent in enumerate(parents, start=1)])
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tree = np.zeros((n_atoms, 3))
    for k, parent in enumerate(parents, start=1):
        # A random direction that is not in line with any other bond of the parent.
        others = [
            tree[j] - tree[parent] for j in range(k) if j != parent and (parents[j - 1] == parent if j else 0)
        ]
        if parent > 0:
            others.append(tree[parents[parent - 1]] - tree[parent])
        for _ in range(200):
            direction = generator.normal(size=3)
            direction /= np.linalg.norm(direction)
            if all(abs(direction @ other) < 0.95 * np.linalg.norm(other) for other in others):
                break
        tree[k] = tree[parent] + generator.uniform(0.08, 0.2) * direction
    positions = np.empty_like(tree)
    positions[np.array(label)] = tree
    return positions, bonds


@settings(max_examples=60, deadline=None, derandomize=True)
@given(molecules())
def test_unit_jacobian_on_random_molecules(molecule):
    """Coordinates, translation and rotation vector to 3N Cartesians: log|det| is zero."""
    positions, bonds = molecule
    n_atoms = len(positions)
    coordinates = InternalCoordinates.from_reference(positions, bonds)
    x = torch.as_tensor(positions)
    # Unfitted coordinates are neither centred nor whitened: features are r^3/3, -cos theta and torsions.
    features = coordinates.forward(x[None])[0][0]
    first = int(coordinates.z_matrix.atoms[0])

    def cartesian(parameters):
        placed = coordinates.inverse(parameters[6:][None], frame=x)[0][0]
        turned = (placed - x[first]) @ _rotation(parameters[3:6]).T
        return (turned + x[first] + parameters[:3]).reshape(-1)

    start = torch.cat([torch.zeros(6, dtype=torch.float64), features])
    assert (cartesian(start).reshape(-1, 3) - x).abs().max() < 1e-10
    matrix = jacobian(cartesian, start)
    assert matrix.shape == (3 * n_atoms, 3 * n_atoms)
    assert abs(float(torch.linalg.slogdet(matrix)[1])) < 1e-10


def test_standard_frame_has_the_known_determinant(ala, fitted, thermal):
    """In the standard frame the seed's volume element is missing: log|det| = -log(r1^2 r2 sin theta)."""
    plain = InternalCoordinates.from_reference(ala.positions, ala.bonds, ala.masses)
    features = plain.forward(thermal[:1])[0][0]
    a, b, c = plain.z_matrix.atoms[:3].tolist()
    free = [3 * b + 2, 3 * c, 3 * c + 2]  # z of the second seed atom, x and z of the third
    free += [3 * atom + k for atom in plain.z_matrix.atoms[3:].tolist() for k in range(3)]
    matrix = jacobian(lambda f: plain.inverse(f[None])[0][0].reshape(-1)[free], features)
    x = thermal[0]
    r1, r2 = (x[b] - x[a]).norm(), (x[c] - x[b]).norm()
    cosine = (x[a] - x[b]) @ (x[c] - x[b]) / (r1 * r2)
    expected = -math.log(float(r1**2 * r2 * (1 - cosine**2).sqrt()))
    assert float(torch.linalg.slogdet(matrix)[1]) == pytest.approx(expected, abs=1e-9)


def test_fitted_log_determinant_is_that_of_the_whitening(fitted, thermal):
    matrix = torch.linalg.slogdet(fitted.whiten)[1]
    assert float(fitted.forward(thermal)[1][0]) == pytest.approx(float(matrix), abs=1e-9)
    assert float(fitted.inverse(fitted.forward(thermal)[0])[1][0]) == pytest.approx(-float(matrix), abs=1e-9)


def test_round_trip_and_frame(fitted, thermal):
    features, _ = fitted.forward(thermal)
    for x, z in zip(thermal[:20], features[:20], strict=True):
        back, _ = fitted.inverse(z[None], frame=x)
        assert (back[0] - x).abs().max() < 1e-12
    again, _ = fitted.forward(fitted.inverse(features)[0])
    assert (again - features).abs().max() < 1e-9
    assert (torch.cov(features.T) - torch.eye(60)).abs().max() < 1e-6


def test_torsions_are_those_of_mdtraj(ala, thermal):
    """Proper torsions by name, so that a sign error in ours cannot cancel itself."""
    plain = InternalCoordinates.from_reference(ala.positions, ala.bonds, ala.masses)
    raw, _ = plain.forward(thermal)
    z = plain.z_matrix
    trajectory = mdtraj.Trajectory(thermal.numpy(), mdtraj.Topology.from_openmm(ala.topology))
    proper = [row for row in range(3, 22) if z.sibling[row] < 0]
    quadruples = [[z.atoms[row], z.bond[row], z.angle[row], z.torsion[row]] for row in proper]
    expected = mdtraj.compute_dihedrals(trajectory, quadruples)
    ours = raw[:, [41 + row - 3 for row in proper]].numpy()
    assert np.abs(np.angle(np.exp(1j * (ours - expected)))).max() < 1e-5
    for torsion in ala.torsions.values():
        assert list(torsion) in [list(map(int, q)) for q in quadruples] or list(torsion)[::-1] in [
            list(map(int, q)) for q in quadruples
        ]


def test_mirror_images_and_swapped_hydrogens_have_zero_density(fitted, thermal):
    assert torch.isfinite(fitted.forward(thermal)[1]).all()
    mirrored = thermal * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.isneginf(fitted.forward(mirrored)[1]).all()
    for pair in ([0, 2], [11, 12], [20, 21]):  # hydrogens of the three methyl groups
        swapped = thermal.clone()
        swapped[:, pair] = thermal[:, pair[::-1]]
        assert torch.isneginf(fitted.forward(swapped)[1]).all()


def test_out_of_domain_features_are_never_clamped(fitted, thermal):
    good = fitted.forward(thermal[:1])[0]
    raw_good = (good @ fitted.unwhiten.T + fitted.center)[0]
    z = fitted.z_matrix
    siblings = [41 + row - 3 for row in range(3, 22) if z.sibling[row] >= 0]
    chiral = next(k for k in siblings if abs(raw_good[k].abs() - 2.1) < 0.2)  # at a tetrahedral centre
    narrow = next(k for k in siblings if not fitted.circular[k])
    for index, value in ((0, -1e-6), (25, 1.0 + 1e-9), (25, -1.2), (chiral, -raw_good[chiral])):
        _check_outside(fitted, raw_good, index, float(value))
    _check_outside(fitted, raw_good, narrow, float(fitted.center[narrow]) + 3.3)


def _check_outside(coordinates, raw_good, index, value):
    raw = torch.stack([raw_good, raw_good])
    raw[0, index] = value
    features = (raw - coordinates.center) @ coordinates.whiten.T
    features.requires_grad_(True)
    positions, logabsdet = coordinates.inverse(features)
    assert torch.isnan(positions[0]).all()
    assert torch.isfinite(positions[1]).all()
    assert torch.isfinite(logabsdet).all()
    positions[1].sum().backward()
    assert torch.isfinite(features.grad).all()  # the bad row does not poison the good one


def test_free_torsions_become_circular(ala):
    """Turn phi through the circle: it is circular, and what stays narrow is not."""
    plain = InternalCoordinates.from_reference(ala.positions, ala.bonds, ala.masses)
    features = plain.forward(torch.as_tensor(ala.positions.copy())[None])[0]
    z = plain.z_matrix
    phi = next(
        41 + row - 3
        for row in range(3, 22)
        if {int(z.bond[row]), int(z.angle[row])} == {6, 8} and z.sibling[row] < 0
    )
    many = features.repeat(200, 1)
    many[:, 41:] += 0.01 * torch.randn(200, 19, generator=torch.Generator().manual_seed(1))
    many[:, 41:] = torch.remainder(many[:, 41:] + math.pi, 2 * math.pi) - math.pi
    many[:, phi] = torch.linspace(-3.1, 3.1, 200, dtype=torch.float64)
    fitted = plain.fit(plain.inverse(many)[0])
    assert torch.nonzero(fitted.circular).flatten().tolist() == [phi]


def test_z_matrix_refuses_what_it_cannot_describe():
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    with pytest.raises(InputError, match="not connected"):
        ZMatrix.from_bonds(5, chain)
    with pytest.raises(InputError, match="at least three atoms"):
        ZMatrix.from_bonds(2, chain[:1])
    with pytest.raises(InputError, match="to itself"):
        ZMatrix.from_bonds(4, np.vstack([chain, [[1, 1]]]))
    straight = np.array([[0.0, 0, 0], [0, 0, 0.1], [0, 0, 0.2], [0.1, 0, 0.2]])
    with pytest.raises(InputError, match="straight line"):
        InternalCoordinates.from_reference(straight, chain)


def test_fit_refuses_bad_data(ala, thermal):
    plain = InternalCoordinates.from_reference(ala.positions, ala.bonds, ala.masses)
    bad = thermal.clone()
    bad[3, 0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        plain.fit(bad)
    with pytest.raises(InputError, match="chirality"):
        plain.fit(-thermal)
    with pytest.raises(InputError, match="shape"):
        plain.fit(thermal[:, :-1])


def test_config_rebuilds_the_transform(fitted, thermal):
    copy = InternalCoordinates.from_config(fitted.config())
    copy.load_state_dict(fitted.state_dict())
    assert torch.equal(copy.forward(thermal)[0], fitted.forward(thermal)[0])
    assert torch.equal(copy.forward(-thermal)[1], fitted.forward(-thermal)[1])
