"""The networks of an autoregressive backmapping flow: those of all its blocks, side by side."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

_REPULSION = 5.0  # kT, at the beginning, for a point in the place of one of the rotor's

HARMONICS = 3
"""Multiples of a torsion whose cosine and sine networks see."""


class BlockNetworks(nn.Module):
    """The networks of all blocks, side by side: what they see, to densities of torsions and parameters of splines.

    Args:
        n_seen: Numbers that a block sees of its environment.
        n_profile: Numbers that a rotor sees of what is around its axis.
        n_circles: How many circles these are about, as many for each.
        width: Width of the networks.
        n_bins: Bins of the splines of stiff coordinates.
        n_points: Points of the circle where a torsion's density is given.
        sizes: The number of stiff coordinates of each block.
        turning: Which blocks have a torsion.
    """

    def __init__(
        self,
        n_seen: int,
        n_profile: int,
        n_circles: int,
        width: int,
        n_bins: int,
        n_points: int,
        sizes: list[int],
        turning: list[int],
    ) -> None:
        super().__init__()
        n_blocks, n_torsions = len(sizes), len(turning)
        self._n_parameters = 3 * n_bins + 3  # of a stiff coordinate: shift, log-scale, spline
        self.first = _SideBySide(n_blocks, n_seen, width)
        self.inner = _Residual(n_blocks, width)
        self.profile_in = _SideBySide(n_torsions, n_profile, width)
        self.inner_profile = _Residual(n_torsions, width)
        self.torsion_head = _SideBySide(n_torsions, width, n_points, gain=0.0)
        self.repulsion = nn.Parameter(torch.full((n_torsions, n_circles), math.log(_REPULSION)))
        self.torsion_in = _SideBySide(n_blocks, 2 * HARMONICS, width)
        self.inner_turned = _Residual(n_blocks, width)
        self.stiff_heads = nn.ModuleList(nn.Linear(width, size * self._n_parameters) for size in sizes)
        for head in self.stiff_heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def trunk(self, seen: torch.Tensor, blocks: slice = slice(None)) -> torch.Tensor:
        """Return what blocks make of what they see, with shape=(n_blocks, batch, width)."""
        return self.inner(self.first(seen, blocks), blocks)

    def turned(
        self, hidden: torch.Tensor, harmonics: torch.Tensor, blocks: slice = slice(None)
    ) -> torch.Tensor:
        """Return the same, with their torsions."""
        return self.inner_turned(hidden + self.torsion_in(harmonics, blocks), blocks)

    def torsions(
        self,
        hidden: torch.Tensor,
        seen: torch.Tensor,
        raw: torch.Tensor,
        crowding: torch.Tensor,
        heads: slice = slice(None),
    ) -> torch.Tensor:
        """Return the logits of torsions' densities with shape=(n_torsions, n_points, batch).

        They begin as a repulsion of the rotors' points by all others, which the network corrects.

        Args:
            hidden: What the trunk makes of their blocks, with shape=(n_torsions, batch, width).
            seen: What is around their axes (`AxialProfiles`), with shape=(n_torsions, batch, n_profile).
            raw: The same, not standardised.
            crowding: What these say of how crowded it is, with shape=(n_torsions, n_profile, n_points).
            heads: Which torsions.
        """
        hidden = self.inner_profile(hidden + self.profile_in(seen, heads), heads)
        logits = self.torsion_head(functional.silu(hidden), heads)
        strength = self.repulsion[heads].exp()
        strength = strength.repeat_interleave(raw.shape[2] // strength.shape[1], dim=1)
        return (logits - torch.bmm(raw, strength[:, :, None] * crowding.to(raw))).transpose(1, 2)

    def stiff(self, hidden: torch.Tensor, block: int) -> torch.Tensor:
        """Return shifts, log-scales and splines of a block with shape=(size, 3 bins + 3, batch)."""
        return _transposed(self.stiff_heads[block], functional.silu(hidden)).unflatten(
            0, (-1, self._n_parameters)
        )


class _SideBySide(nn.Module):
    """Linear maps of blocks, each of its own input."""

    def __init__(self, n_blocks: int, n_in: int, n_out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_blocks, n_in, n_out) * (gain / math.sqrt(n_in)))
        self.bias = nn.Parameter(torch.zeros(n_blocks, 1, n_out))

    def forward(self, x: torch.Tensor, blocks: slice = slice(None)) -> torch.Tensor:
        """Apply those of some blocks to inputs with shape=(n_blocks, batch, n_in)."""
        return torch.baddbmm(self.bias[blocks], x, self.weight[blocks])


class _Residual(nn.Module):
    """A residual layer of blocks."""

    def __init__(self, n_blocks: int, width: int) -> None:
        super().__init__()
        self.first = _SideBySide(n_blocks, width, width)
        self.second = _SideBySide(n_blocks, width, width, gain=0.1)

    def forward(self, x: torch.Tensor, blocks: slice = slice(None)) -> torch.Tensor:
        """Apply those of some blocks."""
        return x + self.second(functional.silu(self.first(functional.silu(x), blocks)), blocks)


def _transposed(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Return a linear map's result with the batch last, without a copy."""
    return torch.addmm(linear.bias[:, None], linear.weight, x.t())
