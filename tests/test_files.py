"""Files that are complete or absent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openmm_bg import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_success_replaces_the_old_file_and_makes_folders(tmp_path):
    target = tmp_path / "deep" / "er" / "result.txt"
    files.atomic_write_text(target, "old")
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(target.parent) == ["result.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_no_rubbish(tmp_path, error):
    target = tmp_path / "result.txt"
    files.atomic_write_text(target, "old")
    with pytest.raises(error), files.atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.txt"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "result.txt"):
        pass
    assert names(tmp_path) == []


def test_a_killed_process_leaves_the_old_file(tmp_path):
    target = tmp_path / "result.txt"
    files.atomic_write_text(target, "old")
    program = (
        "import os, signal, sys\n"
        "from openmm_bg.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_json_of_numpy_paths_and_infinities(tmp_path):
    content = {
        "array": np.arange(3),
        "scalar": np.float32(0.5),
        "inf": np.inf,
        "list": [np.nan, -np.inf, np.float64("inf"), None, True],
        "path": Path("a/b"),
        1: (1, 2),
    }
    files.atomic_write_json(tmp_path / "x.json", content)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert read == {
        "array": [0, 1, 2],
        "scalar": 0.5,
        "inf": "inf",
        "list": ["nan", "-inf", "inf", None, True],
        "path": "a/b",
        "1": [1, 2],
    }
    assert float(read["inf"]) == np.inf
    with pytest.raises(TypeError):
        files.json_text({"x": object()})


def test_commands_without_folders():
    given = "__main__.py simulate chignolin --frames 40000 -o somewhere/else/data"
    assert files.without_folders(given) == "openmm-bg simulate chignolin --frames 40000 -o data"
    given = "openmm-bg train --pdb=/home/me/my.pdb -o=out/data --atoms 'name N CA C' -o . -o /"
    expected = "openmm-bg train --pdb=my.pdb -o=data --atoms 'name N CA C' -o . -o /"
    assert files.without_folders(given) == expected


def test_recorded_commands_can_be_given_again(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/openmm-bg", "coarse-grain", "data", "--atoms", "name N CA C"])
    assert files.provenance()["command"] == "openmm-bg coarse-grain data --atoms 'name N CA C'"


def test_provenance():
    record = files.provenance(seed=3, settings={"steps": 5})
    assert record["seed"] == 3
    assert record["settings"] == {"steps": 5}
    assert record["versions"]["numpy"] == np.__version__
    assert {"openmm", "torch", "openmm-bg", "python"} <= record["versions"].keys()
    assert record["command"]
    assert files.provenance(command="openmm-bg train data")["command"] == "openmm-bg train data"
    json.dumps(record)
