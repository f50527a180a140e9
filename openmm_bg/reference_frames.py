"""Configurations that come with the package: a few frames of a long simulation, to look at and to start from."""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_path, atomic_write_bytes, atomic_write_json, without_folders
from openmm_bg.training.data import load_data

if TYPE_CHECKING:
    from openmm_bg.trajectories import Frames


def load_reference_frames(name: str, temperature: float, folder: str | Path | None = None) -> Frames:
    """Load the configurations of a system at a temperature [K] that come with the package.

    Their positions are rounded to 0.001 nm, so that energies computed from them are a little higher; the energies
    that come with them are those of the simulation.

    Args:
        name: The system's name.
        temperature: The temperature [K].
        folder: Where they are, if not in the package.

    Raises:
        InputError: If the package has none.
    """
    import mdtraj

    from openmm_bg import systems
    from openmm_bg.trajectories import Frames, convergence_statement

    place = "the package" if folder is None else str(folder)
    if folder is None:
        folder = Path(str(resources.files("openmm_bg.systems"))) / "data"
    path = Path(folder) / f"{_stem(name, temperature)}.xtc"
    if not path.is_file():
        raise InputError(f"There are no configurations of {name} at {temperature:g} K in {place}.")
    record = json.loads(path.with_suffix(".json").read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        energies = arrays["potential_energy"].astype(np.float64)
    topology = mdtraj.Topology.from_openmm(systems.load(name).topology)
    positions = mdtraj.load(str(path), top=topology).xyz
    return Frames(
        path,
        positions.astype(np.float64),
        topology,
        potential_energy=energies,
        temperature=temperature,
        n_walkers=record["n_walkers"],
        convergence=convergence_statement(record),
    )


def make_reference_frames(
    simulation: str | Path, folder: str | Path, *, n_frames: int = 4000, discard: float = 0.1
) -> Path:
    """Thin a simulation to a small trajectory.

    Args:
        simulation: The output directory of a simulation.
        folder: Where to write ``NAME_TEMPERATURE_frames.xtc``, ``.npz`` (energies) and ``.json`` (the record).
        n_frames: How many frames to keep at most, equally spaced along each walker.
        discard: The first part of every walker that is left out.

    Returns:
        The trajectory.

    Raises:
        InputError: If the simulation cannot be read, or has more walkers than there are frames to keep.
    """
    import mdtraj

    data = load_data(simulation)
    n_walkers = int(data.record["n_walkers"])
    if n_frames < n_walkers:
        raise InputError(
            f"Keep at least one frame of each of the {n_walkers} walkers, not {n_frames} in all."
        )
    rows = np.arange(len(data.positions)).reshape(-1, n_walkers)
    rows = rows[int(discard * len(rows)) :]
    thin = -(-len(rows) * n_walkers // n_frames)
    kept = rows[::thin].reshape(-1)
    path = Path(folder) / f"{_stem(data.system.name, data.temperature)}.xtc"
    positions = data.positions[kept] - data.positions[kept].mean(axis=1, keepdims=True)
    trajectory = mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(data.system.topology))
    with atomic_path(path) as temporary:
        trajectory.save_xtc(str(temporary))
    content = io.BytesIO()
    np.savez_compressed(content, potential_energy=data.energies[kept].astype(np.float32))
    atomic_write_bytes(path.with_suffix(".npz"), content.getvalue())
    record = {key: value for key, value in data.record.items() if key not in ("bonds", "torsions")}
    record["command"] = without_folders(record["command"])
    record |= {"discard": discard, "thin": thin, "n_walkers": n_walkers, "n_frames": len(kept)}
    atomic_write_json(path.with_suffix(".json"), record)
    return path


def _stem(name: str, temperature: float) -> str:
    return f"{name}_{temperature:g}K_frames"
