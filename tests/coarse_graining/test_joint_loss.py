"""The dispersion of weights, by hand."""

import math

import pytest
import torch

from openmm_bg.coarse_graining.joint_loss import CLASH, dispersion, softened


def test_dispersion_is_square_and_then_linear():
    # 2 * 3 * (|d| - 1.5) beyond 3 kT
    assert float(dispersion(torch.tensor([0.0, 2.0, -10.0]), 3.0)) == pytest.approx((0 + 4 + 51) / 3)


def test_clashes_grow_as_logarithms():
    given = torch.tensor([-5.0, CLASH, CLASH + math.e - 1, math.inf, math.nan])
    expected = torch.tensor([-5.0, CLASH, CLASH + 1, CLASH, CLASH])
    torch.testing.assert_close(softened(given), expected)
