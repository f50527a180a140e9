"""Straight-line programs: what parsed expressions become, and what is run, differentiated and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials.functions import FUNCTIONS, Value
from openmm_bg.potentials.tables import Table

_LARGEST_PRODUCT = 32  # x^n is written as products up to this n


@dataclass(frozen=True)
class Step:
    """One step of a program: a number, a variable, a function of earlier steps, or a lookup in a table.

    Attributes:
        kind: "number", "variable", "call" or "table".
        value: The number, or the name of the variable, the function or the table.
        arguments: The earlier steps whose results it takes.
        orders: Of a table, the order of the derivative by each argument.
    """

    kind: str
    value: float | str
    arguments: tuple[int, ...] = ()
    orders: tuple[int, ...] = ()


class Program:
    """Steps in which equal subexpressions are computed once, numbers folded, and trivial steps left out.

    Args:
        tables: Tabulated functions by name.

    Attributes:
        steps: The steps, each after those that it needs.
        outputs: The steps whose results the program returns.
    """

    def __init__(self, tables: Mapping[str, Table] | None = None) -> None:
        self.tables = dict(tables or {})
        self.steps: list[Step] = []
        self.outputs: tuple[int, ...] = ()
        self._index: dict[Step, int] = {}

    @property
    def variables(self) -> frozenset[str]:
        """The names of the variables."""
        return frozenset(str(step.value) for step in self.steps if step.kind == "variable")

    def number(self, value: float) -> int:
        """Add a number and return its step."""
        return self._add(Step("number", float(value)))

    def variable(self, name: str) -> int:
        """Add a variable and return its step."""
        return self._add(Step("variable", name))

    def is_number(self, step: int, value: float | None = None) -> bool:
        """Whether a step is a number, or this number."""
        found = self.steps[step]
        return found.kind == "number" and (value is None or found.value == value)

    def lookup(self, name: str, arguments: Iterable[int], orders: Iterable[int] | None = None) -> int:
        """Add a lookup in a table, or of its derivative, and return its step."""
        arguments = tuple(arguments)
        return self._add(Step("table", name, arguments, tuple(orders or (0,) * len(arguments))))

    def call(self, name: str, *arguments: int) -> int:
        """Add a function of earlier steps, simplified, and return its step.

        Simplifications are those of OpenMM's parser: those that change a value at most by rounding,
        products with the number zero apart, which are zero.
        """
        steps = [self.steps[k] for k in arguments]
        if name in _SIMPLIFIED:
            simple = _SIMPLIFIED[name](self, *arguments)
            if simple is not None:
                return simple
        if all(step.kind == "number" for step in steps):
            # As tensors, so that 1/0 is infinite and log(-1) NaN, as in OpenMM, and no exception.
            numbers = (torch.tensor(step.value, dtype=torch.float64) for step in steps)
            return self.number(float(FUNCTIONS[name].evaluate(*numbers)))
        return self._add(Step("call", name, tuple(arguments)))

    def _add(self, step: Step) -> int:
        if step not in self._index:
            self._index[step] = len(self.steps)
            self.steps.append(step)
        return self._index[step]

    def derivative(self, step: int, variable: str) -> int:
        """Add the derivative of a step by a variable, and return its step."""
        return self._derivative(step, variable, {})

    def _derivative(self, root: int, variable: str, known: dict[int, int]) -> int:
        # Arguments come before the steps that use them, so one pass over what the root needs is enough.
        for k in sorted(self._needed([root])):
            step = self.steps[k]
            if step.kind == "number":
                known[k] = self.number(0.0)
            elif step.kind == "variable":
                known[k] = self.number(1.0 if step.value == variable else 0.0)
            else:
                dots = [known[a] for a in step.arguments]
                if all(self.is_number(dot, 0.0) for dot in dots):
                    known[k] = self.number(0.0)
                elif step.kind == "table":
                    known[k] = self._table_derivative(step, dots)
                else:
                    known[k] = FUNCTIONS[str(step.value)].tangent(self, step.arguments, k, dots)
        return known[root]

    def _table_derivative(self, step: Step, dots: list[int]) -> int:
        result = self.number(0.0)
        for number, dot in enumerate(dots):
            if self.is_number(dot, 0.0) or not self.tables[str(step.value)].continuous[number]:
                continue
            orders = tuple(order + (k == number) for k, order in enumerate(step.orders))
            slope = self.lookup(str(step.value), step.arguments, orders)
            result = self.call("add", result, self.call("multiply", slope, dot))
        return result

    def _needed(self, roots: Iterable[int]) -> set[int]:
        needed, stack = set(), list(roots)
        while stack:
            k = stack.pop()
            if k not in needed:
                needed.add(k)
                stack.extend(self.steps[k].arguments)
        return needed

    def pruned(self, outputs: Iterable[int]) -> Program:
        """Return the program of these outputs, without the steps that they do not need."""
        outputs = tuple(outputs)
        result, order = Program(self.tables), {}
        for old in sorted(self._needed(outputs)):
            step = self.steps[old]
            moved = Step(step.kind, step.value, tuple(order[k] for k in step.arguments), step.orders)
            order[old] = result._add(moved)
        result.outputs = tuple(order[k] for k in outputs)
        return result

    def with_gradient(self, variables: Iterable[str]) -> Program:
        """Return a program of this one's single output and its derivatives by the variables."""
        whole = self.pruned(self.outputs)
        (root,) = whole.outputs
        return whole.pruned([root, *(whole.derivative(root, name) for name in variables)])

    def __call__(self, variables: Mapping[str, Value]) -> list[Value]:
        """Return the values of the outputs.

        Args:
            variables: Values of all `variables`: tensors that broadcast, or numbers.

        Raises:
            InputError: If a variable has no value.
        """
        if missing := self.variables - variables.keys():
            raise InputError(f"The expression uses {sorted(missing)}, which has no value here.")
        results: list[Value | None] = []
        for k, step in enumerate(self.steps):
            arguments = [results[a] for a in step.arguments]
            if step.kind == "number":
                results.append(step.value)
            elif step.kind == "variable":
                value = variables[str(step.value)]
                tensor = isinstance(value, torch.Tensor)
                results.append(value if tensor else torch.tensor(value, dtype=torch.float64))
            elif step.kind == "table":
                results.append(self.tables[str(step.value)](arguments, step.orders))
            else:
                results.append(FUNCTIONS[str(step.value)].evaluate(*arguments))
            for a in self._last_uses.get(k, ()):
                results[a] = None  # memory for the next ones, still in the cache
        return [results[k] for k in self.outputs]

    @cached_property
    def _last_uses(self) -> dict[int, list[int]]:
        """For each step, the steps whose results nothing needs after it."""
        last = {a: k for k, step in enumerate(self.steps) for a in step.arguments}
        uses: dict[int, list[int]] = {}
        for a, k in last.items():
            if a not in self.outputs:
                uses.setdefault(k, []).append(a)
        return uses

    @property
    def most_alive(self) -> int:
        """How many results are needed at the same time, at most."""
        alive = most = 0
        for k in range(len(self.steps)):
            alive += 1
            most = max(most, alive)
            alive -= len(self._last_uses.get(k, ()))
        return most


def _add(p: Program, x: int, y: int) -> int | None:
    if p.is_number(x, 0.0):
        return y
    if p.is_number(y, 0.0):
        return x
    if _is_negation(p, y):
        return p.call("subtract", x, p.steps[y].arguments[0])
    if _is_negation(p, x):
        return p.call("subtract", y, p.steps[x].arguments[0])
    # One order, so that y + x is x + y; two numbers are left to be added up.
    return p._add(Step("call", "add", (y, x))) if y < x and not (p.is_number(x) and p.is_number(y)) else None


def _subtract(p: Program, x: int, y: int) -> int | None:
    if p.is_number(y, 0.0):
        return x
    if x == y and not p.is_number(x):  # also where it is undefined
        return p.number(0.0)
    if p.is_number(x, 0.0):
        return p.call("negate", y)
    return p.call("add", x, p.steps[y].arguments[0]) if _is_negation(p, y) else None


def _multiply(p: Program, x: int, y: int) -> int | None:
    if p.is_number(y) and not p.is_number(x):
        x, y = y, x  # numbers first
    if p.is_number(x, 0.0):
        return x
    if p.is_number(x, 1.0):
        return y
    if p.is_number(x, -1.0):
        return p.call("negate", y)
    for one, other in ((x, y), (y, x)):
        if _is_negation(p, one) and not p.is_number(other):
            return p.call("negate", p.call("multiply", p.steps[one].arguments[0], other))
    if p.is_number(x) and _is_negation(p, y):
        return p.call("multiply", p.number(-p.steps[x].value), p.steps[y].arguments[0])
    if p.is_number(x) and not p.is_number(y):  # 2 (3 x) is 6 x
        inner = p.steps[y]
        if inner.kind == "call" and inner.value == "multiply" and p.is_number(inner.arguments[0]):
            return p.call("multiply", p.call("multiply", x, inner.arguments[0]), inner.arguments[1])
    return p._add(Step("call", "multiply", (y, x))) if y < x and not p.is_number(x) else None


def _negate(p: Program, x: int) -> int | None:
    step = p.steps[x]
    if _is_negation(p, x):
        return step.arguments[0]
    if step.value == "subtract" and step.kind == "call":
        return p.call("subtract", step.arguments[1], step.arguments[0])
    if step.value == "multiply" and step.kind == "call" and p.is_number(step.arguments[0]):
        return p.call("multiply", p.number(-p.steps[step.arguments[0]].value), step.arguments[1])
    return None


def _divide(p: Program, x: int, y: int) -> int:
    if p.is_number(x) and p.is_number(y):
        return p.number(float(torch.tensor(p.steps[x].value, dtype=torch.float64) / p.steps[y].value))
    if x == y:  # also where it is undefined
        return p.number(1.0)
    return p.call("multiply", x, p.call("recip", y))  # several divisions by one number need one reciprocal


def _recip(p: Program, x: int) -> int | None:
    step = p.steps[x]
    if step.kind == "call" and step.value == "multiply" and step.arguments[0] == step.arguments[1]:
        root = p.call("recip", step.arguments[0])  # 1/L is often needed beside 1/L^2
        return p.call("multiply", root, root)
    if step.kind == "call" and step.value == "recip":
        return step.arguments[0]
    return None


def _integer_power(p: Program, x: int, y: int) -> int | None:
    if not p.is_number(y) or p.is_number(x):
        return None
    exponent = float(p.steps[y].value)
    if exponent == 0.5:
        return p.call("sqrt", x)
    if exponent == 0.0:
        return p.number(1.0)
    if not exponent.is_integer() or abs(exponent) > _LARGEST_PRODUCT:
        return None
    result, square, n = None, p.call("recip", x) if exponent < 0 else x, int(abs(exponent))
    while n:  # repeated squaring: faster than pow, and its derivative is exact at zero
        if n & 1:
            result = square if result is None else p.call("multiply", result, square)
        n >>= 1
        square = p.call("multiply", square, square) if n else square
    return result


def _select(p: Program, condition: int, yes: int, no: int) -> int | None:
    if p.is_number(condition):
        return no if p.is_number(condition, 0.0) else yes
    return yes if yes == no else None


def _is_negation(p: Program, k: int) -> bool:
    return p.steps[k].kind == "call" and p.steps[k].value == "negate"


def _cube(p: Program, x: int) -> int:
    return p.call("multiply", p.call("multiply", x, x), x)


_SIMPLIFIED: dict[str, Callable[..., int | None]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "negate": _negate,
    "divide": _divide,
    "recip": _recip,
    "power": _integer_power,
    "select": _select,
    "square": lambda p, x: p.call("multiply", x, x),
    "cube": _cube,
    "tan": lambda p, x: p.call("divide", p.call("sin", x), p.call("cos", x)),
    "sec": lambda p, x: p.call("recip", p.call("cos", x)),
    "csc": lambda p, x: p.call("recip", p.call("sin", x)),
    "cot": lambda p, x: p.call("divide", p.call("cos", x), p.call("sin", x)),
}
