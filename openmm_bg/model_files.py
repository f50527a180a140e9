"""Model directories on disk: a header that names its files by their hashes, written as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.files import atomic_write_bytes, atomic_write_text, json_text
from openmm_bg.models import COARSE_GRAINED, GENERATOR, find_model, shipped_models

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem

FORMAT = 2
HEADER = "model.json"
CHECKPOINT = "checkpoint.safetensors"
"""The file that an interrupted training leaves in the directory that becomes its model."""

_ENTRIES = {
    GENERATOR: {"flow", "sha256", "record", "temperature_range", "system_hash"},
    COARSE_GRAINED: {"flow", "energy", "map", "sampling", "system", "sha256", "record", "system_hash"},
}

_USES = {
    GENERATOR: " Draw from it with openmm-bg sample, or use FlowMove.",
    COARSE_GRAINED: " Draw from it with openmm-bg backmap, or use CoarseGrainedMove.",
}

Content = bytes | Callable[[Path], None]
"""What is in a file: its bytes, or what writes it to a path."""


def save_model(directory: str | Path, files: Mapping[str, Content], header: Mapping[str, Any]) -> Path:
    """Write a model to a directory: readers see no model, the old one or the new one, never a mixture.

    Args:
        directory: The directory. It can be new or empty, hold a model, or what a training has left there.
        files: The content of each file by its name.
        header: What the model is; format, package and hashes are added.

    Returns:
        The directory, resolved.

    Raises:
        InputError: If the path is taken by something that is not a model.
    """
    directory = Path(directory).expanduser().resolve()
    if directory.exists() and not (directory.is_dir() and _replaceable(directory)):
        raise InputError(f"{directory} exists and is not a model; choose another path or remove it.")
    if (directory / HEADER).exists():
        _replace(directory, files, header)
    else:
        _write(directory, files, header)  # beside what a training has left there
    return directory


def _write(directory: Path, files: Mapping[str, Content], header: Mapping[str, Any]) -> None:
    """Write the model's files; the header, which makes them a model, comes last."""
    from openmm_bg import __version__

    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            atomic_write_bytes(directory / name, content)
        else:
            content(directory / name)
    whole = {
        "format": FORMAT,
        "package": "openmm_bg",
        "version": __version__,
        "units": {"length": "nm", "energy": "kJ/mol", "temperature": "K", "angle": "rad"},
        **header,
        "sha256": {name: _sha256(directory / name) for name in sorted(files)},
    }
    atomic_write_text(directory / HEADER, json_text(whole))


def _replace(directory: Path, files: Mapping[str, Content], header: Mapping[str, Any]) -> None:
    """Put a new model in the place of an old one; both are whole on disk until the old one is deleted."""
    mark = uuid.uuid4().hex[:12]
    new, old = (directory.with_name(f".{directory.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        _write(new, files, header)
        directory.rename(old)
        new.rename(directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old)


def model_hash(directory: str | Path) -> str:
    """Return the hash of a saved model (hexadecimal): that of its header, which holds its files' hashes.

    Raises:
        ModelFileError: If there is no model.
    """
    directory = find_model(directory)
    read_any_header(directory)
    return _sha256(directory / HEADER)


def read_header(directory: str | Path, kind: str = GENERATOR) -> dict[str, Any]:
    """Return a saved model's header: what it is, how it was made, and its files' hashes.

    Args:
        directory: The model's directory, or the name of a model that comes with the package.
        kind: The kind of model that is wanted.

    Raises:
        ModelFileError: If there is no model, it is of another kind, or this version cannot read it.
    """
    header = read_any_header(directory)
    if (found := header.get("kind", GENERATOR)) != kind:
        raise ModelFileError(f"The model in {directory} is a {found}; a {kind} is needed here.{_USES[found]}")
    return header


def energy_evaluations(record: Mapping[str, Any]) -> dict[str, int]:
    """Return the energy evaluations that a generator has cost, by stage, from its record."""
    counts = {"simulation": (record.get("data") or {}).get("n_energy_evaluations", 0)}
    counts["training"] = (record.get("training") or {}).get("n_energy_evaluations", 0)
    counts["annealing"], annealing = 0, record.get("annealing")
    while annealing:
        counts["annealing"] += annealing["n_energy_evaluations"]
        annealing = annealing.get("before")
    return counts


def read_any_header(directory: str | Path) -> dict[str, Any]:
    """Return the header of a model of any kind.

    Raises:
        ModelFileError: If there is no model, or this version cannot read it.
    """
    path = find_model(directory) / HEADER
    if not path.is_file():
        names = ", ".join(shipped_models())
        if path.parent.is_dir() and path.parent.name in shipped_models():
            raise ModelFileError(
                f"The folder {path.parent} holds no model (no {HEADER}), and hides the one of that name that comes "
                "with the package; rename it, or work in another folder."
            )
        raise ModelFileError(
            f"There is no model in {directory} (no {HEADER}); models that come with the package: {names}."
        )
    try:
        header = json.loads(path.read_text())
        found = header["format"]
        needed = _ENTRIES.get(header.get("kind", GENERATOR))
        complete = needed is not None and needed <= header.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is truncated or is not a model's header.") from error
    if found != FORMAT or not complete:
        raise ModelFileError(f"{path} has format {found}; this version of openmm_bg reads format {FORMAT}.")
    return header


def check_files(directory: Path, header: dict[str, Any]) -> None:
    """Compare a saved model's files with the hashes in its header.

    Raises:
        ModelFileError: If one is missing, truncated or was changed.
    """
    for name, expected in header["sha256"].items():
        if not (directory / name).is_file():
            raise ModelFileError(f"The model in {directory} lacks its file {name}; copy the whole directory.")
        if _sha256(directory / name) != expected:
            raise ModelFileError(
                f"The file {name} of the model in {directory} is truncated or was changed; copy it again."
            )


def system_files(system: MolecularSystem) -> dict[str, Content]:
    """Return the files that hold a molecule."""
    return {"system.xml": system.system_xml().encode(), "topology.pdb": system.topology_pdb().encode()}


def system_entry(system: MolecularSystem | None) -> dict[str, Any] | None:
    """Return what the header says of a molecule."""
    return system and {
        "name": system.name,
        "temperature": system.temperature,
        "torsions": dict(system.torsions),
        "bonds": system.bonds,
    }


def load_system(directory: Path, header: dict[str, Any]) -> MolecularSystem | None:
    """Return the molecule of a saved model, if it has one."""
    from openmm_bg.systems import MolecularSystem

    if "system.xml" not in header["sha256"]:
        return None
    own = header["system"]
    system = MolecularSystem.from_files(
        directory / "system.xml",
        directory / "topology.pdb",
        name=own["name"],
        temperature=own["temperature"],
        bonds=own["bonds"],
    )
    torsions = {name: tuple(atoms) for name, atoms in own["torsions"].items()}
    return system.with_torsions(torsions)


def _replaceable(directory: Path) -> bool:
    """Tell whether a directory is empty, or was written by `save_model` or by a training."""
    names = {path.name for path in directory.iterdir()}
    return not names or bool(names & {HEADER, CHECKPOINT})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
