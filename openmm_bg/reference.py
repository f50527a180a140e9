"""Reference data that come with the package: simulations without any flow, to compare with."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.analysis import Ramachandran, torsion_angles
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_bytes, atomic_write_json
from openmm_bg.training.data import load_data

_ANGLE_UNIT = np.pi / 2**15  # [rad]: angles are kept as 16-bit integers


@dataclass(frozen=True, eq=False)
class Reference:
    """A long simulation at one temperature.

    Attributes:
        ramachandran: Its backbone torsions.
        potential_energy: Its potential energies [kJ/mol] with shape=(n_frames,).
        temperature: Its temperature [K].
        record: How it was made.
    """

    ramachandran: Ramachandran
    potential_energy: np.ndarray
    temperature: float
    record: dict[str, Any]


def load_reference(name: str, temperature: float) -> Reference:
    """Load the reference of a system at a temperature [K].

    Raises:
        InputError: If the package has none.
    """
    stem = _stem(name, temperature)
    folder = resources.files("openmm_bg.systems") / "data"
    if not (folder / f"{stem}.npz").is_file():
        raise InputError(f"There is no reference for {name} at {temperature:g} K in the package.")
    record = json.loads((folder / f"{stem}.json").read_text())
    with np.load(io.BytesIO((folder / f"{stem}.npz").read_bytes())) as arrays:
        phi, psi = (arrays[angle].astype(np.float64) * _ANGLE_UNIT for angle in ("phi", "psi"))
        energy = arrays["potential_energy"].astype(np.float64)
    label = f"reference, {temperature:g} K"
    return Reference(
        Ramachandran(label, phi, psi, n_walkers=record["n_walkers"]), energy, temperature, record
    )


def make_reference(
    simulation: str | Path, folder: str | Path, *, discard: float = 0.1, thin: int = 4
) -> Path:
    """Condense a simulation with one phi and psi to a small reference file.

    Args:
        simulation: The output directory of a simulation.
        folder: Where to write ``NAME_TEMPERATURE.npz`` and ``.json``.
        discard: The first part of every walker that is left out.
        thin: Every how many frames of each walker one is kept.

    Returns:
        The data file.

    Raises:
        InputError: If the simulation cannot be read, or has no phi and psi.
    """
    data = load_data(simulation)
    if not {"phi", "psi"} <= data.system.torsions.keys():
        raise InputError(f"{data.system.name} has no single phi and psi to make a reference of.")
    n_walkers = int(data.record["n_walkers"])
    rows = np.arange(len(data.positions)).reshape(-1, n_walkers)
    kept = rows[int(discard * len(rows)) :: thin].reshape(-1)
    angles = torsion_angles(data.positions[kept], data.system.torsions)
    content = io.BytesIO()
    np.savez_compressed(
        content,
        phi=_as_integers(angles["phi"]),
        psi=_as_integers(angles["psi"]),
        potential_energy=data.energies[kept].astype(np.float32),
    )
    path = Path(folder) / f"{_stem(data.system.name, data.temperature)}.npz"
    record = {**data.record, "discard": discard, "thin": thin, "n_frames": len(kept), "n_walkers": n_walkers}
    for name in ("bonds", "torsions"):
        record.pop(name, None)
    atomic_write_json(path.with_suffix(".json"), record)
    atomic_write_bytes(path, content.getvalue())
    return path


def _stem(name: str, temperature: float) -> str:
    return f"{name}_{temperature:g}K"


def _as_integers(angles: np.ndarray) -> np.ndarray:
    return (np.round(angles / _ANGLE_UNIT).astype(np.int64) % 2**16).astype(np.uint16).view(np.int16)
