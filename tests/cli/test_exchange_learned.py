"""The command exchange with the learned sampler: run, stopped, killed, continued, and refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer

from openmm_bg import cli
from openmm_bg.errors import InputError
from openmm_bg.exchange import ExchangeRecord, read_exchange
from openmm_bg.report.commands import exchange_command

# Temperatures near that of the training, between which even a poor flow maps well enough.
SETTINGS = (
    *("--sampler", "learned", "--temperature-min", "400", "--steps", "5"),
    *("--platform", "CPU", "--checkpoint-interval", "4", "--seed", "3"),
)


def parsed(command: str) -> dict[str, object]:
    """Return the options that the command line reads from a command."""
    program, name, *arguments = command.removesuffix("# reconstructed").split()
    assert program == "openmm-bg"
    return typer.main.get_command(cli.app).commands[name].make_context(name, arguments).params


def test_two_temperatures_suffice(run, model, tmp_path):
    path = tmp_path / "run.nc"
    result = run("exchange", model, "-q", "-o", path, *SETTINGS, "--iterations", "30")
    assert result.code == 0, result.err
    assert result.err == ""
    assert "mapped to the other's temperature" in result.out
    assert re.search(r"400\.0 +- +\d+\.\d%", result.out)  # no move by the flow, and exchanges
    found = read_exchange(path)
    assert found.settings["sampler"] == "learned"
    assert (len(found.temperatures), found.n_iterations, found.mapped_exchanges) == (2, 30, 30)
    assert 0.0 < found.exchange_acceptance[0] < 1.0
    assert found.exchange_acceptance_stderr[0] > 0.0
    # Steps, their end and the energies of exchanges at each temperature; four energies of each map, and the forces
    # for new velocities of both replicas where it was accepted.
    assert found.accepted_maps == round(30 * found.exchange_acceptance[0])
    assert found.energy_evaluations == 30 * 2 * (5 + 2) + 30 * 4 + found.accepted_maps * 2 * 3
    # Where replicas have gone to the other temperature, none of them is where it has been.
    changed = np.flatnonzero((found.replicas[1:] != found.replicas[:-1]).any(axis=1))
    assert 0 < len(changed) == round(30 * found.exchange_acceptance[0]) - (found.replicas[0, 0] != 0)
    # It goes on, and a finished run is read.
    assert "31 iterations" in run("exchange", model, "-q", "-o", path, *SETTINGS, "--iterations", "31").out
    command = exchange_command(path, read_exchange(path))
    assert "--sampler learned --move none --steps 5" in command
    options = parsed(command)
    assert (options["sampler"], options["move"], options["n_proposals"]) == ("learned", "none", None)
    result = run("exchange", model, "-q", "-o", path, *map(str, command.split()[3:-4]), "--iterations", "31")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("move", "options"),
    [("flow", ("--proposals", "2")), ("multiple-try", ("--candidates", "3")), ("latent", ())],
)
def test_moves_by_the_flow_go_with_it(run, model, tmp_path, move, options):
    path = tmp_path / "run.nc"
    chosen = ("--move", move, *options, "--replicas", "3", "--iterations", "2")
    result = run("exchange", model, "-q", "-o", path, *SETTINGS, *chosen)
    assert result.code == 0, result.err
    found = read_exchange(path)
    assert (found.flow_proposed > 0).all()
    assert found.mapped_exchanges == 2  # of neighbours, one pair of three replicas each
    command = exchange_command(path, found)
    assert f"--sampler learned --move {move} --proposals {found.settings['n_proposals']}" in command
    assert parsed(command)["n_candidates"] == (3 if move == "multiple-try" else None)


def test_commands_of_runs_of_old_are_rebuilt(tmp_path):
    """Those that were stored before there were samplers and candidates to choose."""
    settings = {"model": "model", "temperatures": [300.0, 600.0], "n_proposals": 16, "n_steps": 5}
    settings |= {"timestep": 5e-4, "collision_rate": 1.0, "platform": "CPU", "seed": None}
    rest = np.zeros(0)
    old = ExchangeRecord(rest, np.zeros((7, 2, 1, 3)), rest, *[rest] * 6, settings)
    command = exchange_command(tmp_path / "run.nc", old)
    assert command == (
        "openmm-bg exchange model --temperature-min 300 --temperature-max 600 --replicas 2 --iterations 7 "
        "--move flow --proposals 16 --steps 5 --timestep 0.0005 --collision-rate 1 --platform CPU "
        "--output run.nc  # reconstructed"
    )


def wait_for(path: Path, n_iterations: int, process: subprocess.Popen) -> None:
    """Wait until a run has stored a number of iterations; another process may be writing the file."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        if path.exists() and not path.with_name(f".{path.name}.creating").exists():
            copy = path.with_name("copy.nc")
            copy.write_bytes(path.read_bytes())
            try:
                if read_exchange(copy).n_iterations >= n_iterations:
                    return
            except (ValueError, RuntimeError, OSError, KeyError, IndexError):
                pass
        time.sleep(0.05)


def test_ctrl_c_and_kill_leave_a_run_that_the_same_command_continues(run, model, tmp_path):
    path = tmp_path / "run.nc"
    arguments = ["exchange", str(model), "-q", "-o", str(path), *SETTINGS, "--iterations", "2000"]
    command = [sys.executable, "-m", "openmm_bg.cli", *arguments]
    kept = None
    for number, (stop, code) in enumerate(((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL))):
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for(path, 6 + (0 if kept is None else kept.n_iterations), process)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        if stop == signal.SIGINT:
            hint = "the same command continues from the last checkpoint, if it had got so far."
            assert errors == f"interrupted: {hint}\n"
        found = read_exchange(path)
        assert found.n_iterations >= 6, number
        if kept is not None:  # it went on from a checkpoint, four iterations back at most
            same = kept.n_iterations - kept.n_iterations % 4
            np.testing.assert_array_equal(found.positions[:same], kept.positions[:same])
            np.testing.assert_array_equal(found.replicas[:same], kept.replicas[:same])
        kept = found
    arguments[-1] = str(kept.n_iterations + 5)
    assert run(*arguments).code == 0
    found = read_exchange(path)
    assert found.n_iterations == kept.n_iterations + 5
    assert found.mapped_exchanges == found.n_iterations
    # Velocities are those of before, and not the zeros that openmmtools restores where there are none.
    assert np.ptp(found.potential_energy[-5:]) > 0


def test_what_does_not_go_together_is_refused(refused, run, model, tmp_path, monkeypatch):
    exchange = ("exchange", model, "-q", "-o", tmp_path / "run.nc")
    assert "There is no sampler 'sams'; the samplers are: parallel-tempering, learned" in refused(
        *exchange, "--sampler", "sams"
    )
    assert "There is no move 'walk'; the moves are: flow, latent, multiple-try, none" in refused(
        *exchange, "--move", "walk"
    )
    assert "goes with the sampler 'learned'" in refused(*exchange, "--move", "none")
    assert "Proposals go with a move by the flow" in refused(
        *exchange, "--sampler", "learned", "--proposals", "4"
    )
    with monkeypatch.context() as patch:
        patch.setenv("OMPI_COMM_WORLD_RANK", "0")
        patch.setenv("OMPI_COMM_WORLD_SIZE", "2")
        assert "mpirun has started 2 processes" in refused(*exchange, "--sampler", "learned")
    assert run(*exchange, *SETTINGS, "--iterations", "1").code == 0
    for changes, message in (
        (("--sampler", "parallel-tempering", "--replicas", "2"), "sampler=learned, not parallel-tempering"),
        (("--move", "flow"), "move=none, not flow"),
        (("--replicas", "3"), "n_replicas=2, not 3"),
    ):
        assert f"holds a run with {message}" in refused(*exchange, *SETTINGS, *changes)


def test_storage_that_a_kill_has_damaged_is_refused(run, refused, model, tmp_path, monkeypatch):
    """Strings of variable length are written last; a process that is killed there leaves none that can be read."""
    path = tmp_path / "run.nc"
    command = ("exchange", model, "-q", "-o", path, *SETTINGS, "--iterations")
    assert run(*command, "8").code == 0
    whole = path.read_bytes()
    assert b"GCOL" in whole  # the heap of such strings in HDF5
    path.write_bytes(whole.replace(b"GCOL", b"GONE"))
    message = refused(*command, "12")
    assert "run.nc cannot be read as a netCDF file (NetCDF: HDF error)" in message
    assert "delete it together with its checkpoint file" in message
    message = refused("observables", path, "--observable", "phi", "-o", tmp_path / "out")
    assert "run.nc cannot be read as a netCDF file; it may be damaged or truncated" in message

    def unreadable(dataset):
        raise RuntimeError("NetCDF: HDF error")

    path.write_bytes(whole)
    monkeypatch.setattr("openmm_bg.exchange.record._read_moves", unreadable)
    with pytest.raises(InputError, match=r"run\.nc is damaged \(NetCDF: HDF error\).* give another file"):
        read_exchange(path)
