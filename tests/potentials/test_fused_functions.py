"""Machine code of single functions and expressions against arbitrary precision."""

import mpmath
import numpy as np
import pytest
import torch

from openmm_bg.potentials.fused.engine import FusedEngine
from openmm_bg.potentials.terms import BondedTerm

PRECISIONS = [torch.float64, torch.float32]
EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}


def function_of_x(text, n_atoms=1, tables=None):
    """Return the term that is a function of the x coordinate of one atom."""
    config = {"expression": text, "globals": {}, "group_parameters": [], "inputs": {"x": ["x", [0]]}}
    return BondedTerm(config, tables, atoms=np.zeros((1, 1)), group_parameters=np.zeros((0, 1)))


def evaluate(term, x, dtype, with_forces=True):
    """Return the machine code's values of a function of x, and its derivatives."""
    positions = torch.zeros(len(x), 1, 3, dtype=dtype)
    positions[:, 0, 0] = torch.as_tensor(x, dtype=dtype)
    energy, forces = FusedEngine(1, [term], dtype).evaluate(positions, with_forces, threads=1)
    return energy.double().numpy(), None if forces is None else -forces[:, 0, 0].double().numpy()


WIDE = np.concatenate([-np.geomspace(1e-6, 30, 400), np.geomspace(1e-6, 30, 400)])
FUNCTIONS = {
    # Points, and the error allowed in units of rounding (relative; absolute below 1).
    "exp": (np.concatenate([np.linspace(-80, 80, 801), WIDE[np.abs(WIDE) < 1]]), 4.0),
    "log": (np.concatenate([np.geomspace(1e-30, 1e30, 801), np.linspace(0.5, 2.0, 301)]), 3.0),
    "sin": (np.concatenate([WIDE, np.linspace(-1500, 1500, 997)]), 3.0),
    "cos": (np.concatenate([WIDE, np.linspace(-1500, 1500, 997)]), 3.0),
    "tanh": (WIDE, 4.0),
    "atan": (WIDE, 4.0),
    "asin": (np.linspace(-0.999, 0.999, 801), 8.0),
    "acos": (np.linspace(-0.999, 0.999, 801), 8.0),
    "sqrt": (np.geomspace(1e-30, 1e30, 401), 1.0),
    "sinh": (WIDE, 4.0),
    "cosh": (WIDE, 4.0),
    "erf": (WIDE, 4.0),
    "erfc": (WIDE[np.abs(WIDE) < 5], 8.0),
    "floor": (WIDE, 1.0),
    "ceil": (WIDE, 1.0),
    "abs": (WIDE, 1.0),
}


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_against_arbitrary_precision(name, dtype):
    points, roundings = FUNCTIONS[name]
    x = torch.as_tensor(points, dtype=dtype)
    exact = {"abs": abs, "ceil": mpmath.ceil, "floor": mpmath.floor}.get(name) or getattr(mpmath, name)
    with mpmath.workdps(40):
        expected = np.array([float(exact(mpmath.mpf(float(v)))) for v in x])
    found, _ = evaluate(function_of_x(f"{name}(x)"), x, dtype)
    size = np.abs(expected) if name in ("exp", "cosh", "sqrt") else np.maximum(np.abs(expected), 1.0)
    assert (np.abs(found - expected) <= roundings * EPSILON[dtype] * size).all(), (
        np.abs(found - expected) / size
    ).max() / EPSILON[dtype]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_atan2_in_all_quadrants(dtype):
    angles = np.linspace(-np.pi, np.pi, 361)[1:-1]
    config = {
        "expression": "atan2(y,x)",
        "globals": {},
        "group_parameters": [],
        "inputs": {"x": ["x", [0]], "y": ["y", [0]]},
    }
    term = BondedTerm(config, atoms=np.zeros((1, 1)), group_parameters=np.zeros((0, 1)))
    positions = torch.zeros(len(angles), 1, 3, dtype=dtype)
    positions[:, 0, 0], positions[:, 0, 1] = (torch.as_tensor(3 * f(angles)) for f in (np.cos, np.sin))
    energy, _ = FusedEngine(1, [term], dtype).evaluate(positions, True, threads=1)
    x, y, _ = positions[:, 0].double().numpy().T
    np.testing.assert_allclose(energy.double().numpy(), np.arctan2(y, x), rtol=0, atol=8 * EPSILON[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    ("text", "x", "expected"),
    [
        ("log(x)", [0.0, -1.0, np.inf], [-np.inf, np.nan, np.nan]),
        ("exp(x)", [1e4, -1e4], [np.inf, 0.0]),
        ("sqrt(x)", [-1.0, 0.0], [np.nan, 0.0]),
        ("1/x", [0.0, 2.0], [np.inf, 0.5]),
        ("sin(x)", [1e9, -1e9], [np.sin(float(np.float32(1e9))), -np.sin(float(np.float32(1e9)))]),
        ("x^0.5+x^-1.5", [4.0, -1.0], [2.125, np.nan]),
        ("x^3+x^-2", [-2.0], [-7.75]),
        ("step(x)+2*delta(x)", [0.0, 1e-30, -1e-30], [3.0, 1.0, 0.0]),
        ("select(x,2,3)", [0.0, 0.5], [3.0, 2.0]),
        ("min(x,1)+10*max(x,1)", [0.5, 2.0], [10.5, 21.0]),
        ("tanh(x)", [100.0, -100.0], [1.0, -1.0]),
        ("exp(x)", [np.nan, 0.0], [np.nan, 1.0]),
        ("2", [np.nan, np.inf, 1.0], [np.nan, np.nan, 2.0]),
    ],
)
def test_special_values(text, x, expected, dtype):
    """An infinite or undefined coordinate makes the energy undefined, whatever the expression."""
    found, _ = evaluate(function_of_x(text), np.array(x), dtype)
    np.testing.assert_allclose(found, expected, rtol=4 * EPSILON[dtype], atol=EPSILON[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_straight_through_branches_without_a_derivative(dtype):
    """The branch of select that is not taken has no derivative here; that must not spread."""
    _, slope = evaluate(function_of_x("select(step(x-1), sqrt(x-1), x^2)"), np.array([0.5, 5.0]), dtype)
    np.testing.assert_allclose(slope, [1.0, 0.25], rtol=1e-6)
