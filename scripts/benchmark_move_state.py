"""Measure what the state handling of a FlowMove adds to one iteration of a replica-exchange run.

In every iteration openmmtools writes each thermodynamic state's move to its storage as YAML and copies
them all: for three states 6 times __getstate__ and 3 times __setstate__. Both are timed with and without
a FlowMove before the dynamics. Example: python scripts/benchmark_move_state.py model/
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from openmm_bg.exchange import silence_openmmtools

N_STATES = 3


def save_small_model(directory: Path) -> Path:
    """Save a model of a single particle: the state of a move has the same size for every model."""
    from openmm_bg.flows import SplineFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.transforms import CartesianCoordinates

    coordinates = CartesianCoordinates(1).fit(np.random.default_rng(0).normal(size=(100, 1, 3)))
    return BoltzmannGenerator(SplineFlow(coordinates, 300.0, n_layers=2)).save(directory / "model")


def milliseconds(function: Callable[[], object], repetitions: int = 200) -> float:
    """Return the median time of one call [ms]."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000.0 * float(np.median(times))


def main() -> None:
    """Print the milliseconds per iteration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", type=Path, help="model directory; a small one is made if not given"
    )
    arguments = parser.parse_args()
    silence_openmmtools()
    from openmmtools.mcmc import LangevinDynamicsMove, SequenceMove
    from openmmtools.multistate import MultiStateReporter

    from openmm_bg.mcmc import FlowMove

    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or save_small_model(Path(folder))
        kinds = {"with": [FlowMove(model), LangevinDynamicsMove()], "without": [LangevinDynamicsMove()]}
        results = {}
        for name, sequence in kinds.items():
            moves = [SequenceMove(copy.deepcopy(sequence)) for _ in range(N_STATES)]
            reporter = MultiStateReporter(str(Path(folder) / f"{name}.nc"), open_mode="w")
            reporter.write_mcmc_moves(moves)
            write = milliseconds(lambda: (reporter.write_mcmc_moves(moves), reporter.sync()))  # noqa: B023
            duplicate = milliseconds(lambda: copy.deepcopy(moves))  # noqa: B023
            text = str(reporter._storage_analysis["mcmc_moves/move0"][0])
            reporter.close()
            results[name] = write + duplicate
            print(
                f"{name:>7} FlowMove: write {write:.2f} ms, copy {duplicate:.2f} ms per iteration; "
                f"{len(text.encode())} bytes of YAML per state"
            )
    print(
        f"A FlowMove adds {results['with'] - results['without']:.2f} ms to an iteration of {N_STATES} states."
    )


if __name__ == "__main__":
    main()
