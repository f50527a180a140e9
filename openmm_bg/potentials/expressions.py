"""OpenMM's algebraic expressions, parsed into straight-line programs.

The grammar is that of Lepton, the parser inside OpenMM: ``+ - * / ^``, unary minus, functions, and
definitions after semicolons (``E=a*x; a=2``). Text is never evaluated; an expression becomes a `Program`.

Source: OpenMM user guide, "Writing custom expressions".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from openmm_bg.errors import InputError
from openmm_bg.potentials.functions import FUNCTIONS, REWRITTEN, Value
from openmm_bg.potentials.programs import Program
from openmm_bg.potentials.tables import Table

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)|(?P<symbol>[-+*/^(),]))"
)
# Operator: (precedence, right-associative, function).
_OPERATORS = {"+": (0, False, "add"), "-": (0, False, "subtract"), "*": (1, False, "multiply")} | {
    "/": (1, False, "divide"),
    "^": (3, True, "power"),
}
_NEGATION_PRECEDENCE = 2  # -x^2 is -(x^2), and -x*y is (-x)*y


class Expression:
    """A parsed expression.

    Args:
        text: The expression, with definitions after semicolons if any.
        constants: Values of variables that never change, e.g. a force's global parameters.
        tables: Tabulated functions, called by their names.
        geometry: Whether it may call ``distance(p1,p2)``, ``angle(p1,p2,p3)`` and ``dihedral(p1,p2,p3,p4)``,
            which become variables of these names, and ``pointdistance`` of six coordinates, ``pointangle`` of
            nine and ``pointdihedral`` of twelve.

    Attributes:
        program: The expression as a program of one output.
        variables: The names of the variables that it depends on.

    Raises:
        InputError: If the text is not a valid expression, or calls an unknown function.
    """

    def __init__(
        self,
        text: str,
        constants: Mapping[str, float] | None = None,
        tables: Mapping[str, Table] | None = None,
        geometry: bool = False,
    ) -> None:
        self.text = text
        program = Program(tables)
        definitions: dict[str, int] = {}

        def parse(part: str) -> int:
            try:
                return _Parser(program, part, definitions, constants or {}, geometry).parse()
            except RecursionError:
                raise InputError(f"The expression {text[:40]!r}... is nested too deeply.") from None

        parts = [part for part in text.split(";") if part.strip()]
        if not parts:
            raise InputError(f"The expression {text!r} is empty.")
        # As in Lepton, a definition sees those to the right of it.
        for part in reversed(parts[1:]):
            name, equals, body = part.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", name.strip()):
                raise InputError(f"The part {part.strip()!r} of {text!r} is not a definition like 'a=2*x'.")
            definitions[name.strip()] = parse(body)
        root = parse(parts[0])
        self.program = program.pruned([root])
        self.variables = self.program.variables

    def __call__(self, variables: Mapping[str, Value]) -> Value:
        """Evaluate the expression.

        Args:
            variables: Values of all `variables`: tensors that broadcast, or numbers.

        Raises:
            InputError: If a variable has no value.
        """
        return self.program(variables)[0]


_OPERATOR_NAMES = {"add", "subtract", "multiply", "divide", "power", "negate"}
ARITIES = {name: function.arity for name, function in FUNCTIONS.items()} | REWRITTEN
"""The functions that an expression may call, and the operators, with their numbers of arguments."""


class _Parser:
    """Precedence climbing over the tokens of one semicolon-free part."""

    def __init__(
        self,
        program: Program,
        text: str,
        definitions: Mapping[str, int],
        constants: Mapping[str, float],
        geometry: bool,
    ) -> None:
        self._program, self._text, self._geometry = program, text, geometry
        self._definitions, self._constants = definitions, constants
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
        return self._program.call(name, *arguments)

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
            return self._program.number(float(token))
        if kind != "name":
            self._fail(f"has an unexpected {token!r}")
        if self._token != "(":
            if token in self._definitions:
                return self._definitions[token]
            if token in self._constants:
                return self._program.number(self._constants[token])
            return self._program.variable(token)
        if self._geometry and token in OF_PARTICLES:
            return self._parse_particles(token)
        table = self._program.tables.get(token)
        if self._geometry and table is None and token in OF_POINTS:
            arity, function = 3 * OF_POINTS[token][0], OF_POINTS[token][1]
            arguments = self._parse_arguments(token, arity)
            return function(self._program, *(arguments[k : k + 3] for k in range(0, arity, 3)))
        if table is None and (token not in ARITIES or token in _OPERATOR_NAMES):
            self._fail(f"calls an unknown function {token!r}")
        arguments = self._parse_arguments(token, ARITIES[token] if table is None else len(table.continuous))
        return self._call(token, *arguments) if table is None else self._program.lookup(token, arguments)

    def _parse_arguments(self, name: str, arity: int) -> list[int]:
        self._next("(")
        arguments = [self._parse_above(0)]
        while self._token == ",":
            self._next()
            arguments.append(self._parse_above(0))
        self._next(")")
        if len(arguments) != arity:
            self._fail(f"gives {len(arguments)} arguments to {name!r}, which takes {arity}")
        return arguments

    def _parse_particles(self, name: str) -> int:
        """Parse ``(p1,p2)`` into one variable, so that equal ones are the same."""
        self._next("(")
        particles = [self._next()]
        while self._token == ",":
            self._next()
            particles.append(self._next())
        self._next(")")
        if len(particles) != OF_PARTICLES[name] or not all(re.fullmatch(r"p[1-9]\d*", p) for p in particles):
            self._fail(f"gives {name!r} something else than {OF_PARTICLES[name]} particles like p1")
        return self._program.variable(f"{name}({','.join(particles)})")


def _minus(p: Program, a: list[int], b: list[int]) -> list[int]:
    return [p.call("subtract", u, v) for u, v in zip(a, b, strict=True)]


def _dot(p: Program, a: list[int], b: list[int]) -> int:
    x, y, z = (p.call("multiply", u, v) for u, v in zip(a, b, strict=True))
    return p.call("add", p.call("add", x, y), z)


def _cross(p: Program, a: list[int], b: list[int]) -> list[int]:
    return [
        p.call("subtract", p.call("multiply", a[i], b[j]), p.call("multiply", a[j], b[i]))
        for i, j in ((1, 2), (2, 0), (0, 1))
    ]


def _norm(p: Program, a: list[int]) -> int:
    return p.call("sqrt", _dot(p, a, a))


def _point_distance(p: Program, a: list[int], b: list[int]) -> int:
    return _norm(p, _minus(p, a, b))


def _point_angle(p: Program, a: list[int], b: list[int], c: list[int]) -> int:
    u, v = _minus(p, a, b), _minus(p, c, b)
    return p.call("atan2", _norm(p, _cross(p, u, v)), _dot(p, u, v))


def _point_dihedral(p: Program, a: list[int], b: list[int], c: list[int], d: list[int]) -> int:
    ab, cb, cd = _minus(p, a, b), _minus(p, c, b), _minus(p, c, d)
    m, n = _cross(p, ab, cb), _cross(p, cb, cd)
    return p.call("atan2", p.call("multiply", _dot(p, ab, n), _norm(p, cb)), _dot(p, m, n))


OF_PARTICLES = {"distance": 2, "angle": 3, "dihedral": 4}
"""Functions of particles, with how many they take."""

OF_POINTS = {
    "pointdistance": (2, _point_distance),
    "pointangle": (3, _point_angle),
    "pointdihedral": (4, _point_dihedral),
}
"""Functions of points, with how many they take and what they become."""
