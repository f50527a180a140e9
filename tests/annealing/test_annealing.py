"""Annealing on a double well with exact answers: it learns, counts, and resumes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from annealing_helpers import COLD, HOT, SMALL, right_well, rows_of

from openmm_bg import BoltzmannGenerator, InputError
from openmm_bg.annealing import anneal
from openmm_bg.annealing.annealer import Annealer
from openmm_bg.flows import RealNVP, SplineFlow, TemperatureSteerableFlow
from openmm_bg.statistics import weighted_mean
from openmm_bg.systems import double_well
from openmm_bg.transforms import CartesianCoordinates
from openmm_bg.units import thermal_energy


def test_a_flow_learns_lower_temperatures(toy, hot, cold):
    assert hot.sample(5000, COLD, seed=1).ess() < 0.6
    for temperature in (COLD, 2.0 * COLD, HOT):
        samples = cold.sample(5000, temperature, seed=1)
        assert samples.ess() > 0.9
        exact = 1.0 - float(toy.marginal_cdf(toy.barrier, temperature))
        found = weighted_mean(right_well(toy, samples.positions), samples.log_weights)
        assert abs(found.value - exact) < 3.5 * found.stderr
        # Its density is close to the exact one, everywhere and not on average alone.
        x = toy.sample(3000, temperature, np.random.default_rng(1))
        log_q = cold.log_prob(toy.to_positions(x), temperature).numpy()
        deviation = log_q - toy.log_prob(x, temperature)
        assert abs(deviation.mean()) < 0.05
        assert deviation.std() < 0.4
    assert cold.temperature_range == (COLD, HOT)
    assert cold.flow.conditioned


def test_wrong_energies_are_learned(toy, hot, cold, tmp_path):
    """The control: a flow annealed with other energies is another one, and the populations tell."""
    wrong = BoltzmannGenerator(hot.flow, system=double_well("printed").molecule)
    other = anneal(wrong, tmp_path / "wrong", dataclasses.replace(SMALL, n_steps=100, rung_ess=0.0))
    x = toy.sample(3000, COLD, np.random.default_rng(1))
    deviation = other.log_prob(toy.to_positions(x), COLD).numpy() - toy.log_prob(x, COLD)
    assert deviation.std() > 1.0


def test_cooled_samples_are_typical_of_the_lowest_temperature(toy, hot, data, tmp_path):
    """They have the law of samples of all temperatures, each kept with probability min(1, p_cold / p_own)."""
    settings = dataclasses.replace(SMALL, round_size=16_000)
    annealer = Annealer(hot, tmp_path / "model", settings, data)
    annealer._lower()
    annealer._new_round()
    n = 4000
    cooled = annealer.batches.cooled(n, COLD / HOT, annealer._log_z, annealer._random)
    assert (cooled.ratio == COLD / HOT).all()
    positions, _ = hot.flow.coordinates.inverse(cooled.features)
    x = toy.from_positions(positions.numpy())
    np.testing.assert_allclose(cooled.reduced, toy.energy(x) / thermal_energy(COLD), atol=1e-3)
    # The same by theory: exact samples of each temperature of the pool, as often as they are in it.
    pool = annealer.batches.buffer.all.samples
    ratios = torch.cat([pool.ratio, annealer.batches.frames().ratio]).double().numpy()
    rng, kept, squares = np.random.default_rng(0), [], []
    for ratio in np.unique(ratios):
        exact = toy.sample(20_000, ratio * HOT, rng)
        gain = np.minimum(toy.log_prob(exact, COLD) - toy.log_prob(exact, ratio * HOT), 0.0)
        kept.append((ratios == ratio).sum() * np.exp(gain).mean())
        squares.append(np.average(exact[:, 1] ** 2, weights=np.exp(gain)))
    expected = np.average(squares, weights=kept)
    found = (x[:, 1] ** 2).mean()
    stderr = (x[:, 1] ** 2).std() / np.sqrt(n)
    assert abs(found - expected) < 5 * stderr + 0.03 * expected
    cold, warm = toy.sample(20_000, COLD, rng), toy.sample(20_000, HOT, rng)  # neither law would do
    for other in (cold, warm):
        assert abs((other[:, 1] ** 2).mean() - expected) > 5 * stderr + 0.03 * expected


def test_single_temperature(toy, hot, tmp_path):
    settings = dataclasses.replace(SMALL, conditioned=False, n_steps=300)
    single = anneal(hot, tmp_path / "single", settings)
    assert not single.flow.conditioned
    assert single.sample(4000, COLD, seed=1).ess() > 0.85
    assert single.temperature_range == (COLD, pytest.approx(4.0 / 3.0 * COLD))


@pytest.mark.parametrize("ais", [0, 2])
def test_energies_are_counted_exactly(hot, tmp_path, monkeypatch, ais):
    """Every configuration whose energy is computed is counted once."""
    seen = []
    settings = dataclasses.replace(SMALL, n_steps=60, ais_distributions=ais)
    annealer = Annealer(hot, tmp_path / "model", settings)
    for potential in (annealer._fast, annealer._exact):
        evaluate = potential._evaluate
        monkeypatch.setattr(
            potential, "_evaluate", lambda x, f, evaluate=evaluate: (seen.append(len(x)), evaluate(x, f))[1]
        )
    annealer.run()
    generator = annealer.finish()
    assert generator.energy_evaluations["annealing"] == sum(seen)
    training = generator.record["training"]["n_energy_evaluations"]
    assert generator.energy_evaluations == {"simulation": 0, "training": training, "annealing": sum(seen)}
    # A model that is annealed again has cost both.
    again = anneal(generator, tmp_path / "again", settings)
    count = again.record["annealing"]["n_energy_evaluations"]
    assert again.energy_evaluations["annealing"] == sum(seen) + count
    assert int(rows_of(tmp_path / "model")[-1]["energy_evaluations"]) == sum(seen)


@pytest.mark.parametrize(("with_data", "ais"), [(False, 0), (True, 0), (False, 2)])
def test_interrupted_annealing_resumes_exactly(hot, data, tmp_path, monkeypatch, with_data, ais):
    settings = dataclasses.replace(SMALL, n_steps=80, ais_distributions=ais)
    used = data if with_data else None
    whole = anneal(hot, tmp_path / "whole", settings, data=used)
    step = Annealer._one_step

    def interrupted(self):
        if self.step == 60:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Annealer, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        anneal(hot, tmp_path / "broken", settings, data=used)
    monkeypatch.undo()
    assert not (tmp_path / "broken" / "model.json").exists()
    with pytest.raises(
        InputError, match="interrupted annealing of another model or with other data or settings"
    ):
        anneal(hot, tmp_path / "broken", dataclasses.replace(settings, seed=1), data=used)
    resumed = anneal(hot, tmp_path / "broken", settings, data=used)
    for name, tensor in whole.flow.state_dict().items():
        assert torch.equal(tensor, resumed.flow.state_dict()[name])
    drop = {"seconds"}
    one, other = (rows_of(tmp_path / name) for name in ("whole", "broken"))
    assert [{k: v for k, v in row.items() if k not in drop} for row in one] == [
        {k: v for k, v in row.items() if k not in drop} for row in other
    ]
    assert not (tmp_path / "broken" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("with_data", [False, True])
def test_a_single_temperature_learns_that_one_alone(hot, data, tmp_path, with_data):
    settings = dataclasses.replace(SMALL, conditioned=False, data_share=0.3)
    annealer = Annealer(hot, tmp_path / "model", settings, data if with_data else None)
    annealer._lower()
    annealer._new_round()
    batch = annealer.batches.draw(COLD / HOT, annealer._log_z, annealer._random)
    assert len(batch) == settings.batch_size
    assert (batch.ratio == COLD / HOT).all()


def test_with_annealed_importance_sampling(toy, hot, tmp_path):
    settings = dataclasses.replace(SMALL, n_steps=150, ais_distributions=3)
    annealed = anneal(hot, tmp_path / "model", settings)
    samples = annealed.sample(5000, COLD, seed=1)
    assert samples.ess() > 0.8
    exact = 1.0 - float(toy.marginal_cdf(toy.barrier, COLD))
    found = weighted_mean(right_well(toy, samples.positions), samples.log_weights)
    assert abs(found.value - exact) < 3.5 * found.stderr


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_conditioned_twin_has_the_same_densities(hot, toy, per_sample):
    twin = hot.flow.with_condition()
    assert twin.conditioned
    x = torch.as_tensor(toy.to_positions(toy.sample(50, HOT, np.random.default_rng(2))))
    for temperature in (COLD, HOT):
        assert (hot.flow.log_prob(x, temperature) - twin.log_prob(x, temperature)).abs().max() < 1e-12
    if per_sample:  # temperatures of each sample, in one batch
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        state, _, _ = twin.state_of(x, x.new_zeros(50, 0))
        ratio = torch.linspace(0.3, 1.0, 50)
        together = twin.state_log_prob(state, ratio)
        alone = [twin.state_log_prob(state[i : i + 1], float(r)) for i, r in enumerate(ratio)]
        assert (together - torch.cat(alone)).abs().max() < 1e-4


def test_a_conditioned_twin_of_a_single_feature(toy):
    """Its layers have nothing to be conditioned on, and see a one."""
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, [0])
    flow = SplineFlow(coordinates, HOT, n_layers=2, hidden_features=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    x = torch.as_tensor(toy.to_positions(toy.sample(50, HOT, np.random.default_rng(2))))
    for temperature in (COLD, HOT):
        difference = flow.log_prob(x, temperature) - flow.with_condition().log_prob(x, temperature)
        assert difference.abs().max() < 1e-5  # of single precision


def test_bad_input(hot, data, toy, tmp_path):
    def refused(match, generator=hot, output=None, data=None, **changes):
        with pytest.raises(InputError, match=match):
            anneal(generator, output or tmp_path / "new", dataclasses.replace(SMALL, **changes), data=data)
        assert not (tmp_path / "new").exists()

    refused("Annealing goes down", temperature=2 * HOT)
    refused("batch_size must be positive", batch_size=0)
    refused("covered must be between 0 and 1", covered=2.0)
    refused("n_steps must be a whole number", n_steps=30.5)
    refused("learning_rate must be positive and finite", learning_rate=math.inf)
    refused("n_temperatures must be at least 2", n_temperatures=1)
    refused("lowest_share must be above 0", lowest_share=0.0)
    refused("too small for 400 temperatures", n_temperatures=400)
    refused("must not add up", resampled_share=0.9, data_share=0.2)
    refused("holds a finished model", output=hot.path)
    refused(
        "data are of another system", data=dataclasses.replace(data, system=double_well("printed").molecule)
    )
    refused("data are of 100 K", data=dataclasses.replace(data, temperature=100.0))
    refused("does not know its system", generator=BoltzmannGenerator(hot.flow))
    energies = np.where(np.arange(len(data.energies)) == 3, np.nan, data.energies)
    refused("NaN or infinite energies", data=dataclasses.replace(data, energies=energies))
    coordinates = hot.flow.coordinates
    nvp = BoltzmannGenerator(RealNVP(coordinates, HOT, n_layers=2), system=toy.molecule)
    refused("cannot be conditioned", generator=nvp)
    steerable = TemperatureSteerableFlow(coordinates, HOT, n_momenta=2, n_layers=2)
    refused("flow without momenta", generator=BoltzmannGenerator(steerable, system=toy.molecule))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    refused("holds other things", output=tmp_path / "taken")
