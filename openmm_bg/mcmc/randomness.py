"""The random numbers of the moves: one stream for the process, never part of a move's state.

A seed stored in a move would be copied to every thermodynamic state, which would then all draw the
same numbers, and would replay them whenever a run is resumed from storage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from openmm_bg.mcmc.mpi import rank_and_size

_generator = torch.Generator()
_generator.seed()  # from the operating system's entropy
if hasattr(os, "register_at_fork"):
    # A forked worker would otherwise repeat its parent's numbers.
    os.register_at_fork(after_in_child=_generator.seed)


def seed(value: int | None = None) -> None:
    """Seed the random numbers of all moves in this process.

    Processes that mpirun has started get different numbers from the same seed; those of the first are the ones
    that a single process gets.

    Args:
        value: The seed; None draws a fresh one from the operating system, as at start-up.
    """
    rank, _ = rank_and_size()
    if value is None:
        _generator.seed()
    else:
        _generator.manual_seed(_mixed(int(value), rank) if rank else int(value))


def draw_key() -> int:
    """Draw a number for `stream`."""
    return int(torch.randint(2**62, (1,), generator=_generator))


@contextmanager
def stream(key: int, index: int) -> Iterator[None]:
    """Draw from other random numbers inside a with statement, which depend on nothing but two numbers.

    What draws from them gets the same ones in whichever process it runs, and whatever was drawn before.

    Args:
        key: The first number, not negative, as `draw_key` returns it.
        index: The second, e.g. that of a replica.
    """
    before = _generator.get_state()
    _generator.manual_seed(_mixed(key, index))
    try:
        yield
    finally:
        _generator.set_state(before)


def _mixed(*numbers: int) -> int:
    """Return a seed that depends on all of some numbers; they may be negative."""
    entropy = [number % 2**64 for number in numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


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
