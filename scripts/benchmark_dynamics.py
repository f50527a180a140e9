"""Measure steps per second of `FusedLangevinMove` against openmmtools' `LangevinDynamicsMove`.

Both moves propagate the same molecule with the same integrator in one process, in turn; OpenMM's platform is the
fastest that there is for the molecule. The median of the ratios is printed, and the quarter and three quarters.

Example: OPENMM_BG_THREADS=1 python scripts/benchmark_dynamics.py --systems alanine-obc1 alanine-vacuum
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from benchmark_systems import SYSTEMS, load_system

from openmm_bg.cli.console import print_table
from openmm_bg.exchange.preparation import choose_platform, silence_openmmtools
from openmm_bg.systems import MolecularSystem


def rates(system: MolecularSystem, n_steps: int, n_rounds: int) -> tuple[np.ndarray, str]:
    """Return steps per second with shape=(n_rounds, 2), fused and by OpenMM, and the platform of the latter."""
    silence_openmmtools()
    import openmm
    from openmm import unit
    from openmmtools.cache import ContextCache
    from openmmtools.mcmc import LangevinDynamicsMove
    from openmmtools.states import SamplerState, ThermodynamicState

    from openmm_bg.mcmc import FusedLangevinMove

    name, properties = choose_platform(system, None)
    cache = ContextCache(openmm.Platform.getPlatformByName(name), properties or None)
    state = ThermodynamicState(system.system, 300 * unit.kelvin)
    options = {"timestep": 1 * unit.femtosecond, "collision_rate": 1 / unit.picosecond, "n_steps": n_steps}
    moves = [FusedLangevinMove(**options), LangevinDynamicsMove(**options)]
    molecules = [SamplerState(system.positions * unit.nanometer) for _ in moves]
    found = np.zeros((n_rounds + 1, 2))
    for k in range(n_rounds + 1):
        for j, (move, molecule) in enumerate(zip(moves, molecules, strict=True)):
            started = time.perf_counter()
            move.apply(state, molecule, context_cache=cache)
            found[k, j] = n_steps / (time.perf_counter() - started)
    return found[1:], name  # the first round compiles and creates Contexts


def main() -> None:
    """Print a row for each molecule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", default=["alanine-obc1"], choices=sorted(SYSTEMS))
    parser.add_argument("--steps", type=int, default=1000, help="steps in an application of a move")
    parser.add_argument("--rounds", type=int, default=21, help="how often the moves take turns")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.systems:
        system = load_system(name)
        found, platform = rates(system, arguments.steps, arguments.rounds)
        ratios = found[:, 0] / found[:, 1]
        fused, openmm = np.median(found, axis=0)
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        rows.append(
            (
                name,
                str(system.n_atoms),
                f"{fused:,.0f}",
                f"{openmm:,.0f} ({platform})",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
            )
        )
    print_table(("system", "atoms", "fused, steps/s", "OpenMM, steps/s", "ratio"), rows, title="dynamics")


if __name__ == "__main__":
    main()
