"""Replica exchange of alanine dipeptide in openmmtools, with the flow move in three lines.

A plain openmmtools script, to copy from. `openmm-bg exchange` does the same with checks and progress.

Example: python scripts/replica_exchange.py demo/model --iterations 200 --output exchange.nc
"""

import argparse
import logging
from pathlib import Path

for _name in ("pymbar", "pymbar.timeseries", "pymbar.mbar_solvers"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # importing openmmtools would print a banner


def main() -> None:
    """Run parallel tempering between 300 and 600 K."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="directory of a trained model")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("exchange.nc"), help="netCDF file to write")
    arguments = parser.parse_args()

    from openmm import unit
    from openmmtools.mcmc import LangevinDynamicsMove, SequenceMove
    from openmmtools.multistate import MultiStateReporter, ParallelTemperingSampler
    from openmmtools.states import SamplerState, ThermodynamicState
    from openmmtools.testsystems import AlanineDipeptideImplicit

    from openmm_bg import FlowMove

    molecule = AlanineDipeptideImplicit(constraints=None)
    timestep = 0.5 * unit.femtoseconds
    flow = FlowMove(arguments.model, n_proposals=16, reassign_velocities=True, timestep=timestep)
    dynamics = LangevinDynamicsMove(timestep=timestep, n_steps=100)
    sampler = ParallelTemperingSampler(
        mcmc_moves=SequenceMove([flow, dynamics]), number_of_iterations=arguments.iterations
    )
    sampler.create(
        ThermodynamicState(molecule.system, 300.0 * unit.kelvin),
        SamplerState(molecule.positions),
        MultiStateReporter(str(arguments.output), checkpoint_interval=10),
        min_temperature=300.0 * unit.kelvin,
        max_temperature=600.0 * unit.kelvin,
        n_temperatures=4,
    )
    sampler.minimize()
    sampler.run()
    for state, move in zip(sampler._thermodynamic_states, sampler.mcmc_moves, strict=True):
        print(
            f"{state.temperature}: {move.move_list[0].acceptance_fraction:.1%} of the flow's proposals accepted"
        )


if __name__ == "__main__":
    main()
