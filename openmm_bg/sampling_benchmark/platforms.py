"""The platform that all methods of a benchmark share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from openmm_bg.exchange.platforms import Platform, timed_platforms
from openmm_bg.files import atomic_write_json

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem


def fastest_platform(system: MolecularSystem, threads: int, path: Path) -> Platform:
    """Return the platform with the fastest dynamics, or that which was found before.

    Args:
        system: The molecule.
        threads: The most threads that may be used.
        path: The file that keeps the choice and the rates, so that all methods have the same platform.

    Raises:
        InputError: If no platform works.
    """
    if not path.exists():
        rates = [
            {**one.platform._asdict(), "steps_per_second": one.steps_per_second}
            for one in timed_platforms(system, threads)
        ]
        best = max(rates, key=lambda rate: rate["steps_per_second"])
        atomic_write_json(path, {"chosen": best, "rates": rates})
    chosen = json.loads(path.read_text())["chosen"]
    return Platform(chosen["name"], chosen["properties"])
