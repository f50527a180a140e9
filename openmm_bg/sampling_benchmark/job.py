"""What all methods share: the molecule, the model, the settings, and OpenMM's platform."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.analysis import torsion_angles
from openmm_bg.sampling_benchmark.platforms import Platform, fastest_platform
from openmm_bg.sampling_benchmark.settings import BenchmarkSettings
from openmm_bg.simulation.checks import with_hydrogen_mass
from openmm_bg.threads import potential_threads

if TYPE_CHECKING:
    import openmm

    from openmm_bg.systems import MolecularSystem

_PORTION = 25  # iterations between two signs of life


@dataclass(frozen=True)
class Job:
    """What a method is given.

    Args:
        system: The molecule, with the positions that every method starts from.
        model: The directory of the model.
        settings: The settings.
        output: The benchmark's directory, where temporary files may go.
        progress: Show progress bars.
    """

    system: MolecularSystem
    model: Path
    settings: BenchmarkSettings
    output: Path
    progress: bool = False

    @property
    def masses(self) -> np.ndarray:
        """Masses [Da] with shape=(n_atoms,), those of hydrogens as in the settings."""
        return with_hydrogen_mass(self.system.masses, self.settings.hydrogen_mass)

    @cached_property
    def platform(self) -> Platform:
        """OpenMM's platform that is fastest for this system, by trial."""
        return fastest_platform(self.system, potential_threads(), self.output / "platforms.json")

    def openmm_system(self) -> openmm.System:
        """Return a copy of the system with these masses."""
        system = copy.deepcopy(self.system.system)
        for index, mass in enumerate(self.masses):
            system.setParticleMass(index, float(mass))
        return system

    def angles(self, positions: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return phi and psi [rad] with shape=(...), float32, of positions [nm] with shape=(..., n_atoms, 3)."""
        positions = np.asarray(positions)
        found = torsion_angles(positions.reshape(-1, *positions.shape[-2:]), self.system.torsions)
        shape = positions.shape[:-2]
        return found["phi"].astype(np.float32).reshape(shape), found["psi"].astype(np.float32).reshape(shape)

    def track(self, n_iterations: int, method: str) -> Iterator[int]:
        """Yield the sizes of portions that make up a number of iterations, with a progress bar."""
        from rich.progress import Progress

        with Progress(transient=True, disable=not self.progress) as bar:
            task = bar.add_task(method, total=n_iterations)
            for start in range(0, n_iterations, _PORTION):
                size = min(_PORTION, n_iterations - start)
                yield size
                bar.advance(task, size)
