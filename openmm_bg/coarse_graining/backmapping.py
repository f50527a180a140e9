"""The backmapping flow: the distribution of all-atom configurations of a bead configuration."""

from __future__ import annotations

from typing import Any

import torch
from nflows.transforms import CompositeTransform

from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.errors import InputError
from openmm_bg.flows.base import sample_steerable_base, steerable_base_log_prob
from openmm_bg.flows.layers import spline_layers
from openmm_bg.flows.precision import ExactTwin
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms import Coordinates
from openmm_bg.transforms.conditional_affine import ConditionalAffine


class BackmappingFlow(ExactTwin):
    """A conditional flow p_inv(x | z) over every coordinate that the beads do not fix, with an exact density.

    A layer centres and scales the features by what the beads say of them, and coupling layers of circular and
    linear splines do the rest; all see the beads' invariants. Bonds and angles are drawn like torsions. Other
    handedness than the reference's has no density.

    Args:
        coordinates: The fitted coordinates of what the map leaves free.
        invariants: The fitted invariants of the beads.
        n_layers: Coupling layers.
        n_bins: Bins of each spline.
        bound: The linear features' splines act within this many standard deviations.
        hidden_features: Width of the conditioners.
        n_blocks: Residual blocks of the conditioners.
        seed: Seed of masks, shifts and initial weights.

    Attributes:
        n_atoms: The number of atoms.
        n_beads: The number of beads.
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
        super().__init__()
        self.coordinates, self.invariants = coordinates, invariants
        self.n_atoms, self.n_beads = coordinates.n_atoms, invariants.n_beads
        self._settings = {
            "n_layers": n_layers,
            "n_bins": n_bins,
            "bound": bound,
            "hidden_features": hidden_features,
            "n_blocks": n_blocks,
            "seed": seed,
        }
        circular, n_context = coordinates.circular.clone().cpu(), invariants.n_invariants
        self.register_buffer("_circular", circular, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = ConditionalAffine(circular, n_context, hidden_features=hidden_features)
            couplings = spline_layers(
                circular,
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

    def features(self, positions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (zeros outside the domain) and log-determinants (-inf there); float64.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
        """
        features, logabsdet = self.coordinates.forward(positions_tensor(positions))
        outside = torch.isneginf(logabsdet) | ~torch.isfinite(features).all(1)
        return torch.where(outside[:, None], 0.0, features), torch.where(outside, -torch.inf, logabsdet)

    def feature_log_prob(self, features: torch.Tensor, invariants: torch.Tensor) -> torch.Tensor:
        """Return log-densities of features with shape=(batch,), in the network's precision.

        Args:
            features: As of `features`, with shape=(batch, n_features).
            invariants: Standardised invariants of the beads with shape=(batch, n_invariants).
        """
        z, logabsdet = self.transform(features.to(self.dtype), invariants.to(self.dtype))
        return steerable_base_log_prob(z, self._circular, 1.0) + logabsdet

    def log_prob(self, positions: Any, beads: torch.Tensor) -> torch.Tensor:
        """Return exact log p_inv(x | z) with shape=(batch,) in float64; -inf outside the domain.

        Of a map without noise, z must be that of x.

        Args:
            positions: Configurations x [nm] with shape=(batch, n_atoms, 3).
            beads: Bead configurations z [nm] with shape=(batch, n_beads, 3).
        """
        with torch.no_grad():
            features, logabsdet = self.features(positions)
            invariants = self.invariants(beads.double())
            return self.exact().feature_log_prob(features, invariants) + logabsdet

    def draw(self, beads: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a configuration of each bead configuration in the network's precision, without its density.

        Args:
            beads: Bead configurations [nm] with shape=(batch, n_beads, 3).
            generator: Source of randomness.

        Returns:
            Positions [nm] with shape=(batch, n_atoms, 3) in float64, NaN where a draw is outside the domain, and
            the features that were drawn, with shape=(batch, n_features).
        """
        with torch.no_grad():
            z = sample_steerable_base(len(beads), self._circular, 1.0, generator, self.dtype)
            features, _ = self.transform.inverse(z, self.invariants(beads.double()).to(self.dtype))
            return self.coordinates.inverse(features.double(), beads)[0], features

    def sample(
        self, beads: torch.Tensor, *, generator: torch.Generator, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a configuration of each bead configuration.

        Args:
            beads: Bead configurations [nm] with shape=(batch, n_beads, 3).
            generator: Source of randomness.
            frame: A configuration [nm] with shape=(n_atoms, 3) whose place and orientation configurations
                take that the beads give none.

        Returns:
            Positions [nm] with shape=(batch, n_atoms, 3), NaN where a draw is outside the domain, and log
            p_inv(x | z) with shape=(batch,); both float64.

        Raises:
            InputError: If the number of beads is another.
        """
        if beads.ndim != 3 or beads.shape[1:] != (self.n_beads, 3):
            raise InputError(
                f"The model has {self.n_beads} beads; the configurations have the shape {tuple(beads.shape)}, "
                f"not (batch, {self.n_beads}, 3)."
            )
        with torch.no_grad():
            exact, beads = self.exact(), beads.double()
            z = sample_steerable_base(len(beads), self._circular, 1.0, generator, self.dtype).double()
            features, to_features = exact.transform.inverse(z, self.invariants(beads))
            positions, to_positions = self.coordinates.inverse(features, beads, frame=frame)
            log_p = steerable_base_log_prob(z, self._circular, 1.0) - to_features - to_positions
            return positions, log_p

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the flow, as JSON; parameters and buffers are saved apart."""
        return {
            "n_beads": self.n_beads,
            "volumes": self.invariants.others,
            "coordinates": self.coordinates.config(),
            "circular": torch.nonzero(self.coordinates.circular).flatten().tolist(),
            "settings": self._settings,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BackmappingFlow:
        """Rebuild the flow; its state is to be loaded afterwards."""
        from openmm_bg.transforms import COORDINATES

        own = config["coordinates"]
        coordinates = COORDINATES[own["kind"]].from_config(own)
        coordinates.circular[torch.as_tensor(config["circular"], dtype=torch.int64)] = True
        return cls(coordinates, BeadInvariants(config["n_beads"], config["volumes"]), **config["settings"])
