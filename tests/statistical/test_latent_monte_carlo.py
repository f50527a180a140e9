"""The latent walk's chain does not depend on how many proposals are made at once, and is that of theory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openmm import unit
from openmmtools import testsystems
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.mcmc import LatentMonteCarloMove
from openmm_bg.statistics import Estimate, chain_mean, z_score
from openmm_bg.units import thermal_energy

TEMPERATURE = 298.0


def energies_and_acceptance(
    monkeypatch: pytest.MonkeyPatch, model: Path, batch_size: int
) -> tuple[np.ndarray, Estimate]:
    """Potential energies [kT] of a chain of 400 calls, and its accepted fraction."""
    monkeypatch.setattr(
        LatentMonteCarloMove, "_batch_size", lambda self, remaining: min(batch_size, remaining)
    )
    mcmc.seed(21)
    oscillator = testsystems.HarmonicOscillator()
    state = ThermodynamicState(oscillator.system, TEMPERATURE * unit.kelvin)
    move = LatentMonteCarloMove(model, n_proposals=5, step_size=0.9, displacement="random_walk", n_tuning=0)
    current, energies, accepted = SamplerState(oscillator.positions), [], [0]
    for _ in range(400):
        move.apply(state, current)
        energies.append(current.potential_energy.value_in_unit(unit.kilojoule_per_mole))
        accepted.append(move.n_accepted)
    assert move.n_proposed == 2000
    return np.array(energies) / thermal_energy(TEMPERATURE), chain_mean(np.diff(accepted) / 5)


def test_prefetching_is_the_chain_of_single_steps(
    oscillator_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptances = []
    for batch_size in (1, 8):
        energies, acceptance = energies_and_acceptance(monkeypatch, oscillator_models["real_nvp"], batch_size)
        assert abs(z_score(chain_mean(energies), (1.5, 0.0))) < 4
        assert abs(z_score(chain_mean((energies - 1.5) ** 2), (1.5, 0.0))) < 4
        acceptances.append(acceptance)
    assert abs(z_score(*acceptances)) < 4


def test_looking_into_the_batch_for_the_best_proposal_is_another_chain(
    oscillator_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with the proposals of a batch sorted by their weights, it is not a chain of single steps."""
    propose = LatentMonteCarloMove._propose

    def best_first(*args: Any) -> Any:
        proposals, proposed, own = propose(*args)
        order = np.argsort(-(proposed - own))
        return proposals[order], proposed[order], own[order]

    monkeypatch.setattr(LatentMonteCarloMove, "_propose", best_first)
    energies, _ = energies_and_acceptance(monkeypatch, oscillator_models["real_nvp"], 8)
    assert abs(z_score(chain_mean(energies), (1.5, 0.0))) > 6
