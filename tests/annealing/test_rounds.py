"""Rounds of samples: what they say, how they are kept, and how far the temperature can go down."""

import math

import numpy as np
import pytest
import torch
from annealing_helpers import COLD, HOT, labelled

from openmm_bg.annealing import AnnealingSettings
from openmm_bg.annealing.buffer import Labelled, SampleBuffer, WeightedSamples
from openmm_bg.annealing.regions import Rarity
from openmm_bg.annealing.rungs import next_temperature
from openmm_bg.annealing.target import Target


def test_rungs(toy, hot):
    """A rung is as low as the samples bear; the flow of the high temperature bears less than the annealed one."""
    from openmm_bg.training.potentials import training_potentials

    fast, _ = training_potentials(toy.molecule)
    target = Target(fast, HOT, energy_margin=100.0, weight_clip=1e-3)
    random = torch.Generator().manual_seed(0)
    ess = {t: hot.sample(20_000, t, seed=3).ess() for t in (COLD, 2.5 * COLD)}
    between = 0.5 * (ess[COLD] + ess[2.5 * COLD])
    found = next_temperature(hot.flow, target, HOT, COLD, between, random)
    assert COLD < found < 2.5 * COLD
    assert abs(hot.sample(20_000, found, seed=4).ess() - between) < 0.1
    assert next_temperature(hot.flow, target, HOT, COLD, 0.5 * ess[COLD], random) == COLD
    assert next_temperature(hot.flow, target, HOT, COLD, 1.0, random) == HOT


def test_figures_of_a_round(toy, hot):
    """Against sums by hand in double precision, and the exact partition function."""
    from openmm_bg.training.potentials import training_potentials

    fast, _ = training_potentials(toy.molecule)
    target = Target(fast, HOT, energy_margin=100.0, weight_clip=0.01)
    samples, (one, other) = target.draw(
        hot.flow, [HOT, 2 * COLD], [4000, 2000], torch.Generator().manual_seed(0)
    )
    assert len(samples) == 6000
    assert (one.temperature, other.temperature) == (HOT, 2 * COLD)
    assert (one.n_clipped, other.n_clipped) == (40, 20)
    assert 0 < other.clipped_mass < 0.2
    for figures, n in ((one, 4000), (other, 2000)):
        error = math.sqrt((1.0 / figures.ess - 1.0) / n)
        assert abs(figures.log_z - toy.log_z(figures.temperature)) < 3.5 * error
    # Features, densities and weights belong together: the target's density of each sample, from theory.
    x = hot.flow.coordinates.inverse(samples.features)[0][:, 0, :2].double()
    temperature = samples.ratio.double().numpy() * HOT
    _, logabsdet = hot.flow.coordinates.inverse(samples.features)
    for t in np.unique(temperature):
        chosen = torch.as_tensor(temperature == t)
        expected = toy.log_prob(x[chosen].numpy(), t) + logabsdet[chosen].numpy()
        difference = samples.log_target[chosen].numpy() - expected
        assert difference.std() < 1e-3
        assert abs(difference.mean()) < 0.1


def test_weights_are_clipped_with_the_usual_settings_too(toy, hot):
    """A thousand samples at one temperature: the largest weight, and no other, is brought down to the next one."""
    from openmm_bg.training.potentials import training_potentials

    fast, _ = training_potentials(toy.molecule)
    found = {}
    for clip in (AnnealingSettings().weight_clip, 0.0):
        target = Target(fast, HOT, energy_margin=100.0, weight_clip=clip)
        samples, (figures,) = target.draw(hot.flow, [COLD], [1000], torch.Generator().manual_seed(0))
        found[figures.n_clipped] = samples.weight
        assert figures.clipped_mass >= 0.0
    largest = found[0].argmax()
    assert (found[1] != found[0]).nonzero().flatten().tolist() == [int(largest)]
    assert found[1][largest] == found[0].topk(2).values[1]


def test_buffer():
    """Even draws are even, weighted ones follow the weights, the oldest round goes, and all of it is stored."""
    n = 40
    weight = torch.arange(1.0, n + 1)
    others = [weight.clone() for _ in range(4)]
    rounds = [Labelled(torch.full((n, 1), float(i)), *others, weight) for i in range(3)]
    buffer = SampleBuffer(2)
    for one in rounds:
        buffer.add(one)
    random = torch.Generator().manual_seed(0)
    batch = buffer.draw(40_000, 40_000, random)
    assert set(batch.features.flatten().tolist()) == {1.0, 2.0}
    for part, expected in ((batch[:40_000], torch.ones(n) / n), (batch[40_000:], weight / weight.sum())):
        counts = torch.bincount(part.weight.long() - 1, minlength=n)
        chi_square = float(((counts - 40_000 * expected).square() / (40_000 * expected)).sum())
        assert chi_square < n - 1 + 4 * math.sqrt(2 * (n - 1))
    twin = SampleBuffer(2)
    twin.restore(buffer.state())
    one, other = (b.draw(50, 50, torch.Generator().manual_seed(1)) for b in (buffer, twin))
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.weight, other.weight)


def test_exploded_samples_do_not_harm(toy, hot, monkeypatch):
    """Infinite energies have no weight, and pull the loss no further than its bound."""
    from openmm_bg.training.potentials import training_potentials

    fast, _ = training_potentials(toy.molecule)
    evaluate = fast._evaluate

    def broken(positions, with_forces):
        energy, forces = evaluate(positions, with_forces)
        energy[::10] = math.inf
        return energy, forces

    monkeypatch.setattr(fast, "_evaluate", broken)
    target = Target(fast, HOT, energy_margin=100.0, weight_clip=1e-3)
    samples, _ = target.draw(hot.flow, [HOT], [500], torch.Generator().manual_seed(0))
    assert (samples.weight[::10] == 0).all()
    assert torch.isfinite(samples.log_target).all()
    assert samples.log_target[::10].max() < samples.log_target.median() - 100


def test_samples_of_one_temperature_are_labelled_for_another(toy):
    x = toy.sample(100, HOT, np.random.default_rng(0))
    cooled = labelled(toy, x, HOT).at(COLD / HOT, toy.log_z(COLD))
    expected = toy.log_prob(x, COLD)
    assert np.abs(cooled.log_target.numpy() - expected).max() < 1e-4 * np.abs(expected).max()
    assert (cooled.ratio == COLD / HOT).all()


def _turning(generator):
    """One angle that turns and has a well of 2 % at the lowest temperature, 30 % above; one that is stiff."""
    n = 20_000
    cold = torch.arange(n) < n // 2
    rare = torch.rand(n, generator=generator) < torch.where(cold, 0.02, 0.3)
    uniform = torch.rand(n, generator=generator)
    # Ten twelfths of the circle are common, and the two last ones are rare.
    turning = -math.pi + math.pi / 6.0 * torch.where(rare, 10.0 + 2.0 * uniform, 10.0 * uniform)
    # A twentieth of a percent of the stiff angle is elsewhere. The feature that is no angle is spread.
    spread = (2.0 * torch.rand(n, generator=generator) - 1.0) * math.pi
    stiff = torch.where(torch.arange(n) % 2000 == 0, spread, 0.01 * torch.randn(n, generator=generator))
    ones = torch.ones(n)
    ratio = torch.where(cold, 0.5, 1.0)
    features = torch.stack([stiff, turning, torch.randn(n, generator=generator)], 1)
    return Labelled(features, ones, 0.0 * ones, ones, ratio, ones), rare


def test_rare_states_are_drawn_as_often_as_others():
    """By how much a region holds at the lowest temperature; stiff angles and other features do not count."""
    random = torch.Generator().manual_seed(0)
    samples, rare = _turning(random)
    rarity = Rarity(samples, 0.5, torch.tensor([True, True, False]))(samples.features)
    # Two twelfths share 2 %: each holds 0.01 instead of 1/12.
    assert float(rarity[rare].mean()) == pytest.approx(1 / 12 / 0.01, rel=0.15)
    assert float(rarity[~rare].max()) == 1.0
    drawn = WeightedSamples(samples, rarity).draw(20_000, random)
    share = float((drawn.features[:, 1] > math.pi * 2 / 3).float().mean())
    among_all = 0.5 * (0.02 + 0.3)
    expected = 8.3 * among_all / (8.3 * among_all + 1.0 - among_all)
    assert abs(share - expected) < 0.05
    even = Rarity(samples, 0.5, torch.tensor([True, False, False]))(samples.features)
    assert torch.equal(even, torch.ones(len(samples)))
    all_count = Rarity(samples, 0.5, torch.tensor([True, True, True]))(samples.features)
    assert float(all_count[~rare].max()) > 2.0  # as it would be if the last feature were an angle


def test_rarity_has_a_bound_and_needs_no_samples():
    samples, rare = _turning(torch.Generator().manual_seed(1))
    samples.weight = torch.where(rare, 0.0, 1.0)
    circular = torch.tensor([True, True, False])
    assert float(Rarity(samples, 0.5, circular)(samples.features).max()) == 30.0
    samples.weight = torch.zeros(len(samples))  # no finite energy at all
    assert torch.equal(Rarity(samples, 0.5, circular)(samples.features), torch.ones(len(samples)))
