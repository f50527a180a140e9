"""Coupling layers on features some of which are angles."""

from __future__ import annotations

import math
from typing import Any

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import Transform
from torch import nn
from torch.nn import functional

from openmm_bg.transforms.splines import coupling_splines


class SplineCoupling(Transform):
    """A coupling layer of rational-quadratic splines.

    Features where ``mask`` is true are transformed, conditioned on the others. Angles get circular splines (the
    slopes at -pi and pi are tied), the other features splines on [-bound, bound] that continue as the
    identity outside. Conditioners see angles by cosine and sine. At the start the layer is the identity.

    Source: Durkan et al., Neural Spline Flows (2019); circular splines: Rezende et al. (2020).

    Args:
        mask: Which features are transformed, with shape=(n_features,).
        circular: Which features are angles in [-pi, pi), with shape=(n_features,).
        n_bins: Bins of each spline.
        bound: Half-width of the interval in which other features are transformed.
        hidden_features: Width of the conditioner.
        n_blocks: Residual blocks of the conditioner.
        n_context: Further numbers that the conditioner sees: ``context`` with shape=(batch, n_context).
    """

    def __init__(
        self,
        mask: torch.Tensor,
        circular: torch.Tensor,
        *,
        n_bins: int,
        bound: float,
        hidden_features: int,
        n_blocks: int,
        n_context: int = 0,
    ) -> None:
        super().__init__()
        transformed, kept = torch.nonzero(mask).flatten(), torch.nonzero(~mask).flatten()
        # Angles first among the transformed, so that the two kinds of splines are two blocks of rows.
        transformed = torch.cat([transformed[circular[transformed]], transformed[~circular[transformed]]])
        self._n_angles = int(circular[transformed].sum())
        self._bound = float(bound)
        self.register_buffer("_transformed", transformed, persistent=False)
        self.register_buffer("_angles", kept[circular[kept]], persistent=False)
        self.register_buffer("_others", kept[~circular[kept]], persistent=False)
        self.register_buffer("_is_angle", circular[transformed], persistent=False)
        n_inputs = 2 * len(self._angles) + len(self._others) + n_context
        self.conditioner = ResidualNet(
            max(1, n_inputs),
            len(transformed) * (3 * n_bins + 1),
            hidden_features=hidden_features,
            num_blocks=n_blocks,
            activation=functional.silu,
        )
        nn.init.zeros_(self.conditioner.final_layer.weight)
        nn.init.zeros_(self.conditioner.final_layer.bias)

    @property
    def sees_nothing(self) -> bool:
        """Whether it transforms all features, so that there are none to be conditioned on."""
        return len(self._angles) + len(self._others) == 0

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to features, towards noise."""
        return self._apply_spline(inputs, context, inverse=False)

    def inverse(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to features, towards data."""
        return self._apply_spline(inputs, context, inverse=True)

    def _apply_spline(
        self, inputs: torch.Tensor, context: torch.Tensor | None, inverse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        angles = inputs[:, self._angles]
        further = [] if context is None else [context]
        seen = torch.cat([angles.cos(), angles.sin(), inputs[:, self._others], *further], dim=1)
        if seen.shape[1] == 0:
            seen = inputs.new_ones(len(inputs), 1)
        # Parameters first and the batch last, as the splines want it, without a copy.
        weight, bias = self.conditioner.final_layer.weight, self.conditioner.final_layer.bias
        raw = torch.addmm(bias[:, None], weight, self._hidden(seen).t())
        raw = raw.reshape(len(self._transformed), -1, len(inputs))
        x = inputs[:, self._transformed].t()
        # Not a buffer: pi rounded to float32 would not be the circle's half width in float64.
        bounds = torch.where(self._is_angle, x.new_tensor(math.pi), x.new_tensor(self._bound))
        y, logabsdet = coupling_splines(x, raw, self._n_angles, bounds, inverse)
        return inputs.index_copy(1, self._transformed, y.t()), logabsdet

    def _hidden(self, seen: torch.Tensor) -> torch.Tensor:
        """Return what the conditioner's last layer sees."""
        hidden = self.conditioner.initial_layer(seen)
        for block in self.conditioner.blocks:
            hidden = block(hidden)
        return hidden


class CircularShift(Transform):
    """Rotation of the angles by learned amounts, so that no layer's seam stays in one place.

    Args:
        circular: Which features are angles, with shape=(n_features,).
        shift: The initial rotation [rad] of each angle, with shape=(n_angles,).
    """

    def __init__(self, circular: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("_indices", torch.nonzero(circular).flatten(), persistent=False)
        self.shift = nn.Parameter(shift.clone())

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate, towards noise."""
        return self._rotate(inputs, self.shift)

    def inverse(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate back, towards data."""
        return self._rotate(inputs, -self.shift)

    def _rotate(self, inputs: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turned = torch.remainder(inputs[:, self._indices] + shift + math.pi, 2.0 * math.pi) - math.pi
        return inputs.index_copy(1, self._indices, turned), inputs.new_zeros(len(inputs))
