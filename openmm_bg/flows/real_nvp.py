"""RealNVP: affine coupling layers on real features, the flow of the first Boltzmann generators."""

from __future__ import annotations

import torch
from nflows.transforms import CompositeTransform

from openmm_bg.flows.base import PositionFlow
from openmm_bg.flows.layers import affine_layers
from openmm_bg.transforms.base import Coordinates


class RealNVP(PositionFlow):
    """Affine coupling layers, in pairs that transform complementary random halves of the features.

    Conditioners of scales have ReLU activations, those of shifts tanh. Angles could only be rotated, which keeps
    a uniform distribution uniform: fit the coordinates with ``circular=False``, so that torsions are real numbers.

    Source: Dinh et al. (2016); Noe et al. (2019).

    Args:
        coordinates: The fitted map between positions and features.
        temperature: The temperature of training [K].
        n_layers: Coupling layers; two are one block.
        hidden_features: Width of the conditioners.
        n_hidden: Hidden layers of the conditioners.
        seed: Seed of masks and initial weights.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        temperature: float,
        *,
        n_layers: int = 8,
        hidden_features: int = 128,
        n_hidden: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__(coordinates, temperature)
        self._settings = {
            "n_layers": n_layers,
            "hidden_features": hidden_features,
            "n_hidden": n_hidden,
            "seed": seed,
        }
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = affine_layers(
                self._circular,
                n_layers,
                volume_preserving=False,
                hidden_features=hidden_features,
                n_hidden=n_hidden,
                generator=generator,
            )
        self.transform = CompositeTransform(layers)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network; the coordinates stay in float64."""
        self.transform.to(dtype)

    def state_forward(self, state: torch.Tensor, ratio: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to latents."""
        return self.transform(state)

    def state_inverse(self, z: torch.Tensor, ratio: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map latents to features."""
        return self.transform.inverse(z)
