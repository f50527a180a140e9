"""What a run is made of: the sampler, the move by the flow, temperatures, and how many proposals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.units import kelvin, picoseconds

SAMPLERS = ("parallel-tempering", "learned")
"""How replicas are exchanged: as they are, or through the map of the flow."""

MOVES = ("flow", "latent", "multiple-try", "none")
"""How the flow can move the replicas at their temperature."""

DYNAMICS = ("openmm", "fused")
"""What makes the steps of dynamics: an OpenMM Context, or machine code of the batched potential."""

_N_REPLICAS = {"parallel-tempering": 4, "learned": 2}
_MOVE = {"parallel-tempering": "flow", "learned": "none"}


@dataclass(frozen=True)
class Choices:
    """What makes a run the same run when it is continued, with defaults filled in; see `make_choices`.

    Attributes:
        temperatures: The temperatures [K], the lowest first.
        sampler: One of `SAMPLERS`.
        move: One of `MOVES`.
        n_proposals: Proposals of each move by the flow, or tries; 0 without one.
        n_candidates: Candidates of each try; None for moves that have none.
    """

    temperatures: tuple[float, ...]
    sampler: str
    move: str
    n_proposals: int
    n_candidates: int | None

    def settings(self) -> dict[str, Any]:
        """Return them as they are stored with a run."""
        return {
            "temperatures": list(self.temperatures),
            "sampler": self.sampler,
            "move": self.move,
            "n_proposals": self.n_proposals,
            "n_candidates": self.n_candidates,
        }

    def difference(self, stored: dict[str, Any]) -> tuple[str, Any, Any] | None:
        """Return the name of the first setting that a stored run has another value of, its value and ours."""
        theirs = stored["temperatures"]
        pairs = {
            "sampler": (stored.get("sampler", "parallel-tempering"), self.sampler),
            "temperature_min": (theirs[0], self.temperatures[0]),
            "temperature_max": (theirs[-1], self.temperatures[-1]),
            "n_replicas": (len(theirs), len(self.temperatures)),
            "move": (stored.get("move", "flow"), self.move),
            "n_proposals": (stored["n_proposals"], self.n_proposals),
            "n_candidates": (stored.get("n_candidates"), self.n_candidates),
        }
        return next(((name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]), None)


def make_choices(
    *,
    temperature_min: Any,
    temperature_max: Any,
    n_replicas: int | None,
    sampler: str,
    move: str | None,
    n_proposals: int | None,
    n_candidates: int | None,
) -> Choices:
    """Check what was chosen, and fill in the defaults where None is given.

    Raises:
        InputError: If it makes no sense.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"There is no sampler {sampler!r}; the samplers are: {', '.join(SAMPLERS)}.")
    move = _MOVE[sampler] if move is None else move
    if move not in MOVES:
        raise InputError(f"There is no move {move!r}; the moves are: {', '.join(MOVES)}.")
    if move == "none" and sampler != "learned":
        raise InputError(
            f"The move 'none', dynamics alone, goes with the sampler 'learned', not {sampler!r}."
        )
    if move != "multiple-try" and n_candidates is not None:
        raise InputError(f"Candidates go with the move 'multiple-try', not with {move!r}.")
    if move == "none":
        if n_proposals is not None:
            raise InputError("Proposals go with a move by the flow, and the move 'none' is dynamics alone.")
        n_proposals = 0
    elif n_proposals is None:
        n_proposals = 1 if move == "multiple-try" else 16
    elif n_proposals < 1:
        raise InputError(f"n_proposals must be at least 1, not {n_proposals}.")
    if move == "multiple-try":
        n_candidates = 64 if n_candidates is None else int(n_candidates)
        if n_candidates < 1:
            raise InputError(f"n_candidates must be at least 1, not {n_candidates}.")
    n_replicas = _N_REPLICAS[sampler] if n_replicas is None else int(n_replicas)
    temperatures = _temperatures(temperature_min, temperature_max, n_replicas)
    return Choices(tuple(temperatures.tolist()), sampler, move, int(n_proposals), n_candidates)


def check_step(timestep: Any) -> float:
    """Return a time step [ps].

    Raises:
        InputError: If dynamics of a molecule cannot have it.
    """
    step = picoseconds(timestep)
    if not (math.isfinite(step) and 0 < step <= 0.004):
        raise InputError(f"The time step must be between 0 and 0.004 ps, not {step:g} ps.")
    return step


def check_dynamics(name: str) -> str:
    """Return the name of what makes the steps of dynamics.

    Raises:
        InputError: If there is none of this name.
    """
    if name not in DYNAMICS:
        raise InputError(f"There are no dynamics {name!r}; choose from {', '.join(DYNAMICS)}.")
    return name


def _temperatures(lowest: Any, highest: Any, count: int) -> np.ndarray:
    lowest, highest = kelvin(lowest), kelvin(highest)
    if count < 2:
        raise InputError(f"Replica exchange needs at least 2 replicas, not {count}.")
    if lowest >= highest:
        raise InputError(f"The lowest temperature ({lowest:g} K) must be below the highest ({highest:g} K).")
    temperatures = np.geomspace(lowest, highest, count)
    temperatures[[0, -1]] = lowest, highest
    return temperatures
