"""Monotonic rational-quadratic splines, without branches or host synchronisation.

The arrays have the batch as their last axis and bins before it, so that every operation runs over
contiguous memory; a bin is found by comparison and picked by a masked sum, which fuses under
``torch.compile`` where gathering does not. The results equal nflows' ``rational_quadratic_spline``.

Source: Durkan et al., Neural Spline Flows (2019), equations 4-8.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

MIN_BIN_SIZE = 1e-3
MIN_DERIVATIVE = 1e-3
# softplus(UNIT_DERIVATIVE) + MIN_DERIVATIVE = 1: added to raw derivatives, so that zeros give the identity.
UNIT_DERIVATIVE = math.log(math.expm1(1.0 - MIN_DERIVATIVE))


def rational_quadratic_spline(
    x: torch.Tensor,
    widths: torch.Tensor,
    heights: torch.Tensor,
    derivatives: torch.Tensor,
    inverse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a spline from [0, 1] to [0, 1].

    Args:
        x: Inputs in [0, 1] with shape=(n, batch).
        widths: Raw bin widths with shape=(n, bins, batch); softmax makes them positive.
        heights: Raw bin heights, likewise.
        derivatives: Raw derivatives at the knots with shape=(n, bins + 1, batch); all zeros give slope one.
        inverse: Apply the inverse function.

    Returns:
        Outputs and log-derivatives with shape=(n, batch).
    """
    bins = widths.shape[1]
    floor = 1.0 - MIN_BIN_SIZE * bins
    widths = MIN_BIN_SIZE + floor * functional.softmax(widths, dim=1)
    heights = MIN_BIN_SIZE + floor * functional.softmax(heights, dim=1)
    slopes = MIN_DERIVATIVE + functional.softplus(derivatives + UNIT_DERIVATIVE)
    right, top = widths.cumsum(1), heights.cumsum(1)

    # One-hot choice of the bin: the number of inner knots at or below x.
    knots = top if inverse else right
    above = (x[:, None] >= knots[:, :-1]).to(x.dtype)
    chosen = torch.cat([torch.ones_like(above[:, :1]), above], 1) - torch.cat(
        [above, torch.zeros_like(above[:, :1])], 1
    )

    def pick(values: torch.Tensor) -> torch.Tensor:
        return (values * chosen).sum(1)

    width, height = pick(widths), pick(heights)
    left, bottom = pick(right) - width, pick(top) - height
    d0, d1 = pick(slopes[:, :-1]), pick(slopes[:, 1:])
    slope = height / width
    curvature = d0 + d1 - 2.0 * slope
    if inverse:
        y = x - bottom
        a = y * curvature + height * (slope - d0)
        b = height * d0 - y * curvature
        c = -slope * y
        # Non-negative in exact arithmetic; rounding may leave a tiny negative number.
        discriminant = (b.square() - 4.0 * a * c).clamp_min(0.0)
        t = (2.0 * c / (-b - discriminant.sqrt().clamp_min(1e-12))).clamp(0.0, 1.0)
        output = left + t * width
    else:
        t = ((x - left) / width).clamp(0.0, 1.0)
    mixed = t * (1.0 - t)
    denominator = slope + curvature * mixed
    numerator = slope.square() * (d1 * t.square() + 2.0 * slope * mixed + d0 * (1.0 - t).square())
    log_derivative = numerator.log() - 2.0 * denominator.log()
    if inverse:
        return output, -log_derivative
    return bottom + height * (slope * t.square() + d0 * mixed) / denominator, log_derivative
