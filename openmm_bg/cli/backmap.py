"""``openmm-bg backmap``: all-atom samples with weights from a coarse-grained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.cli.console import print_summary, say
from openmm_bg.errors import InputError


def backmap(
    model: Annotated[Path, typer.Argument(help="The directory that openmm-bg coarse-grain wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The samples file to write (.h5).")],
    number: Annotated[int, typer.Option("--number", "-n", help="How many samples.")] = 51_200,
    beads: Annotated[
        Path | None,
        typer.Option(help="All-atom frames whose beads are taken, instead of sampling the bead potential."),
    ] = None,
    interval: Annotated[
        int | None, typer.Option(help="Trajectories of hybrid Monte Carlo between two frames.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Sample beads from their potential, put the atoms back, and write the Boltzmann weights of the whole.

    Writes a trajectory (.h5), a table with a row for each frame (.csv) and a summary (.json), as openmm-bg
    sample does; ramachandran, observables and report read them, with errors from the walkers. With --beads
    the beads of given frames are backmapped: one configuration for each, and weights that hold if the frames
    are Boltzmann distributed and rho is the model's.

    Example: openmm-bg backmap model --output samples.h5
    """
    import dataclasses

    from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
    from openmm_bg.files import provenance
    from openmm_bg.io import read_frames, samples_path, save_samples

    output = samples_path(output)
    if number < 1:
        raise InputError(f"The number of samples must be at least 1, not {number}.")
    generator = CoarseGrainedGenerator.load(model)
    if generator.system is None:
        raise InputError(f"The model {model} does not know its molecule, so samples cannot be written.")
    if beads is None:
        sampling = generator.sampling
        if interval is not None:
            sampling = dataclasses.replace(sampling, interval=interval)
        samples = generator.sample(number, seed=seed, sampling=sampling, progress=not quiet)
    else:
        frames = read_frames(beads)
        if frames.positions.shape[1] != generator.coarse_map.n_atoms:
            raise InputError(
                f"{beads} has {frames.positions.shape[1]} atoms, but the model {generator.coarse_map.n_atoms}; "
                "its frames must be of the model's molecule."
            )
        samples = generator.samples_of(frames.positions[:number], seed=seed)
    samples.record |= provenance(seed=seed, model=str(model))
    samples.ess()  # nothing is written if no sample has a weight
    summary = save_samples(samples, output)
    n_lost = summary["n_out_of_domain"] + summary["n_nonfinite"]
    walkers = f"along the chains of {samples.n_walkers} walkers" if samples.n_walkers > 1 else "independent"
    print_summary(
        [
            ("draws", f"{len(samples)}", walkers),
            ("without weight", f"{n_lost}", "wrong chirality, impossible, or no finite energy"),
            ("ESS", f"{summary['ess']:.2%}", "of the weights; successive samples are correlated besides"),
            ("Pareto k", f"{summary['pareto_k']:.2f}", "averages are reliable up to 0.7, good below 0.5"),
        ],
        title=f"{samples.temperature:g} K: {output}",
    )
    samples.warn_if_unreliable()
    say(f"Look at them with: openmm-bg report {output} {model}")
