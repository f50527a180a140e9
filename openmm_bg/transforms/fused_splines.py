"""Rational-quadratic splines and their gradients in machine code, one pass over memory for each.

The formulas are those of `openmm_bg.transforms.splines`; a kernel goes through the features, a vector of
configurations at a time, and keeps all that it computes in registers. Its gradient is analytic; a second
derivative is not available.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from llvmlite import ir
from torch.autograd.function import once_differentiable
from torch.nn import functional

from openmm_bg.machine_code.compilation import VECTOR_BYTES, compile_module
from openmm_bg.machine_code.elementary import FunctionBuilder
from openmm_bg.machine_code.vectors import INT64, Vector
from openmm_bg.transforms.splines import MIN_BIN_SIZE, MIN_DERIVATIVE, UNIT_DERIVATIVE

MAX_BINS = 32
"""The code grows with the bins; with more of them the tensor form is used."""


class FusedSplines(torch.autograd.Function):
    """The splines of one coupling layer: see `openmm_bg.transforms.splines.coupling_splines`."""

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, raw: torch.Tensor, n_circular: int, bounds: torch.Tensor, inverse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the splines."""
        n_bins = raw.shape[1] // 3
        x, raw = x.contiguous(), raw.contiguous()
        batch = x.shape[-1]
        padded = _padded(x, raw)
        y, log_derivative = torch.empty_like(padded[0]), torch.empty_like(padded[0])
        for circular, rows in _kinds(n_circular, len(x)):
            kernel = _kernel(n_bins, circular, inverse, x.dtype == torch.float64, False)
            kernel(rows, bounds, *padded, y, log_derivative)
        y, log_derivative = y[:, :batch], log_derivative[:, :batch]
        context.save_for_backward(y if inverse else x, raw, bounds)
        context.n_circular, context.inverse = n_circular, inverse
        return y, log_derivative.sum(0)

    @staticmethod
    @once_differentiable
    def backward(
        context: Any, grad_y: torch.Tensor, grad_logabsdet: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients by inputs and raw parameters."""
        x, raw, bounds = context.saved_tensors
        n_bins, batch = raw.shape[1] // 3, x.shape[-1]
        padded = _padded(x, raw, grad_y, grad_logabsdet)
        grad_x, grad_raw = torch.empty_like(padded[0]), torch.empty_like(padded[1])
        for circular, rows in _kinds(context.n_circular, len(x)):
            kernel = _kernel(n_bins, circular, context.inverse, x.dtype == torch.float64, True)
            kernel(rows, bounds, *padded, grad_x, grad_raw)
        return grad_x[..., :batch], grad_raw[..., :batch], None, None, None


def _kinds(n_circular: int, n_rows: int) -> list[tuple[bool, tuple[int, int]]]:
    kinds = [(True, (0, n_circular)), (False, (n_circular, n_rows))]
    return [(circular, rows) for circular, rows in kinds if rows[0] < rows[1]]


def _padded(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return tensors, contiguous and aligned, whose last axis is padded with zeros to whole vectors."""
    lanes = VECTOR_BYTES // tensors[0].element_size()
    rest = -tensors[0].shape[-1] % lanes
    if rest:
        tensors = tuple(functional.pad(tensor, (0, rest)) for tensor in tensors)
    whole = [tensor.detach().contiguous() for tensor in tensors]
    return [tensor if tensor.data_ptr() % VECTOR_BYTES == 0 else tensor.clone() for tensor in whole]


class _Kernel:
    """A compiled kernel; the global interpreter lock is free while it runs."""

    def __init__(self, n_bins: int, circular: bool, inverse: bool, double: bool, gradient: bool) -> None:
        name = "openmm_bg_splines"
        writer = _Writer(name, n_bins, circular, inverse, double, gradient)
        writer.write()
        self._engine, address = compile_module(writer.module, name)
        n_arrays = 7 if gradient else 5
        self._function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * n_arrays)(address)
        self._lanes = VECTOR_BYTES // (8 if double else 4)

    def __call__(self, rows: tuple[int, int], bounds: torch.Tensor, *arrays: torch.Tensor) -> None:
        n_blocks = arrays[0].shape[-1] // self._lanes
        self._function(*rows, n_blocks, bounds.data_ptr(), *(array.data_ptr() for array in arrays))


@cache
def _kernel(n_bins: int, circular: bool, inverse: bool, double: bool, gradient: bool) -> _Kernel:
    return _Kernel(n_bins, circular, inverse, double, gradient)


class _Writer:
    """Writes a kernel: a loop over features and one over vectors of configurations.

    Args:
        name: The name of the function.
        n_bins: Bins of each spline.
        circular: Whether the slopes at both ends are tied; otherwise they are one.
        inverse: Whether the inverse functions are applied (in the gradient: were applied).
        double: Whether numbers are double precision.
        gradient: Whether gradients are computed instead of values.
    """

    def __init__(
        self, name: str, n_bins: int, circular: bool, inverse: bool, double: bool, gradient: bool
    ) -> None:
        self.n_bins, self.circular, self.inverse, self.gradient = n_bins, circular, inverse, gradient
        self.module = ir.Module(name)
        # first row, last row, vectors of a row; bounds, and the arrays of `_value` or `_gradient`
        kind = ir.FunctionType(ir.VoidType(), [*[INT64] * 3, *[ir.PointerType()] * (7 if gradient else 5)])
        self.function = ir.Function(self.module, kind, name)
        for argument in self.function.args[3:]:
            argument.add_attribute("noalias")
        self.b = FunctionBuilder(
            ir.IRBuilder(self.function.append_basic_block("entry")),
            double,
            VECTOR_BYTES // (8 if double else 4),
        )

    def write(self) -> None:
        """Write the kernel."""
        b = self.b
        first, last, self.n_blocks, bounds, *arrays = self.function.args
        with b.loop(first, last) as row:
            half = b.broadcast(bounds, row)
            with b.loop(0, self.n_blocks) as block:
                self.place = b.ir.add(b.ir.mul(row, self.n_blocks), block)
                parameters = b.ir.mul(row, INT64(3 * self.n_bins + 1))
                self.first_parameter = b.ir.add(b.ir.mul(parameters, self.n_blocks), block)
                (self._gradient if self.gradient else self._value)(block, half, *arrays)
        b.ir.ret_void()

    def _parameter(self, index: int) -> ir.Value:
        """Return where a raw parameter is."""
        return self.b.ir.add(self.first_parameter, self.b.ir.mul(INT64(index), self.n_blocks))

    def _value(self, block: ir.Value, half: Vector, *arrays: ir.Value) -> None:
        b = self.b
        x_array, raw, y_array, log_derivative_array = arrays
        x = b.load(x_array, self.place)
        unit, inside = self._unit(x, half)
        bin_ = _Bin(self, raw, unit, by_height=self.inverse)
        if self.inverse:
            bin_.solve(unit)
            y = bin_.left + bin_.t * bin_.width
        else:
            bin_.locate(unit)
            y = bin_.bottom + bin_.height * (bin_.numerator / bin_.denominator)
        log_derivative = bin_.log_derivative()
        y = b.where(inside, 2.0 * half * y - half, x)
        log_derivative = b.where(inside, -log_derivative if self.inverse else log_derivative, 0.0)
        b.store(y, y_array, self.place)
        b.store(log_derivative, log_derivative_array, self.place)

    def _gradient(self, block: ir.Value, half: Vector, *arrays: ir.Value) -> None:
        """Write the gradient, at inputs of the function itself: of an inverse, at the results."""
        b = self.b
        x_array, raw, grad_y_array, grad_log_array, grad_x_array, grad_raw = arrays
        unit, inside = self._unit(b.load(x_array, self.place), half)
        given, grad_log = b.load(grad_y_array, self.place), b.load(grad_log_array, block)
        grad_y = given * (2.0 * half)
        bin_ = _Bin(self, raw, unit, by_height=False)
        bin_.locate(unit)
        if self.inverse:
            # x = g(y, p) with y = f(x, p): dx = (dy - f_p dp) / f_x, and its log-derivative is -log f_x.
            slope = bin_.derivative()
            grad_input = (grad_y - grad_log * bin_.slope_of_log_derivative()) / slope
            grad_x, gradients = bin_.backward(-grad_input, -grad_log)
            grad_x = grad_input
        else:
            grad_x, gradients = bin_.backward(grad_y, grad_log)
        grad_x = b.where(inside, grad_x / (2.0 * half), given)
        b.store(grad_x, grad_x_array, self.place)
        gradients = {name: b.where(inside, value, 0.0) for name, value in gradients.items()}
        bin_.store_gradients(gradients, grad_raw)

    def _unit(self, x: Vector, half: Vector) -> tuple[Vector, ir.Value]:
        """Return inputs as part of the interval, and which are inside."""
        b = self.b
        unit = (x + half) / (2.0 * half)
        inside = b.ir.and_(b.compare(unit, ">=", 0.0), b.compare(unit, "<=", 1.0))
        return self._clamped(unit), inside

    def _clamped(self, x: Vector) -> Vector:
        return self.b.call("min", self.b.call("max", x, self.b.zero()), self.b.vector(1.0))


class _Bin:
    """The bin of each lane's spline, and the function in it."""

    def __init__(self, writer: _Writer, raw: ir.Value, unit: Vector, *, by_height: bool) -> None:
        self.writer, self.b = writer, writer.b
        b, k = writer.b, writer.n_bins
        self.width_shares, self.height_shares = self._shares(raw, 0), self._shares(raw, k)
        floor = 1.0 - MIN_BIN_SIZE * k
        widths = [MIN_BIN_SIZE + floor * share for share in self.width_shares]
        heights = [MIN_BIN_SIZE + floor * share for share in self.height_shares]
        slopes = [b.load(raw, writer._parameter(2 * k + i)) for i in range(k)]
        if writer.circular:
            slopes.append(slopes[0])
        else:
            slopes[0] = b.zero()
            slopes.append(b.zero())
        self.left, self.bottom, self.width, self.height = b.zero(), b.zero(), widths[0], heights[0]
        raw0, raw1 = slopes[0], slopes[1]
        self.above = []  # whether the bin is the i-th or a later one, for i from 1
        right, top = widths[0], heights[0]
        for i in range(1, k):
            above = b.compare(unit, ">=", top if by_height else right)
            self.above.append(above)
            self.left, self.bottom = b.where(above, right, self.left), b.where(above, top, self.bottom)
            self.width, self.height = (
                b.where(above, widths[i], self.width),
                b.where(above, heights[i], self.height),
            )
            raw0, raw1 = b.where(above, slopes[i], raw0), b.where(above, slopes[i + 1], raw1)
            right, top = right + widths[i], top + heights[i]
        (self.d0, self.rise0), (self.d1, self.rise1) = self._slope(raw0), self._slope(raw1)
        self.slope = self.height / self.width
        self.curvature = self.d0 + self.d1 - 2.0 * self.slope

    def _shares(self, raw: ir.Value, first: int) -> list[Vector]:
        """Return the softmax of raw parameters."""
        b, k = self.b, self.writer.n_bins
        values = [b.load(raw, self.writer._parameter(first + i)) for i in range(k)]
        highest = values[0]
        for value in values[1:]:
            highest = b.call("max", value, highest)
        powers = [b.call("exp", value - highest) for value in values]
        total = powers[0]
        for power in powers[1:]:
            total = total + power
        scale = 1.0 / total
        return [power * scale for power in powers]

    def _slope(self, raw: Vector) -> tuple[Vector, Vector]:
        """Return a slope at a knot, and its derivative by the raw parameter."""
        b = self.b
        x = raw + UNIT_DERIVATIVE
        power = b.call("exp", -b.call("abs", x))
        rest = 1.0 / (1.0 + power)
        softplus = b.call("max", x, b.zero()) - b.call("log", rest)
        return softplus + MIN_DERIVATIVE, b.where(b.compare(x, ">=", 0.0), rest, power * rest)

    def locate(self, unit: Vector) -> None:
        """Set the place in the bin from inputs."""
        self._set((unit - self.left) / self.width)

    def solve(self, unit: Vector) -> None:
        """Set the place in the bin from outputs: the root of a quadratic equation."""
        b = self.b
        y = unit - self.bottom
        quadratic = y * self.curvature + self.height * (self.slope - self.d0)
        linear = self.height * self.d0 - y * self.curvature
        constant = -(self.slope * y)
        # Non-negative in exact arithmetic; rounding may leave a tiny negative number.
        discriminant = b.call("max", linear * linear - 4.0 * quadratic * constant, b.zero())
        root = b.call("max", b.call("sqrt", discriminant), b.vector(1e-12))
        self._set(2.0 * constant / (-linear - root))

    def _set(self, t: Vector) -> None:
        self.t = self.writer._clamped(t)
        self.mixed = self.t * (1.0 - self.t)
        self.rest = (1.0 - self.t) * (1.0 - self.t)
        self.denominator = self.slope + self.curvature * self.mixed
        self.numerator = self.slope * self.t * self.t + self.d0 * self.mixed
        self.weighted = self.d1 * self.t * self.t + 2.0 * self.slope * self.mixed + self.d0 * self.rest

    def derivative(self) -> Vector:
        """Return the derivative of the function."""
        share = self.slope / self.denominator
        return share * share * self.weighted

    def log_derivative(self) -> Vector:
        """Return its logarithm."""
        return self.b.call("log", self.derivative())

    def _by_t(self) -> tuple[Vector, Vector]:
        """Return the derivatives by t of `weighted` and `denominator`."""
        turn = 1.0 - 2.0 * self.t
        weighted = 2.0 * (self.d1 * self.t - self.d0 * (1.0 - self.t) + self.slope * turn)
        return weighted, self.curvature * turn

    def slope_of_log_derivative(self) -> Vector:
        """Return the derivative of the log-derivative by the input."""
        weighted, denominator = self._by_t()
        return (weighted / self.weighted - 2.0 * denominator / self.denominator) / self.width

    def backward(self, grad_y: Vector, grad_log: Vector) -> tuple[Vector, dict[str, Vector]]:
        """Return the gradients by the input and by the bin's numbers, of both results."""
        t, mixed, rest = self.t, self.mixed, self.rest
        ratio = self.numerator / self.denominator
        grad_numerator = grad_y * self.height / self.denominator
        grad_denominator = -(grad_numerator * ratio) - 2.0 * grad_log / self.denominator
        grad_weighted = grad_log / self.weighted
        grad_curvature = grad_denominator * mixed
        grad_mixed = (
            grad_denominator * self.curvature + grad_numerator * self.d0 + 2.0 * grad_weighted * self.slope
        )
        grad_slope = (
            2.0 * grad_log / self.slope
            + grad_denominator
            + grad_numerator * t * t
            + 2.0 * grad_weighted * mixed
            - 2.0 * grad_curvature
        )
        grad_t = (
            2.0 * grad_numerator * self.slope * t
            + 2.0 * grad_weighted * (self.d1 * t - self.d0 * (1.0 - t))
            + grad_mixed * (1.0 - 2.0 * t)
        )
        per_width = 1.0 / self.width
        grad_x = grad_t * per_width
        return grad_x, {
            "left": -grad_x,
            "bottom": grad_y,
            "width": -(grad_x * t) - grad_slope * self.slope * per_width,
            "height": grad_y * ratio + grad_slope * per_width,
            "d0": (grad_numerator * mixed + grad_weighted * rest + grad_curvature) * self.rise0,
            "d1": (grad_weighted * t * t + grad_curvature) * self.rise1,
        }

    def store_gradients(self, gradients: dict[str, Vector], grad_raw: ir.Value) -> None:
        """Store the gradients by the raw parameters."""
        k = self.writer.n_bins
        self._store_shares(gradients["left"], gradients["width"], self.width_shares, grad_raw, 0)
        self._store_shares(gradients["bottom"], gradients["height"], self.height_shares, grad_raw, k)
        zero = self.b.zero()
        knots = [zero] * (k + 1)
        for i in range(k):
            knots[i] = knots[i] + self._if_bin(i, gradients["d0"])
            knots[i + 1] = knots[i + 1] + self._if_bin(i, gradients["d1"])
        knots[0] = knots[0] + knots[k] if self.writer.circular else zero
        for i in range(k):
            self.b.store(knots[i], grad_raw, self.writer._parameter(2 * k + i))
        self.b.store(zero, grad_raw, self.writer._parameter(3 * k))

    def _if_bin(self, i: int, value: Vector) -> Vector:
        """Return a value where the bin is the i-th, and zero elsewhere."""
        if i < self.writer.n_bins - 1:
            value = self.b.where(self.above[i], 0.0, value)
        return self.b.where(self.above[i - 1], value, 0.0) if i > 0 else value

    def _store_shares(
        self, grad_edge: Vector, grad_size: Vector, shares: list[Vector], grad_raw: ir.Value, first: int
    ) -> None:
        """Store the gradients by the raw widths or heights; the edge is the sum of all sizes before the bin."""
        b, k = self.b, self.writer.n_bins
        gradients = []
        for i in range(k):
            value = b.where(self.above[i - 1], grad_size, 0.0) if i > 0 else grad_size
            gradients.append(b.where(self.above[i], grad_edge, value) if i < k - 1 else value)
        mean = shares[0] * gradients[0]
        for share, gradient in zip(shares[1:], gradients[1:], strict=True):
            mean = mean + share * gradient
        floor = 1.0 - MIN_BIN_SIZE * k
        for i in range(k):
            gradient = floor * shares[i] * (gradients[i] - mean)
            b.store(gradient, grad_raw, self.writer._parameter(first + i))
