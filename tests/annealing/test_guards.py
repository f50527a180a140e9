"""What keeps annealing from losing what it knew, and what it says when it has no result."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from annealing_helpers import COLD, HOT, SMALL, labelled, right_well, rows_of

from openmm_bg import InputError
from openmm_bg.annealing import anneal
from openmm_bg.annealing.annealer import Annealer
from openmm_bg.annealing.coverage import Coverage
from openmm_bg.errors import ReliabilityWarning


def _ruined(monkeypatch, at):
    """Ruin both flows in a step."""
    step = Annealer._one_step

    def ruin(self):
        step(self)
        if self.step == at:
            with torch.no_grad():
                for flow in (self.flow, self.average):
                    for parameter in flow.parameters():
                        parameter.add_(torch.randn(parameter.shape, generator=self._random))

    monkeypatch.setattr(Annealer, "_one_step", ruin)


def test_collapse_is_undone(toy, hot, tmp_path, monkeypatch):
    """Steps that ruin the flow are taken back, and learning goes on, in smaller steps, as if they had not been."""
    # Several rounds between validations: the ruined flow tells its nonsense in two of them.
    settings = dataclasses.replace(
        SMALL, averaging=0.5, n_steps=600, validation_interval=100, round_size=800, reuse=4.0
    )
    _ruined(monkeypatch, 210)
    annealer = Annealer(hot, tmp_path / "model", settings)
    annealer.run()
    assert annealer.n_restored >= 1
    assert annealer._rate_factor <= 0.5
    assert annealer._best_figures["step"] > 300
    assert abs(annealer._log_z - toy.log_z(COLD)) < 0.1
    assert annealer.finish().sample(2000, COLD, seed=1).ess() > 0.9


def test_what_it_begins_with_may_be_kept(hot, tmp_path, monkeypatch):
    """A flow that only gets worse is not the result."""
    _ruined(monkeypatch, 10)
    with pytest.warns(ReliabilityWarning, match="No step of the annealing has made the flow better"):
        result = anneal(hot, tmp_path / "model", dataclasses.replace(SMALL, n_steps=50))
    rows = rows_of(tmp_path / "model")
    best = result.record["annealing"]["best_step"]
    assert best == 0
    assert [int(row["step"]) for row in rows] == [0, 50]
    before = hot.sample(4000, COLD, seed=1).ess()
    assert result.sample(4000, COLD, seed=1).ess() == pytest.approx(before, abs=1e-6)


def test_lost_coverage_is_undone(hot, tmp_path, monkeypatch):
    """Also if it creeps: it is compared with the best so far."""
    covered = iter([1.0, 1.0, 0.97, 0.94, *[1.0] * 20])
    monkeypatch.setattr(Coverage, "covered", lambda *arguments: next(covered))
    annealer = Annealer(hot, tmp_path / "model", SMALL)
    annealer.run()
    assert annealer.n_restored == 1


def test_a_useless_flow_is_refused(hot, tmp_path):
    settings = dataclasses.replace(SMALL, n_steps=50, rung_ess=0.0)
    annealer = Annealer(hot, tmp_path / "model", settings)
    annealer.run()
    annealer._best_figures["clipped_ess"] = 0.0
    with pytest.raises(InputError, match="came to no usable model"):
        annealer.finish()
    assert not (tmp_path / "model" / "model.json").exists()


def test_a_temperature_half_way_down_is_kept(hot, tmp_path, monkeypatch):
    monkeypatch.setattr("openmm_bg.annealing.annealer.next_temperature", lambda *arguments: 2.0 * COLD)
    with pytest.warns(ReliabilityWarning, match="came down to 240.545 K only"):
        result = anneal(hot, tmp_path / "model", dataclasses.replace(SMALL, n_steps=100))
    assert result.temperature_range == (pytest.approx(2.0 * COLD), HOT)


def test_a_rung_out_of_reach_is_said(hot, tmp_path):
    with pytest.raises(InputError, match="reached no temperature below"):
        anneal(hot, tmp_path / "model", dataclasses.replace(SMALL, rung_ess=1.0, n_steps=20))


def test_leftovers_of_a_kill_do_not_block(hot, tmp_path):
    # 100 steps: after fewer the flow neglects a region, which is a warning.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".checkpoint.0123.partial.safetensors").write_bytes(b"half")
    anneal(hot, tmp_path / "model", dataclasses.replace(SMALL, n_steps=100))


def test_damaged_and_foreign_checkpoints(hot, tmp_path):
    from openmm_bg.training.checkpoint import read_checkpoint, write_checkpoint

    annealer = Annealer(hot, tmp_path / "model", SMALL)
    annealer._lower()
    annealer._validate(annealer._new_round())
    annealer.checkpoint()
    path = tmp_path / "model" / "checkpoint.safetensors"
    header, tensors = read_checkpoint(path)
    del header["lowest_log_z"]
    write_checkpoint(path, tensors, header)
    with pytest.raises(InputError, match="another version"):
        anneal(hot, tmp_path / "model", SMALL)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="truncated"):
        anneal(hot, tmp_path / "model", SMALL)


def test_kept_samples_are_of_the_target_with_importance_sampling_too(toy, hot, tmp_path):
    """Not of p^2 / q, where the samples of a round are."""
    settings = dataclasses.replace(SMALL, ais_distributions=4, round_size=16_000)
    annealer = Annealer(hot, tmp_path / "model", settings)
    annealer._lower()
    annealer._new_round()
    kept = annealer.coverage.sets["lowest"]
    positions, _ = hot.flow.coordinates.inverse(kept.features)
    found = right_well(toy, positions.numpy()).mean()
    exact = 1.0 - float(toy.marginal_cdf(toy.barrier, COLD))
    drawn = 16_000 * hot.sample(16_000, COLD, seed=8).ess()
    assert abs(found - exact) < 3.5 * math.sqrt(exact * (1 - exact) * (1 / len(kept) + 1 / drawn))


def test_a_lost_mode_is_seen(toy):
    """By samples of the target from before, and not by the effective sample size of its own samples."""
    x = toy.sample(4000, HOT, np.random.default_rng(0))
    left = x[x[:, 0] < toy.barrier]
    share = len(left) / len(x)
    samples = labelled(toy, x, HOT)
    coverage = Coverage()
    coverage.keep("all", samples, 1000, torch.Generator().manual_seed(0))

    class OneWell:
        """The target, exactly, in the left well alone."""

        circular = torch.zeros(2, dtype=torch.bool)

        def state_log_prob(self, features, ratio):
            log_prob = torch.as_tensor(toy.log_prob(features[:, :2].double().numpy(), HOT)).float()
            return torch.where(features[:, 0] < toy.barrier, log_prob - math.log(share), -1e3)

    assert abs(coverage.covered(OneWell(), ["all"]) - share) < 3.5 * math.sqrt(share * (1 - share) / 1000)

    class Whole(OneWell):
        def state_log_prob(self, features, ratio):
            return torch.as_tensor(toy.log_prob(features[:, :2].double().numpy(), HOT)).float()

    assert coverage.covered(Whole(), ["all"]) == 1.0
    assert coverage.poorest_region(OneWell(), samples) < 1e-6
    assert coverage.poorest_region(Whole(), samples) > 0.999

    class Broken(Whole):
        def state_log_prob(self, features, ratio):
            return torch.where(
                features[:, 0] < toy.barrier, super().state_log_prob(features, ratio), math.nan
            )

    assert coverage.poorest_region(Broken(), samples) == 0.0


def test_a_rare_mode_is_a_region_of_its_own(toy):
    """A well that holds one sample in a hundred and is given a tenth of its density."""
    x = toy.sample(40_000, HOT, np.random.default_rng(0))
    right = x[:, 0] > toy.barrier
    samples = labelled(toy, np.concatenate([x[~right][:9900], x[right][:300]]), HOT)

    class Neglectful:
        circular = torch.zeros(2, dtype=torch.bool)

        def state_log_prob(self, features, ratio):
            log_prob = torch.as_tensor(toy.log_prob(features.double().numpy(), HOT)).float()
            return log_prob - math.log(10.0) * (features[:, 0] > toy.barrier)

    coverage = Coverage()
    # A twelfth of the samples along x holds all of the small well, but not only that; at an angle it would.
    Neglectful.circular = torch.tensor([True, False])
    angles = samples[:]
    angles.features = samples.features * 0.5
    found = coverage.poorest_region(_Scaled(Neglectful(), 2.0), angles)
    assert found == pytest.approx(0.1, rel=0.01)


def test_a_region_that_holds_nothing_is_not_looked_at(toy):
    """At the low temperature a high place of the hot samples, which the flow may neglect."""
    x = toy.sample(40_000, HOT, np.random.default_rng(0))
    angles = labelled(toy, x, HOT).at(COLD / HOT, toy.log_z(COLD))
    neglected = x[:, 1] > 5.0  # along a spring of variance T: 12.5 kT and more at the low temperature
    assert neglected.sum() > 200

    class Neglectful:
        circular = torch.tensor([True, True])

        def __init__(self, where):
            self.where = torch.as_tensor(where)

        def state_log_prob(self, features, ratio):
            log_prob = torch.as_tensor(toy.log_prob(2.0 * features.double().numpy(), COLD)).float()
            return log_prob - 10.0 * self.where

    angles.features = angles.features * 0.5
    assert Coverage().poorest_region(Neglectful(neglected), angles) > 0.5
    right = x[:, 0] > toy.barrier  # which does hold something
    assert Coverage().poorest_region(Neglectful(right), angles) < 1e-3


class _Scaled:
    """A law of features that were multiplied by a factor before."""

    def __init__(self, law, factor):
        self.law, self.factor, self.circular = law, factor, law.circular

    def state_log_prob(self, features, ratio):
        return self.law.state_log_prob(self.factor * features, ratio)
