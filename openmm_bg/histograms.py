"""How the weight of samples or of a chain is shared out among cells, with standard errors.

In a chain of several walkers frame i belongs to walker i % n_walkers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from openmm_bg import statistics
from openmm_bg.errors import InputError

N_BLOCKS = 20
"""Parts that a chain of few walkers is cut into, to see their scatter; so many walkers need not be."""


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
        (samples), or from `chain_error`.

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

    def shares(part: slice) -> np.ndarray:
        return np.bincount(cells[part], minlength=n_cells + 1)[1:] / len(cells[part])

    return shares(slice(None)), chain_error(shares, len(cells), n_walkers)


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


def chain_error(
    average: Callable[[slice], np.ndarray | float], n_frames: int, n_walkers: int = 1
) -> np.ndarray:
    """Return standard errors of averages along a chain, from the scatter of its parts.

    The parts are walkers if there are many of them, and blocks if there is one. Of a few walkers both are looked
    at, and the larger error counts: blocks do not show walkers that stay where they are, and the scatter of a few
    walkers is known badly.

    Args:
        average: Returns the averages of a part of the frames.
        n_frames: The number of frames.
        n_walkers: Walkers, interleaved.

    Returns:
        Standard errors with the shape of the averages; infinite if there is one frame.
    """
    errors = []
    for parts in _partitions(n_frames, n_walkers):
        values = np.array([average(part) for part in parts])
        many = len(parts) > 1
        errors.append(np.sqrt(values.var(axis=0, ddof=1) / len(parts)) if many else values[0] * 0.0 + np.inf)
    return np.max(errors, axis=0)


def _partitions(n_frames: int, n_walkers: int) -> list[list[slice]]:
    """Return ways to cut a chain into parts that may count as independent."""
    walkers = [slice(k, None, n_walkers) for k in range(n_walkers)]
    if n_walkers >= N_BLOCKS:
        return [walkers]
    edges = np.linspace(0, n_frames, min(N_BLOCKS, n_frames) + 1).astype(int)
    blocks = [slice(a, b) for a, b in pairwise(edges)]
    return [blocks, walkers] if n_walkers > 1 else [blocks]


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Return quantiles of values with shape=(n,) that have positive weights summing to one."""
    order = np.argsort(values)
    return np.interp(levels, np.cumsum(weights[order]), values[order])
