"""The splines against nflows' implementation of the same formulas."""

import pytest
import torch
from nflows.transforms.splines.rational_quadratic import rational_quadratic_spline as nflows_spline

from openmm_bg.transforms.splines import UNIT_DERIVATIVE, rational_quadratic_spline


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-3)])
def test_equal_to_nflows(inverse, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    shape = {"n": 6, "bins": 8, "batch": 500}
    x = torch.rand(shape["n"], shape["batch"], generator=generator, dtype=dtype)
    raw = 2.0 * torch.randn(
        shape["n"], 3 * shape["bins"] + 1, shape["batch"], generator=generator, dtype=dtype
    )
    widths, heights, derivatives = raw.split([8, 8, 9], dim=1)
    ours = rational_quadratic_spline(x, widths, heights, derivatives, inverse)
    bins_last = [values.permute(0, 2, 1) for values in (widths, heights, derivatives + UNIT_DERIVATIVE)]
    theirs = nflows_spline(x, *bins_last, inverse=inverse)
    assert (ours[0] - theirs[0]).abs().max() < tolerance
    assert (ours[1] - theirs[1]).abs().max() < 10 * tolerance


def test_ends_and_knots():
    """Nothing happens at the places where nflows fails: the ends of the interval and the knots."""
    raw = torch.randn(1, 25, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    raw = raw[..., :1].expand(-1, -1, 9)
    widths = 1e-3 + (1 - 8e-3) * torch.softmax(raw[:, :8], dim=1)
    x = torch.cat([torch.zeros(1, dtype=torch.float64), widths[0, :, 0].cumsum(0)])[None].clamp(0, 1)
    y, log_derivative = rational_quadratic_spline(x, raw[:, :8], raw[:, 8:16], raw[:, 16:])
    heights = 1e-3 + (1 - 8e-3) * torch.softmax(raw[:, 8:16], dim=1)
    expected = torch.cat([torch.zeros(1, dtype=torch.float64), heights[0, :, 0].cumsum(0)])
    assert (y[0] - expected).abs().max() < 1e-12
    slopes = 1e-3 + torch.nn.functional.softplus(raw[0, 16:, 0] + UNIT_DERIVATIVE)
    assert (log_derivative[0].exp() - slopes).abs().max() < 1e-9
