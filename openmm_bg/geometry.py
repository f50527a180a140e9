"""Distances, angles and dihedrals of batches of configurations, for numpy arrays and torch tensors.

Positions have shape=(..., n_atoms, 3) and index arrays shape=(n, k); the results have shape=(..., n).
Angles come from atan2, which is accurate near 0 and pi and has finite gradients there, unlike acos.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)
"""Positions and results: both numpy arrays, or both torch tensors."""


def distances(positions: Array, pairs: np.ndarray) -> Array:
    """Return the distances [nm] between pairs of atoms.

    Args:
        positions: Configurations [nm] with shape=(..., n_atoms, 3).
        pairs: Atom indices with shape=(n, 2).

    Returns:
        Distances with shape=(..., n). The gradient of a distance of exactly zero is zero.
    """
    a, b = _select(positions, pairs, 2)
    return _norm(b - a)


def angles(positions: Array, triples: np.ndarray) -> Array:
    """Return the angles [rad] in [0, pi] at the middle atoms of triples.

    Args:
        positions: Configurations [nm] with shape=(..., n_atoms, 3).
        triples: Atom indices with shape=(n, 3); the vertex is in the middle.

    Returns:
        Angles with shape=(..., n), 0 where two atoms coincide.
    """
    a, b, c = _select(positions, triples, 3)
    u, v = a - b, c - b
    return _safe_atan2(_norm(_cross(u, v)), _dot(u, v))


def dihedrals(positions: Array, quadruples: np.ndarray) -> Array:
    """Return the dihedral angles [rad] in [-pi, pi], with the IUPAC sign (cis is 0).

    Args:
        positions: Configurations [nm] with shape=(..., n_atoms, 3).
        quadruples: Atom indices with shape=(n, 4).

    Returns:
        Dihedrals with shape=(..., n), 0 where three atoms in a row lie on a line.
    """
    a, b, c, d = _select(positions, quadruples, 4)
    b1, b2, b3 = b - a, c - b, d - c
    normal1, normal2 = _cross(b1, b2), _cross(b2, b3)
    return _safe_atan2(_norm(b2) * _dot(b1, normal2), _dot(normal1, normal2))


def wrap(angle: Array) -> Array:
    """Return angles [rad] shifted by multiples of 2 pi into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _select(positions: Array, indices: np.ndarray, columns: int) -> list[Array]:
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 2 or indices.shape[1] != columns:
        raise ValueError(f"Atom indices must have the shape (n, {columns}), not {indices.shape}.")
    if isinstance(positions, torch.Tensor):
        # index_select has a faster and deterministic backward pass than advanced indexing.
        index = torch.as_tensor(indices, device=positions.device)
        return [positions.index_select(-2, column) for column in index.unbind(1)]
    return [positions[..., column, :] for column in indices.T]


def _norm(vectors: Array) -> Array:
    if isinstance(vectors, torch.Tensor):
        return torch.linalg.vector_norm(vectors, dim=-1)
    return np.linalg.norm(vectors, axis=-1)


def _cross(a: Array, b: Array) -> Array:
    if isinstance(a, torch.Tensor):
        return torch.linalg.cross(a, b, dim=-1)
    return np.cross(a, b)


def _dot(a: Array, b: Array) -> Array:
    return (a * b).sum(-1)


def _safe_atan2(y: Array, x: Array) -> Array:
    """Return atan2(y, x), with value and gradient 0 instead of 0/0 where both vanish."""
    if isinstance(y, torch.Tensor):
        # Both arguments are replaced before atan2: torch.where after it would let a NaN gradient through.
        vanished = x * x + y * y < torch.finfo(y.dtype).tiny
        return torch.atan2(y.masked_fill(vanished, 0.0), x.masked_fill(vanished, 1.0))
    vanished = x * x + y * y < np.finfo(y.dtype).tiny
    return np.arctan2(np.where(vanished, 0.0, y), np.where(vanished, 1.0, x))
