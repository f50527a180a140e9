"""Measure how often steps of a latent Monte Carlo move are accepted, by width and kind of displacement.

Example: python scripts/benchmark_latent_moves.py demo/model --temperature 300
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from openmm import unit
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import BoltzmannGenerator, FlowMove, mcmc
from openmm_bg.cli.console import print_table
from openmm_bg.errors import InputError
from openmm_bg.mcmc import LatentMonteCarloMove

WIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 10.0)


def main() -> int:
    """Apply each move to the model's own reference structure, which first takes some steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="directory of a trained model")
    parser.add_argument("-T", "--temperature", type=float, default=300.0, help="in K (default: 300)")
    parser.add_argument("-n", "--n-proposals", type=int, default=400, help="of each move (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moves (default: 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # batches are small
    try:
        system = BoltzmannGenerator.load(arguments.model).system
        moves = {("fresh proposals of the flow", None): FlowMove(arguments.model, n_proposals=10)}
        for displacement in ("diffusion", "random_walk"):
            for width in WIDTHS:
                moves[displacement, width] = LatentMonteCarloMove(
                    arguments.model, 10, step_size=width, displacement=displacement, n_tuning=0
                )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    state = ThermodynamicState(system.system, arguments.temperature * unit.kelvin)
    rows = []
    for (name, width), move in moves.items():
        mcmc.seed(arguments.seed)
        current = SamplerState(system.positions * unit.nanometer)
        for _ in range(5):  # the reference structure is not a sample
            move.apply(state, current)
        move.statistics = {**move.statistics, "n_accepted": 0, "n_proposed": 0}
        start = time.perf_counter()
        while move.n_proposed < arguments.n_proposals:
            move.apply(state, current)
        seconds = (time.perf_counter() - start) / move.n_proposed
        kept = "" if width is None else f"{math.exp(-(width**2) / 2):.3f}"
        row = (name, width or "", kept, f"{move.acceptance_fraction:.1%}", f"{1000 * seconds:.1f}")
        rows.append(tuple(str(cell) for cell in row))
    header = ("displacement", "width", "kept of the angles", "accepted", "ms for a proposal")
    print_table(header, rows, title=f"{arguments.model}, {arguments.temperature:g} K")
    return 0


if __name__ == "__main__":
    sys.exit(main())
