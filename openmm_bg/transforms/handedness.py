"""The handedness of centres with four bonds: chirality, and the labels of equal neighbours."""

from __future__ import annotations

import numpy as np
import torch

from openmm_bg.transforms.z_matrix import neighbour_lists


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


def with_labels_of(
    reference: np.ndarray, positions: np.ndarray, bonds: np.ndarray, hydrogens: np.ndarray
) -> np.ndarray:
    """Return a configuration in which equal hydrogens have the labels of a reference.

    Two hydrogens at a centre with four bonds are exchanged where the centre has another handedness than the
    reference's. Other centres are left as they are: those with a single hydrogen are really of the other chirality.

    Args:
        reference: The reference [nm] with shape=(n_atoms, 3).
        positions: The configuration [nm], likewise.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
        hydrogens: Which atoms are hydrogens, with shape=(n_atoms,).
    """
    neighbours = neighbour_lists(len(reference), bonds)
    centres = np.array([near for near in neighbours if len(near) == 4], dtype=np.int64).reshape(-1, 4)
    both = torch.as_tensor(np.stack([reference, positions]), dtype=torch.float64)
    signs = torch.sign(spanned_volumes(both, centres)).numpy()
    found = np.array(positions)
    for centre in centres[signs[0] != signs[1]]:
        equal = [atom for atom in centre if hydrogens[atom]][:2]
        if len(equal) == 2:
            found[equal] = found[equal[::-1]]
    return found
