"""Trajectories are read in many formats, and damaged files are refused in one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_bg import systems, trajectories
from openmm_bg.errors import InputError


@pytest.fixture(scope="module")
def trajectory():
    molecule = systems.load("alanine_dipeptide")
    noise = np.random.default_rng(0).normal(scale=0.005, size=(58, 22, 3))
    return mdtraj.Trajectory(molecule.positions + noise, mdtraj.Topology.from_openmm(molecule.topology))


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "trr", "nc", "pdb", "h5"])
def test_trajectories_in_many_formats(trajectory, tmp_path, suffix):
    path, topology = tmp_path / f"t.{suffix}", tmp_path / "top.pdb"
    trajectory.save(str(path))
    trajectory[0].save(str(topology))
    frames = trajectories.read_trajectory(path, topology, n_atoms=22)
    np.testing.assert_allclose(frames.positions, trajectory.xyz, atol=2e-3)
    assert (len(frames), frames.topology.n_atoms, frames.log_weights, frames.n_walkers) == (58, 22, None, 1)


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "trr", "nc", "h5"])
def test_truncated_trajectories_are_refused(trajectory, tmp_path, suffix):
    path, topology = tmp_path / f"t.{suffix}", tmp_path / "top.pdb"
    trajectory.save(str(path))
    trajectory[0].save(str(topology))
    content = path.read_bytes()
    # The cuts are inside frames: without a frame count in the file, one between frames cannot be told.
    for keep in (0, 50, len(content) // 2 + 50, len(content) - 30):
        path.write_bytes(content[:keep])
        with pytest.raises(InputError, match="truncated"):
            trajectories.read_trajectory(path, topology)


def test_unusable_trajectories_are_refused(trajectory, tmp_path):
    trajectory.save(str(tmp_path / "t.dcd"))
    trajectory[0].atom_slice(range(20)).save(str(tmp_path / "small.pdb"))
    bad = trajectory.slice([0, 1, 2, 3])
    bad.xyz[2, 5] = np.nan
    bad.save(str(tmp_path / "nan.h5"))
    trajectory.save(str(tmp_path / "t.h5"))
    for arguments, message in (
        (("missing.dcd",), "no file .*missing.dcd"),
        (("t.dcd",), "no topology inside"),
        (("t.dcd", "missing.pdb"), "no file .*missing.pdb"),
        (("t.dcd", "small.pdb"), "another topology"),
        (("nan.h5",), "NaN or infinite positions in 1 of 4 frames, first in frame 2"),
    ):
        with pytest.raises(InputError, match=message):
            trajectories.read_trajectory(*(tmp_path / name for name in arguments))
    with pytest.raises(InputError, match="22 atoms, but 23 are expected"):
        trajectories.read_trajectory(tmp_path / "t.h5", n_atoms=23)
    with pytest.raises(InputError, match="is a folder"):
        trajectories.read_trajectory(tmp_path)


def test_energies_temperature_and_walkers_of_a_simulation(trajectory, tmp_path):
    with mdtraj.formats.HDF5TrajectoryFile(str(tmp_path / "trajectory.h5"), "w") as file:
        file.topology = trajectory.topology
        energies = np.arange(58, dtype=np.float32)
        file.write(trajectory.xyz, potentialEnergy=energies, temperature=np.full(58, 600.0, np.float32))
    frames = trajectories.read_trajectory(tmp_path / "trajectory.h5")
    np.testing.assert_array_equal(frames.potential_energy, energies)
    assert frames.temperature == 600.0
    for n_walkers, expected in ((29, 29), (7, 1), (0, 1), ("x", 1)):  # 58 frames are not of 7 walkers
        (tmp_path / "provenance.json").write_text(json.dumps({"n_walkers": n_walkers}))
        assert trajectories.read_trajectory(tmp_path / "trajectory.h5").n_walkers == expected


@pytest.mark.parametrize(
    ("name", "temperature", "weights", "label", "plain"),
    [
        ("samples.h5", 300.0, True, "samples, 300 K, reweighted", "samples, 300 K"),
        ("samples_300K.h5", 300.0, True, "samples_300K, reweighted", "samples_300K"),
        ("data/trajectory.h5", 600.0, False, "data, 600 K", "data, 600 K"),
        ("my.dcd", None, False, "my", "my"),
    ],
)
def test_labels(name, temperature, weights, label, plain):
    frames = trajectories.Frames(
        Path(name), np.zeros((1, 1, 3)), None, None, temperature, np.zeros(1) if weights else None
    )
    assert frames.label() == label
    assert frames.label(weighted=False) == plain
