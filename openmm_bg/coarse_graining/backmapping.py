"""The backmapping flow: the distribution of all-atom configurations of a bead configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.errors import InputError
from openmm_bg.flows.base import sample_steerable_base, steerable_base_log_prob
from openmm_bg.flows.precision import ExactTwin
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms import Coordinates


class BackmappingFlow(ExactTwin, ABC):
    """A conditional flow p_inv(x | z) over every coordinate that the beads do not fix, with an exact density.

    Bonds and angles are drawn like torsions. Other handedness than the reference's has no density.

    Args:
        coordinates: The fitted coordinates of what the map leaves free.
        invariants: The fitted invariants of the beads.

    Attributes:
        n_atoms: The number of atoms.
        n_beads: The number of beads.
    """

    def __init__(self, coordinates: Coordinates, invariants: BeadInvariants) -> None:
        super().__init__()
        self.coordinates, self.invariants = coordinates, invariants
        self.n_atoms, self.n_beads = coordinates.n_atoms, invariants.n_beads
        self.register_buffer("_circular", coordinates.circular.clone().cpu(), persistent=False)
        self._settings: dict[str, Any] = {}

    @abstractmethod
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network; coordinates and densities stay in float64."""

    @abstractmethod
    def context(self, beads: torch.Tensor) -> torch.Tensor:
        """Return what the network sees of beads, in its precision, with a row for each configuration.

        Args:
            beads: Bead configurations [nm] with shape=(batch, n_beads, 3).
        """

    @abstractmethod
    def to_latents(self, features: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents with the shape of features, and log-determinants with shape=(batch,)."""

    @abstractmethod
    def to_features(self, latents: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features with the shape of latents, and log-determinants with shape=(batch,)."""

    def features(self, positions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (zeros outside the domain) and log-determinants (-inf there); float64.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
        """
        features, logabsdet = self.coordinates.forward(positions_tensor(positions))
        outside = torch.isneginf(logabsdet) | ~torch.isfinite(features).all(1)
        return torch.where(outside[:, None], 0.0, features), torch.where(outside, -torch.inf, logabsdet)

    def feature_log_prob(self, features: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return log-densities of features with shape=(batch,), in the network's precision.

        Args:
            features: As of `features`, with shape=(batch, n_features).
            context: As of `context`, of the beads.
        """
        latents, logabsdet = self.to_latents(features, context)
        return steerable_base_log_prob(latents, self._circular, 1.0) + logabsdet

    def log_prob(self, positions: Any, beads: torch.Tensor) -> torch.Tensor:
        """Return exact log p_inv(x | z) with shape=(batch,) in float64; -inf outside the domain.

        Of a map without noise, z must be that of x.

        Args:
            positions: Configurations x [nm] with shape=(batch, n_atoms, 3).
            beads: Bead configurations z [nm] with shape=(batch, n_beads, 3).
        """
        with torch.no_grad():
            features, logabsdet = self.features(positions)
            exact = self.exact()
            return exact.feature_log_prob(features, exact.context(beads.double())) + logabsdet

    def draw(self, beads: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw features for each bead configuration in the network's precision, which depend on its parameters.

        Args:
            beads: Bead configurations [nm] with shape=(batch, n_beads, 3).
            generator: Source of randomness.

        Returns:
            Features with shape=(batch, n_features) and their log-densities with shape=(batch,).
        """
        latents = sample_steerable_base(len(beads), self._circular, 1.0, generator, self.dtype)
        context = self.context(beads.double()).to(self.dtype)
        features, logabsdet = self.to_features(latents, context)
        return features, steerable_base_log_prob(latents, self._circular, 1.0) - logabsdet

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
            latents = sample_steerable_base(len(beads), self._circular, 1.0, generator, self.dtype).double()
            features, to_features = exact.to_features(latents, exact.context(beads))
            positions, to_positions = self.coordinates.inverse(features, beads, frame=frame)
            log_p = steerable_base_log_prob(latents, self._circular, 1.0) - to_features - to_positions
            return positions, log_p

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the flow, as JSON; parameters and buffers are saved apart."""
        return {
            "kind": type(self).__name__,
            "n_beads": self.n_beads,
            "volumes": self.invariants.others,
            "coordinates": self.coordinates.config(),
            "circular": torch.nonzero(self.coordinates.circular).flatten().tolist(),
            "settings": self._settings,
        }

    @staticmethod
    def from_config(config: dict[str, Any]) -> BackmappingFlow:
        """Rebuild a flow of any kind; its state is to be loaded afterwards.

        Raises:
            ValueError: If there is no such kind.
        """
        from openmm_bg.coarse_graining.autoregressive_backmapping import AutoregressiveBackmapping
        from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
        from openmm_bg.transforms import COORDINATES

        kinds = {kind.__name__: kind for kind in (CouplingBackmapping, AutoregressiveBackmapping)}
        kind = config.get("kind", CouplingBackmapping.__name__)  # older models do not say
        if kind not in kinds:
            raise ValueError(f"{kind!r} is no kind of backmapping flow.")
        own = config["coordinates"]
        coordinates = COORDINATES[own["kind"]].from_config(own)
        coordinates.circular[torch.as_tensor(config["circular"], dtype=torch.int64)] = True
        return kinds[kind](
            coordinates, BeadInvariants(config["n_beads"], config["volumes"]), **config["settings"]
        )
