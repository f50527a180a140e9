"""How good a flow is at one temperature, by samples of it with their energies."""

from __future__ import annotations

import math

import torch

from openmm_bg import statistics
from openmm_bg.flows import PositionFlow
from openmm_bg.potentials.base import Potential
from openmm_bg.units import thermal_energy

_CLIP = 1e-3  # a single heavy sample shall not decide which flow is the best
_CHUNK = 2048


def judge(
    flow: PositionFlow, potential: Potential, temperature: float, n: int, seed: int
) -> dict[str, float]:
    """Return the effective sample size as a fraction, the same with clipped weights, and Pareto's k.

    Args:
        flow: The flow.
        potential: The potential, in double precision.
        temperature: The temperature [K].
        n: Samples.
        seed: Seed of the samples.
    """
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, n, _CHUNK):
        positions, _, log_q = flow.joint_sample(min(n - start, _CHUNK), temperature, generator=draw)
        parts.append(-potential.energy(positions) / thermal_energy(temperature) - log_q)
    log_weights = torch.cat(parts)
    if not torch.isfinite(log_weights).any():
        return {"ess": 0.0, "clipped_ess": 0.0, "pareto_k": math.inf}
    usable = torch.where(torch.isfinite(log_weights), log_weights, -torch.inf).numpy()
    return {
        "ess": statistics.effective_sample_size(usable),
        "clipped_ess": statistics.effective_sample_size(usable, clip=_CLIP),
        "pareto_k": statistics.pareto_k(usable),
    }
