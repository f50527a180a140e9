"""Units: positions in nm, energies in kJ/mol, temperatures in K, times in ps, angles in rad.

Every public function takes either plain numbers in these units or ``openmm.unit.Quantity``.
OpenMM itself is imported only when a quantity is converted, so that flows and
`TorchPotential` also work where it is not installed.
"""

from __future__ import annotations

import math
from typing import Any

BOLTZMANN_CONSTANT = 0.00831446261815324
"""Boltzmann's constant times Avogadro's number [kJ/mol/K] (2019 SI; equal to OpenMM's)."""


def thermal_energy(temperature: Any) -> float:
    """Return kT [kJ/mol] at a temperature [K]."""
    return BOLTZMANN_CONSTANT * kelvin(temperature)


def _strip(value: Any, unit_name: str) -> Any:
    if hasattr(value, "value_in_unit"):
        from openmm import unit

        kilojoules_per_mole = unit.kilojoule_per_mole
        units = {"kilojoules_per_mole": kilojoules_per_mole}
        return value.value_in_unit(units.get(unit_name) or getattr(unit, unit_name))
    return value


def kelvin(temperature: Any) -> float:
    """Return a temperature as a float [K].

    Raises:
        InputError: If it is not a positive finite number.
    """
    from openmm_bg.errors import InputError

    try:
        value = float(_strip(temperature, "kelvin"))
    except (TypeError, ValueError) as error:
        raise InputError(f"A temperature must be a number of kelvin, not {temperature!r}.") from error
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"A temperature must be a positive number of kelvin, not {value:g}.")
    return value


def picoseconds(time: Any) -> float:
    """Return a time as a float [ps]."""
    return float(_strip(time, "picosecond"))


def nanometers(positions: Any) -> Any:
    """Return positions as plain numbers [nm]; tensors and arrays pass unchanged."""
    return _strip(positions, "nanometer")


def kilojoules_per_mole(energy: Any) -> Any:
    """Return an energy as plain numbers [kJ/mol]."""
    return _strip(energy, "kilojoules_per_mole")
