"""How many threads work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from openmm_bg.errors import InputError

THREADS_VARIABLE = "OPENMM_BG_THREADS"

_outside: list[int] = []  # threads of torch outside of `single_threaded`


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def potential_threads() -> int:
    """Return the threads of a potential: ``OPENMM_BG_THREADS`` in the environment, or those of torch.

    `single_threaded` does not change them.

    Raises:
        InputError: If the variable is not a positive whole number.
    """
    import torch

    text = os.environ.get(THREADS_VARIABLE)
    if text is None:
        return _outside[0] if _outside else torch.get_num_threads()
    if not text.strip().isdigit() or int(text) < 1:
        raise InputError(f"{THREADS_VARIABLE} must be a positive whole number, not {text!r}.")
    return int(text)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch in one thread, for networks on few configurations; potentials keep their threads.

    Several threads would wait for each other longer than they work.
    """
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    _outside.append(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _outside.pop()
