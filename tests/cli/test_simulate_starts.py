"""``openmm-bg simulate`` from several starts, and chignolin's own settings."""

from __future__ import annotations

import json

import mdtraj
import pytest

TINY = ("--interval", "1", "--burn-in", "0", "--quiet")


@pytest.fixture
def record(tmp_path):
    return lambda: json.loads((tmp_path / "data" / "provenance.json").read_text())


def test_chignolin_has_settings_of_its_own(run, tmp_path, record):
    result = run("simulate", "chignolin", "--frames", "8", *TINY, "-o", tmp_path / "data")
    assert result.code == 0, result.err
    temperatures = "350, 378, 408, 441, 476, 514, 555.5, 600"
    assert f"chignolin without --temperature: 8 ladders of {temperatures} K from native and extended." in (
        result.out
    )
    assert "4 native, 4 extended" in result.out
    found = record()
    assert found["start_comparison"]["statement"] in result.out
    assert found["walker_starts"] == ["native", "extended"] * 4
    assert found["temperature"] == 350.0
    assert found["settings"]["interval"] == 1  # as given
    frames = mdtraj.load(str(tmp_path / "data" / "trajectory.h5"))
    ends = [int(frames.topology.select(f"name CA and resSeq {k}")[0]) for k in (1, 10)]
    length = mdtraj.compute_distances(frames, [ends])[:, 0]
    assert (length[::2] < 0.8).all()
    assert (length[1::2] > 2.0).all()


def test_a_temperature_means_the_defaults_of_all_systems(run, tmp_path, record):
    options = ("-T", "350", "--frames", "2", "--walkers", "2", *TINY)
    result = run("simulate", "chignolin", *options, "-o", tmp_path / "data")
    assert result.code == 0, result.err
    assert "without --temperature" not in result.out
    found = record()
    assert (found["settings"]["ladder"], found["walker_starts"]) == ([], None)


def test_starts_by_name(run, tmp_path, record):
    options = ("-T", "350", "--start", "extended", "--start", "reference", "--frames", "3", "--walkers", "3")
    result = run("simulate", "chignolin", *options, *TINY, "-o", tmp_path / "data")
    assert result.code == 0, result.err
    assert record()["walker_starts"] == ["extended", "reference", "extended"]


def test_a_start_that_does_not_exist(refused, tmp_path):
    error = refused("simulate", "alanine_dipeptide", "--start", "native", "-o", tmp_path / "x")
    assert "alanine_dipeptide has no start 'native'; its starts are: reference." in error
