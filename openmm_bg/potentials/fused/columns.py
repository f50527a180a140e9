"""What a kernel computes beforehand: every part of an expression that depends on parameters only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from openmm_bg.machine_code.elementary import FunctionBuilder
from openmm_bg.machine_code.vectors import Vector
from openmm_bg.potentials.fused.tables import Lookup
from openmm_bg.potentials.programs import Program


@dataclass
class Columns:
    """Numbers for each row (a pair, an atom, a group of bonded atoms), stored row by row.

    Attributes:
        n_rows: The number of rows.
        offset: Where they start among the kernel's numbers; set when all columns are known.
    """

    n_rows: int
    offset: int = 0
    arrays: list[np.ndarray] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: np.ndarray) -> int:
        """Add a column, unless there is an equal one, and return its number."""
        array = np.broadcast_to(np.asarray(array, dtype=np.float64), (self.n_rows,)).copy()
        key = array.tobytes()
        if key not in self._known:
            self._known[key] = len(self.arrays)
            self.arrays.append(array)
        return self._known[key]

    def flat(self) -> np.ndarray:
        """Return all numbers, row by row."""
        return np.stack(self.arrays, axis=1).reshape(-1) if self.arrays else np.zeros(0)

    def place(self, builder: FunctionBuilder, row: object, column: int) -> object:
        """Return the index of a number among those of the kernel."""
        b = builder.ir
        start = b.mul(builder.index(row), builder.index(len(self.arrays)))
        return b.add(start, builder.index(self.offset + column))


@dataclass(frozen=True)
class Source:
    """Parameters that an expression may depend on: their values for each row of some columns.

    Attributes:
        columns: Where what depends on these parameters only is stored.
        values: Values of the parameters by name, each with shape=(n_rows,).
    """

    columns: Columns
    values: Mapping[str, np.ndarray]


class Prepared:
    """A program, with the parts that depend on parameters only evaluated and stored in columns.

    Args:
        program: The program.
        lanes: Names of the variables that differ between configurations.
        sources: Where parameters come from, by a name for each source. A part that depends on the parameters of one
            source is stored in its columns; one that depends on several, in those of ``joint``, whose values
            must have all parameters.
        joint: The name of that source.
    """

    def __init__(
        self, program: Program, lanes: frozenset[str], sources: Mapping[str, Source], joint: str
    ) -> None:
        self.program = program
        origin = {name: key for key, source in sources.items() if key != joint for name in source.values}
        used: list[frozenset[str] | None] = []  # the sources of each step; None: it differs between lanes
        for step in program.steps:
            if step.kind == "variable" and step.value in lanes:
                used.append(None)
            elif step.kind == "variable":
                used.append(frozenset([origin.get(str(step.value), joint)]))
            else:
                needed = [used[k] for k in step.arguments]
                used.append(None if None in needed else frozenset().union(*needed))
        # Stored are the last parts before the lanes come in.
        wanted = {k for k in program.outputs if used[k] is not None}
        for k, step in enumerate(program.steps):
            if used[k] is None:
                wanted |= {a for a in step.arguments if used[a] is not None}
        self.stored: dict[int, tuple[str, int]] = {}
        for k in wanted:
            if program.steps[k].kind == "number":
                continue
            key = next(iter(used[k])) if len(used[k]) == 1 else joint
            part = program.pruned([k])
            values = {n: torch.as_tensor(sources[key].values[n]).double() for n in part.variables}
            with torch.no_grad():
                (result,) = part(values)
            self.stored[k] = key, sources[key].columns.add(np.asarray(result))
        self.in_lanes = [k for k in range(len(program.steps)) if used[k] is None]

    def emit(
        self,
        builder: FunctionBuilder,
        lanes: Mapping[str, Vector],
        stored: Callable[[str, int], Vector],
        table_data: Callable[[object], object],
    ) -> list[Vector]:
        """Write the program, and return its outputs.

        Args:
            builder: Where to write.
            lanes: Values of the variables that differ between configurations.
            stored: Loads a number of a source, given its name and the column.
            table_data: Returns where a table's numbers are.
        """
        steps, results = self.program.steps, {}
        lookups: dict[tuple, Lookup] = {}

        def value(k: int) -> Vector:
            if k not in results:
                step = steps[k]
                results[k] = builder.vector(step.value) if step.kind == "number" else stored(*self.stored[k])
            return results[k]

        for k in self.in_lanes:
            step = steps[k]
            if step.kind == "variable":
                results[k] = lanes[str(step.value)]
            elif step.kind == "table":
                key = (step.value, step.arguments)  # a value and its derivatives are in the same place
                if key not in lookups:
                    table = self.program.tables[str(step.value)]
                    arguments = [value(a) for a in step.arguments]
                    lookups[key] = Lookup(builder, table, table_data(table), arguments)
                results[k] = lookups[key].value(step.orders)
            else:
                results[k] = builder.call(str(step.value), *(value(a) for a in step.arguments))
        return [value(k) for k in self.program.outputs]


def outputs_of(program: Program, wanted: Sequence[str], with_forces: bool) -> Program:
    """Return a program of the value alone, or of the value and its derivatives by the wanted variables."""
    return program.with_gradient(wanted) if with_forces else program
