"""Seed 000 in miniature: both experiments end to end, and the statistics that judge them against theory."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openmm_bg.errors import InputError
from openmm_bg.reproduction import double_well as well
from openmm_bg.reproduction import harmonic_oscillator as oscillator
from openmm_bg.reproduction import seed_000
from openmm_bg.reproduction.seed_000 import Seed000Settings, reproduce, rows
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FIGURES = ("figure_2", "figure_3", "figure_4", "figure_5", "map")


@pytest.fixture
def fast(monkeypatch):
    """Less Monte Carlo, coarser pictures, and several parts of draws although there are few."""
    monkeypatch.setattr(well, "_SWEEPS", 1000)
    monkeypatch.setattr(seed_000, "_DPI", 40)
    monkeypatch.setattr(seed_000, "_SHOWN", 200)
    monkeypatch.setattr(seed_000, "_PART", 600)


def tiny(seed: int = 0) -> Seed000Settings:
    """The same as the quick run with even less of everything."""
    small = {
        "hidden_features": 8,
        "n_steps": 40,
        "validation_interval": 20,
        "validation_samples": 200,
        "n_layers": 2,
    }
    quick = Seed000Settings.of(seed, quick=True)
    flows = {
        name: dataclasses.replace(
            flow, n_training=300, n_draws=1000, training=dataclasses.replace(flow.training, **small)
        )
        for name, flow in quick.oscillator.flows.items()
    }
    own = dataclasses.replace(
        quick.double_well,
        n_training=200,
        n_draws=2000,
        training=dataclasses.replace(quick.double_well.training, **small),
    )
    return Seed000Settings(own, oscillator.OscillatorSettings(flows, n_exact=500, seed=seed))


@pytest.mark.usefixtures("fast")
def test_everything_is_made_and_only_once(tmp_path, monkeypatch):
    found = reproduce(tmp_path, tiny())
    for name in FIGURES:
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
    table = (tmp_path / "free_energy.csv").read_text().splitlines()
    assert table[0] == "x1,exact,free_energy,stderr,draws"
    assert len(table) == len(well.EDGES)
    assert len(list((tmp_path / "double_well" / "widened").iterdir())) == 4
    keys = {"line", "value", "stderr", "bound", "holds", "command", "seed"}
    assert all(row.keys() - {"finding"} == keys for row in found)
    assert [row.get("finding", False) for row in found] == 12 * [False] + 12 * [True]
    assert all("spline flow, more samples; 300 to train on" in row["line"] for row in found[5:12])
    assert all("RealNVP as in the seed; 300 to train on" in row["line"] for row in found[17:])
    assert "(2,000 draws, variance of the base times 2)" in found[0]["line"]
    assert "(500 draws, base as trained, figure 3)" in found[12]["line"]
    assert not all(row["holds"] for row in found)  # forty steps are not enough
    numbers = json.loads((tmp_path / "harmonic_oscillator.json").read_text())
    assert set(numbers["flows"]) == {"untrained", "realnvp", "spline"}
    assert (
        numbers["flows"]["spline"]["divergence"]["value"]
        < numbers["flows"]["untrained"]["divergence"]["value"]
    )
    # Without their results experiments are concluded and drawn anew, but neither trained nor sampled again.
    for name in ("double_well.json", "harmonic_oscillator.json", "figure_3.png", "figure_5.png"):
        (tmp_path / name).unlink()
    for module, name in ((well, "train"), (oscillator, "train"), (oscillator, "divergence")):
        monkeypatch.setattr(module, name, None)
    monkeypatch.setattr(seed_000.BoltzmannGenerator, "sample", None)
    assert reproduce(tmp_path, tiny()) == found == rows(tmp_path)
    assert (tmp_path / "figure_3.png").exists()
    assert (tmp_path / "figure_5.png").exists()
    with pytest.raises(InputError, match="other settings"):
        reproduce(tmp_path, tiny(seed=1))


def judged_well(right_well_of_draws: float) -> dict:
    """Numbers of the double well as a run writes them, with a fraction of the draws in the right well."""
    exact = 0.0081
    return {
        "widening": 2.0,
        "n_draws": 1_000_000,
        "right_well_of_draws": right_well_of_draws,
        "right_well_exact": exact,
        "largest_stderr": 0.01,
        "largest_deviation": "inf",  # a bin without draws
        "family_wise_p": 0.5,
        "well_difference": {"value": 4.8, "stderr": 0.005, "exact": 4.81},
    }


def judged_flow(**changes) -> dict:
    """Numbers of a flow of the oscillator, as the first version of the judging wrote them."""
    test = {"distance": 0.01, "weighted_p": 0.4, "control_longer_box_p": 0.0002}
    test |= {"control_without_weights_p": 0.5}  # of a flow that is good
    return {
        "label": "a flow",
        "n_training": 51200,
        "divergence": {"value": 0.01, "stderr": 0.001},
        "x1": test | changes,
        "x2": test,
    }


def test_rows_judge_conditions_and_findings(tmp_path):
    record = {"seed": 0}
    wells = {"plain": judged_well(0.0081), "widened": judged_well(0.3), "record": record}
    flows = {"realnvp": judged_flow(weighted_p=0.001, label="other"), "spline": judged_flow()}
    (tmp_path / "double_well.json").write_text(json.dumps(wells))
    (tmp_path / "harmonic_oscillator.json").write_text(json.dumps({"flows": flows, "record": record}))
    found = rows(tmp_path)
    conditions, findings = found[:12], found[12:]
    assert not any("finding" in row for row in conditions)
    assert all(row["finding"] for row in findings)
    # A good flow fails nothing, whatever its draws are worth without weights.
    assert [row["holds"] for row in conditions[5:]] == 7 * [True]
    assert not conditions[1]["holds"]
    assert conditions[1]["value"] == np.inf
    controls = [row for row in found if "control without weights" in row["line"]]
    assert [row["holds"] for row in controls] == [True, False]
    assert controls[1]["value"] == 0.0
    assert sum(row["holds"] for row in findings[5:]) == 6


def test_unweighted_draws_are_told_from_exact_ones(rng):
    n, exact = 1_000_000, judged_well(0.0)["right_well_exact"]
    z = [well.unweighted_z(judged_well(k / n)) for k in rng.binomial(n, exact, 2000)]
    assert stats.kstest(z, "norm").statistic < 0.04
    assert well.unweighted_z(judged_well(0.5)) > 5
    # The free-energy difference of the wells is off by as many of its own standard errors.
    p = exact + 3 * np.sqrt(exact * (1 - exact) / n)
    off = np.log(p / (1 - p)) - np.log(exact / (1 - exact))
    assert off * np.sqrt(n * exact * (1 - exact)) == pytest.approx(
        well.unweighted_z(judged_well(p)), rel=0.05
    )


@pytest.mark.usefixtures("fast")
def test_interruption_between_parts_of_the_draws_changes_nothing(tmp_path, monkeypatch):
    settings = tiny()
    sample, calls = seed_000.BoltzmannGenerator.sample, []

    def interrupted(*arguments, **options):
        calls.append(options)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(*arguments, **options)

    monkeypatch.setattr(seed_000.BoltzmannGenerator, "sample", interrupted)
    job = seed_000._Job(tmp_path / "one", settings, False, lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        job.double_well()
    job.double_well()
    assert len({options["seed"] for options in calls}) == len(calls) - 1
    other = seed_000._Job(tmp_path / "other", settings, False, lambda text: None)
    other.double_well()
    assert (tmp_path / "one" / "free_energy.csv").read_text() == (
        tmp_path / "other" / "free_energy.csv"
    ).read_text()


def test_training_data_of_the_double_well_are_half_in_either_well():
    x = well.low_energy_configurations(301, seed=3)
    toy = well.double_well()
    right = x[:, 0] > toy.barrier
    assert right.sum() == 150
    assert not right[:20].all()
    assert right[:20].any()  # in random order
    # Within a well they are those of twice the temperature, along x1 and along x2.
    assert stats.kstest(x[:, 1] / np.sqrt(2.0), "norm").pvalue > 1e-3
    below = toy.marginal_cdf(toy.barrier, 2 * UNIT_TEMPERATURE)
    u = toy.marginal_cdf(x[~right, 0], 2 * UNIT_TEMPERATURE) / below
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert np.array_equal(x, well.low_energy_configurations(301, seed=3))


def proposal(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a wide normal distribution and their log-weights for the double well."""
    x = rng.standard_normal((n, 2)) * [2.5, 1.3]
    log_q = stats.norm.logpdf(x, scale=[2.5, 1.3]).sum(axis=1)
    return x, well.double_well().log_prob(x, UNIT_TEMPERATURE) - log_q


def test_errors_of_the_free_energy_are_those_that_repetitions_show():
    rng = np.random.default_rng(0)
    tables = [well.free_energies(*proposal(20_000, rng)) for _ in range(200)]
    near = tables[0]["exact"] < 3.0
    assert tables[0]["exact"].min() == 0.0
    values = np.array([table["free_energy"][near] for table in tables])
    errors = np.array([table["stderr"][near] for table in tables])
    np.testing.assert_allclose(values.std(axis=0), errors.mean(axis=0), rtol=0.2)
    z = (values - tables[0]["exact"][near]) / errors
    assert abs(z.mean()) < 0.2
    p = [well.family_wise(row) for row in z]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_exact_free_energies_are_those_of_the_system():
    x, log_weights = proposal(1000, np.random.default_rng(0))
    found = well.free_energies(x, log_weights)
    expected = well.double_well().free_energy(well.EDGES, UNIT_TEMPERATURE)
    np.testing.assert_allclose(found["exact"], expected, atol=1e-9)
    assert found["draws"].sum() == (np.abs(x[:, 0]) < 4).sum()
    judged = well.judge_double_well(x, log_weights)
    assert judged["bins_judged"] == (expected < well.REACH).sum()
    assert abs(judged["well_difference"]["value"] - judged["well_difference"]["exact"]) < 0.5


def test_tilted_weights_are_found_out():
    x, log_weights = proposal(200_000, np.random.default_rng(1))
    assert well.judge_double_well(x, log_weights)["family_wise_p"] > 1e-3
    assert well.judge_double_well(x, log_weights + 0.1 * x[:, 0])["family_wise_p"] < 1e-6


def test_family_wise_probability_of_one_is_that_of_a_normal_number():
    assert well.family_wise(np.array([-1.96])) == pytest.approx(0.05, abs=1e-4)
    assert well.family_wise(np.array([3.3, 0.0] + 23 * [1.0])) == pytest.approx(25 * 9.67e-4, rel=0.02)


def test_weighted_test_without_weights_is_that_of_kolmogorov_and_smirnov():
    u = np.random.default_rng(0).random(5000) ** 1.02
    found, p = oscillator.weighted_test(u, np.zeros(5000), seed=0)
    expected = stats.kstest(u, "uniform")
    assert found == pytest.approx(expected.statistic, abs=2e-3)
    assert p == pytest.approx(expected.pvalue, abs=0.05)
    assert oscillator.distance(u) == pytest.approx(expected.statistic, abs=1e-12)


def test_weighted_test_has_its_level():
    """A tenth of the distribution has a fiftieth of the draws: under the null hypothesis p-values are uniform."""
    rng = np.random.default_rng(0)
    p = []
    for seed in range(200):
        rare, v = rng.random(5000) < 0.02, rng.random(5000)
        u = np.where(rare, 0.1 * v, 0.1 + 0.9 * v)
        log_weights = np.where(rare, np.log(0.1 / 0.02), np.log(0.9 / 0.98))
        p.append(oscillator.weighted_test(u, log_weights, seed, n_cells=200, n_replicates=400)[1])
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_weighted_test_finds_wrong_weights():
    rng = np.random.default_rng(0)
    u = rng.beta(1.2, 1.0, 20_000)
    right = -stats.beta.logpdf(u, 1.2, 1.0)
    assert oscillator.weighted_test(u, right, 0)[1] > 0.01
    assert oscillator.weighted_test(u, 0.5 * right, 0)[1] < 1e-3
    outside = np.concatenate([u, np.full(500, np.nan)])  # of no weight, wherever they are
    again = oscillator.weighted_test(outside, np.concatenate([right, np.full(500, -np.inf)]), 0)
    assert again == oscillator.weighted_test(u, right, 0)


def test_perfect_draws_of_the_oscillator_pass_and_the_controls_do_not():
    toy = oscillator.harmonic_oscillator()
    x = toy.sample(200_000, UNIT_TEMPERATURE, np.random.default_rng(0))
    judged = oscillator.judge_draws(x, np.zeros(len(x)), seed=0)
    for name in ("x1", "x2"):
        assert judged[name]["distance"] < 0.005
        assert judged[name]["weighted_p"] > 0.01
        assert judged[name]["unweighted_p"] > 0.01  # which is no control, therefore
        assert judged[name]["control_longer_box_p"] < 0.01


def test_divergence_is_that_of_two_normal_distributions(monkeypatch):
    """The untrained flow is normal: KL in closed form from mean, variance and entropy."""
    flow = oscillator.FLOWS["realnvp"]
    generator = oscillator.untrained_oscillator(flow, seed=0)
    found = oscillator.divergence(generator, 4000, seed=0)
    toy = oscillator.harmonic_oscillator()
    mean, scale = generator.flow.coordinates.mean.numpy(), float(generator.flow.coordinates.factor[0, 0])
    variances = np.array([16 / 12, 16 / 12 + 0.5])
    cross = np.log(2 * np.pi * scale**2) + 0.5 * (variances + (2.0 - mean) ** 2).sum() / scale**2
    assert abs(found.value - (cross - toy.entropy(UNIT_TEMPERATURE))) < 4 * found.stderr


def test_latents_are_aligned_by_rotation_and_reflection():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500, 2))
    turned = z @ np.array([[0.6, 0.8], [0.8, -0.6]])
    rotated, distance = oscillator.aligned(turned, z)
    np.testing.assert_allclose(rotated, z, atol=1e-12)
    assert distance < 1e-12
    assert oscillator.aligned(rng.standard_normal((500, 2)), z)[1] > 1.0


@pytest.fixture
def script(monkeypatch):
    """The script's entry point."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("reproduce_seed_000").main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "error: The seed must not be negative"),
        (["--quick"], "other settings; choose another"),
    ],
)
def test_bad_options_end_with_one_sentence(tmp_path, monkeypatch, capsys, script, options, message):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "stages.json").write_text(json.dumps({"settings": {}, "wall_seconds": {}}))
    monkeypatch.setattr(sys, "argv", ["reproduce_seed_000.py", "--output", str(tmp_path), *options])
    assert script() == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not told.out


def test_the_script_prints_what_holds_and_survives_an_interruption(tmp_path, monkeypatch, capsys, script):
    rows = [
        {"line": "a line", "value": 0.0123, "bound": "<= 0.02", "holds": holds} for holds in (True, False)
    ]
    findings = [rows[0], {**rows[1], "finding": True}]
    monkeypatch.setattr(seed_000, "reproduce", lambda *arguments, **options: findings)
    monkeypatch.setattr(sys, "argv", ["reproduce_seed_000.py", "--output", str(tmp_path)])
    assert script() == 0
    assert "0.0123  <= 0.02  no" in capsys.readouterr().out
    monkeypatch.setattr(seed_000, "reproduce", lambda *arguments, **options: rows)
    assert script() == 1
    assert "0.0123  <= 0.02  NO" in capsys.readouterr().out

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(seed_000, "reproduce", interrupted)
    assert script() == 130
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda: well.DoubleWellSettings(n_training=10),
        lambda: well.DoubleWellSettings(widening=0.0),
        lambda: oscillator.OscillatorSettings(flows={"realnvp": oscillator.FLOWS["realnvp"]}),
        lambda: oscillator.OscillatorSettings(n_exact=1),
        lambda: Seed000Settings.of(-1, quick=True),
    ],
)
def test_settings_without_sense_are_refused(change):
    with pytest.raises(InputError):
        change()


def test_rows_of_nothing(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        rows(tmp_path)
