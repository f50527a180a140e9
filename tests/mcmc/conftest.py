"""Small models that are really saved and loaded: a harmonic oscillator's, and alanine dipeptide's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def _imported_before_warnings_count() -> None:
    """Import openmmtools' parts once, here: some of them warn when they are imported."""
    import openmmtools.mcmc
    import openmmtools.multistate  # noqa: F401


@pytest.fixture(autouse=True)
def _fresh_process() -> None:
    """Forget what the process remembers between tests: models, warnings given, random numbers."""
    from openmm_bg import mcmc
    from openmm_bg.mcmc import flow_move, registry

    registry.clear()
    flow_move._given_warnings.clear()
    mcmc.seed(1)


@pytest.fixture(scope="session")
def oscillator() -> Any:
    """openmmtools' harmonic oscillator: one particle in an external field."""
    from openmmtools import testsystems

    return testsystems.HarmonicOscillator()


@pytest.fixture(scope="session")
def oscillator_model(tmp_path_factory: pytest.TempPathFactory, oscillator: Any) -> Path:
    """A saved model of the oscillator: a Gaussian about as wide as the Boltzmann distribution at 298 K."""
    from openmm import unit

    from openmm_bg.flows import SplineFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.transforms import CartesianCoordinates
    from openmm_bg.units import thermal_energy

    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    width = np.sqrt(thermal_energy(298.0) / stiffness)
    data = np.random.default_rng(0).normal(0.2 * width, 1.2 * width, (500, 1, 3))
    flow = SplineFlow(
        CartesianCoordinates(1).fit(data), 298.0, n_layers=2, hidden_features=8, n_blocks=1, seed=0
    )
    path = tmp_path_factory.mktemp("oscillator") / "model"
    BoltzmannGenerator(flow, temperature_range=(250.0, 350.0)).save(path)
    return path


@pytest.fixture(scope="session")
def alanine_model(tmp_path_factory: pytest.TempPathFactory, alanine: Any, md_positions: np.ndarray) -> Path:
    """A saved model of alanine dipeptide, fitted to short dynamics but not trained."""
    from openmm_bg.flows import SplineFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.transforms import InternalCoordinates

    coordinates = InternalCoordinates.from_reference(alanine.positions, alanine.bonds, alanine.masses)
    flow = SplineFlow(coordinates.fit(md_positions), 600.0, n_layers=2, hidden_features=16, seed=0)
    path = tmp_path_factory.mktemp("alanine") / "model"
    BoltzmannGenerator(flow, system=alanine, temperature_range=(250.0, 650.0)).save(path)
    return path
