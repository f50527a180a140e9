"""Tabulated functions against OpenMM's own: inside, at the ends and outside of their range."""

import itertools

import numpy as np
import openmm
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from translation_helpers import Reference, assert_agrees, saved_and_loaded, system_of

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.potentials.tables import DiscreteTable, SplineTable, read_table

TABLES = settings(deadline=None, derandomize=True)


def potential_of(function, text, mode="eager"):
    """Return a potential of one particle, whose coordinates are the arguments, and OpenMM's."""
    force = openmm.CustomCompoundBondForce(1, text)
    force.addTabulatedFunction("f", function)
    force.addBond([0], [])
    system = system_of(force, n_atoms=1)
    return TorchPotential.from_system(system, mode=mode), Reference(system)


def continuous(rng, sizes, periodic, lower=-1.0, upper=1.0):
    """Return a table of random values on [lower, upper] in each dimension."""
    values = rng.uniform(-5, 5, sizes)
    if periodic:
        for axis in range(len(sizes)):
            values = np.moveaxis(values, axis, 0)
            values[-1] = values[0]
            values = np.moveaxis(values, 0, axis)
    kind = getattr(openmm, f"Continuous{len(sizes)}DFunction")
    shape = [] if len(sizes) == 1 else sizes
    return kind(*shape, values.T.ravel(), *[lower, upper] * len(sizes), periodic), values


CALLS = {1: "f(x1)", 2: "f(x1, y1)", 3: "f(x1, y1, z1)"}


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@settings(TABLES, max_examples=15)
@given(data=st.data())
def test_continuous_functions(dimensions, periodic, data):
    """Also their derivatives, with arguments between and at grid points, and beyond the ends."""
    smallest = 3 if periodic else 2
    sizes = data.draw(st.lists(st.integers(smallest, 6), min_size=dimensions, max_size=dimensions))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    lower = data.draw(st.sampled_from([-1.0, -0.3, 0.0, 2.0]))
    upper = lower + data.draw(st.sampled_from([0.4, 1.0, 3.0]))
    function, _ = continuous(rng, sizes, periodic, lower, upper)
    potential, reference = potential_of(function, CALLS[dimensions])
    width = upper - lower
    inside = rng.uniform(lower, upper, (8, 1, 3))
    around = rng.uniform(lower - width, upper + width, (8, 1, 3))
    assert_agrees(potential, reference, np.concatenate([inside, around]), least=16)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_grid_points_and_ends(dimensions, periodic):
    """Binary fractions, so that nothing is rounded: at the last grid point the function still has its value."""
    rng = np.random.default_rng(dimensions)
    function, values = continuous(rng, [5] * dimensions, periodic)
    for mode in ("eager", "fused"):
        potential, reference = potential_of(function.__copy__(), CALLS[dimensions], mode)
        grid = np.linspace(-1.0, 1.0, 5)
        points = np.array(list(itertools.product(range(5), repeat=dimensions)))
        positions = np.full((len(points), 1, 3), 0.3)
        positions[:, 0, :dimensions] = grid[points]
        energy, forces = potential.energy_and_forces(positions)
        expected, expected_forces = reference(positions)
        np.testing.assert_allclose(energy, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(energy, values[tuple(points.T)], rtol=0, atol=1e-12)
        np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10)


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_zero_outside_of_the_range(end):
    function, _ = continuous(np.random.default_rng(0), [4], False)
    for mode in ("eager", "fused"):
        potential, reference = potential_of(function.__copy__(), CALLS[1], mode)
        positions = np.zeros((2, 1, 3))
        positions[:, 0, 0] = end * np.array([1.0 + 1e-12, 50.0])
        energy, forces = potential.energy_and_forces(positions)
        assert (energy == 0).all()
        assert (forces == 0).all()
        assert (reference(positions)[0] == 0).all()


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@settings(TABLES, max_examples=10)
@given(data=st.data())
def test_discrete_functions(dimensions, data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=dimensions, max_size=dimensions))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    values = rng.uniform(-5, 5, sizes)
    shape = [] if dimensions == 1 else sizes
    function = getattr(openmm, f"Discrete{dimensions}DFunction")(*shape, values.T.ravel())
    # Arguments that depend on the coordinates by jumps, and stay within the table.
    wrapped = [f"n{k}-{size}*floor(n{k}/{size})" for k, size in enumerate(sizes)]
    indices = "; ".join(f"n{k}=floor(4*{axis}1)" for k, axis in zip(range(dimensions), "xyz", strict=False))
    potential, reference = potential_of(function, f"x1*y1*f({', '.join(wrapped)}); {indices}")
    assert_agrees(potential, reference, rng.uniform(-3, 3, (12, 1, 3)), least=12)


@pytest.mark.parametrize("mode", ["eager", "fused"])
def test_discrete_functions_round_and_are_undefined_elsewhere(mode):
    potential, reference = potential_of(openmm.Discrete1DFunction([1.0, 2.0, 4.0]), "f(x1)", mode)
    arguments = np.array([-0.49, 0.0, 0.49, 0.51, 1.0, 1.49, 2.0, 2.49])
    positions = np.zeros((len(arguments), 1, 3))
    positions[:, 0, 0] = arguments
    expected, _ = reference(positions)
    assert (
        potential.energy(positions).tolist() == expected.tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0]
    )
    positions[:, 0, 0] = [-0.51, 2.51, -1.0, 3.0, 1e9, -np.inf, np.inf, np.nan]
    assert torch.isposinf(potential.energy(positions)).all()


@pytest.mark.parametrize("periodic", [False, True])
def test_nothing_comes_of_undefined_arguments(periodic):
    spline = SplineTable.interpolate([1.0, 2.0, 1.0], [0.0], [1.0], [periodic])
    nan = torch.tensor([torch.nan, 0.5], dtype=torch.float64)
    assert torch.isnan(spline([nan], [0])).tolist() == [True, False]
    plane = SplineTable.interpolate(np.ones((3, 3)), [0.0, 0.0], [1.0, 1.0], [periodic] * 2)
    assert torch.isnan(plane([nan, torch.tensor([5.0, 5.0], dtype=torch.float64)], [0, 0])).tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_saved_tables_are_the_same(dimensions, tmp_path):
    rng = np.random.default_rng(dimensions)
    function, _ = continuous(rng, [4, 5, 3][:dimensions], True)
    potential, _ = potential_of(function, CALLS[dimensions])
    positions = rng.uniform(-2, 2, (10, 1, 3))
    again = saved_and_loaded(potential, tmp_path / "potential.safetensors")
    assert torch.equal(again.energy(positions), potential.energy(positions))
    assert potential.to(dtype=torch.float32).energy(positions).dtype == torch.float32


def test_derivatives_of_a_cubic_are_exact():
    """Where a spline is the cubic itself: x^3 - x on one cell, given by its coefficients."""
    table = SplineTable([[0.0, -1.0, 0.0, 1.0]], {"lower": [0.0], "upper": [1.0], "periodic": [False]})
    x = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    for order, expected in enumerate(
        [x**3 - x, 3 * x**2 - 1, 6 * x, 6 * torch.ones_like(x), torch.zeros_like(x)]
    ):
        torch.testing.assert_close(table([x], [order]), expected)


def test_kinds_of_tables():
    assert isinstance(read_table("DiscreteTable", [1.0], {}), DiscreteTable)
    with pytest.raises(
        InputError, match="no kind of table 'CubicTable'; there are SplineTable, DiscreteTable"
    ):
        read_table("CubicTable", [1.0], {})
