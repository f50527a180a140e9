"""Rounds that leave the flow as it is: free energies by hand, the loss by hand, and what it leads to."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from bead_examples import randomised
from chain_molecule import KT, T, chain_data
from scipy.optimize import minimize_scalar
from scipy.special import huber

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining import free_energy_loss, rounds, training
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.frames import make_frames
from openmm_bg.coarse_graining.free_energy_loss import (
    BeadPool,
    FreeEnergyLoss,
    bead_pool,
    location,
    pool_of_data,
)
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.coarse_graining.training import train_coarse_grained
from openmm_bg.errors import InputError

SETTINGS = CoarseGrainingSettings(
    n_steps=4,
    batch_size=32,
    n_rounds=2,
    round_samples=64,
    round_steps=3,
    round_tries=2,
    frozen_flow=True,
    n_layers=2,
    hidden_features=8,
    energy_features=8,
    sampling=BeadSamplingSettings(n_walkers=32, n_rungs=2, interval=2, burn_in=5, n_leapfrog=4),
)

pytestmark = pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")


@pytest.fixture(scope="module")
def data():
    return chain_data(5, 400)


@pytest.fixture(scope="module")
def coarse_map():
    return selection_map(5, [1, 2, 3])


@pytest.fixture
def model(data, coarse_map):
    positions = torch.from_numpy(data.positions)
    beads = coarse_map.beads(positions)
    invariants = BeadInvariants(3).fit(beads)
    coordinates = coarse_map.coordinates(data.system.positions, data.system.bonds, data.system.masses)
    flow = CouplingBackmapping(coordinates.fit(positions), invariants, n_layers=2, hidden_features=8)
    energy = BeadEnergy(invariants, T, hidden_features=16, seed=1).fit_prior(beads)
    potential = TorchPotential.from_system(data.system, dtype=torch.float64)
    return CoarseGrainedGenerator(coarse_map, energy, flow, start=beads, potential=potential)


def frames_of(model, data):
    positions = torch.from_numpy(data.positions)
    energies, forces = model.potential.energy_and_forces(positions)
    frames, _ = make_frames(
        model.coarse_map,
        model.flow,
        positions,
        energies.double() / KT,
        reduced_forces=forces.double() / KT,
        generator=torch.Generator(),
    )
    return frames


@pytest.mark.parametrize("n_tries", [1, 3])
def test_free_energies_are_those_of_the_flows_configurations(model, n_tries):
    """By hand, of the same configurations; whatever the bead energy is."""
    beads = model.start[:20]
    pool = pool_of_data(model, beads, n_tries=n_tries, seed=4)
    assert (len(pool.beads), pool.n_data) == (20, 20)
    tried = beads.repeat_interleave(n_tries, dim=0)
    positions, log_p = model.flow.sample(tried, generator=torch.Generator().manual_seed(4))
    log_ratios = -model.potential.energy(positions).double() / KT - log_p
    by_hand = -(log_ratios.view(20, n_tries).exp().mean(1)).log()
    torch.testing.assert_close(pool.free_energies, by_hand.detach(), atol=1e-6, rtol=0)
    randomised(model.energy)
    model.energy._twin = None
    again = pool_of_data(model, beads, n_tries=n_tries, seed=4)
    torch.testing.assert_close(again.free_energies, pool.free_energies, atol=1e-6, rtol=0)


def test_beads_without_atoms_have_a_high_free_energy(model):
    log_weights = np.array([0.0, -math.inf, -5.0])
    pool = bead_pool(model, model.start[:3], log_weights)
    assert pool.free_energies[1] == 1e9
    assert pool.free_energies.isfinite().all()
    joined = pool_of_data(model, model.start[:7], n_tries=1, seed=0).joined(pool)
    assert (joined.n_data, len(joined.beads), len(joined.free_energies)) == (7, 10, 10)
    assert torch.equal(joined.free_energies[7:], pool.free_energies)


class Linear(torch.nn.Module):
    """An energy that is a distance of the first two beads, times a slope."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, beads):
        return self.slope * (beads[:, 1] - beads[:, 0]).norm(dim=1)


def pool_of(distances, free_energies, n_data):
    beads = torch.zeros(len(distances), 3, 3, dtype=torch.float64)
    beads[:, 1, 0] = torch.tensor(distances)
    beads[:, 2, 1] = 1.0
    return BeadPool(beads, torch.tensor(free_energies, dtype=torch.float64), n_data)


@pytest.mark.parametrize("bound", [0.5, 3.0, 1e4])
def test_location_is_where_the_dispersion_is_least(bound):
    """Found by minimisation; it is the mean if nothing is beyond the bound."""
    values = np.random.default_rng(0).exponential(2.0, 200) ** 2
    found = float(location(torch.from_numpy(values), bound))
    least = minimize_scalar(lambda c: 2 * huber(bound, values - c).mean(), bounds=(0, 30), method="bounded")
    assert found == pytest.approx(least.x, abs=1e-3)
    assert (found == pytest.approx(values.mean(), rel=1e-6)) == (bound > 100)


@pytest.mark.parametrize(
    ("own", "free_energy", "expected"),
    [
        (1.0, 103.0, 4.0),  # 101 is said; the constant is that of the data, where all is well
        (1.0, 99.0, 4.0),
        (1.0, 121.0, 2 * 3 * (20 - 1.5)),  # linear beyond the range of 3 kT
        (1.0, 1e9, 2 * 3 * (59 - 1.5)),  # a clash: it is to be 60 kT above the data, and no more
        (80.0, 1e9, 0.0),  # and so it is, or above
        (80.0, 103.0, 2 * 3 * (77 - 1.5)),  # rarer in the model than it is
    ],
)
def test_dispersion_by_hand(model, data, own, free_energy, expected):
    """Of an energy that is right on the data up to a constant, and wrong on one other configuration."""
    settings = dataclasses.replace(SETTINGS, dispersion_range=3.0)
    loss = FreeEnergyLoss(Linear(), frames_of(model, data), settings)
    losses, figures = loss(pool_of([0.0, own], [100.0, free_energy], 1), torch.Generator().manual_seed(0))
    assert figures["free_energy_dispersion"] == pytest.approx(0.0, abs=1e-9)
    assert figures["own_free_energy_dispersion"] == pytest.approx(expected, abs=1e-6)
    assert all(math.isnan(figures[name]) for name in ("likelihood", "dispersion", "own_dispersion"))
    weighted = 10.0 * figures["force_error"] + 0.5 * expected
    assert float(losses[0].detach()) == pytest.approx(weighted, rel=1e-6)


class Constant(Linear):
    """The same with a constant, which is also learned."""

    def __init__(self, slope=1.0):
        super().__init__(slope)
        self.constant = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, beads):
        return super().forward(beads) + self.constant


@pytest.mark.parametrize("clashes", [0.0, 0.3])
@pytest.mark.parametrize("bound", [3.0, 100.0])
def test_the_energys_constant_is_left_alone(model, data, clashes, bound):
    """It would drift for ever, as nothing depends on it; what the energy has drawn clashes, some of it unlikely."""
    rng, n = np.random.default_rng(2), 500
    distances = np.concatenate([rng.random(n), 100.0 * rng.random(n)])
    free_energies = distances + rng.normal(size=2 * n) * 10
    free_energies[rng.random(2 * n) < clashes] = 1e9
    energy, settings = Constant(), dataclasses.replace(SETTINGS, force_weight=0.0, dispersion_range=bound)
    loss = FreeEnergyLoss(energy, frames_of(model, data), settings)
    (total,), _ = loss(pool_of(distances, free_energies, n), torch.Generator().manual_seed(0))
    slope, constant = torch.autograd.grad(total, [energy.slope, energy.constant])
    assert abs(float(constant)) < 1e-9
    assert abs(float(slope)) > 1e-3


@pytest.mark.parametrize("bound", [3.0, 100.0])
@pytest.mark.parametrize("with_mean", [False, True])
def test_states_have_their_free_energies_whatever_the_noise(model, data, monkeypatch, bound, with_mean):
    """Two states, 5 kT apart; a tenth of all estimates are of clashes, in whichever state and however they came.

    The data are mostly of the one, what the energy has drawn mostly of the other. The control centres both on the
    mean of the data.
    """
    rng, n = np.random.default_rng(1), 4000
    states = np.concatenate([rng.random(n) < 0.1, rng.random(n) < 0.9])
    estimates = 5.0 * states + rng.normal(size=2 * n)
    estimates[rng.random(2 * n) < 0.1] = 1e9
    pool = pool_of(states.astype(float), estimates, n)
    settings = dataclasses.replace(SETTINGS, force_weight=0.0, dispersion_range=bound, batch_size=1024)
    energy = Linear(0.0)
    loss, generator = (
        FreeEnergyLoss(energy, frames_of(model, data), settings),
        torch.Generator().manual_seed(0),
    )
    if with_mean:
        monkeypatch.setattr(
            free_energy_loss, "location", lambda deviations, _: deviations[: len(deviations) // 2].mean()
        )
    optimiser = torch.optim.Adam(energy.parameters(), lr=0.1)
    slopes = []
    for step in range(400):
        optimiser.zero_grad()
        loss(pool, generator)[0][0].backward()
        optimiser.step()
        if step >= 200:
            slopes.append(float(energy.slope.detach()))
    found = np.mean(slopes)
    if with_mean and bound == 3.0:
        assert abs(found - 5.0) > 2.0
    elif not with_mean:
        # A tenth is capped at 60 kT above the data whatever the state is, which lowers the difference of means.
        assert found == pytest.approx(5.0 if bound == 3.0 else 4.5, abs=0.4)


def test_the_force_error_is_that_of_the_gradient(model, data):
    """Of the linear energy the forces are known; with a slope of zero all is left."""
    frames, pool = frames_of(model, data), pool_of([0.0], [0.0], 1)
    settings = dataclasses.replace(SETTINGS, batch_size=20_000)
    error = FreeEnergyLoss(Linear(0.0), frames, settings)(pool, torch.Generator().manual_seed(0))[1]
    assert error["force_error"] == pytest.approx(1.0, rel=0.05)
    slope, beads = 3.0, frames.beads
    gradient = torch.zeros_like(beads)
    along = (beads[:, 1] - beads[:, 0]) / (beads[:, 1] - beads[:, 0]).norm(dim=1, keepdim=True)
    gradient[:, 1], gradient[:, 0] = slope * along, -slope * along
    expected = (gradient + frames.forces).square().mean() / frames.forces.square().mean()
    error = FreeEnergyLoss(Linear(slope), frames, settings)(pool, torch.Generator().manual_seed(0))[1]
    assert error["force_error"] == pytest.approx(float(expected), rel=0.05)


def test_the_energy_becomes_the_free_energy(model, data):
    """Of a free energy that another bead energy has, which the first learns without forces; a control does not."""
    frames = frames_of(model, data)
    wanted = BeadEnergy(model.energy.invariants, T, hidden_features=16, seed=2)
    wanted.fit_prior(model.start)
    randomised(wanted)
    with torch.no_grad():
        free_energies = wanted.exact()(model.start) + 70.0
    pool = BeadPool(model.start.float(), free_energies, 200)
    settings = dataclasses.replace(SETTINGS, force_weight=0.0, batch_size=128)
    model.energy.set_dtype(torch.float32)
    loss, generator = FreeEnergyLoss(model.energy, frames, settings), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.energy.network.parameters(), lr=1e-2)

    def deviation():
        with torch.no_grad():
            return float((free_energies - model.energy(model.start)).std())

    before = deviation()
    for _ in range(300):
        optimiser.zero_grad()
        loss(pool, generator)[0][0].backward()
        optimiser.step()
    assert before > 0.3
    assert deviation() < 0.2 * before


def test_rounds_leave_the_flow_as_it_is(data, coarse_map, tmp_path):
    """And change the bead energy; what they draw is the pool's data, and each round's samples, with their tries."""
    potential = TorchPotential.from_system(data.system, dtype=torch.float64)
    without = dataclasses.replace(SETTINGS, n_rounds=0)
    one = train_coarse_grained(data, coarse_map, tmp_path / "without", without)
    pools = []

    class Kept(training.FreeEnergyLoss):
        def __call__(self, pool, generator):
            pools.append(pool)
            return super().__call__(pool, generator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "FreeEnergyLoss", Kept)
        patch.setattr(rounds, "round_merit", lambda one: (True, one["round"]))  # the last is kept
        model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS, potential=potential)
    for a, b in zip(model.flow.state_dict().values(), one.flow.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(model.energy.parameters(), one.energy.parameters(), strict=True)
    ]
    assert min(moved) > 1e-5
    assert model.record["kept_round"] == 2
    # Nine tenths of 400 frames are trained on; 64 samples and 64 of the higher temperature come with each round.
    assert [len(pool.beads) for pool in pools] == [360 + 128] * 3 + [360 + 256] * 3
    assert {pool.n_data for pool in pools} == {360}
    drawn = 2 * 32  # in the last two of four steps
    judged = 3 * 2 * (64 + 64)
    assert potential.n_evaluations == 400 + drawn + judged + 2 * 360


@pytest.fixture(scope="module")
def whole(data, coarse_map, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_CHECKPOINT_INTERVAL", 2)
        return train_coarse_grained(data, coarse_map, tmp_path_factory.mktemp("whole") / "m", SETTINGS)


@pytest.mark.parametrize("n", range(1, 10))
def test_an_interrupted_training_goes_on(data, coarse_map, whole, tmp_path, monkeypatch, n):
    """After each of its nine checkpoints, those in the middle of rounds among them, to the same bead energy."""
    monkeypatch.setattr(training, "_CHECKPOINT_INTERVAL", 2)
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == n:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS, on_checkpoint=stop)
    assert steps == [2, 4, 4, 6, 7, 7, 8, 10, 10][:n]
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS)
    assert model.record["kept_round"] == whole.record["kept_round"]
    for part in ("flow", "energy"):
        one, other = (getattr(found, part).state_dict().values() for found in (model, whole))
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("n_clashing", "warns"), [(5, False), (30, True)])
def test_data_without_room_for_atoms_are_warned_of(n_clashing, warns, recwarn):
    free_energies = [100.0 + k % 7 for k in range(100)]
    free_energies[:n_clashing] = [1e9] * n_clashing
    rounds.warn_of_clashes(pool_of([0.0] * 100, free_energies, 100), 3)
    assert len(recwarn) == int(warns)
    if warns:
        text = str(recwarn[0].message)
        assert "Around 30% of the data's beads all configurations of the flow (3 each) clash" in text


@pytest.mark.parametrize(
    ("n", "message"), [(0, "must be positive"), (2.5, "whole number"), (5000, "at most 2048")]
)
def test_impossible_tries_are_refused_before_training(n, message):
    with pytest.raises(InputError, match=message):
        CoarseGrainingSettings(round_tries=n)
