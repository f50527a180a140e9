"""``openmm-bg simulate``: molecular dynamics that makes training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_bg.cli.console import print_summary, settings_from
from openmm_bg.errors import InputError

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem


def simulate(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to write.")],
    system: Annotated[str | None, typer.Argument(help="A name that openmm-bg systems lists.")] = None,
    pdb: Annotated[Path | None, typer.Option(help="Your own molecule: a PDB file with hydrogens.")] = None,
    forcefield: Annotated[
        list[str] | None, typer.Option(help="A force-field file for --pdb; repeat for several.")
    ] = None,
    system_xml: Annotated[
        Path | None, typer.Option(help="A serialised OpenMM system for --pdb, instead of a force field.")
    ] = None,
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

    An interrupted run is continued by the same command.

    Example: openmm-bg simulate alanine_dipeptide --temperature 600 --output data

    Example: openmm-bg simulate --pdb my.pdb --forcefield amber96.xml --forcefield amber96_obc.xml -o data
    """
    from openmm_bg.simulation import SimulationSettings
    from openmm_bg.simulation import simulate as run_simulation

    settings = settings_from(
        SimulationSettings,
        context.params,
        ladder=tuple(ladder or ()),
        hydrogen_mass=hydrogen_mass or None,
    )
    molecule = _molecule(system, pdb, forcefield or [], system_xml, temperature)
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


def _molecule(
    name: str | None, pdb: Path | None, forcefield: list[str], system_xml: Path | None, temperature: float
) -> MolecularSystem:
    from openmm_bg.systems import MolecularSystem, load

    if (name is None) == (pdb is None):
        raise InputError("Give either the name of a system (see openmm-bg systems) or --pdb FILE.")
    if name is not None:
        if forcefield or system_xml:
            raise InputError(f"{name} brings its force field; --forcefield and --system-xml go with --pdb.")
        return load(name)
    if bool(forcefield) == (system_xml is not None):
        raise InputError("A PDB file needs either --forcefield (e.g. amber14-all.xml) or --system-xml.")
    if system_xml is not None:
        return MolecularSystem.from_files(system_xml, pdb, temperature=temperature)
    return MolecularSystem.from_pdb(pdb, forcefield, temperature=temperature)
