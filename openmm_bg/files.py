"""Files that are either complete or absent, and the record of how they were made."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

_RECORDED_PACKAGES = ("mdtraj", "nflows", "numpy", "openmm", "openmmtools", "scipy", "torch")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder, and rename it to `path` when the block succeeds.

    Readers see the old file or the new one, never a part of it, also after SIGKILL or a power cut. If
    the block raises, the temporary file is removed and `path` stays as it was. Missing folders are made.

    Args:
        path: The file to write. The temporary name has the same extension.

    Yields:
        The path to write to; the block must have closed the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.partial{path.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        if os.name == "posix":  # makes the rename durable; other systems cannot open folders
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes to a file atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write text (UTF-8) to a file atomically (see `atomic_path`)."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | Path, content: Any) -> None:
    """Write JSON to a file atomically (see `atomic_path` and `json_text`)."""
    atomic_write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """Return something as JSON.

    Numpy scalars and arrays, paths, tuples and mappings are converted. JSON knows no infinities: non-finite
    numbers become the strings "inf", "-inf" and "nan", which `float` reads back.

    Raises:
        TypeError: If something has no JSON form.
    """
    return json.dumps(_as_json(content), indent=2, allow_nan=False) + "\n"


def without_folders(command: str) -> str:
    """Return a recorded command line that says nothing of where the files were, for what is given to others."""
    words = []
    for word in shlex.split(command):
        option, equals, value = word.partition("=")
        name = f"{option}={_name(value)}" if word.startswith("-") and equals else _name(word)
        words.append("openmm-bg" if name == "__main__.py" else name)
    return shlex.join(words)


def _name(word: str) -> str:
    return (Path(word).name if "/" in word else word) or word


def provenance(*, seed: int | None = None, command: str | None = None, **extra: Any) -> dict[str, Any]:
    """Return what is needed to make a result again.

    Args:
        seed: The seed of the random numbers.
        command: The command line; that of this process if not given.
        extra: Further entries, e.g. settings.
    """
    versions = {"python": platform.python_version()}
    for package in ("openmm-bg", *_RECORDED_PACKAGES):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": command if command is not None else shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        **extra,
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _as_json(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
