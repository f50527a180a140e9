"""Regions of configurations along single features, and how rare they are."""

from __future__ import annotations

import math

import torch

from openmm_bg.annealing.buffer import Labelled

N_REGIONS = 12
"""Regions of a circle, and of the samples along a feature that is no angle."""

_MOST = 30.0
_LEAST_SHARE = 1e-3


def twelfths(angles: torch.Tensor) -> torch.Tensor:
    """Return the twelfth of the circle that each angle [rad] is in, as whole numbers of the same shape."""
    return ((angles + math.pi) / (2.0 * math.pi) * N_REGIONS).long().clamp(0, N_REGIONS - 1)


class Rarity:
    """How rare configurations are at the lowest temperature, along the angles that turn.

    An angle turns if at least half of the twelfths of its circle hold a thousandth of the samples or more. A
    configuration is as rare as the rarest of its twelfths: 1 if that holds a twelfth of the target or more, 10 if
    it holds a tenth of this, and 30 at most.

    Args:
        samples: Samples of all temperatures with their weights; those of the lowest say what is rare there, about,
            if annealed importance sampling has moved them.
        lowest: The lowest temperature as T / T_train.
        circular: Which features are angles, with shape=(n_features,).
    """

    def __init__(self, samples: Labelled, lowest: float, circular: torch.Tensor) -> None:
        angles = circular.nonzero()[:, 0]
        counts = _histogram(samples.features[:, angles], torch.ones(len(samples)))
        self._angles = angles[(counts > _LEAST_SHARE).sum(1) >= N_REGIONS // 2]
        cold = samples[torch.isclose(samples.ratio, torch.tensor(lowest))]
        shares = _histogram(cold.features[:, self._angles], cold.weight)
        # NaN where nothing is known of the lowest temperature.
        self._rarity = torch.nan_to_num(1.0 / (N_REGIONS * shares), nan=1.0).clamp(1.0, _MOST)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return the rarity of configurations, from 1 to 30, with shape=(n,)."""
        rarity = torch.ones(len(features))
        for angle, of_region in zip(self._angles.tolist(), self._rarity, strict=True):
            rarity = torch.maximum(rarity, of_region[twelfths(features[:, angle])])
        return rarity


def _histogram(angles: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the share of each twelfth with shape=(n_angles, 12)."""
    shares = torch.zeros(angles.shape[1], N_REGIONS)
    shares.scatter_add_(1, twelfths(angles).T, weights.expand(angles.shape[1], -1).float())
    return shares / shares.sum(1, keepdim=True)
