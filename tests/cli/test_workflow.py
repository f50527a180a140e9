"""The commands one after another, as a user would run them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from cli_helpers import SIMULATE, snapshot

from openmm_bg import cli
from openmm_bg.errors import ReliabilityWarning
from openmm_bg.io import load_samples


def test_simulate_writes_a_trajectory_with_energies(finished_data):
    trajectory = mdtraj.load(str(finished_data / "trajectory.h5"))
    assert (trajectory.n_frames, trajectory.n_atoms) == (400, 22)
    record = json.loads((finished_data / "provenance.json").read_text())
    assert (record["temperature"], record["n_walkers"]) == (600.0, 20)


def test_sample_writes_weighted_samples(run, model, tmp_path):
    path = tmp_path / "samples.h5"
    result = run("sample", model, "-T", "600", "-n", "500", "--seed", "3", "-o", path)
    assert result.code == 0
    samples = load_samples(path)
    assert len(samples) == 500
    shown = float(re.search(r"ESS +([\d.]+)%", result.out).group(1))
    assert shown == pytest.approx(100 * samples.ess(), abs=0.006)
    shown = float(re.search(r"Pareto k +([\d.-]+)", result.out).group(1))
    assert shown == pytest.approx(samples.pareto_k(), abs=0.006)
    record = json.loads(path.with_suffix(".json").read_text())["record"]
    assert record["seed"] == 3
    assert re.fullmatch("[0-9a-f]{64}", record["model_hash"])
    # Same seed, same samples.
    again = tmp_path / "again.h5"
    assert run("sample", model, "-T", "600", "-n", "500", "--seed", "3", "-o", again, "-q").code == 0
    assert again.with_suffix(".csv").read_bytes() == path.with_suffix(".csv").read_bytes()


def test_unreliable_samples_are_announced_in_one_line(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("openmm_bg.statistics.pareto_k", lambda log_weights: 0.9)
    result = run("sample", model, "-n", "50", "-q", "-o", tmp_path / "s.h5")
    assert result.code == 0
    assert re.fullmatch(r"warning: Pareto k is 0\.90[^\n]*\n", result.err)
    result = run("ramachandran", tmp_path / "s.h5", "-o", tmp_path / "r.png")
    assert result.code == 0
    assert re.fullmatch(r"warning: Pareto k is 0\.90[^\n]*\n", result.err)
    assert run("ramachandran", tmp_path / "s.h5", "--no-weights", "-o", tmp_path / "r.png").err == ""
    # 200 K is outside the range of a model trained at 600 K.
    result = run("sample", model, "-T", "200", "-n", "50", "-q", "-o", tmp_path / "s.h5")
    assert "warning: 200 K is outside the range" in result.err


def test_samples_without_any_weight_are_refused(refused, model, tmp_path, monkeypatch):
    def no_energy(self, positions):
        import torch

        return torch.full((len(positions),), torch.inf, dtype=torch.float64)

    monkeypatch.setattr("openmm_bg.potentials.base.Potential.energy", no_energy)
    error = refused("sample", model, "-n", "50", "-q", "-o", tmp_path / "s.h5")
    assert "All 50 weights are zero" in error


def test_exchange_runs_extends_and_is_drawn(run, model, data, tmp_path):
    path = tmp_path / "exchange.nc"
    exchange = (
        "exchange",
        model,
        "--replicas",
        "2",
        "--steps",
        "5",
        "-q",
        "-o",
        path,
        "--platform",
        "Reference",
    )
    result = run(*exchange, "--iterations", "3")
    assert result.code == 0
    assert result.err == ""
    assert "3 iterations" in result.out
    assert re.search(r"600\.0 +\d+\.\d%", result.out)
    assert "5 iterations" in run(*exchange, "--iterations", "5").out
    result = run("sample", model, "-n", "300", "-q", "-o", tmp_path / "samples.h5")
    assert result.code == 0
    draw = (
        "ramachandran",
        data,
        tmp_path / "samples.h5",
        path,
        "-T",
        "600",
        "-o",
        tmp_path / "plots" / "r.png",
    )
    result = run(*draw)
    assert result.code == 0
    names = sorted(p.name for p in (tmp_path / "plots").iterdir())
    assert names == ["r.png", "r.svg", "r_torsions.csv", "r_torsions.png", "r_torsions.svg"]
    labels = ["data, 600 K", "samples, 600 K, reweighted", "exchange, 600 K"]
    assert all(label in result.out for label in labels)
    with (tmp_path / "plots" / "r_torsions.csv").open(newline="") as file:
        columns = next(iter(csv.DictReader(file)))
    assert [f"{label} density" in columns for label in labels] == [True] * 3
    # The populations of the basins add up to one in each line.
    rows = re.findall(r"^(?:data|samples|exchange), .*", result.out, re.MULTILINE)[:3]
    for row in rows:
        values = [float(v) for v in re.findall(r"([\d.]+) ±", row)]
        assert sum(values[:3]) == pytest.approx(1.0, abs=0.06)
    assert "no replica at 450 K" in run(*draw[:-4], "-T", "450", "-o", tmp_path / "r.png").err


def test_ramachandran_of_a_format_without_topology(run, data, tmp_path):
    mdtraj.load(str(data / "trajectory.h5")).save(str(tmp_path / "t.xtc"))
    result = run(
        "ramachandran", tmp_path / "t.xtc", "--topology", data / "topology.pdb", "--label", "mine",
        "--no-weights", "-o", tmp_path / "r.svg",
    )  # fmt: skip
    assert result.code == 0
    assert (tmp_path / "r.png").is_file()
    assert "mine" in result.out


def test_script_is_the_command(data, tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "ramachandran.py"
    command = [sys.executable, str(script), str(data), "--output", str(tmp_path / "r.png")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "r.svg").is_file()


def test_ctrl_c_leaves_a_run_that_the_same_command_continues(tmp_path):
    output = tmp_path / "data"
    arguments = [*SIMULATE, "--interval", "1", "--frames", "60000", "--walkers", "200", "-o", str(output)]
    command = [sys.executable, "-m", "openmm_bg.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Background jobs of a shell inherit an ignored SIGINT; a person's command does not.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (output / "in_progress" / "segment_000000.npz").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    hint = "the same command continues from the last checkpoint, if it had got so far."
    assert errors == f"interrupted: {hint}\n"
    assert not (output / "trajectory.h5").exists()
    assert not [name for name in snapshot(output) if "partial" in name]
    finished = {name: p for name, p in snapshot(output).items() if "segment" in name}
    assert 0 < len(finished) < 6
    assert cli.run(arguments) == 0
    trajectory = mdtraj.load(str(output / "trajectory.h5"))
    assert trajectory.n_frames == 60000
    with np.load(io.BytesIO(finished["in_progress/segment_000000.npz"])) as segment:
        np.testing.assert_array_equal(trajectory.xyz[:10000], segment["positions"].reshape(-1, 22, 3))


def test_ctrl_c_of_a_command_that_does_not_resume(run, model, tmp_path, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("openmm_bg.io.save_samples", interrupt)
    result = run("sample", model, "-n", "10", "-q", "-o", tmp_path / "s.h5")
    assert result.code == 130
    assert result.err == "interrupted: nothing was written; run the command again.\n"


def test_full_disk_is_a_clear_error(run, model, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openmm_bg.io.save_samples", full)
    result = run("sample", model, "-n", "10", "-q", "-o", tmp_path / "s.h5")
    assert result.code == 1
    assert result.err == "error: No space left on device; nothing was left half-written\n"


def test_other_errors_are_not_hidden(run, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("openmm_bg.systems.names", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run("systems")


def test_warnings_do_not_depend_on_the_callers_filters(model):
    # The test session turns warnings into errors; the command line shows them.
    with pytest.raises(ReliabilityWarning):
        raise ReliabilityWarning("as in the library")
    assert (
        cli.run(["sample", str(model), "-T", "200", "-n", "20", "-q", "-o", str(model.with_name("s.h5"))])
        == 0
    )


def test_weights_change_the_populations(run, model, tmp_path):
    path = tmp_path / "samples.h5"
    assert run("sample", model, "-n", "400", "-q", "-o", path).code == 0
    plain = run("ramachandran", path, "--no-weights", "--label", "x", "-o", tmp_path / "a.png").out
    weighted = run("ramachandran", path, "--label", "x", "-o", tmp_path / "b.png").out

    def values(text: str) -> np.ndarray:
        line = next(line for line in text.splitlines() if line.startswith("x "))
        return np.array([float(v) for v in re.findall(r"([\d.]+) ±", line)])

    assert np.abs(values(plain) - values(weighted)).max() > 1e-3
