"""Affine coupling layers: those of RealNVP, and volume-preserving ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from nflows.transforms import Transform
from torch import nn

_LARGEST_LOG_SCALE = 3.0


class AffineCoupling(Transform):
    """A coupling layer that scales and shifts, x -> x exp(s) + t, as in RealNVP.

    Features where ``mask`` is true are transformed, conditioned on the others. Angles are only rotated, and
    conditioners see them by cosine and sine. A volume-preserving layer takes the mean of its log scales off, so
    that their product is one: the Jacobian is one everywhere. At the start the layer is the identity.

    Source: Dinh et al. (2016); volume-preserving: Dibak et al. (2021), section 2.

    Args:
        mask: Which features are transformed, with shape=(n_features,).
        circular: Which features are angles in [-pi, pi), with shape=(n_features,).
        volume_preserving: Whether log scales sum to zero.
        hidden_features: Width of the two conditioners: scales by ReLU, shifts by tanh.
        n_hidden: Their hidden layers.
    """

    def __init__(
        self,
        mask: torch.Tensor,
        circular: torch.Tensor,
        *,
        volume_preserving: bool,
        hidden_features: int,
        n_hidden: int = 3,
    ) -> None:
        super().__init__()
        transformed, kept = torch.nonzero(mask).flatten(), torch.nonzero(~mask).flatten()
        self.volume_preserving = volume_preserving
        self.register_buffer("_angles", transformed[circular[transformed]], persistent=False)
        self.register_buffer("_others", transformed[~circular[transformed]], persistent=False)
        self.register_buffer("_seen_angles", kept[circular[kept]], persistent=False)
        self.register_buffer("_seen_others", kept[~circular[kept]], persistent=False)
        n_inputs = max(1, 2 * len(self._seen_angles) + len(self._seen_others))
        n_others, n_angles = len(self._others), len(self._angles)
        self.scale = _network(n_inputs, n_others, hidden_features, n_hidden, nn.ReLU)
        self.shift = _network(n_inputs, n_others + n_angles, hidden_features, n_hidden, nn.Tanh)

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to features, towards noise."""
        log_scale, shift, turn = self._conditioned(inputs)
        moved = inputs[:, self._others] * log_scale.exp() + shift
        return self._replaced(inputs, moved, turn), self._logabsdet(log_scale)

    def inverse(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to features, towards data."""
        log_scale, shift, turn = self._conditioned(inputs)
        moved = (inputs[:, self._others] - shift) * (-log_scale).exp()
        return self._replaced(inputs, moved, -turn), -self._logabsdet(log_scale)

    def _conditioned(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log scales and shifts, and by how much to turn the angles."""
        angles = inputs[:, self._seen_angles]
        seen = torch.cat([angles.cos(), angles.sin(), inputs[:, self._seen_others]], dim=1)
        if seen.shape[1] == 0:
            seen = inputs.new_ones(len(inputs), 1)
        log_scale = self.scale(seen)[:, : len(self._others)]
        log_scale = _LARGEST_LOG_SCALE * torch.tanh(log_scale / _LARGEST_LOG_SCALE)
        if self.volume_preserving and log_scale.shape[1]:
            log_scale = log_scale - log_scale.mean(dim=1, keepdim=True)
        shift = self.shift(seen)
        return log_scale, shift[:, : len(self._others)], shift[:, len(self._others) :]

    def _replaced(self, inputs: torch.Tensor, others: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        turned = torch.remainder(inputs[:, self._angles] + turn + math.pi, 2.0 * math.pi) - math.pi
        return inputs.index_copy(1, self._others, others).index_copy(1, self._angles, turned)

    def _logabsdet(self, log_scale: torch.Tensor) -> torch.Tensor:
        # Zero by construction, not the rounding errors of a sum that is.
        return log_scale.new_zeros(len(log_scale)) if self.volume_preserving else log_scale.sum(dim=1)


def _network(
    n_inputs: int, n_outputs: int, hidden_features: int, n_hidden: int, activation: type[nn.Module]
) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = n_inputs
    for _ in range(n_hidden):
        layers += [nn.Linear(width, hidden_features), activation()]
        width = hidden_features
    last = nn.Linear(width, max(1, n_outputs))
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
