"""What a method leaves behind: torsions, replicas, weights, and what they cost."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.files import atomic_write_bytes, atomic_write_json
from openmm_bg.reproduction.arrays import arrays_bytes


@dataclass(frozen=True)
class Cost:
    """What something cost.

    Args:
        evaluations: Energy evaluations, with or without forces.
        seconds: Wall time [s].
        cpu_seconds: Processor time [s] of all threads; it does not depend on what else a machine does.
    """

    evaluations: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Return what both cost together."""
        return Cost(
            *(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )


class Stopwatch:
    """Tells what was spent since it was made, or since the last time it was asked."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def lap(self, evaluations: float = 0.0) -> Cost:
        """Return the time since the last lap, with the energy evaluations that were made meanwhile."""
        now = time.perf_counter(), time.process_time()
        cost = Cost(float(evaluations), now[0] - self._start[0], now[1] - self._start[1])
        self._start = now
        return cost


@dataclass(frozen=True, eq=False)
class Trace:
    """What a method has sampled, burn-in left out.

    Args:
        phi: Angles [rad] with shape=(n_frames, n_states, n_walkers): of every temperature, the lowest first, and of
            independent walkers or ladders. NaN only where the weight is zero.
        psi: Angles [rad] with the same shape.
        burn_in: What was spent before the first frame, loading and preparing included.
        production: What the frames cost.
        replicas: The replica in each state with the same shape; None without exchanges.
        log_weights: Log-weights with shape=(n_frames,) of independent samples; None for chains.
        recycled: By the name of an indicator, its average over all candidates of each try at the lowest
            temperature, with shape=(n_tries,).
        figures: Whatever else is worth knowing.
    """

    phi: np.ndarray
    psi: np.ndarray
    burn_in: Cost
    production: Cost
    replicas: np.ndarray | None = None
    log_weights: np.ndarray | None = None
    recycled: dict[str, np.ndarray] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def save(self, directory: Path, method: str) -> None:
        """Write the trace as ``METHOD.npz`` and ``METHOD.json``; it is there once the latter is."""
        arrays = {name: getattr(self, name) for name in ("phi", "psi", "replicas", "log_weights")}
        arrays = {name: values for name, values in arrays.items() if values is not None}
        arrays |= {f"recycled_{name}": values for name, values in self.recycled.items()}
        atomic_write_bytes(directory / f"{method}.npz", arrays_bytes(arrays))
        costs = {name: dataclasses.asdict(getattr(self, name)) for name in ("burn_in", "production")}
        atomic_write_json(directory / f"{method}.json", {**costs, "figures": self.figures})

    @classmethod
    def load(cls, directory: Path, method: str) -> Trace | None:
        """Read a trace that was saved; None if there is none."""
        path = directory / f"{method}.json"
        if not path.exists():
            return None
        header = json.loads(path.read_text())
        with np.load(directory / f"{method}.npz") as file:
            arrays = dict(file)
        names = [name for name in arrays if name.startswith("recycled_")]
        recycled = {name.removeprefix("recycled_"): arrays.pop(name) for name in names}
        costs = {name: Cost(**header[name]) for name in ("burn_in", "production")}
        return cls(**arrays, **costs, recycled=recycled, figures=header["figures"])
