"""Annealed importance sampling against exact sums: weights, moved samples, and what it is for."""

import math

import numpy as np
import pytest
import torch

from openmm_bg.annealing.importance_sampling import AnnealedImportanceSampling
from openmm_bg.flows import SplineFlow
from openmm_bg.statistics import effective_sample_size, weighted_mean
from openmm_bg.transforms import CartesianCoordinates

N = 20_000


@pytest.fixture(scope="module")
def flow():
    """The standard normal distribution in three dimensions, as an untrained flow."""
    flow = SplineFlow(CartesianCoordinates(1), 300.0, n_layers=2, hidden_features=4)
    with torch.no_grad():  # shifts of angles do not matter here: there are none
        return flow


def wide(x, scale=1.3):
    """A wider normal distribution, not normalised."""
    return -0.5 * (x / scale).square().sum(1) + 1.7


def exact_variance(scale):
    """The variance of a coordinate in p^2 / q: precision 2 / scale^2 - 1."""
    return 1.0 / (2.0 / scale**2 - 1.0)


def run(flow, scale=1.3, seed=0, n_distributions=8):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 3, generator=random)
    sampling = AnnealedImportanceSampling(n_distributions, step_size=0.3)
    for _ in range(2):  # the step size settles
        sampling(flow, lambda y: wide(y, scale), x[:2000], 1.0, random)
    return x, *sampling(flow, lambda y: wide(y, scale), x, 1.0, random)


def test_weighted_samples_follow_the_law(flow):
    scale = 1.3
    before, x, log_weights = run(flow, scale)
    found = weighted_mean(x.square().sum(1).double().numpy() / 3.0, log_weights.numpy())
    assert abs(found.value - exact_variance(scale)) < 3.5 * found.stderr
    assert found.stderr < 0.02 * found.value
    # Samples that were not moved, with the same weights: the control.
    wrong = weighted_mean(before.square().sum(1).double().numpy() / 3.0, log_weights.numpy())
    assert abs(wrong.value - exact_variance(scale)) > 5 * wrong.stderr


def test_mean_weight_is_the_ratio_of_partition_functions(flow):
    scale = 1.3
    _, _, log_weights = run(flow, scale, seed=1)
    # Of p^2 / q with p = exp(wide): exp(2 * 1.7) (2 pi)^(3/2) times the Gaussian integral.
    exact = 2 * 1.7 + 1.5 * math.log(2 * math.pi) + 1.5 * math.log(2 * math.pi * exact_variance(scale))
    weights = log_weights.exp().numpy()
    mean, stderr = weights.mean(), weights.std() / math.sqrt(N)
    assert abs(math.log(mean) - exact) < 3.5 * stderr / mean
    assert stderr / mean < 0.05


def test_it_beats_plain_importance_sampling(flow):
    """The tails of p^2 / q, which plain samples of q hardly see."""
    before, _, log_weights = run(flow)
    log_q = -0.5 * before.square().sum(1) - 1.5 * math.log(2 * math.pi)
    plain = 2.0 * (wide(before) - log_q)
    assert effective_sample_size(log_weights.numpy()) > 2.0 * effective_sample_size(plain.double().numpy())


def test_a_perfect_flow_stays(flow):
    """Where q is p, weights are one and samples stay samples of it."""
    random = torch.Generator().manual_seed(3)
    x = torch.randn(N, 3, generator=random)
    sampling = AnnealedImportanceSampling(3, step_size=0.3)
    moved, log_weights = sampling(flow, lambda y: flow.state_log_prob(y), x, 1.0, random)
    assert log_weights.abs().max() < 1e-4
    assert (moved - x).abs().max() > 0.5
    variance = moved.double().var(0).numpy()
    assert np.abs(variance - 1.0).max() < 3.5 * math.sqrt(2.0 / N)


def test_infinite_energies_are_left(flow):
    """Half of the space has no density: samples do not enter it, and those in it have no weight."""

    def half(x):
        return torch.where(x[:, 0] > 0, flow.state_log_prob(x), -torch.inf)

    random = torch.Generator().manual_seed(4)
    x = torch.randn(2000, 3, generator=random)
    sampling = AnnealedImportanceSampling(3, step_size=0.3)
    moved, log_weights = sampling(flow, half, x, 1.0, random)
    assert (moved[torch.isfinite(log_weights)][:, 0] > 0).all()
    assert torch.isneginf(log_weights[x[:, 0] <= 0]).all()
    assert torch.isfinite(moved).all()


def test_the_step_size_follows_the_acceptance(flow):
    random = torch.Generator().manual_seed(5)
    x = torch.randn(500, 3, generator=random)
    for start in (0.01, 10.0):
        sampling = AnnealedImportanceSampling(2, step_size=start)
        for _ in range(3):
            sampling(flow, wide, x, 1.0, random)
        assert (sampling.step_size > start) == (start < 1.0)
