"""Models of openmmtools' harmonic oscillator whose densities differ much from its Boltzmann distribution.

A flow that is nearly right would not tell a right acceptance ratio from a wrong one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_bg.flows import Flow, RealNVP, SplineFlow, TemperatureSteerableFlow
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.transforms import CartesianCoordinates
from openmm_bg.units import thermal_energy

TEMPERATURE = 298.0  # of openmmtools' test
TRAINING_TEMPERATURE = 350.0


def fitted(flow: Flow, positions: np.ndarray, momenta: np.ndarray) -> Flow:
    """Fit a flow to samples of positions [nm] and momenta in 200 steps of maximum likelihood."""
    state = flow.state_of(positions, torch.tensor(momenta))[0]
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        batch = state[torch.randint(len(state), (256,), generator=generator)]
        optimizer.zero_grad()
        loss = -flow.state_log_prob(batch).mean()
        loss.backward()
        optimizer.step()
    return flow


@pytest.fixture(scope="session")
def oscillator_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models by the kind of flow.

    gaussian: a spline flow, not trained: a Gaussian, a fifth too wide and not centred.
    spline, real_nvp: fitted to a shell around the centre, so that volumes change much from there to the centre.
    steerable: fitted to momenta that are the larger the farther out the particle is.
    """
    from openmm import unit
    from openmmtools import testsystems

    stiffness = testsystems.HarmonicOscillator().K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    width = np.sqrt(thermal_energy(TEMPERATURE) / stiffness)
    rng, n = np.random.default_rng(0), 2000
    noise, radii = rng.normal(size=(n, 1, 3)), np.abs(rng.normal(2.1, 0.4, (n, 1, 1)))
    gaussian = width * (0.2 + 1.2 * np.sqrt(TRAINING_TEMPERATURE / TEMPERATURE) * noise)
    shell = width * radii * noise / np.linalg.norm(noise, axis=-1, keepdims=True)
    wide = 1.3 * width * noise
    far_out = np.exp(0.6 * ((noise**2).sum(axis=(1, 2)) - 3.0)).clip(0.2, 5.0)
    momenta = rng.normal(size=(n, 2)) * far_out[:, None]

    def about(positions: np.ndarray) -> tuple[CartesianCoordinates, float]:
        return CartesianCoordinates(1).fit(positions), TRAINING_TEMPERATURE

    size, none = {"n_layers": 2, "hidden_features": 8}, np.zeros((n, 0))
    flows = {
        "gaussian": SplineFlow(*about(gaussian), **size),
        "spline": fitted(SplineFlow(*about(shell), bound=3.0, **size), shell, none),
        "real_nvp": fitted(RealNVP(*about(shell), n_hidden=1, **size), shell, none),
        "steerable": fitted(TemperatureSteerableFlow(*about(wide), n_momenta=2, **size), wide, momenta),
    }
    directory = tmp_path_factory.mktemp("oscillator")
    return {kind: BoltzmannGenerator(flow).save(directory / kind) for kind, flow in flows.items()}
