"""Coordinates (r^3/3, -cos theta, phi) that are centred and scaled by data."""

from __future__ import annotations

import math

import torch

from openmm_bg.transforms.base import Coordinates

_SMALLEST = 1e-6  # of deviations


class StandardisedCoordinates(Coordinates):
    """What coordinates of bonds, angles and torsions share: features with centres and scales from data.

    Raw coordinates are ordered: bonds (r^3/3), angles (-cos theta), torsions. Torsions that the data spread over
    more than half a circle are circular features; the other coordinates are centred and whitened by the inverse
    square root of their covariance (the symmetric one, so that each feature stays close to its own coordinate).
    Or features are the deviations from the data's centres as they are (`fit_deviations`).

    Args:
        n_bonds: The number of bonds.
        n_angles: The number of angles.
        n_torsions: The number of torsions.
    """

    def __init__(self, n_bonds: int, n_angles: int, n_torsions: int) -> None:
        super().__init__()
        self._sizes = [n_bonds, n_angles, n_torsions]
        size = sum(self._sizes)
        self.register_buffer("circular", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("center", torch.zeros(size, dtype=torch.float64))
        # Whitening of the coordinates that are not circular; the identity on circular ones.
        self.register_buffer("whiten", torch.eye(size, dtype=torch.float64))
        self.register_buffer("unwhiten", torch.eye(size, dtype=torch.float64))
        self.register_buffer("log_scale", torch.zeros((), dtype=torch.float64))

    def fit_raw(self, raw: torch.Tensor, *, circular: bool = True) -> None:
        """Learn centres, scales and which torsions are circular.

        Args:
            raw: Raw coordinates of data with shape=(n_frames, n_features), at least two.
            circular: Whether torsions that the data spread over more than half a circle are circular features. If
                not, each is cut open where the data leave the largest gap.
        """
        split = self._sizes[0] + self._sizes[1]
        center = raw.mean(0)
        is_circular = torch.zeros_like(self.circular)
        for k in range(split, raw.shape[1]):
            torsion = raw[:, k]
            gap, middle = largest_gap(torsion)
            is_circular[k] = circular and gap < math.pi
            center[k] = 0.0 if is_circular[k] else wrap(middle + math.pi)
            if not is_circular[k]:
                center[k] += wrap(torsion - center[k]).mean()
        self.center, self.circular = center, is_circular
        self._whiten(self._offset(raw)[:, ~is_circular])

    def fit_deviations(self, raw: torch.Tensor, turning: torch.Tensor) -> None:
        """Learn centres alone: features are the deviations from them, each of its own coordinate.

        Args:
            raw: Raw coordinates of data with shape=(n_frames, n_features).
            turning: Which torsions are circular features, with shape=(n_torsions,). The seam of these, at -pi and
                pi, comes to lie in the largest gap of the data.
        """
        split, size = self._sizes[0] + self._sizes[1], raw.shape[1]
        center = raw.mean(0)
        for k in range(split, size):
            _, middle = largest_gap(raw[:, k])
            center[k] = wrap(middle + math.pi)
            if not turning[k - split]:
                center[k] += wrap(raw[:, k] - center[k]).mean()
        self.center = center
        self.circular = torch.cat([torch.zeros(split, dtype=torch.bool), turning.cpu()])
        self.whiten, self.unwhiten = torch.eye(size).double(), torch.eye(size).double()
        self.log_scale = torch.zeros((), dtype=torch.float64)

    def features_of(self, raw: torch.Tensor) -> torch.Tensor:
        """Return features with shape=(batch, n_features) of raw coordinates."""
        return self._offset(raw) @ self.whiten.to(raw).T

    def raw_of(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return raw coordinates of features, and which are possible.

        Returns:
            Bonds, -cos theta and torsions with a row for each of the batch, and whether they are possible, with
            shape=(batch,). Where not, harmless bonds and angles stand in, so that no NaN reaches the others'
            gradients.
        """
        offset = features @ self.unwhiten.to(features).T
        bonds, angles, torsions = (offset + self.center.to(features)).split(self._sizes, dim=1)
        split = self._sizes[0] + self._sizes[1]
        narrow = ~self.circular[split:]
        valid = (bonds > 0).all(1) & (angles.abs() < 1).all(1)
        valid = valid & ((offset[:, split:].abs() < math.pi) | ~narrow).all(1)
        bonds = torch.where(valid[:, None], bonds, 1e-3)
        return bonds, torch.where(valid[:, None], angles, 0.0), torsions, valid

    def _offset(self, raw: torch.Tensor) -> torch.Tensor:
        offset, split = raw - self.center.to(raw), self._sizes[0] + self._sizes[1]
        return torch.cat([offset[:, :split], wrap(offset[:, split:])], dim=1)

    def _whiten(self, offset: torch.Tensor) -> None:
        whiten, unwhiten, self.log_scale = whitening(offset)
        linear = torch.nonzero(~self.circular).flatten()
        block = (linear[:, None], linear)
        size = len(self.center)
        self.whiten, self.unwhiten = torch.eye(size).double(), torch.eye(size).double()
        self.whiten[block], self.unwhiten[block] = whiten, unwhiten


def whitening(offset: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what whitens data, symmetrically.

    Args:
        offset: Deviations from centres with shape=(n_frames, n).

    Returns:
        The matrix that whitens them and its inverse, both with shape=(n, n), and the latter's log-determinant.
    """
    covariance = torch.cov(offset.T).reshape(offset.shape[1], -1)
    deviation = covariance.diagonal().sqrt().clamp_min(_SMALLEST)
    # The correlation matrix is better conditioned; few frames may make it singular.
    values, vectors = torch.linalg.eigh(covariance / deviation[:, None] / deviation)
    values = values.clamp_min(1e-4)
    whiten = (vectors / values.sqrt()) @ vectors.T / deviation
    unwhiten = deviation[:, None] * ((vectors * values.sqrt()) @ vectors.T)
    return whiten, unwhiten, deviation.log().sum() + 0.5 * values.log().sum()


def wrap(angle: torch.Tensor) -> torch.Tensor:
    """Wrap angles to [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi


def largest_gap(angles: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the widest empty arc among angles, and its middle."""
    ordered = angles.sort().values
    gaps = torch.cat([ordered[1:] - ordered[:-1], ordered[:1] + 2.0 * math.pi - ordered[-1:]])
    k = int(gaps.argmax())
    return float(gaps[k]), ordered[k] + 0.5 * gaps[k]
