"""Flow moves in openmmtools' self-adjusted mixture sampling: free energies of temperatures, known from theory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import MCMCMove
from openmmtools.multistate import MultiStateReporter, SAMSSampler
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, MultipleTryMove
from openmm_bg.reproduction.detailed_balance import wrong_ratio

# The flow is made for 298 K, and a little too wide.
pytestmark = pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")

TEMPERATURES = (150.0, 300.0, 600.0)
EXACT = 1.5 * np.log(TEMPERATURES)  # log Z of an oscillator in three dimensions, up to a constant

MOVES = {
    "FlowMove": lambda model: FlowMove(model, n_proposals=2),
    "MultipleTryMove": lambda model: MultipleTryMove(model, n_candidates=16),
    "LatentMonteCarloMove": lambda model: LatentMonteCarloMove(model, 2, step_size=3.0, n_tuning=0),
}


def sampled(move: MCMCMove, oscillator: Any, storage: Path) -> tuple[np.ndarray, np.ndarray]:
    """Run SAMS with four replicas that a move alone moves.

    Returns:
        The log Z that it finds, less its exact value, and the fraction of the visits to each state.
    """
    mcmc.seed(1)
    np.random.seed(1)  # noqa: NPY002 (openmmtools' own numbers)
    sampler = SAMSSampler(mcmc_moves=move, number_of_iterations=120, online_analysis_interval=None)
    reporter = MultiStateReporter(str(storage), checkpoint_interval=50)
    states = [ThermodynamicState(oscillator.system, t * unit.kelvin) for t in TEMPERATURES]
    sampler.create(states, [SamplerState(oscillator.positions)] * 4, reporter)
    sampler.run()
    visits = np.bincount(np.ravel(reporter.read_replica_thermodynamic_states()), minlength=len(states))
    error = sampler._logZ - EXACT
    reporter.close()
    return error - error[0], visits / visits.sum()


@pytest.fixture(autouse=True)
def _double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    precise = cache.ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))
    monkeypatch.setattr(cache, "global_context_cache", precise)


@pytest.mark.parametrize("kind", list(MOVES))
def test_free_energies_are_those_of_theory(
    oscillator_models: dict[str, Path], oscillator: Any, tmp_path: Path, kind: str
) -> None:
    """Then each state is visited as often as any other."""
    error, visits = sampled(MOVES[kind](oscillator_models["real_nvp"]), oscillator, tmp_path / "sams.nc")
    assert np.abs(error).max() < 0.4  # three standard deviations over seeds
    np.testing.assert_allclose(visits, 1 / 3, atol=0.06)


def test_a_wrong_weight_is_noticed(
    oscillator_models: dict[str, Path], oscillator: Any, tmp_path: Path
) -> None:
    """Without the flow's density the configurations of every state are too narrow."""
    with wrong_ratio("FlowMove"):
        error, _ = sampled(FlowMove(oscillator_models["real_nvp"], 2), oscillator, tmp_path / "sams.nc")
    assert np.abs(error).max() > 0.5
