"""Whether a trained temperature-steerable flow obeys its law down to Cartesian coordinates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from openmm_bg.flows import Flow

RATIOS = (0.1, 0.2, 0.5, 1.5, 2.0, 5.0, 10.0)
"""T / T0 at which the law is checked."""


def deviation_from_law(
    flow: Flow, positions: np.ndarray, ratio: float, seed: int, power: float = 1.0
) -> float:
    """Return how far log q_T(x, p) - (T0 / T) log q_T0(x, p) is from constant, relative to its terms, at worst.

    Args:
        flow: The flow.
        positions: Configurations [nm] with shape=(n, n_atoms, 3).
        ratio: T / T0.
        seed: Seed of the momenta, which are drawn wide.
        power: Factor on T0 / T: other than one for a control.
    """
    rng = np.random.default_rng(seed)
    momenta = torch.as_tensor(2.0 * rng.normal(size=(len(positions), flow.n_momenta)))
    other = flow.joint_log_prob(positions, momenta, ratio * flow.temperature)
    scaled = flow.joint_log_prob(positions, momenta) * (power / ratio)
    difference = other - scaled
    size = torch.maximum(other.abs(), scaled.abs()).clamp_min(1.0)
    return float(((difference - difference.median()).abs() / size).max())


def sample_p_values(
    flow: Flow, ratio: float, n: int, seed: int, judged_at: float | None = None
) -> dict[str, Any]:
    """Test samples at a temperature, from their Cartesian positions and momenta.

    Two things make them those of the law. Their latents, found by sending them back, are normal with variance
    T / T0 and uniform on circles; and their density depends on the latents by the base alone, so that twice its
    logarithm, below that of the mode, has a chi-square distribution. The second fails for a flow whose
    volume changes. Draws outside the coordinates' domain have no positions and are left out, and counted.

    Args:
        flow: The flow.
        ratio: T / T0 of the samples.
        n: How many.
        seed: Seed.
        judged_at: T / T0 of the distribution that they are compared with; the same if not given.

    Returns:
        ``latents``: the smallest p-value of the latents' Kolmogorov-Smirnov tests times their number ``n_latents``
        (Bonferroni), at most 1; ``density``: the p-value of that of the density; and ``outside``, the fraction of
        draws outside the domain.
    """
    from scipy import stats

    generator = torch.Generator().manual_seed(seed)
    positions, momenta, _ = flow.joint_sample(n, ratio * flow.temperature, generator=generator)
    inside = torch.isfinite(positions).all(-1).all(-1)
    positions, momenta = positions[inside], momenta[inside]
    with torch.no_grad():
        state, _, _ = flow.state_of(positions, momenta)
        z = flow.exact().state_forward(state)[0].numpy()
    log_q = flow.joint_log_prob(positions, momenta, ratio * flow.temperature).numpy()
    variance = ratio if judged_at is None else judged_at
    smallest = 1.0
    for column, is_angle in zip(z.T, flow.circular.tolist(), strict=True):
        u = (column + math.pi) / (2 * math.pi) if is_angle else stats.norm.cdf(column / math.sqrt(variance))
        smallest = min(smallest, float(stats.kstest(u, "uniform").pvalue))
    normal = z[:, ~flow.circular.numpy()]
    mode = np.median(log_q + 0.5 * (normal**2).sum(1) / ratio)
    found = 2.0 * (mode - log_q) * ratio / variance
    return {
        "latents": min(1.0, smallest * z.shape[1]),
        "density": float(stats.kstest(found, stats.chi2(normal.shape[1]).cdf).pvalue),
        "n_latents": z.shape[1],
        "outside": float((~inside).double().mean()),
    }
