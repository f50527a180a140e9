"""``openmm-bg simulate`` from several starts, and chignolin's own settings."""

from __future__ import annotations

import html
import json
import shutil

import mdtraj
import pytest

from openmm_bg import plotting
from openmm_bg.io import read_frames

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


@pytest.mark.filterwarnings("ignore::UserWarning")  # of errors from so few frames
def test_figures_say_whether_the_starts_agree(run, tmp_path, record, monkeypatch):
    """Those of every command, which print it, too; a copy of the trajectory alone says nothing."""
    options = ("--frames", "16", *TINY, "-o", tmp_path / "data")
    assert run("simulate", "chignolin", *options).code == 0
    statement = record()["start_comparison"]["statement"]
    frames = read_frames(tmp_path / "data")
    assert frames.convergence == statement
    shutil.copy(tmp_path / "data" / "trajectory.h5", tmp_path / "copy.h5")
    assert read_frames(tmp_path / "copy.h5").convergence == ""
    titles = []
    save = plotting.save_figure

    def kept(figure, path, **how):
        titles.append(figure.get_suptitle())
        return save(figure, path, **how)

    monkeypatch.setattr(plotting, "save_figure", kept)
    for command in (
        ("ramachandran", "--residue", "2 (TYR)", "-o", tmp_path / "plot.png"),
        ("ramachandran", "--residue", "2 (TYR)", "--title", "Chignolin", "-o", tmp_path / "plot.png"),
        ("observables", "--observable", "rg", "--surface", "rg,phi:3", "-o", tmp_path / "out"),
    ):
        for file, says in ((tmp_path / "data", True), (tmp_path / "copy.h5", False)):
            titles.clear()
            result = run(command[0], file, *command[1:])
            assert result.code == 0, result.err
            assert len(titles) == 2
            for text in (result.out, *titles):
                assert (" ".join(statement.split()) in " ".join(text.split())) is says
            if "--title" in command:
                assert all(title.startswith("Chignolin") for title in titles)
    # Two of the same name have a statement each.
    other = shutil.copytree(tmp_path / "data", tmp_path / "other" / "data")
    changed = json.loads((other / "provenance.json").read_text())
    changed["start_comparison"]["statement"] = "quite another"
    (other / "provenance.json").write_text(json.dumps(changed))
    titles.clear()
    command = ("--residue", "2 (TYR)", "-o", tmp_path / "both.png")
    assert run("ramachandran", tmp_path / "data", other, *command).code == 0
    for text in titles:
        assert statement in " ".join(text.split())
        assert "quite another" in " ".join(text.split())
    result = run("report", tmp_path / "data", "-o", tmp_path / "report.html")
    assert result.code == 0, result.err
    sections = (tmp_path / "report.html").read_text().split("<h2>")
    saying = [section.split("<")[0] for section in sections if statement in html.unescape(section)]
    assert "Potential energies" in saying
    assert sum(name.startswith("Residue") for name in saying) == 10


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
