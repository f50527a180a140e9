"""Shifts and scales that depend on a context alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import Transform
from torch import nn
from torch.nn import functional

from openmm_bg.transforms.standardised import wrap

_LARGEST_LOG_SCALE = 4.0


class ConditionalAffine(Transform):
    """Centre and scale features by what a context says of them; angles are turned.

    All features are transformed, and none is seen: the layer takes out what is known before the couplings begin. At
    the start it is the identity.

    Args:
        circular: Which features are angles in [-pi, pi), with shape=(n_features,).
        n_context: How many numbers the network sees.
        hidden_features: Width of the network.
        n_blocks: Its residual blocks.
    """

    def __init__(
        self, circular: torch.Tensor, n_context: int, *, hidden_features: int, n_blocks: int = 1
    ) -> None:
        super().__init__()
        self.register_buffer("_angle", circular.clone(), persistent=False)
        self.network = ResidualNet(
            n_context,
            2 * len(circular),
            hidden_features=hidden_features,
            num_blocks=n_blocks,
            activation=functional.silu,
        )
        nn.init.zeros_(self.network.final_layer.weight)
        nn.init.zeros_(self.network.final_layer.bias)

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to features, towards noise."""
        center, log_scale = self._center_and_log_scale(context)
        outputs = (inputs - center) * (-log_scale).exp()
        return torch.where(self._angle, wrap(outputs), outputs), -log_scale.sum(1)

    def inverse(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to features, towards data."""
        center, log_scale = self._center_and_log_scale(context)
        outputs = inputs * log_scale.exp() + center
        return torch.where(self._angle, wrap(outputs), outputs), log_scale.sum(1)

    def _center_and_log_scale(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        center, log_scale = self.network(context).chunk(2, dim=1)
        center = torch.where(self._angle, math.pi * center, center)
        log_scale = _LARGEST_LOG_SCALE * (log_scale / _LARGEST_LOG_SCALE).tanh()
        return center, torch.where(self._angle, 0.0, log_scale)
