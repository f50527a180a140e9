"""Small models that are really saved and loaded: a harmonic oscillator's, and alanine dipeptide's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _imported_before_warnings_count() -> None:
    """Import openmmtools' parts once, here: some of them warn when they are imported."""
    import openmmtools.mcmc
    import openmmtools.multistate  # noqa: F401


@pytest.fixture(autouse=True)
def _fresh_process() -> None:
    """Forget what the process remembers between tests: models, warnings given, random numbers."""
    from openmm_bg import mcmc
    from openmm_bg.mcmc import proposal_move, registry

    registry.clear()
    proposal_move._given_warnings.clear()
    mcmc.seed(1)


@pytest.fixture(scope="session")
def oscillator() -> Any:
    """openmmtools' harmonic oscillator: one particle in an external field."""
    from openmmtools import testsystems

    return testsystems.HarmonicOscillator()


def _with_random_weights(flow: Any) -> Any:
    """Make a flow that is not the identity; its parameters are changed by about 0.05 each."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return flow


@pytest.fixture(scope="session")
def oscillator_models(tmp_path_factory: pytest.TempPathFactory, oscillator: Any) -> dict[str, Path]:
    """Saved models of the oscillator by the kind of flow, about as wide as the Boltzmann distribution at 298 K."""
    from openmm import unit

    from openmm_bg.flows import RealNVP, SplineFlow, TemperatureSteerableFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.transforms import CartesianCoordinates
    from openmm_bg.units import thermal_energy

    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    width = np.sqrt(thermal_energy(298.0) / stiffness)
    data = np.random.default_rng(0).normal(0.2 * width, 1.2 * width, (500, 1, 3))
    coordinates = CartesianCoordinates(1).fit(data)
    size = {"n_layers": 2, "hidden_features": 8}
    flows = {
        "spline": SplineFlow(coordinates, 298.0, **size),
        "conditioned": SplineFlow(coordinates, 298.0, **size, conditioned=True),
        "real_nvp": RealNVP(coordinates, 298.0, **size),
        "steerable": TemperatureSteerableFlow(coordinates, 298.0, n_momenta=3, **size),
    }
    directory = tmp_path_factory.mktemp("oscillator")
    return {
        kind: BoltzmannGenerator(_with_random_weights(flow), temperature_range=(250.0, 350.0)).save(
            directory / kind
        )
        for kind, flow in flows.items()
    }


@pytest.fixture(scope="session")
def oscillator_model(oscillator_models: dict[str, Path]) -> Path:
    """The spline flow's model of the oscillator."""
    return oscillator_models["spline"]


@pytest.fixture(scope="session")
def alanine_models(
    tmp_path_factory: pytest.TempPathFactory, alanine: Any, md_positions: np.ndarray
) -> dict[str, Path]:
    """Saved models of alanine dipeptide by the kind of flow, fitted to short dynamics but not trained."""
    from openmm_bg.flows import SplineFlow, TemperatureSteerableFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.transforms import InternalCoordinates

    coordinates = InternalCoordinates.from_reference(alanine.positions, alanine.bonds, alanine.masses)
    coordinates.fit(md_positions)
    size = {"n_layers": 2, "hidden_features": 16}
    flows = {
        "spline": SplineFlow(coordinates, 600.0, **size),
        "steerable": TemperatureSteerableFlow(coordinates, 600.0, n_momenta=5, **size),
    }
    directory = tmp_path_factory.mktemp("alanine")
    return {
        kind: BoltzmannGenerator(flow, system=alanine, temperature_range=(250.0, 650.0)).save(
            directory / kind
        )
        for kind, flow in flows.items()
    }


@pytest.fixture(scope="session")
def alanine_model(alanine_models: dict[str, Path]) -> Path:
    """The spline flow's model of alanine dipeptide."""
    return alanine_models["spline"]
