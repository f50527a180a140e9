"""The dispersion of weights, by hand, that it knows no constant of the bead energy, and the reverse divergence."""

import pytest
import torch
from chain_molecule import KT, T, chain_data

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining import joint_loss
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.frames import Frames
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.joint_loss import CLASH, JointLoss, capped, dispersion
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.noisy_map import NoisyMap
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


def new_loss(noisy=False, **changes):
    """Return the loss of networks that have learned nothing."""
    data = chain_data(5, 200)
    bead_map, positions = selection_map(5, [1, 2, 3]), torch.from_numpy(data.positions)
    beads = bead_map.beads(positions)
    bead_map = NoisyMap(bead_map) if noisy else bead_map
    invariants = BeadInvariants(3).fit(beads)
    coordinates = bead_map.coordinates(data.system.positions, data.system.bonds, data.system.masses)
    flow = CouplingBackmapping(coordinates.fit(positions), invariants, n_layers=2, hidden_features=8)
    energy = BeadEnergy(invariants, T, hidden_features=8, n_hidden=1)
    energy.fit_prior(beads)
    potential = TorchPotential.from_system(data.system, dtype=torch.float64)
    settings = CoarseGrainingSettings(n_steps=10, batch_size=64, own_start=0.0, **changes)
    return JointLoss(bead_map, flow, energy, potential, positions, settings)


@pytest.fixture(scope="module")
def loss():
    return new_loss()


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


@pytest.mark.parametrize(
    ("changes", "n_energies"),
    [({}, 64), ({"dispersion_weight": 0.0, "reverse_weight": 1.0}, 64), ({"dispersion_weight": 0.0}, 0)],
)
def test_draws_cost_energies_only_if_something_of_them_counts(changes, n_energies):
    loss = new_loss(**changes)
    before = loss.potential.n_evaluations
    loss(10, None, torch.Generator().manual_seed(0))
    assert loss.potential.n_evaluations - before == n_energies


def test_draws_outside_the_domain_become_rarer(loss, monkeypatch):
    """They have no energy, and yet a gradient, which lowers their density."""
    inverse = loss.flow.coordinates.inverse
    drawn = {}

    def partly(features, beads, **how):
        positions, logabsdet = inverse(features, beads, **how)
        drawn["features"], drawn["beads"] = features, beads
        return torch.where((features[:, 0] > 0)[:, None, None], torch.nan, positions), logabsdet

    monkeypatch.setattr(loss.flow.coordinates, "inverse", partly)
    (value,), _ = loss(10, None, torch.Generator().manual_seed(0))
    monkeypatch.undo()
    lost = drawn["features"][:, 0] > 0
    assert 0 < int(lost.sum()) < len(lost)
    parameters = list(loss.flow.transform.parameters())

    def contrast():
        log_p = loss.flow.feature_log_prob(drawn["features"], loss.flow.context(drawn["beads"]))
        return log_p[lost].mean() - log_p[~lost].mean()

    before = float(contrast().detach())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= 1e-4 * gradient
        after = float(contrast())
    assert after < before


@pytest.mark.parametrize("noisy", [False, True])
def test_reverse_divergence_has_the_gradient_of_the_mean(monkeypatch, noisy):
    """That of log(p_inv / r) + U / kT over draws of the same latents, by finite differences."""
    loss = new_loss(noisy, reverse_weight=2.0)
    loss.flow.set_dtype(torch.float64)
    loss.frames = Frames(*(tensor.double() for tensor in loss.frames))
    monkeypatch.setattr(joint_loss, "_LARGEST_FORCE", 1e9)
    bias = loss.flow.transform._transforms[0].network.final_layer.bias
    losses, _ = loss(10, None, torch.Generator().manual_seed(0))
    assert len(losses) == 2
    (gradient,) = torch.autograd.grad(losses[1], bias)

    def mean(shift):
        generator = torch.Generator().manual_seed(0)
        torch.randint(loss.n_training, (64,), generator=generator)  # the data's frames
        beads = loss.frames.beads[torch.randint(loss.n_training, (64,), generator=generator)]
        with torch.no_grad():
            bias.add_(shift)
            features, log_p = loss.flow.draw(beads, generator=generator)
            bias.sub_(shift)
            positions, _ = loss.flow.coordinates.inverse(features, beads)
        reduced = loss.potential.energy(positions) / KT - loss.coarse_map.log_prob(beads, positions)
        inside = torch.isfinite(reduced)
        assert inside.sum() > 50
        return float((log_p + reduced)[inside].mean())

    for k in (0, 3, 5):
        shift = torch.zeros_like(bias)
        shift[k] = 1e-5
        expected = (mean(shift) - mean(-shift)) / 2e-5
        assert abs(expected) > 0.01
        assert float(gradient[k]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_forces_of_the_reverse_divergence_are_limited(monkeypatch):
    """Atoms in the same place push each other away with the largest force and no more."""
    loss = new_loss(reverse_weight=1.0)
    features, beads = loss.frames.features[:1].double().requires_grad_(), loss.frames.beads[:1].double()
    forces = torch.zeros(1, 5, 3)
    forces[0, 0], forces[0, 4] = torch.tensor([3e4 * KT, 4e4 * KT, 0.0]), torch.tensor([0.0, 0.0, 7.0 * KT])
    monkeypatch.setattr(loss.potential, "energy_and_forces", lambda x: (torch.ones(len(x)), forces))
    _, _, reverse = loss._reverse(features, torch.zeros(1), beads)
    (found,) = torch.autograd.grad(reverse, features)
    positions, _ = loss.flow.coordinates.inverse(features, beads)
    pushed = torch.tensor([0.6, 0.8, 0.0]) * joint_loss._LARGEST_FORCE
    work = -(positions[0, 0] * pushed).sum() - positions[0, 4, 2] * 7.0
    (expected,) = torch.autograd.grad(work, features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
