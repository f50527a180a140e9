"""Numbers that describe a bead configuration wherever it is: distances, and volumes with their sign."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import nn

from openmm_bg.errors import InputError


class BeadInvariants(nn.Module):
    """Distances of all pairs of beads, and the signed volumes that successive beads span, standardised by data.

    They do not change when a configuration is moved or turned, and its mirror image has other volumes. All
    are smooth wherever no two beads are in the same place, so that energies made of them have forces.

    Args:
        n_beads: The number of beads, at least three.

    Attributes:
        n_invariants: Their number, n (n - 1) / 2 distances and n - 3 volumes.

    Raises:
        InputError: If there are fewer than three beads.
    """

    def __init__(self, n_beads: int) -> None:
        super().__init__()
        if n_beads < 3:
            raise InputError(f"Bead configurations need at least three beads, not {n_beads}.")
        pairs = torch.tensor(list(combinations(range(n_beads), 2)))
        self.n_beads, self.n_distances = n_beads, len(pairs)
        self.n_invariants = len(pairs) + n_beads - 3
        self.register_buffer("_pairs", pairs.T.contiguous(), persistent=False)
        self.register_buffer("mean", torch.zeros(self.n_invariants, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(self.n_invariants, dtype=torch.float64))
        self.register_buffer("lowest", torch.full((self.n_invariants,), -torch.inf, dtype=torch.float64))
        self.register_buffer("highest", torch.full((self.n_invariants,), torch.inf, dtype=torch.float64))

    @property
    def pairs(self) -> np.ndarray:
        """The pairs of beads whose distances come first, with shape=(n_distances, 2)."""
        return self._pairs.T.cpu().numpy()

    def raw(self, beads: torch.Tensor) -> torch.Tensor:
        """Return distances [nm] and volumes [nm^3] with shape=(batch, n_invariants).

        Args:
            beads: Bead configurations [nm] with shape=(batch, n_beads, 3).
        """
        i, j = self._pairs
        distances = (beads[:, j] - beads[:, i]).square().sum(-1).clamp_min(1e-12).sqrt()
        steps = beads[:, 1:] - beads[:, :-1]
        normals = torch.linalg.cross(steps[:, :-2], steps[:, 1:-1], dim=-1)
        return torch.cat([distances, (normals * steps[:, 2:]).sum(-1)], dim=1)

    def forward(self, beads: torch.Tensor) -> torch.Tensor:
        """Return standardised invariants with shape=(batch, n_invariants)."""
        return (self.raw(beads) - self.mean.to(beads)) / self.deviation.to(beads)

    def fit(self, beads: torch.Tensor) -> BeadInvariants:
        """Learn means, deviations and ranges from bead configurations with shape=(batch, n_beads, 3).

        Raises:
            InputError: If there are fewer than two, or one is not finite or has another number of beads.
        """
        if beads.shape[1:] != (self.n_beads, 3):
            raise InputError(
                f"Configurations of {self.n_beads} beads must have the shape (batch, {self.n_beads}, 3), "
                f"not {tuple(beads.shape)}."
            )
        if len(beads) < 2 or not torch.isfinite(beads).all():
            raise InputError("At least two bead configurations are needed, and all must be finite.")
        raw = self.raw(beads.double())
        self.mean, self.deviation = raw.mean(0), raw.std(0).clamp_min(1e-6)
        standard = (raw - self.mean) / self.deviation
        self.lowest, self.highest = standard.min(0).values, standard.max(0).values
        return self

    def excess(self, standard: torch.Tensor) -> torch.Tensor:
        """Return how far outside the range of the data invariants are, in standard deviations.

        Args:
            standard: Standardised invariants with shape=(batch, n_invariants).

        Returns:
            With the same shape; zero inside the range.
        """
        lowest, highest = self.lowest.to(standard), self.highest.to(standard)
        return (standard - highest).clamp_min(0.0) + (lowest - standard).clamp_min(0.0)
