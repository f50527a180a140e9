"""Geometry against mdtraj, closed forms and automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_bg import geometry

PAIRS = np.array([[0, 1], [4, 2]])
TRIPLES = np.array([[0, 1, 2], [4, 2, 3]])
QUADRUPLES = np.array([[0, 1, 2, 3], [4, 2, 0, 1], [1, 2, 3, 4]])
FUNCTIONS = [
    pytest.param(geometry.distances, PAIRS, id="distances"),
    pytest.param(geometry.angles, TRIPLES, id="angles"),
    pytest.param(geometry.dihedrals, QUADRUPLES, id="dihedrals"),
]


def random_positions(n: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 5, 3))


def test_equal_to_mdtraj():
    import mdtraj

    positions = random_positions(200).astype(np.float32).astype(np.float64)
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for k in range(5):
        topology.add_atom(f"C{k}", mdtraj.element.carbon, residue)
    trajectory = mdtraj.Trajectory(positions, topology)
    expected = mdtraj.compute_distances(trajectory, PAIRS, opt=False)
    np.testing.assert_allclose(geometry.distances(positions, PAIRS), expected, rtol=1e-5)
    expected = mdtraj.compute_angles(trajectory, TRIPLES, opt=False)
    np.testing.assert_allclose(geometry.angles(positions, TRIPLES), expected, atol=2e-3)
    expected = mdtraj.compute_dihedrals(trajectory, QUADRUPLES, opt=False)
    difference = geometry.wrap(geometry.dihedrals(positions, QUADRUPLES) - expected)
    np.testing.assert_allclose(difference, 0.0, atol=2e-4)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.3, 2.0, np.pi - 1e-5, np.pi - 1e-9, -1e-9, -2.5])
def test_exact_near_the_ends_of_the_range(angle):
    direction = np.array([np.cos(angle), np.sin(angle), 0.0])
    three = np.stack([[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], 0.15 * direction])
    assert geometry.angles(three, np.array([[0, 1, 2]]))[0] == pytest.approx(abs(angle), abs=1e-15)
    # Looking along z from the second to the third atom, a positive dihedral turns clockwise.
    four = np.stack([[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.1], 0.15 * direction + [0.0, 0.0, 0.1]])
    assert geometry.dihedrals(four, np.array([[0, 1, 2, 3]]))[0] == pytest.approx(angle, abs=1e-15)


@pytest.mark.parametrize(("function", "indices"), FUNCTIONS)
def test_numpy_and_torch_agree_and_keep_the_dtype(function, indices):
    positions = random_positions()
    from_numpy = function(positions, indices)
    assert from_numpy.shape == (len(positions), len(indices))
    np.testing.assert_allclose(function(torch.tensor(positions), indices).numpy(), from_numpy, atol=1e-13)
    for dtype in (np.float32, np.float64):
        assert function(positions.astype(dtype), indices).dtype == dtype
        assert function(torch.tensor(positions.astype(dtype)), indices).numpy().dtype == dtype
    np.testing.assert_array_equal(function(positions[3], indices), from_numpy[3])


@pytest.mark.parametrize(("function", "indices"), FUNCTIONS)
def test_gradients_equal_finite_differences(function, indices):
    positions = torch.tensor(random_positions(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, indices), (positions,))


@pytest.mark.parametrize(("function", "indices"), FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", ["collinear", "coincident", "nearly collinear"])
def test_degenerate_geometries_have_finite_gradients(function, indices, dtype, shape):
    positions = torch.zeros(1, 5, 3, dtype=dtype)
    if shape != "coincident":
        positions[0, :, 0] = torch.arange(5) * 0.1
    if shape == "nearly collinear":
        positions[0, :, 1] = torch.tensor([0.0, 1e-18, -1e-18, 1e-18, 0.0])
    positions.requires_grad_()
    values = function(positions, indices)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(positions.grad).all()


@pytest.mark.parametrize(("function", "indices"), FUNCTIONS)
def test_nan_stays_in_its_own_configuration(function, indices):
    positions = random_positions(4)
    positions[2] = np.nan
    for values in (function(positions, indices), function(torch.tensor(positions), indices).numpy()):
        assert np.isnan(values[2]).all()
        assert np.isfinite(values[[0, 1, 3]]).all()


def test_wrap():
    angles = np.linspace(-20, 20, 401)
    wrapped = geometry.wrap(angles)
    assert (wrapped >= -np.pi).all()
    assert (wrapped < np.pi).all()
    turns = (angles - wrapped) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-12)
    np.testing.assert_allclose(geometry.wrap(torch.tensor(angles)).numpy(), wrapped, atol=1e-12)


def test_wrong_index_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(n, 4\)"):
        geometry.dihedrals(random_positions(), PAIRS)
