"""Invariants of bead configurations: their symmetries, their values by numpy, and how they are standardised."""

from itertools import combinations

import numpy as np
import pytest
import torch
from bead_examples import chains, invariants, rotation

from openmm_bg.coarse_graining.invariants import BeadInvariants, chiral_beads
from openmm_bg.errors import InputError


@pytest.mark.parametrize("n_beads", [3, 4, 5, 8])
def test_values_are_distances_and_determinants_of_steps(n_beads):
    beads, found = chains(20, n_beads), BeadInvariants(n_beads)
    assert found.n_distances == n_beads * (n_beads - 1) // 2
    assert found.n_invariants == found.n_distances + n_beads - 3
    assert found.pairs.tolist() == [list(pair) for pair in combinations(range(n_beads), 2)]
    assert found.raw(beads).shape == (20, found.n_invariants)
    np.testing.assert_allclose(found.raw(beads), invariants(beads), atol=1e-14)


def test_a_corner_of_a_box_by_hand():
    beads = torch.as_tensor(np.array([[[1.0, 1.0, 1.0], [1.3, 1.0, 1.0], [1.3, 1.4, 1.0], [1.3, 1.4, 2.2]]]))
    expected = [0.3, 0.5, 1.3, 0.4, np.hypot(0.4, 1.2), 1.2, 0.3 * 0.4 * 1.2]
    np.testing.assert_allclose(BeadInvariants(4).raw(beads)[0], expected, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("n_beads", [3, 6])
def test_moving_and_turning_change_nothing(n_beads, dtype, tolerance):
    beads, found = chains(50, n_beads).to(dtype), BeadInvariants(n_beads)
    expected = found.raw(beads)
    assert expected.dtype == dtype
    for seed in range(3):
        shift = torch.as_tensor(np.random.default_rng(seed).normal(size=3)).to(dtype)
        moved = beads @ rotation(seed).to(dtype).T + shift
        assert (moved - beads).abs().max() > 0.1
        assert (found.raw(moved) - expected).abs().max() < tolerance
    # Control: what is larger by a thousandth is not the same.
    assert (found.raw(1.001 * beads) - expected).abs().max() > 10 * tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mirror", [(-1.0, -1.0, -1.0), (1.0, 1.0, -1.0)])
def test_mirror_images_have_the_other_sign_of_the_volumes_and_nothing_else(mirror, dtype):
    beads, found = chains(50, 6).to(dtype), BeadInvariants(6)
    original, mirrored = found.raw(beads), found.raw(beads * torch.tensor(mirror, dtype=dtype))
    n = found.n_distances
    assert torch.equal(mirrored[:, :n], original[:, :n])
    assert torch.equal(mirrored[:, n:], -original[:, n:])
    assert (original[:, n:].abs().max(0).values > 1e-3).all()


def test_configurations_of_the_data_have_mean_zero_and_deviation_one():
    beads, found = chains(200, 5), BeadInvariants(5)
    assert found.fit(beads) is found
    standard = found(beads)
    raw = invariants(beads)
    np.testing.assert_allclose(standard, (raw - raw.mean(0)) / raw.std(0, ddof=1), atol=1e-10)
    assert standard.mean(0).abs().max() < 1e-10
    assert (standard.std(0) - 1).abs().max() < 1e-10
    np.testing.assert_allclose(found.lowest, standard.min(0).values, atol=1e-12)
    np.testing.assert_allclose(found.highest, standard.max(0).values, atol=1e-12)
    assert found(beads.float()).dtype == torch.float32
    # A few roundings of 2^-24 of 2 nm, in deviations of 0.05 nm and 0.01 nm^3.
    assert (found(beads.float()) - standard).abs().max() < 2e-5


def test_distances_that_do_not_vary_stay_finite():
    beads, found = chains(1, 4).expand(5, -1, -1), BeadInvariants(4)
    found.fit(beads)
    assert found(beads).abs().max() < 1e-6
    assert torch.isfinite(found(chains(5, 4, seed=1))).all()


def test_excess_is_zero_inside_the_range_and_exact_outside():
    beads = chains(200, 5)
    found = BeadInvariants(5).fit(beads)
    assert not found.excess(found(beads)).any()
    for part in (0.0, 0.3, 1.0):
        assert not found.excess((part * found.lowest + (1 - part) * found.highest)[None]).any()
    for k in range(found.n_invariants):
        standard = torch.zeros(2, found.n_invariants, dtype=torch.float64)
        standard[0, k], standard[1, k] = found.highest[k] + 0.7, found.lowest[k] - 2.5
        excess = found.excess(standard)
        assert excess[:, k].tolist() == pytest.approx([0.7, 2.5], abs=1e-12)
        excess[:, k] = 0.0
        assert not excess.any()
    assert found.excess(found(beads).float()).dtype == torch.float32


def test_nothing_is_outside_before_the_fit():
    beads, found = chains(10, 4), BeadInvariants(4)
    assert torch.equal(found(beads), found.raw(beads))
    standard = (1e6 * beads.flatten(1)[:, : found.n_invariants]).requires_grad_(True)
    excess = found.excess(standard)
    assert not excess.any()
    excess.sum().backward()
    assert torch.isfinite(standard.grad).all()


def test_gradients_are_those_of_finite_differences():
    beads = chains(3, 5)
    found = BeadInvariants(5).fit(chains(50, 5, seed=1))
    assert torch.autograd.gradcheck(found.raw, (beads.clone().requires_grad_(True),), atol=1e-7)
    # Outside the range on purpose, so that excess has a gradient.
    outside = (3.0 * beads).requires_grad_(True)
    assert found.excess(found(outside)).any(1).all()
    assert torch.autograd.gradcheck(lambda x: found.excess(found(x)), (outside,), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_of_beads_in_one_place_and_in_line(dtype):
    beads = chains(3, 5).to(dtype)
    beads[0, 1] = beads[0, 0]
    beads[1] = torch.arange(5, dtype=dtype)[:, None] * torch.tensor([0.1, 0.2, 0.3], dtype=dtype)
    beads[2] = 0.0
    beads.requires_grad_(True)
    raw = BeadInvariants(5).raw(beads)
    assert torch.isfinite(raw).all()
    raw.square().sum().backward()
    assert torch.isfinite(beads.grad).all()


def test_what_was_learned_is_saved():
    beads = chains(50, 5)
    found = BeadInvariants(5).fit(beads)
    assert set(found.state_dict()) == {"mean", "deviation", "lowest", "highest"}
    again = BeadInvariants(5)
    again.load_state_dict(found.state_dict())
    far = 2.0 * beads
    assert torch.equal(again(far), found(far))
    assert torch.equal(again.excess(again(far)), found.excess(found(far)))
    assert found.excess(found(far)).any()


def test_configurations_that_cannot_be_learned_from():
    found, beads = BeadInvariants(4), chains(10, 4)
    for few in (beads[:0], beads[:1]):
        with pytest.raises(InputError, match="At least two bead configurations"):
            found.fit(few)
    for bad in (np.nan, np.inf):
        broken = beads.clone()
        broken[3, 1, 2] = bad
        with pytest.raises(InputError, match="must be finite"):
            found.fit(broken)
    for other in (beads[:, :3], chains(10, 5), beads[0], beads.flatten(1)):
        with pytest.raises(InputError, match="4 beads must have the shape"):
            found.fit(other)
    assert torch.isinf(found.lowest).all()  # nothing was learned
    for n_beads in (0, 2):
        with pytest.raises(InputError, match=f"at least three beads, not {n_beads}"):
            BeadInvariants(n_beads)


def test_other_volumes_are_determinants_too_and_are_rebuilt():
    beads, others = chains(20, 6), [[0, 1, 2, 5], [1, 2, 4, 5]]
    found = BeadInvariants(6, others)
    assert found.n_invariants == found.n_distances + 3 + 2
    np.testing.assert_allclose(found.raw(beads)[:, :-2], invariants(beads), atol=1e-14)
    steps = [np.diff(np.asarray(beads)[:, four], axis=1) for four in others]
    expected = np.stack([np.linalg.det(one) for one in steps], axis=1)
    np.testing.assert_allclose(found.raw(beads)[:, -2:], expected, atol=1e-14)
    again = BeadInvariants(6, found.others)
    again.load_state_dict(found.fit(beads).state_dict())
    assert torch.equal(again(beads), found(beads))


@pytest.mark.parametrize("others", [[[0, 1, 2]], [[0, 1, 2, 2]], [[0, 1, 2, 5]]])
def test_volumes_are_of_four_beads_that_are_there(others):
    with pytest.raises(InputError, match="four of the 5 beads"):
        BeadInvariants(5, others)


def star(n, *, hand=1.0, seed=0):
    """Return a centre, four beads around it of one hand, and a tail whose torsion is free."""
    rng = np.random.default_rng(seed)
    corners = 0.15 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    angle = rng.uniform(0, 2 * np.pi, n)
    around = np.stack([np.zeros(n), 0.14 * np.cos(angle), 0.14 * np.sin(angle)], axis=1)
    direction = corners[3] / np.linalg.norm(corners[3])
    frame = np.linalg.qr(np.stack([direction, [1.0, 0, 0], [0, 1.0, 0]], axis=1))[0]
    tail = corners[3] * 2 + around @ frame.T
    beads = np.concatenate([np.tile(corners[[0, 1]], (n, 1, 1)), np.zeros((n, 1, 3))], axis=1)
    beads = np.concatenate([beads, np.tile(corners[[3]], (n, 1, 1)), tail[:, None]], axis=1)
    beads = np.concatenate([beads, np.tile(corners[[2]], (n, 1, 1))], axis=1)
    beads = beads + 0.01 * rng.normal(size=beads.shape)
    return torch.as_tensor(beads * np.array([hand, 1.0, 1.0]))


def test_beads_around_a_chiral_centre_are_found():
    """By volumes that keep their sign, and have the other one of the mirror image."""
    beads = star(300)
    found = chiral_beads(beads)
    assert found
    volumes = BeadInvariants(6, found).raw(beads)[:, -len(found) :]
    mirrored = BeadInvariants(6, found).raw(star(300, hand=-1.0, seed=1))[:, -len(found) :]
    assert (volumes.sign() == volumes[0].sign()).all()
    assert (mirrored.sign() == -volumes[0].sign()).all()
    both = torch.cat([beads, star(300, hand=-1.0, seed=1)])
    assert chiral_beads(both) == []  # control: of both hands, no volume is sure
    assert chiral_beads(beads[:, :3]) == []
