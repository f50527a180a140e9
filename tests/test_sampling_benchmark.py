"""The benchmark of sampling methods: effective samples of known chains, crossings, break-even times, small runs."""

import dataclasses
import importlib.util
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from openmm_bg.errors import InputError
from openmm_bg.sampling_benchmark import BenchmarkSettings, run_benchmark
from openmm_bg.sampling_benchmark.basins import (
    PHI,
    PSI,
    Population,
    count_crossings,
    count_entries,
    last_cores,
)
from openmm_bg.sampling_benchmark.effective import judge, largest_number, of_chain, of_weighted
from openmm_bg.sampling_benchmark.model_cost import model_costs
from openmm_bg.sampling_benchmark.results import acceptance_rows, break_even, break_even_times, method_rows
from openmm_bg.sampling_benchmark.tables import duration, tables
from openmm_bg.sampling_benchmark.trace import Cost, Trace
from openmm_bg.statistics import Estimate

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark_sampling.py"
LEFT, RIGHT, ACROSS = np.radians(
    [-100.0, 60.0, 170.0]
)  # phi of beta, of alpha-L, and of beta beyond 180 degrees
BETA, ALPHA = np.radians([150.0, -45.0])  # psi
TINY = BenchmarkSettings(
    ladder=(300.0, 600.0),
    flow_ladder=(300.0, 600.0),
    md_frames=20,
    md_interval=5,
    tempering_iterations=10,
    tempering_steps=2,
    n_ladders=8,
    batched_iterations=20,
    batched_steps=2,
    flow_iterations=10,
    multiple_try_iterations=10,
    flow_steps=2,
    n_proposals=2,
    n_candidates=3,
    learned_iterations=10,
    flow_chain_calls=20,
    multiple_try_chain_calls=20,
    n_tries=2,
    n_samples=200,
)


def two_states(n_frames, n_walkers, p, rho, seed):
    """Markov chains with the stationary probability p and the autocorrelation rho^k, begun in equilibrium."""
    rng = np.random.default_rng(seed)
    inside = np.empty((n_frames, n_walkers), dtype=bool)
    inside[0] = rng.random(n_walkers) < p
    for k in range(1, n_frames):
        # With probability rho the state is kept, otherwise drawn anew.
        keep = rng.random(n_walkers) < rho
        inside[k] = np.where(keep, inside[k - 1], rng.random(n_walkers) < p)
    return inside


def known(p, slow=None):
    return Population(Estimate(p, 0.0), p if slow is None else slow)


# ------------------------------------------------------------------------------------- effective samples


@pytest.mark.parametrize(("n_frames", "n_walkers"), [(60_000, 1), (1000, 128)])
@pytest.mark.parametrize(("p", "rho"), [(0.5, 0.8), (0.1, 0.95)])
def test_effective_samples_of_a_markov_chain(n_frames, n_walkers, p, rho):
    """Var(mean) = p (1 - p) / N (1 + rho) / (1 - rho): that many of the N frames are worth an independent one."""
    inside = two_states(n_frames, n_walkers, p, rho, seed=1)
    expected = inside.size * (1 - rho) / (1 + rho)
    probability, number = of_chain(inside, p * (1 - p))
    assert abs(probability.value - p) < 4 * probability.stderr
    assert abs(number.value - expected) < 3.5 * number.stderr
    assert number.stderr < 0.3 * expected
    # The negative control: without its correlation the chain is worth more.
    shuffled = np.random.default_rng(2).permutation(inside.ravel()).reshape(inside.shape)
    _, control = of_chain(shuffled, p * (1 - p))
    assert control.value > expected + 3.5 * number.stderr


def test_the_error_of_effective_samples_is_their_scatter():
    found = [of_chain(two_states(500, 32, 0.3, 0.8, seed), 0.21)[1] for seed in range(60)]
    scatter = np.std(np.log([number.value for number in found]))
    claimed = np.median([number.stderr / number.value for number in found])
    assert 0.6 < claimed / scatter < 1.6


@pytest.mark.parametrize(("p", "share"), [(0.1, 0.1), (0.1, 0.5), (0.003, 0.05)])
def test_effective_samples_of_weighted_draws(p, share):
    """A share b of n draws is inside, with the weight p / b: Var = p^2 (1 - p)^2 / (n b (1 - b)), delta method."""
    n = 100_000
    inside = np.random.default_rng(3).random(n) < share
    log_weights = np.where(inside, np.log(p / share), np.log((1 - p) / (1 - share)))
    probability, number = of_weighted(inside, log_weights, p * (1 - p))
    assert abs(probability.value - p) < 4 * probability.stderr
    assert number.value == pytest.approx(n * share * (1 - share) / (p * (1 - p)), rel=0.05)
    assert 0 < number.stderr < 0.1 * number.value


def test_few_arrivals_bound_the_effective_samples():
    """The limit fails in one of twenty cases, and is of the right size."""
    p, rho, n = 0.02, 0.99, 10_000
    true = n * (1 - rho) / (1 + rho)
    chains = two_states(n, 400, p, rho, seed=4)
    arrivals = (chains[1:] & ~chains[:-1]).sum(axis=0) + chains[0]
    assert 1 < arrivals.mean() < 4
    limits = np.array([largest_number(k, n, known(p)) for k in arrivals])
    assert 0.93 < (limits >= true).mean() <= 1.0
    assert np.median(limits) < 5 * true
    assert largest_number(10**6, n, known(p)) == n  # no chain is worth more than its frames
    # The part that changes fast adds to the probability, and so to what is expected of a sample.
    more = largest_number(3, n, known(2 * p, slow=p)) / largest_number(3, n, known(p))
    assert more == pytest.approx(2 * 0.96 / 0.98)


# ------------------------------------------------------------------------------------- crossings, arrivals


def test_the_way_across_180_degrees_is_no_crossing():
    phi = np.array([LEFT, ACROSS, LEFT, 0.0, LEFT, RIGHT, ACROSS, RIGHT, LEFT])[:, None]
    psi = np.full_like(phi, BETA)
    inside = PHI.inside.contains(phi, psi)[:, 0]
    assert inside.tolist() == [False, True, False, True, False, True, True, True, False]
    assert count_crossings(PHI.cores_of(phi, psi)) == 2


def test_of_psi_only_the_cores_count():
    psi = np.radians([150.0, 20.0, -45.0, 10.0, -45.0, 20.0, 150.0])[:, None]
    phi = np.full_like(psi, LEFT)
    assert count_crossings(PSI.cores_of(phi, psi)) == 2
    assert count_crossings(PSI.cores_of(np.full_like(psi, RIGHT), psi)) == 0


def test_the_last_core_is_remembered():
    cores = np.array([[-1, 0, -1, 1, -1, -1, 0], [-1, -1, -1, -1, -1, -1, -1]], dtype=np.int8).T
    assert last_cores(cores).T.tolist() == [[0, 0, 0, 1, 1, 1, 0], [-1] * 7]


def test_a_replica_that_comes_back_without_having_left_the_basin_arrives_once():
    # Two states; replica 1 is in the second core from frame 1 to 6, replica 0 for one frame while it is hot.
    replicas = np.array([[0, 1], [0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0]])
    core_of_replica = np.array([[0, 0], [0, 1], [0, 1], [0, 1], [1, 1], [0, 1], [0, 1], [0, 0]])
    cores = np.take_along_axis(core_of_replica, replicas, axis=1).astype(np.int8)[:, :, None]
    assert count_entries(cores, replicas[:, :, None]) == 1
    assert count_crossings(cores[:, 0]) == 6  # what the lowest temperature sees
    # If it crosses on its way, it arrives twice; a ladder beside this one adds its own.
    core_of_replica[3] = 0
    other = np.take_along_axis(core_of_replica, replicas, axis=1).astype(np.int8)[:, :, None]
    assert count_entries(other, replicas[:, :, None]) == 2
    both = np.concatenate([cores, other], axis=2)
    assert count_entries(both, np.repeat(replicas[:, :, None], 2, axis=2)) == 3


# ------------------------------------------------------------------------------------- traces and rows


def chain_trace(right, recycled=None):
    """A chain that is on the right where asked to be, a frame a second, an energy each."""
    phi = np.where(right, RIGHT, LEFT)[:, None, None]
    n = len(right)
    return Trace(phi, np.full_like(phi, BETA), Cost(10, 1, 1), Cost(n, n, n), recycled=recycled or {})


def test_a_chain_that_hardly_crossed_is_only_bounded():
    right = np.arange(2000) % 1000 < 10
    found = judge(chain_trace(right), PHI, known(0.01))
    assert (found.status, found.crossings, found.entries) == ("bound", 3, 2)
    assert found.number.value == largest_number(2, 2000, known(0.01))
    assert found.probability.stderr >= math.sqrt(0.0099 / found.number.value)
    right = two_states(20_000, 1, 0.2, 0.5, seed=5)[:, 0]
    found = judge(chain_trace(right), PHI, known(0.2))
    assert found.status == "measured"
    assert abs(found.z) < 4
    assert abs(found.number.value - 20_000 / 3) < 3.5 * found.number.stderr


def weighted_trace(right, log_weights):
    phi = np.where(right, RIGHT, LEFT)[:, None, None]
    cost = Cost(len(right), 1, 1)
    return Trace(phi, np.full_like(phi, BETA), Cost(), cost, log_weights=log_weights)


def test_weights_of_a_basin_that_was_nearly_missed_are_not_believed():
    rng = np.random.default_rng(6)
    right = rng.random(50_000) < 0.01
    log_weights = 0.1 * rng.standard_normal(50_000)
    found = judge(weighted_trace(right, log_weights), PHI, known(0.01))
    assert found.status == "measured"
    assert math.isnan(found.crossings)
    heavy = log_weights + np.where(
        right, rng.exponential(1.5, 50_000), 0.0
    )  # k = 1.5 there, but nothing of all
    assert judge(weighted_trace(right, heavy), PHI, known(0.01)).status == "unknown"
    few = np.arange(50_000) < 20
    assert judge(weighted_trace(few, log_weights), PHI, known(0.01)).status == "unknown"
    nothing = judge(weighted_trace(right, np.full(50_000, -np.inf)), PHI, known(0.01))
    assert nothing.status == "unknown"
    assert math.isnan(nothing.probability.value)


def test_averages_over_candidates_are_worth_what_they_average():
    rng = np.random.default_rng(7)
    series = rng.binomial(50, 0.02, 4000) / 50.0
    trace = chain_trace(np.zeros(4000, dtype=bool), {"phi": series, "psi": 1.0 - series})
    found = judge(trace, PHI, known(0.02), recycled=True)
    assert found.status == "measured"
    assert abs(found.number.value - 200_000) < 4 * found.number.stderr
    with pytest.raises(InputError, match="no averages of phi > 0"):
        judge(chain_trace(np.zeros(100, dtype=bool)), PHI, known(0.02), recycled=True)


@pytest.mark.parametrize(
    ("rate", "offset", "other_rate", "other_offset", "expected"),
    [
        (10.0, 100.0, 1.0, 10.0, 110.0),  # 10 (t - 100) = t - 10
        (10.0, 100.0, 1.0, 1000.0, 100.0),  # it is done before the other begins
        (1.0, 100.0, 2.0, 0.0, math.inf),
        (1.0, 100.0, 1.0, 200.0, 100.0),
        (1.0, 100.0, 1.0, 0.0, math.inf),
    ],
)
def test_break_even_times(rate, offset, other_rate, other_offset, expected):
    found = break_even(rate, offset, other_rate, other_offset)
    assert found == pytest.approx(expected)
    if math.isfinite(expected) and expected > max(offset, other_offset):
        assert rate * (found - offset) == pytest.approx(other_rate * (found - other_offset))


def test_an_unknown_rate_has_no_break_even_time():
    assert math.isnan(break_even(math.nan, 0.0, 1.0, 0.0))
    assert [duration(t) for t in (math.nan, math.inf, 5.0, 600.0, 7200.0)] == [
        "unknown",
        "never",
        "5 s",
        "10 min",
        "2.0 h",
    ]


def rows_of_three(log_scatter=0.1, target=0.1):
    """A slow chain, a fast one and weighted samples, all of a two-state law with p = 0.1."""
    rng = np.random.default_rng(8)
    slow = chain_trace(np.arange(2000) % 1000 < 100)
    fast = chain_trace(two_states(20_000, 1, 0.1, 0.9, seed=9)[:, 0])
    right = rng.random(50_000) < 0.1
    weights = log_scatter * rng.standard_normal(50_000) + np.where(right, np.log(target / 0.1), 0.0)
    populations = {"phi": known(0.1), "psi": known(0.5)}
    rows = method_rows("openmmtools-tempering", slow, populations, Cost())
    rows += method_rows("batched-tempering", fast, populations, Cost())
    return rows + method_rows("samples", weighted_trace(right, weights), populations, Cost(1e6, 1000.0, 0.0))


def test_rows_compare_rates_and_say_what_is_a_bound():
    rows = rows_of_three()
    assert [row["phi_status"] for row in rows] == ["bound", "measured", "measured"]
    samples = rows[2]
    assert samples["phi_per_second"] == samples["phi_effective"]  # 1 s
    assert samples["phi_per_second_included"] == pytest.approx(samples["phi_effective"] / 1001)
    assert samples["phi_per_evaluation_included"] == pytest.approx(samples["phi_effective"] / 1.05e6)
    judged = acceptance_rows(rows, seed=3)
    assert [row["bound"] for row in judged] == [">= 1000", ">= 10000", ">= 20", ">= 200", "reported"]
    assert [bool(row.get("goal")) for row in judged] == [False, True, False, True, False]
    slow, fast = (samples["phi_per_second"] / row["phi_per_second"] for row in rows[:2])
    assert [row["value"] for row in judged] == pytest.approx([slow, slow, fast, fast, fast])
    assert [row["holds"] for row in judged[:4]] == [slow >= 1000, slow >= 10_000, fast >= 20, fast >= 200]
    assert "(at least)" in judged[0]["line"]
    assert judged[0]["stderr"] is None
    assert 0 < judged[2]["stderr"] < 0.5 * judged[2]["value"]
    assert all(row["seed"] == 3 for row in judged)
    times = break_even_times(rows)
    assert {(one["baseline"], one["indicator"], one["at_most"]) for one in times} >= {
        ("openmmtools-tempering", "phi", True),
        ("batched-tempering", "phi", False),
    }
    assert all(1000 <= one["seconds"] < 1010 for one in times)


def test_samples_of_another_law_are_not_the_best():
    """The negative control: an estimate far from the reference wins nothing, however small its error."""
    judged = acceptance_rows(rows_of_three(target=0.2))
    assert len(judged) == 4
    assert all(math.isnan(row["value"]) and not row["holds"] for row in judged)
    assert acceptance_rows(rows_of_three()[:2]) == []


def test_the_cost_of_a_model():
    record = {
        "data": {"n_energy_evaluations": 1000},
        "training": {"n_energy_evaluations": 10, "seconds": 5.0},
        "annealing": {"n_energy_evaluations": 20, "seconds": 7.0},
    }
    costs = model_costs(record, 0.01)
    assert costs["data"] == {"evaluations": 1000, "seconds": 10.0, "estimated": True}
    assert costs["total"] == {"evaluations": 1030, "seconds": 22.0, "estimated": True}
    record["data"]["seconds"] = 8.0
    assert model_costs(record, 0.01)["total"] == {"evaluations": 1030, "seconds": 20.0, "estimated": False}
    for part in ({}, {"training": {"n_energy_evaluations": 1}}):
        with pytest.raises(InputError, match="does not tell the cost of its training"):
            model_costs(part, 0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 3}, "n_samples must be at least 10"),
        ({"timestep": 0.0}, "timestep must be positive"),
        ({"burn_in": -0.1}, "burn_in must be between 0 and 1"),
        ({"ladder": (350.0, 600.0)}, "ladder must be temperatures that rise from 300 K"),
        ({"learned_ladder": (300.0, 400.0, 500.0)}, "learned_ladder must be two"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(InputError, match=message):
        BenchmarkSettings(**change)


# ------------------------------------------------------------------------------------- small runs


@pytest.fixture(scope="module")
def model(tmp_path_factory, alanine):
    """A flow near the reference structure, with the record of a training that never was."""
    from openmm_bg.flows import SplineFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.potentials import TorchPotential
    from openmm_bg.transforms import InternalCoordinates

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some parts of openmmtools warn when they are imported
        import openmmtools.mcmc
        import openmmtools.multistate  # noqa: F401
    coordinates = InternalCoordinates.from_reference(alanine.positions, alanine.bonds, alanine.masses)
    noise = np.random.default_rng(0).standard_normal((200, *alanine.positions.shape))
    coordinates.fit(alanine.positions + 0.003 * noise)
    flow = SplineFlow(coordinates, 600.0, n_layers=2, hidden_features=8)
    record = {"training": {"n_energy_evaluations": 7, "seconds": 3.0}, "data": {"n_energy_evaluations": 11}}
    generator = BoltzmannGenerator(
        flow,
        TorchPotential.from_system(alanine),
        system=alanine,
        record=record,
        temperature_range=(250.0, 650.0),
    )
    return generator.save(tmp_path_factory.mktemp("benchmark") / "model")


def test_methods_run_once_and_together_make_the_results(model, tmp_path):
    said = []
    first = run_benchmark(tmp_path, model, TINY, ["md"], say=said.append)
    assert [row["method"] for row in first["methods"]] == ["md"]
    assert first["rows"] == []
    assert first["methods"][0]["evaluations"] == 100
    assert first["methods"][0]["burn_in_evaluations"] == 10
    kept = (tmp_path / "md.npz").read_bytes()
    (tmp_path / ".exchange.partial").mkdir()  # as a killed process leaves it
    methods = ["md", "batched-tempering", "samples", "multiple-try-chain", "multiple-try-exchange"]
    summary = run_benchmark(tmp_path, model, TINY, methods, say=said.append)
    assert (tmp_path / "md.npz").read_bytes() == kept
    assert len(said) == len(methods)
    assert not (tmp_path / ".exchange.partial").exists()
    rows = {(row["method"], row["recycled"]): row for row in summary["methods"]}
    assert list(rows) == [
        ("md", False),
        ("batched-tempering", False),
        ("multiple-try-exchange", False),
        ("multiple-try-exchange", True),
        ("multiple-try-chain", False),
        ("multiple-try-chain", True),
        ("samples", False),
    ]
    tempering = rows["batched-tempering", False]
    assert tempering["frames"] == 8 * 20
    assert tempering["evaluations"] == 20 * 2 * 16
    assert rows["md", False]["model_seconds"] == 0
    assert rows["samples", False]["model_evaluations"] == 18
    assert rows["samples", False]["model_seconds"] > 3.0
    # Steps, candidates, the current configuration twice, after the dynamics, for the exchange; two replicas.
    assert rows["multiple-try-exchange", True]["evaluations"] == 10 * 2 * (2 + 3 + 2 + 3 + 2)
    trace = Trace.load(tmp_path, "multiple-try-chain")
    assert trace.recycled["phi"].shape == (40,)
    assert trace.phi.shape == (20, 1, 1)
    assert Trace.load(tmp_path, "multiple-try-exchange").recycled["psi"].shape == (10,)
    written = json.loads((tmp_path / "sampling.json").read_text())
    assert [row["method"] for row in written["methods"]] == [row["method"] for row in summary["methods"]]
    assert len((tmp_path / "sampling.csv").read_text().splitlines()) == 1 + len(rows)
    assert (tmp_path / "sampling.png").read_bytes()[:4] == b"\x89PNG"
    assert [len(table.columns) for table in tables(summary)] == [
        len(table.rows[0]) for table in tables(summary)
    ]
    with pytest.raises(InputError, match="results of other settings"):
        run_benchmark(tmp_path, model, dataclasses.replace(TINY, md_frames=21), ["md"])


def test_the_other_methods_run(model, tmp_path):
    methods = ["openmmtools-tempering", "flow-exchange", "learned-exchange", "flow-chain"]
    summary = run_benchmark(tmp_path, model, TINY, methods)
    evaluations = {row["method"]: row["evaluations"] for row in summary["methods"]}
    assert evaluations == {
        "openmmtools-tempering": 10 * 2 * (2 + 2),
        "flow-exchange": 10 * 2 * (2 + 2 + 2 + 3 + 2),
        "learned-exchange": 10 * 2 * (2 + 2 + 3 + 2),
        "flow-chain": 20 * (2 + 1),
    }
    exchange = Trace.load(tmp_path, "openmmtools-tempering")
    assert exchange.phi.shape == exchange.replicas.shape == (10, 2, 1)
    assert np.isfinite(exchange.phi).all()
    platforms = json.loads((tmp_path / "platforms.json").read_text())
    assert platforms["chosen"]["steps_per_second"] == max(
        rate["steps_per_second"] for rate in platforms["rates"]
    )
    assert exchange.figures["platform"] == platforms["chosen"]["name"]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("benchmark_sampling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing"], "There is no model"),
        (["{model}", "--method", "magic"], "There is no method 'magic'; the methods are: md, openmmtools"),
        (["{model}", "--output", "{model}/model.json"], "is a file"),
        (["{model}", "--threads", "0"], "must be a positive whole number"),
        (["{model}", "--seed", "-1"], "seed must not be negative"),
    ],
)
def test_bad_input_gets_one_sentence(script, model, tmp_path, arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("OPENMM_BG_THREADS", "1")  # restored afterwards
    words = [word.format(tmp=tmp_path, model=model) for word in arguments]
    output = [] if "--output" in words else ["--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["benchmark_sampling.py", *words, *output, "--quiet"])
    assert script.main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_of_something_else_is_refused(tmp_path, oscillator_like_model):
    with pytest.raises(InputError, match="is not a model of alanine_dipeptide"):
        run_benchmark(tmp_path / "out", oscillator_like_model, TINY, ["md"])


@pytest.fixture
def oscillator_like_model(tmp_path):
    from openmm_bg.flows import SplineFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.transforms import CartesianCoordinates

    data = np.random.default_rng(0).normal(size=(50, 1, 3))
    flow = SplineFlow(CartesianCoordinates(1).fit(data), 300.0, n_layers=2, hidden_features=8)
    return BoltzmannGenerator(flow).save(tmp_path / "model")
