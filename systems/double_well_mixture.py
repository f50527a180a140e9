"""Double wells in many dimensions, mixed by a random matrix (seed 001, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.quartic import Quartic
from openmm_bg.systems.toy_system import ToySystem, toy_molecule
from openmm_bg.units import thermal_energy

QUADRATIC = -4.0
"""The paper's b [kJ/mol/nm^2]."""

QUARTIC = 1.0
"""The paper's c [kJ/mol/nm^4]."""

_TILT = 0.5  # [kJ/mol/nm] standard deviation of the a_i
_MIXING = 0.4  # the size of A - 1
_LARGEST_CONDITION = 5.0


class DoubleWellMixture(ToySystem):
    """U(x) = sum_i a_i y_i + b y_i^2 + c y_i^4 with y = A x; see `double_well_mixture`.

    The y_i are independent of each other, so that all answers are exact.

    Args:
        matrix: A, with shape=(d, d).
        tilts: The a_i [kJ/mol/nm] with shape=(d,).

    Attributes:
        matrix: As given.
        tilts: As given.
        wells: The potential of each y_i.
    """

    def __init__(self, matrix: np.ndarray, tilts: np.ndarray) -> None:
        self.matrix = np.array(matrix, dtype=np.float64)
        self.tilts = np.array(tilts, dtype=np.float64)
        self.matrix.setflags(write=False)
        self.tilts.setflags(write=False)
        self.wells = tuple(Quartic(QUARTIC, QUADRATIC, float(a)) for a in tilts)
        dimension = len(self.wells)
        lowest = self.from_wells(np.array([[well.minimum for well in self.wells]]))[0]
        force = _mixed_wells(self.matrix, self.tilts)
        components = range(dimension)
        molecule = toy_molecule(f"double_well_mixture_{dimension}", [force], components, lowest)
        super().__init__(molecule, components)

    def to_wells(self, x: Any) -> np.ndarray:
        """Return y = A x, with shape=(n, d), of coordinates x [nm] with shape=(n, d)."""
        return self._checked(x) @ self.matrix.T

    def from_wells(self, y: np.ndarray) -> np.ndarray:
        """Return x = A^-1 y [nm] with shape=(n, d), of y with shape=(n, d)."""
        return np.linalg.solve(self.matrix, y.T).T

    def _energy(self, x: np.ndarray) -> np.ndarray:
        y = x @ self.matrix.T
        return (((QUARTIC * y**2 + QUADRATIC) * y + self.tilts) * y).sum(1)

    def sample(self, n: int, temperature: Any, rng: np.random.Generator) -> np.ndarray:
        """Draw n independent samples [nm] with shape=(n, d), at a temperature [K]."""
        kt = thermal_energy(temperature)
        return self.from_wells(np.stack([well.sample(n, kt, rng) for well in self.wells], axis=1))

    def log_z(self, temperature: Any) -> float:
        """Return the logarithm of Z, the integral of exp(-U / kT) [nm^d], at a temperature [K]."""
        kt = thermal_energy(temperature)
        return sum(well.log_z(kt) for well in self.wells) - float(np.linalg.slogdet(self.matrix)[1])

    def mean_energy(self, temperature: Any) -> float:
        """Return the mean energy [kJ/mol] at a temperature [K]."""
        kt = thermal_energy(temperature)
        return sum(well.mean_energy(kt) for well in self.wells)

    def well_cdf(self, y: Any, temperature: Any, component: int) -> np.ndarray:
        """Return the cumulative distribution of one of the y_i.

        Args:
            y: Where [nm].
            temperature: Temperature [K].
            component: Which of them, from 0 to d - 1.

        Raises:
            InputError: If there is no such component.
        """
        well = self.wells[self._checked_component(component)]
        return well.cdf(np.asarray(y, dtype=np.float64), thermal_energy(temperature))


def double_well_mixture(dimension: int = 5, seed: int = 0) -> DoubleWellMixture:
    """Build the mixture of double wells of seed 001, which studies 5 and 20 dimensions.

    The paper (Dibak, Klein and Noé, arXiv:2012.00429) draws a and A at random and does not give b and c.
    Here b = -4 and c = 1: at T = 1 each y_i has two wells at about -1.4 and 1.4 nm, with a barrier of about 4 kT.
    The a_i are normal with standard deviation 0.5, so that wells differ by 1.4 kT (one sigma). A is the identity
    plus normal numbers with standard deviation 0.4 / sqrt(d), drawn again until its condition number is below
    5: the coordinates are correlated, and most of them still show two peaks.

    Args:
        dimension: The number d of coordinates; three of them make up a particle.
        seed: Of a and A; same dimension and seed, same system.

    Raises:
        InputError: If the dimension is not a positive whole number.
    """
    if not isinstance(dimension, int | np.integer) or dimension < 1:
        raise InputError(f"The dimension must be a whole number of at least 1, not {dimension!r}.")
    rng = np.random.default_rng(seed)
    tilts = _TILT * rng.standard_normal(dimension)
    while True:
        noise = rng.standard_normal((dimension, dimension)) / np.sqrt(dimension)
        matrix = np.eye(dimension) + _MIXING * noise
        if np.linalg.cond(matrix) < _LARGEST_CONDITION:
            return DoubleWellMixture(matrix, tilts)


def _mixed_wells(matrix: np.ndarray, tilts: np.ndarray) -> Any:
    """Return the energy as one force: a bond of all particles for each y_i, with a row of A."""
    import openmm

    dimension = len(tilts)
    n_atoms = (dimension + 2) // 3
    coordinates = [f"{axis}{atom + 1}" for atom in range(n_atoms) for axis in "xyz"][:dimension]
    names = [f"A{k + 1}" for k in range(dimension)]
    y = "+".join(f"{name}*{coordinate}" for name, coordinate in zip(names, coordinates, strict=True))
    # b and c are numbers: openmmtools' integrators have a variable "b", and a parameter would collide with it.
    energy = f"a*y+({QUADRATIC!r})*y^2+({QUARTIC!r})*y^4; y={y}"
    force = openmm.CustomCompoundBondForce(n_atoms, energy)
    for name in (*names, "a"):
        force.addPerBondParameter(name)
    for row, a in zip(matrix, tilts, strict=True):
        force.addBond(list(range(n_atoms)), [*row.tolist(), float(a)])
    return force
