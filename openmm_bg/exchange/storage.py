"""The files of a run: whether they hold this run or another, half of one, or none; and its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_bg.errors import InputError
from openmm_bg.exchange.preparation import silence_openmmtools
from openmm_bg.exchange.record import open_storage, read_settings

if TYPE_CHECKING:
    from openmm_bg.exchange.choices import Choices
    from openmm_bg.generator import BoltzmannGenerator


def stored_run(
    path: Path, model: Any = None, choices: Choices | None = None, **dynamics: Any
) -> tuple[dict[str, Any], int]:
    """Return the settings of a stored run and its last iteration.

    Args:
        path: The netCDF file.
        model: The model that it must be of, if given.
        choices: What else must be the same, if given.
        **dynamics: Settings of the dynamics by name, which must be the same, too.

    Raises:
        InputError: If the file holds no run, or another one.
    """
    with open_storage(path) as dataset:
        settings = read_settings(dataset, path)
        last_iteration = int(dataset["last_iteration"][0])
    differences = []
    if model is not None:
        wanted = dict(zip(("model", "model_hash"), model_and_hash(model), strict=True))
        differences = [(name, settings[name], one) for name, one in wanted.items() if settings[name] != one]
    if not differences and choices is not None and (found := choices.difference(settings)):
        differences = [found]
    settings = {"dynamics": "openmm", **settings}  # what runs of older versions had
    differences += [
        (name, settings.get(name), one) for name, one in dynamics.items() if settings.get(name) != one
    ]
    for name, stored, wanted in differences:
        raise InputError(
            f"{path} holds a run with {name}={stored}, not {wanted}; continue it with its own settings "
            "or give another file name."
        )
    return settings, last_iteration


def creation_marker(path: Path) -> Path:
    """Return the file that exists while a run is being created."""
    return path.with_name(f".{path.name}.creating")


def remove_unfinished(path: Path) -> None:
    """Remove the files of a run that was killed while it was created: there is nothing to keep."""
    marker = creation_marker(path)
    if marker.exists():
        for leftover in (path, path.with_name(f"{path.stem}_checkpoint{path.suffix}"), marker):
            leftover.unlink(missing_ok=True)


def new_storage(storage: Any) -> Path:
    """Return the path of a storage file that can be written.

    Raises:
        InputError: If it exists, or its directory does not.
    """
    path = Path(storage)
    if path.exists():
        raise InputError(f"{path} exists already; resume it or give another file name.")
    if not path.parent.is_dir():
        raise InputError(f"There is no directory {path.parent} to write {path.name} to.")
    return path


def model_and_hash(model: Any) -> tuple[str, str]:
    """Return the absolute path of a model and its hash.

    Raises:
        ModelFileError: If there is none.
    """
    silence_openmmtools()  # before openmm_bg.mcmc imports openmmtools
    from openmm_bg.mcmc import registry

    path = registry.resolve(model)
    return path, registry.current_hash(path)


def load_model(model: Any, model_hash: str | None = None) -> tuple[BoltzmannGenerator, str, str]:
    """Return a model that knows its molecular system, its absolute path and its hash.

    Args:
        model: The directory of the model.
        model_hash: The hash that it must have, if given.

    Raises:
        ModelFileError: If it is missing, damaged, or another one.
        InputError: If it was saved without its system.
    """
    silence_openmmtools()
    from openmm_bg.mcmc import registry

    path = registry.resolve(model)
    model_hash = model_hash or registry.current_hash(path)
    generator = registry.load(path, model_hash)
    if generator.system is None:
        raise InputError(
            f"The model {path} was saved without its molecular system; save it with one: "
            "BoltzmannGenerator(flow, potential, system=system)."
        )
    return generator, path, model_hash
