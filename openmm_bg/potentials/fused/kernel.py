"""Machine code for the energy and the forces of a list of terms.

A kernel takes a block of configurations at a time, one in each lane of a vector. For each block it copies the
coordinates to a workspace, goes through the terms, and accumulates energies and gradients; every derivative is
that of the expression (`Program.with_gradient`) followed by that of the geometry. What depends on parameters
only was computed when the kernel was written, and is read from columns.

The generalized-Born terms take five passes, as in every implementation: values from all pairs, values from
those of each atom, energies of all pairs, derivatives by the pairs' values, and the forces that these make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from openmm_bg.machine_code.elementary import FunctionBuilder
from openmm_bg.machine_code.vectors import INT32, INT64, Vector
from openmm_bg.potentials.fused.bonded import BondedLoop
from openmm_bg.potentials.fused.columns import Columns, Prepared, Source
from openmm_bg.potentials.fused.generalized_born import SolventPasses
from openmm_bg.potentials.fused.geometry import Point
from openmm_bg.potentials.fused.pairs import PairLoop, add_pair_term
from openmm_bg.potentials.fused.tables import table_numbers
from openmm_bg.potentials.programs import Program
from openmm_bg.potentials.tables import Table
from openmm_bg.potentials.terms import BondedTerm, GeneralizedBornTerm, PairTerm, Term

NAME = "openmm_bg_energy"


@dataclass(frozen=True)
class KernelCode:
    """A kernel, ready to be compiled, and the data that it reads.

    Attributes:
        module: The LLVM module with one function, `NAME`.
        reals: Numbers that it reads.
        integers: Indices that it reads.
        workspace: Vectors of workspace that one thread needs.
        lanes: Configurations of a block.
    """

    module: ir.Module
    reals: np.ndarray
    integers: np.ndarray
    workspace: int
    lanes: int


def write_kernel(
    n_atoms: int, terms: Sequence[Term], *, double: bool, lanes: int, with_forces: bool
) -> KernelCode:
    """Write the kernel of the sum of some terms.

    Args:
        n_atoms: The number of atoms.
        terms: The terms.
        double: Whether it computes in double precision.
        lanes: Configurations of a block.
        with_forces: Whether it computes forces beside energies.
    """
    return KernelWriter(n_atoms, double, lanes, with_forces).write(terms)


class KernelWriter:
    """Writes one kernel: lays out what it reads, then lets the terms write their passes.

    Args:
        n_atoms: The number of atoms.
        double: Whether it computes in double precision.
        lanes: Configurations of a block.
        with_forces: Whether it computes forces beside energies.
    """

    def __init__(self, n_atoms: int, double: bool, lanes: int, with_forces: bool) -> None:
        self.n_atoms, self.lanes, self.with_forces = n_atoms, lanes, with_forces
        self.module = ir.Module(NAME)
        pointer, whole = ir.PointerType(), INT64
        # first block, last block; positions, energies, forces, workspace, reals, integers
        kind = ir.FunctionType(ir.VoidType(), [whole, whole, *([pointer] * 6)])
        self.function = ir.Function(self.module, kind, NAME)
        for argument in self.function.args[2:]:
            argument.add_attribute("noalias")
        self.b = FunctionBuilder(ir.IRBuilder(self.function.append_basic_block("entry")), double, lanes)
        self.columns: list[Columns] = []
        self.integers: list[np.ndarray] = []
        self.n_integers = 0
        self.tables: dict[int, tuple[Table, list[int]]] = {}
        self.workspace = 3 * n_atoms * (2 if with_forces else 1)

    # What is laid out before any instruction is written

    def new_columns(self, n_rows: int) -> Columns:
        """Add columns for parameters."""
        self.columns.append(Columns(n_rows))
        return self.columns[-1]

    def add_integers(self, values: Any) -> int:
        """Add indices that the kernel reads, and return where they start."""
        flat = np.asarray(values, dtype=np.int32).reshape(-1)
        self.integers.append(flat)
        self.n_integers += len(flat)
        return self.n_integers - len(flat)

    def new_workspace(self, n_vectors: int) -> int:
        """Add vectors of workspace, and return where they start."""
        self.workspace += n_vectors
        return self.workspace - n_vectors

    def note_tables(self, program: Program) -> None:
        """Keep the tables of a program with the numbers that the kernel reads."""
        for step in program.steps:
            if step.kind == "table":
                table = program.tables[str(step.value)]
                self.tables.setdefault(id(table), (table, []))

    def prepared(self, program: Program, lanes: set[str], sources: dict[str, Source], joint: str) -> Prepared:
        """Prepare a program; see `Prepared`."""
        self.note_tables(program)
        return Prepared(program, frozenset(lanes), sources, joint)

    # Access to the arguments

    @property
    def positions(self) -> ir.Value:
        """The coordinates that the caller gave."""
        return self.function.args[2]

    @property
    def scratch(self) -> ir.Value:
        """The workspace: first the coordinates of the block, then the gradients."""
        return self.function.args[5]

    @property
    def reals(self) -> ir.Value:
        """The numbers that the kernel reads."""
        return self.function.args[6]

    def integer(self, index: Any) -> ir.Value:
        """Load an index."""
        b = self.b
        place = b.ir.gep(self.function.args[7], [b.index(index)], source_etype=INT32)
        return b.ir.sext(b.ir.load(place, typ=INT32), INT64)

    def at(self, start: int, index: ir.Value) -> ir.Value:
        """Return an index, shifted."""
        return self.b.ir.add(self.b.index(start), index)

    def point(self, atom: ir.Value) -> Point:
        """Load the position of an atom."""
        row = self.b.ir.mul(atom, INT64(3))
        return tuple(self.b.load(self.scratch, self.at(k, row)) for k in range(3))

    def add_gradient(self, atom: ir.Value, gradient: Point) -> None:
        """Add to the gradient of an atom."""
        row = self.b.ir.mul(atom, INT64(3))
        for k in range(3):
            self.b.add_to(gradient[k], self.scratch, self.at(3 * self.n_atoms + k, row))

    def add_energy(self, energy: Vector) -> None:
        """Add to the energy."""
        # The rounding error of every addition is kept (Neumaier, 1974): energies are small differences of large
        # sums.
        b = self.b
        total = b.load(self.energy)
        new = total + energy
        kept = new - total
        error = (total - (new - kept)) + (energy - kept)
        b.store(new, self.energy)
        b.store(b.load(self.energy_error) + error, self.energy_error)

    def stored(self, sources: dict[str, Source], rows: dict[str, ir.Value]) -> Callable[[str, int], Vector]:
        """Return a function that loads numbers of these sources, each at its row."""

        def load(key: str, column: int) -> Vector:
            return self.b.broadcast(self.reals, sources[key].columns.place(self.b, rows[key], column))

        return load

    def table_data(self, table: Table) -> ir.Value:
        """Return where the numbers of a table are."""
        (offset,) = self.tables[id(table)][1]
        return self.b.ir.gep(self.reals, [INT64(offset)], source_etype=self.b.scalar)

    def write(self, terms: Sequence[Term]) -> KernelCode:
        """Write the kernel of some terms."""
        atoms = self.new_columns(self.n_atoms)
        solvents = [
            SolventPasses(self, term, atoms) for term in terms if isinstance(term, GeneralizedBornTerm)
        ]
        bonded = [BondedLoop(self, term) for term in terms if isinstance(term, BondedTerm)]
        loops: list[PairLoop] = []
        if solvents:
            loops.append(PairLoop(self, np.stack(np.triu_indices(self.n_atoms, 1))))
            for solvent in solvents:
                solvent.prepare(loops[0])
        for term in terms:
            if isinstance(term, PairTerm) and term.pairs.shape[1]:
                add_pair_term(self, term, loops, atoms)
        reals, n_reals = [], 0
        for columns in self.columns:
            columns.offset = n_reals
            reals.append(columns.flat())
            n_reals += len(reals[-1])
        for table, offset in self.tables.values():
            offset.append(n_reals)
            reals.append(table_numbers(table))
            n_reals += len(reals[-1])
        b = self.b
        self.energy, self.energy_error = b.variable(), b.variable()
        with b.loop(self.function.args[0], self.function.args[1]) as block:
            self.copy_in(block)
            for term in bonded:
                term.write()
            for solvent in solvents:
                solvent.write_values(loops[0])
            for loop in loops:
                loop.write()
            for solvent in solvents:
                solvent.write_backward(loops[0])
            self.copy_out(block)
        b.ir.ret_void()
        dtype = np.float64 if b.double else np.float32
        integers = np.concatenate(self.integers) if self.integers else np.zeros(1, dtype=np.int32)
        return KernelCode(
            self.module,
            np.concatenate(reals).astype(dtype) if n_reals else np.zeros(1, dtype=dtype),
            integers,
            self.workspace,
            self.lanes,
        )

    def rows_of_block(self, block: ir.Value) -> list[ir.Value]:
        """Return where the coordinates of each configuration of a block start."""
        b = self.b.ir
        first = b.mul(block, INT64(self.lanes))
        return [b.mul(b.add(first, INT64(lane)), INT64(3 * self.n_atoms)) for lane in range(self.lanes)]

    def copy_in(self, block: ir.Value) -> None:
        """Copy the coordinates of a block to the workspace, one configuration to a lane."""
        b = self.b
        b.store(b.zero(), self.energy)
        b.store(b.zero(), self.energy_error)
        rows = self.rows_of_block(block)
        with b.loop(0, 3 * self.n_atoms) as k:
            numbers = []
            for row in rows:
                place = b.ir.gep(self.positions, [b.ir.add(row, k)], source_etype=b.scalar)
                numbers.append(b.ir.load(place, typ=b.scalar))
            x = b.from_lanes(numbers)
            b.store(x, self.scratch, k)
            if self.with_forces:
                b.store(b.zero(), self.scratch, self.at(3 * self.n_atoms, k))
            self.add_energy(x * 0.0)  # nothing, or NaN: a configuration that is not finite has no energy

    def copy_out(self, block: ir.Value) -> None:
        """Copy energies and forces to where the caller wants them."""
        b = self.b
        energy, error = b.load(self.energy), b.load(self.energy_error)
        # Of an infinite energy the error is not a number.
        finite = b.compare(error, "==", error)
        b.store(energy + b.where(finite, error, 0.0), self.function.args[3], block)
        if not self.with_forces:
            return
        rows = self.rows_of_block(block)
        with b.loop(0, 3 * self.n_atoms) as k:
            force = -b.load(self.scratch, self.at(3 * self.n_atoms, k))
            for lane, row in enumerate(rows):
                place = b.ir.gep(self.function.args[4], [b.ir.add(row, k)], source_etype=b.scalar)
                b.ir.store(b.lane(force, lane), place)
