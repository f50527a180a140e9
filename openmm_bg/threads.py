"""How many threads work."""

from __future__ import annotations

import os

from openmm_bg.errors import InputError

THREADS_VARIABLE = "OPENMM_BG_THREADS"


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def potential_threads() -> int:
    """Return the threads of a potential: ``OPENMM_BG_THREADS`` in the environment, or those of torch.

    Raises:
        InputError: If the variable is not a positive whole number.
    """
    import torch

    text = os.environ.get(THREADS_VARIABLE)
    if text is None:
        return torch.get_num_threads()
    if not text.strip().isdigit() or int(text) < 1:
        raise InputError(f"{THREADS_VARIABLE} must be a positive whole number, not {text!r}.")
    return int(text)
