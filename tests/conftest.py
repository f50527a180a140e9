"""What several tests share: quiet imports, and alanine dipeptide with OpenMM's own energies."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

# Importing pymbar (through openmmtools) announces through these that JAX is not installed.
for _name in ("pymbar", "pymbar.timeseries", "pymbar.mbar_solvers"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# Small tensors: more threads only wait for each other, and results depend on their number.
torch.set_num_threads(1)


class Configurations(NamedTuple):
    """Configurations [nm] with the Reference platform's energies [kJ/mol] and forces [kJ/mol/nm]."""

    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray


def _reference_energies_and_forces(system: Any, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import openmm
    from openmm import unit

    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies, forces = [], []
    for x in positions:
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        forces.append(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))
    return np.array(energies), np.array(forces)


@pytest.fixture(scope="session")
def reference_energies_and_forces() -> Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function that asks OpenMM's Reference platform, one configuration at a time, without our code."""
    return _reference_energies_and_forces


@pytest.fixture(scope="session")
def alanine() -> Any:
    """Alanine dipeptide, the package's system."""
    from openmm_bg import systems

    return systems.load("alanine_dipeptide")


@pytest.fixture(scope="session")
def md_positions(alanine: Any) -> np.ndarray:
    """1,000 configurations [nm] of Langevin dynamics at 600 K, every 5 fs from four starts."""
    import openmm
    from openmm import unit

    platform = openmm.Platform.getPlatformByName("CPU")
    frames = []
    for seed in range(1, 5):
        integrator = openmm.LangevinMiddleIntegrator(
            600 * unit.kelvin, 10 / unit.picosecond, 1 * unit.femtosecond
        )
        integrator.setRandomNumberSeed(seed)
        context = openmm.Context(alanine.system, integrator, platform, {"Threads": "1"})
        context.setPositions(alanine.positions)
        context.setVelocitiesToTemperature(600 * unit.kelvin, seed)
        integrator.step(300)
        for _ in range(250):
            integrator.step(5)
            state = context.getState(positions=True)
            frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    return np.array(frames)


@pytest.fixture(scope="session")
def md_configurations(alanine: Any, md_positions: np.ndarray) -> Configurations:
    """The dynamics' configurations with their energies and forces."""
    return Configurations(md_positions, *_reference_energies_and_forces(alanine.system, md_positions))


@pytest.fixture(scope="session")
def perturbed_configurations(alanine: Any, md_positions: np.ndarray) -> Configurations:
    """The dynamics' configurations with Gaussian noise of 1 to 30 pm, up to clashes and broken bonds."""
    noise = np.random.default_rng(2).standard_normal(md_positions.shape)
    sizes = np.resize([0.001, 0.003, 0.01, 0.03], len(md_positions))
    positions = md_positions + sizes[:, None, None] * noise
    return Configurations(positions, *_reference_energies_and_forces(alanine.system, positions))


@pytest.fixture
def rng() -> Iterator[np.random.Generator]:
    """A seeded generator of random numbers."""
    return np.random.default_rng(0)
