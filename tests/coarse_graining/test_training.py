"""An interrupted training of a coarse-grained model: its rounds, its count of energies, and its map."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from chain_molecule import chain_data

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining import training
from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
from openmm_bg.coarse_graining.choices import MapChoice
from openmm_bg.coarse_graining.maps import centroid_map, selection_map
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.coarse_graining.training import train_coarse_grained
from openmm_bg.errors import InputError
from openmm_bg.files import json_text
from openmm_bg.training.checkpoint import read_checkpoint

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
    return json.loads(json_text(good | figures))


@pytest.mark.parametrize(
    ("figures", "settled"),
    [
        ({}, True),
        ({"effective_sample_size": 0.6}, False),
        ({"effective_sample_size": 0.4}, True),  # the round before is kept
        ({"largest_deviation": 0.5}, False),
        ({"hot_dispersion": 0.5}, False),
        ({"hot_dispersion": 1.5}, True),
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


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ({}, {}, 0),
        ({}, {"effective_sample_size": 0.6}, 1),
        ({}, {"effective_sample_size": 0.6, "hot_dispersion": 1.5}, 0),  # what is not drawn counts, too
        ({}, {"effective_sample_size": 0.4, "hot_dispersion": 0.1}, 1),
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

    before = training._merit
    monkeypatch.setattr(training, "_merit", lambda one: before(found[one["round"]]))
    monkeypatch.setattr(training._Trainer, "_judge", replaced)
    with pytest.raises(KeyboardInterrupt):
        train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS, on_checkpoint=stopped_after(3))
    _, tensors = read_checkpoint(tmp_path / "m" / "checkpoint.safetensors")
    average.append(tensors["best.0"])
    model = train_coarse_grained(data, coarse_map, tmp_path / "m", SETTINGS)
    assert model.record["kept_round"] == kept
    parameter = next(iter(model.flow.transform.parameters()))
    assert torch.equal(parameter, average[0]) == (kept == 0)


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
