"""How the weight of samples or of a chain is shared out among cells, with standard errors.

In a chain of several walkers frame i belongs to walker i % n_walkers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from openmm_bg import statistics
from openmm_bg.errors import InputError

N_BLOCKS = 20
"""Parts that a chain of few walkers is cut into, to see their scatter."""


def cell_fractions(
    cells: np.ndarray, n_cells: int, log_weights: np.ndarray | None = None, n_walkers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fraction of the weight in each cell and its standard error.

    Args:
        cells: The cell of each frame with shape=(n,), from 0 to n_cells - 1; -1 is in none, but counts as a
            frame.
        n_cells: The number of cells.
        log_weights: Log-weights with shape=(n,) of samples, or None for a chain.
        n_walkers: Walkers of a chain, interleaved. Samples with weights are independent if there is only one.

    Returns:
        Fractions and standard errors, each with shape=(n_cells,). The errors come from the delta method
        (samples), or from the scatter of walkers or blocks (chains).

    Raises:
        InputError: If no weight is above zero.
    """
    cells = np.asarray(cells) + 1  # the first count is that of the frames in no cell
    if log_weights is not None:
        weights = statistics.normalized_weights(log_weights)
        fraction = np.bincount(cells, weights=weights, minlength=n_cells + 1)[1:]
        if n_walkers > 1:
            return fraction, _walker_errors(cells, weights, fraction, n_walkers)
        # sum_i w_i^2 (1[i in cell] - p)^2, expanded
        squared = np.bincount(cells, weights=weights**2, minlength=n_cells + 1)
        variance = squared[1:] * (1 - 2 * fraction) + fraction**2 * squared.sum()
        return fraction, np.sqrt(np.maximum(variance, 0.0))
    fraction = np.bincount(cells, minlength=n_cells + 1)[1:] / len(cells)
    groups = independent_parts(len(cells), n_walkers)
    parts = [np.bincount(cells[g], minlength=n_cells + 1)[1:] / len(cells[g]) for g in groups]
    if len(parts) < 2:
        return fraction, np.full(n_cells, np.inf)
    return fraction, np.sqrt(np.var(parts, axis=0, ddof=1) / len(parts))


def _walker_errors(
    cells: np.ndarray, weights: np.ndarray, fraction: np.ndarray, n_walkers: int
) -> np.ndarray:
    """Return standard errors of fractions from the scatter of weighted walkers."""
    if len(cells) % n_walkers:
        raise InputError(f"{len(cells)} frames are not the same number for {n_walkers} walkers.")
    variance = np.zeros(len(fraction))
    for k in range(n_walkers):
        own = slice(k, None, n_walkers)
        found = np.bincount(cells[own], weights=weights[own], minlength=len(fraction) + 1)[1:]
        variance += (found - fraction * weights[own].sum()) ** 2
    return np.sqrt(variance * n_walkers / (n_walkers - 1))


def independent_parts(n_frames: int, n_walkers: int = 1) -> list[slice]:
    """Return parts of a chain that may count as independent: walkers if there are many, or blocks."""
    if n_walkers >= N_BLOCKS:
        return [slice(k, None, n_walkers) for k in range(n_walkers)]
    edges = np.linspace(0, n_frames, min(N_BLOCKS, n_frames) + 1).astype(int)
    return [slice(a, b) for a, b in pairwise(edges)]


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Return quantiles of values with shape=(n,) that have positive weights summing to one."""
    order = np.argsort(values)
    return np.interp(levels, np.cumsum(weights[order]), values[order])
