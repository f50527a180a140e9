"""Flow moves in openmmtools' self-adjusted mixture sampling: free energies of temperatures, known from theory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openmm import unit
from openmmtools.mcmc import LangevinSplittingDynamicsMove, SequenceMove
from openmmtools.multistate import MultiStateReporter, SAMSSampler
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.mcmc import FlowMove, MultipleTryMove

TEMPERATURES = (260.0, 300.0, 345.0)


@pytest.mark.filterwarnings("ignore")  # openmmtools' own
@pytest.mark.parametrize("kind", [FlowMove, MultipleTryMove])
def test_free_energies_are_those_of_theory(
    oscillator_models: dict[str, Path], oscillator: Any, tmp_path: Path, kind: Any
) -> None:
    """-log Z = const - 1.5 log T in three dimensions. The dynamics is idle: the flow alone moves the particle."""
    mcmc.seed(1)
    np.random.seed(1)
    idle = LangevinSplittingDynamicsMove(timestep=0.01 * unit.femtoseconds, n_steps=1)
    move = SequenceMove([kind(oscillator_models["real_nvp"], n_proposals=2), idle])
    sampler = SAMSSampler(mcmc_moves=move, number_of_iterations=1500, online_analysis_interval=None)
    states = [ThermodynamicState(oscillator.system, t * unit.kelvin) for t in TEMPERATURES]
    reporter = MultiStateReporter(str(tmp_path / "sams.nc"), checkpoint_interval=500)
    sampler.create(states, SamplerState(oscillator.positions), reporter)
    sampler.run()
    found = -sampler._logZ if hasattr(sampler, "_logZ") else None
    expected = -1.5 * np.log(TEMPERATURES)
    assert np.abs((found - found[0]) - (expected - expected[0])).max() < 0.15
    accepted = [one.move_list[0].n_accepted for one in sampler.mcmc_moves]
    assert min(accepted) > 50
    reporter.close()
