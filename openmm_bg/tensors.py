"""Conversion of positions to tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.units import nanometers


def positions_tensor(positions: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return positions [nm] as a tensor: a tensor stays as it is but for its dtype, an array is copied.

    Args:
        positions: A tensor, an array (also a read-only one), nested lists, or a quantity.
        dtype: The precision.
    """
    positions = nanometers(positions)
    if isinstance(positions, torch.Tensor):
        return positions.detach().to(dtype)
    return torch.as_tensor(np.array(positions, dtype=np.float64), dtype=dtype)
