"""Monotonic rational-quadratic splines, without branches or host synchronisation.

The arrays have the batch as their last axis and bins before it, so that every operation runs over
contiguous memory; a bin is found by comparison and picked by a masked sum, which fuses under
``torch.compile`` where gathering does not. The results equal nflows' ``rational_quadratic_spline``.

Source: Durkan et al., Neural Spline Flows (2019), equations 4-8.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from torch.nn import functional

MIN_BIN_SIZE = 1e-3
MIN_DERIVATIVE = 1e-3
# softplus(UNIT_DERIVATIVE) + MIN_DERIVATIVE = 1: added to raw derivatives, so that zeros give the identity.
UNIT_DERIVATIVE = math.log(math.expm1(1.0 - MIN_DERIVATIVE))


_FUSED = {("cpu", torch.float32), ("cpu", torch.float64)}


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


def coupling_splines(
    x: torch.Tensor, raw: torch.Tensor, n_circular: int, bounds: torch.Tensor, inverse: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply splines to features: circular ones to the first rows, others that are the identity outside.

    On the CPU they are machine code (`openmm_bg.transforms.fused_splines`), elsewhere tensor operations.

    Args:
        x: Inputs with shape=(n, batch).
        raw: Raw widths, heights and slopes at the knots, with shape=(n, 3 bins + 1, batch). The slopes at both ends
            of a circular spline are one parameter; those of another are one.
        n_circular: How many rows are circular.
        bounds: The half-widths of the splines' intervals with shape=(n,).
        inverse: Apply the inverse functions.

    Returns:
        Outputs with shape=(n, batch), and the sums of the log-derivatives with shape=(batch,).
    """
    alike = {(t.device.type, t.dtype) for t in (x, raw, bounds)}
    if alike <= _FUSED and len(alike) == 1 and find_spec("llvmlite"):
        from openmm_bg.transforms.fused_splines import MAX_BINS, FusedSplines

        if raw.shape[1] // 3 <= MAX_BINS:
            return FusedSplines.apply(x, raw, n_circular, bounds, inverse)
    return tensor_splines(x, raw, n_circular, bounds, inverse)


def tensor_splines(
    x: torch.Tensor, raw: torch.Tensor, n_circular: int, bounds: torch.Tensor, inverse: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `coupling_splines` by tensor operations, on any device."""
    k = raw.shape[1] // 3
    widths, heights, slopes = raw[:, :k], raw[:, k : 2 * k], raw[:, 2 * k :]
    circular, linear = slopes[:n_circular], slopes[n_circular:]
    circular = torch.cat([circular[:, :k], circular[:, :1]], 1)
    edge = torch.zeros_like(linear[:, :1])
    linear = torch.cat([edge, linear[:, 1:k], edge], 1)
    bounds = bounds[:, None]
    unit = (x + bounds) / (2.0 * bounds)
    y, log_derivative = rational_quadratic_spline(
        unit.clamp(0.0, 1.0), widths, heights, torch.cat([circular, linear], 0), inverse
    )
    inside = (unit >= 0.0) & (unit <= 1.0)
    y = torch.where(inside, 2.0 * bounds * y - bounds, x)
    return y, torch.where(inside, log_derivative, 0.0).sum(0)
