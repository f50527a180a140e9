"""The command line, ``openmm-bg``: parse, check, call the library, and say what the figures mean."""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from openmm_bg import __version__
from openmm_bg.cli.anneal import anneal
from openmm_bg.cli.backmap import backmap
from openmm_bg.cli.check import check
from openmm_bg.cli.coarse_grain import coarse_grain
from openmm_bg.cli.exchange import exchange
from openmm_bg.cli.info import info
from openmm_bg.cli.observables import observables
from openmm_bg.cli.ramachandran import ramachandran
from openmm_bg.cli.report import report
from openmm_bg.cli.sample import sample
from openmm_bg.cli.simulate import simulate
from openmm_bg.cli.systems import systems
from openmm_bg.cli.train import train
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.threads import available_cores

# Read by torch when a command imports it. For tensors of this size one thread is as fast as several; the
# potential gains by several. Whoever sets the variables decides.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("OPENMM_BG_THREADS", str(available_cores()))

# Of typer's errors about the command line; typer gives only the most special one a public name.
_UsageError, _ClickException = typer.BadParameter.__mro__[1:3]

_CONTINUES = "the same command continues from the last checkpoint, if it had got so far."
_AFTER_CTRL_C = {
    "simulate": _CONTINUES,
    "train": _CONTINUES,
    "anneal": _CONTINUES,
    "exchange": _CONTINUES,
    "coarse-grain": _CONTINUES,
}
_WRONG_PATH = {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.EROFS}

_COMMANDS = (systems, check, simulate, train, anneal, sample, exchange)
_COMMANDS += (coarse_grain, backmap, ramachandran, observables, report, info)
app = typer.Typer(
    name="openmm-bg",
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in _COMMANDS:
    app.command()(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openmm-bg {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _openmm_bg(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Boltzmann generators for OpenMM: a flow learns molecular dynamics and samples at other temperatures.

    In order: **simulate** makes data, **train** a model of them, **anneal** takes it to lower temperatures,
    **sample** draws weighted samples from it,
    **exchange** uses it in replica exchange, **coarse-grain** and **backmap** go by way of a few beads,
    **ramachandran** and **observables** compare the results, and
    **report** makes a page of them. **check** tells beforehand whether a molecule of your own is supported, and
    **info** what a model is.

    Example: openmm-bg simulate alanine_dipeptide --temperature 600 --output data
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@functools.cache
def _group() -> Any:
    """Return the commands as click's group; typer makes it of all signatures, which takes a while."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code: 0, or 2 for bad input, 130 after Ctrl-C, 1 for a full disk.
    """
    for name in ("pymbar", "pymbar.timeseries", "pymbar.mbar_solvers"):
        logging.getLogger(name).setLevel(logging.ERROR)  # or importing openmmtools prints a banner
    with warnings.catch_warnings():
        warnings.simplefilter("always", ReliabilityWarning)
        warnings.showwarning = _show_warning
        try:
            code = _group().main(args=list(arguments), prog_name="openmm-bg", standalone_mode=False)
        except InputError as error:
            return _fail(_in_terms_of_options(str(error), arguments), 2)
        except _UsageError as error:
            path = error.ctx.command_path if error.ctx else "openmm-bg"
            return _fail(f"{error.format_message().rstrip('.')}; see {path} --help", 2)
        except _ClickException as error:
            return _fail(error.format_message(), 2)
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except OSError as error:
            if error.errno in _WRONG_PATH:
                return _fail(f"{error.filename}: {error.strerror}", 2)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return _fail(f"{error.strerror}; nothing was left half-written", 1)
            raise
    if code == 130:
        command = next((argument for argument in arguments if not argument.startswith("-")), "")
        hint = _AFTER_CTRL_C.get(command, "nothing was written; run the command again.")
        print(f"interrupted: {hint}", file=sys.stderr)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def _in_terms_of_options(message: str, arguments: Sequence[str]) -> str:
    """Return a message about a setting, as "n_steps must be positive", with the option's name, "--steps"."""
    command = _group().commands.get(arguments[0] if arguments else "")
    names = {parameter.name: max(parameter.opts, key=len) for parameter in command.params} if command else {}
    name, *rest = message.split(" must ", 1)
    option = names.get(name, name)
    return " must ".join([option if option.startswith("--") else name, *rest])


def _fail(message: str, code: int) -> int:
    # One line, whatever library the text came from.
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_args: object, **_kwargs: object) -> None:
    name = "warning" if issubclass(category, ReliabilityWarning) else category.__name__
    print(f"{name}: " + " ".join(str(message).split()), file=sys.stderr)
