"""Two particles on a spring in a one-dimensional box (seed 000, section 5.2), solved exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.toy_system import ToySystem, toy_molecule
from openmm_bg.units import thermal_energy


class HarmonicOscillator(ToySystem):
    """H(x1, x2) = k (x2 - x1)^2 with 0 <= x1 <= L; see `harmonic_oscillator`.

    Its density `log_prob` is the report's equation 3, which is that of kT = 1, at any temperature.

    As an OpenMM system it is for Monte Carlo moves only: dynamics do not feel the walls. A wall is a step of the
    energy to +inf, which exerts no force on either side, so that integrators (and the dynamics in the moves of
    openmmtools) carry x1 out of the box and go on with an infinite energy.

    Attributes:
        k: The force constant [kJ/mol/nm^2].
        length: The length L of the box [nm].
    """

    def __init__(self, k: float, length: float) -> None:
        import openmm

        self.k, self.length = float(k), float(length)
        # Infinite outside of the box. OpenMM evaluates a logarithm of zero as any other value, whereas it
        # never returns from simplifying a constant expression such as 1/0.
        walls = openmm.CustomExternalForce("-log(step(x)*step(length-x))")
        walls.addGlobalParameter("length", self.length)
        walls.addParticle(0, [])
        spring = openmm.CustomCompoundBondForce(2, "k*(x2-x1)^2")
        spring.addGlobalParameter("k", self.k)
        spring.addBond([0, 1], [])
        reference = [0.5 * self.length, 0.5 * self.length]
        super().__init__(toy_molecule("harmonic_oscillator", [walls, spring], [0, 3], reference), [0, 3])

    def _energy(self, x: np.ndarray) -> np.ndarray:
        inside = (x[:, 0] >= 0) & (x[:, 0] <= self.length)
        return np.where(inside, self.k * (x[:, 1] - x[:, 0]) ** 2, np.inf)

    def _spread(self, temperature: Any) -> float:
        """Return the standard deviation [nm] of x2 - x1."""
        return float(np.sqrt(thermal_energy(temperature) / (2 * self.k)))

    def sample(self, n: int, temperature: Any, rng: np.random.Generator) -> np.ndarray:
        """Draw n independent samples [nm] with shape=(n, 2), at a temperature [K]."""
        x1 = rng.uniform(0.0, self.length, n)
        return np.stack([x1, x1 + self._spread(temperature) * rng.standard_normal(n)], axis=1)

    def log_z(self, temperature: Any) -> float:
        """Return the logarithm of Z = L sqrt(pi kT / k) [nm^2], at a temperature [K]."""
        return float(np.log(self.length * np.sqrt(np.pi * thermal_energy(temperature) / self.k)))

    def mean_energy(self, temperature: Any) -> float:
        """Return the mean energy kT / 2 [kJ/mol] at a temperature [K]."""
        return 0.5 * thermal_energy(temperature)

    def marginal_cdf(self, x: Any, temperature: Any, component: int) -> np.ndarray:
        """Return the cumulative distribution of x1 or x2.

        x1 is uniform; x2 is the sum of a uniform and a normal number with standard deviation s, for which the
        integral of the normal cdf Phi is G(t) = t Phi(t) + phi(t): F(x) = s / L (G(x / s) - G((x - L) / s)).

        Args:
            x: Where [nm].
            temperature: Temperature [K].
            component: 0 for x1, 1 for x2.

        Raises:
            InputError: If there is no such component.
        """
        from scipy.special import ndtr

        x = np.asarray(x, dtype=np.float64)
        if self._checked_component(component) == 0:
            return np.clip(x / self.length, 0.0, 1.0)

        def integral(t: np.ndarray) -> np.ndarray:
            return t * ndtr(t) + np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi)

        s = self._spread(temperature)
        return s / self.length * (integral(x / s) - integral((x - self.length) / s))

    def to_normal(self, x: Any, temperature: Any) -> np.ndarray:
        """Map configurations to independent standard normal numbers with shape=(n, 2): the perfect flow.

        z1 = Phi^-1(x1 / L) and z2 = sqrt(2 k / kT) (x2 - x1), the report's equation 4 but for the sign of the
        difference: it prints |x2 - x1|, which is neither normal nor invertible.

        Args:
            x: Coordinates [nm] with shape=(n, 2); rows outside of the box give NaN.
            temperature: Temperature [K].
        """
        from scipy.special import ndtri

        x = self._checked(x)
        difference = (x[:, 1] - x[:, 0]) / self._spread(temperature)
        z = np.stack([ndtri(x[:, 0] / self.length), difference], axis=1)
        return np.where(np.isfinite(self._energy(x))[:, None], z, np.nan)

    def from_normal(self, z: Any, temperature: Any) -> np.ndarray:
        """Map standard normal numbers with shape=(n, 2) to configurations [nm]: the inverse of `to_normal`."""
        from scipy.special import ndtr

        z = self._checked(z)
        x1 = self.length * ndtr(z[:, 0])
        return np.stack([x1, x1 + self._spread(temperature) * z[:, 1]], axis=1)


def harmonic_oscillator(k: float = 1.0, length: float = 4.0) -> HarmonicOscillator:
    """Build two particles on a line, joined by a spring, of which the first is in a box.

    The defaults are those of the report's own code: at T = 1 the spring spreads by 0.71 nm, a sixth of the
    box, so that pictures show both the walls and the tails that x2 has beyond them.

    Monte Carlo moves only: dynamics do not feel the walls and leave the box; see `HarmonicOscillator`.

    Args:
        k: The force constant of H = k (x2 - x1)^2 [kJ/mol/nm^2]; there is no factor 1/2.
        length: The length of the box [nm].

    Raises:
        InputError: If one of them is not a positive finite number.
    """
    for name, value in (("k", k), ("length", length)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"The oscillator's {name} must be a positive number, not {value}.")
    return HarmonicOscillator(k, length)
