"""The check that no mode of the target has been lost."""

from __future__ import annotations

import math

import torch

from openmm_bg.annealing.buffer import Labelled
from openmm_bg.flows import PositionFlow


class Coverage:
    """Samples of the target from before, to which the flow must go on giving a fair density.

    The samples of a flow that has lost a mode do not tell that it is missing: their effective sample size may be
    excellent. But samples of the target from an earlier flow still have it, and their weights become huge.

    Args:
        least: The least density, as a part of the target's, that is fair.
    """

    def __init__(self, least: float = 0.01) -> None:
        self._least = math.log(least)
        self.sets: dict[str, Labelled] = {}

    def keep(self, name: str, samples: Labelled, n: int, generator: torch.Generator) -> None:
        """Keep samples of a round, resampled by weight.

        Args:
            name: Name of the set.
            samples: The samples.
            n: How many are kept.
            generator: Source of randomness.
        """
        chosen = torch.multinomial(samples.weight.double(), n, replacement=True, generator=generator)
        self.sets[name] = samples[chosen]

    def covered(self, flow: PositionFlow) -> float:
        """Return the least part of a set that the flow gives a fair density."""
        parts = []
        with torch.no_grad():
            for samples in self.sets.values():
                log_q = flow.state_log_prob(samples.features, samples.ratio)
                parts.append(float((log_q - samples.log_target > self._least).float().mean()))
        return min(parts, default=1.0)
