"""``openmm-bg report``: one page with the figures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.cli import frame_files as options
from openmm_bg.cli.console import say
from openmm_bg.errors import InputError


def report(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="The directory of a run (of make demo, or any that holds results), of a model or of data; "
            "samples (.h5) and exchange runs (.nc)."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page (.html); report.html in RUN if not given.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Its heading.")] = None,
    topology: options.Topology = None,
) -> None:
    """Write one HTML page about a run: Ramachandran plots, energies, weights, training, acceptance, provenance.

    The page is a single file, opens offline and runs no program.

    Example: openmm-bg report demo

    Example: openmm-bg report data model samples.h5 exchange.nc --output report.html
    """
    if output is not None and output.is_dir():
        raise InputError(f"{output} is a folder; give the name of a file that ends in .html.")
    from openmm_bg.report import write_report

    say(f"Written: {write_report(run, output, title=title, topology=topology)}")
