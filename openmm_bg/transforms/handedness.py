"""The handedness of centres with four bonds: chirality, and the labels of equal neighbours."""

from __future__ import annotations

import numpy as np
import torch


def spanned_volumes(positions: torch.Tensor, centres: np.ndarray) -> torch.Tensor:
    """Return six times the volumes that the neighbours of centres span, with shape=(batch, n_centres).

    Args:
        positions: Configurations [nm] with shape=(batch, n_atoms, 3).
        centres: The four neighbours of each centre with shape=(n_centres, 4).
    """
    a, b, c, d = positions[:, centres.T].unbind(1)
    return (torch.linalg.cross(b - a, c - a, dim=-1) * (d - a)).sum(-1)


def has_handedness(positions: torch.Tensor, centres: np.ndarray, signs: torch.Tensor) -> torch.Tensor:
    """Tell which configurations have a handedness, with shape=(batch,).

    Args:
        positions: Configurations [nm] with shape=(batch, n_atoms, 3).
        centres: The four neighbours of each centre with shape=(n_centres, 4).
        signs: The handedness of each centre, 1 or -1, with shape=(n_centres,); 0 admits both.
    """
    signs = signs.to(positions)
    return ((spanned_volumes(positions, centres) * signs > 0) | (signs == 0)).all(1)
