"""The interface of a flow: a distribution of configurations with an exact density, at any temperature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.flows.precision import ExactTwin
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms.base import Coordinates
from openmm_bg.units import kelvin

Ratio = float | torch.Tensor
"""T / T_train: a number, or one for each configuration of a batch."""


class Flow(ExactTwin, ABC):
    """A distribution of configurations, trained at one temperature and sampled at any.

    Coordinates take positions to features, and an invertible network takes the state to latents. The state is the
    features, followed by the auxiliary momenta of those flows that have them (`TemperatureSteerableFlow`). Momenta
    are dimensionless; in the target at temperature T they are normal with variance T / T_train, and independent
    of the positions. Weights and acceptance ratios live in the joint space of positions and momenta, where they
    are exact; without momenta this is the space of positions, and the arrays of momenta have no columns.

    The latents' distribution scales with temperature: the variance of the normal ones is T / T_train, angles
    stay uniform. The network may draw in single precision; densities come from a twin of the flow in double
    precision. They are per volume of Cartesian coordinates, modulo the position and orientation of the molecule
    where the coordinates leave them out.

    Args:
        coordinates: The fitted map between positions and features.
        temperature: The temperature of training [K].
        n_momenta: The number of auxiliary momenta.

    Attributes:
        coordinates: The map between positions and features.
        n_atoms: The number of atoms.
        n_momenta: The number of auxiliary momenta.
        temperature: The temperature of training [K].
    """

    def __init__(self, coordinates: Coordinates, temperature: float, n_momenta: int = 0) -> None:
        super().__init__()
        if n_momenta < 0:
            raise InputError(f"n_momenta must not be negative, and is {n_momenta}.")
        self.coordinates = coordinates
        self.n_atoms = coordinates.n_atoms
        self.n_momenta = n_momenta
        self.temperature = kelvin(temperature)
        circular = torch.cat([coordinates.circular.cpu(), torch.zeros(n_momenta, dtype=torch.bool)])
        self.register_buffer("_circular", circular, persistent=False)
        self._settings: dict[str, Any] = {}

    @property
    def conditioned(self) -> bool:
        """Whether the network itself depends on the temperature, and not the base alone."""
        return False

    @abstractmethod
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network that draws; coordinates and densities stay in float64."""

    @abstractmethod
    def state_forward(self, state: torch.Tensor, ratio: Ratio = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map states to latents.

        Args:
            state: Features and momenta with shape=(batch, n_features + n_momenta).
            ratio: T / T_train, one or one for each; most flows have the same network at every temperature.

        Returns:
            Latents with the shape of the states, and log-determinants with shape=(batch,).
        """

    @abstractmethod
    def state_inverse(self, z: torch.Tensor, ratio: Ratio = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map latents to states, with log-determinants; the inverse of `state_forward`."""

    def joint_sample(
        self,
        n: int,
        temperature: float | None = None,
        *,
        generator: torch.Generator,
        frame: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw configurations and momenta.

        Args:
            n: How many.
            temperature: Temperature [K]; the training temperature if not given.
            generator: Source of randomness.
            frame: A configuration [nm] with shape=(n_atoms, 3) whose place and orientation the samples take.

        Returns:
            Positions [nm] with shape=(n, n_atoms, 3), NaN where a draw is outside the domain; momenta with
            shape=(n, n_momenta); and their joint log-densities with shape=(n,); all float64.
        """
        ratio = self.ratio(temperature)
        with torch.no_grad():
            exact = self.exact()
            z = self.sample_base(n, ratio, generator).to(self._device).double()
            state, to_state = exact.state_inverse(z, ratio)
            features, momenta = exact.parted(state)
            positions, to_positions = exact.coordinates.inverse(features, frame=frame)
            return positions, momenta, exact.base_log_prob(z, ratio) - to_state - to_positions

    def joint_log_prob(
        self, positions: Any, momenta: torch.Tensor, temperature: float | None = None
    ) -> torch.Tensor:
        """Return exact joint log-densities with shape=(batch,) in float64; -inf outside the domain.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            momenta: Momenta with shape=(batch, n_momenta).
            temperature: Temperature [K]; the training temperature if not given.
        """
        with torch.no_grad():
            state, logabsdet, outside = self.state_of(positions, momenta)
            log_q = self.exact().state_log_prob(state, self.ratio(temperature)) + logabsdet
            return torch.where(outside, -torch.inf, log_q)

    def transport(
        self,
        positions: Any,
        momenta: torch.Tensor,
        temperature: float | torch.Tensor,
        new_temperature: float | torch.Tensor,
        *,
        frame: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map configurations and momenta from one temperature to another, through their latents.

        The normal latents are scaled by sqrt(T' / T), angles stay. This takes the flow's density at one temperature
        to that at the other, so that the determinant of the map is the ratio of both; the map back is its inverse.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            momenta: Momenta with shape=(batch, n_momenta).
            temperature: Their temperature [K], or one of each with shape=(batch,).
            new_temperature: The temperature [K] to map to, likewise.
            frame: A configuration [nm] whose place and orientation the results take, or one for each, with
                shape=(n_atoms, 3) or (batch, n_atoms, 3).

        Returns:
            Positions [nm] with shape=(batch, n_atoms, 3), NaN outside the domain; momenta with
            shape=(batch, n_momenta); and log-determinants with shape=(batch,), -inf where the given configuration
            is outside the domain and NaN where the result is; all float64.
        """
        exact = self.exact()
        with torch.no_grad():
            state, to_features, outside = exact.state_of(positions, momenta)
            old, new = (self._ratios(t, state) for t in (temperature, new_temperature))
            z, to_latents = exact.state_forward(state, old)
            log_scale = 0.5 * (new / old).log()
            z = torch.where(self._circular, z, log_scale.exp()[:, None] * z)
            to_new = (~self._circular).sum() * log_scale
            state, from_latents = exact.state_inverse(z, new)
            features, momenta = exact.parted(state)
            positions, from_features = exact.coordinates.inverse(features, frame=frame)
            logabsdet = to_features + to_latents + to_new + from_latents + from_features
            reached = torch.isfinite(positions).all(dim=(1, 2)) & torch.isfinite(logabsdet)
            logabsdet = torch.where(outside, -torch.inf, torch.where(reached, logabsdet, torch.nan))
            return torch.where(outside[:, None, None], torch.nan, positions), momenta, logabsdet

    def sample_momenta(
        self, n: int, temperature: float | None = None, *, generator: torch.Generator
    ) -> torch.Tensor:
        """Draw momenta of the target with shape=(n, n_momenta), float64."""
        draw = torch.randn(n, self.n_momenta, generator=generator, dtype=torch.float64)
        return draw * math.sqrt(self.ratio(temperature))

    def momenta_log_prob(self, momenta: torch.Tensor, temperature: float | None = None) -> torch.Tensor:
        """Return the target's log-density of momenta with shape=(batch,); zero without momenta."""
        real = torch.zeros(self.n_momenta, dtype=torch.bool, device=momenta.device)
        return steerable_base_log_prob(momenta, real, self.ratio(temperature))

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

    # The state: features and momenta

    def state_of(
        self, positions: Any, momenta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states (any, outside the domain), log-determinants, and which are outside; float64.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            momenta: Momenta with shape=(batch, n_momenta).
        """
        features, logabsdet = self.coordinates.forward(positions_tensor(positions).to(self._device))
        outside = torch.isneginf(logabsdet) | ~torch.isfinite(features).all(1)
        features = torch.where(outside[:, None], 0.0, features)
        return torch.cat([features, momenta.to(features)], dim=1), logabsdet, outside

    def parted(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features and the momenta of states."""
        n_features = len(self._circular) - self.n_momenta
        return state[:, :n_features], state[:, n_features:]

    def state_log_prob(self, state: torch.Tensor, ratio: Ratio = 1.0) -> torch.Tensor:
        """Return the log-density of states, in the network's precision.

        Args:
            state: Features and momenta with shape=(batch, n_features + n_momenta).
            ratio: T / T_train, one or one for each with shape=(batch,).
        """
        z, logabsdet = self.state_forward(state.to(self.dtype), ratio)
        return self.base_log_prob(z, ratio) + logabsdet

    def sample_base(self, n: int, ratio: Ratio, generator: torch.Generator) -> torch.Tensor:
        """Draw latents with shape=(n, n_features + n_momenta), in the network's precision."""
        return sample_steerable_base(n, self._circular, ratio, generator, self.dtype)

    def base_log_prob(self, z: torch.Tensor, ratio: Ratio = 1.0) -> torch.Tensor:
        """Return the log-density of latents with shape=(batch,)."""
        return steerable_base_log_prob(z, self._circular, ratio)

    @property
    def circular(self) -> torch.Tensor:
        """Which components of state and latents are angles, with shape=(n_features + n_momenta,)."""
        return self._circular

    def ratio(self, temperature: float | None) -> float:
        """Return T / T_train."""
        return 1.0 if temperature is None else kelvin(temperature) / self.temperature

    def _ratios(self, temperature: float | torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Return T / T_train for each state."""
        if not isinstance(temperature, torch.Tensor):
            temperature = torch.tensor(kelvin(temperature), dtype=torch.float64)
        return (temperature.to(state) / self.temperature).expand(len(state))


class PositionFlow(Flow):
    """A flow without momenta: its density of positions is exact."""

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
        positions, _, log_q = self.joint_sample(n, temperature, generator=generator, frame=frame)
        return positions, log_q

    def log_prob(self, positions: Any, temperature: float | None = None) -> torch.Tensor:
        """Return exact log-densities with shape=(batch,) in float64; -inf outside the domain.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            temperature: Temperature [K]; the training temperature if not given.
        """
        positions = positions_tensor(positions)
        return self.joint_log_prob(positions, positions.new_zeros(len(positions), 0), temperature)


def sample_steerable_base(
    n: int, circular: torch.Tensor, ratio: Ratio, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Draw latents that scale with temperature: uniform on angles, normal with variance T / T_train elsewhere.

    Args:
        n: How many.
        circular: Which latents are angles, with shape=(n_latents,).
        ratio: T / T_train, one or one for each with shape=(n,).
        generator: Source of randomness.
        dtype: Precision.
    """
    circular = circular.cpu()
    z = torch.randn(n, len(circular), generator=generator, dtype=dtype)
    z = z * (ratio.sqrt().to(z)[:, None] if isinstance(ratio, torch.Tensor) else math.sqrt(ratio))
    uniform = torch.rand(n, int(circular.sum()), generator=generator, dtype=dtype)
    z[:, circular] = (2.0 * uniform - 1.0) * math.pi
    return z


def steerable_base_log_prob(z: torch.Tensor, circular: torch.Tensor, ratio: Ratio) -> torch.Tensor:
    """Return the log-density of `sample_steerable_base` with shape=(batch,)."""
    # Without a boolean mask, which would make the host wait for a GPU.
    squares = torch.where(circular, 0.0, z).square().sum(1)
    n_angles = circular.sum().to(z.dtype)
    n_normal = z.shape[1] - n_angles
    log_ratio = ratio.log().to(z) if isinstance(ratio, torch.Tensor) else math.log(ratio)
    ratio = ratio.to(z) if isinstance(ratio, torch.Tensor) else ratio
    constant = 0.5 * n_normal * (math.log(2.0 * math.pi) + log_ratio) + n_angles * math.log(2.0 * math.pi)
    return -0.5 * squares / ratio - constant
