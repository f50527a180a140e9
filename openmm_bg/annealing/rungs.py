"""Rungs of annealing: how far the temperature can be lowered at once."""

from __future__ import annotations

import math

import torch

from openmm_bg.annealing.target import Target
from openmm_bg.flows import PositionFlow

_SAMPLES = 2000
_BISECTIONS = 5


def next_temperature(
    flow: PositionFlow,
    target: Target,
    current: float,
    lowest: float,
    least_ess: float,
    generator: torch.Generator,
) -> float:
    """Return the lowest temperature that the flow can bear, found by bisection in log T.

    Args:
        flow: The flow; at a lower temperature its base is scaled.
        target: The target.
        current: The lowest temperature [K] so far.
        lowest: The lowest that is wanted [K].
        least_ess: The effective sample size, as a fraction of the samples, that it must still have.
        generator: Source of randomness.

    Returns:
        A temperature [K]; `current` if the flow bears none that is lower by more than a hundredth.
    """

    def bears(temperature: float) -> bool:
        _, (figures,) = target.draw(flow, [temperature], [_SAMPLES], generator)
        return figures.ess >= least_ess

    if bears(lowest):
        return lowest
    good, bad = math.log(current), math.log(lowest)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (good + bad)
        good, bad = (middle, bad) if bears(math.exp(middle)) else (good, middle)
    found = math.exp(good)
    return found if found < 0.99 * current else current
