"""``openmm-bg exchange``: replica exchange in openmmtools with flow moves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from openmm_bg.cli.arguments import Model
from openmm_bg.cli.console import print_table, say
from openmm_bg.errors import InputError
from openmm_bg.statistics import with_error


def exchange(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The storage file to write (.nc).")],
    start: Annotated[
        Path | None, typer.Option(help="A PDB file to start from; the model's reference if not given.")
    ] = None,
    temperature_min: Annotated[float, typer.Option(help="Lowest temperature (K).")] = 300.0,
    temperature_max: Annotated[float, typer.Option(help="Highest temperature (K).")] = 600.0,
    n_replicas: Annotated[
        int | None,
        typer.Option(
            "--replicas", help="Temperatures, spaced geometrically: 4, or 2 if learned, if not given."
        ),
    ] = None,
    n_iterations: Annotated[int, typer.Option("--iterations", help="Iterations in all.")] = 1000,
    sampler: Annotated[
        str,
        typer.Option(
            help="parallel-tempering: replicas exchange configurations; learned: the flow maps these to the "
            "other temperature first, so that two temperatures suffice."
        ),
    ] = "parallel-tempering",
    move: Annotated[
        str | None,
        typer.Option(
            help="flow: fresh configurations; multiple-try: the same, chosen among many candidates; "
            "latent: Monte Carlo steps in latent space; none: dynamics alone. If not given, flow, or none if "
            "learned."
        ),
    ] = None,
    n_proposals: Annotated[
        int | None,
        typer.Option(
            "--proposals",
            help="Proposals (or tries, of --move multiple-try) in an iteration: 16, or 1 try, if not given.",
        ),
    ] = None,
    n_candidates: Annotated[
        int | None, typer.Option("--candidates", help="Candidates of each try: 64 if not given.")
    ] = None,
    n_steps: Annotated[int, typer.Option("--steps", help="Langevin steps in an iteration.")] = 100,
    timestep: Annotated[float, typer.Option(help="Time step (ps).")] = 0.0005,
    collision_rate: Annotated[float, typer.Option(help="Collision rate (1/ps).")] = 1.0,
    hydrogen_mass: Annotated[
        float | None,
        typer.Option(help="Mass of hydrogens (Da); 4 allows steps of 0.002 ps. Unchanged if not given."),
    ] = None,
    dynamics: Annotated[
        str,
        typer.Option(
            help="openmm: steps of a Context; fused: steps of compiled code for this molecule, several times "
            "faster if it is small and its solvent a CustomGBForce."
        ),
    ] = "openmm",
    checkpoint_interval: Annotated[int, typer.Option(help="Iterations between checkpoints.")] = 10,
    platform: Annotated[
        str | None,
        typer.Option(
            help="OpenMM's platform for energies, and for the dynamics if these are not fused; the fastest if not "
            "given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Run parallel tempering in openmmtools, with a flow move before the dynamics, or exchanges by a flow's map.

    An interrupted run is continued by the same command, and a finished one extended by more iterations.

    Example: openmm-bg exchange model --temperature-min 300 --temperature-max 600 --output exchange.nc
    """
    if output.suffix != ".nc":
        raise InputError(f"An exchange run is stored in a file that ends in .nc, not {output.name!r}.")
    from openmm_bg.exchange import run_parallel_tempering
    from openmm_bg.statistics import chain_mean

    run = run_parallel_tempering(
        model,
        output,
        start=start,
        temperature_min=temperature_min,
        temperature_max=temperature_max,
        n_replicas=n_replicas,
        n_iterations=n_iterations,
        sampler=sampler,
        move=move,
        n_proposals=n_proposals,
        n_candidates=n_candidates,
        n_steps=n_steps,
        timestep=timestep,
        collision_rate=collision_rate,
        hydrogen_mass=hydrogen_mass,
        dynamics=dynamics,
        checkpoint_interval=checkpoint_interval,
        platform=platform,
        seed=seed,
        progress=not quiet,
    )
    up = [*run.exchange_acceptance, np.nan]
    rows = []
    for k, temperature in enumerate(run.temperatures):
        energy = run.potential_energy[run.n_tuning :, k]
        mean = with_error(chain_mean(energy)) if len(energy) > 1 else "-"
        rows.append((f"{temperature:.1f}", _percent(run.flow_acceptance[k]), _percent(up[k]), mean))
    print_table(
        ("temperature (K)", "flow accepted", "exchange with the next", "potential energy (kJ/mol)"),
        rows,
        title=f"{run.n_iterations} iterations: {output}",
    )
    if run.settings.get("move", "flow") == "flow":
        say("Flow accepted: accepted over made proposals, each a fresh, independent configuration.")
    if run.settings.get("move") == "multiple-try":
        say(
            "Flow accepted: tries after which the configuration was a fresh, independent one, over all tries."
        )
    if sampler == "learned":
        say("Exchange with the next: two replicas, each mapped to the other's temperature by the flow.")
    if run.n_tuning:
        say(
            f"The first {run.n_tuning} iterations tuned the latent move's step size; energies are of those after."
        )
    say(f"Round trips of replicas from the lowest to the highest temperature and back: {run.round_trips}")
    say(f"Look at it with: openmm-bg report {output} {model}")


def _percent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{fraction:.1%}"
