"""The expression parser against OpenMM's own: values and derivatives of random expressions, and refusals."""

import math

import numpy as np
import openmm
import pytest
import torch
from expression_strategies import ONE_ARGUMENT, TWO_ARGUMENTS, expressions, has_undefined_constant
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from openmm import unit

from openmm_bg.errors import InputError
from openmm_bg.potentials.expressions import ARITIES, Expression

POINTS = np.random.default_rng(3).uniform(0.1, 0.9, (6, 1, 3)) * np.random.default_rng(4).choice(
    [-1, 1], (6, 1, 3)
)
PARAMETER = 1.3


def openmm_values(text, points=POINTS):
    """Let OpenMM evaluate an expression of x, y, z and a, and its gradient with respect to x, y, z."""
    force = openmm.CustomExternalForce(text)
    force.addGlobalParameter("a", PARAMETER)
    force.addParticle(0, [])
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    values, gradients = [], []
    for point in points:
        context.setPositions(point)
        state = context.getState(energy=True, forces=True)
        values.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        gradients.append(-forces[0])
    return np.array(values), np.array(gradients)


def our_values(text, points=POINTS):
    """Evaluate it with the derivatives of its program, which are those that potentials use."""
    x, y, z = torch.tensor(np.asarray(points)[:, 0, :].T.copy())
    variables = {"x": x, "y": y, "z": z, "a": PARAMETER}
    program = Expression(text).program
    results = [Expression(text)(variables), *program.with_gradient("xyz")(variables)]
    results = [torch.as_tensor(r, dtype=torch.float64).expand(len(points)).numpy() for r in results]
    np.testing.assert_array_equal(results[0], results[1])
    return results[0], np.stack(results[2:], axis=1)


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_function_of_one_argument(name):
    argument = "x" if name not in ("sqrt", "log") else "abs(x)"
    for text in (f"{name}({argument})", f"3*{name}(2*a*y^2/3)", f"{name}(0.7)*z"):
        for ours, theirs in zip(our_values(text), openmm_values(text), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12, err_msg=text)


@pytest.mark.parametrize("name", TWO_ARGUMENTS)
@pytest.mark.parametrize("arguments", ["x,y", "x,0.2", "a,z", "2,3", "0.1,x*y"])
def test_function_of_two_arguments(name, arguments):
    text = f"z*{name}({arguments})"
    for ours, theirs in zip(our_values(text), openmm_values(text), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "text", ["select(step(x), x^2, y)", "select(x, 2, 3)*y", "select(0, x, y)", "select(2, x, y)"]
)
def test_select(text):
    for ours, theirs in zip(our_values(text), openmm_values(text), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_every_function_is_tested():
    operators = {"add", "subtract", "multiply", "divide", "power", "negate"}
    assert set(ARITIES) == {*ONE_ARGUMENT, *TWO_ARGUMENTS, "select"} | operators


def test_step_and_delta_at_zero():
    points = np.zeros((1, 1, 3))
    for text in ("step(x)", "delta(x)", "step(-x)", "delta(x+1)", "x^0"):
        assert our_values(text, points)[0] == openmm_values(text, points)[0], text


# The numbers are worked out by hand, so that a mistake shared with OpenMM's documentation would show.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-2^2", -4.0),
        ("2^3^2", 512.0),
        ("2^-1", 0.5),
        ("8/4/2", 1.0),
        ("8-4-2", 2.0),
        ("2+3*4", 14.0),
        ("-2*3+10", 4.0),
        ("2*-3", -6.0),
        ("--2", 2.0),
        ("6/2*3", 9.0),
        ("1.5e2+.5", 150.5),
        ("2.*3E-1", 0.6),
        (" 1\t+ 2\n", 3.0),
        ("t+1; t=u*2; u=5", 11.0),
        ("t; t=3;", 3.0),
        ("e+pi; e=1; pi=2", 3.0),
        ("min(2, max(1, 3))", 2.0),
    ],
)
def test_grammar(text, expected):
    assert float(Expression(text)({})) == pytest.approx(expected, rel=1e-14)
    assert openmm_values(text)[0][0] == pytest.approx(expected, rel=1e-14)


# OpenMM 8.6 itself never returns from some of these: its simplification waits for NaN to equal NaN.
@pytest.mark.parametrize(
    "text",
    [
        *(
            "1/0",
            "log(0)",
            "sqrt(-1)",
            "exp(1000)",
            "(-8)^0.5",
            "0^-1",
            "0^-0.5",
            "log(-1)",
            "acos(2)",
            "asin(-2)",
        ),
        *(
            "10^400",
            "x/0",
            "recip(0)",
            "csc(0)",
            "cosh(1000)",
            "sinh(-1000)",
            "floor(1/0)",
            "ceil(log(0))",
            "0/0",
        ),
    ],
)
def test_undefined_numbers_are_not_finite_and_raise_nothing(text):
    assert not np.isfinite(our_values(text)[0]).any()


@pytest.mark.parametrize("text", ["log(x)-log(x)", "log(x)/log(x)", "1/x-1/x", "x/x", "(x+y)/(y+x)"])
def test_differences_and_quotients_of_equals_are_numbers(text):
    """Even where the equals are undefined: so does OpenMM's parser, before it knows any value."""
    for points in (np.zeros((1, 1, 3)), -np.ones((1, 1, 3))):
        for ours, theirs in zip(our_values(text, points), openmm_values(text, points), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_variables_are_those_that_are_used():
    assert Expression("x*b+t; t=y; u=z").variables == {"x", "b", "y"}
    with pytest.raises(InputError, match=r"uses \['b'\], which has no value"):
        Expression("x+b")({"x": 1.0})


def test_definition_hides_a_variable():
    assert float(Expression("x+1; x=2")({"x": 10.0})) == 3.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = torch.tensor([0.5, 2.0], dtype=dtype)
    for text in ("1/x+2*x^2", "atan2(x, 3)", "select(step(x-1), x, 0.5)", "max(x, 1)", "2^x"):
        assert Expression(text)({"x": x}).dtype == dtype, text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ";",
            "x+",
            "+x",
            "*x",
            "x y",
            "2x",
            "x^^2",
            "(x",
            "x)",
            ")x(",
            "()",
            "x,y",
            "1..2",
            "x$2",
            "x=2",
        ),
        *("sin()", "sin(x,y)", "atan2(x)", "sin x", "nosuch(x)", "sinus(x)", "add(x,y)", "power(x,2)"),
        *(
            "x;2",
            "t; t=",
            "t; t=x+",
            "t; 2=x",
            "__import__('os')",
            "x[0]",
            "lambda: 0",
            "x if y else z",
        ),
    ],
)
def test_bad_input(text):
    with pytest.raises(InputError):
        Expression(text)
    with pytest.raises(openmm.OpenMMException):
        openmm_values(text)


SETTINGS = settings(deadline=None, derandomize=True)


def check_against_openmm(text):
    assume(not has_undefined_constant(text))
    theirs, their_gradient = openmm_values(text)
    ours, our_gradient = our_values(text)
    # How far rounding moves the result: ill-conditioned expressions and jumps say nothing about the parser.
    spread = np.zeros(len(POINTS))
    with np.errstate(all="ignore"):
        for shift in (1e-14, -1e-14, 3e-14):
            moved, _ = our_values(text, POINTS * (1.0 + shift))
            spread = np.fmax(spread, np.abs(moved - ours))
        usable = np.isfinite(ours) & np.isfinite(theirs)
        # One may overflow where the other just does not, and of min(NaN, 1) OpenMM makes 1.
        excused = np.isnan(ours) if "min(" in text or "max(" in text else np.zeros(len(ours), dtype=bool)
        assert (
            excused | usable | (np.abs(ours) > 1e100) | (~np.isfinite(ours) & ~np.isfinite(theirs))
        ).all(), (ours, theirs)
        assert (np.abs(ours - theirs) <= 1e-9 * (1 + np.abs(theirs)) + 1e4 * spread)[usable].all(), (
            ours,
            theirs,
        )
        smooth = usable & (spread <= 1e-12 * (1 + np.abs(ours)))
        smooth &= np.isfinite(our_gradient).all(1) & np.isfinite(their_gradient).all(1)
        size = np.abs(their_gradient).max(1)
        error = np.abs(our_gradient - their_gradient).max(1)
        assert (error <= 1e-7 * (1 + size))[smooth].all(), (our_gradient, their_gradient)


@settings(SETTINGS, max_examples=300)
@given(
    text=expressions("x", "y", "z", "a", "t", "u"), t=expressions("x", "y", "a", "u"), u=expressions("x", "z")
)
def test_random_expressions(text, t, u):
    check_against_openmm(f"{text}; t={t}; u = {u}")


OPERANDS = st.tuples(
    st.sampled_from(["", "", "-"]), st.sampled_from(["x", "y", "a", "2", "0.5"]), st.sampled_from("+-*/^")
)


@settings(SETTINGS, max_examples=200)
@given(parts=st.lists(OPERANDS, min_size=2, max_size=6))
def test_precedence(parts):
    """Chains of operators and signs without any parentheses."""
    check_against_openmm("".join(sign + name + operator for sign, name, operator in parts)[:-1])


def test_undefined_constants_are_recognised():
    assert has_undefined_constant("x+step(log(-1.5))")
    assert has_undefined_constant("x; x=2/(.5-5e-1)")
    assert not has_undefined_constant("log(x-1)/atan2(x, 2)+1e-3")


def test_numbers_only_give_a_float():
    value = Expression("sqrt(2)*cos(0)")({})
    assert float(value) == pytest.approx(math.sqrt(2))
