"""``openmm-bg coarse-grain``: a map, a bead potential and a backmapping flow from molecular dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.cli import training_options as options
from openmm_bg.cli.console import print_summary, say, settings_from

_MAP, _ROUNDS, _SAMPLING = "Map", "Rounds", "Sampling of beads"


def coarse_grain(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="The directory that openmm-bg simulate wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory of the model.")],
    kind: Annotated[
        str,
        typer.Option(
            "--map",
            help="atoms (beads are atoms), residues (centres of mass), or learned.",
            rich_help_panel=_MAP,
        ),
    ] = "atoms",
    atoms: Annotated[
        str | None,
        typer.Option(
            help="Which atoms, in mdtraj's selection language; default: name N CA C.", rich_help_panel=_MAP
        ),
    ] = None,
    n_beads: Annotated[
        int | None, typer.Option("--beads", help="Beads of a learned map; default: 6.", rich_help_panel=_MAP)
    ] = None,
    by_atom: Annotated[
        bool,
        typer.Option(
            "--by-atom",
            help="A learned map tells apart parts that look alike, as residues of a kind.",
            rich_help_panel=_MAP,
        ),
    ] = False,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="Draw beads around those of the map.", rich_help_panel=_MAP)
    ] = False,
    n_steps: options.Steps = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the networks and of the training.")] = 0,
    quiet: options.Quiet = False,
    batch_size: Annotated[
        int, typer.Option(help="Frames in a step.", rich_help_panel=options.OPTIMISER)
    ] = 512,
    learning_rate: options.LearningRate = 1e-3,
    force_weight: Annotated[
        float, typer.Option(help="Weight of force matching.", rich_help_panel=options.OPTIMISER)
    ] = 10.0,
    dispersion_weight: Annotated[
        float, typer.Option(help="Weight of the weights' dispersion.", rich_help_panel=options.OPTIMISER)
    ] = 1.0,
    dispersion_range: Annotated[
        float,
        typer.Option(
            help="Deviations of more than this many kT count linearly.", rich_help_panel=options.OPTIMISER
        ),
    ] = 3.0,
    even_fraction: Annotated[
        float,
        typer.Option(
            help="The part of each batch that is chosen evenly over the beads' configurations: rare ones are seen "
            "more often.",
            rich_help_panel=options.OPTIMISER,
        ),
    ] = 0.0,
    own_start: Annotated[
        float,
        typer.Option(
            help="The part of the steps after which draws of the flow itself count, too; 1: only in rounds.",
            rich_help_panel=options.OPTIMISER,
        ),
    ] = 0.3,
    reverse_weight: Annotated[
        float,
        typer.Option(
            help="Weight of the reverse divergence: forces on the flow's own draws push atoms apart that clash.",
            rich_help_panel=options.OPTIMISER,
        ),
    ] = 0.0,
    max_gradient_norm: options.MaxGradientNorm = 20.0,
    averaging: options.Averaging = 0.998,
    n_rounds: Annotated[int, typer.Option("--rounds", help="The most rounds.", rich_help_panel=_ROUNDS)] = 4,
    round_samples: Annotated[
        int, typer.Option(help="Samples drawn in each round.", rich_help_panel=_ROUNDS)
    ] = 20_480,
    round_steps: Annotated[int, typer.Option(help="Steps of each round.", rich_help_panel=_ROUNDS)] = 1000,
    round_learning_rate: Annotated[
        float, typer.Option(help="Adam's step size at the start of each round.", rich_help_panel=_ROUNDS)
    ] = 2e-4,
    round_tries: Annotated[
        int,
        typer.Option(
            help="Of how many configurations of the same beads each is chosen.", rich_help_panel=_ROUNDS
        ),
    ] = 1,
    frozen_flow: Annotated[
        bool,
        typer.Option(
            "--frozen-flow",
            help="Rounds train the bead potential alone, and the flow stays as it is: they cost far less.",
            rich_help_panel=_ROUNDS,
        ),
    ] = False,
    flow: Annotated[
        str,
        typer.Option(help="couplings, or autoregressive: one rotor after the other, by the atoms around it."),
    ] = "couplings",
    n_layers: Annotated[int, typer.Option("--layers", help="Coupling layers.")] = 8,
    n_bins: Annotated[int, typer.Option("--bins", help="Bins of a spline.")] = 8,
    hidden_features: Annotated[int, typer.Option(help="Width of the flow's networks.")] = 128,
    energy_features: Annotated[int, typer.Option(help="Width of the bead potential's network.")] = 64,
    n_walkers: Annotated[int, typer.Option("--walkers", help="Walkers.", rich_help_panel=_SAMPLING)] = 256,
    n_rungs: Annotated[
        int, typer.Option("--rungs", help="Temperatures of each walker.", rich_help_panel=_SAMPLING)
    ] = 5,
    ratio: Annotated[float, typer.Option(help="Ratio of each to the next.", rich_help_panel=_SAMPLING)] = 1.4,
    interval: Annotated[
        int, typer.Option(help="Trajectories between two frames.", rich_help_panel=_SAMPLING)
    ] = 20,
    burn_in: Annotated[
        int, typer.Option(help="Trajectories that are thrown away.", rich_help_panel=_SAMPLING)
    ] = 200,
) -> None:
    """Train a coarse-grained model: beads, their potential, and a flow that puts the atoms back, with weights.

    An interrupted training is continued by the same command, with the map that it has learned; log.csv in the
    output has its progress.

    Example: openmm-bg coarse-grain data --output model
    """
    from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
    from openmm_bg.coarse_graining.choices import MapChoice
    from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
    from openmm_bg.coarse_graining.training import train_coarse_grained
    from openmm_bg.samples import UNRELIABLE_PARETO_K
    from openmm_bg.training import load_data
    from openmm_bg.training.checkpoint import check_output

    parameters = context.params
    choice = settings_from(MapChoice, parameters)
    sampling = settings_from(BeadSamplingSettings, parameters)
    settings = settings_from(CoarseGrainingSettings, parameters, sampling=sampling)
    check_output(output)
    model = train_coarse_grained(load_data(data), choice, output, settings, progress=not quiet)
    coarse_map = model.coarse_map
    rounds = model.record["rounds"]
    last = rounds[model.record["kept_round"]]
    k, deviation = float(last["pareto_k"]), float(last["largest_deviation"])  # infinite ones may be words
    rows = [
        ("beads", f"{coarse_map.n_beads}", f"of {coarse_map.n_atoms} atoms"),
        (
            "round",
            f"{last['round']}",
            f"the best of 0 to {rounds[-1]['round']}; {model.record['training']['n_steps']} steps in all",
        ),
        (
            "ESS",
            f"{last['effective_sample_size']:.2%}",
            f"of {last['n_samples']} samples" + (f" of {round_tries} tries" if round_tries > 1 else ""),
        ),
        *(
            [
                (
                    "ESS by the data",
                    f"{last['data_effective_sample_size']:.2%}",
                    "small if data are hardly drawn",
                )
            ]
            if "data_effective_sample_size" in last
            else []
        ),
        ("Pareto k", f"{k:.2f}", "averages are reliable up to 0.7, good below 0.5"),
        (
            "largest deviation",
            f"{deviation:.1f}",
            f"standard errors, of {len(last['table'])} averages from those of the data",
        ),
        (
            "energy evaluations",
            f"{model.record['training']['n_energy_evaluations']}",
            "spent on the training",
        ),
    ]
    print_summary(rows, title=f"coarse-grained model at {model.temperature:g} K: {output}")
    if k > UNRELIABLE_PARETO_K:
        ways = "Train longer (--steps), with more data, or with other beads"
        if flow == "couplings" and not noisy:
            ways += "; if side chains get in each other's way, --flow autoregressive"
        if not frozen_flow:
            ways += "; if beads are sampled where none of the data are, --frozen-flow --rounds 20 --round-tries 16"
        say(f"Pareto k is above {UNRELIABLE_PARETO_K}: a few samples own the weights. {ways}.")
    tries = f" --tries {round_tries}" if round_tries > 1 else ""
    say(f"Weighted samples: openmm-bg backmap {output}{tries} -o samples.h5")
