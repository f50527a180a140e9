"""Numbers that describe a bead configuration wherever it is: distances, and volumes with their sign."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import torch
from torch import nn

from openmm_bg.errors import InputError

_NEIGHBOURS = 6  # of each bead, among which others that span a volume with it are looked for
_CHIRAL = 2.0  # a volume keeps its sign if its mean is more than this many standard deviations


class BeadInvariants(nn.Module):
    """Distances of all pairs of beads, and the signed volumes that beads span, standardised by data.

    They do not change when a configuration is moved or turned, and its mirror image has other volumes. All
    are smooth wherever no two beads are in the same place, so that energies made of them have forces.

    Args:
        n_beads: The number of beads, at least three.
        others: Which four beads span a volume, beside all successive ones, as `chiral_beads` finds them.

    Attributes:
        n_invariants: Their number, n (n - 1) / 2 distances, n - 3 volumes of successive beads, and the others.

    Raises:
        InputError: If there are fewer than three beads, or others are not four beads each.
    """

    def __init__(self, n_beads: int, others: Iterable[Iterable[int]] = ()) -> None:
        super().__init__()
        if n_beads < 3:
            raise InputError(f"Bead configurations need at least three beads, not {n_beads}.")
        self.others = [[int(bead) for bead in four] for four in others]
        for four in self.others:
            if len(four) != 4 or len(set(four) & set(range(n_beads))) != 4:
                raise InputError(f"A volume is of four of the {n_beads} beads, not of {four}.")
        pairs = torch.tensor(list(combinations(range(n_beads), 2)))
        fours = [list(range(k, k + 4)) for k in range(n_beads - 3)] + self.others
        self.n_beads, self.n_distances = n_beads, len(pairs)
        self.n_invariants = len(pairs) + len(fours)
        self.register_buffer("_pairs", pairs.T.contiguous(), persistent=False)
        chains = torch.tensor(fours, dtype=torch.int64).reshape(-1, 4)
        self.register_buffer("_apart", _differences(n_beads, pairs), persistent=False)
        successive = torch.cat([chains[:, k : k + 2] for k in range(3)])
        self.register_buffer("_along", _differences(n_beads, successive), persistent=False)
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
        x = beads.permute(2, 0, 1)  # differences by products with a matrix, which are faster than by indices
        distances = (x @ self._apart.to(x)).square().sum(0).clamp_min(1e-12).sqrt()
        first, second, third = (x @ self._along.to(x)).chunk(3, dim=-1)
        volumes = (torch.linalg.cross(first, second, dim=0) * third).sum(0)
        return torch.cat([distances, volumes], dim=1)

    def forward(self, beads: torch.Tensor) -> torch.Tensor:
        """Return standardised invariants with shape=(batch, n_invariants)."""
        return self.standardised(self.raw(beads))

    def standardised(self, raw: torch.Tensor) -> torch.Tensor:
        """Return invariants in standard deviations from their means, with the shape of what `raw` returned."""
        return (raw - self.mean.to(raw)) / self.deviation.to(raw)

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

    def excess(self, standard: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
        """Return how far outside the range of the data invariants are, in standard deviations.

        Args:
            standard: Standardised invariants with shape=(batch, n_invariants).
            margin: By how many of them the range is wider at both ends.

        Returns:
            With the same shape; zero inside the range.
        """
        lowest, highest = self.lowest.to(standard) - margin, self.highest.to(standard) + margin
        return (standard - torch.clamp(standard, lowest, highest)).abs()


def chiral_beads(beads: torch.Tensor) -> list[list[int]]:
    """Find which four beads tell the molecule's handedness, wherever torsions are.

    Distances alone hardly tell a residue from its mirror image, and neither do the volumes of successive beads,
    whose signs change with torsions.

    Args:
        beads: Bead configurations [nm] with shape=(batch, n_beads, 3).

    Returns:
        For each bead, of all fours with its neighbours the one whose volume is surest of its sign, if it is one
        that is sure; without those of successive beads.
    """
    n_beads = beads.shape[1]
    i, j = torch.tensor(list(combinations(range(n_beads), 2))).T
    distances = torch.zeros(n_beads, n_beads, dtype=beads.dtype)
    distances[i, j] = distances[j, i] = (beads[:, j] - beads[:, i]).norm(dim=-1).mean(0)
    chosen = []
    for bead in range(n_beads):
        near = distances[bead].argsort(stable=True)[1 : _NEIGHBOURS + 1].tolist()
        fours = [sorted((bead, *three)) for three in combinations(near, 3)]
        if not fours:
            continue
        volumes = _volumes(beads, torch.tensor(fours).T)
        sureness = volumes.mean(0).abs() / volumes.std(0).clamp_min(1e-12)
        best = int(sureness.argmax())
        if sureness[best] > _CHIRAL and fours[best][3] - fours[best][0] > 3:
            chosen.append(fours[best])
    return sorted({tuple(four): four for four in chosen}.values())


def _differences(n_beads: int, pairs: torch.Tensor) -> torch.Tensor:
    """Return the matrix with shape=(n_beads, n_pairs) that takes from the second bead of each pair the first."""
    one = torch.nn.functional.one_hot(pairs, n_beads).double()
    return (one[:, 1] - one[:, 0]).T.contiguous()


def _volumes(beads: torch.Tensor, fours: torch.Tensor) -> torch.Tensor:
    """Return the volumes that four beads each span, with their sign [nm^3]; shape=(batch, fours.shape[1])."""
    a, b, c, d = (beads[:, index] for index in fours)
    return (torch.linalg.cross(b - a, c - b, dim=-1) * (d - c)).sum(-1)
