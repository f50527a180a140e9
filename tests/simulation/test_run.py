"""Simulations as a user runs them: files, resuming after SIGKILL, both engines, bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import mdtraj
import numpy as np
import pytest

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.training import load_data

SMALL = {"n_walkers": 64, "n_frames": 640, "interval": 2, "burn_in": 20}


def test_trajectory_and_record(alanine, tmp_path, reference_energies_and_forces):
    path = simulate(alanine, tmp_path / "data", SimulationSettings(**SMALL, seed=3, hot_start=700.0))
    trajectory = mdtraj.load(str(path))
    assert trajectory.n_frames == 640
    assert trajectory.n_atoms == 22
    data = load_data(tmp_path / "data")
    expected, _ = reference_energies_and_forces(alanine.system, data.positions[:20])
    # Positions and energies are kept in single precision.
    assert np.abs(data.energies[:20] - expected).max() < 0.05
    record = json.loads((tmp_path / "data" / "provenance.json").read_text())
    assert record["n_energy_evaluations"] == 64 * (20 + 10 * 2) + 64
    assert record["temperature"] == 600.0
    assert data.system.system_hash == alanine.system_hash
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "provenance.json",
        "system.xml",
        "topology.pdb",
        "trajectory.h5",
    ]


def test_walkers_that_explode_are_reported(alanine, tmp_path):
    settings = SimulationSettings(**{**SMALL, "burn_in": 0}, timestep=0.5)
    with pytest.warns(ReliabilityWarning, match="use a shorter time step"):
        simulate(alanine, tmp_path / "data", settings)


def test_same_seed_same_trajectory(alanine, tmp_path):
    paths = [simulate(alanine, tmp_path / name, SimulationSettings(**SMALL, seed=1)) for name in "ab"]
    first, second = (mdtraj.load(str(path)).xyz for path in paths)
    assert np.array_equal(first, second)


def test_engine_openmm(alanine, tmp_path, reference_energies_and_forces):
    settings = SimulationSettings(n_walkers=2, n_frames=8, interval=5, burn_in=10, engine="openmm")
    simulate(alanine, tmp_path / "data", settings)
    data = load_data(tmp_path / "data")
    expected, _ = reference_energies_and_forces(alanine.system, data.positions)
    assert np.abs(data.energies - expected).max() < 0.05
    assert np.abs(data.positions[0] - data.positions[1]).max() > 1e-4  # walkers differ


_CHILD = """
import sys
import torch
from openmm_bg import systems
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.simulation import run
run._SEGMENT_FRAMES = 128
torch.set_num_threads(1)
settings = SimulationSettings(n_walkers=64, n_frames=64 * 40, interval=50, burn_in=20)
simulate(systems.load("alanine_dipeptide"), sys.argv[1], settings, on_segment=lambda n: print(n, flush=True))
"""


def test_sigkill_and_resume_give_the_same_trajectory(tmp_path):
    def start(directory):
        return subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(directory)], stdout=subprocess.PIPE, text=True, env=os.environ
        )

    with start(tmp_path / "whole") as child:
        child.communicate()
    assert child.returncode == 0
    with start(tmp_path / "killed") as child:
        for line in child.stdout:
            if int(line) == 5:
                time.sleep(0.05)
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "trajectory.h5").exists()
    with pytest.raises(InputError, match="not finished"):
        load_data(tmp_path / "killed")
    with start(tmp_path / "killed") as child:
        output, _ = child.communicate()
    assert child.returncode == 0
    assert 5 < int(output.split()[0]) < 20  # went on, did not start again
    whole, killed = (mdtraj.load(str(tmp_path / name / "trajectory.h5")).xyz for name in ("whole", "killed"))
    assert np.array_equal(whole, killed)
    counts = [
        json.loads((tmp_path / name / "provenance.json").read_text())["n_energy_evaluations"]
        for name in ("whole", "killed")
    ]
    assert counts[1] >= counts[0]  # what was lost is counted only as far as checkpoints know


def test_refuses_to_mix_runs(alanine, tmp_path):
    simulate(alanine, tmp_path / "data", SimulationSettings(**SMALL))
    with pytest.raises(InputError, match="finished simulation"):
        simulate(alanine, tmp_path / "data", SimulationSettings(**SMALL))

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(alanine, tmp_path / "other", SimulationSettings(**SMALL), on_segment=stop)
    with pytest.raises(InputError, match="other settings"):
        simulate(alanine, tmp_path / "other", SimulationSettings(**SMALL, seed=9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "positive number of kelvin"),
        ({"temperature": float("nan")}, "positive number of kelvin"),
        ({"n_walkers": 0}, "n_walkers must be at least 1"),
        ({"engine": "gromacs"}, "no engine 'gromacs'"),
        ({"ladder": (500.0,)}, "must rise"),
        ({"timestep": -1.0}, "timestep must be positive"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        SimulationSettings(**changes)
