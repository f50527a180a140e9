"""The temperature-steerable flow: its density at one temperature fixes that at all others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from nflows.transforms import CompositeTransform
from torch import nn

from openmm_bg.errors import InputError
from openmm_bg.flows.base import Flow
from openmm_bg.flows.layers import affine_layers, spline_layers
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms.base import Coordinates
from openmm_bg.transforms.lift import VolumePreservingLift


class TemperatureSteerableFlow(Flow):
    """A flow of positions and auxiliary momenta p that obeys log q_T(x, p) = (T0 / T) log q_T0(x, p) + constant.

    A Boltzmann distribution obeys the same law. It holds because the prior of the latents obeys it (normal with
    variance T / T0; angles uniform) and every map has a constant Jacobian: volume-preserving couplings, one
    trainable scale of the real latents, and unit-Jacobian coordinates.

    Two kinds of volume-preserving layers can be had. ``"affine"``: RealNVP layers on features and momenta together,
    their log scales less their mean (angles are only rotated). ``"spline"``: the layers of a `SplineFlow` on the
    features, whose changes of volume the momenta absorb (`VolumePreservingLift`). The more momenta, the closer this
    is to the spline flow with its base scaled, which it becomes in the limit.

    Momenta are dimensionless, and at temperature T they are normal with variance T / T0 in the target: weights and
    acceptance ratios live in the joint space, with the target exp(-U / kT) N(p; 0, T / T0).

    Source: Dibak et al., Temperature-steerable flows (2021), section 2; the lift is this package's own.

    Args:
        coordinates: The fitted map between positions and features; its Jacobian must be constant.
        temperature: The temperature of training T0 [K].
        n_momenta: Auxiliary momenta; as many as features if not given.
        coupling: The kind of coupling layers, "spline" or "affine".
        n_layers: Coupling layers. Every two are conditioned on complementary random halves.
        hidden_features: Width of the conditioners.
        n_hidden: Hidden layers of the conditioners of affine layers.
        n_bins: Bins of each spline.
        bound: The real features' splines act within this many standard deviations.
        n_blocks: Residual blocks of the conditioners of spline layers.
        seed: Seed of masks and initial weights.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        temperature: float,
        *,
        n_momenta: int | None = None,
        coupling: str = "spline",
        n_layers: int = 8,
        hidden_features: int = 128,
        n_hidden: int = 3,
        n_bins: int = 8,
        bound: float = 6.0,
        n_blocks: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(coordinates, temperature, coordinates.n_features if n_momenta is None else n_momenta)
        if coupling not in ("spline", "affine"):
            raise InputError(f"There is no coupling {coupling!r}; there are spline and affine.")
        common = {"n_layers": n_layers, "hidden_features": hidden_features}
        own = {"n_hidden": n_hidden}
        if coupling == "spline":
            own = {"n_bins": n_bins, "bound": bound, "n_blocks": n_blocks}
            if self.n_momenta == 0:
                raise InputError(
                    "Spline layers need at least one momentum, which absorbs their changes of volume."
                )
        self._settings = {
            "n_momenta": self.n_momenta,
            "coupling": coupling,
            "seed": seed,
            **common,
            **own,
        }
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if coupling == "spline":
                plain = spline_layers(coordinates.circular, generator=generator, **common, **own)
                layers = [VolumePreservingLift(layer, coordinates.n_features) for layer in plain]
            else:
                layers = affine_layers(
                    self._circular, volume_preserving=True, generator=generator, **common, **own
                )
        self.transform = CompositeTransform(layers)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network; the coordinates stay in float64."""
        self.transform.to(dtype)
        self.log_scale.data = self.log_scale.data.to(dtype)

    def sample(
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
        return self.joint_sample(n, temperature, generator=generator, frame=frame)

    def log_prob(self, positions: Any, momenta: Any = None, temperature: float | None = None) -> torch.Tensor:
        """Return exact joint log-densities with shape=(batch,) in float64; -inf outside the domain.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            momenta: Momenta with shape=(batch, n_momenta).
            temperature: Temperature [K]; the training temperature if not given.

        Raises:
            InputError: If no momenta are given: the density of positions alone is an integral over momenta,
                which `estimate_log_prob` estimates.
        """
        positions = positions_tensor(positions).to(self._device)
        if not isinstance(momenta, (torch.Tensor, np.ndarray)) or np.ndim(momenta) != 2:
            raise InputError(
                "A temperature-steerable flow has a density of positions and momenta: call log_prob(positions, "
                "momenta, temperature); estimate_log_prob estimates that of positions alone."
            )
        momenta = torch.as_tensor(momenta, dtype=torch.float64, device=positions.device)
        if momenta.shape != (len(positions), self.n_momenta):
            raise InputError(
                f"The momenta must have the shape ({len(positions)}, {self.n_momenta}), not {tuple(momenta.shape)}."
            )
        return self.joint_log_prob(positions, momenta, temperature)

    def estimate_log_prob(
        self, positions: Any, temperature: float | None = None, *, n_momenta: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Estimate the log-density of positions alone, by importance sampling over momenta.

        The density's estimate is unbiased, that of its logarithm too low on average; it rises with the number
        of momenta drawn. Not for weights: the joint density gives exact ones.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            temperature: Temperature [K]; the training temperature if not given.
            n_momenta: Draws of momenta for each configuration.
            generator: Source of randomness.
        """
        terms = []
        for _ in range(n_momenta):
            momenta = self.sample_momenta(len(positions), temperature, generator=generator)
            joint = self.log_prob(positions, momenta, temperature)
            terms.append(joint - self.momenta_log_prob(momenta, temperature))
        return torch.logsumexp(torch.stack(terms), dim=0) - math.log(n_momenta)

    def state_forward(self, state: torch.Tensor, ratio: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features and momenta to latents."""
        z, logabsdet = self.transform(state)
        return self._scaled(z, self.log_scale), logabsdet + self._scale_logabsdet(z, self.log_scale)

    def state_inverse(self, z: torch.Tensor, ratio: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map latents to features and momenta."""
        state, logabsdet = self.transform.inverse(self._scaled(z, -self.log_scale))
        return state, logabsdet + self._scale_logabsdet(z, -self.log_scale)

    def _real_coordinates(self) -> torch.Tensor:
        """Which latents the trainable scale acts on: those of coordinates, neither angles nor momenta."""
        real = ~self._circular
        real[len(real) - self.n_momenta :] = False
        return real

    def _scaled(self, z: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        return torch.where(self._real_coordinates(), z * log_scale.exp(), z)

    def _scale_logabsdet(self, z: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        return (int(self._real_coordinates().sum()) * log_scale).expand(len(z))
