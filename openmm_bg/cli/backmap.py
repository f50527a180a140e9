"""``openmm-bg backmap``: all-atom samples with weights from a coarse-grained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_bg.cli.arguments import CoarseGrainedModel
from openmm_bg.cli.console import print_summary, say
from openmm_bg.errors import InputError
from openmm_bg.samples import UNRELIABLE_PARETO_K

if TYPE_CHECKING:
    from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
    from openmm_bg.trajectories import Frames

_NUMBER = 51_200


def backmap(
    model: CoarseGrainedModel,
    output: Annotated[Path, typer.Option("--output", "-o", help="The samples file to write (.h5).")],
    number: Annotated[
        int | None,
        typer.Option(
            "--number",
            "-n",
            help="How many samples, rounded up to a multiple of the walkers; default: 51200. With --beads, how "
            "many of its frames, rounded down; default: all.",
        ),
    ] = None,
    beads: Annotated[
        Path | None,
        typer.Option(help="All-atom frames whose beads are taken, instead of sampling the bead potential."),
    ] = None,
    interval: Annotated[
        int | None, typer.Option(min=1, help="Trajectories of hybrid Monte Carlo between two frames.")
    ] = None,
    n_tries: Annotated[
        int,
        typer.Option(
            "--tries",
            min=1,
            help="Configurations of the same beads of which one is chosen by its weight; exact, too.",
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Sample beads from their potential, put the atoms back, and write the Boltzmann weights of the whole.

    Writes a trajectory (.h5), a table with a row for each frame (.csv) and a summary (.json), as openmm-bg
    sample does; ramachandran, observables and report read them, with errors from the walkers. With --beads
    the beads of given frames are backmapped, one configuration for each, along the frames' walkers. Their weights
    are right if the given beads are distributed as rho, the density of the model's bead potential: those of
    frames from the Boltzmann distribution are, if rho is its exact marginal. With --tries each configuration is
    chosen among several of the same beads, by their weights, whose mean is its own: fewer clash, and averages
    stay exact.

    Example: openmm-bg backmap model --output samples.h5

    Example: openmm-bg backmap chignolin_backbone --beads frames.h5 --tries 2 --output samples.h5
    """
    import dataclasses

    from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
    from openmm_bg.files import provenance
    from openmm_bg.io import samples_path, save_samples

    output = samples_path(output)
    if number is not None and number < 1:
        raise InputError(f"The number of samples must be at least 1, not {number}.")
    if beads is not None and interval is not None:
        raise InputError("--interval is for sampled beads only, not for those of --beads; leave it out.")
    generator = CoarseGrainedGenerator.load(model)
    if generator.system is None:
        raise InputError(f"The model {model} does not know its molecule, so samples cannot be written.")
    if beads is None:
        _warn_of_beads(generator)
        sampling = generator.sampling
        if interval is not None:
            sampling = dataclasses.replace(sampling, interval=interval)
        n = _NUMBER if number is None else number
        samples = generator.sample(n, seed=seed, n_tries=n_tries, sampling=sampling, progress=not quiet)
        source = {} if interval is None else {"interval": interval}
    else:
        frames = _frames_of(beads, generator)
        n = _whole_chains(frames, number)
        samples = generator.samples_of(
            frames.positions[:n],
            seed=seed,
            n_tries=n_tries,
            n_walkers=frames.n_walkers,
            progress=not quiet,
        )
        source = {"beads": str(beads)}
    samples.record |= provenance(seed=seed, model=str(model), **source)
    samples.ess()  # nothing is written if no sample has a weight
    summary = save_samples(samples, output)
    n_lost = summary["n_out_of_domain"] + summary["n_nonfinite"]
    walkers = f"along the chains of {samples.n_walkers} walkers"
    if samples.n_walkers == 1:
        walkers = "of one chain: their errors are those of independent frames, and too small if these are not"
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


def _warn_of_beads(generator: CoarseGrainedGenerator) -> None:
    """Say so if samples were worthless already when the model was trained."""
    rounds = generator.record.get("rounds")
    best = rounds[generator.record["kept_round"]] if rounds else {"pareto_k": 0.0}
    k, n_tries = float(best["pareto_k"]), best.get("n_tries", 1)
    if k > UNRELIABLE_PARETO_K:
        of = f" (--tries {n_tries})" if n_tries > 1 else ""
        say(
            f"After its training Pareto k of the model's samples{of} was {k:.2f}, so that their weights said "
            "nothing; give beads of a simulation (--beads), or train longer."
        )


def _frames_of(path: Path, generator: CoarseGrainedGenerator) -> Frames:
    """Return frames whose beads can be taken; a file without a topology has the model's.

    Raises:
        InputError: If they are of another molecule than the model, or have weights.
    """
    import mdtraj

    from openmm_bg.io import read_frames
    from openmm_bg.observables.molecules import molecule_of

    system = generator.system
    frames = read_frames(path, None if generator.path is None else generator.path / "topology.pdb")
    if (n_atoms := frames.positions.shape[1]) != system.n_atoms:
        raise InputError(
            f"{path} has {n_atoms} atoms, but the model {system.n_atoms}; its frames must be of the model's "
            "molecule."
        )
    if molecule_of(frames.topology) != molecule_of(mdtraj.Topology.from_openmm(system.topology)):
        raise InputError(
            f"{path} is of another molecule than the model, with other residues or atoms in another order; its "
            "frames must be of the model's molecule."
        )
    if frames.log_weights is not None:
        raise InputError(
            f"The frames of {path} have weights, which their beads would lose; give frames of a simulation."
        )
    return frames


def _whole_chains(frames: Frames, number: int | None) -> int:
    """Return how many frames are taken: at most a number, and as many of each walker.

    Raises:
        InputError: If the number is smaller than that of the walkers.
    """
    if number is not None and number > len(frames):
        say(f"{frames.path} has {len(frames)} frames, fewer than {number}: one sample is drawn for each.")
    n, n_walkers = min(number or len(frames), len(frames)), frames.n_walkers
    if n < n_walkers:
        raise InputError(
            f"The frames of {frames.path} are of {n_walkers} walkers; take at least as many, not {number}."
        )
    return n - n % n_walkers
