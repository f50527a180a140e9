"""The functions of OpenMM's expressions: on tensors, on numbers, and how they are differentiated.

Source: OpenMM user guide, "Writing custom expressions".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from openmm_bg.potentials.programs import Program

Value: TypeAlias = torch.Tensor | float


@dataclass(frozen=True)
class Function:
    """A function of an expression.

    Attributes:
        arity: How many arguments it takes.
        evaluate: Its value for tensors that broadcast, or numbers (at least one is a tensor).
        tangent: Adds the derivative to a program: called with the program, the steps of the arguments, the
            step of the value, and the steps of the arguments' derivatives; returns the derivative's step.
    """

    arity: int
    evaluate: Callable[..., Value]
    tangent: Callable[[Program, Sequence[int], int, Sequence[int]], int]


def _tensors(*values: Value) -> list[torch.Tensor]:
    like = next(value for value in values if isinstance(value, torch.Tensor))
    return [value if isinstance(value, torch.Tensor) else like.new_tensor(value) for value in values]


def _power(x: Value, y: Value) -> Value:
    return x**y


def _select(condition: Value, yes: Value, no: Value) -> Value:
    condition, yes, no = _tensors(condition, yes, no)
    return torch.where(condition != 0, yes, no)


def _minimum(x: Value, y: Value) -> Value:
    x, y = _tensors(x, y)
    return torch.where(x < y, x, y)  # of an undefined x, OpenMM makes y


def _maximum(x: Value, y: Value) -> Value:
    x, y = _tensors(x, y)
    return torch.where(x > y, x, y)


def _linear(name: str) -> Callable:
    """Return the tangent of a function that is linear in all its arguments."""
    return lambda p, args, out, dots: p.call(name, *dots)


def _chain(partial: Callable[[Program, int, int], int]) -> Callable:
    """Return the tangent of a function of one argument: its derivative times that of the argument."""
    return lambda p, args, out, dots: p.call("multiply", partial(p, args[0], out), dots[0])


def _zero(p: Program, args: Sequence[int], out: int, dots: Sequence[int]) -> int:
    return p.number(0.0)


def _multiply_tangent(p: Program, args: Sequence[int], out: int, dots: Sequence[int]) -> int:
    (x, y), (dx, dy) = args, dots
    return p.call("add", p.call("multiply", dx, y), p.call("multiply", x, dy))


def _power_tangent(p: Program, args: Sequence[int], out: int, dots: Sequence[int]) -> int:
    (x, y), (dx, dy) = args, dots
    base = p.call("multiply", y, p.call("power", x, p.call("subtract", y, p.number(1.0))))
    result = p.call("multiply", base, dx)
    if p.is_number(dy, 0.0):  # log(x) is not finite for x <= 0, where x^2 is
        return result
    return p.call("add", result, p.call("multiply", p.call("multiply", out, p.call("log", x)), dy))


def _atan2_tangent(p: Program, args: Sequence[int], out: int, dots: Sequence[int]) -> int:
    (y, x), (dy, dx) = args, dots
    radius2 = p.call("add", p.call("multiply", x, x), p.call("multiply", y, y))
    numerator = p.call("subtract", p.call("multiply", x, dy), p.call("multiply", y, dx))
    return p.call("divide", numerator, radius2)


def _choose(smaller_first: bool) -> Callable:
    """Return the tangent of min or max."""

    def tangent(p: Program, args: Sequence[int], out: int, dots: Sequence[int]) -> int:
        x, y = args if smaller_first else args[::-1]
        return p.call("select", p.call("step", p.call("subtract", y, x)), *dots)

    return tangent


def _abs_tangent(p: Program, args: Sequence[int], out: int, dots: Sequence[int]) -> int:
    return p.call("select", p.call("step", args[0]), dots[0], p.call("negate", dots[0]))


def _select_tangent(p: Program, args: Sequence[int], out: int, dots: Sequence[int]) -> int:
    # Not a product with the condition: an undefined derivative of the other branch must not spread.
    return p.call("select", args[0], dots[1], dots[2])


def _gaussian(scale: float) -> Callable[[Program, int, int], int]:
    def partial(p: Program, x: int, out: int) -> int:
        return p.call("multiply", p.number(scale), p.call("exp", p.call("negate", p.call("multiply", x, x))))

    return partial


def _over_root(sign: float, inside: Callable[[Program, int], int]) -> Callable[[Program, int, int], int]:
    def partial(p: Program, x: int, out: int) -> int:
        return p.call("divide", p.number(sign), p.call("sqrt", inside(p, p.call("multiply", x, x))))

    return partial


def _negated(name: str) -> Callable[[Program, int, int], int]:
    return lambda p, x, out: p.call("negate", p.call(name, x))


_TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)

FUNCTIONS: dict[str, Function] = {
    "add": Function(2, lambda x, y: x + y, _linear("add")),
    "subtract": Function(2, lambda x, y: x - y, _linear("subtract")),
    "multiply": Function(2, lambda x, y: x * y, _multiply_tangent),
    "power": Function(2, _power, _power_tangent),
    "negate": Function(1, lambda x: -x, _linear("negate")),
    "recip": Function(
        1, lambda x: 1.0 / x, _chain(lambda p, x, out: p.call("negate", p.call("multiply", out, out)))
    ),
    "sqrt": Function(
        1,
        torch.sqrt,
        _chain(lambda p, x, out: p.call("multiply", p.number(0.5), p.call("recip", out))),
    ),
    "exp": Function(1, torch.exp, _chain(lambda p, x, out: out)),
    "log": Function(1, torch.log, _chain(lambda p, x, out: p.call("recip", x))),
    "sin": Function(1, torch.sin, _chain(lambda p, x, out: p.call("cos", x))),
    "cos": Function(1, torch.cos, _chain(_negated("sin"))),
    "asin": Function(
        1, torch.asin, _chain(_over_root(1.0, lambda p, x2: p.call("subtract", p.number(1.0), x2)))
    ),
    "acos": Function(
        1, torch.acos, _chain(_over_root(-1.0, lambda p, x2: p.call("subtract", p.number(1.0), x2)))
    ),
    "atan": Function(
        1,
        torch.atan,
        _chain(lambda p, x, out: p.call("recip", p.call("add", p.number(1.0), p.call("multiply", x, x)))),
    ),
    "atan2": Function(2, lambda y, x: torch.atan2(*_tensors(y, x)), _atan2_tangent),
    "sinh": Function(1, torch.sinh, _chain(lambda p, x, out: p.call("cosh", x))),
    "cosh": Function(1, torch.cosh, _chain(lambda p, x, out: p.call("sinh", x))),
    "tanh": Function(
        1,
        torch.tanh,
        _chain(lambda p, x, out: p.call("subtract", p.number(1.0), p.call("multiply", out, out))),
    ),
    "erf": Function(1, torch.erf, _chain(_gaussian(_TWO_OVER_ROOT_PI))),
    "erfc": Function(1, torch.erfc, _chain(_gaussian(-_TWO_OVER_ROOT_PI))),
    "min": Function(2, _minimum, _choose(smaller_first=True)),
    "max": Function(2, _maximum, _choose(smaller_first=False)),
    "abs": Function(1, torch.abs, _abs_tangent),
    "floor": Function(1, torch.floor, _zero),
    "ceil": Function(1, torch.ceil, _zero),
    "step": Function(1, lambda x: (x >= 0).to(x.dtype), _zero),
    "delta": Function(1, lambda x: (x == 0).to(x.dtype), _zero),
    "select": Function(3, _select, _select_tangent),
}
"""The functions that programs are made of."""

REWRITTEN: dict[str, int] = {
    **{"divide": 2, "square": 1, "cube": 1, "tan": 1, "sec": 1, "csc": 1, "cot": 1},
}
"""Functions that a program expresses by the others, with their numbers of arguments."""
