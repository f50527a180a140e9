"""The random numbers of the moves: one stream for the process, never part of a move's state.

A seed stored in a move would be copied to every thermodynamic state, which would then all draw the
same numbers, and would replay them whenever a run is resumed from storage.
"""

from __future__ import annotations

import os

import numpy as np
import torch

_generator = torch.Generator()
_generator.seed()  # from the operating system's entropy
if hasattr(os, "register_at_fork"):
    # A forked worker would otherwise repeat its parent's numbers.
    os.register_at_fork(after_in_child=_generator.seed)


def seed(value: int | None = None) -> None:
    """Seed the random numbers of all moves in this process.

    Args:
        value: The seed; None draws a fresh one from the operating system, as at start-up.
    """
    if value is None:
        _generator.seed()
    else:
        _generator.manual_seed(int(value))


def random_generator() -> torch.Generator:
    """Return the generator that all moves of this process draw from."""
    return _generator


def log_uniform(n: int) -> np.ndarray:
    """Draw logarithms of n numbers that are uniform in (0, 1]: acceptance is log_uniform <= log(ratio)."""
    return np.log1p(-torch.rand(n, dtype=torch.float64, generator=_generator).numpy())


def choose(log_weights: np.ndarray) -> int:
    """Draw an index with probabilities in proportion to weights, of which at least one must not be zero."""
    uniform = torch.rand(len(log_weights), dtype=torch.float64, generator=_generator).numpy()
    gumbel = -np.log(-np.log1p(-uniform) + np.finfo(float).tiny)
    return int(np.argmax(log_weights + gumbel))
