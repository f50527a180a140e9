"""Reading trajectories, with errors that say what is wrong with a file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import mdtraj

_CARRIES_TOPOLOGY = {".h5", ".hdf5", ".pdb", ".cif", ".gro", ".lh5"}


@dataclass(frozen=True, eq=False)
class Frames:
    """Configurations read from a file.

    Attributes:
        path: The file.
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
        topology: The mdtraj topology.
        potential_energy: Potential energies [kJ/mol] with shape=(n_frames,), if the file has them.
        temperature: The temperature [K], if the file tells one for all frames.
        log_weights: Log-weights with shape=(n_frames,) of samples; None for a trajectory.
        n_walkers: Independent walkers in a trajectory; frame i belongs to walker i % n_walkers.
        convergence: Whether walkers from different starts agree, of a simulation that has such; empty otherwise.
    """

    path: Path
    positions: np.ndarray
    topology: mdtraj.Topology
    potential_energy: np.ndarray | None = None
    temperature: float | None = None
    log_weights: np.ndarray | None = None
    n_walkers: int = 1
    convergence: str = ""

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.positions)

    def label(self, weighted: bool = True) -> str:
        """Return what they are, for plots and tables: the file, the temperature, and whether weights are used."""
        stem = self.path.parent.name if self.path.name == "trajectory.h5" else self.path.stem
        parts = [stem or self.path.stem]
        if self.temperature and f"{self.temperature:g}K" not in stem:
            parts.append(f"{self.temperature:g} K")
        if weighted and self.log_weights is not None:
            parts.append("reweighted")
        return ", ".join(parts)


def read_trajectory(
    path: str | Path, topology: str | Path | None = None, *, n_atoms: int | None = None
) -> Frames:
    """Read a trajectory in any of mdtraj's formats.

    Args:
        path: The trajectory.
        topology: A file with the topology (e.g. PDB), for formats without one (e.g. DCD, XTC).
        n_atoms: The number of atoms it must have.

    Raises:
        InputError: If a file is missing or truncated, the topology is missing or of another molecule,
            or a position is NaN or infinite.
    """
    import mdtraj

    path = existing_file(path)
    if topology is not None:
        topology = existing_file(topology)
    elif path.suffix.lower() not in _CARRIES_TOPOLOGY:
        raise InputError(f"{path} has no topology inside; give one with --topology, e.g. a PDB file.")
    has_own = path.suffix.lower() in _CARRIES_TOPOLOGY
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unit cells and unusual PDB records
            trajectory = mdtraj.load(str(path), **({} if has_own else {"top": str(topology)}))
    except Exception as error:  # the parsers raise many kinds
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{path} cannot be read as a trajectory; it may be truncated, or belong to another topology"
            + (f" ({reason[-1].strip().rstrip('.')})." if reason else ".")
        ) from error
    check_frames(path, trajectory.xyz, n_atoms)
    if path.suffix.lower() == ".dcd" and len(trajectory) < (claimed := _dcd_frames(path)):
        raise InputError(f"{path} is truncated: it has {len(trajectory)} of the {claimed} frames it claims.")
    energy, temperature = _energies(path, len(trajectory))
    record = _simulation_record(path)
    return Frames(
        path=path,
        positions=trajectory.xyz.astype(np.float64),
        topology=trajectory.topology,
        potential_energy=energy,
        temperature=temperature,
        n_walkers=_walkers(record, len(trajectory)),
        convergence=convergence_statement(record) if path.name == "trajectory.h5" else "",
    )


def existing_file(path: str | Path) -> Path:
    """Return the path of a file that is there.

    Raises:
        InputError: If it is not, or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file in it.")
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    return path


def check_frames(path: Path, positions: np.ndarray, n_atoms: int | None = None) -> None:
    """Refuse positions [nm] with shape=(n_frames, n_atoms, 3) that cannot be configurations of a molecule.

    Raises:
        InputError: If there are none, the number of atoms is another, or values are NaN or missing.
    """
    if len(positions) == 0:
        raise InputError(f"{path} has no frames.")
    if n_atoms is not None and positions.shape[1] != n_atoms:
        raise InputError(
            f"{path} has {positions.shape[1]} atoms, but {n_atoms} are expected: it is a trajectory of "
            "another molecule."
        )
    bad = ~np.isfinite(positions).all(axis=(1, 2))
    if bad.any():
        raise InputError(
            f"{path} has NaN or infinite positions in {bad.sum()} of {len(bad)} frames, first in frame "
            f"{int(bad.argmax())}; remove those frames."
        )
    # A truncated netCDF file is read as if its missing numbers were zero.
    collapsed = (np.diff(positions, axis=1) == 0).all(axis=2).any(axis=1)
    if collapsed.any():
        raise InputError(
            f"{path} has atoms on top of each other in {collapsed.sum()} of {len(bad)} frames, first in "
            f"frame {int(collapsed.argmax())}; it may be truncated."
        )


def _dcd_frames(path: Path) -> int:
    """Return the number of frames in a DCD file's header, which its reader ignores."""
    with path.open("rb") as file:
        header = file.read(12)
    order = "little" if int.from_bytes(header[:4], "little") == 84 else "big"
    return int.from_bytes(header[8:12], order)


def _energies(path: Path, n_frames: int) -> tuple[np.ndarray | None, float | None]:
    """Return the energies [kJ/mol] and the one temperature [K] that mdtraj's HDF5 files hold."""
    if path.suffix.lower() not in {".h5", ".hdf5"}:
        return None, None
    import mdtraj

    with mdtraj.formats.HDF5TrajectoryFile(str(path)) as file:
        nodes = {name: file.root[name][:] for name in ("potentialEnergy", "temperature") if name in file.root}
    energy, temperatures = nodes.get("potentialEnergy"), nodes.get("temperature")
    if energy is not None:
        energy = energy.astype(np.float64) if len(energy) == n_frames else None
    single = temperatures is not None and len(temperatures) > 0 and np.ptp(temperatures) < 1e-3
    return energy, float(temperatures[0]) if single else None


def _simulation_record(path: Path) -> dict[str, Any]:
    """Return what openmm-bg simulate has recorded beside a trajectory; nothing of others."""
    try:
        record = json.loads((path.parent / "provenance.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _walkers(record: Mapping[str, Any], n_frames: int) -> int:
    """Return the number of walkers of a trajectory that openmm-bg simulate wrote, 1 of others."""
    try:
        n_walkers = int(record["n_walkers"])
    except (ValueError, KeyError, TypeError):
        return 1
    return n_walkers if n_walkers > 0 and n_frames % n_walkers == 0 else 1


def convergence_statement(record: Mapping[str, Any]) -> str:
    """Return what the record of a simulation says of whether its starts agree; empty if nothing."""
    comparison = record.get("start_comparison")
    return str(comparison.get("statement", "")) if isinstance(comparison, dict) else ""
