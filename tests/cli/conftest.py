"""A small simulation and a small model, made by the command line itself, and a way to run it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_helpers import SIMULATE, TRAIN, snapshot

from openmm_bg import cli


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd) -> Callable[..., Result]:
    """Run a command in this process; return its exit code and what it printed."""

    def run_(*arguments: object) -> Result:
        code = cli.run([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run_


@pytest.fixture
def refused(run, tmp_path) -> Callable[..., str]:
    """Run a command that must end with exit code 2, one line of error, and no file written."""

    def refused_(*arguments: object) -> str:
        before = snapshot(tmp_path)
        result = run(*arguments)
        assert result.code == 2, result
        assert result.err.startswith("error: "), result.err
        assert result.err.count("\n") == 1, result.err
        assert snapshot(tmp_path) == before
        return result.err

    return refused_


@pytest.fixture(scope="session")
def finished_data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "data"
    assert cli.run([*SIMULATE, "--frames", "400", "--walkers", "20", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def finished_model(finished_data) -> Path:
    path = finished_data.with_name("model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.compile imports what torch deprecates
        assert cli.run(["train", str(finished_data), "-o", str(path), "--steps", "30", *TRAIN]) == 0
    return path


@pytest.fixture
def data(finished_data, tmp_path) -> Path:
    """A copy of a simulation, which a test may damage."""
    return Path(shutil.copytree(finished_data, tmp_path / "data"))


@pytest.fixture
def model(finished_model, tmp_path) -> Path:
    """A copy of a model, which a test may damage."""
    return Path(shutil.copytree(finished_model, tmp_path / "model"))
