"""A flow of rational-quadratic splines on the features of a molecule."""

from __future__ import annotations

import math
from typing import Any

import torch
from nflows.transforms import CompositeTransform

from openmm_bg.flows.base import FeatureFlow, Flow, sample_steerable_base, steerable_base_log_prob
from openmm_bg.flows.masks import coupling_masks
from openmm_bg.transforms.base import Coordinates
from openmm_bg.transforms.couplings import CircularShift, SplineCoupling


class SplineFlow(FeatureFlow, Flow):
    """Coupling layers of circular and linear splines, with a base that scales with temperature.

    The base is uniform on the angles and standard normal on the other features. Sampling at a temperature
    T multiplies the normal's variance by T / T_train and leaves the angles uniform: the density is exact at
    every temperature, and near the Boltzmann distribution where the features are near harmonic.

    Args:
        coordinates: The fitted map between positions and features.
        temperature: The temperature of training [K].
        n_layers: Coupling layers. Every two are conditioned on complementary random halves of the features.
        n_bins: Bins of each spline.
        bound: The linear features' splines act within this many standard deviations.
        hidden_features: Width of the conditioners.
        n_blocks: Residual blocks of the conditioners.
        seed: Seed of masks, shifts and initial weights.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        temperature: float,
        *,
        n_layers: int = 12,
        n_bins: int = 8,
        bound: float = 6.0,
        hidden_features: int = 128,
        n_blocks: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(coordinates, temperature)
        self._settings = {
            "n_layers": n_layers,
            "n_bins": n_bins,
            "bound": bound,
            "hidden_features": hidden_features,
            "n_blocks": n_blocks,
            "seed": seed,
        }
        circular = coordinates.circular.clone()
        generator = torch.Generator().manual_seed(seed)
        layers = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for mask in coupling_masks(circular, n_layers, generator):
                shift = (torch.rand(int(circular.sum()), generator=generator) * 2.0 - 1.0) * math.pi
                layers.append(CircularShift(circular, shift))
                layers.append(
                    SplineCoupling(
                        mask,
                        circular,
                        n_bins=n_bins,
                        bound=bound,
                        hidden_features=hidden_features,
                        n_blocks=n_blocks,
                    )
                )
        self.transform = CompositeTransform(layers)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network."""
        return next(self.transform.parameters()).dtype

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network; the coordinates stay in float64."""
        self.transform.to(dtype)

    def sample(
        self,
        n: int,
        temperature: float | None = None,
        *,
        generator: torch.Generator,
        frame: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw configurations; see `Flow.sample`."""
        with torch.no_grad():
            z = self.sample_base(n, self._ratio(temperature), generator).to(self._device)
            features, _ = self.transform.inverse(z)
            # The configurations are those of these features in float64, and so is their density.
            features = features.double()
            positions, logabsdet = self.coordinates.inverse(features, frame=frame)
            log_q = self._exact().features_log_prob(features, self._ratio(temperature))
            return positions, log_q - logabsdet

    def log_prob(self, positions: Any, temperature: float | None = None) -> torch.Tensor:
        """Return exact log-densities; see `Flow.log_prob`."""
        with torch.no_grad():
            features, logabsdet, outside = self._features(positions)
            log_q = self._exact().features_log_prob(features, self._ratio(temperature)) + logabsdet
            return torch.where(outside, -torch.inf, log_q)

    def features_log_prob(self, features: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        """Return the log-density of features with shape=(batch, n_features), in the network's precision.

        Args:
            features: Features, as the coordinates' ``forward`` gives them.
            ratio: T / T_train.
        """
        z, logabsdet = self.transform(features.to(self.dtype))
        return self.base_log_prob(z, ratio) + logabsdet

    def sample_base(self, n: int, ratio: float, generator: torch.Generator) -> torch.Tensor:
        """Draw from the base with shape=(n, n_features), in the network's precision."""
        return sample_steerable_base(n, self.coordinates.circular, ratio, generator, self.dtype)

    def base_log_prob(self, z: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        """Return the base's log-density with shape=(batch,)."""
        return steerable_base_log_prob(z, self.coordinates.circular, ratio)
