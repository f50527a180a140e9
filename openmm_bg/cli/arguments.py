"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_bg.models import shipped_models

Model = Annotated[
    Path,
    typer.Argument(
        help="The directory of a trained model, or the name of one that comes with the package: "
        f"{', '.join(shipped_models())}."
    ),
]
