"""The dispersion of weights, by hand, and that it knows no constant of the bead energy."""

import pytest
import torch
from chain_molecule import T, chain_data

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.joint_loss import CLASH, JointLoss, capped, dispersion
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings


def test_dispersion_is_square_and_then_linear():
    # 2 * 3 * (|d| - 1.5) beyond 3 kT
    assert float(dispersion(torch.tensor([0.0, 2.0, -10.0]), 3.0)) == pytest.approx((0 + 4 + 51) / 3)


def test_clashes_are_capped_and_keep_their_gradients():
    given = torch.tensor([-5.0, CLASH, 1e4], requires_grad=True)
    values = capped(given)
    values.sum().backward()
    torch.testing.assert_close(values.detach(), torch.tensor([-5.0, CLASH, CLASH]))
    torch.testing.assert_close(given.grad, torch.ones(3))


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


def test_draws_outside_the_domain_become_rarer(loss, monkeypatch):
    """They have no energy, and yet a gradient, which lowers their density."""
    inverse = loss.flow.coordinates.inverse
    drawn = {}

    def partly(features, beads, **how):
        positions, logabsdet = inverse(features, beads, **how)
        drawn["features"], drawn["beads"] = features, beads
        return torch.where((features[:, 0] > 0)[:, None, None], torch.nan, positions), logabsdet

    monkeypatch.setattr(loss.flow.coordinates, "inverse", partly)
    value, _ = loss(10, None, torch.Generator().manual_seed(0))
    monkeypatch.undo()
    lost = drawn["features"][:, 0] > 0
    assert 0 < int(lost.sum()) < len(lost)
    parameters = list(loss.flow.transform.parameters())

    def contrast():
        log_p = loss.flow.feature_log_prob(drawn["features"], loss.flow.invariants(drawn["beads"]))
        return log_p[lost].mean() - log_p[~lost].mean()

    before = float(contrast().detach())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= 1e-4 * gradient
        after = float(contrast())
    assert after < before
