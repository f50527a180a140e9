"""Any transform of coordinates, made volume-preserving by momenta that absorb its change of volume."""

from __future__ import annotations

from typing import Any

import torch
from nflows.transforms import Transform


class VolumePreservingLift(Transform):
    """A transform of the features and a scaling of all momenta that undoes its change of volume.

    (x, p) -> (f(x), p |det df/dx|^(-1/m)) with m momenta has the Jacobian one, whatever f is. The momenta act as a
    heat bath: they take up what the density of x gains, and the more there are, the less their own distribution
    is changed by it. The symplectic layer (x, p) -> (f(x), p / f'(x)) is the case of one coordinate and momentum.

    Args:
        transform: The transform of features with shape=(batch, n_features).
        n_features: How many of the components of a state are features; the others are momenta.
    """

    def __init__(self, transform: Transform, n_features: int) -> None:
        super().__init__()
        self.transform = transform
        self._n_features = n_features

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map states to states, towards noise."""
        return self._lifted(self.transform.forward, inputs)

    def inverse(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map states to states, towards data."""
        return self._lifted(self.transform.inverse, inputs)

    def _lifted(self, function: Any, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, momenta = state[:, : self._n_features], state[:, self._n_features :]
        features, logabsdet = function(features)
        momenta = momenta * torch.exp(-logabsdet / momenta.shape[1])[:, None]
        return torch.cat([features, momenta], dim=1), torch.zeros_like(logabsdet)
