"""A coarse-grained map with noise: beads are drawn around those of a linear map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from openmm_bg.coarse_graining.maps import CoarseGrainedMap, LinearMap
from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.transforms import Coordinates, InternalCoordinates, ZMatrix
from openmm_bg.transforms.standardised import wrap

_IMAGES = torch.arange(-4, 5, dtype=torch.float64) * 2.0 * math.pi


class NoisyMap(CoarseGrainedMap):
    """Beads whose internal coordinates are drawn around those of a linear map: the normalised density r(z | x).

    The beads' own coordinates are those of a chain: r^3/3, -cos theta and torsions phi, in which the volume element
    of bead configurations is one. The noise is normal in log(r^3/3) and in atanh(-cos theta), and wrapped normal in
    phi, so that r(z | x) is normalised over all bead configurations, modulo place and orientation. Any map can be
    made noisy; no atom's position has to follow from the beads.

    Args:
        centre: The linear map.
        bond_width: Standard deviation of log(r^3/3); that of r is a third of it, relative.
        angle_width: Standard deviation of atanh(-cos theta).
        torsion_width: Standard deviation of phi [rad], at most 1.

    Raises:
        InputError: If a width is not positive, or that of torsions is above 1.
    """

    def __init__(
        self,
        centre: LinearMap,
        *,
        bond_width: float = 0.05,
        angle_width: float = 0.1,
        torsion_width: float = 0.1,
    ) -> None:
        widths = {"bond_width": bond_width, "angle_width": angle_width, "torsion_width": torsion_width}
        for name, width in widths.items():
            if not 0 < width < math.inf or (name == "torsion_width" and width > 1):
                raise InputError(f"{name} must be positive (and at most 1 for torsions), not {width}.")
        self.centre, self.widths = centre, widths
        self.n_atoms, self.n_beads, self.weights = centre.n_atoms, centre.n_beads, centre.weights
        n = self.n_beads
        chain = ZMatrix.from_bonds(n, np.stack([np.arange(n - 1), np.arange(1, n)], axis=1))
        self._chain = InternalCoordinates(chain)  # not fitted: features are the coordinates themselves
        self._sizes = [n - 1, n - 2, n - 3]

    def draw(self, positions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw bead configurations [nm] from r(z | x), with shape=(batch, n_beads, 3), in a standard frame."""
        bonds, angles, torsions = self._mean(positions)
        noise = torch.randn(len(bonds), 3 * self.n_beads - 6, generator=generator, dtype=torch.float64)
        for_bonds, for_angles, for_torsions = noise.split(self._sizes, dim=1)
        drawn = [
            (bonds + self.widths["bond_width"] * for_bonds).exp(),
            (angles + self.widths["angle_width"] * for_angles).tanh(),
            wrap(torsions + self.widths["torsion_width"] * for_torsions),
        ]
        return self._chain.inverse(torch.cat(drawn, dim=1))[0]

    def log_prob(self, beads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return log r(z | x) with shape=(batch,).

        Args:
            beads: Bead configurations z [nm] with shape=(batch, n_beads, 3).
            positions: Configurations x [nm] with shape=(batch, n_atoms, 3).
        """
        mean, found = self._mean(positions), self._coordinates_of(beads.double())
        w = found[1].tanh()
        bonds = _normal(found[0] - mean[0], self.widths["bond_width"]) - found[0]
        angles = _normal(found[1] - mean[1], self.widths["angle_width"]) - torch.log1p(-w * w)
        offset = (found[2] - mean[2])[..., None] + _IMAGES
        torsions = torch.logsumexp(_normal(offset, self.widths["torsion_width"]), dim=-1)
        return torch.cat([bonds, angles, torsions], dim=1).sum(1)

    def coordinates(self, positions: Any, bonds: Any, masses: Any = None) -> Coordinates:
        """Return internal coordinates of all atoms: the beads leave none of them out."""
        return InternalCoordinates.from_reference(positions, bonds, masses)

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the map, as JSON."""
        return {"kind": "NoisyMap", "centre": self.centre.config(), **self.widths}

    def _mean(self, positions: Any) -> tuple[torch.Tensor, ...]:
        checked = self._of_all_atoms(positions, "positions")
        positions = positions.double() if isinstance(positions, torch.Tensor) else checked  # with gradients
        return self._coordinates_of(torch.einsum("ba,nax->nbx", self.weights.to(positions), positions))

    def _coordinates_of(self, beads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return log(r^3/3), atanh(-cos theta) and phi of bead configurations."""
        bonds, angles, torsions = self._chain.forward(beads)[0].split(self._sizes, dim=1)
        return bonds.log(), angles.atanh(), torsions


def _normal(offset: torch.Tensor, width: float) -> torch.Tensor:
    return -0.5 * (offset / width).square() - math.log(width * math.sqrt(2.0 * math.pi))


def map_from_config(config: dict[str, Any]) -> CoarseGrainedMap:
    """Rebuild a map from what its ``config`` returned.

    Raises:
        ModelFileError: If it is of a kind that this version does not know.
    """
    own = dict(config)
    kind = own.pop("kind", None)
    if kind == "LinearMap":
        return LinearMap(own["weights"], own["anchors"])
    if kind == "NoisyMap":
        return NoisyMap(map_from_config(own.pop("centre")), **own)
    raise ModelFileError(f"The model has a map of the kind {kind!r}, which this version does not know.")
