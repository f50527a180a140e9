"""The interface of a flow: a distribution of configurations with an exact density, at any temperature."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms.base import Coordinates
from openmm_bg.units import kelvin


class FeatureFlow(nn.Module, ABC):
    """What flows on the features of a molecule share: precision, temperature and domain.

    The network may draw in single precision; densities come from a twin of the flow in double precision.

    Args:
        coordinates: The fitted map between positions and features.
        temperature: The temperature of training [K].
    """

    def __init__(self, coordinates: Coordinates, temperature: float) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.n_atoms = coordinates.n_atoms
        self.temperature = kelvin(temperature)
        self._settings: dict[str, Any] = {}
        self._twin: tuple[Any, Self] | None = None

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision of the network."""

    def in_domain(self, positions: Any) -> torch.Tensor:
        """Tell which configurations the flow can propose (chirality, labels), with shape=(batch,)."""
        positions = positions_tensor(positions).to(self._device)
        return torch.isfinite(self.coordinates.forward(positions)[1])

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the flow, as JSON; parameters and buffers are saved apart."""
        return {
            "kind": type(self).__name__,
            "temperature": self.temperature,
            "coordinates": self.coordinates.config(),
            "circular": np.flatnonzero(self.coordinates.circular.cpu().numpy()).tolist(),
            "settings": self._settings,
        }

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _features(self, positions: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return features (any, outside the domain), log-determinants, and which are outside."""
        features, logabsdet = self.coordinates.forward(positions_tensor(positions).to(self._device))
        outside = torch.isneginf(logabsdet) | ~torch.isfinite(features).all(1)
        return torch.where(outside[:, None], 0.0, features), logabsdet, outside

    def _ratio(self, temperature: float | None) -> float:
        """Return T / T_train."""
        return 1.0 if temperature is None else kelvin(temperature) / self.temperature

    def _exact(self) -> Self:
        """Return the flow in float64: itself, or a twin that is renewed whenever a parameter has changed."""
        if self.dtype == torch.float64:
            return self
        version = tuple(p._version for p in self.parameters())
        if self._twin is None or self._twin[0] != version:
            self._twin = None
            self._twin = (version, copy.deepcopy(self).double().requires_grad_(False))
        return self._twin[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_twin": None}


def sample_steerable_base(
    n: int, circular: torch.Tensor, ratio: float, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Draw latents that scale with temperature: uniform on angles, normal with variance T / T_train elsewhere.

    Args:
        n: How many.
        circular: Which latents are angles, with shape=(n_latents,).
        ratio: T / T_train.
        generator: Source of randomness.
        dtype: Precision.
    """
    circular = circular.cpu()
    z = torch.randn(n, len(circular), generator=generator, dtype=dtype) * math.sqrt(ratio)
    uniform = torch.rand(n, int(circular.sum()), generator=generator, dtype=dtype)
    z[:, circular] = (2.0 * uniform - 1.0) * math.pi
    return z


def steerable_base_log_prob(z: torch.Tensor, circular: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return the log-density of `sample_steerable_base` with shape=(batch,)."""
    normal = z[:, ~circular]
    n_angles = z.shape[1] - normal.shape[1]
    constant = 0.5 * normal.shape[1] * math.log(2.0 * math.pi * ratio) + n_angles * math.log(2.0 * math.pi)
    return -0.5 * normal.square().sum(1) / ratio - constant


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
