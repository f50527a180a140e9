"""The dispersion of weights, by hand, and that it knows no constant of the bead energy."""

import math

import pytest
import torch
from chain_molecule import T, chain_data

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.joint_loss import CLASH, JointLoss, dispersion, softened
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings


def test_dispersion_is_square_and_then_linear():
    # 2 * 3 * (|d| - 1.5) beyond 3 kT
    assert float(dispersion(torch.tensor([0.0, 2.0, -10.0]), 3.0)) == pytest.approx((0 + 4 + 51) / 3)


def test_clashes_grow_as_logarithms():
    given = torch.tensor([-5.0, CLASH, CLASH + math.e - 1, math.inf, math.nan])
    expected = torch.tensor([-5.0, CLASH, CLASH + 1, CLASH, CLASH])
    torch.testing.assert_close(softened(given), expected)


@pytest.fixture(scope="module")
def loss():
    """The loss of networks that have learned nothing."""
    data = chain_data(5, 200)
    bead_map, positions = selection_map(5, [1, 2, 3]), torch.from_numpy(data.positions)
    beads = bead_map.beads(positions)
    invariants = BeadInvariants(3).fit(beads)
    coordinates = bead_map.coordinates(data.system.positions, data.system.bonds, data.system.masses)
    flow = BackmappingFlow(coordinates.fit(positions), invariants, n_layers=2, hidden_features=8)
    energy = BeadEnergy(invariants, T, hidden_features=8, n_hidden=1)
    energy.fit_prior(beads)
    potential = TorchPotential.from_system(data.system, dtype=torch.float64)
    settings = CoarseGrainingSettings(n_steps=10, batch_size=64, own_start=0.0)
    return JointLoss(bead_map, flow, energy, potential, positions, settings)


@pytest.mark.parametrize("constant", [-500.0, 500.0])
def test_a_constant_of_the_energy_changes_nothing(loss, monkeypatch, constant):
    """A large one would otherwise make all deviations clashes, which are all alike."""
    figures = loss(5, None, torch.Generator().manual_seed(0))[1]
    held_out = loss.held_out(loss.flow, loss.energy)
    assert figures["dispersion"] > 0.1
    assert figures["own_dispersion"] > 0.1
    energy = loss.energy

    def shifted(beads):
        return energy(beads) + constant

    monkeypatch.setattr(loss, "energy", shifted)
    assert loss(5, None, torch.Generator().manual_seed(0))[1] == pytest.approx(figures, rel=1e-3)
    assert loss.held_out(loss.flow, shifted) == pytest.approx(held_out, rel=1e-3)
