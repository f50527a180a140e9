"""``openmm-bg train``: a flow from molecular dynamics and energies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.cli import training_options as options
from openmm_bg.cli.console import print_summary, settings_from

_OPTIMISER, _FLOW, _VALIDATION = options.OPTIMISER, "Flow", options.VALIDATION


def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="The directory that openmm-bg simulate wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory of the model.")],
    n_steps: options.Steps = 7000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the flow and of the training.")] = 0,
    quiet: options.Quiet = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Event files for TensorBoard beside log.csv.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Frames in a step of maximum likelihood.", rich_help_panel=_OPTIMISER)
    ] = 256,
    kl_batch_size: Annotated[
        int, typer.Option(help="Samples in a step of reverse KL.", rich_help_panel=_OPTIMISER)
    ] = 256,
    learning_rate: options.LearningRate = 1e-3,
    kl_weight: Annotated[
        float,
        typer.Option(help="Final weight of the reverse KL (energies), 0 to 1.", rich_help_panel=_OPTIMISER),
    ] = 0.2,
    dispersion_weight: Annotated[
        float,
        typer.Option(help="Weight of the dispersion of the data's energies.", rich_help_panel=_OPTIMISER),
    ] = 1.0,
    dispersion_ratio: Annotated[
        float,
        typer.Option(help="Lowest T / T_train of that dispersion.", rich_help_panel=_OPTIMISER),
    ] = 0.5,
    cold_fraction: Annotated[
        float,
        typer.Option(help="Fraction of the steps in which T is lower.", rich_help_panel=_OPTIMISER),
    ] = 0.5,
    kl_start: Annotated[
        float,
        typer.Option(help="Fraction of the run at which that weight rises.", rich_help_panel=_OPTIMISER),
    ] = 0.7,
    kl_full: Annotated[
        float, typer.Option(help="Fraction of the run at which it is reached.", rich_help_panel=_OPTIMISER)
    ] = 0.8,
    energy_margin: Annotated[
        float,
        typer.Option(
            help="kT above the data's energies where the loss is tamed.", rich_help_panel=_OPTIMISER
        ),
    ] = 100.0,
    max_gradient_norm: options.MaxGradientNorm = 20.0,
    averaging: options.Averaging = 0.998,
    validation_fraction: Annotated[
        float, typer.Option(help="Fraction of the frames, the last, held out.", rich_help_panel=_VALIDATION)
    ] = 0.1,
    validation_interval: options.ValidationInterval = 250,
    validation_samples: Annotated[
        int, typer.Option(help="Samples drawn in a validation.", rich_help_panel=_VALIDATION)
    ] = 5000,
    patience: Annotated[
        int,
        typer.Option(
            help="Stop after so many validations without progress; 0: never.", rich_help_panel=_VALIDATION
        ),
    ] = 0,
    flow: Annotated[
        str,
        typer.Option(
            help="Kind of flow: spline, realnvp, tsf (temperature-steerable), or tsf-affine.",
            rich_help_panel=_FLOW,
        ),
    ] = "spline",
    n_layers: Annotated[int, typer.Option("--layers", help="Coupling layers.", rich_help_panel=_FLOW)] = 8,
    n_bins: Annotated[int, typer.Option("--bins", help="Bins of a spline.", rich_help_panel=_FLOW)] = 8,
    bound: Annotated[
        float, typer.Option(help="Splines act within so many standard deviations.", rich_help_panel=_FLOW)
    ] = 6.0,
    hidden_features: Annotated[int, typer.Option(help="Width of the networks.", rich_help_panel=_FLOW)] = 128,
    n_blocks: Annotated[
        int, typer.Option("--blocks", help="Residual blocks of splines' networks.", rich_help_panel=_FLOW)
    ] = 1,
    n_hidden: Annotated[
        int,
        typer.Option(
            "--hidden-layers", help="Hidden layers of affine layers' networks.", rich_help_panel=_FLOW
        ),
    ] = 3,
    conditioned: Annotated[
        bool,
        typer.Option(
            "--conditioned", help="The networks of splines see the temperature.", rich_help_panel=_FLOW
        ),
    ] = False,
    n_momenta: Annotated[
        int | None,
        typer.Option("--momenta", help="Momenta of a tsf; default: one a feature.", rich_help_panel=_FLOW),
    ] = None,
) -> None:
    """Train a flow on molecular dynamics data, by example and by energy.

    An interrupted training is continued by the same command; log.csv in the output has its progress,
    and so have event files with --tensorboard: look at them with tensorboard --logdir MODEL.

    Example: openmm-bg train data --output model
    """
    from openmm_bg.training import TrainingSettings, load_data
    from openmm_bg.training import train as run_training

    settings = settings_from(TrainingSettings, context.params)
    generator = run_training(load_data(data), output, settings, progress=not quiet, tensorboard=tensorboard)
    record = generator.record["training"]
    best = min(record["log"], key=lambda row: row["held_out_nll"] + row["kl"])
    low, high = generator.temperature_range
    print_summary(
        [
            ("training time", f"{record['seconds'] / 60:.1f} min", "without validations"),
            ("energy evaluations", f"{record['n_energy_evaluations']}", "spent on the training"),
            ("best step", f"{best['step']}", "of the model that was kept"),
            (
                "ESS",
                f"{best['ess']:.1%}",
                f"of {settings.validation_samples} samples at {generator.temperature:g} K",
            ),
            (
                "held-out NLL",
                f"{best['held_out_nll']:.2f}",
                "negative log-likelihood of frames not trained on",
            ),
            ("temperatures", f"{low:g}-{high:g} K", "the model warns outside"),
        ],
        title=f"model: {output}",
    )
