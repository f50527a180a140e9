"""Training data: the directory that a simulation wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.trajectories import read_trajectory
from openmm_bg.units import kelvin

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Configurations from molecular dynamics at one temperature.

    Attributes:
        system: The molecule.
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3), in order of time.
        energies: Their potential energies [kJ/mol] with shape=(n_frames,).
        temperature: Their temperature [K].
        record: How they were made.
    """

    system: MolecularSystem
    positions: np.ndarray
    energies: np.ndarray
    temperature: float
    record: dict[str, Any]


def load_data(directory: str | Path) -> TrainingData:
    """Read what `simulate` wrote.

    Raises:
        InputError: If a file is missing, truncated or of another molecule, or positions are not finite.
    """
    from openmm_bg.systems import MolecularSystem

    directory = Path(directory)
    path = directory / "provenance.json"
    if not path.is_file():
        hint = "; the simulation there is not finished" if (directory / "in_progress").exists() else ""
        raise InputError(
            f"{directory} has no provenance.json, so it is no output of openmm-bg simulate{hint}."
        )
    try:
        record = json.loads(path.read_text())
        system = MolecularSystem.from_files(
            directory / "system.xml",
            directory / "topology.pdb",
            name=record["name"],
            temperature=record["system_temperature"],
            bonds=record["bonds"],
        )
        system = system.with_torsions({name: tuple(atoms) for name, atoms in record["torsions"].items()})
        expected_hash, temperature = record["system_hash"], record["temperature"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is truncated or is not the record of a simulation ({error!r}).") from error
    if system.system_hash != expected_hash:
        raise InputError(f"{directory / 'system.xml'} is not the system that {path} belongs to.")
    frames = read_trajectory(directory / "trajectory.h5", n_atoms=system.n_atoms)
    if frames.potential_energy is None:
        raise InputError(
            f"{directory / 'trajectory.h5'} has no potential energies; make it with openmm-bg simulate."
        )
    if not np.isfinite(frames.potential_energy).all():
        raise InputError(f"{directory / 'trajectory.h5'} contains NaN or infinite energies; simulate again.")
    elements = [atom.element.symbol for atom in system.topology.atoms()]
    if elements != [atom.element.symbol for atom in frames.topology.atoms]:
        raise InputError(
            f"{directory / 'trajectory.h5'} is of another molecule than {directory / 'topology.pdb'}."
        )
    return TrainingData(system, frames.positions, frames.potential_energy, kelvin(temperature), record)
