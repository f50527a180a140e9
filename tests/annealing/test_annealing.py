"""Annealing on a double well with exact answers: it learns, counts, resumes, and guards against collapse."""

import csv
import dataclasses
import math

import numpy as np
import pytest
import torch

from openmm_bg import BoltzmannGenerator, InputError
from openmm_bg.annealing import AnnealingSettings, anneal
from openmm_bg.annealing.annealer import Annealer
from openmm_bg.annealing.buffer import Labelled, SampleBuffer
from openmm_bg.annealing.coverage import Coverage
from openmm_bg.annealing.rungs import next_temperature
from openmm_bg.annealing.target import Target
from openmm_bg.errors import ReliabilityWarning
from openmm_bg.flows import RealNVP, SplineFlow, TemperatureSteerableFlow
from openmm_bg.statistics import weighted_mean
from openmm_bg.systems import double_well
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.training import TrainingData, TrainingSettings, train
from openmm_bg.transforms import CartesianCoordinates
from openmm_bg.units import thermal_energy

HOT, COLD = 4.0 * UNIT_TEMPERATURE, UNIT_TEMPERATURE
SMALL = AnnealingSettings(
    temperature=COLD,
    n_steps=300,
    batch_size=128,
    round_size=1600,
    n_temperatures=4,
    validation_interval=50,
    validation_samples=2000,
    learning_rate=3e-3,
    averaging=0.98,
)


@pytest.fixture(scope="module")
def toy():
    return double_well()


@pytest.fixture(scope="module")
def data(toy):
    x = toy.sample(4000, HOT, np.random.default_rng(0))
    return TrainingData(toy.molecule, toy.to_positions(x), toy.energy(x), HOT, {"seed": 0})


@pytest.fixture(scope="module")
def hot(toy, data, tmp_path_factory):
    """A generator that knows the double well at the high temperature."""
    settings = TrainingSettings(
        n_steps=300,
        validation_interval=100,
        validation_samples=1000,
        n_layers=4,
        hidden_features=32,
        learning_rate=5e-3,
        kl_weight=0.0,
        averaging=0.98,
    )
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components).fit(data.positions)
    directory = tmp_path_factory.mktemp("hot") / "model"
    trained = train(data, directory, settings, coordinates=coordinates)
    wide = BoltzmannGenerator(
        trained.flow,
        trained.potential,
        system=trained.system,
        record=trained.record,
        temperature_range=(COLD, HOT),
    )
    wide.path = trained.path
    return wide


@pytest.fixture(scope="module")
def cold(hot, tmp_path_factory):
    settings = dataclasses.replace(SMALL, n_steps=600)
    return anneal(hot, tmp_path_factory.mktemp("cold") / "model", settings)


def rows_of(directory):
    with (directory / "annealing.csv").open() as file:
        return list(csv.DictReader(file))


def right_well(toy, positions):
    return (positions[:, 0, 0] > toy.barrier).astype(float)


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


def test_single_temperature(toy, hot, tmp_path):
    settings = dataclasses.replace(SMALL, conditioned=False, n_steps=150)
    single = anneal(hot, tmp_path / "single", settings)
    assert not single.flow.conditioned
    assert single.sample(4000, COLD, seed=1).ess() > 0.85
    assert single.temperature_range == (COLD, pytest.approx(4.0 / 3.0 * COLD))


@pytest.mark.parametrize("ais", [0, 2])
def test_energies_are_counted_exactly(hot, tmp_path, monkeypatch, ais):
    """Every configuration whose energy is computed is counted once."""
    seen = []
    settings = dataclasses.replace(SMALL, n_steps=100, ais_distributions=ais)
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
    settings = dataclasses.replace(SMALL, n_steps=200, ais_distributions=ais)
    used = data if with_data else None
    whole = anneal(hot, tmp_path / "whole", settings, data=used)
    step = Annealer._one_step

    def interrupted(self):
        if self.step == 130:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Annealer, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        anneal(hot, tmp_path / "broken", settings, data=used)
    monkeypatch.undo()
    assert not (tmp_path / "broken" / "model.json").exists()
    with pytest.raises(InputError, match="interrupted annealing of another model or with other settings"):
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


def test_collapse_is_undone(hot, tmp_path, monkeypatch):
    """Steps that ruin the flow are taken back, and learning goes on, in smaller steps, as if they had not been."""
    # Several rounds between validations: the ruined flow tells its nonsense in two of them.
    settings = dataclasses.replace(
        SMALL, averaging=0.5, n_steps=800, validation_interval=100, round_size=800, reuse=4.0
    )
    _ruined(monkeypatch, 210)
    annealer = Annealer(hot, tmp_path / "model", settings)
    annealer.run()
    assert annealer.n_restored >= 1
    assert annealer._rate_factor <= 0.5
    assert annealer._best_figures["step"] > 300
    assert (
        abs(
            annealer._log_z
            - annealer.target.draw(annealer.average, [COLD], [5000], annealer._random)[1][0].log_z
        )
        < 0.2
    )
    assert annealer.finish().sample(2000, COLD, seed=1).ess() > 0.9


def test_what_it_begins_with_may_be_kept(hot, tmp_path, monkeypatch):
    """A flow that only gets worse is not the result."""
    _ruined(monkeypatch, 10)
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
        result = anneal(hot, tmp_path / "model", dataclasses.replace(SMALL, n_steps=50))
    assert result.temperature_range == (pytest.approx(2.0 * COLD), HOT)


def test_leftovers_of_a_kill_do_not_block(hot, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".checkpoint.0123.partial.safetensors").write_bytes(b"half")
    anneal(hot, tmp_path / "model", dataclasses.replace(SMALL, n_steps=50))


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


@pytest.mark.parametrize("with_data", [False, True])
def test_a_single_temperature_learns_that_one_alone(hot, data, tmp_path, with_data):
    settings = dataclasses.replace(SMALL, conditioned=False, data_share=0.3)
    annealer = Annealer(hot, tmp_path / "model", settings, data if with_data else None)
    annealer._lower()
    annealer._new_round()
    batch = annealer._batch()
    assert len(batch) == settings.batch_size
    assert (batch.ratio == COLD / HOT).all()


def _labelled(toy, x, temperature):
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components)
    features, _ = coordinates.forward(torch.as_tensor(toy.to_positions(x)))
    reduced = torch.as_tensor(toy.energy(x) / thermal_energy(temperature)).float()
    ones = torch.ones(len(x))
    log_z = toy.log_z(temperature) * ones
    return Labelled(features.float(), reduced, 0.0 * ones, log_z, ones * temperature / HOT, ones)


def test_a_lost_mode_is_seen(toy):
    """By samples of the target from before, and not by the effective sample size of its own samples."""
    x = toy.sample(4000, HOT, np.random.default_rng(0))
    left = x[x[:, 0] < toy.barrier]
    share = len(left) / len(x)
    samples = _labelled(toy, x, HOT)
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
    samples = _labelled(toy, np.concatenate([x[~right][:9900], x[right][:300]]), HOT)

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


class _Scaled:
    """A law of features that were multiplied by a factor before."""

    def __init__(self, law, factor):
        self.law, self.factor, self.circular = law, factor, law.circular

    def state_log_prob(self, features, ratio):
        return self.law.state_log_prob(self.factor * features, ratio)


def test_samples_of_one_temperature_are_labelled_for_another(toy):
    x = toy.sample(100, HOT, np.random.default_rng(0))
    cooled = _labelled(toy, x, HOT).at(COLD / HOT, toy.log_z(COLD))
    expected = toy.log_prob(x, COLD)
    assert np.abs(cooled.log_target.numpy() - expected).max() < 1e-4 * np.abs(expected).max()
    assert (cooled.ratio == COLD / HOT).all()


def test_with_annealed_importance_sampling(toy, hot, tmp_path):
    settings = dataclasses.replace(SMALL, n_steps=150, ais_distributions=3)
    annealed = anneal(hot, tmp_path / "model", settings)
    samples = annealed.sample(5000, COLD, seed=1)
    assert samples.ess() > 0.8
    exact = 1.0 - float(toy.marginal_cdf(toy.barrier, COLD))
    found = weighted_mean(right_well(toy, samples.positions), samples.log_weights)
    assert abs(found.value - exact) < 3.5 * found.stderr


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
    assert other.n_clipped == 20
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


def test_a_rung_out_of_reach_is_said(hot, tmp_path):
    with pytest.raises(InputError, match="reached no temperature below"):
        anneal(hot, tmp_path / "model", dataclasses.replace(SMALL, rung_ess=1.0, n_steps=20))
