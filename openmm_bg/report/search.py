"""Which files and directories a report is about, and under which names it shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from openmm_bg.errors import InputError
from openmm_bg.io import are_samples, is_exchange
from openmm_bg.models import find_model

KINDS = ("model", "simulation", "samples", "exchange", "summary")
_TRAJECTORIES = (".dcd", ".xtc", ".trr", ".pdb")


def find(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return files and directories by kind, each once; directories are searched one level deep.

    Raises:
        InputError: If one does not exist, cannot be read, or holds nothing to report.
    """
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    seen: set[Path] = set()
    for given in paths:
        path = given if given.exists() else find_model(given)  # perhaps a model that comes with the package
        if not path.exists():
            raise InputError(f"There is no file or directory {given}.")
        kinds = {path: _kind(path)}
        if path.is_dir() and kinds[path] is None:
            # Trajectories beside a run may be anything; those that belong to the report are named.
            children = (child for child in path.iterdir() if not child.name.startswith("."))
            candidates = sorted(child for child in children if child.suffix not in _TRAJECTORIES)
            kinds = {child: _kind(child, named=False) for child in candidates}
        if not any(kinds.values()):
            raise InputError(
                f"{path} holds nothing to report: no model, simulation, samples (.h5) or exchange run (.nc)."
            )
        for candidate, kind in kinds.items():
            # A simulation is its trajectory, whichever of both is given.
            is_folder = kind == "simulation" and candidate.is_dir()
            identity = (candidate / "trajectory.h5" if is_folder else candidate).resolve()
            if kind is not None and identity not in seen:
                seen.add(identity)
                found[kind].append(candidate)
    return found


def name_of(path: Path) -> str:
    """Return the last part of a path, also of "."."""
    return path.name or path.resolve().name


def distinct(labels: Sequence[str], paths: Sequence[Path | None]) -> list[str]:
    """Make labels differ: by folders of their paths before them where they are equal, and at last by a number.

    Args:
        labels: The labels.
        paths: The file or directory of each, if it has one.
    """
    found = list(labels)
    # A simulation is called by its directory, which is then not put before it once more.
    folders = [() if path is None else _directory(path).resolve().parts[1:-1] for path in paths]
    for depth in range(1, max(map(len, folders), default=0) + 1):
        repeated = {label for label, count in Counter(found).items() if count > 1}
        found = [
            "/".join((*parts[-depth:], label)) if now in repeated and len(parts) >= depth else now
            for now, label, parts in zip(found, labels, folders, strict=True)
        ]
    seen: Counter[str] = Counter()
    for k, label in enumerate(found):
        seen[label] += 1
        if seen[label] > 1:
            found[k] = f"{label} ({seen[label]})"
    return found


def _kind(path: Path, named: bool = True) -> str | None:
    """Return what a path holds; one that was not named but found is passed over if it is not of this package."""
    if path.is_dir():
        if (path / "model.json").is_file() or (path / "log.csv").is_file():
            return "model"
        return "simulation" if (path / "trajectory.h5").is_file() else None
    if path.name == "summary.json":
        return "summary"
    if path.suffix == ".nc" and not path.stem.endswith("_checkpoint"):
        if named:
            return "exchange" if is_exchange(path) else "simulation"
        return "exchange" if _is_own_exchange(path) else None
    if path.suffix == ".h5":
        return "samples" if are_samples(path) else "simulation"
    return "simulation" if path.suffix in _TRAJECTORIES else None


def _is_own_exchange(path: Path) -> bool:
    from openmm_bg.exchange.record import open_storage

    with open_storage(path) as dataset:
        return "metadata" in dataset.groups and "openmm_bg" in dataset["metadata"].variables


def _directory(path: Path) -> Path:
    return path.parent if path.name == "trajectory.h5" else path
