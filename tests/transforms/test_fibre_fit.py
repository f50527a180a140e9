"""Fibre coordinates are fitted to data, rebuilt from their description, and refuse what they cannot be made of."""

import json
import math

import numpy as np
import pytest
import torch
from fibre_examples import (
    BEADS,
    MIRROR,
    TRIPLES,
    dipeptide,
    everything_forward,
    example,
    log_det,
    molecule,
    soft,
    thermal,
)

from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.errors import InputError
from openmm_bg.transforms import COORDINATES, FibreCoordinates, FibreMatrix


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
    FibreCoordinates.from_reference(one.positions, one.bonds, weights, [4, 8, 15])  # atom 14 is in its tree
    with pytest.raises(InputError, match="do not follow from those of the beads"):
        FibreCoordinates.from_reference(one.positions, one.bonds, weights, [4, 8, 1])  # it is in that of 8
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
