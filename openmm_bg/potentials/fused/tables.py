"""Tabulated functions in machine code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from openmm_bg.machine_code.elementary import FunctionBuilder
from openmm_bg.machine_code.vectors import INT64, Vector
from openmm_bg.potentials.tables import SplineTable, Table


def table_numbers(table: Table) -> np.ndarray:
    """Return what a `Lookup` reads, in its order."""
    return table.array.numpy().reshape(-1)


class Lookup:
    """A place in a table, at which its value and its derivatives are wanted.

    Args:
        builder: Where to write.
        table: The table.
        start: Pointer to its numbers.
        arguments: The arguments of the tabulated function.
    """

    def __init__(
        self, builder: FunctionBuilder, table: Table, start: Any, arguments: Sequence[Vector]
    ) -> None:
        self.builder, self.table, self.start = builder, table, start
        b = builder.ir
        self.is_spline = isinstance(table, SplineTable)
        self.shape = table.cells if isinstance(table, SplineTable) else tuple(table.array.shape)
        self.fractions, self.densities, self.cell, self.inside = [], [], None, None
        for k, (x, size) in enumerate(zip(arguments, self.shape, strict=True)):
            u, within = self._in_cells(k, x, size)
            # Comparisons with NaN are false, so that the index is one of the table whatever the argument is.
            index = builder.call("floor", u)
            index = builder.where(builder.compare(index, ">", 0.0), index, 0.0)
            index = builder.where(builder.compare(index, "<", float(size - 1)), index, float(size - 1))
            self.fractions.append(u - index)
            whole = [b.fptosi(builder.lane(index, lane), INT64) for lane in range(builder.lanes)]
            if self.cell is None or self.inside is None:
                self.cell, self.inside = whole, within
            else:
                self.cell = [b.add(b.mul(c, INT64(size)), w) for c, w in zip(self.cell, whole, strict=True)]
                self.inside = b.and_(self.inside, within)
        total = sum(arguments[1:], arguments[0])
        self.is_number = builder.compare(total, "==", total)
        self._coefficient = cache(self._load)

    def _in_cells(self, k: int, x: Vector, size: int) -> tuple[Vector, Any]:
        """Return an argument in units of the cells, and whether it is inside of the table."""
        builder, b = self.builder, self.builder.ir
        if not self.is_spline:
            u = builder.call("floor", x + 0.5)
            return u, b.and_(builder.compare(u, ">=", 0.0), builder.compare(u, "<", float(size)))
        lower, upper = self.table.config["lower"][k], self.table.config["upper"][k]
        self.densities.append(size / (upper - lower))
        u = (x - lower) * self.densities[-1]
        if self.table.config["periodic"][k]:
            return u - builder.call("floor", u * (1.0 / size)) * float(size), builder.compare(x, "==", x)
        return u, b.and_(builder.compare(x, ">=", lower), builder.compare(x, "<=", upper))

    def _load(self, number: int) -> Vector:
        """Load one coefficient of each lane's cell."""
        builder, b = self.builder, self.builder.ir
        per_cell = 4 ** len(self.shape) if self.is_spline else 1
        loaded = []
        for cell in self.cell:
            place = b.add(b.mul(cell, INT64(per_cell)), INT64(number))
            loaded.append(b.load(b.gep(self.start, [place], source_etype=builder.scalar), typ=builder.scalar))
        return builder.from_lanes(loaded)

    def value(self, orders: Sequence[int]) -> Vector:
        """Write the value, or the derivative of these orders by each argument; see `Table`."""
        builder = self.builder
        if not self.is_spline:
            return builder.where(self.inside, self._coefficient(0), math.nan)

        def polynomial(dimension: int, first: int) -> Vector:
            """Sum over the powers of this dimension and the later ones."""
            if dimension == len(self.shape):
                return self._coefficient(first)
            stride, order, result = 4 ** (len(self.shape) - dimension - 1), orders[dimension], None
            for power in range(3, order - 1, -1):
                factor = math.prod(range(power - order + 1, power + 1))
                inner = polynomial(dimension + 1, first + power * stride) * float(factor)
                result = inner if result is None else result * self.fractions[dimension] + inner
            return builder.zero() if result is None else result

        scale = math.prod(d**order for d, order in zip(self.densities, orders, strict=True))
        value = builder.where(self.inside, polynomial(0, 0) * scale, 0.0)
        return builder.where(self.is_number, value, math.nan)
