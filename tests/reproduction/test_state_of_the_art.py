"""What judges generators at 300 K says yes to good samples and no to bad ones, and remembers what it has run."""

import subprocess
import sys

import numpy as np
import pytest

from openmm_bg.errors import InputError
from openmm_bg.model_files import model_hash
from openmm_bg.reference import load_reference
from openmm_bg.reproduction import learned_exchange, state_of_the_art
from openmm_bg.reproduction.learned_exchange import free_energy_difference
from openmm_bg.reproduction.state_of_the_art import (
    annealed_rows,
    many_samples,
    phi_references,
    reference_rows,
    run_commands,
    run_side_by_side,
)
from openmm_bg.statistics import Estimate


def _samples(n, spread, p_positive, seed=0):
    """Frames of the reference by parallel tempering, at a chosen P(phi > 0), with random log-weights."""
    rng = np.random.default_rng(seed)
    known = load_reference("alanine_dipeptide", 300.0)
    phi, psi = known.ramachandran.phi.ravel(), known.ramachandran.psi.ravel()
    positive = phi > 0
    chosen = np.where(
        rng.random(n) < p_positive,
        rng.choice(np.flatnonzero(positive), n),
        rng.choice(np.flatnonzero(~positive), n),
    )
    log_weights = rng.normal(-0.5 * spread**2, spread, n)
    return {"phi": phi[chosen], "psi": psi[chosen], "log_weights": log_weights, "energy": np.zeros(n)}


def _judged(samples, evaluations=1_000_000):
    rows = annealed_rows(samples, {"simulation": evaluations, "training": 0}, "model")
    return {row["line"].removeprefix("model: "): row for row in rows}


def test_good_samples_pass_and_each_fault_is_seen():
    p = phi_references()["umbrella sampling"].value
    # For normal log-weights of standard deviation s the effective sample size is exp(-s^2).
    good = _judged(_samples(1_000_000, 0.1, p))
    assert [line for line, row in good.items() if not row["holds"] and not row.get("goal")] == []
    assert good["ESS at 300 K, unclipped"]["value"] == pytest.approx(np.exp(-0.01), abs=1e-3)
    assert good["ESS at 300 K, unclipped (goal)"]["holds"]

    spread = _judged(_samples(1_000_000, 0.4, p))
    assert not spread["ESS at 300 K, unclipped"]["holds"]
    assert spread["ESS at 300 K, unclipped"]["value"] == pytest.approx(np.exp(-0.16), abs=2e-3)
    assert not _judged(_samples(100_000, 0.1, p))["samples behind it"]["holds"]
    assert not _judged(_samples(100_000, 0.1, p), 200_000_000)["energy evaluations"]["holds"]

    lost = _judged(_samples(1_000_000, 0.1, 0.5 * p))
    for name in ("parallel tempering", "umbrella sampling"):
        assert not lost[f"P(phi > 0) at 300 K, difference from {name} in standard errors"]["holds"]
    line = "Ramachandran total variation, 50 x 50 bins, minus the split-half floor"
    assert good[line]["holds"]
    shifted = _samples(1_000_000, 0.1, p)
    shifted["psi"] = np.where(shifted["psi"] < 0, shifted["psi"] - 0.1, shifted["psi"])
    assert not _judged(shifted)[line]["holds"]


def test_the_references_agree():
    assert all(row["holds"] for row in reference_rows())


def test_free_energy_of_a_probability():
    """Against the logarithm of the odds, and its derivative by differences."""
    found = free_energy_difference(Estimate(0.01, 1e-4))
    assert found.value == pytest.approx(np.log(99.0))
    above, below = (free_energy_difference(Estimate(0.01 + d, 1e-4)).value for d in (1e-5, -1e-5))
    assert found.stderr == pytest.approx(abs(above - below) / 2e-5 * 1e-4, rel=1e-5)


def test_commands_run_once_and_those_that_fail_again(tmp_path):
    commands = {"one": ["first", "-o", "x"], "two": ["second"]}
    ran = []

    def run(command):
        ran.append(command[0])
        if command[0] == "second" and ran.count("second") == 1:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        run_commands(tmp_path, commands, run)
    stages = run_commands(tmp_path, commands, run)
    run_commands(tmp_path, commands, run)
    assert ran == ["first", "second", "second"]
    assert set(stages.wall_seconds) == {"one", "two"}
    with pytest.raises(InputError, match="other settings"):
        run_commands(tmp_path, {**commands, "two": ["third"]}, run)


def test_samples_are_drawn_again_for_another_model(tmp_path, monkeypatch):
    """And only then, or if other samples are wanted; they are those of the generator."""
    from openmm_bg import BoltzmannGenerator

    path, loaded = tmp_path / "samples.npz", []
    load = BoltzmannGenerator.load
    monkeypatch.setattr(
        state_of_the_art.BoltzmannGenerator, "load", lambda model: loaded.append(model) or load(model)
    )
    model = "alanine_dipeptide"
    first = many_samples(model, 50, 3, path)
    again = many_samples(model, 50, 3, path)
    assert len(loaded) == 1
    assert all(np.array_equal(first[name], again[name]) for name in first)
    whole = load(model).sample(50, 300.0, seed=3)
    np.testing.assert_allclose(first["log_weights"], whole.log_weights, atol=1e-9)
    many_samples(model, 60, 3, path)
    assert len(loaded) == 2
    monkeypatch.setattr(state_of_the_art, "model_hash", lambda model: "another")
    many_samples(model, 60, 3, path)
    assert len(loaded) == 3


class _Chain:
    """A chain at 300 K that is at phi > 0 in one of fifty frames, in runs of two."""

    def __init__(self, n, acceptance, model, seed):
        rng = np.random.default_rng(seed)
        inside = np.repeat(rng.random(n // 2) < 0.02, 2)
        self.phi = np.stack([np.where(inside, 1.0, -1.0), np.ones(n)], 1)
        self.exchange_acceptance, self.exchange_acceptance_stderr = np.array([acceptance]), np.array([0.01])
        self.settings = {"model_hash": model_hash(model)}

    def torsions(self, definitions):
        assert set(definitions) >= {"phi", "psi"}
        return {"phi": self.phi, "psi": np.ones_like(self.phi)}


def test_chains_of_learned_exchange_are_judged(tmp_path, monkeypatch):
    model, n = "alanine_dipeptide", 20_000
    run = learned_exchange.LearnedExchange("run", 600.0, 0.25, 0.6, 2, n, "--steps 10")
    files = list(learned_exchange.storages(run, tmp_path).values())
    assert len(set(files)) == 2
    chains = dict(zip(files, (_Chain(n, a, model, k) for k, a in enumerate((0.4, 0.6))), strict=True))
    monkeypatch.setattr(learned_exchange, "read_exchange", lambda storage: chains[storage])
    drawn = {"phi": np.where(np.arange(5000) % 50 == 0, 1.0, -1.0), "psi": np.zeros(5000)}
    monkeypatch.setattr(
        learned_exchange, "many_samples", lambda *arguments: {**drawn, "log_weights": np.zeros(5000)}
    )
    swaps, goal, counted, weighted = learned_exchange.rows(run, model, tmp_path, Estimate(0.02, 1e-4), 5000)
    assert (swaps["value"], swaps["holds"]) == (0.5, True)
    assert swaps["stderr"] == pytest.approx(0.01 / np.sqrt(2))
    assert (goal["goal"], goal["holds"]) == (True, False)
    # Runs of two: as good as half as many independent frames.
    expected = 1.0 / np.sqrt(0.02 * 0.98 * 2 * 0.98 * n / 2)
    assert counted["stderr"] == pytest.approx(expected, rel=0.25)
    assert abs(counted["value"]) < 4 * counted["stderr"]
    assert abs(weighted["value"]) < 1e-6
    *_, counted, weighted = learned_exchange.rows(run, model, tmp_path, Estimate(0.03, 1e-4), 5000)
    assert not counted["holds"]
    assert not weighted["holds"]
    chains[files[1]].settings = {"model_hash": "another"}
    with pytest.raises(InputError, match="chains of another model"):
        list(learned_exchange.rows(run, model, tmp_path, Estimate(0.02, 1e-4), 5000))


def test_a_basin_that_was_not_seen_has_no_known_free_energy():
    found = free_energy_difference(Estimate(0.0, 0.0))
    assert found.value == np.inf
    assert np.isnan(found.stderr)


def test_commands_side_by_side(tmp_path):
    """All run at once and on one thread; one that fails is run again by the next call, the others are not."""

    def start(arguments, variables):
        assert variables["OMP_NUM_THREADS"] == "1"
        script = (
            "import pathlib, sys, time; here = pathlib.Path(sys.argv[1]); name = sys.argv[2]\n"
            "with (here / name).open('a') as file: file.write('x')\n"
            "deadline = time.monotonic() + 60\n"
            "while len(list(here.glob('[ab]'))) < 2 and time.monotonic() < deadline: time.sleep(0.01)\n"
            "sys.exit(name == 'b' and not (here / 'mended').exists())"
        )
        return subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *arguments])

    commands = {"first": ["a"], "second": ["b"]}
    with pytest.raises(subprocess.CalledProcessError):
        run_side_by_side(tmp_path, commands, start)
    (tmp_path / "mended").touch()
    stages = run_side_by_side(tmp_path, commands, start)
    assert stages.wall_seconds["side by side"] > 0
    run_side_by_side(tmp_path, commands, start)
    assert [(tmp_path / name).read_text() for name in "ab"] == ["x", "xx"]
