"""Options that ``train`` and ``anneal`` share."""

from __future__ import annotations

from typing import Annotated

import typer

OPTIMISER, VALIDATION = "Loss and optimiser", "Validation"

Steps = Annotated[int, typer.Option("--steps", help="Optimiser steps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
LearningRate = Annotated[
    float, typer.Option(help="Adam's step size at the start.", rich_help_panel=OPTIMISER)
]
MaxGradientNorm = Annotated[
    float, typer.Option(help="Gradients are scaled down to this norm.", rich_help_panel=OPTIMISER)
]
Averaging = Annotated[
    float, typer.Option(help="Decay of the parameters' moving average.", rich_help_panel=OPTIMISER)
]
ValidationInterval = Annotated[
    int, typer.Option(help="Steps between validations and checkpoints.", rich_help_panel=VALIDATION)
]
