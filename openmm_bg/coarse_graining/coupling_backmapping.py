"""A backmapping flow of coupling layers, for any coordinates."""

from __future__ import annotations

import torch
from nflows.transforms import CompositeTransform

from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.flows.layers import spline_layers
from openmm_bg.transforms import Coordinates
from openmm_bg.transforms.conditional_affine import ConditionalAffine


class CouplingBackmapping(BackmappingFlow):
    """A backmapping flow of coupling layers that see the beads' invariants.

    A layer centres and scales the features by what the beads say of them, and coupling layers of circular and
    linear splines do the rest.

    Args:
        coordinates: The fitted coordinates of what the map leaves free.
        invariants: The fitted invariants of the beads.
        n_layers: Coupling layers.
        n_bins: Bins of each spline.
        bound: The linear features' splines act within this many standard deviations.
        hidden_features: Width of the conditioners.
        n_blocks: Residual blocks of the conditioners.
        seed: Seed of masks, shifts and initial weights.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        invariants: BeadInvariants,
        *,
        n_layers: int = 8,
        n_bins: int = 8,
        bound: float = 6.0,
        hidden_features: int = 128,
        n_blocks: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(coordinates, invariants)
        self._settings = {
            "n_layers": n_layers,
            "n_bins": n_bins,
            "bound": bound,
            "hidden_features": hidden_features,
            "n_blocks": n_blocks,
            "seed": seed,
        }
        n_context = invariants.n_invariants
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = ConditionalAffine(self._circular, n_context, hidden_features=hidden_features)
            couplings = spline_layers(
                self._circular,
                n_layers,
                n_bins=n_bins,
                bound=bound,
                hidden_features=hidden_features,
                n_blocks=n_blocks,
                generator=torch.Generator().manual_seed(seed),
                n_context=n_context,
            )
        self.transform = CompositeTransform([first, *couplings])

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network; coordinates and densities stay in float64."""
        self.transform.to(dtype)

    def context(self, beads: torch.Tensor) -> torch.Tensor:
        """Return the standardised invariants of beads with shape=(batch, n_invariants)."""
        return self.invariants(beads).to(self.dtype)

    def to_latents(self, features: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents with the shape of features, and log-determinants with shape=(batch,)."""
        return self.transform(features.to(self.dtype), context)

    def to_features(self, latents: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features with the shape of latents, and log-determinants with shape=(batch,)."""
        return self.transform.inverse(latents, context)
