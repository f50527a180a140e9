"""Cartesian coordinates, for systems in an external field, where place and orientation matter."""

from __future__ import annotations

from typing import Any

import torch

from openmm_bg.errors import InputError
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms.base import Coordinates


class CartesianCoordinates(Coordinates):
    """All 3N Cartesian coordinates, centred and whitened by data.

    Features are L^-1 (x - mean) with L L^T the covariance of the data, so that harmonic systems
    become standard normal.

    Args:
        n_atoms: The number of atoms.
    """

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        self.n_atoms = n_atoms
        self.register_buffer("circular", torch.zeros(3 * n_atoms, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(3 * n_atoms, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(3 * n_atoms, dtype=torch.float64))

    def fit(self, positions: Any) -> CartesianCoordinates:
        """Learn mean and covariance from configurations.

        Args:
            positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).

        Returns:
            Itself.

        Raises:
            InputError: If positions are not finite, or too few for a covariance.
        """
        x = positions_tensor(positions)
        if x.ndim != 3 or x.shape[1:] != (self.n_atoms, 3) or len(x) <= 3 * self.n_atoms:
            raise InputError(
                f"Fitting needs more than {3 * self.n_atoms} configurations of {self.n_atoms} atoms; "
                f"the positions have the shape {tuple(x.shape)}."
            )
        if not torch.isfinite(x).all():
            raise InputError("The positions contain NaN or infinite values; remove those frames.")
        x = x.reshape(len(x), -1)
        self.mean = x.mean(0)
        covariance = torch.cov(x.T).reshape(len(self.mean), -1)
        self.factor = torch.linalg.cholesky(covariance)
        return self

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map positions (batch, n_atoms, 3) [nm] to features (batch, 3 n_atoms)."""
        factor = self.factor.to(inputs)
        centred = inputs.reshape(len(inputs), -1) - self.mean.to(inputs)
        features = torch.linalg.solve_triangular(factor, centred.T, upper=False).T
        return features, -factor.diagonal().log().sum().expand(len(inputs))

    def inverse(
        self, inputs: torch.Tensor, context: Any = None, *, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to positions; there is no frame to keep, so ``frame`` has no effect."""
        factor = self.factor.to(inputs)
        positions = (inputs @ factor.T + self.mean.to(inputs)).reshape(len(inputs), self.n_atoms, 3)
        return positions, factor.diagonal().log().sum().expand(len(inputs))

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the transform, as JSON; its buffers are saved apart."""
        return {"kind": "CartesianCoordinates", "n_atoms": self.n_atoms}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CartesianCoordinates:
        """Rebuild the transform; its buffers are to be loaded afterwards."""
        return cls(config["n_atoms"])
