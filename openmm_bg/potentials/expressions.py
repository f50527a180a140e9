"""OpenMM's algebraic expressions, parsed into straight-line programs and run on tensors.

The grammar is that of Lepton, the parser inside OpenMM: ``+ - * / ^``, unary minus, functions, and
definitions after semicolons (``E=a*x; a=2``). Text is never evaluated; an expression becomes a list of
steps in which equal subexpressions are computed once.

Source: OpenMM user guide, "Writing custom expressions".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from openmm_bg.errors import InputError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<symbol>[-+*/^(),]))"
)
# Operator: (precedence, right-associative, function).
_OPERATORS = {"+": (0, False, "add"), "-": (0, False, "subtract"), "*": (1, False, "multiply")} | {
    "/": (1, False, "divide"),
    "^": (3, True, "power"),
}
_NEGATION_PRECEDENCE = 2  # -x^2 is -(x^2), and -x*y is (-x)*y

Value = torch.Tensor | float


def _unary(on_tensor: Callable, on_float: Callable[[float], float]) -> Callable[[Value], Value]:
    def function(x: Value) -> Value:
        return on_tensor(x) if isinstance(x, torch.Tensor) else on_float(x)

    return function


def _tensors(*values: Value) -> list[torch.Tensor]:
    like = next(value for value in values if isinstance(value, torch.Tensor))
    return [value if isinstance(value, torch.Tensor) else like.new_tensor(value) for value in values]


def _binary(
    on_tensor: Callable, on_float: Callable[[float, float], float]
) -> Callable[[Value, Value], Value]:
    def function(x: Value, y: Value) -> Value:
        if isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor):
            return on_tensor(*_tensors(x, y))
        return on_float(x, y)

    return function


def _power(x: Value, y: Value) -> Value:
    if isinstance(y, float) and y.is_integer() and 0 < abs(y) <= 32:
        result, square, n = None, x, int(abs(y))
        while n:  # repeated squaring: faster than pow, and its derivative is exact at zero
            if n & 1:
                result = square if result is None else result * square
            n >>= 1
            square = square * square if n else square
        return result if y > 0 else 1.0 / result
    return x**y


def _select(condition: Value, yes: Value, no: Value) -> Value:
    if not isinstance(condition, torch.Tensor):
        return yes if condition != 0 else no
    condition, yes, no = _tensors(condition, yes, no)
    return torch.where(condition != 0, yes, no)


def _reciprocal(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    return lambda x: 1.0 / function(x)


_SIN, _COS, _TAN = _unary(torch.sin, math.sin), _unary(torch.cos, math.cos), _unary(torch.tan, math.tan)

FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "add": (2, lambda x, y: x + y),
    "subtract": (2, lambda x, y: x - y),
    "multiply": (2, lambda x, y: x * y),
    "divide": (2, lambda x, y: x / y),
    "power": (2, _power),
    "negate": (1, lambda x: -x),
    "sqrt": (1, _unary(torch.sqrt, math.sqrt)),
    "exp": (1, _unary(torch.exp, math.exp)),
    "log": (1, _unary(torch.log, math.log)),
    "sin": (1, _SIN),
    "cos": (1, _COS),
    "tan": (1, _TAN),
    "sec": (1, _reciprocal(_COS)),
    "csc": (1, _reciprocal(_SIN)),
    "cot": (1, _reciprocal(_TAN)),
    "asin": (1, _unary(torch.asin, math.asin)),
    "acos": (1, _unary(torch.acos, math.acos)),
    "atan": (1, _unary(torch.atan, math.atan)),
    "atan2": (2, _binary(torch.atan2, math.atan2)),
    "sinh": (1, _unary(torch.sinh, math.sinh)),
    "cosh": (1, _unary(torch.cosh, math.cosh)),
    "tanh": (1, _unary(torch.tanh, math.tanh)),
    "erf": (1, _unary(torch.erf, math.erf)),
    "erfc": (1, _unary(torch.erfc, math.erfc)),
    "min": (2, _binary(torch.minimum, min)),
    "max": (2, _binary(torch.maximum, max)),
    "abs": (1, _unary(torch.abs, abs)),
    "floor": (1, _unary(torch.floor, lambda x: float(math.floor(x)))),
    "ceil": (1, _unary(torch.ceil, lambda x: float(math.ceil(x)))),
    "step": (1, _unary(lambda x: (x >= 0).to(x.dtype), lambda x: float(x >= 0))),
    "delta": (1, _unary(lambda x: (x == 0).to(x.dtype), lambda x: float(x == 0))),
    "square": (1, lambda x: x * x),
    "cube": (1, lambda x: x * x * x),
    "recip": (1, lambda x: 1.0 / x),
    "select": (3, _select),
}
_OPERATOR_NAMES = {"add", "subtract", "multiply", "divide", "power", "negate"}


@dataclass(frozen=True)
class Step:
    """One step of a program: a number, a variable, or a function of the results of earlier steps."""

    kind: str
    value: float | str
    arguments: tuple[int, ...] = ()


class Expression:
    """A parsed expression.

    Args:
        text: The expression, with definitions after semicolons if any.
        constants: Values of variables that never change, e.g. a force's global parameters.

    Raises:
        InputError: If the text is not a valid expression, or calls an unknown function.
    """

    def __init__(self, text: str, constants: Mapping[str, float] | None = None) -> None:
        self.text = text
        self.constants = dict(constants or {})
        self._steps: list[Step] = []
        self._index: dict[Step, int] = {}
        definitions: dict[str, int] = {}
        parts = [part for part in text.split(";") if part.strip()]
        if not parts:
            raise InputError(f"The expression {text!r} is empty.")
        # As in Lepton, a definition sees those to the right of it.
        for part in reversed(parts[1:]):
            name, equals, body = part.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
                raise InputError(f"The part {part.strip()!r} of {text!r} is not a definition like 'a=2*x'.")
            definitions[name.strip()] = _Parser(self, body, definitions).parse()
        self._root = _Parser(self, parts[0], definitions).parse()
        self._steps, self._root = _without_unused(self._steps, self._root)
        self.variables = frozenset(str(step.value) for step in self._steps if step.kind == "variable")

    def _add(self, step: Step) -> int:
        arguments = [self._steps[k] for k in step.arguments]
        if step.kind == "call" and all(argument.kind == "number" for argument in arguments):
            # As tensors, so that 1/0 is infinite and log(-1) NaN, as in OpenMM, and no exception.
            numbers = (torch.tensor(argument.value, dtype=torch.float64) for argument in arguments)
            step = Step("number", float(FUNCTIONS[str(step.value)][1](*numbers)))
        if step not in self._index:
            self._index[step] = len(self._steps)
            self._steps.append(step)
        return self._index[step]

    def __call__(self, variables: Mapping[str, Value]) -> Value:
        """Evaluate the expression.

        Args:
            variables: Values of all `variables`: tensors that broadcast, or numbers.

        Raises:
            InputError: If a variable has no value.
        """
        if missing := self.variables - variables.keys():
            raise InputError(f"The expression {self.text!r} uses {sorted(missing)}, which has no value here.")
        results: list[Value] = []
        for step in self._steps:
            if step.kind == "number":
                results.append(step.value)
            elif step.kind == "variable":
                value = variables[str(step.value)]
                results.append(
                    value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)
                )
            else:
                _, function = FUNCTIONS[str(step.value)]
                results.append(function(*(results[k] for k in step.arguments)))
        return results[self._root]


def _without_unused(steps: list[Step], root: int) -> tuple[list[Step], int]:
    needed, stack = set(), [root]
    while stack:
        k = stack.pop()
        if k not in needed:
            needed.add(k)
            stack.extend(steps[k].arguments)
    order = {old: new for new, old in enumerate(sorted(needed))}
    kept = [
        Step(steps[old].kind, steps[old].value, tuple(order[k] for k in steps[old].arguments))
        for old in sorted(needed)
    ]
    return kept, order[root]


class _Parser:
    """Precedence climbing over the tokens of one semicolon-free part."""

    def __init__(self, expression: Expression, text: str, definitions: Mapping[str, int]) -> None:
        self._expression, self._text, self._definitions = expression, text, definitions
        self._tokens: list[tuple[str, str]] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self._fail(f"cannot be read from {text[position:].strip()!r} on")
            self._tokens.append((match.lastgroup or "", match.group(match.lastgroup or 0)))
            position = match.end()
        self._tokens.append(("end", ""))
        self._position = 0

    def parse(self) -> int:
        result = self._parse_above(0)
        if self._kind != "end":
            self._fail(f"has an unexpected {self._token!r}")
        return result

    @property
    def _kind(self) -> str:
        return self._tokens[self._position][0]

    @property
    def _token(self) -> str:
        return self._tokens[self._position][1]

    def _fail(self, problem: str) -> None:
        raise InputError(f"The expression {self._text.strip()!r} {problem}.")

    def _next(self, expected: str | None = None) -> str:
        kind, token = self._tokens[self._position]
        if kind == "end" or (expected is not None and token != expected):
            self._fail(f"ends early or lacks {expected!r}" if expected else "ends early")
        self._position += 1
        return token

    def _call(self, name: str, *arguments: int) -> int:
        return self._expression._add(Step("call", name, arguments))

    def _parse_above(self, precedence: int) -> int:
        left = self._parse_operand()
        while self._token in _OPERATORS and _OPERATORS[self._token][0] >= precedence:
            own, right_associative, name = _OPERATORS[self._next()]
            left = self._call(name, left, self._parse_above(own if right_associative else own + 1))
        return left

    def _parse_operand(self) -> int:
        kind, token = self._kind, self._next()
        if token == "-":
            return self._call("negate", self._parse_above(_NEGATION_PRECEDENCE))
        if token == "(":
            inner = self._parse_above(0)
            self._next(")")
            return inner
        if kind == "number":
            return self._expression._add(Step("number", float(token)))
        if kind != "name":
            self._fail(f"has an unexpected {token!r}")
        if self._token != "(":
            if token in self._definitions:
                return self._definitions[token]
            if token in self._expression.constants:
                return self._expression._add(Step("number", float(self._expression.constants[token])))
            return self._expression._add(Step("variable", token))
        if token not in FUNCTIONS or token in _OPERATOR_NAMES:
            self._fail(f"calls an unknown function {token!r}")
        self._next("(")
        arguments = [self._parse_above(0)]
        while self._token == ",":
            self._next()
            arguments.append(self._parse_above(0))
        self._next(")")
        if len(arguments) != FUNCTIONS[token][0]:
            self._fail(f"gives {len(arguments)} arguments to {token!r}, which takes {FUNCTIONS[token][0]}")
        return self._call(token, *arguments)
