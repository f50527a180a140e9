"""Cartesian coordinates, for systems in an external field, where place and orientation matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from openmm_bg.errors import InputError
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms.base import Coordinates


class CartesianCoordinates(Coordinates):
    """Cartesian coordinates, all 3N or some of them, centred and scaled by data.

    Features are L^-1 (x - mean), with L L^T the covariance of the data or, if they are not whitened, its
    mean diagonal element on the diagonal. Densities are per volume of the coordinates that are features.

    Args:
        n_atoms: The number of atoms.
        components: Which of the flattened 3N coordinates are features, in this order; all if not given.

    Attributes:
        components: As given.

    Raises:
        InputError: If components are not different whole numbers from 0 to 3N - 1.
    """

    def __init__(self, n_atoms: int, components: Sequence[int] | None = None) -> None:
        super().__init__()
        self.n_atoms = n_atoms
        chosen = tuple(range(3 * n_atoms) if components is None else components)
        if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(3 * n_atoms)):
            raise InputError(
                f"Components must be different whole numbers from 0 to {3 * n_atoms - 1}, not {chosen}."
            )
        chosen, size = tuple(int(k) for k in chosen), len(chosen)
        self.components = None if components is None else chosen
        self.register_buffer("_chosen", torch.tensor(chosen), persistent=False)
        self.register_buffer("circular", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(size, dtype=torch.float64))

    def fit(self, positions: Any, *, whiten: bool = True) -> CartesianCoordinates:
        """Learn mean and covariance from configurations.

        Args:
            positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
            whiten: Make the features uncorrelated with variance one, so that harmonic systems become
                standard normal. If not, they are centred and divided by one number (the root of the mean
                variance), which leaves the distribution its shape.

        Returns:
            Itself.

        Raises:
            InputError: If positions are not finite, too few for a covariance, or do not vary.
        """
        x = positions_tensor(positions)
        if x.ndim != 3 or x.shape[1:] != (self.n_atoms, 3) or len(x) <= self.n_features:
            raise InputError(
                f"Fitting needs more than {self.n_features} configurations of {self.n_atoms} atoms; "
                f"the positions have the shape {tuple(x.shape)}."
            )
        x = self._features_of(x)
        if not torch.isfinite(x).all():
            raise InputError("The positions contain NaN or infinite values; remove those frames.")
        covariance = torch.cov(x.T).reshape(self.n_features, -1)
        if not whiten:
            covariance = covariance.diagonal().mean() * torch.eye(self.n_features, dtype=x.dtype)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise InputError(
                "Some coordinates do not vary, or depend on others; leave them out of the components."
            )
        self.mean, self.factor = x.mean(0), factor
        return self

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map positions (batch, n_atoms, 3) [nm] to features; coordinates that are not are ignored."""
        factor = self.factor.to(inputs)
        centred = self._features_of(inputs) - self.mean.to(inputs)
        features = torch.linalg.solve_triangular(factor, centred.T, upper=False).T
        return features, -factor.diagonal().log().sum().expand(len(inputs))

    def inverse(
        self, inputs: torch.Tensor, context: Any = None, *, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to positions.

        Args:
            inputs: Features with shape=(batch, n_features).
            context: Not used.
            frame: A configuration [nm] with the coordinates that are not features, or one for each, with
                shape=(n_atoms, 3) or (batch, n_atoms, 3); zero if not given. Of the others it has no effect.
        """
        factor = self.factor.to(inputs)
        x = inputs @ factor.T + self.mean.to(inputs)
        if self.components is not None:
            rest = inputs.new_zeros(1, 3 * self.n_atoms)
            rest = rest if frame is None else frame.to(inputs).reshape(-1, 3 * self.n_atoms)
            x = rest.expand(len(x), -1).index_copy(1, self._chosen, x)
        return x.reshape(len(x), self.n_atoms, 3), factor.diagonal().log().sum().expand(len(x))

    def _features_of(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the coordinates that are features, with shape=(batch, n_features)."""
        x = positions.reshape(len(positions), -1)
        return x if self.components is None else x[:, self._chosen]

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the transform, as JSON; its buffers are saved apart."""
        config: dict[str, Any] = {"kind": "CartesianCoordinates", "n_atoms": self.n_atoms}
        if self.components is not None:
            config["components"] = list(self.components)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CartesianCoordinates:
        """Rebuild the transform; its buffers are to be loaded afterwards."""
        return cls(config["n_atoms"], config.get("components"))
