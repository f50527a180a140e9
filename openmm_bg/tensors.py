"""Conversion of positions to tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.units import nanometers


def numbers_tensor(positions: Any) -> torch.Tensor:
    """Return positions [nm] as a tensor: a tensor stays as it is, anything else is copied in its precision.

    Args:
        positions: A tensor, an array (also a read-only one), nested lists, a quantity, or a list of quantities.

    Raises:
        InputError: If they are not numbers in one array, have a unit other than of length, or are on the
            meta device.
    """
    try:
        positions = nanometers(positions)
        if isinstance(positions, (list, tuple)):
            positions = [nanometers(part) for part in positions]
        # A copy: torch warns of read-only arrays, and would round lists to float32.
        array = None if isinstance(positions, torch.Tensor) else np.array(positions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Positions must be numbers [nm] in one array: {str(error).rstrip('.')}.") from error
    if array is None:
        if positions.is_meta:
            raise InputError("Positions on the meta device have no values; move them to a CPU or a GPU.")
        return positions
    if array.dtype.kind not in "biufc":
        raise InputError(
            f"Positions must be numbers [nm] in one array, not of the type {array.dtype}; convert them to floats."
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # torch has nothing longer
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def positions_tensor(positions: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return positions [nm] as a tensor: a tensor stays as it is but for its dtype, an array is copied.

    Args:
        positions: As of `numbers_tensor`.
        dtype: The precision.

    Raises:
        InputError: As `numbers_tensor`.
    """
    return numbers_tensor(positions).detach().to(dtype)
