"""The progress bar of a simulation."""

from __future__ import annotations

from typing import Any

from openmm_bg.simulation.settings import SimulationSettings


class StepBar:
    """A rich progress bar over the steps, or nothing.

    Args:
        show: Whether it is seen.
        settings: The settings of the simulation.
    """

    def __init__(self, show: bool, settings: SimulationSettings) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._total = settings.burn_in + settings.frames_per_walker * settings.interval
        rungs = f" ({len(settings.ladder) + 1} temperatures each)" if settings.ladder else ""
        self._label = f"{settings.n_walkers} walkers at {settings.temperature:g} K{rungs}"
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
        self._progress = Progress(*columns, TimeRemainingColumn(), disable=not show)

    def __enter__(self) -> StepBar:
        self._progress.start()
        self._task = self._progress.add_task(self._label, total=self._total)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.stop()

    def advance(self, steps: int) -> None:
        """Say that so many more steps are done."""
        self._progress.advance(self._task, steps)
