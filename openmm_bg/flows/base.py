"""The interface of a flow: a distribution of configurations with an exact density, at any temperature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn


class Flow(nn.Module, ABC):
    """A distribution of configurations, trained at one temperature and sampled at any.

    Densities are per volume of Cartesian coordinates, modulo the position and orientation of the molecule
    where the coordinates leave them out; they are always computed in float64.

    Attributes:
        n_atoms: The number of atoms.
        temperature: The temperature of training [K].
    """

    n_atoms: int
    temperature: float

    @abstractmethod
    def sample(
        self,
        n: int,
        temperature: float | None = None,
        *,
        generator: torch.Generator,
        frame: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw configurations.

        Args:
            n: How many.
            temperature: Temperature [K]; the training temperature if not given.
            generator: Source of randomness.
            frame: A configuration [nm] with shape=(n_atoms, 3) whose place and orientation the samples take.

        Returns:
            Positions [nm] with shape=(n, n_atoms, 3), NaN where a draw is outside the domain, and their
            log-densities with shape=(n,); both float64.
        """

    @abstractmethod
    def log_prob(self, positions: Any, temperature: float | None = None) -> torch.Tensor:
        """Return log-densities with shape=(batch,) in float64; -inf outside the domain.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            temperature: Temperature [K]; the training temperature if not given.
        """

    @abstractmethod
    def in_domain(self, positions: Any) -> torch.Tensor:
        """Tell which configurations the flow can propose (chirality, labels), with shape=(batch,)."""

    @abstractmethod
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network that draws; densities stay in float64."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the flow, as JSON; parameters and buffers are saved apart."""
