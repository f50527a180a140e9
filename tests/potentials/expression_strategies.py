"""Random expressions of OpenMM's grammar, and which of them OpenMM cannot take."""

import math
import re

import torch
from hypothesis import strategies as st

from openmm_bg.potentials.expressions import Expression
from openmm_bg.potentials.functions import FUNCTIONS

ONE_ARGUMENT = [
    *("sqrt", "exp", "log", "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh"),
    *("tanh", "erf", "erfc", "step", "delta", "square", "cube", "recip", "abs", "floor", "ceil"),
]
TWO_ARGUMENTS = ["atan2", "min", "max"]
NUMBERS = st.sampled_from(["1", "2", "3", "0.5", "1.25", ".75", "4.", "2e0", "1E-1"])
SPACES = st.sampled_from(["", "", " "])


def _extend(children):
    chain = st.lists(st.tuples(st.sampled_from("+-*/^"), SPACES, children), min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda first, rest: first + "".join(o + s + c for o, s, c in rest), children, chain),
        st.builds("({})".format, children),
        st.builds("-{}".format, children),
        st.builds("{}({})".format, st.sampled_from(ONE_ARGUMENT), children),
        st.builds("{}({}, {})".format, st.sampled_from(TWO_ARGUMENTS), children, children),
        st.builds("select({}, {}, {})".format, children, children, children),
    )


def expressions(*names):
    return st.recursive(st.one_of(st.sampled_from(names), NUMBERS), _extend, max_leaves=8)


LITERAL = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def has_undefined_constant(text, geometry=False):
    """Tell whether a part without variables is not finite: OpenMM might never return from it."""
    numbers = {}

    def name(match):
        numbers[f"number{len(numbers)}"] = float(match.group())
        return f"number{len(numbers) - 1}"

    results = []
    for step in Expression(LITERAL.sub(name, text), geometry=geometry).program.steps:
        arguments = [results[k] for k in step.arguments]
        if step.kind == "number":  # what the parser itself writes, e.g. the exponent of 1/x
            results.append(step.value)
        elif step.kind == "variable":
            results.append(numbers.get(step.value))
        elif None in arguments:
            results.append(None)
        else:
            tensors = (torch.tensor(value, dtype=torch.float64) for value in arguments)
            results.append(float(FUNCTIONS[step.value].evaluate(*tensors)))
        if results[-1] is not None and not math.isfinite(results[-1]):
            return True
    return False
