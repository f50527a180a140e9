"""Circular coordinates whose density is given at points around the circle, and linear in between."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

_LEAST = 1e-7  # of the density, everywhere
_STEEP = 0.3  # of the uniform density, below which gradients of draws grow no further


def circular_density(
    x: torch.Tensor, logits: torch.Tensor, inverse: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map angles with a piecewise linear density to uniform ones.

    Unlike a spline's, such a density can vanish anywhere, and have as many peaks as it has points.

    Where the density is small, the inverse function is steep, and a draw's gradient by the logits is as large as
    the draw is rare. These gradients are limited: what draws say of how much mass is on either side of a valley
    would be lost in the noise.

    Source: Müller et al., Neural Importance Sampling (2019), section 4.2, on a circle.

    Args:
        x: Angles in [-pi, pi] with shape=(n, batch).
        logits: Logarithms of the density up to a constant at equally spaced angles, the first of which is -pi, with
            shape=(n, n_points, batch). All zeros give the identity.
        inverse: Apply the inverse function.

    Returns:
        Angles in [-pi, pi] with shape=(n, batch), and the sums of the log-derivatives with shape=(batch,).
    """
    n_points = logits.shape[1]
    heights = (functional.softmax(logits, dim=1) + _LEAST) / (1.0 + n_points * _LEAST)
    unit = (x + math.pi) / (2.0 * math.pi)
    if not inverse:
        y, density = _cumulative(unit, heights)
        return (2.0 * y - 1.0) * math.pi, density.log().sum(0)
    with torch.no_grad():
        found = _solved(unit, heights)
    reached, density = _cumulative(found, heights)
    found = found + (unit - reached) / density.detach().clamp_min(_STEEP)
    _, density = _cumulative(found, heights)
    return (2.0 * found - 1.0) * math.pi, -density.log().sum(0)


def _cumulative(unit: torch.Tensor, heights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mass before points of [0, 1], and the density there."""
    n_points = heights.shape[1]
    k = (unit.detach() * n_points).floor().long().clamp(0, n_points - 1)[:, None]
    following = heights.roll(-1, dims=1)
    low, high = heights.gather(1, k)[:, 0], following.gather(1, k)[:, 0]
    before = (0.5 * (heights + following)).cumsum(1).gather(1, k)[:, 0] - 0.5 * (low + high)
    t = unit * n_points - k[:, 0].to(unit)
    return before + t * (low + 0.5 * t * (high - low)), n_points * (low + t * (high - low))


def _solved(mass: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
    """Return the points of [0, 1] before which there is some mass."""
    following = heights.roll(-1, dims=1)
    ends = (0.5 * (heights + following)).cumsum(1)
    k = (mass[:, None] >= ends[:, :-1]).sum(1, keepdim=True)
    low, high = heights.gather(1, k)[:, 0], following.gather(1, k)[:, 0]
    rest = (mass - ends.gather(1, k)[:, 0] + 0.5 * (low + high)).clamp_min(0.0)
    root = (low.square() + 2.0 * (high - low) * rest).clamp_min(1e-30).sqrt()
    t = (2.0 * rest / (low + root)).clamp(0.0, 1.0)
    return (k[:, 0].to(mass) + t) / heights.shape[1]
