"""The command line explains itself, and its options are the library's settings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys

import pytest
import typer

from openmm_bg import __version__, cli
from openmm_bg.annealing import AnnealingSettings
from openmm_bg.exchange import run_parallel_tempering
from openmm_bg.simulation import SimulationSettings
from openmm_bg.training import TrainingSettings

COMMANDS = [
    "systems",
    "check",
    "simulate",
    "train",
    "anneal",
    "sample",
    "exchange",
    "coarse-grain",
    "backmap",
    "ramachandran",
    "observables",
    "report",
    "info",
]


def parameters(command: str) -> dict[str, object]:
    """The parameters of a command with their defaults."""
    return {p.name: p.default for p in typer.main.get_command(cli.app).commands[command].params}


def test_all_commands_are_listed(run):
    result = run("--help")
    assert result.code == 0
    assert list(typer.main.get_command(cli.app).commands) == COMMANDS
    assert all(re.search(rf"\b{name}\b", result.out) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help_with_an_example(run, command, option):
    result = run(command, option)
    assert result.code == 0
    assert result.err == ""
    assert f"Example: openmm-bg {command}" in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_parse(command):
    group = typer.main.get_command(cli.app)
    examples = re.findall(r"Example: openmm-bg \S+ ?(.*)", group.commands[command].help)
    assert examples
    for example in examples:
        arguments = [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', example)]
        group.commands[command].make_context(command, arguments)  # raises if it does not parse


def test_every_option_has_a_description():
    for command in typer.main.get_command(cli.app).commands.values():
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help.endswith((".", ")")), parameter.name


@pytest.mark.parametrize(
    ("command", "settings"),
    [("simulate", SimulationSettings), ("train", TrainingSettings), ("anneal", AnnealingSettings)],
)
def test_options_are_the_settings_with_their_defaults(command, settings):
    found = parameters(command)
    for field in dataclasses.fields(settings):
        assert field.name in found, f"{command} has no option for {field.name}"
        assert (found[field.name] or None) == (field.default or None), field.name


def test_options_of_exchange_are_those_of_the_library():
    found = parameters("exchange")
    for name, parameter in inspect.signature(run_parallel_tempering).parameters.items():
        if name not in ("model", "storage", "seed", "progress"):
            assert found[name] == parameter.default, name


def test_no_command_and_version(run):
    assert run().code == 2
    result = run("--version")
    assert (result.code, result.out) == (0, f"openmm-bg {__version__}\n")


def test_systems_lists_what_there_is(run):
    result = run("systems")
    assert result.code == 0
    assert re.search(r"alanine_dipeptide +22 +300 +phi, psi", result.out)
    assert re.search(r"chignolin +175 +350 +10 phi, 10 psi", result.out)


def test_entry_point_and_fast_help():
    program = (
        "import sys\n"
        "sys.argv = ['openmm-bg', 'simulate', '--help']\n"
        "from openmm_bg.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as exit:\n"
        "    assert exit.code == 0\n"
        "slow = {'torch', 'openmm', 'openmmtools', 'mdtraj', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--walkers" in result.stdout
