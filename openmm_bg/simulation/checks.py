"""What every simulation asks of its input; each check raises one `InputError` that says what to do."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials.base import Potential
from openmm_bg.tensors import numbers_tensor
from openmm_bg.units import kelvin, picoseconds

PRECISIONS = (torch.float32, torch.float64)


def checked_potential(potential: Any) -> Potential:
    """Return the potential.

    Raises:
        InputError: If it is something else, e.g. an ``openmm.System``.
    """
    if not isinstance(potential, Potential):
        raise InputError(
            f"A potential is needed (TorchPotential or OpenMMPotential), not {type(potential).__name__}."
        )
    return potential


def walker_positions(positions: Any, n_atoms: int, dtype: torch.dtype | None) -> torch.Tensor:
    """Return a copy of the walkers' positions [nm] with shape=(n_walkers, n_atoms, 3), on their device.

    Args:
        positions: A tensor, an array, nested lists, a quantity, or a list of quantities.
        n_atoms: The potential's number of atoms.
        dtype: The precision; that of `positions` if not given and they are a tensor, otherwise single.

    Raises:
        InputError: If the shape or the precision is wrong, there is no walker, or a number is not finite.
    """
    if dtype is None:
        dtype = positions.dtype if isinstance(positions, torch.Tensor) else torch.float32
    if dtype not in PRECISIONS:
        raise InputError(f"The precision must be torch.float32 or torch.float64, not {dtype}.")
    tensor = numbers_tensor(positions).detach().to(dtype)
    if tensor.ndim != 3 or tensor.shape[1:] != (n_atoms, 3) or not len(tensor):
        raise InputError(
            f"Positions must have the shape (n_walkers, {n_atoms}, 3), and at least one walker, "
            f"not {tuple(tensor.shape)}."
        )
    bad = ~torch.isfinite(tensor).all(-1).all(-1)
    if bad.any():
        raise InputError(f"The positions of {walker_names(bad)} are not finite (NaN or infinite).")
    return tensor.clone(memory_format=torch.contiguous_format)


def walker_velocities(velocities: Any, positions: torch.Tensor) -> torch.Tensor:
    """Return a copy of velocities [nm/ps] of the same shape, precision and device as the positions.

    Raises:
        InputError: If they are not numbers or of another unit, the shape, or a tensor's precision or device,
            differs, or a number is not finite.
    """
    if isinstance(velocities, torch.Tensor):
        if (velocities.dtype, velocities.device) != (positions.dtype, positions.device):
            raise InputError(
                f"Velocities ({velocities.dtype} on {velocities.device}) must have the precision and the "
                f"device of the positions ({positions.dtype} on {positions.device})."
            )
    else:
        velocities = torch.from_numpy(_numbers("Velocities", velocities, "nm/ps")).to(positions)
    if velocities.shape != positions.shape:
        raise InputError(
            f"Velocities must have the shape {tuple(positions.shape)} of the positions, "
            f"not {tuple(velocities.shape)}."
        )
    if not torch.isfinite(velocities).all():
        raise InputError("A velocity is not finite (NaN or infinite).")
    return velocities.detach().clone(memory_format=torch.contiguous_format)


def atom_masses(masses: Any, positions: torch.Tensor) -> torch.Tensor:
    """Return masses [Da] with shape=(n_atoms,) in the precision and on the device of the positions.

    Args:
        masses: An array, a tensor, a list, a quantity, or a list of quantities (``system.getParticleMass(i)``).
        positions: The walkers' positions.

    Raises:
        InputError: If they are not numbers or of another unit, there is not one for each atom, or one is not
            positive and finite.
    """
    values = _numbers("Masses", masses, "Da")
    n_atoms = positions.shape[1]
    if values.shape != (n_atoms,):
        raise InputError(f"There must be one mass for each of the {n_atoms} atoms, not {values.shape}.")
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError("Masses must be positive: massless particles cannot be simulated here.")
    return torch.from_numpy(values).to(positions)


def walker_temperatures(temperature: Any, positions: torch.Tensor) -> torch.Tensor:
    """Return one temperature [K] for each walker with shape=(n_walkers,), in double precision.

    Args:
        temperature: One temperature, or one for each walker.
        positions: The walkers' positions.

    Raises:
        InputError: If one is not positive and finite, or there are not as many as walkers.
    """
    if isinstance(temperature, torch.Tensor):
        temperature = temperature.detach().cpu().numpy()
    if np.ndim(temperature) == 0:
        values = np.full(len(positions), kelvin(temperature))
    else:
        values = np.array([kelvin(value) for value in temperature])
    if values.shape != (len(positions),):
        raise InputError(
            f"There must be one temperature, or one for each of the {len(positions)} walkers, "
            f"not {len(values)}."
        )
    return torch.from_numpy(values).to(positions.device)


def walker_generator(generator: Any, positions: torch.Tensor) -> torch.Generator:
    """Return the source of randomness.

    Raises:
        InputError: If it is none, or lives on another device than the walkers.
    """
    if not isinstance(generator, torch.Generator):
        raise InputError(
            "A torch.Generator is needed as the source of randomness, e.g. torch.Generator().manual_seed(1)."
        )
    if generator.device.type != positions.device.type:
        raise InputError(
            f"The generator is on {generator.device}, the positions are on {positions.device}; "
            f"make it with torch.Generator(device={positions.device.type!r})."
        )
    return generator


def positive(name: str, value: Any) -> float:
    """Return a number.

    Raises:
        InputError: If it is not positive and finite.
    """
    value = _number(name, value)
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"The {name} must be positive, not {value:g}.")
    return value


def time_step(timestep: Any) -> float:
    """Return a time step as a float [ps].

    Raises:
        InputError: If it is not a positive, finite time.
    """
    return positive("time step", _number("time step", timestep, picoseconds))


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Return a whole number.

    Raises:
        InputError: If it is not a whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"The {name} must be a whole number, not {value!r}.") from error
    if number < least:
        raise InputError(f"The {name} must be at least {least}, not {number}.")
    return number


def per_picosecond(name: str, rate: Any) -> float:
    """Return a rate as a float [1/ps].

    Raises:
        InputError: If it is negative or not finite.
    """
    rate = _number(name, rate, lambda value: float(_in_unit(value, "1/ps")))
    if not (math.isfinite(rate) and rate >= 0):
        raise InputError(f"The {name} must not be negative, and is {rate:g} /ps.")
    return rate


def _number(name: str, value: Any, convert: Callable[[Any], float] = float) -> float:
    try:
        return convert(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"The {name} must be one number of its unit, not {value!r}.") from error


def _numbers(name: str, values: Any, unit_name: str) -> np.ndarray:
    """Return a double-precision array of numbers, an array of them, a quantity, or a sequence of quantities."""
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().numpy()
        values = _in_unit(values, unit_name)
        if isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.dtype == object):
            values = [_in_unit(value, unit_name) for value in values]
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} must be numbers [{unit_name}] or quantities in one array: {str(error).rstrip('.')}."
        ) from error


def _in_unit(value: Any, unit_name: str) -> Any:
    if not hasattr(value, "value_in_unit"):
        return value
    from openmm import unit

    units = {
        "Da": unit.dalton,
        "nm/ps": unit.nanometer / unit.picosecond,
        "1/ps": unit.picosecond**-1,
    }
    return value.value_in_unit(units[unit_name])


def walker_names(mask: torch.Tensor, most: int = 5) -> str:
    """Return e.g. ``walkers 3, 7`` for a mask of walkers with shape=(n_walkers,)."""
    indices = mask.nonzero()[:, 0].tolist()
    names = ", ".join(str(index) for index in indices[:most])
    rest = f" and {len(indices) - most} more" if len(indices) > most else ""
    return f"walker{'s' if len(indices) > 1 else ''} {names}{rest}"


def with_hydrogen_mass(masses: np.ndarray, hydrogen_mass: float | None) -> np.ndarray:
    """Return masses [Da] with shape=(n_atoms,) where all hydrogens have the given one; None leaves them."""
    return masses if hydrogen_mass is None else np.where(masses < 2.0, hydrogen_mass, masses)
