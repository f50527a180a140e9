"""Loops over pairs of atoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from openmm_bg.machine_code.elementary import FunctionBuilder
from openmm_bg.machine_code.vectors import Vector
from openmm_bg.potentials.fused.columns import Columns, Source, outputs_of
from openmm_bg.potentials.fused.geometry import Point, minus, over_distance, times
from openmm_bg.potentials.terms import PairTerm

if TYPE_CHECKING:
    from openmm_bg.potentials.fused.kernel import KernelWriter


@dataclass
class Pair:
    """What the body of a pair loop sees: one pair of one block."""

    i: ir.Value
    j: ir.Value
    row: ir.Value
    r: Vector


class PairLoop:
    """One loop over pairs of atoms, row by row, shared by all terms over these pairs."""

    def __init__(self, writer: KernelWriter, pairs: np.ndarray) -> None:
        self.writer = writer
        self.sorting = np.argsort(pairs[0], kind="stable")
        self.pairs = pairs[:, self.sorting]
        counts = np.bincount(self.pairs[0], minlength=writer.n_atoms)
        self.starts = writer.add_integers(np.concatenate([[0], np.cumsum(counts)]))
        self.seconds = writer.add_integers(self.pairs[1])
        self.columns = writer.new_columns(self.pairs.shape[1])
        self.bodies: list[Callable[[Pair], tuple[Vector, Vector | None]]] = []
        self.row_starts: list[Callable[[ir.Value], None]] = []
        self.row_ends: list[Callable[[ir.Value], None]] = []

    def each(
        self,
        body: Callable[[ir.Value, ir.Value, ir.Value, Point], Point | None],
        row_start: Callable[[ir.Value], None] = lambda i: None,
        row_end: Callable[[ir.Value], None] = lambda i: None,
        makes_forces: bool = True,
    ) -> None:
        """Write a loop whose body returns the gradient by the first atom of a pair, if there is one."""
        writer, b = self.writer, self.writer.b
        accumulated = [b.variable() for _ in range(3)]
        with b.loop(0, writer.n_atoms) as i:
            here = writer.point(i)
            for place in accumulated:
                b.store(b.zero(), place)
            row_start(i)
            start, stop = (writer.integer(writer.at(self.starts + k, i)) for k in (0, 1))
            with b.loop(start, stop) as row:
                j = writer.integer(writer.at(self.seconds, row))
                gradient = body(i, j, row, minus(here, writer.point(j)))
                if gradient is not None:
                    for place, component in zip(accumulated, gradient, strict=True):
                        b.store(b.load(place) + component, place)
                    writer.add_gradient(j, tuple(-g for g in gradient))
            row_end(i)
            if makes_forces and writer.with_forces:
                writer.add_gradient(i, tuple(b.load(place) for place in accumulated))

    def write(self) -> None:
        """Write the loop of all bodies' energies."""
        if not self.bodies:
            return
        writer, b = self.writer, self.writer.b

        row_energy = b.variable()

        def body(i: ir.Value, j: ir.Value, row: ir.Value, difference: Point) -> Point | None:
            r = distance(b, difference)
            slope = None
            for one in self.bodies:
                energy, own = one(Pair(i, j, row, r))
                b.store(b.load(row_energy) + energy, row_energy)
                slope = own if slope is None else slope + own
            return None if slope is None else times(difference, over_distance(b, slope, r))

        def row_start(i: ir.Value) -> None:
            b.store(b.zero(), row_energy)
            for function in self.row_starts:
                function(i)

        def row_end(i: ir.Value) -> None:
            writer.add_energy(b.load(row_energy))
            for function in self.row_ends:
                function(i)

        self.each(body, row_start, row_end)


def distance(b: FunctionBuilder, difference: Point) -> Vector:
    """Return the length of a difference."""
    x, y, z = difference
    return b.call("sqrt", x * x + y * y + z * z)


def add_pair_term(writer: KernelWriter, term: PairTerm, loops: list[PairLoop], atoms: Columns) -> None:
    """Add a `PairTerm` to the loop over its pairs, or to one over all pairs if there is one and it has most."""
    b, arrays = writer.b, term.arrays()
    pairs = arrays["pairs"].numpy()
    parameters = arrays["pair_parameters"].numpy()
    particle = dict(
        zip(term.config["particle_parameters"], arrays["particle_parameters"].numpy(), strict=True)
    )
    loop, order, mask = _loop_for(writer, pairs, loops)
    spread = np.zeros((len(parameters), loop.pairs.shape[1]))
    spread[:, order] = parameters
    first, second = loop.pairs
    joint = dict(zip(term.config["pair_parameters"], spread, strict=True))
    joint |= {f"{name}1": values[first] for name, values in particle.items()}
    joint |= {f"{name}2": values[second] for name, values in particle.items()}
    sources = {
        "first": Source(atoms, {f"{name}1": values for name, values in particle.items()}),
        "second": Source(atoms, {f"{name}2": values for name, values in particle.items()}),
        "pair": Source(loop.columns, joint),
    }
    expression = term.expression(term.config["expression"])
    program = outputs_of(expression.program, ["r"], writer.with_forces)
    prepared = writer.prepared(program, {"r"}, sources, "pair")
    mask_column = loop.columns.add(mask) if mask is not None else None

    def body(pair: Pair) -> tuple[Vector, Vector | None]:
        stored = writer.stored(sources, {"first": pair.i, "second": pair.j, "pair": pair.row})
        outputs = prepared.emit(b, {"r": pair.r}, stored, writer.table_data)
        if mask_column is not None:
            included = b.compare(stored("pair", mask_column), "!=", 0.0)
            outputs = [b.where(included, output, 0.0) for output in outputs]
        return outputs[0], outputs[1] if writer.with_forces else None

    loop.bodies.append(body)


def _keys(pairs: np.ndarray) -> np.ndarray:
    return pairs[0].astype(np.int64) * (1 << 32) + pairs[1]


def _loop_for(
    writer: KernelWriter, pairs: np.ndarray, loops: list[PairLoop]
) -> tuple[PairLoop, np.ndarray, np.ndarray | None]:
    """Find the loop that a list of pairs joins, or make one.

    Returns:
        The loop, where each pair of the list is in it, and which of its pairs are in the list, if not all.
    """
    keys = _keys(pairs)
    distinct = len(np.unique(keys)) == len(keys)
    for loop in loops:
        there = _keys(loop.pairs)
        # A pair may be listed twice (overlapping interaction groups): such a list has a loop of its own.
        if not distinct or 2 * len(keys) < len(there) or len(np.unique(there)) < len(there):
            continue
        if np.isin(keys, there).all():
            sorting = np.argsort(there)
            order = sorting[np.searchsorted(there, keys, sorter=sorting)]
            inside = np.isin(there, keys)
            return loop, order, None if inside.all() else inside.astype(np.float64)
    loops.append(PairLoop(writer, pairs))
    order = np.empty(len(keys), dtype=np.int64)
    order[loops[-1].sorting] = np.arange(len(keys))
    return loops[-1], order, None
