"""Placing points one after the other from bonds, angles and torsions, level by level."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from openmm_bg.transforms.standardised import wrap


class Placement(nn.Module):
    """Points that are placed, each by a bond, an angle and a torsion with points before it.

    There are ``n_fixed`` points to begin with, numbered from zero, and then one for each row. The coordinates of a
    row are r^3/3, -cos theta and phi; in them the volume element is one. The torsion of a row with a leader is
    measured from that of the leader.

    Args:
        n_fixed: The number of points that are given.
        bond: The point that each row's point is bonded to, with shape=(n_rows,).
        angle: The angle's third point, likewise.
        torsion: The torsion's fourth point, likewise.
        leader: The row (not point) from whose torsion the row's own is measured, or -1.
    """

    def __init__(
        self, n_fixed: int, bond: np.ndarray, angle: np.ndarray, torsion: np.ndarray, leader: np.ndarray
    ) -> None:
        super().__init__()
        self.n_fixed = n_fixed
        references = np.stack([bond, angle, torsion]).astype(np.int64)
        levels = _levels(n_fixed, references)
        self._n_levels = len(levels)
        placed = np.concatenate([np.arange(n_fixed), *(n_fixed + rows for rows in levels)])
        place = np.argsort(placed)  # by point: the rows are placed level by level
        self._index("_references", references)
        self._index("_leader", np.where(leader >= 0, leader, 0).astype(np.int64))
        self._index("_has_leader", leader >= 0)
        self._index("_place", place)
        for k, rows in enumerate(levels):
            self._index(f"_rows_{k}", rows)
            self._index(f"_references_{k}", place[references[:, rows]])

    def _index(self, name: str, values: np.ndarray) -> None:
        """Keep indices that follow the module's device and are not saved."""
        self.register_buffer(name, torch.as_tensor(values), persistent=False)

    @property
    def n_rows(self) -> int:
        """The number of points that are placed."""
        return self._references.shape[1]

    @property
    def references(self) -> torch.Tensor:
        """The points of the bond, the angle and the torsion of each row, with shape=(3, n_rows)."""
        return self._references

    def measure(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the coordinates of points.

        Args:
            points: All points with shape=(batch, n_fixed + n_rows, 3).

        Returns:
            r^3/3, -cos theta and torsions, each with shape=(batch, n_rows).
        """
        bond, angle, torsion = self._references
        to_bond, to_angle = points[:, bond] - points[:, self.n_fixed :], points[:, angle] - points[:, bond]
        bonds, angles = cubic_length(to_bond), direction_product(to_bond, to_angle)
        b1, b2 = -to_bond, to_angle  # the first is from the bonded point to the point
        b3 = points[:, torsion] - points[:, angle]
        m, n = torch.linalg.cross(-b1, b2, dim=-1), torch.linalg.cross(b2, b3, dim=-1)
        sine = (torch.linalg.cross(m, n, dim=-1) * b2).sum(-1) / b2.square().sum(-1).sqrt()
        torsions = torch.atan2(sine, (m * n).sum(-1))
        return bonds, angles, wrap(torsions - self._leading(torsions))

    def place(
        self, fixed: torch.Tensor, r: torch.Tensor, w: torch.Tensor, torsions: torch.Tensor
    ) -> torch.Tensor:
        """Build points.

        Args:
            fixed: The given points with shape=(batch, n_fixed, 3).
            r: Bond lengths with shape=(batch, n_rows).
            w: -cos theta, likewise.
            torsions: Torsions, likewise.

        Returns:
            All points with shape=(batch, n_fixed + n_rows, 3).
        """
        torsions = torsions + self._leading(torsions)
        s = sine_of(w)
        placed = fixed
        for k in range(self._n_levels):
            rows = getattr(self, f"_rows_{k}")
            bond, angle, torsion = getattr(self, f"_references_{k}")
            centre, axis = placed[:, bond], placed[:, angle]
            e1 = unit(centre - axis)
            e3 = unit(torch.linalg.cross(axis - placed[:, torsion], e1, dim=-1))
            e2 = torch.linalg.cross(e3, e1, dim=-1)
            phi, sine = torsions[:, rows], s[:, rows]
            direction = (
                w[:, rows, None] * e1
                + (sine * phi.cos())[..., None] * e2
                + (sine * phi.sin())[..., None] * e3
            )
            placed = torch.cat([placed, centre + r[:, rows, None] * direction], dim=1)
        return placed[:, self._place]

    def _leading(self, torsions: torch.Tensor) -> torch.Tensor:
        return torch.where(self._has_leader, torsions[:, self._leader], 0.0)


def cubic_length(vector: torch.Tensor) -> torch.Tensor:
    """Return r^3/3 of vectors with shape=(..., 3)."""
    r2 = vector.square().sum(-1)
    return r2 * r2.sqrt() / 3.0


def direction_product(to_bond: torch.Tensor, to_angle: torch.Tensor) -> torch.Tensor:
    """Return -cos theta from vectors point -> bonded point -> next point, with shape=(..., 3)."""
    norms = to_bond.square().sum(-1) * to_angle.square().sum(-1)
    return (to_bond * to_angle).sum(-1) / norms.sqrt()


def unit(vector: torch.Tensor) -> torch.Tensor:
    """Return vectors with shape=(..., 3) divided by their lengths."""
    return vector / vector.square().sum(-1, keepdim=True).sqrt()


def sine_of(w: torch.Tensor) -> torch.Tensor:
    """Return sin theta from -cos theta."""
    return ((1.0 - w) * (1.0 + w)).sqrt()


def _levels(n_fixed: int, references: np.ndarray) -> list[np.ndarray]:
    """Group rows by when they can be placed: those of a level depend on earlier levels only."""
    depth = np.zeros(n_fixed + references.shape[1], dtype=np.int64)
    for row, own in enumerate(references.T):
        depth[n_fixed + row] = 1 + depth[own].max()
    return [np.flatnonzero(depth[n_fixed:] == k) for k in range(1, depth.max(initial=0) + 1)]
