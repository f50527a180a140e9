"""The passes of a generalized-Born term."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from openmm_bg.machine_code.vectors import INT64, Vector
from openmm_bg.potentials.fused.columns import Columns, Prepared, Source, outputs_of
from openmm_bg.potentials.fused.geometry import Point, over_distance, times
from openmm_bg.potentials.fused.pairs import Pair, PairLoop, distance
from openmm_bg.potentials.programs import Program
from openmm_bg.potentials.terms import GeneralizedBornTerm

if TYPE_CHECKING:
    from openmm_bg.potentials.fused.kernel import KernelWriter


class SolventPasses:
    """The passes of a `GeneralizedBornTerm`."""

    def __init__(self, writer: KernelWriter, term: GeneralizedBornTerm, atoms: Columns) -> None:
        self.writer, self.term = writer, term
        arrays = term.arrays()
        self.parameters = dict(
            zip(term.config["particle_parameters"], arrays["particle_parameters"].numpy(), strict=True)
        )
        self.included = arrays["included"].numpy()
        self.atom = {"atom": Source(atoms, self.parameters)}
        self.atoms = atoms
        # Workspace: each value of each atom, and the derivative of the energy by it.
        self.value_at: dict[str, int] = {}
        self.slope_at: dict[str, int] = {}
        for name, _, _ in term.config["values"]:
            self.value_at[name] = writer.new_workspace(writer.n_atoms)
            if writer.with_forces:
                self.slope_at[name] = writer.new_workspace(writer.n_atoms)

    def prepare(self, loop: PairLoop) -> None:
        """Prepare all expressions, and join the loop of the pairs' energies."""
        writer, term = self.writer, self.term
        self.pair_values: list[tuple[str, list[tuple[Prepared, dict[str, Source]]], bool, int]] = []
        self.single_values: list[tuple[str, Prepared, Prepared | None, list[str]]] = []
        self.single_energies: list[tuple[Prepared, list[str]]] = []
        visible = ["x", "y", "z"]
        self.mask = None
        if not self.included.all():
            self.mask = loop.columns.add(self.included)
        for name, text, kind in term.config["values"]:
            program = term.expression(text).program
            if kind == "single":
                lanes = [v for v in visible if v in program.variables]
                backward = writer.prepared(program.with_gradient(lanes), set(lanes), self.atom, "atom")
                forward = writer.prepared(program, set(lanes), self.atom, "atom")
                self.single_values.append((name, forward, backward, lanes))
            else:
                program = outputs_of(program, ["r"], writer.with_forces)
                both = [self._pair_sources(loop, swapped) for swapped in (False, True)]
                prepared = [(writer.prepared(program, {"r"}, s, "pair"), s) for s in both]
                n_stored = 2 * loop.pairs.shape[1] if writer.with_forces else 0
                slopes = writer.new_workspace(n_stored)
                self.pair_values.append((name, prepared, kind == "pair_excluded", slopes))
            visible.append(name)
        values = visible[3:]
        for text, kind in term.config["energies"]:
            program = term.expression(text).program
            if kind == "single":
                lanes = [v for v in visible if v in program.variables]
                program = outputs_of(program, lanes, writer.with_forces)
                self.single_energies.append((writer.prepared(program, set(lanes), self.atom, "atom"), lanes))
            else:
                self._prepare_pair_energy(loop, program, values, kind == "pair_excluded")

    def _pair_sources(self, loop: PairLoop, swapped: bool) -> dict[str, Source]:
        first, second = loop.pairs[::-1] if swapped else loop.pairs
        ones = {f"{name}1": values for name, values in self.parameters.items()}
        twos = {f"{name}2": values for name, values in self.parameters.items()}
        joint = {name: values[first] for name, values in ones.items()}
        joint |= {name: values[second] for name, values in twos.items()}
        return {
            "first": Source(self.atoms, ones),
            "second": Source(self.atoms, twos),
            "pair": Source(loop.columns, joint),
        }

    def _prepare_pair_energy(
        self, loop: PairLoop, program: Program, values: list[str], excluded: bool
    ) -> None:
        writer, b = self.writer, self.writer.b
        ends = [f"{name}{end}" for name in values for end in "12" if f"{name}{end}" in program.variables]
        lanes = [*(["r"] if "r" in program.variables else []), *ends]
        sources = self._pair_sources(loop, swapped=False)
        program = outputs_of(program, lanes, writer.with_forces)
        prepared = writer.prepared(program, set(lanes), sources, "pair")
        own: dict[str, Vector] = {}
        sums: dict[str, ir.Value] = {}

        def row_start(i: ir.Value) -> None:
            for end in ends:
                if end.endswith("1"):
                    own[end] = b.load(writer.scratch, writer.at(self.value_at[end[:-1]], i))
                    if writer.with_forces:
                        sums[end] = sums.get(end) or b.variable()
                        b.store(b.zero(), sums[end])

        def row_end(i: ir.Value) -> None:
            if writer.with_forces:
                for end, place in sums.items():
                    b.add_to(b.load(place), writer.scratch, writer.at(self.slope_at[end[:-1]], i))

        def body(pair: Pair) -> tuple[Vector, Vector | None]:
            stored = writer.stored(sources, {"first": pair.i, "second": pair.j, "pair": pair.row})
            inputs = {"r": pair.r}
            for end in ends:
                if end.endswith("2"):
                    inputs[end] = b.load(writer.scratch, writer.at(self.value_at[end[:-1]], pair.j))
                else:
                    inputs[end] = own[end]
            outputs = prepared.emit(b, inputs, stored, writer.table_data)
            if excluded and self.mask is not None:
                included = b.compare(stored("pair", self.mask), "!=", 0.0)
                outputs = [b.where(included, output, 0.0) for output in outputs]
            if not writer.with_forces:
                return outputs[0], None
            slopes = dict(zip(lanes, outputs[1:], strict=True))
            for end in ends:
                if end.endswith("1"):
                    b.store(b.load(sums[end]) + slopes[end], sums[end])
                else:
                    b.add_to(slopes[end], writer.scratch, writer.at(self.slope_at[end[:-1]], pair.j))
            return outputs[0], slopes.get("r", b.zero())

        loop.bodies.append(body)
        loop.row_starts.append(row_start)
        loop.row_ends.append(row_end)

    def write_values(self, loop: PairLoop) -> None:
        """Write the values of all atoms, and the single-particle energies, with the slopes that these make."""
        writer, b = self.writer, self.writer.b
        with b.loop(0, writer.n_atoms) as i:
            for place in (*self.value_at.values(), *self.slope_at.values()):
                b.store(b.zero(), writer.scratch, writer.at(place, i))
        if self.pair_values:
            self._write_pair_values(loop)
        with b.loop(0, writer.n_atoms) as i:
            stored = writer.stored(self.atom, {"atom": i})
            lanes = self._single_inputs(i)
            for name, forward, _, _ in self.single_values:
                (lanes[name],) = forward.emit(b, lanes, stored, writer.table_data)
                b.store(lanes[name], writer.scratch, writer.at(self.value_at[name], i))
            for prepared, names in self.single_energies:
                outputs = prepared.emit(b, lanes, stored, writer.table_data)
                writer.add_energy(outputs[0])
                if writer.with_forces:
                    self._add_slopes(i, dict(zip(names, outputs[1:], strict=True)))

    def _single_inputs(self, i: ir.Value) -> dict[str, Vector]:
        writer, b = self.writer, self.writer.b
        lanes = dict(zip("xyz", writer.point(i), strict=True))
        lanes |= {name: b.load(writer.scratch, writer.at(at, i)) for name, at in self.value_at.items()}
        return lanes

    def _add_slopes(self, i: ir.Value, slopes: dict[str, Vector]) -> None:
        writer, b = self.writer, self.writer.b
        for name, slope in slopes.items():
            if name in self.slope_at:
                b.add_to(slope, writer.scratch, writer.at(self.slope_at[name], i))
        if any(axis in slopes for axis in "xyz"):
            writer.add_gradient(i, tuple(slopes.get(axis, b.zero()) for axis in "xyz"))

    def _write_pair_values(self, loop: PairLoop) -> None:
        writer, b = self.writer, self.writer.b
        sums = [b.variable() for _ in self.pair_values]

        def row_start(i: ir.Value) -> None:
            for place in sums:
                b.store(b.zero(), place)

        def row_end(i: ir.Value) -> None:
            for place, (name, *_) in zip(sums, self.pair_values, strict=True):
                b.add_to(b.load(place), writer.scratch, writer.at(self.value_at[name], i))

        def body(i: ir.Value, j: ir.Value, row: ir.Value, difference: Point) -> None:
            r = distance(b, difference)
            for place, (name, prepared, excluded, slopes) in zip(sums, self.pair_values, strict=True):
                for end, (program, sources) in enumerate(prepared):
                    rows = {"first": (i, j)[end], "second": (j, i)[end], "pair": row}
                    stored = writer.stored(sources, rows)
                    outputs = program.emit(b, {"r": r}, stored, writer.table_data)
                    if excluded and self.mask is not None:
                        included = b.compare(stored("pair", self.mask), "!=", 0.0)
                        outputs = [b.where(included, output, 0.0) for output in outputs]
                    if end == 0:
                        b.store(b.load(place) + outputs[0], place)
                    else:
                        b.add_to(outputs[0], writer.scratch, writer.at(self.value_at[name], j))
                    if writer.with_forces:
                        twice = b.ir.mul(row, INT64(2))
                        slope = over_distance(b, outputs[1], r)  # what the last pass needs
                        b.store(slope, writer.scratch, writer.at(slopes + end, twice))

        loop.each(body, row_start, row_end, makes_forces=False)

    def write_backward(self, loop: PairLoop) -> None:
        """Write the forces that come through the values."""
        writer, b = self.writer, self.writer.b
        if not writer.with_forces:
            return
        with b.loop(0, writer.n_atoms) as i:
            stored = writer.stored(self.atom, {"atom": i})
            lanes = self._single_inputs(i)
            for name, _, backward, names in self.single_values[::-1]:
                slope = b.load(writer.scratch, writer.at(self.slope_at[name], i))
                outputs = backward.emit(b, lanes, stored, writer.table_data)
                slopes = {n: slope * part for n, part in zip(names, outputs[1:], strict=True)}
                self._add_slopes(i, slopes)
        if not self.pair_values:
            return
        own: list[Vector] = []

        def row_start(i: ir.Value) -> None:
            own[:] = [
                b.load(writer.scratch, writer.at(self.slope_at[name], i)) for name, *_ in self.pair_values
            ]

        def body(i: ir.Value, j: ir.Value, row: ir.Value, difference: Point) -> Point:
            total = None
            twice = b.ir.mul(row, INT64(2))
            for here, (name, _, _, slopes) in zip(own, self.pair_values, strict=True):
                there = b.load(writer.scratch, writer.at(self.slope_at[name], j))
                one, two = (b.load(writer.scratch, writer.at(slopes + end, twice)) for end in (0, 1))
                # A pair that does not change a value has no force, even where the slope by the value is infinite.
                one, two = (
                    b.where(b.compare(slope, "==", 0.0), 0.0, end * slope)
                    for end, slope in ((here, one), (there, two))
                )
                part = one + two
                total = part if total is None else total + part
            return times(difference, total)

        loop.each(body, row_start)
