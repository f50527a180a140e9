"""The progress bar and the log of a training."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openmm_bg.files import atomic_write_text

LOG = "log.csv"


def write_log(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of a log as CSV."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    atomic_write_text(path, text.getvalue())


class TrainingBar:
    """A rich progress bar of steps with a few latest figures, or nothing.

    Args:
        show: Whether there is one.
        name: What it stands before.
        n_steps: All steps.
    """

    def __init__(self, show: bool, name: str, n_steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, TextColumn("{task.description}"), disable=not show)
        self._n_steps = n_steps

    def __enter__(self) -> TrainingBar:
        self._progress.start()
        self._task = self._progress.add_task("", total=self._n_steps)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.stop()

    def show(self, step: int, figures: str) -> None:
        """Show how far the training is.

        Args:
            step: Steps done.
            figures: The latest figures.
        """
        self._progress.update(self._task, completed=step, description=figures)
