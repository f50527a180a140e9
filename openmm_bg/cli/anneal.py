"""``openmm-bg anneal``: a flow learns lower temperatures from its own samples and their energies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.cli import training_options as options
from openmm_bg.cli.arguments import Model
from openmm_bg.cli.console import print_summary, settings_from

_OPTIMISER, _ROUNDS, _GUARDS = options.OPTIMISER, "Rounds of samples", options.VALIDATION


def anneal(
    context: typer.Context,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory of the annealed model.")],
    temperature: Annotated[
        float, typer.Option("--temperature", "-T", help="The lowest temperature [K].")
    ] = 300.0,
    data: Annotated[
        Path | None,
        typer.Option(help="The training's data, as simulate wrote them, whose energies are used again."),
    ] = None,
    conditioned: Annotated[
        bool,
        typer.Option(
            "--range/--single", help="Serve all temperatures up to that of the training, or the lowest only."
        ),
    ] = True,
    n_steps: options.Steps = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = 0,
    quiet: options.Quiet = False,
    batch_size: Annotated[int, typer.Option(help="Samples in a step.", rich_help_panel=_OPTIMISER)] = 512,
    learning_rate: options.LearningRate = 1e-3,
    huber: Annotated[
        float, typer.Option(help="kT beyond which the loss grows only linearly.", rich_help_panel=_OPTIMISER)
    ] = 3.0,
    energy_margin: Annotated[
        float,
        typer.Option(help="kT above typical energies where the loss is tamed.", rich_help_panel=_OPTIMISER),
    ] = 100.0,
    max_gradient_norm: options.MaxGradientNorm = 20.0,
    averaging: options.Averaging = 0.998,
    round_size: Annotated[
        int, typer.Option(help="Samples drawn in a round.", rich_help_panel=_ROUNDS)
    ] = 8192,
    reuse: Annotated[
        float, typer.Option(help="Batches of its first round a sample is in.", rich_help_panel=_ROUNDS)
    ] = 4.0,
    buffer_rounds: Annotated[
        int, typer.Option(help="The latest rounds that batches are from.", rich_help_panel=_ROUNDS)
    ] = 8,
    n_temperatures: Annotated[
        int, typer.Option("--temperatures", help="Temperatures of a round.", rich_help_panel=_ROUNDS)
    ] = 8,
    lowest_share: Annotated[
        float, typer.Option(help="Share of a round at the lowest temperature.", rich_help_panel=_ROUNDS)
    ] = 0.5,
    resampled_share: Annotated[
        float, typer.Option(help="Share of a batch resampled by weight.", rich_help_panel=_ROUNDS)
    ] = 0.5,
    weight_clip: Annotated[
        float, typer.Option(help="Part of the weights clipped before that.", rich_help_panel=_ROUNDS)
    ] = 1e-4,
    ais_distributions: Annotated[
        int,
        typer.Option(help="Distributions of annealed importance sampling; 0: none.", rich_help_panel=_ROUNDS),
    ] = 0,
    data_share: Annotated[
        float, typer.Option(help="Share of a batch from the data.", rich_help_panel=_ROUNDS)
    ] = 0.1,
    cooled_share: Annotated[
        float,
        typer.Option(
            help="Share of a batch for the lowest temperature, rare states more often.",
            rich_help_panel=_ROUNDS,
        ),
    ] = 0.2,
    rung_ess: Annotated[
        float,
        typer.Option(help="ESS at which a lower temperature is taken in.", rich_help_panel=_GUARDS),
    ] = 0.2,
    validation_interval: options.ValidationInterval = 500,
    validation_samples: Annotated[
        int, typer.Option(help="Samples drawn in a validation, at each temperature.", rich_help_panel=_GUARDS)
    ] = 5000,
    collapse_ess: Annotated[
        float,
        typer.Option(
            help="Part of the best ESS below which the best flow is put back.", rich_help_panel=_GUARDS
        ),
    ] = 0.3,
    covered: Annotated[
        float,
        typer.Option(
            help="Part of earlier samples of the target that must keep their density.",
            rich_help_panel=_GUARDS,
        ),
    ] = 0.95,
) -> None:
    """Anneal a model to lower temperatures, without data from there.

    The model's own samples, weighted by their energies, are what it learns from. The annealed model serves all
    temperatures from --temperature to that of its training. An interrupted run is continued by the same command;
    annealing.csv in the output has its progress. Without --data, rare states are easily lost.

    Example: openmm-bg anneal model --data data --temperature 300 --output annealed
    """
    from openmm_bg.annealing import AnnealingSettings
    from openmm_bg.annealing import anneal as run_annealing
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.training import load_data

    settings = settings_from(AnnealingSettings, context.params)
    generator = BoltzmannGenerator.load(model)
    annealed = run_annealing(
        generator, output, settings, data=None if data is None else load_data(data), progress=not quiet
    )
    record = annealed.record["annealing"]
    best = next(row for row in record["log"] if row["step"] == record["best_step"])
    low, high = annealed.temperature_range
    rungs = ", ".join(f"{rung['temperature']:.4g} K" for rung in record["rungs"])
    print_summary(
        [
            ("annealing time", f"{record['seconds'] / 60:.1f} min", ""),
            ("energy evaluations", f"{record['n_energy_evaluations']}", "spent on the annealing"),
            ("rungs", rungs, "temperatures taken in, one after the other"),
            ("best step", f"{best['step']}", "of the model that was kept"),
            (
                f"ESS at {low:g} K",
                f"{best['ess']:.1%}",
                f"of {settings.validation_samples} samples, unclipped",
            ),
            ("Pareto k", f"{best['pareto_k']:.2f}", "below 0.5 the weights have a variance"),
            ("covered", f"{best['covered']:.1%}", "of earlier samples of the target keep a fair density"),
            (
                "poorest region",
                f"{best['poorest_region']:.2f}",
                "of its fair density; far below 1, a rare state is neglected",
            ),
            ("restored", f"{record['log'][-1]['restored']}", "times the best model was put back"),
            ("temperatures", f"{low:g}-{high:g} K", "the model warns outside"),
        ],
        title=f"model: {output}",
    )
