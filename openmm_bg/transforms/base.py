"""The interface between positions and the features that a flow transforms."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from nflows.transforms import Transform


class Coordinates(Transform):
    """A map from positions to features: coordinates that are standardised, or angles on a circle.

    As everywhere, ``forward`` maps data to noise (here positions to features), ``inverse`` maps features
    to positions, and each returns ``(outputs, logabsdet)``. Computations take the inputs' precision.

    Attributes:
        n_atoms: The number of atoms.
        circular: Which features are angles in [-pi, pi), with shape=(n_features,).
    """

    n_atoms: int
    circular: torch.Tensor

    @property
    def n_features(self) -> int:
        """The number of features."""
        return len(self.circular)

    @abstractmethod
    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map positions (batch, n_atoms, 3) [nm] to features (batch, n_features).

        The log-determinant is -inf for configurations outside the domain: they have density zero.
        """

    @abstractmethod
    def inverse(
        self, inputs: torch.Tensor, context: Any = None, *, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to positions; rows outside the domain become NaN, never clamped.

        Args:
            inputs: Features with shape=(batch, n_features).
            context: Not used.
            frame: A configuration [nm] whose place and orientation the results take, or one for each, with
                shape=(n_atoms, 3) or (batch, n_atoms, 3).
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the transform, as JSON; its buffers are saved apart."""
