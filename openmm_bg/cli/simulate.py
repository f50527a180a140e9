"""``openmm-bg simulate``: molecular dynamics that makes training data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_bg.cli import molecule as options
from openmm_bg.cli.console import print_summary, say, settings_from

if TYPE_CHECKING:
    from openmm_bg.simulation import SimulationSettings


def simulate(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to write.")],
    name: options.Name = None,
    pdb: options.Pdb = None,
    forcefield: options.Forcefield = None,
    system_xml: options.SystemXml = None,
    topology: options.TopologyPdb = None,
    prmtop: options.Prmtop = None,
    inpcrd: options.Inpcrd = None,
    psf: options.Psf = None,
    parameters: options.Parameters = None,
    crd: options.Crd = None,
    implicit_solvent: options.ImplicitSolvent = None,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", "-T", help="Temperature (K); chignolin without it has its own defaults."
        ),
    ] = 600.0,
    n_frames: Annotated[int, typer.Option("--frames", help="Frames to keep, of all walkers.")] = 100_000,
    n_walkers: Annotated[int, typer.Option("--walkers", help="Independent walkers, run at once.")] = 512,
    starts: Annotated[
        list[str] | None,
        typer.Option(
            "--start",
            help="A configuration of the system from which walkers begin in turn; repeat for several. chignolin "
            "has native and extended; every system has reference, the default.",
        ),
    ] = None,
    ladder: Annotated[
        list[float] | None,
        typer.Option(help="A higher temperature (K) of parallel tempering; repeat for several, rising."),
    ] = None,
    interval: Annotated[int, typer.Option("--interval", "--thin", help="Steps between frames.")] = 50,
    burn_in: Annotated[int, typer.Option(help="Steps of every walker that are thrown away.")] = 10_000,
    hot_start: Annotated[
        float | None, typer.Option(help="Temperature (K) of the first half of the burn-in.")
    ] = None,
    timestep: Annotated[float, typer.Option(help="Time step (ps).")] = 0.002,
    friction: Annotated[float, typer.Option(help="Friction (1/ps).")] = 2.0,
    hydrogen_mass: Annotated[
        float, typer.Option(help="Mass of hydrogens (Da), for longer steps; 0: as in the system.")
    ] = 4.0,
    engine: Annotated[
        str, typer.Option(help="torch: all walkers at once; openmm: one after the other.")
    ] = "torch",
    mode: Annotated[
        str, typer.Option(help="How the batched potential is evaluated: auto, fused, compiled or eager.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Run molecular dynamics of many walkers and write a trajectory with energies.

    An interrupted run is continued by the same command; with fewer --frames than it has by then it ends, with more
    it gets longer. openmm-bg check tells beforehand whether a molecule of your own is supported.

    Without --temperature, chignolin is simulated as for its reference data: replica exchange from 350 to 600 K,
    half of the ladders from the native structure and half from the extended one. Other options still change that.

    Example: openmm-bg simulate alanine_dipeptide --temperature 600 --output data

    Example: openmm-bg simulate chignolin --frames 32000 --output chignolin

    Example: openmm-bg simulate --pdb my.pdb --forcefield amber96.xml --forcefield amber96_obc.xml -o data

    Example: openmm-bg simulate --prmtop my.prmtop --inpcrd my.inpcrd --implicit-solvent OBC2 -T 600 -o data
    """
    from openmm_bg.simulation import simulate as run_simulation

    settings = _settings(context)
    molecule = options.read_molecule(context.params, settings.temperature)
    trajectory = run_simulation(molecule, output, settings, progress=not quiet)
    n_frames = settings.frames_per_walker * settings.n_walkers
    spacing = settings.interval * settings.timestep
    rows = []
    if settings.starts:
        counts = Counter(settings.walker_starts())
        rows.append(("starts", ", ".join(f"{n} {start}" for start, n in counts.items()), "walkers from each"))
    print_summary(
        [
            ("frames", f"{n_frames}", f"{settings.n_walkers} walkers x {settings.frames_per_walker}"),
            ("temperature", f"{settings.temperature:g} K", "of every frame"),
            ("spacing", f"{spacing:g} ps", "between the frames of a walker"),
            ("length", f"{settings.frames_per_walker * spacing:g} ps", "of each walker after the burn-in"),
            *rows,
        ],
        title=f"{molecule.name}: {trajectory}",
    )
    if comparison := json.loads((output / "provenance.json").read_text())["start_comparison"]:
        say(comparison["statement"])


def _settings(context: typer.Context) -> SimulationSettings:
    """Return the settings: those of the system's reference data, if it has some and no temperature is given."""
    from openmm_bg.simulation import SimulationSettings
    from openmm_bg.simulation.presets import PRESETS

    given = {name for name in context.params if context.get_parameter_source(name).name != "DEFAULT"}
    name = None if "temperature" in given else context.params["name"]
    own = {key: value for key, value in PRESETS.get(name, {}).items() if key not in given}
    parameters = {
        **context.params,
        "ladder": tuple(context.params["ladder"] or ()),
        "starts": tuple(context.params["starts"] or ()),
        "hydrogen_mass": context.params["hydrogen_mass"] or None,
    }
    settings = settings_from(SimulationSettings, parameters, **own)
    if own:
        ladder = ", ".join(f"{rung:g}" for rung in (settings.temperature, *settings.ladder))
        starts = " and ".join(settings.starts)
        say(f"{name} without --temperature: {settings.n_walkers} ladders of {ladder} K from {starts}.")
    return settings
