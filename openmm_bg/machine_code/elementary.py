"""Elementary functions of vectors in machine code.

The common ones are polynomials on a reduced range, fitted when the kernel is built, with the special values of
the standard functions (NaN for the logarithm of a negative number, and so on); rare ones call the C library for
each lane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

from llvmlite import ir

from openmm_bg.machine_code.vectors import Vector, VectorBuilder


@cache
def _fit(name: str, low: float, high: float, n_terms: int) -> list[float]:
    """Return the coefficients, rising, of a polynomial through a function at Chebyshev points."""
    import mpmath

    with mpmath.workdps(40):
        return [float(c) for c in mpmath.chebyfit(_FITTED[name], [low, high], n_terms)[::-1]]


def _around_zero(function: Callable, series: float) -> Callable:
    return lambda z: function(z) if abs(z) > 1e-12 else series


def _fitted() -> dict[str, Callable]:
    import mpmath as mp

    def odd(function: Callable, cubic: float) -> Callable:
        """(f(x)/x - 1)/x^2 as a function of z = x^2, for an odd function f(x) = x + cubic x^3 + ..."""
        return _around_zero(lambda z: (function(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, cubic)

    return {
        "exp": lambda x: mp.exp(x),
        "log": _around_zero(lambda f: (mp.log1p(f) - f + f * f / 2) / f**3, 1.0 / 3.0),
        "sin": odd(mp.sin, -1.0 / 6.0),
        "cos": _around_zero(lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, 1.0 / 24.0),
        "atan": odd(mp.atan, -1.0 / 3.0),
        "tanh": odd(mp.tanh, -1.0 / 3.0),
        "atanh": odd(mp.atanh, 1.0 / 3.0),
    }


class _Fitted(dict):
    def __missing__(self, key: str) -> Callable:
        self.update(_fitted())
        return self[key]


_FITTED = _Fitted()


class FunctionBuilder(VectorBuilder):
    """Writes the functions that programs are made of."""

    def call(self, name: str, *arguments: Vector) -> Vector:
        """Apply one of the functions that programs are made of."""
        own = getattr(self, f"_{name}", None)
        return own(*arguments) if own is not None else self.by_lane(name, *arguments)

    def _add(self, x: Vector, y: Vector) -> Vector:
        return x + y

    def _subtract(self, x: Vector, y: Vector) -> Vector:
        return x - y

    def _multiply(self, x: Vector, y: Vector) -> Vector:
        return x * y

    def _negate(self, x: Vector) -> Vector:
        return -x

    def _recip(self, x: Vector) -> Vector:
        return 1.0 / x

    def _sqrt(self, x: Vector) -> Vector:
        return self.intrinsic("sqrt", x)

    def _floor(self, x: Vector) -> Vector:
        return self.intrinsic("floor", x)

    def _ceil(self, x: Vector) -> Vector:
        return self.intrinsic("ceil", x)

    def _abs(self, x: Vector) -> Vector:
        return self.intrinsic("fabs", x)

    def _step(self, x: Vector) -> Vector:
        return self.where(self.compare(x, ">=", 0.0), 1.0, 0.0)

    def _delta(self, x: Vector) -> Vector:
        return self.where(self.compare(x, "==", 0.0), 1.0, 0.0)

    def _select(self, condition: Vector, yes: Vector, no: Vector) -> Vector:
        return self.where(self.compare(condition, "!=", 0.0), yes, no)

    def _min(self, x: Vector, y: Vector) -> Vector:
        return self.where(self.compare(x, "<", y), x, y)

    def _max(self, x: Vector, y: Vector) -> Vector:
        return self.where(self.compare(x, ">", y), x, y)

    def _polynomial(self, x: Vector, coefficients: Sequence[float]) -> Vector:
        result = self.vector(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            result = result * x + coefficient
        return result

    def _nearest_whole(self, x: Vector) -> tuple[Vector, ir.Value]:
        """Round numbers well below 2^22 (2^51); also return integers whose low bits are those of the result."""
        magic = 1.5 * 2.0**self.mantissa
        shifted = x + magic
        return shifted - magic, self.ir.bitcast(shifted.value, self.integers)

    def _exp(self, x: Vector) -> Vector:
        # x = n ln 2 + f; the two parts of ln 2 make the product with n exact.
        high, low = self._split(math.log(2.0), 1.4286068203094172e-06 if not self.double else None, "ln2")
        n, bits = self._nearest_whole(x * math.log2(math.e))
        fraction = (x - n * high) - n * low
        limit = 0.5 * math.log(2.0) + 1e-3
        result = self._polynomial(fraction, _fit("exp", -limit, limit, 14 if self.double else 8))
        shifted = self.ir.shl(bits, self.whole(self.mantissa))
        result = self.from_bits(self.ir.add(self.bits(result), shifted))
        largest = math.log(2.0) * (self.exponent_bias + 1) * (1.0 - 1e-7)
        smallest = -math.log(2.0) * (self.exponent_bias - 1) * (1.0 - 1e-7)
        result = self.where(self.compare(x, ">", largest), math.inf, result)
        result = self.where(self.compare(x, "<", smallest), 0.0, result)
        return self.where(self.ir.fcmp_unordered("uno", x.value, x.value), x, result)

    def _split(self, value: float, second: float | None, name: str) -> tuple[float, float]:
        """Split a constant so that the first part has few bits, whose products with small integers are exact."""
        import mpmath

        bits = 32 if self.double else 12
        with mpmath.workdps(60):
            exact = {"ln2": mpmath.log(2), "pi/2": mpmath.pi / 2}[name]
            scale = mpmath.mpf(2) ** bits
            first = mpmath.floor(exact * scale) / scale
            return float(first), float(exact - first)

    def _log(self, x: Vector) -> Vector:
        b = self.ir
        smallest = 2.0 ** (1 - self.exponent_bias)
        tiny = self.compare(x, "<", smallest)
        up = 2.0 ** (self.mantissa + 1)
        bits = self.bits(self.where(tiny, x * up, x))
        # The mantissa m in [sqrt(1/2), sqrt(2)), and the exponent.
        half = self.bits(self.vector(math.sqrt(0.5)))
        exponent = b.ashr(b.sub(bits, half), self.whole(self.mantissa))
        mantissa = self.from_bits(b.sub(bits, b.shl(exponent, self.whole(self.mantissa))))
        power = Vector(self, b.sitofp(exponent, self.type))
        power = self.where(tiny, power - (self.mantissa + 1), power)
        f = mantissa - 1.0
        high, low = self._split(math.log(2.0), None, "ln2")
        if self.double:  # log m = 2 atanh(f / (2 + f))
            s = f / (f + 2.0)
            z = s * s
            series = s * z * self._polynomial(z, _fit("atanh", 0.0, 0.0296, 10))
            result = power * high + (2.0 * s + (2.0 * series + power * low))
        else:
            tail = f * f * f * self._polynomial(f, _fit("log", math.sqrt(0.5) - 1, math.sqrt(2.0) - 1, 9))
            result = power * high + (f + (tail - 0.5 * (f * f) + power * low))
        result = self.where(self.compare(x, "==", math.inf), math.inf, result)
        result = self.where(self.compare(x, "==", 0.0), -math.inf, result)
        return self.where(self.compare(x, ">=", 0.0), result, math.nan)

    def _sine_and_cosine(self, x: Vector, quarter_turns: int) -> Vector:
        """Return sin(x + quarter_turns pi/2)."""
        import mpmath

        n, bits = self._nearest_whole(x * (2.0 / math.pi))
        remainder, rest = x, mpmath.pi / 2
        with mpmath.workdps(60):
            rest = mpmath.pi / 2
            for part_bits in (30, 60, None) if self.double else (8, 20, None):
                scale = mpmath.mpf(2) ** part_bits if part_bits else None
                part = mpmath.floor(rest * scale) / scale if scale else rest
                remainder = remainder - n * float(part)
                rest -= part
        z = remainder * remainder
        limit = (math.pi / 4) ** 2 * 1.01
        sine = remainder + remainder * z * self._polynomial(
            z, _fit("sin", 0.0, limit, 8 if self.double else 4)
        )
        cosine = 1.0 - 0.5 * z + z * z * self._polynomial(z, _fit("cos", 0.0, limit, 8 if self.double else 4))
        b = self.ir
        quadrant = b.add(bits, self.whole(quarter_turns))
        odd = b.icmp_signed("!=", b.and_(quadrant, self.whole(1)), self.whole(0))
        sign = b.shl(b.and_(quadrant, self.whole(2)), self.whole(self.mantissa + (10 if self.double else 7)))
        result = self.where(odd, cosine, sine)
        result = self.from_bits(b.xor(self.bits(result), sign))
        limit = 1e5 if self.double else 2e3
        far = self.ir.xor(
            self.compare(self._abs(x), "<=", limit),
            ir.Constant(
                ir.VectorType(ir.IntType(1), self.lanes), [ir.Constant(ir.IntType(1), 1)] * self.lanes
            ),
        )
        return self.unless_any(far, result, lambda: self.by_lane("cos" if quarter_turns else "sin", x))

    def _sin(self, x: Vector) -> Vector:
        return self._sine_and_cosine(x, 0)

    def _cos(self, x: Vector) -> Vector:
        return self._sine_and_cosine(x, 1)

    def _atan2(self, y: Vector, x: Vector) -> Vector:
        ax, ay = self._abs(x), self._abs(y)
        steep = self.compare(ay, ">", ax)
        large, small = self.where(steep, ay, ax), self.where(steep, ax, ay)
        # atan(s/l) = pi/4 + atan((s-l)/(s+l)), where the ratio is near one.
        near_one = self.compare(small, ">", large * (math.sqrt(2.0) - 1.0))
        numerator = self.where(near_one, small - large, small)
        denominator = self.where(near_one, small + large, large)
        zero = self.compare(denominator, "==", 0.0)
        t = numerator / self.where(zero, 1.0, denominator)
        z = t * t
        limit = (math.sqrt(2.0) - 1.0) ** 2 * 1.0001
        angle = t + t * z * self._polynomial(z, _fit("atan", 0.0, limit, 12 if self.double else 5))
        angle = self.where(near_one, angle + math.pi / 4, angle)
        angle = self.where(steep, math.pi / 2 - angle, angle)
        negative = self.ir.icmp_signed("<", self.bits(x), self.whole(0))
        angle = self.where(negative, math.pi - angle, angle)
        sign = self.ir.and_(self.bits(y), self.whole(-(2 ** (63 if self.double else 31))))
        return self.from_bits(self.ir.or_(self.bits(angle), sign))

    def _atan(self, x: Vector) -> Vector:
        return self._atan2(x, self.vector(1.0))

    def _asin(self, x: Vector) -> Vector:
        return self._atan2(x, self._sqrt((1.0 - x) * (1.0 + x)))

    def _acos(self, x: Vector) -> Vector:
        return self._atan2(self._sqrt((1.0 - x) * (1.0 + x)), x)

    def _tanh(self, x: Vector) -> Vector:
        size = self._abs(x)
        z = x * x
        small = x + x * z * self._polynomial(z, _fit("tanh", 0.0, 0.36, 14 if self.double else 6))
        large = 1.0 - 2.0 / (self._exp(2.0 * size) + 1.0)
        large = self.where(self.compare(x, "<", 0.0), -large, large)
        return self.where(self.compare(size, "<", 0.6), small, large)
