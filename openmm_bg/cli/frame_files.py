"""The options that name files with configurations, the same for every command that compares them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.cli.console import say
from openmm_bg.errors import InputError

Files = Annotated[
    list[Path],
    typer.Argument(help="Trajectories, samples (.h5), exchange runs (.nc), or data directories."),
]
Topology = Annotated[
    Path | None, typer.Option(help="A file with the topology, for trajectories without one.")
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", "-T", help="Which temperature (K) of an exchange run.")
]
Weights = Annotated[bool, typer.Option(help="Use the weights of samples.")]


def check_labels(files: Sequence[Path], labels: Sequence[str] | None) -> list[str | None]:
    """Return a label or None for each file.

    Raises:
        InputError: If there are labels, but not one for each file.
    """
    if labels and len(labels) != len(files):
        raise InputError(f"There are {len(files)} files but {len(labels)} labels; give each file one.")
    return list(labels or [None] * len(files))


def convergence_caption(statements: Iterable[tuple[str, str]]) -> str:
    """Return what figures and the screen say of simulations from several starts, which is printed, too.

    Args:
        statements: The label of each set, and whether its starts agree; empty of others.
    """
    lines = [f"{label}: {statement}." for label, statement in statements if statement]
    for line in lines:
        say(line)
    return " ".join(lines)
