"""Jobs in stages, which can be stopped and continued: their settings, and the time that each stage took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json, json_text


class Stages:
    """The record of a job's output directory, in ``stages.json``.

    Args:
        output: The directory.
        settings: The job's settings, as JSON can hold them.
        say: Called with a line before each stage.

    Attributes:
        path: The file.
        settings: As given, as they come back from JSON.
        wall_seconds: Of each stage by name, over all calls.

    Raises:
        InputError: If the directory holds the results of other settings.
    """

    def __init__(
        self, output: Path, settings: dict[str, Any], say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path, self._say = self.path_in(output), say
        self.settings: dict[str, Any] = json.loads(json_text(settings))
        self.wall_seconds: dict[str, float] = {}
        if self.path.exists():
            found = json.loads(self.path.read_text())
            if found["settings"] != self.settings:
                raise InputError(self.refusal(output))
            self.wall_seconds = found["wall_seconds"]
        self._write()

    @staticmethod
    def path_in(output: Path) -> Path:
        """Return the file of an output directory."""
        return output / "stages.json"

    @staticmethod
    def refusal(output: Path) -> str:
        """Return what is said of a directory with the results of other settings."""
        return f"{output} holds results of other settings; choose another output directory or remove it."

    @contextmanager
    def stage(self, name: str, line: str | None = None) -> Iterator[None]:
        """Announce a stage and time it; the time of one that was interrupted counts too.

        Args:
            name: The name under which its time is kept.
            line: What is said; the name if not given.
        """
        self._say(name if line is None else line)
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a stage without announcing it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.wall_seconds.get(name, 0.0) + time.perf_counter() - start
            self.wall_seconds[name] = round(seconds, 2)
            self._write()

    def _write(self) -> None:
        atomic_write_json(self.path, {"settings": self.settings, "wall_seconds": self.wall_seconds})
