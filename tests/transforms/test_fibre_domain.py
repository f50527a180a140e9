"""Where fibre coordinates have no density: mirror images, swapped labels, impossible features."""

import math

import numpy as np
import pytest
import torch
from fibre_examples import MAPS, MIRROR, TRIPLES, example

from openmm_bg.transforms import FibreCoordinates


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
