"""Tabulated functions: splines through values on a grid, and discrete tables.

Source: OpenMM user guide, "Tabulated functions".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from openmm_bg.errors import InputError
from openmm_bg.potentials.functions import Value


class Table(nn.Module):
    """A tabulated function of one to three arguments.

    Attributes:
        array: What is saved, in float64 on the CPU, whatever the precision in use.
        config: What is saved beside it.
        continuous: For each argument, whether the function can be differentiated by it.
    """

    continuous: tuple[bool, ...]

    def __init__(self, array: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.array, self.config = torch.as_tensor(array, dtype=torch.float64), config
        self.register_buffer("_data", self.array.clone())

    def forward(self, arguments: Sequence[Value], orders: Sequence[int]) -> torch.Tensor:
        """Return the function, or its derivative of these orders by each argument."""
        like = next((a for a in arguments if isinstance(a, torch.Tensor)), self._data)
        arguments = torch.broadcast_tensors(
            *(torch.as_tensor(a, dtype=self._data.dtype, device=self._data.device) for a in arguments)
        )
        return self._look_up(arguments, orders).to(like.dtype)

    def _look_up(self, arguments: Sequence[torch.Tensor], orders: Sequence[int]) -> torch.Tensor:
        raise NotImplementedError


class SplineTable(Table):
    """A cubic spline through values on a regular grid, in one to three dimensions; zero outside of it.

    Args:
        array: Polynomial coefficients with shape=(n_1, ..., n_d, 4, ..., 4): n_k cells along each
            dimension, then the powers, rising, of the distance from the lower corner in units of the cell.
        config: ``lower`` and ``upper``, lists of the bounds; ``periodic``, a list of booleans.
    """

    def __init__(self, array: Any, config: dict[str, Any]) -> None:
        super().__init__(array, config)
        dimensions = len(config["lower"])
        self.continuous = (True,) * dimensions
        self.cells = tuple(self.array.shape[:dimensions])
        self.register_buffer("_flat", self.array.reshape(-1, 4**dimensions).clone())

    @classmethod
    def interpolate(
        cls, values: Any, lower: Sequence[float], upper: Sequence[float], periodic: Sequence[bool]
    ) -> SplineTable:
        """Return the tensor product of natural (or periodic) cubic splines through values on a grid."""
        import numpy as np
        from scipy.interpolate import CubicSpline

        array = np.asarray(values, dtype=np.float64)
        dimensions = array.ndim
        for axis in range(dimensions):
            # One axis after the other: knots become cells, and the powers come last.
            knots = np.arange(array.shape[axis])
            kind = "periodic" if periodic[axis] else "natural"
            if len(knots) == 2:
                kind = "natural"
            pieces = CubicSpline(knots, array, axis=axis, bc_type=kind).c[::-1]  # rising powers first
            array = np.moveaxis(pieces, (0, 1), (-1, axis))
        config = {"lower": list(lower), "upper": list(upper), "periodic": [bool(p) for p in periodic]}
        return cls(np.ascontiguousarray(array), config)

    def _look_up(self, arguments: Sequence[torch.Tensor], orders: Sequence[int]) -> torch.Tensor:
        cell, outside, powers, scale = 0, torch.zeros_like(arguments[0], dtype=torch.bool), [], 1.0
        for k, (x, order) in enumerate(zip(arguments, orders, strict=True)):
            lower, upper = self.config["lower"][k], self.config["upper"][k]
            density = self.cells[k] / (upper - lower)
            u = (x - lower) * density
            if self.config["periodic"][k]:
                u = u - torch.floor(u / self.cells[k]) * self.cells[k]
            else:
                outside = outside | (x < lower) | (x > upper)
            index = torch.nan_to_num(u).floor().clamp(0, self.cells[k] - 1)
            cell = cell * self.cells[k] + index.long()
            powers.append(_derivatives_of_powers(u - index, order))
            scale *= density**order
        value = self._flat[cell]  # (..., 4^d)
        for power in reversed(powers):
            value = (value.reshape(*value.shape[:-1], -1, 4) * power[..., None, :]).sum(-1)
        value = value[..., 0] * scale
        defined = ~torch.isnan(sum(arguments))
        return torch.where(outside & defined, 0.0, value)


def _derivatives_of_powers(t: torch.Tensor, order: int) -> torch.Tensor:
    """Return the derivatives of 1, t, t^2, t^3 with shape=(..., 4)."""
    result = []
    for power in range(4):
        factor = 1.0
        for k in range(order):
            factor *= power - k
        result.append(factor * t ** max(power - order, 0))
    return torch.stack(result, dim=-1)


class DiscreteTable(Table):
    """Values at the whole numbers from 0 on, in one to three dimensions; NaN elsewhere.

    Arguments are rounded to the nearest whole number, halves up. Outside of the table OpenMM's value is
    undefined, so that here the energy becomes infinite.

    Args:
        array: The values with shape=(n_1, ..., n_d).
        config: Empty.
    """

    def __init__(self, array: Any, config: dict[str, Any]) -> None:
        super().__init__(array, config)
        self.continuous = (False,) * self.array.ndim

    def _look_up(self, arguments: Sequence[torch.Tensor], orders: Sequence[int]) -> torch.Tensor:
        indices, inside = [], True
        for x, size in zip(arguments, self.array.shape, strict=True):
            index = torch.floor(torch.nan_to_num(x, nan=-1.0) + 0.5)
            inside = inside & (index >= 0) & (index < size)
            indices.append(index.clamp(0, size - 1).long())
        return torch.where(inside, self._data[tuple(indices)], torch.nan)


TABLES: dict[str, type[Table]] = {table.__name__: table for table in (SplineTable, DiscreteTable)}


def read_table(kind: str, array: Any, config: dict[str, Any]) -> Table:
    """Return the table that was saved as this kind, array and config.

    Raises:
        InputError: If there is no such kind.
    """
    if kind not in TABLES:
        raise InputError(f"There is no kind of table {kind!r}; there are {', '.join(TABLES)}.")
    return TABLES[kind](array, config)
