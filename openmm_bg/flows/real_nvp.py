"""RealNVP: affine coupling layers on real features, the flow of the first Boltzmann generators."""

from __future__ import annotations

import torch
from nflows.transforms import CompositeTransform

from openmm_bg.flows.base import PositionFlow
from openmm_bg.flows.masks import coupling_masks
from openmm_bg.transforms.affine import AffineCoupling
from openmm_bg.transforms.base import Coordinates


class RealNVP(PositionFlow):
    """Blocks of two affine coupling layers each, the halves of the features taking turns.

    Conditioners of scales have ReLU activations, those of shifts tanh. Angles could only be rotated, which keeps
    a uniform distribution uniform: fit the coordinates with ``circular=False``, so that torsions are real numbers.

    Source: Dinh et al. (2016); Noe et al. (2019).

    Args:
        coordinates: The fitted map between positions and features.
        temperature: The temperature of training [K].
        n_blocks: Blocks of two layers.
        hidden_features: Width of the conditioners.
        n_hidden: Hidden layers of the conditioners.
        seed: Seed of masks and initial weights.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        temperature: float,
        *,
        n_blocks: int = 4,
        hidden_features: int = 128,
        n_hidden: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__(coordinates, temperature)
        self._settings = {
            "n_blocks": n_blocks,
            "hidden_features": hidden_features,
            "n_hidden": n_hidden,
            "seed": seed,
        }
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [
                AffineCoupling(
                    mask,
                    self._circular,
                    volume_preserving=False,
                    hidden_features=hidden_features,
                    n_hidden=n_hidden,
                )
                for mask in coupling_masks(self._circular, 2 * n_blocks, generator)
            ]
        self.transform = CompositeTransform(layers)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network; the coordinates stay in float64."""
        self.transform.to(dtype)

    def state_forward(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to latents."""
        return self.transform(state)

    def state_inverse(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map latents to features."""
        return self.transform.inverse(z)
