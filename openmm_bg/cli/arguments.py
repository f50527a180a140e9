"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.models import COARSE_GRAINED, GENERATOR, shipped_models


def _names(*kinds: str) -> str:
    names = ", ".join(shipped_models(*kinds))
    return f"or the name of one that comes with the package: {names}."


Model = Annotated[Path, typer.Argument(help=f"The directory of a trained model, {_names(GENERATOR)}")]
CoarseGrainedModel = Annotated[
    Path, typer.Argument(help=f"The directory that openmm-bg coarse-grain wrote, {_names(COARSE_GRAINED)}")
]
AnyModel = Annotated[Path, typer.Argument(help=f"The directory of a model, {_names()}")]
