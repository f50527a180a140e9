"""Independence proposals: the chain is that of its formula, written out step by step."""

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmtools import cache
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.flows import Flow
from openmm_bg.mcmc import FlowMove
from openmm_bg.units import thermal_energy

TEMPERATURE = 310.0


def chain_by_formula(flow: Flow, stiffness: float, n_calls: int, n_proposals: int) -> tuple[np.ndarray, int]:
    """Accept with min(1, w(y) / w(x)), w = exp(-u) a / q; numbers are drawn in the order in which the move does.

    Returns:
        The final position [nm] with shape=(1, 3), and how many proposals were accepted.
    """
    generator = torch.Generator().manual_seed(3)
    variance = TEMPERATURE / flow.temperature

    def log_weight(x: torch.Tensor, p: torch.Tensor) -> float:
        u = 0.5 * stiffness * x.square().sum() / thermal_energy(TEMPERATURE)
        log_a = -0.5 * p.square().sum() / variance - 0.5 * p.numel() * np.log(2 * np.pi * variance)
        return float(-u + log_a - flow.joint_log_prob(x, p, TEMPERATURE)[0])

    x, n_accepted = torch.zeros(1, 1, 3, dtype=torch.float64), 0
    for _ in range(n_calls):
        p = flow.sample_momenta(1, TEMPERATURE, generator=generator)
        y, momenta, _ = flow.joint_sample(n_proposals, TEMPERATURE, generator=generator, frame=x[0])
        uniform = torch.rand(1 + n_proposals, dtype=torch.float64, generator=generator)[1:]
        for proposal in zip(y[:, None], momenta[:, None], uniform, strict=True):
            if 1 - proposal[2] <= np.exp(log_weight(*proposal[:2]) - log_weight(x, p)):
                x, p, n_accepted = *proposal[:2], n_accepted + 1
        torch.randn(1, 3, dtype=torch.float64, generator=generator)  # the new velocities
    return x[0].numpy(), n_accepted


@pytest.mark.parametrize("kind", ["spline", "conditioned", "real_nvp", "steerable"])
def test_the_chain_is_that_of_the_formula(
    oscillator_models: dict[str, Path], oscillator: Any, kind: str
) -> None:
    """Momenta are drawn anew in each call and carried within it; without them the formula is the usual one."""
    mcmc.seed(3)
    move = FlowMove(oscillator_models[kind], n_proposals=4, reassign_velocities=True)
    state = ThermodynamicState(oscillator.system, TEMPERATURE * unit.kelvin)
    current = SamplerState(np.zeros((1, 3)) * unit.nanometer)
    in_double_precision = cache.ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))
    for _ in range(10):
        move.apply(state, current, context_cache=in_double_precision)

    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    expected, n_accepted = chain_by_formula(move.generator.flow, stiffness, n_calls=10, n_proposals=4)
    np.testing.assert_allclose(current.positions.value_in_unit(unit.nanometer), expected, rtol=1e-9)
    assert move.n_accepted == n_accepted
    assert 5 < n_accepted < 35
