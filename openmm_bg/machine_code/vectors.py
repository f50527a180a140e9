"""Vector arithmetic in machine code: one lane for each configuration, through LLVM.

A `VectorBuilder` writes LLVM instructions for vectors of 16 single-precision or 8 double-precision numbers, so
that the generator of a kernel reads like the arithmetic that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

INT32, INT64 = ir.IntType(32), ir.IntType(64)
_CONTRACT = ("contract", "nsz", "arcp")  # a*b+c in one rounding; neither NaN nor infinity is assumed away


class Vector:
    """A vector of lanes; its operators write instructions."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: VectorBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    def _with(self, operation: str, other: Vector | float, swapped: bool = False) -> Vector:
        other = self.builder.vector(other)
        a, b = (other, self) if swapped else (self, other)
        return Vector(self.builder, getattr(self.builder.ir, operation)(a.value, b.value, flags=_CONTRACT))

    def __add__(self, other: Vector | float) -> Vector:
        return self._with("fadd", other)

    def __radd__(self, other: float) -> Vector:
        return self._with("fadd", other, swapped=True)

    def __sub__(self, other: Vector | float) -> Vector:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Vector:
        return self._with("fsub", other, swapped=True)

    def __mul__(self, other: Vector | float) -> Vector:
        return self._with("fmul", other)

    def __rmul__(self, other: float) -> Vector:
        return self._with("fmul", other, swapped=True)

    def __truediv__(self, other: Vector | float) -> Vector:
        return self._with("fdiv", other)

    def __rtruediv__(self, other: float) -> Vector:
        return self._with("fdiv", other, swapped=True)

    def __neg__(self) -> Vector:
        return Vector(self.builder, self.builder.ir.fneg(self.value, flags=_CONTRACT))


class VectorBuilder:
    """Writes vector instructions into one function.

    Args:
        builder: Where instructions go.
        double: Whether numbers are double precision.
        lanes: How many a vector has.
    """

    def __init__(self, builder: ir.IRBuilder, double: bool, lanes: int) -> None:
        self.ir, self.double, self.lanes = builder, double, lanes
        self.scalar = ir.DoubleType() if double else ir.FloatType()
        self.integer = INT64 if double else INT32
        self.type = ir.VectorType(self.scalar, lanes)
        self.integers = ir.VectorType(self.integer, lanes)
        self.mantissa, self.exponent_bias = (52, 1023) if double else (23, 127)

    # Values, memory and control flow

    def vector(self, value: Vector | float) -> Vector:
        """Return a vector, or a number in every lane."""
        if isinstance(value, Vector):
            return value
        constant = ir.Constant(self.scalar, float(value))
        return Vector(self, ir.Constant(self.type, [constant] * self.lanes))

    def whole(self, value: int) -> ir.Constant:
        """Return a whole number in every lane."""
        return ir.Constant(self.integers, [ir.Constant(self.integer, value)] * self.lanes)

    def index(self, value: int | ir.Value) -> ir.Value:
        """Return a 64-bit integer."""
        return ir.Constant(INT64, value) if isinstance(value, int) else value

    def zero(self) -> Vector:
        """Return zero in every lane."""
        return self.vector(0.0)

    def load(self, pointer: ir.Value, index: int | ir.Value = 0) -> Vector:
        """Load a vector from an array of vectors."""
        place = self.ir.gep(pointer, [self.index(index)], source_etype=self.type)
        return Vector(self, self.ir.load(place, align=self._alignment, typ=self.type))

    def store(self, vector: Vector, pointer: ir.Value, index: int | ir.Value = 0) -> None:
        """Store a vector in an array of vectors."""
        place = self.ir.gep(pointer, [self.index(index)], source_etype=self.type)
        self.ir.store(vector.value, place, align=self._alignment)

    def add_to(self, vector: Vector, pointer: ir.Value, index: int | ir.Value = 0) -> None:
        """Add to a vector in an array of vectors."""
        self.store(self.load(pointer, index) + vector, pointer, index)

    @property
    def _alignment(self) -> int:
        return self.lanes * (8 if self.double else 4)

    def broadcast(self, pointer: ir.Value, index: int | ir.Value) -> Vector:
        """Load a number from an array of numbers into every lane."""
        place = self.ir.gep(pointer, [self.index(index)], source_etype=self.scalar)
        return self.splat(self.ir.load(place, typ=self.scalar))

    def splat(self, number: ir.Value) -> Vector:
        """Copy a number into every lane."""
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.ir.insert_element(undefined, number, ir.Constant(INT32, 0))
        mask = ir.Constant(ir.VectorType(INT32, self.lanes), [ir.Constant(INT32, 0)] * self.lanes)
        return Vector(self, self.ir.shuffle_vector(first, undefined, mask))

    def from_lanes(self, numbers: Sequence[ir.Value]) -> Vector:
        """Join one number for each lane."""
        value = ir.Constant(self.type, ir.Undefined)
        for lane, number in enumerate(numbers):
            value = self.ir.insert_element(value, number, ir.Constant(INT32, lane))
        return Vector(self, value)

    def lane(self, vector: Vector | ir.Value, lane: int) -> ir.Value:
        """Return the number in one lane."""
        value = vector.value if isinstance(vector, Vector) else vector
        return self.ir.extract_element(value, ir.Constant(INT32, lane))

    def variable(self) -> ir.Value:
        """Return the place of a new vector variable, at first zero; it ends up in a register."""
        with self.ir.goto_entry_block():
            place = self.ir.alloca(self.type)
        self.ir.store(self.zero().value, place)
        return place

    @contextmanager
    def loop(self, start: int | ir.Value, stop: int | ir.Value) -> Iterator[ir.Value]:
        """Repeat what is written in the block, for every index from ``start`` to ``stop``, not included."""
        b = self.ir
        before = b.block
        header, body, after = (b.append_basic_block(name) for name in ("head", "body", "after"))
        b.branch(header)
        b.position_at_end(header)
        counter = b.phi(INT64)
        counter.add_incoming(self.index(start), before)
        b.cbranch(b.icmp_signed("<", counter, self.index(stop)), body, after)
        b.position_at_end(body)
        yield counter
        counter.add_incoming(b.add(counter, self.index(1)), b.block)
        b.branch(header)
        b.position_at_end(after)

    def compare(self, x: Vector, operator: str, y: Vector | float) -> ir.Value:
        """Compare lane by lane; any comparison with NaN is false, but != is true."""
        compare = self.ir.fcmp_unordered if operator == "!=" else self.ir.fcmp_ordered
        return compare(operator, x.value, self.vector(y).value)

    def where(self, condition: ir.Value, yes: Vector | float, no: Vector | float) -> Vector:
        """Choose lane by lane."""
        return Vector(self, self.ir.select(condition, self.vector(yes).value, self.vector(no).value))

    def _declared(self, name: str, kind: ir.Type, n_arguments: int) -> ir.Function:
        module = self.ir.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(kind, [kind] * n_arguments), name)

    def by_lane(self, name: str, *arguments: Vector) -> Vector:
        """Call a function of the C library, in double precision, for each lane."""
        b, double = self.ir, ir.DoubleType()
        name = {"power": "pow"}.get(name, name)
        function = self._declared(name, double, len(arguments))
        results = []
        for lane in range(self.lanes):
            numbers = [self.lane(a, lane) for a in arguments]
            if not self.double:
                numbers = [b.fpext(number, double) for number in numbers]
            result = b.call(function, numbers)
            results.append(result if self.double else b.fptrunc(result, self.scalar))
        return self.from_lanes(results)

    def unless_any(self, condition: ir.Value, usual: Vector, rare: Callable[[], Vector]) -> Vector:
        """Return the usual value, or, where the condition holds in any lane, the rare one in those lanes."""
        b = self.ir
        mask = b.bitcast(condition, ir.IntType(self.lanes))
        here, block, after = b.block, b.append_basic_block("rare"), b.append_basic_block("after")
        b.cbranch(b.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(self.lanes), 0)), block, after)
        b.position_at_end(block)
        chosen = self.where(condition, rare(), usual)
        end = b.block
        b.branch(after)
        b.position_at_end(after)
        result = b.phi(self.type)
        result.add_incoming(usual.value, here)
        result.add_incoming(chosen.value, end)
        return Vector(self, result)

    def intrinsic(self, name: str, *arguments: Vector) -> Vector:
        """Apply a function that LLVM itself knows."""
        function = self._declared(
            f"llvm.{name}.v{self.lanes}f{64 if self.double else 32}", self.type, len(arguments)
        )
        return Vector(self, self.ir.call(function, [a.value for a in arguments]))

    def bits(self, x: Vector) -> ir.Value:
        """Return the bits of numbers as integers."""
        return self.ir.bitcast(x.value, self.integers)

    def from_bits(self, bits: ir.Value) -> Vector:
        """Return the numbers that have these bits."""
        return Vector(self, self.ir.bitcast(bits, self.type))
