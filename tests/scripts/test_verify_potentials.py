"""The parts of scripts/verify_potentials.py that are not expensive: theory, statistics, resuming."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from openmm_bg.statistics import Estimate

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("verify_potentials")


def run(verify: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["verify_potentials.py", *arguments])
    return verify.main()


@pytest.mark.parametrize("angular_frequency", [1.0, 100.0, 565.0, 1500.0])
def test_the_middle_scheme_has_no_error_of_the_time_step_for_oscillators(
    verify: ModuleType, angular_frequency: float
) -> None:
    assert verify.stationary_variance(angular_frequency, 0.001, 5.0) == pytest.approx(1.0, abs=1e-6)


def test_the_stationary_variance_is_that_of_the_recursion(verify: ModuleType) -> None:
    rng = np.random.default_rng(3)
    omega, timestep, friction = 400.0, 0.002, 50.0
    x, v = np.zeros(4000), np.zeros(4000)
    keep = np.exp(-friction * timestep)
    squares = []
    for step in range(600):
        v -= timestep * omega**2 * x
        x += 0.5 * timestep * v
        v = keep * v + np.sqrt(1 - keep**2) * omega * rng.standard_normal(4000)
        x += 0.5 * timestep * v
        if step >= 200:
            squares.append((x**2).mean())
    # 4,000 independent walkers for 0.8 ps, which is tens of correlation times of x^2
    assert np.mean(squares) == pytest.approx(verify.stationary_variance(omega, timestep, friction), abs=0.02)


def test_moments_take_their_errors_from_independent_groups(verify: ModuleType) -> None:
    rng = np.random.default_rng(0)
    offset = rng.normal(size=(400, 1))  # what all values of a group share
    found = verify.moments(offset + 0.1 * rng.normal(size=(400, 50)))
    assert found["mean"].stderr == pytest.approx(1 / 20, rel=0.15)
    assert abs(found["variance"].value - 1.01) < 4 * found["variance"].stderr
    assert found["variance"].stderr == pytest.approx(np.sqrt(2.0 / 400), rel=0.25)


def test_agreement_and_control_judge_the_same_difference_in_opposite_ways(verify: ModuleType) -> None:
    zero = Estimate(0.0, 1.0)
    for value, agrees in ((3.0, True), (-3.6, False)):
        found = Estimate(value, 0.0)
        assert verify.agreement("a", found, zero)["holds"] is agrees
        assert verify.control("a", found, zero)["holds"] is not agrees


def test_a_finished_check_is_not_run_again(
    verify: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    calls: list[str] = []

    def check(name: str, holds: bool = True) -> Any:
        def rows(effort: Any) -> list[dict[str, Any]]:
            calls.append(name)
            effort.advance("label", 0, 2)
            return [verify.entry(name, 1.0, ">= 0", holds, seed=1)]

        return rows

    monkeypatch.setattr(verify, "CHECKS", {"first": check("first"), "second": check("second")})
    output = tmp_path / "potentials.json"
    assert run(verify, monkeypatch, "--output", str(output), "--only", "second") == 0
    assert run(verify, monkeypatch, "--output", str(output)) == 0
    assert calls == ["second", "first"]
    rows = json.loads(output.read_text())
    assert [row["check"] for row in rows] == ["first", "second"]
    assert {"line", "value", "stderr", "bound", "holds", "command", "seed"} <= rows[0].keys()
    assert run(verify, monkeypatch, "--output", str(output), "--redo", "first") == 0
    assert calls == ["second", "first", "first"]
    assert len(json.loads(output.read_text())) == 2
    assert "done before" in capsys.readouterr().out
    monkeypatch.setattr(verify, "CHECKS", {"first": check("first", holds=False), "second": check("second")})
    assert run(verify, monkeypatch, "--output", str(output), "--redo", "first") == 1


def test_an_interruption_keeps_what_was_finished(
    verify: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(effort: Any) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    checks = {"first": lambda effort: [verify.entry("a", 1.0, ">= 0", True)], "second": interrupted}
    monkeypatch.setattr(verify, "CHECKS", checks)
    output = tmp_path / "potentials.json"
    assert run(verify, monkeypatch, "--output", str(output)) == 130
    assert len(json.loads(output.read_text())) == 1
    assert "interrupted" in capsys.readouterr().err


def test_a_trial_does_not_touch_the_results(
    verify: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(verify, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(verify, "CHECKS", {"first": lambda effort: [verify.entry("a", 1.0, ">= 0", True)]})
    assert run(verify, monkeypatch, "--quick") == 0
    assert not (tmp_path / "results.json").exists()


def test_openmm_walkers_have_the_reference_masses_and_are_independent(verify: ModuleType) -> None:
    alanine = verify.Alanine(verify.Effort(threads=1, short=1000))
    start = np.repeat(alanine.molecule.positions[None], 3, axis=0)
    walkers = verify.OpenMMWalkers(alanine, start, 300.0, 5, threads=1)
    energies = walkers.step(2 * verify.INTERVAL)
    assert energies.shape == (3, 2)
    assert len(np.unique(energies)) == 6
    system = walkers._contexts[0].getSystem()
    assert [system.getParticleMass(k)._value for k in range(22)] == pytest.approx(alanine.masses)
    assert "CMMotionRemover" not in {type(force).__name__ for force in system.getForces()}
    walkers.close()
