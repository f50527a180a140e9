"""The loop over the groups of a bonded term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openmm_bg.machine_code.vectors import INT64, Vector
from openmm_bg.potentials.fused.columns import Source, outputs_of
from openmm_bg.potentials.fused.geometry import Angle, Dihedral, Distance, Point, plus
from openmm_bg.potentials.terms import BondedTerm

if TYPE_CHECKING:
    from openmm_bg.potentials.fused.kernel import KernelWriter


class BondedLoop:
    """The loop over the groups of a `BondedTerm`."""

    def __init__(self, writer: KernelWriter, term: BondedTerm) -> None:
        self.writer, self.term = writer, term
        expression = term.expression(term.config["expression"])
        self.inputs = {
            name: (kind, list(places))
            for name, (kind, places) in term.config["inputs"].items()
            if name in expression.variables
        }
        self.names = list(self.inputs)
        arrays = term.arrays()
        n_groups = arrays["atoms"].shape[1]
        columns = writer.new_columns(n_groups)
        parameters = dict(
            zip(term.config["group_parameters"], arrays["group_parameters"].numpy(), strict=True)
        )
        self.sources = {"group": Source(columns, parameters)}
        program = outputs_of(expression.program, self.names, writer.with_forces)
        self.prepared = writer.prepared(program, set(self.names), self.sources, "group")
        self.size, self.n_groups = arrays["atoms"].shape[0], n_groups
        self.first_atom = writer.add_integers(arrays["atoms"].numpy().T)

    def write(self) -> None:
        """Write the loop."""
        writer, b = self.writer, self.writer.b
        with b.loop(0, self.n_groups) as group:
            row = b.ir.mul(group, INT64(self.size))
            atoms = [writer.integer(writer.at(self.first_atom + k, row)) for k in range(self.size)]
            points = [writer.point(atom) for atom in atoms]
            shapes: dict[tuple, Any] = {}
            coordinates, values = {}, {}
            for name, (kind, places) in self.inputs.items():
                if kind in ("x", "y", "z"):
                    coordinates[name] = points[places[0]]["xyz".index(kind)]
                    continue
                family = "dihedral" if kind.endswith("dihedral") else kind
                shapes.setdefault((family, *places), []).append((name, kind))
            made = {}
            for (family, *places), members in shapes.items():
                corners = [points[k] for k in places]
                if family == "dihedral":
                    shape = Dihedral(b, places, corners, {kind for _, kind in members})
                else:
                    shape = {"distance": Distance, "angle": Angle}[family](b, places, corners)
                made[family, *places] = shape
                for name, kind in members:
                    values[name] = shape.values[kind]
            stored = writer.stored(self.sources, {"group": group})
            outputs = self.prepared.emit(b, {**coordinates, **values}, stored, writer.table_data)
            writer.add_energy(outputs[0])
            if writer.with_forces:
                slopes = dict(zip(self.names, outputs[1:], strict=True))
                for place, gradient in self._gradients(made, shapes, slopes).items():
                    writer.add_gradient(atoms[place], gradient)

    def _gradients(self, made: dict, shapes: dict, slopes: dict[str, Vector]) -> dict[int, Point]:
        """Add up the gradients of all inputs, by the places of the atoms in the group."""
        zero = self.writer.b.zero()
        total: dict[int, Point] = {}

        def add(place: int, gradient: Point) -> None:
            total[place] = plus(total[place], gradient) if place in total else gradient

        for key, shape in made.items():
            for place, gradient in shape.gradients(
                {kind: slopes[name] for name, kind in shapes[key]}
            ).items():
                add(place, gradient)
        for name, (kind, places) in self.inputs.items():
            if kind in ("x", "y", "z"):
                add(places[0], tuple(slopes[name] if axis == kind else zero for axis in "xyz"))
        return total
