"""Which frames a step of the training sees: at random, or evenly over the bead configurations."""

import numpy as np
import pytest
import torch
from chain_molecule import T, chain_data

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.frame_choice import FrameChoice
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.joint_loss import JointLoss
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings

N = 10_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def two_states(rng):
    """Invariants of a wide state, and of a far one with one frame in two hundred."""
    points = rng.normal(size=(N, 3))
    points[: N // 200] += 30.0
    return torch.from_numpy(points)


def test_without_an_even_part_frames_are_chosen_at_random():
    chosen = FrameChoice(N)(100_000, generator())
    counts = np.bincount(chosen.numpy(), minlength=N)
    assert counts.var() == pytest.approx(10.0, rel=0.1)  # a Poisson distribution's
    assert counts.mean() == 10.0


def test_rare_configurations_are_seen_more_often(two_states):
    n = 200_000
    chosen = FrameChoice(N, 0.5, two_states)(n, generator()).numpy()
    counts = [np.bincount(part, minlength=N) for part in np.split(chosen, 2)]
    at_random, evenly = (part[: N // 200].sum() / (n / 2) for part in counts)
    assert at_random == pytest.approx(1 / 200, rel=0.15)
    assert 5 < evenly / at_random < 30
    # Also inside of the wide state: its edge is as wide as its centre.
    radius = np.linalg.norm(two_states.numpy(), axis=1)
    outside = (radius > 2.5) & (radius < 10)
    assert counts[1][outside].sum() > 2 * counts[0][outside].sum()


def test_a_frame_that_is_alone_is_not_seen_as_often_as_a_state(two_states):
    two_states[5] = 1e3
    counts = np.bincount(FrameChoice(N, 1.0, two_states)(100 * N, generator()).numpy(), minlength=N)
    assert counts.min() > 0
    assert 16 * 100 * 0.9 < counts[5] < 40 * 100
    assert counts[5] < 0.05 * counts[: N // 200].sum()


def test_frames_with_the_same_beads_are_seen_equally_often(two_states):
    """So that the atoms around given beads have the density that they have in the data."""
    twice = torch.cat([two_states, two_states])
    counts = np.bincount(FrameChoice(2 * N, 1.0, twice)(200 * N, generator()).numpy(), minlength=2 * N)
    first, second = counts[:N].astype(float), counts[N:].astype(float)
    chi2 = ((first - second) ** 2 / (first + second)).mean()  # is 1 on average, if both have the same mean
    assert chi2 == pytest.approx(1.0, abs=3.5 * np.sqrt(2 / N))


def test_fewer_frames_than_clusters_and_frames_that_are_all_alike():
    for points in (torch.arange(5.0)[:, None], torch.zeros(100, 2)):
        chosen = FrameChoice(len(points), 1.0, points)(5000, generator())
        assert len(np.unique(chosen)) == len(points)


def test_steps_see_the_data_by_the_choice_and_half_of_the_draws_are_of_the_pool(monkeypatch):
    data = chain_data(5, 400)
    bead_map, positions = selection_map(5, [1, 2, 3]), torch.from_numpy(data.positions)
    beads = bead_map.beads(positions)
    invariants = BeadInvariants(3).fit(beads)
    coordinates = bead_map.coordinates(data.system.positions, data.system.bonds, data.system.masses)
    flow = CouplingBackmapping(coordinates.fit(positions), invariants, n_layers=1, hidden_features=8)
    energy = BeadEnergy(invariants, T, hidden_features=8, n_hidden=1)
    energy.fit_prior(beads)
    potential = TorchPotential.from_system(data.system, dtype=torch.float64)
    settings = CoarseGrainingSettings(n_steps=10, batch_size=65, own_start=0.0, even_fraction=0.5)
    loss = JointLoss(bead_map, flow, energy, potential, positions, settings)
    seen, drawn, draw = [], [], flow.draw
    choose = loss.choose
    monkeypatch.setattr(loss, "choose", lambda *how: seen.append(choose(*how)) or seen[-1])
    monkeypatch.setattr(flow, "draw", lambda beads, **how: drawn.append(beads) or draw(beads, **how))
    pool = beads[:8] * 1.01
    loss(5, pool, generator())
    assert [len(one) for one in seen] == [65, 65]
    assert max(int(one.max()) for one in seen) < loss.n_training
    of_data, of_pool = drawn[0][:33], drawn[0][33:]
    assert torch.equal(of_data, loss.frames.beads[seen[1][::2]].double())
    assert ((of_pool[:, None] - pool).abs().amax(dim=(2, 3)).amin(1) < 1e-6).all()
