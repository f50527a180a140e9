"""``openmm-bg simulate``: molecular dynamics that makes training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.cli import molecule as options
from openmm_bg.cli.console import print_summary, settings_from


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
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="Temperature (K).")] = 600.0,
    n_frames: Annotated[int, typer.Option("--frames", help="Frames to keep, of all walkers.")] = 100_000,
    n_walkers: Annotated[int, typer.Option("--walkers", help="Independent walkers, run at once.")] = 512,
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

    An interrupted run is continued by the same command. openmm-bg check tells beforehand whether a molecule of your
    own is supported.

    Example: openmm-bg simulate alanine_dipeptide --temperature 600 --output data

    Example: openmm-bg simulate --pdb my.pdb --forcefield amber96.xml --forcefield amber96_obc.xml -o data

    Example: openmm-bg simulate --prmtop my.prmtop --inpcrd my.inpcrd --implicit-solvent OBC2 -T 600 -o data
    """
    from openmm_bg.simulation import SimulationSettings
    from openmm_bg.simulation import simulate as run_simulation

    settings = settings_from(
        SimulationSettings,
        context.params,
        ladder=tuple(ladder or ()),
        hydrogen_mass=hydrogen_mass or None,
    )
    molecule = options.read_molecule(context.params, temperature)
    trajectory = run_simulation(molecule, output, settings, progress=not quiet)
    n_frames = settings.frames_per_walker * settings.n_walkers
    spacing = settings.interval * settings.timestep
    print_summary(
        [
            ("frames", f"{n_frames}", f"{settings.n_walkers} walkers x {settings.frames_per_walker}"),
            ("temperature", f"{settings.temperature:g} K", "of every frame"),
            ("spacing", f"{spacing:g} ps", "between the frames of a walker"),
            ("length", f"{settings.frames_per_walker * spacing:g} ps", "of each walker after the burn-in"),
        ],
        title=f"{molecule.name}: {trajectory}",
    )
