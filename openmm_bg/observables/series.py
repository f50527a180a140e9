"""Averages and free energies of observables over weighted samples and correlated chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import free_energy_surface
from openmm_bg.errors import InputError
from openmm_bg.histograms import cell_fractions, weighted_quantiles
from openmm_bg.observables.names import Observable
from openmm_bg.statistics import Estimate

if TYPE_CHECKING:
    from openmm_bg.trajectories import Frames

_LEFT_OUT = 1e-4  # of the weight, at either end of an axis


@dataclass(frozen=True, eq=False)
class Series:
    """The values of an observable in samples or in a simulation.

    Args:
        observable: The observable.
        values: Its values with shape=(n,); NaN only where the weight is zero.
        label: What the samples or the simulation are, for plots and tables.
        log_weights: Log-weights with shape=(n,) of independent samples, or None for a chain.
        n_walkers: Walkers of a chain, interleaved: frame i belongs to walker i % n_walkers.

    Raises:
        InputError: If the shapes disagree, or a value with weight is not finite.
    """

    observable: Observable
    values: np.ndarray
    label: str = ""
    log_weights: np.ndarray | None = None
    n_walkers: int = 1

    def __post_init__(self) -> None:
        """Check shapes and values."""
        n = len(self.values)
        if np.shape(self.values) != (n,) or n == 0 or np.shape(self.weights) != (n,):
            raise InputError(f"{self.label}: values and weights must be lists of one length.")
        if self.n_walkers < 1 or n % self.n_walkers:
            raise InputError(
                f"{self.label}: {n} frames are not the same number for {self.n_walkers} walkers."
            )
        if not np.isfinite(self.values[self.weights > 0]).all():
            raise InputError(f"{self.label}: {self.observable.name} is not finite in a frame with a weight.")

    @classmethod
    def of_frames(
        cls, observable: Observable, frames: Frames, label: str = "", *, weighted: bool = True
    ) -> Series:
        """Evaluate an observable on what `openmm_bg.io.read_frames` read.

        Args:
            observable: The observable.
            frames: The configurations.
            label: What they are.
            weighted: Use the weights of samples.
        """
        log_weights = frames.log_weights if weighted else None
        return cls(observable, observable(frames.positions), label, log_weights, frames.n_walkers)

    @property
    def weights(self) -> np.ndarray:
        """Weights that sum to one, shape=(n,)."""
        if self.log_weights is None:
            return np.full(len(self.values), 1.0 / len(self.values))
        return statistics.normalized_weights(self.log_weights)

    def mean(self) -> Estimate:
        """Return the average and its standard error, in the observable's unit.

        Of a periodic observable it is the direction of the mean vector (cos, sin), whose error is that of the
        mean of sin(value - direction) over the vector's length. Errors come from the delta method (samples), or
        from the correlation time (chains). A count that was always the same gets the error 1/n_effective, as a
        population does that was never or always seen.
        """
        if not self.observable.periodic:
            mean = self._average(self.values)
            if self.observable.is_count and np.ptp(self.values[self.weights > 0]) == 0:
                return mean._replace(stderr=1.0 / self._effective_number())
            return mean
        weights = self.weights
        values = np.where(weights > 0, self.values, 0.0)
        x, y = weights @ np.cos(values), weights @ np.sin(values)
        direction, length = np.arctan2(y, x), np.hypot(x, y)
        stderr = self._average(np.sin(self.values - direction)).stderr
        # A vector shorter than its error has no direction; no direction is further off than pi.
        return Estimate(float(direction), float(min(stderr / length, np.pi)) if length > 0 else np.pi)

    def standard_deviation(self) -> float:
        """Return the standard deviation in the observable's unit; of a periodic one sqrt(-2 log length).

        Source: Mardia and Jupp, Directional Statistics (2000), section 2.3 (of periodic ones).
        """
        weights = self.weights
        weights, values = weights[weights > 0], self.values[weights > 0]
        if not self.observable.periodic:
            return float(np.sqrt(weights @ (values - weights @ values) ** 2))
        length = np.hypot(weights @ np.cos(values), weights @ np.sin(values))
        return float(np.sqrt(-2.0 * np.log(min(length, 1.0)))) if length > 0 else np.inf

    def cells(self, edges: np.ndarray) -> np.ndarray:
        """Return the cell of each frame between ascending edges, -1 outside, with shape=(n,)."""
        values = np.nan_to_num(self.values, nan=np.inf)
        if self.observable.periodic:  # 180 and -180 degrees are the same
            values = (self.values - edges[0]) % (2 * np.pi) + edges[0]
            values = np.nan_to_num(values, nan=np.inf)
        cells = np.searchsorted(edges, values, side="right") - 1
        cells = np.where(values == edges[-1], len(edges) - 2, cells)
        return np.where((cells >= 0) & (cells < len(edges) - 1), cells, -1)

    def _average(self, values: np.ndarray) -> Estimate:
        if self.log_weights is not None:
            return statistics.weighted_mean(values, self.log_weights, self.n_walkers)
        return statistics.chain_mean(self._by_walker(values))

    def _effective_number(self) -> float:
        if self.log_weights is not None:
            return statistics.effective_sample_size(self.log_weights) * len(self.values)
        return statistics.effective_number(self._by_walker(self.values))

    def _by_walker(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, self.n_walkers).T


@dataclass(frozen=True, eq=False)
class FreeEnergyProfile:
    """The free energy along one observable, -log of its density, zero at the minimum.

    Attributes:
        edges: Edges of the bins, in the observable's unit, with shape=(n + 1,).
        density: Probability density [1/unit] with shape=(n,).
        density_stderr: Its standard error.
        free_energy: Free energies in kT with shape=(n,); +inf where nothing was seen.
        free_energy_stderr: Their standard errors, those of the density over the density; NaN where infinite.
    """

    edges: np.ndarray
    density: np.ndarray
    density_stderr: np.ndarray
    free_energy: np.ndarray
    free_energy_stderr: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """The bins' centres with shape=(n,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2


@dataclass(frozen=True, eq=False)
class FreeEnergySurface:
    """The free energy of two observables, -log of their joint density, zero at the minimum.

    Attributes:
        edges: Edges of the bins of either observable, in its unit.
        density: Probability density with shape=(n_x, n_y).
        free_energy: Free energies in kT; +inf where nothing was seen.
        free_energy_stderr: Their standard errors, those of the density over the density; NaN where infinite.
    """

    edges: tuple[np.ndarray, np.ndarray]
    density: np.ndarray
    free_energy: np.ndarray
    free_energy_stderr: np.ndarray


def bin_edges(series: list[Series], bins: int) -> np.ndarray:
    """Return the edges of bins that suit series of one observable, with shape=(n + 1,).

    A torsion gets the full circle and a count a bin for each number; others the range of what has weight, but
    for 1e-4 of it at either end, in each series.

    Args:
        series: The series.
        bins: The number of bins, but for counts.

    Raises:
        InputError: If there are fewer than 4 bins.
    """
    if bins < 4:
        raise InputError(f"A histogram needs at least 4 bins, not {bins}.")
    kind = series[0].observable
    if kind.periodic:
        return np.linspace(-np.pi, np.pi, bins + 1)
    spans = []
    for one in series:
        keep = one.weights > 0
        values, weights = one.values[keep], one.weights[keep]
        levels = (0.0, 1.0) if kind.is_count else (_LEFT_OUT, 1.0 - _LEFT_OUT)
        spans.append(weighted_quantiles(values, weights, levels))
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    if kind.is_count:
        return np.arange(low - 0.5, high + 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def profile(series: Series, edges: np.ndarray | None = None, bins: int = 60) -> FreeEnergyProfile:
    """Return the free energy along an observable.

    Args:
        series: The observable's values.
        edges: Edges of the bins; `bin_edges` of the series if not given.
        bins: The number of bins if the edges are not given.

    Raises:
        InputError: If nothing is between the edges.
    """
    edges = bin_edges([series], bins) if edges is None else np.asarray(edges, dtype=np.float64)
    fraction, stderr = cell_fractions(
        series.cells(edges), len(edges) - 1, series.log_weights, series.n_walkers
    )
    _check_seen(fraction, series)
    widths = np.diff(edges)
    density = fraction / widths
    return FreeEnergyProfile(
        edges, density, stderr / widths, free_energy_surface(density), _relative(fraction, stderr)
    )


def surface(
    x: Series, y: Series, edges: tuple[np.ndarray, np.ndarray] | None = None, bins: int = 60
) -> FreeEnergySurface:
    """Return the free energy of two observables of the same configurations.

    Args:
        x: The values of the first.
        y: The values of the second, of the same frames.
        edges: Edges of the bins of both; `bin_edges` of the series if not given.
        bins: The number of bins of each if the edges are not given.

    Raises:
        InputError: If the series are of different lengths, or nothing is between the edges.
    """
    if len(x.values) != len(y.values):
        raise InputError(f"{x.observable.name} and {y.observable.name} are of different configurations.")
    edges = edges or (bin_edges([x], bins), bin_edges([y], bins))
    n_x, n_y = (len(e) - 1 for e in edges)
    first, second = x.cells(edges[0]), y.cells(edges[1])
    cells = np.where((first < 0) | (second < 0), -1, first * n_y + second)
    fraction, stderr = cell_fractions(cells, n_x * n_y, x.log_weights, x.n_walkers)
    _check_seen(fraction, x)
    area = np.outer(np.diff(edges[0]), np.diff(edges[1]))
    density = fraction.reshape(n_x, n_y) / area
    relative = _relative(fraction, stderr).reshape(n_x, n_y)
    return FreeEnergySurface(edges, density, free_energy_surface(density), relative)


def _check_seen(fraction: np.ndarray, series: Series) -> None:
    if not fraction.any():
        raise InputError(f"{series.label}: no value of {series.observable.name} is between the edges.")


def _relative(fraction: np.ndarray, stderr: np.ndarray) -> np.ndarray:
    return np.where(fraction > 0, stderr / np.where(fraction > 0, fraction, 1.0), np.nan)
