"""A quartic potential in one dimension with its exact answers: what the double wells are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_bg.errors import InputError

_CELLS = 20_000  # of the table of a density
_DEPTH = 50.0  # [kT] above its highest stationary point, a density is taken to end; exp(-50) = 2e-22
_PANELS = 32  # by which a bin is integrated, with 16 Gauss points each


@dataclass(frozen=True)
class Quartic:
    """The potential u(x) = a4 x^4 + a2 x^2 + a1 x on a line, and exact answers about it.

    Args:
        a4: [kJ/mol/nm^4], positive.
        a2: [kJ/mol/nm^2].
        a1: [kJ/mol/nm].

    Raises:
        InputError: If a4 is not positive, or a parameter is not finite.
    """

    a4: float
    a2: float
    a1: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.a4, self.a2, self.a1]).all() and self.a4 > 0):
            raise InputError(
                f"A double well needs finite parameters with a4 > 0, not {self.a4}, {self.a2}, {self.a1}."
            )

    def energy(self, x: np.ndarray) -> np.ndarray:
        """Return the energies [kJ/mol] of coordinates [nm] of any shape."""
        return ((self.a4 * x**2 + self.a2) * x + self.a1) * x

    @property
    def stationary_points(self) -> np.ndarray:
        """Where the derivative is zero [nm], in order: a minimum, or a minimum, the barrier and a minimum."""
        roots = np.roots([4 * self.a4, 0.0, 2 * self.a2, self.a1])
        p, q = self.a2 / (2 * self.a4), self.a1 / (4 * self.a4)
        if -4 * p**3 - 27 * q**2 > 0:  # the discriminant: three real roots
            return np.sort(roots.real)
        return roots[[np.abs(roots.imag).argmin()]].real

    @property
    def minimum(self) -> float:
        """The deepest minimum [nm]."""
        points = self.stationary_points
        return float(points[self.energy(points).argmin()])

    @property
    def barrier(self) -> float:
        """The position [nm] of the barrier between the wells.

        Raises:
            InputError: If there is one well only.
        """
        points = self.stationary_points
        if len(points) == 1:
            raise InputError("This potential has a single well, so that there is no barrier.")
        return float(points[1])

    def log_z(self, kt: float) -> float:
        """Return the logarithm of the integral of exp(-u / kT) [nm], for kT in kJ/mol."""
        x, weights, _ = self._table(kt)
        return float(np.log(np.trapezoid(weights, x)) - self.energy(self.minimum) / kt)

    def mean_energy(self, kt: float) -> float:
        """Return the mean energy [kJ/mol], for kT in kJ/mol."""
        x, weights, _ = self._table(kt)
        return float(np.trapezoid(weights * self.energy(x), x) / np.trapezoid(weights, x))

    def cdf(self, x: np.ndarray, kt: float) -> np.ndarray:
        """Return the probabilities of being left of coordinates [nm] of any shape, for kT in kJ/mol."""
        grid, _, cumulative = self._table(kt)
        return np.interp(x, grid, cumulative)

    def sample(self, n: int, kt: float, rng: np.random.Generator) -> np.ndarray:
        """Draw n independent coordinates [nm], by the inverse of the cumulative distribution."""
        grid, _, cumulative = self._table(kt)
        return np.interp(rng.random(n), cumulative, grid)

    def log_masses(self, edges: np.ndarray, kt: float) -> np.ndarray:
        """Return the logarithms of the integrals of exp(-u / kT) over bins, by Gauss quadrature.

        Args:
            edges: Increasing edges [nm] with shape=(n_bins + 1,); a first -inf and a last +inf are allowed.
            kt: kT [kJ/mol].
        """
        from scipy.special import logsumexp

        low, high = self._range(kt)
        edges = np.where(np.isneginf(edges), min(low, edges[1]), edges)
        edges = np.where(np.isposinf(edges), max(high, edges[-2]), edges)
        panels = np.linspace(edges[:-1], edges[1:], _PANELS + 1)
        nodes, weights = np.polynomial.legendre.leggauss(16)
        half, middle = 0.5 * np.diff(panels, axis=0), 0.5 * (panels[1:] + panels[:-1])
        x = middle[..., None] + half[..., None] * nodes
        return logsumexp(-self.energy(x) / kt, b=half[..., None] * weights, axis=(0, 2))

    def _range(self, kt: float) -> tuple[float, float]:
        """Return where the potential is less than `_DEPTH` above its highest stationary point."""
        level = float(self.energy(self.stationary_points).max()) + _DEPTH * kt
        roots = np.roots([self.a4, 0.0, self.a2, self.a1, -level])
        low, high = np.sort(roots[np.abs(roots.imag).argsort()[:2]].real)  # two are real, two are not
        return float(low), float(high)

    def _table(self, kt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a fine grid, exp(-(u - u_min) / kT) on it, and the cumulative distribution.

        Sums over it are exact to rounding (the trapezoid rule, with an integrand that is zero at both
        ends); between its points the distribution is taken as linear, which is off by less than 1e-6
        where kT is at least 0.1 kJ/mol (for wells of `DOUBLE_WELLS`; the error grows as 1 / kT).
        """
        x = np.linspace(*self._range(kt), _CELLS + 1)
        weights = np.exp(-(self.energy(x) - self.energy(self.minimum)) / kt)
        cumulative = np.concatenate([[0.0], np.cumsum(weights[1:] + weights[:-1])])
        return x, weights, cumulative / cumulative[-1]
