"""A double well in two dimensions (seed 000, section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.quartic import Quartic
from openmm_bg.systems.toy_system import ToySystem, toy_molecule
from openmm_bg.units import thermal_energy

DOUBLE_WELLS: dict[str, tuple[float, float, float]] = {
    "two wells": (0.25, -3.0, 1.0),
    "printed": (1.0, -1.0, 1.0),
}
"""Named parameters a4, a2 and a1 of `double_well`."""


class DoubleWell(ToySystem):
    """H(x, y) = a4 x^4 + a2 x^2 + a1 x + y^2 / 2; see `double_well`.

    Attributes:
        well: The potential along x.
    """

    def __init__(self, name: str, well: Quartic) -> None:
        import openmm

        force = openmm.CustomExternalForce("a4*x^4+a2*x^2+a1*x+0.5*y^2")
        for parameter in ("a4", "a2", "a1"):
            force.addGlobalParameter(parameter, getattr(well, parameter))
        force.addParticle(0, [])
        super().__init__(toy_molecule(name, [force], [0, 1], [well.minimum, 0.0]), [0, 1])
        self.well = well

    def _energy(self, x: np.ndarray) -> np.ndarray:
        return self.well.energy(x[:, 0]) + 0.5 * x[:, 1] ** 2

    def sample(self, n: int, temperature: Any, rng: np.random.Generator) -> np.ndarray:
        """Draw n independent samples [nm] with shape=(n, 2), at a temperature [K]."""
        kt = thermal_energy(temperature)
        return np.stack([self.well.sample(n, kt, rng), np.sqrt(kt) * rng.standard_normal(n)], axis=1)

    def log_z(self, temperature: Any) -> float:
        """Return the logarithm of Z, the integral of exp(-H / kT) [nm^2], at a temperature [K]."""
        kt = thermal_energy(temperature)
        return self.well.log_z(kt) + 0.5 * float(np.log(2 * np.pi * kt))

    def mean_energy(self, temperature: Any) -> float:
        """Return the mean energy [kJ/mol] at a temperature [K]."""
        kt = thermal_energy(temperature)
        return self.well.mean_energy(kt) + 0.5 * kt

    def marginal_cdf(self, x1: Any, temperature: Any) -> np.ndarray:
        """Return the cumulative distribution of x1 [nm] at a temperature [K], with the shape of x1."""
        return self.well.cdf(np.asarray(x1, dtype=np.float64), thermal_energy(temperature))

    def free_energy(self, x1_edges: Any, temperature: Any) -> np.ndarray:
        """Return the free energy [kT] of bins of x1, each integrated over its bin; the least is zero.

        Args:
            x1_edges: Increasing edges [nm] with shape=(n_bins + 1,).
            temperature: Temperature [K].

        Raises:
            InputError: If the edges are not finite numbers that increase.
        """
        edges = np.asarray(x1_edges, dtype=np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise InputError("The edges of bins must be at least two finite numbers that increase.")
        free_energy = -self.well.log_masses(edges, thermal_energy(temperature))
        return free_energy - free_energy.min()

    @property
    def barrier(self) -> float:
        """The position [nm] of the barrier along x1; an `InputError` if there is one well only."""
        return self.well.barrier

    def well_free_energy_difference(self, temperature: Any) -> float:
        """Return the free energy [kT] of the right well minus that of the left one, at a temperature [K].

        The wells are divided at the barrier.

        Raises:
            InputError: If there is one well only.
        """
        edges = np.array([-np.inf, self.barrier, np.inf])
        left, right = self.well.log_masses(edges, thermal_energy(temperature))
        return float(left - right)


def double_well(parameters: str | Sequence[float] = "two wells") -> DoubleWell:
    """Build the double well H(x1, x2) = a4 x1^4 + a2 x1^2 + a1 x1 + x2^2 / 2: one particle.

    "two wells" is x^4/4 - 3 x^2 + x, the potential of Noé et al., Science 365 (2019) eaaw1147 (a = 1, b = 6,
    c = 1, d = 1), which the notebook of seed 000's authors uses. Its wells are at -2.53 and 2.36 nm, 4.9 kJ/mol
    apart; its barrier is at 0.17 nm, 11.6 kJ/mol above the left well. "printed" is x^4 - x^2 + x, as their
    report prints it in section 5.1: its derivative 4 x^3 - 2 x + 1 has one real root, so it has a single well.

    Args:
        parameters: A name, or a4 [kJ/mol/nm^4], a2 [kJ/mol/nm^2] and a1 [kJ/mol/nm].

    Raises:
        InputError: If there are no parameters of that name, or they are not three finite numbers with a4 > 0.
    """
    if isinstance(parameters, str):
        if parameters not in DOUBLE_WELLS:
            raise InputError(
                f"There is no double well called {parameters!r}; there are: {', '.join(DOUBLE_WELLS)}."
            )
        name = "double_well_printed" if parameters == "printed" else "double_well"
        return DoubleWell(name, Quartic(*DOUBLE_WELLS[parameters]))
    values = [float(value) for value in parameters]
    if len(values) != 3:
        raise InputError(f"A double well has three parameters, a4, a2 and a1, not {len(values)}.")
    return DoubleWell("double_well", Quartic(*values))
