"""The commands that make results again, from what was recorded with them; they end in a comment that says so."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmm_bg.exchange import ExchangeRecord


def sample_command(path: Path, record: dict[str, Any]) -> str:
    """Return a command that draws samples again, from their summary and record."""
    if not record.get("normalized", True):  # of a coarse-grained model
        options = {
            "beads": record.get("beads"),
            "interval": record.get("interval"),
            "tries": n_tries if (n_tries := record.get("n_tries", 1)) > 1 else None,
            "number": record.get("n_draws"),
            "seed": record.get("seed"),
            "output": path.name,
        }
        return _command("backmap", str(record.get("model", "MODEL")), options)
    options = {
        "temperature": record.get("temperature"),
        "number": record.get("n_draws"),
        "seed": record.get("seed"),
        "batch-size": record.get("batch_size"),
        "output": path.name,
    }
    return _command("sample", str(record.get("model", "MODEL")), options)


def exchange_command(path: Path, run: ExchangeRecord) -> str:
    """Return a command that makes a replica exchange run again, from its settings."""
    settings = run.settings
    options = {
        "temperature-min": settings["temperatures"][0],
        "temperature-max": settings["temperatures"][-1],
        "replicas": len(settings["temperatures"]),
        "iterations": run.n_iterations,
        "sampler": settings.get("sampler"),
        "move": settings.get("move", "flow"),
        "proposals": settings["n_proposals"] or None,
        "candidates": settings.get("n_candidates"),
        "steps": settings["n_steps"],
        "timestep": settings["timestep"],
        "collision-rate": settings["collision_rate"],
        "hydrogen-mass": settings.get("hydrogen_mass"),
        "dynamics": settings.get("dynamics"),
        "platform": settings["platform"],
        "seed": settings["seed"],
        "output": path.name,
    }
    return _command("exchange", str(settings["model"]), options)


def _command(name: str, argument: str, options: dict[str, Any]) -> str:
    words = ["openmm-bg", name, argument]
    for option, value in options.items():
        if value is not None:
            words += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    return f"{shlex.join(words)}  # reconstructed"
