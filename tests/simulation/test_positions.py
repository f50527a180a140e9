"""Positions in every form that a potential or a coordinate transform accepts, or refuses in one sentence."""

import numpy as np
import pytest
import torch
from openmm import Vec3, unit
from toy_potentials import Harmonic

from openmm_bg.errors import InputError
from openmm_bg.tensors import positions_tensor

POSITIONS = 0.01 * torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
ARRAY = POSITIONS.numpy()


@pytest.mark.parametrize(
    "positions",
    [
        ARRAY,
        ARRAY.astype(">f8"),
        ARRAY.astype(np.longdouble),
        ARRAY[:, ::-1][:, ::-1],
        ARRAY.tolist(),
        [*POSITIONS],
        unit.Quantity(10.0 * ARRAY, unit.angstrom),
        [unit.Quantity(frame, unit.nanometer) for frame in ARRAY],
        [unit.Quantity([Vec3(*atom) for atom in frame], unit.nanometer) for frame in ARRAY],
        unit.Quantity(POSITIONS, unit.nanometer),
    ],
    ids=lambda value: type(value).__name__,
)
def test_accepted(positions):
    potential = Harmonic(2)
    expected = potential.energy(POSITIONS)
    torch.testing.assert_close(potential.energy(positions), expected, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(potential.energy_and_forces(positions)[0], expected, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(positions_tensor(positions), POSITIONS, rtol=1e-12, atol=0.0)


def test_arrays_keep_their_precision():
    for dtype in ("<f4", ">f4"):
        assert Harmonic(2).energy(ARRAY.astype(dtype)).dtype == torch.float32


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[[0.0, 0.0, 0.0], [0.0, 0.0]]], r"must be numbers \[nm\] in one array"),
        ("start.pdb", "must be numbers .* convert them to floats"),
        ([["0.1", "0.2"]], "must be numbers"),
        (None, "must be numbers .* not of the type object"),
        (ARRAY.astype(object), "must be numbers .* not of the type object"),
        ({"positions": ARRAY}, "must be numbers"),
        (ARRAY * unit.kelvin, r'must be numbers \[nm\].*"kelvin" is not compatible'),
        ([frame * unit.kelvin for frame in ARRAY], "must be numbers"),
        (POSITIONS.to("meta"), "meta device have no values; move them"),
        ([POSITIONS.clone().requires_grad_()], "must be numbers"),
    ],
)
def test_refused(positions, message):
    for function in (Harmonic(2).energy, Harmonic(2).energy_and_forces, positions_tensor):
        with pytest.raises(InputError, match=message):
            function(positions)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool, complex])
def test_potentials_need_floating_point_numbers(dtype):
    with pytest.raises(InputError, match="must be floating-point numbers, not torch"):
        Harmonic(2).energy(np.zeros((1, 2, 3), dtype=dtype))
