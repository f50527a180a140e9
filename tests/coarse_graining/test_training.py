"""An interrupted training of a coarse-grained model: its rounds, its count of energies, and its map."""

import dataclasses
import json
import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from chain_molecule import chain_data

from openmm_bg import TorchPotential, statistics
from openmm_bg.coarse_graining import rounds, training
from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
from openmm_bg.coarse_graining.choices import MapChoice
from openmm_bg.coarse_graining.maps import centroid_map, selection_map
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.coarse_graining.training import train_coarse_grained
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.files import json_text
from openmm_bg.training.checkpoint import read_checkpoint
from openmm_bg.units import thermal_energy

SETTINGS = CoarseGrainingSettings(
    n_steps=4,
    batch_size=32,
    n_rounds=1,
    round_samples=128,
    round_steps=2,
    n_layers=2,
    hidden_features=8,
    energy_features=8,
    sampling=BeadSamplingSettings(n_walkers=64, n_rungs=1, interval=2, burn_in=5, n_leapfrog=4),
)
N_CHECKPOINTS = 4  # after the first steps, the first judgement, the round's steps, and the second judgement

pytestmark = pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")


@pytest.fixture(scope="module")
def data():
    return chain_data(5, 200)


@pytest.fixture(scope="module")
def coarse_map():
    return selection_map(5, [1, 2, 3])


def stopped_after(n):
    """Return what interrupts a training after a number of checkpoints."""
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == n:
            raise KeyboardInterrupt

    return stop


@pytest.fixture(scope="module")
def whole(data, coarse_map, tmp_path_factory):
    return train_coarse_grained(data, coarse_map, tmp_path_factory.mktemp("whole") / "model", SETTINGS)


@pytest.mark.parametrize("n", range(1, N_CHECKPOINTS + 1))
def test_an_interrupted_training_has_the_same_rounds(data, coarse_map, whole, tmp_path, n):
    """Also if it is killed after the last checkpoint. Without higher temperatures nothing is said of them."""
    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS, on_checkpoint=stopped_after(n))
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS)
    assert [one["round"] for one in model.record["rounds"]] == [0, 1]
    assert "hot_dispersion" not in model.record["rounds"][0]
    for a, b in zip(model.flow.state_dict().values(), whole.flow.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    last, expected = (one.record["rounds"][-1] for one in (model, whole))
    assert last["effective_sample_size"] == pytest.approx(expected["effective_sample_size"], rel=1e-3)


def judged(**figures):
    """Return the record of a round that nothing speaks against, but for some figures, as a checkpoint has it."""
    good = {"effective_sample_size": 0.5, "largest_deviation": 2.0, "hot_dispersion": 1.0, "pareto_k": 0.4}
    return json.loads(json_text(good | {"log_weight_range": 1.0} | figures))


def missing(loss, frame):
    """Return log-weights of data of which a frame to learn from, and all that are held out, are not drawn."""
    k = np.arange(len(loss.frames.beads))
    assert frame < loss.n_training < len(k)
    return np.where((k == frame) | (k >= loss.n_training), 100.0, 0.0)


@pytest.mark.parametrize(
    ("figures", "settled"),
    [
        ({}, True),
        ({"effective_sample_size": 0.6}, False),
        ({"effective_sample_size": 0.4}, True),  # the round before is kept
        ({"largest_deviation": 0.5}, False),
        ({"hot_dispersion": 0.5}, True),
        ({"data_effective_sample_size": 0.4}, True),
        ({"effective_sample_size": 0.6, "data_effective_sample_size": 0.6}, True),  # what is not drawn counts
        ({"pareto_k": 0.8}, False),
        ({"pareto_k": math.inf}, False),
        ({"pareto_k": -math.inf}, True),
        ({"effective_sample_size": 0.0, "pareto_k": math.inf, "largest_deviation": math.inf}, False),
    ],
)
def test_rounds_end_when_nothing_gets_better_and_weights_can_be_trusted(
    data, coarse_map, tmp_path, figures, settled
):
    trainer = training._Trainer(data, coarse_map, tmp_path / "m", SETTINGS, None)
    trainer.rounds = [judged()]
    assert not trainer._settled()
    trainer.rounds.append(judged(**figures))
    assert trainer._settled() == settled


def test_rounds_of_the_bead_energy_alone_have_four_tries(data, coarse_map, tmp_path):
    settings = dataclasses.replace(SETTINGS, frozen_flow=True)
    trainer = training._Trainer(data, coarse_map, tmp_path / "m", settings, None)
    worse, better = judged(effective_sample_size=0.3), judged(effective_sample_size=0.6)
    trainer.rounds = [judged(), worse, worse, worse]
    assert not trainer._settled()
    trainer.rounds.append(worse)
    assert trainer._settled()
    trainer.rounds[2] = better
    assert not trainer._settled()
    trainer.rounds[2] = judged(pareto_k=2.0)
    assert not trainer._settled()


@pytest.mark.parametrize("trusted", [True, False])
def test_beads_that_are_missed_join_if_weights_can_be_trusted(
    data, coarse_map, tmp_path, monkeypatch, trusted
):
    def log_weights(self, log_p, energy):
        return missing(self, 7)

    monkeypatch.setattr(training.JointLoss, "log_weights", log_weights)
    monkeypatch.setattr(rounds, "is_trusted", lambda one: trusted)
    settings = dataclasses.replace(SETTINGS, frozen_flow=True)
    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, coarse_map, tmp_path / "m", settings, on_checkpoint=stopped_after(2))
    _, tensors = read_checkpoint(tmp_path / "m" / "checkpoint.safetensors")
    n = int(tensors["bead_pool.n_data"])
    assert len(tensors["bead_pool.beads"]) == n + SETTINGS.round_samples + 32 * trusted
    last = tensors["bead_pool.beads"][-32:]
    assert torch.equal(last, last[:1].expand(32, -1, -1)) == trusted
    assert len(tensors["bead_pool.free_energies"][-32:].unique()) == 32  # new configurations each time


def test_rounds_go_on_while_the_data_are_drawn_ever_better(data, coarse_map, tmp_path):
    trainer = training._Trainer(data, coarse_map, tmp_path / "m", SETTINGS, None)
    trainer.rounds = [judged(data_effective_sample_size=0.01), judged(data_effective_sample_size=0.1)]
    assert not trainer._settled()


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ({}, {}, 0),
        ({}, {"effective_sample_size": 0.6}, 1),
        ({}, {"effective_sample_size": 0.6, "hot_dispersion": 1.5}, 1),  # says nothing of the weight here
        (
            {},
            {"effective_sample_size": 0.6, "data_effective_sample_size": 0.3},
            0,
        ),  # what is not drawn counts
        ({"data_effective_sample_size": 0.1}, {"effective_sample_size": 0.4}, 1),
        # A few frames that are never drawn do not hide what gets better, nor what gets better that they are drawn.
        (
            {"data_effective_sample_size": 0.05},
            {"effective_sample_size": 0.9, "data_effective_sample_size": 0.045},
            1,
        ),
        (
            {"data_effective_sample_size": 0.05},
            {"effective_sample_size": 0.4, "data_effective_sample_size": 0.2},
            1,
        ),
        ({}, {"effective_sample_size": 0.9, "pareto_k": 0.8}, 0),
        ({"pareto_k": 0.8}, {"effective_sample_size": 0.1}, 1),
        # Of weights that cannot be trusted, the effective sample size says nothing.
        ({"pareto_k": 5.0, "log_weight_range": 80.0}, {"pareto_k": 9.0, "log_weight_range": 20.0}, 1),
        ({"pareto_k": 5.0, "log_weight_range": 20.0}, {"pareto_k": 4.0, "log_weight_range": math.inf}, 0),
    ],
)
def test_the_best_round_is_kept(data, coarse_map, tmp_path, monkeypatch, first, second, kept):
    """Also if the training was killed between."""
    found, average = [judged(**first), judged(**second)], []
    judge = training._Trainer._judge

    def replaced(trainer):
        judge(trainer)
        trainer.rounds[-1] |= found[len(trainer.rounds) - 1]

    before = rounds.round_merit
    monkeypatch.setattr(rounds, "round_merit", lambda one: before(found[one["round"]]))
    monkeypatch.setattr(training._Trainer, "_judge", replaced)
    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS, on_checkpoint=stopped_after(3))
    _, tensors = read_checkpoint(tmp_path / "m" / "checkpoint.safetensors")
    average.append(tensors["best.0"])
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS)
    assert model.record["kept_round"] == kept
    parameter = next(iter(model.flow.transform.parameters()))
    assert torch.equal(parameter, average[0]) == (kept == 0)


class Weights(NamedTuple):
    """What `_data_ess` sees of samples."""

    log_weights: np.ndarray


def test_the_data_tell_what_the_samples_cannot(rng):
    """Samples from a normal distribution of one mode of two, or of both; the weights are p / q."""

    def log_p(x):
        return np.logaddexp(-0.5 * x**2, -0.5 * (x - 40.0) ** 2 + math.log(0.01)) - math.log(1.01)

    def log_q(x, share):
        return np.logaddexp(-0.25 * x**2, -0.25 * (x - 40.0) ** 2 + math.log(share)) - math.log1p(share)

    def drawn(share, width, n):
        return rng.normal(0.0, width, n) + 40.0 * (rng.random(n) < share / (1 + share))

    n, data = 20_000, drawn(0.01, 1.0, 50_000)
    found = {}
    for share in (0.01, 1e-30):
        x = drawn(share, math.sqrt(2.0), n)
        weights = log_p(x) - log_q(x, share)
        found[share] = (
            rounds.data_ess(log_p(data) - log_q(data, share) + 7.0, Weights(weights + 7.0)),
            statistics.effective_sample_size(weights),
        )
    theory = math.sqrt(3.0) / 2.0  # 1 / integral of p^2 / q, of normal distributions of widths 1 and sqrt(2)
    assert found[0.01] == pytest.approx((theory, theory), abs=0.02)
    missed, own = found[1e-30]
    assert own == pytest.approx(theory, abs=0.02)
    assert missed == pytest.approx(1 / (1 / theory + n * 0.01 / 1.01), rel=0.15)


def test_data_that_were_trained_on_do_not_tell(data, coarse_map, tmp_path, monkeypatch):
    """They may have been learned by heart."""
    found = []
    monkeypatch.setattr(rounds, "data_ess", lambda log_weights, samples: found.append(log_weights) or 0.5)
    settings = dataclasses.replace(SETTINGS, n_rounds=0, validation_fraction=0.25)
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", settings)
    assert model.record["rounds"][0]["data_effective_sample_size"] == 0.5
    held_out = torch.from_numpy(data.positions[-len(data.positions) // 4 :])
    beads = coarse_map.draw(held_out, None)
    energies = model.potential.energy(held_out).double() / thermal_energy(model.temperature)
    expected = -energies - model.log_density(held_out, beads)
    np.testing.assert_allclose(found[0], expected.detach().numpy(), rtol=0, atol=0.01)


def test_what_the_data_have_and_the_model_does_not_draw_is_trained_on():
    beads = torch.arange(1000.0)[:, None, None].expand(-1, 4, 3)
    log_weights = np.zeros(1000)
    log_weights[:3], log_weights[3:20] = 6.0, 4.0
    found = rounds.missed(beads, log_weights, 10_000, seed=1)[:, 0, 0]
    assert sorted(set(found.tolist())) == [0, 1, 2]
    assert len(found) == 3 * 32
    assert len(rounds.missed(beads, log_weights, 50, seed=1)) == 50
    assert rounds.missed(beads, np.zeros(1000), 50, seed=1).shape == (0, 4, 3)


def test_the_pool_has_beads_of_the_data_that_are_missed(data, coarse_map, tmp_path, monkeypatch):
    marked = []

    def log_weights(self, log_p, energy):
        marked.append(self.frames.beads[7])
        return missing(self, 7)

    monkeypatch.setattr(training.JointLoss, "log_weights", log_weights)
    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS, on_checkpoint=stopped_after(2))
    _, tensors = read_checkpoint(tmp_path / "m" / "checkpoint.safetensors")
    there = (tensors["pool"] - marked[0]).abs().amax(dim=(1, 2)) < 1e-6
    assert int(there.sum()) == 32
    assert len(there) == SETTINGS.round_samples + 32


@pytest.mark.parametrize("frozen", [True, False])
def test_densities_of_the_data_are_taken_once_if_the_flow_stays_as_it_is(
    data, coarse_map, tmp_path, monkeypatch, frozen
):
    taken, log_densities = [], training.JointLoss.log_densities

    def counted(self, flow):
        taken.append(log_densities(self, flow))
        return taken[-1]

    monkeypatch.setattr(training.JointLoss, "log_densities", counted)
    model = train_coarse_grained(
        data, coarse_map, tmp_path / "m", dataclasses.replace(SETTINGS, frozen_flow=frozen, n_rounds=2)
    )
    assert len(taken) == (1 if frozen else 3)
    assert all(0 <= one["data_effective_sample_size"] <= 1 for one in model.record["rounds"])
    assert frozen or not torch.equal(taken[0], taken[-1])


def test_a_model_that_misses_some_of_the_data_is_warned_of():
    with pytest.warns(ReliabilityWarning, match=r"effective sample size is 1\.00%, and not 50\.00%"):
        rounds.warn_of_missed(judged(data_effective_sample_size=0.01))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounds.warn_of_missed(judged(data_effective_sample_size=0.2))
        rounds.warn_of_missed(judged())
        rounds.warn_of_missed(judged(data_effective_sample_size=0.01, pareto_k=math.inf))  # is said besides


def test_log_weights_of_the_data_are_those_of_samples(data, coarse_map, tmp_path):
    """Up to the networks' single precision, and with the same constant."""
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS)
    positions = torch.as_tensor(data.positions, dtype=torch.float64)
    loss = training.JointLoss(coarse_map, model.flow, model.energy, model.potential, positions, SETTINGS)
    reduced = model.potential.energy(positions).double() / thermal_energy(model.temperature)
    expected = -reduced - model.log_density(positions, coarse_map.beads(positions))
    found = loss.log_weights(loss.log_densities(model.flow), model.energy)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_round_without_any_weight_is_recorded_and_training_goes_on(data, coarse_map, tmp_path, monkeypatch):
    sample = training.CoarseGrainedGenerator.sample

    def without(self, *args, **how):
        found = sample(self, *args, **how)
        found.log_q[:] = np.nan
        return found

    monkeypatch.setattr(training.CoarseGrainedGenerator, "sample", without)
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS)
    rounds = model.record["rounds"]
    assert [one["effective_sample_size"] for one in rounds] == [0.0, 0.0]
    assert [one["data_effective_sample_size"] for one in rounds] == [0.0, 0.0]
    assert model.record["kept_round"] == 0


def test_sampling_begins_at_configurations_of_all_walkers(coarse_map, tmp_path):
    """Frames are interleaved: every second is of another walker, which a stride may miss."""
    data = chain_data(5, 2048)
    data.positions[1::2] += np.array([10.0, 0.0, 0.0], dtype=data.positions.dtype)
    trainer = training._Trainer(data, coarse_map, tmp_path / "m", SETTINGS, None)
    there = (trainer.start[:, 0, 0] > 5.0).double().mean()
    assert len(trainer.start) == 512
    assert 0.4 < there < 0.6


def test_energies_of_all_attempts_are_counted(data, coarse_map, tmp_path):
    potentials = [TorchPotential.from_system(data.system) for _ in range(3)]
    for potential in potentials[:2]:
        with pytest.raises(KeyboardInterrupt):
            train_coarse_grained(
                data,
                coarse_map,
                tmp_path / "m",
                SETTINGS,
                potential=potential,
                on_checkpoint=stopped_after(2),
            )
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS, potential=potentials[2])
    counted = model.record["training"]["n_energy_evaluations"]
    assert counted == sum(potential.n_evaluations for potential in potentials)


LEARNED = MapChoice("learned", n_beads=3)


@pytest.fixture
def learnt(monkeypatch):
    """Maps that were learned, each of them another by a little, as with another number of threads."""
    found = []

    def choose(choice, data, potential, *, progress=False):
        masses = np.array([12.0, 1.0 + 1e-9 * len(found), 12.0, 12.0, 12.0])
        found.append(centroid_map(5, [[0, 1], [2], [3, 4]], masses))
        return found[-1], choice.used() | {"pieces": [1, 1, 1]}

    monkeypatch.setattr(training, "choose_map", choose)
    return found


@pytest.mark.parametrize("n", [1, 2])  # directly after the learning, and after steps
def test_a_learned_map_is_kept_with_an_unfinished_training(data, learnt, tmp_path, n):
    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, LEARNED, tmp_path / "m", SETTINGS, on_checkpoint=stopped_after(n))
    assert json.loads(json.dumps(learnt[0].config())) == learnt[0].config()
    model = train_coarse_grained(data, LEARNED, tmp_path / "m", SETTINGS)
    assert len(learnt) == 1
    assert torch.equal(model.coarse_map.weights, learnt[0].weights)
    assert model.record["map"] == LEARNED.used() | {"pieces": [1, 1, 1]}
    assert not (tmp_path / "m" / "checkpoint.safetensors").exists()
    with pytest.raises(InputError, match="holds a finished model"):
        train_coarse_grained(data, LEARNED, tmp_path / "m", SETTINGS)
    assert len(learnt) == 1


def test_another_map_or_other_data_are_refused_before_anything_is_learned(data, learnt, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, LEARNED, tmp_path / "m", SETTINGS, on_checkpoint=stopped_after(1))
    for other, choice, name in (
        (data, MapChoice("learned", n_beads=4), "n_beads"),
        (data, MapChoice("learned", n_beads=3, by_atom=True), "by_atom"),
        (data, MapChoice("learned", n_beads=3, noisy=True), "noisy"),
        (data, selection_map(5, [1, 2, 3]), "kind, .*weights"),
        (chain_data(5, 200, seed=2), LEARNED, "data_checksum"),
    ):
        with pytest.raises(InputError, match=rf"holds an interrupted training of another .*\(.*{name}"):
            train_coarse_grained(other, choice, tmp_path / "m", SETTINGS)
    assert len(learnt) == 1


def test_gradients_of_both_losses_are_limited_apart(data, coarse_map, tmp_path):
    """A huge reverse divergence does not drown the data, and its weight counts after the limit."""
    settings = dataclasses.replace(SETTINGS, reverse_weight=0.25, max_gradient_norm=2.0)
    trainer = training._Trainer(data, coarse_map, tmp_path / "model", settings, None)
    first, second = trainer.parameters[0], trainer.parameters[1]
    assert trainer._set_gradients([0.5 * first.sum(), 1e6 * second.sum()])
    torch.testing.assert_close(first.grad.norm(), min(0.5 * torch.ones_like(first).norm(), torch.tensor(2.0)))
    torch.testing.assert_close(second.grad.norm(), torch.tensor(0.5))
    assert not trainer._set_gradients([first.sum(), math.nan * second.sum()])
    assert all(parameter.grad is None for parameter in trainer.parameters[2:])
