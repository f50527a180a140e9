"""The check that no mode of the target has been lost."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from openmm_bg.annealing.buffer import Labelled
from openmm_bg.annealing.regions import N_REGIONS, twelfths
from openmm_bg.flows import PositionFlow

_LEAST_MEMBERS = 20
_NEGLIGIBLE = 10.0  # kT


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

    def covered(self, flow: PositionFlow, names: Iterable[str]) -> float:
        """Return the least part of the sets of these names that the flow gives a fair density."""
        kept = [_deviation(flow, self.sets[name]) for name in names]
        return min(float((deviation > self._least).float().mean()) for deviation in kept)

    def poorest_region(self, flow: PositionFlow, samples: Labelled) -> float:
        """Return the density that the flow gives to the region it neglects most, as a part of what is typical.

        Regions are twelfths of the circle of each angle, and twelfths of the samples along each other feature.
        A rare state has no part in averages over all samples, but it is a region of its own. A region that holds
        next to nothing at the temperature that is looked at is left out: one where the target's density, that of
        the best tenth of the samples there, is 10 kT below that of the best tenth of all.

        Args:
            flow: The flow.
            samples: Samples of any law, labelled with the temperature that is looked at.
        """
        deviation = torch.nan_to_num(_deviation(flow, samples), nan=-math.inf, neginf=-math.inf)
        typical, poorest = deviation.median(), 0.0
        negligible = _best_tenth(samples.log_target) - _NEGLIGIBLE
        for angle, values in zip(flow.circular.tolist(), samples.features.T, strict=True):
            region = twelfths(values) if angle else values.argsort().argsort() * N_REGIONS // len(values)
            for k in range(N_REGIONS):
                members = deviation[region == k]
                if (
                    len(members) >= _LEAST_MEMBERS
                    and _best_tenth(samples.log_target[region == k]) > negligible
                ):
                    lowest = float(members.median())
                    poorest = min(poorest, lowest - float(typical) if math.isfinite(lowest) else -math.inf)
        return math.exp(poorest)


def _best_tenth(log_target: torch.Tensor) -> float:
    return float(log_target.quantile(0.9))


def _deviation(flow: PositionFlow, samples: Labelled) -> torch.Tensor:
    with torch.no_grad():
        return flow.state_log_prob(samples.features, samples.ratio) - samples.log_target
