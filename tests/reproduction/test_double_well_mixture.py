"""Seed 001, figure 2: the experiment in miniature, and the likelihoods it rests on."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.flows import RealNVP, TemperatureSteerableFlow
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.reproduction import double_well_mixture
from openmm_bg.reproduction.double_well_mixture import rows, run_mixture
from openmm_bg.reproduction.mixture_equilibrium import CHECKED, EquilibriumSettings, ladder, split_r_hat
from openmm_bg.reproduction.mixture_flows import evaluated, excess, marginal_excess, n_parameters
from openmm_bg.reproduction.mixture_results import claim_rows, difference, difference_table
from openmm_bg.reproduction.mixture_settings import KINDS, MixtureSettings
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE as T
from openmm_bg.training import TrainingSettings
from openmm_bg.transforms import CartesianCoordinates

TINY = MixtureSettings(
    equilibrium={5: EquilibriumSettings(100, n_walkers=4, n_training=400, n_frames=4, seed=3)},
    training=TrainingSettings(
        n_steps=6, validation_interval=3, validation_samples=20, batch_size=32, n_layers=2, hidden_features=8
    ),
    seeds=(0, 1),
    n_momenta=2,
    n_samples=200,
    n_exact=1000,
)


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_run(tmp_path):
    output, lines = tmp_path / "mixture", []
    summary = run_mixture(output, TINY, say=lines.append)
    assert len(lines) == 1 + 2 * len(KINDS)
    assert summary == json.loads((output / "mixture.json").read_text())
    assert summary["n_seeds"] == 2
    assert rows(output) == summary["rows"]
    for row in rows(output):
        assert set(row) - {"finding"} == {"line", "value", "stderr", "bound", "holds", "command", "seed"}
    # 11 figures of the parallel tempering; two TSFs, two baselines, five temperatures and a verdict on all.
    assert len(rows(output)) == 11 + 2 * 2 * (5 + 1)
    tables = {}
    for name in ("mixture", "differences", "marginals"):
        with (output / f"{name}.csv").open() as file:
            tables[name] = list(csv.DictReader(file))
    assert len(tables["mixture"]) == len(tables["differences"]) == 4 * len(evaluated())
    assert {"dimension", "curve", "temperature", "nll", "excess_seed_1"} <= tables["mixture"][0].keys()
    assert {"baseline", "value", "stderr", "quantile", "below"} <= tables["differences"][0].keys()
    assert len(tables["marginals"]) == 5 * 80
    for name in ("exact", "tempered", "unweighted", "weighted"):
        assert float(tables["marginals"][40][name]) >= 0
        mass = sum((float(row["to"]) - float(row["from"])) * float(row[name]) for row in tables["marginals"])
        assert mass == pytest.approx(5, rel=1e-3)
    for name in ("figure_2.png", "figure_2.svg"):
        assert (output / name).stat().st_size > 0

    # Only what is missing is made again, and comes out the same.
    kept, lost = output / "d5" / "realnvp_1" / "model.json", output / "d5" / "tsf_1"
    written = kept.stat().st_mtime_ns
    shutil.rmtree(lost)
    lost.with_suffix(".npz").unlink()
    again = run_mixture(output, TINY)
    assert kept.stat().st_mtime_ns == written
    assert again["rows"] == summary["rows"]
    with pytest.raises(InputError, match="other settings"):
        run_mixture(output, dataclasses.replace(TINY, n_samples=300))
    model = BoltzmannGenerator.load(lost)
    assert summary["n_parameters"]["d=5, tsf"] == n_parameters(model.flow)

    # Without its settings, results are refused; samples alone are used.
    (output / "stages.json").unlink()
    with pytest.raises(InputError, match="other settings"):
        run_mixture(output, TINY)
    alone, lines = tmp_path / "alone", []
    (alone / "d5").mkdir(parents=True)
    for name in ("equilibrium.npz", "equilibrium.json"):
        shutil.copy(output / "d5" / name, alone / "d5")
    experiment = double_well_mixture._Experiment(alone, TINY, False, lines.append)
    assert not lines  # no parallel tempering
    assert experiment.equilibrium[5].samples.shape == (4, 100, 4, 5)
    assert json.loads((alone / "stages.json").read_text())["settings"]["seeds"] == [0, 1]
    (alone / "stages.json").unlink()
    for other in ({"n_walkers": 8}, {"n_training": 300}, {"n_frames": 5}):
        own = {5: dataclasses.replace(TINY.equilibrium[5], **other)}
        with pytest.raises(InputError, match="other settings"):
            run_mixture(alone, dataclasses.replace(TINY, equilibrium=own))


def test_rows_of_nothing(tmp_path):
    with pytest.raises(InputError, match=r"mixture\.json is missing; python scripts.* writes it\.") as error:
        rows(tmp_path)
    assert "\n" not in str(error.value)


def test_conditioners_have_the_three_hidden_layers_of_the_seeds():
    assert MixtureSettings().training.n_hidden == 3


@pytest.mark.parametrize("dimension", [5, 20])
def test_flows_have_equal_numbers_of_parameters(dimension):
    coordinates = CartesianCoordinates((dimension + 2) // 3, range(dimension))
    flows = {"realnvp": RealNVP, "tsf": TemperatureSteerableFlow, "tsf-affine": TemperatureSteerableFlow}
    counts = []
    for kind in KINDS:
        own = MixtureSettings().of(kind, dimension, 0).flow_settings()
        coupling = {"tsf": {"coupling": "spline"}, "tsf-affine": {"coupling": "affine"}}.get(kind, {})
        counts.append(n_parameters(flows[kind](coordinates, T, **own, **coupling)))
    np.testing.assert_allclose(counts, counts[0], rtol=0.02)


@pytest.fixture
def steerable():
    """A flow of two coordinates and one momentum, far from the identity."""
    toy = systems.double_well_mixture(2, seed=1)
    data = toy.to_positions(toy.sample(1000, T, np.random.default_rng(0)))
    coordinates = CartesianCoordinates(1, toy.components).fit(data, whiten=False)
    flow = TemperatureSteerableFlow(
        coordinates, T, coupling="affine", n_momenta=1, n_layers=4, hidden_features=8
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return toy, flow


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_bound_against_the_integrated_marginal(steerable, temperature):
    toy, flow = steerable
    x = toy.sample(100, temperature * T, np.random.default_rng(1))
    p = torch.linspace(-30.0, 30.0, 601, dtype=torch.float64)[:, None]
    exact = [
        torch.logsumexp(flow.log_prob(toy.to_positions(one[None]).repeat(len(p), 0), p, temperature * T), 0)
        for one in x
    ]
    log_marginal = torch.stack(exact).numpy() + np.log(float(p[1, 0] - p[0, 0]))
    exact = (toy.log_prob(x, temperature * T) - log_marginal).mean()

    many = np.repeat(x, 100, axis=0)
    bound = excess(toy, flow, many, temperature, base=temperature, seed=0).mean()
    tighter = marginal_excess(toy, flow, many[::10], temperature, n_momenta=20, seed=0).mean()
    tightest = marginal_excess(toy, flow, x, temperature, n_momenta=1000, seed=0).mean()
    assert exact < tighter < bound
    assert tightest == pytest.approx(exact, abs=0.02)
    # The bound is the joint negative log-likelihood less the entropy of the momenta.
    momenta = flow.sample_momenta(len(many), temperature * T, generator=torch.Generator().manual_seed(5))
    joint = -flow.log_prob(toy.to_positions(many), momenta, temperature * T).mean()
    entropy = 0.5 * np.log(2 * np.pi * np.e * temperature)
    expected = float(joint) - entropy + toy.log_prob(many, temperature * T).mean()
    assert bound == pytest.approx(expected, abs=0.05)


def test_excess_of_a_flow_without_momenta_is_exact():
    """The identity, of a system and with a base whose likelihoods are known."""
    toy = systems.double_well_mixture(2, seed=1)
    coordinates = CartesianCoordinates(1, toy.components)
    flow = RealNVP(coordinates, T, n_layers=2, hidden_features=4)
    x = toy.sample(50, 2 * T, np.random.default_rng(0))
    for base in (1.0, 2.0):
        normal = -0.5 * (x**2).sum(1) / base - np.log(2 * np.pi * base)
        found = excess(toy, flow, x, 2.0, base=base, seed=0)
        np.testing.assert_allclose(found, toy.log_prob(x, 2 * T) - normal, atol=1e-10)


def test_ladder():
    temperatures = ladder()
    assert len(temperatures) == 100
    assert np.ptp(np.diff(np.log(temperatures))) < 0.003
    assert all(np.isclose(temperatures, t).sum() == 1 for t in CHECKED)
    assert all(np.isclose(temperatures[evaluated()], t).sum() == 1 for t in CHECKED)


@pytest.mark.parametrize("scatter", [0.1, 1.0])  # small and large beside the samples' 0.125
def test_difference_has_the_errors_of_trainings_and_of_samples(rng, scatter):
    truth, n = -0.3, 4000
    found = []
    for _ in range(n):
        trainings, samples = scatter * rng.standard_normal((2, 3, 1)), rng.standard_normal((1, 16))
        a, b = trainings[0] + samples + truth, trainings[1] + 0.5 * samples
        found.append(difference(a, b))
    values, errors, quantiles = np.array(found).T
    assert values.mean() == pytest.approx(truth, abs=0.05)
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.05)
    # Chance exceeds the quantile hardly more often than it is said to, but two standard errors much more often.
    beyond = (values - truth) / errors
    assert 0.01 < np.mean(beyond < -quantiles) < 0.032
    assert (np.mean(beyond < -2) > 0.05) == (scatter == 1.0)


def test_quantile_is_that_of_the_error_that_dominates():
    rng = np.random.default_rng(0)
    trainings, samples = rng.standard_normal((2, 3, 1)), rng.standard_normal((2, 3, 1000))
    # The seeds' means of b are the same: two degrees of freedom.
    few = difference(trainings[0] + np.zeros((3, 1000)), np.zeros((3, 1000)))
    assert few.quantile == pytest.approx(stats.t.isf(0.02275, 2), rel=1e-9)
    assert few.quantile > 4.5
    many = difference(samples[0, :1], samples[1, :1])  # one training: the samples' scatter alone
    assert many.quantile == pytest.approx(2.0, abs=0.01)


def curves_of(shift, noise=0.01):
    """Curves of which the first TSF is shifted, with shape=(n_seeds, n_evaluated, n_walkers) each."""
    scatter = noise * np.random.default_rng(0).standard_normal((4, 3, len(evaluated()), 16))
    names = ("tsf-affine", "realnvp", "realnvp-fixed", "tsf")
    return {name: scatter[k] + 1.0 + (k == 0) * shift for k, name in enumerate(names)}


def test_claims_are_judged():
    """A TSF that is lower everywhere, and a spline TSF that equals the baselines."""
    curves = curves_of(-1.0)
    found = claim_rows(5, curves, [0, 1, 2])
    lower, equal = [True, True, False, True, True, True], [False, False, True, False, False, False]
    assert [row["holds"] for row in found] == 2 * lower + 2 * equal
    assert [row["holds"] for row in claim_rows(20, curves, [0, 1, 2])] == 2 * 6 * [True] + 2 * 6 * [False]
    noisy = claim_rows(5, curves_of(-1.0, noise=0.5), [0, 1, 2])
    assert noisy[0]["stderr"] > 0.05
    assert not noisy[2]["holds"]
    assert not noisy[14]["holds"]  # equality needs small errors


def test_verdicts_are_about_all_temperatures_away_from_the_training():
    temperatures = ladder()[evaluated()]
    away = (temperatures <= 0.7) | (temperatures >= 1.4)

    def verdicts(dimension, shift):
        curves = curves_of(shift[:, None])
        found = claim_rows(dimension, curves, [0, 1, 2])
        assert sum(row["below"] for row in difference_table(dimension, curves)) >= 2 * (shift < 0).sum()
        return [row for row in found if "part of" in row["line"]]

    found = verdicts(5, np.where(away, -1.0, 1.0))
    assert [row["value"] for row in found[:2]] == [1.0, 1.0]
    assert all(row["finding"] and row["holds"] for row in found[:2])
    assert f"T <= 0.7 or T >= 1.4: part of {away.sum()} temperatures" in found[0]["line"]
    found = verdicts(20, np.where(away, -1.0, 1.0))
    assert not found[0]["holds"]
    assert found[0]["value"] == pytest.approx(away.mean())
    assert "every T" in found[0]["line"]
    assert verdicts(20, np.full(len(away), -1.0))[0]["holds"]
    once = np.where(np.arange(len(away)) == 0, 1.0, -1.0)
    assert not verdicts(5, once)[0]["holds"]


def test_split_r_hat(rng):
    chains = rng.standard_normal((8, 1000))
    assert split_r_hat(chains) == pytest.approx(1.0, abs=0.01)
    assert split_r_hat(chains + np.arange(8)[:, None]) > 2
    assert split_r_hat(chains + np.linspace(0, 3, 1000)) > 1.2
