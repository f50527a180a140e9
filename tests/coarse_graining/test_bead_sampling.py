"""Sampling of the bead energy: the distribution of three beads by quadrature, seeds, and the burn-in."""

import math

import numpy as np
import pytest
import torch
from bead_examples import chains, invariants, prior_parts, randomised

from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.bead_sampling import BeadSampler, BeadSamplingSettings
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.errors import InputError

T = 300.0
QUICK = BeadSamplingSettings(n_walkers=8, n_rungs=2, n_leapfrog=3, interval=2, burn_in=20)


def three_beads(n=500, seed=0):
    """Return bent chains: a stiff bond, a less stiff one, and an angle from 50 to 150 degrees."""
    rng = np.random.default_rng(seed)
    r1, r2 = 0.4 + 0.03 * rng.normal(size=n), 0.4 + 0.06 * rng.normal(size=n)
    theta = rng.uniform(0.9, 2.6, size=n)
    beads = np.zeros((n, 3, 3))
    beads[:, 0, 0] = r1
    beads[:, 2, 0], beads[:, 2, 1] = r2 * np.cos(theta), r2 * np.sin(theta)
    return torch.as_tensor(beads)


def energy_of(data, temperature=T):
    """Return a bead energy that is its prior alone."""
    return BeadEnergy(BeadInvariants(data.shape[1]).fit(data), temperature, hidden_features=4).fit_prior(data)


def values(r1, r2, cosine):
    """Return observables by name: smooth ones, for the sake of the quadrature."""
    r13 = np.sqrt(r1**2 + r2**2 - 2 * r1 * r2 * cosine)
    found = {"r1": r1, "r2": r2, "cos": cosine, "r13": r13, "r2^2": r2**2, "cos^2": cosine**2}
    return found | {"cos^3": cosine**3, "cos^4": cosine**4, "r1 r2": r1 * r2, "r1 cos": r1 * cosine}


def by_quadrature(data, *, temperature=1.0, measure=True, n_nodes=80):
    """Return averages of exp(-prior / temperature) r1^2 r2^2 sin(theta) dr1 dr2 dtheta by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    bounds = ((0.15, 0.65), (0.02, 0.9), (0.0, np.pi))
    axes = [0.5 * (b + a) + 0.5 * (b - a) * nodes for a, b in bounds]
    r1, r2, theta = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    w = np.einsum("i,j,k->ijk", weights, weights, weights).ravel()
    r13 = np.sqrt(r1**2 + r2**2 - 2 * r1 * r2 * np.cos(theta))
    springs, repulsion, walls = prior_parts(invariants(data), np.stack([r1, r13, r2], axis=1))
    w = w * np.exp(-(springs + repulsion + walls) / temperature)
    if measure:
        w = w * r1**2 * r2**2 * np.sin(theta)
    edge = (np.abs(r1 - 0.4) > 0.23) | (np.abs(r2 - 0.46) > 0.42)
    assert w[edge].sum() < 1e-5 * w.sum()  # nothing is cut off
    return {name: np.average(value, weights=w) for name, value in values(r1, r2, np.cos(theta)).items()}


def sampled(data, settings, n_frames=40, *, hot=False):
    """Return averages of each walker by name, at the lowest or at all higher temperatures."""
    sampler, parts = BeadSampler(energy_of(data), data, settings, seed=1), []
    for _ in range(n_frames):
        beads = sampler.frame()
        r1, r13, r2 = invariants(sampler.hot() if hot else beads).T
        parts.append(values(r1, r2, (r1**2 + r2**2 - r13**2) / (2 * r1 * r2)))
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}, sampler


def disagreeing(means, expected):
    """Return the names of averages that are farther off than 3.5 standard errors, from the scatter of walkers."""
    return [
        name
        for name, own in means.items()
        if abs(own.mean() - expected[name]) > 3.5 * own.std(ddof=1) / math.sqrt(len(own))
    ]


@pytest.mark.parametrize("n_rungs", [1, 3])
def test_three_beads_have_the_distribution_of_their_energy(n_rungs):
    """With the volume element; without it, or ten percent warmer, averages are others."""
    data = three_beads()
    settings = BeadSamplingSettings(
        n_walkers=512, n_rungs=n_rungs, n_leapfrog=5, timestep=0.05, interval=4, burn_in=60
    )
    means, sampler = sampled(data, settings)
    assert disagreeing(means, by_quadrature(data)) == []
    assert len(disagreeing(means, by_quadrature(data, temperature=1.1))) >= 3
    assert len(disagreeing(means, by_quadrature(data, temperature=0.9))) >= 3
    assert len(disagreeing(means, by_quadrature(data, measure=False))) >= 3
    assert 0.5 < sampler.acceptance < 0.95
    assert sampler.potential.n_nonfinite == 0


def test_higher_temperatures_have_their_distribution():
    data = three_beads()
    sizes = {"n_walkers": 256, "n_leapfrog": 5, "timestep": 0.05, "interval": 4, "burn_in": 60}
    means, sampler = sampled(data, BeadSamplingSettings(n_rungs=2, ratio=1.3, **sizes), hot=True)
    assert disagreeing(means, by_quadrature(data, temperature=1.3)) == []
    assert len(disagreeing(means, by_quadrature(data))) >= 3
    assert sampler.hot().shape == (256, 3, 3)
    assert len(BeadSampler(energy_of(data), data, BeadSamplingSettings(n_rungs=1, **sizes)).hot()) == 0


def test_quadrature_has_converged_and_the_prior_is_that_of_the_energy():
    """The tests' own tools; springs, repulsion and walls all play a part."""
    data, beads = three_beads(), three_beads(200, seed=1) * 1.2
    parts = prior_parts(invariants(data), invariants(beads))
    np.testing.assert_allclose(energy_of(data).double()(beads).detach(), sum(parts), rtol=1e-9)
    assert [part.max() > 0.1 for part in parts] == [True] * 3
    assert energy_of(data).stiff.tolist() == [1.0, 0.0, 1.0]  # 01, 02, 12
    fine, coarse = by_quadrature(data), by_quadrature(data, n_nodes=60)
    assert [coarse[name] for name in fine] == pytest.approx(list(fine.values()), rel=1e-3)


def test_same_seed_same_frames():
    data = three_beads()

    def frames(seed):
        torch.manual_seed(7 + seed)  # must not matter
        sampler = BeadSampler(energy_of(data), data, QUICK, seed=seed)
        return torch.stack([sampler.frame() for _ in range(3)])

    first, second = frames(0), frames(1)
    assert first.shape == (3, 8, 3, 3)
    assert first.dtype == torch.float64
    assert torch.equal(first, frames(0))
    assert (first - second).abs().amax((0, 2, 3)).min() > 1e-3
    assert (first[0] - first[1]).abs().amax((1, 2)).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_later_frames_leave_earlier_ones_alone(dtype):
    data = three_beads()
    energy = energy_of(data)
    energy.set_dtype(dtype)
    sampler = BeadSampler(energy, data, QUICK)
    first = sampler.frame()
    kept = first.clone()
    assert not torch.equal(sampler.frame(), kept)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("n_rungs", [1, 2])
@pytest.mark.parametrize("timestep", [0.005, 0.5])
def test_time_step_is_tuned_in_the_burn_in_and_not_after_it(n_rungs, timestep):
    """From one that is much too short, or much too long."""
    settings = BeadSamplingSettings(
        n_walkers=64, n_rungs=n_rungs, timestep=timestep, interval=3, n_leapfrog=2, burn_in=150
    )
    data = three_beads()
    sampler = BeadSampler(energy_of(data), data, settings)
    walkers = sampler._walkers
    assert walkers.timestep == timestep
    assert math.isnan(sampler.acceptance)
    sampler.burn_in()
    assert walkers.n_proposed.unique().tolist() == [150]
    tuned = walkers.timestep
    assert abs(math.log(tuned / timestep)) > 1
    sampler.burn_in()  # nothing at a second call
    assert walkers.n_proposed.unique().tolist() == [150]
    assert math.isnan(sampler.acceptance)
    accepted = int(walkers.n_accepted[:64].sum())
    for _ in range(20):
        sampler.frame()
        assert walkers.timestep == tuned
    assert walkers.n_proposed.unique().tolist() == [150 + 20 * 3]
    assert sampler.acceptance == (int(walkers.n_accepted[:64].sum()) - accepted) / (64 * 20 * 3)
    # Aimed at are 0.7 to 0.85, seen in 320 trajectories or more: four of their standard errors are 0.1.
    assert 0.6 < sampler.acceptance < 0.95


def test_frames_are_of_the_lowest_temperature():
    """Of a ladder, whose temperatures rise by the ratio; warmer walkers have higher energies."""
    data = chains(300, 4)
    energy = randomised(energy_of(data, 350.0), scale=0.1)
    settings = BeadSamplingSettings(n_walkers=64, n_rungs=3, ratio=1.5, n_leapfrog=5, interval=5, burn_in=100)
    sampler = BeadSampler(energy, data, settings)
    temperatures = sampler._walkers.temperature.reshape(3, 64)
    assert temperatures.unique(dim=1).flatten().tolist() == pytest.approx([350.0, 525.0, 787.5])
    frame = sampler.frame()
    assert frame.shape == (64, 4, 3)
    assert torch.equal(frame, sampler._walkers.positions[:64].double())
    means = sampler._walkers.energy.reshape(3, 64).mean(1)
    assert means[0] < means[1] < means[2]
    assert (sampler._chain.n_accepted > 0).all()
    assert not hasattr(BeadSampler(energy, data, BeadSamplingSettings(8, 1))._chain, "n_ladders")


@pytest.mark.parametrize(
    "name", ["n_walkers", "n_rungs", "n_leapfrog", "timestep", "interval", "burn_in", "ratio"]
)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_settings_that_are_not_positive_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must be positive and finite"):
        BeadSamplingSettings(**{name: value})


def test_starts_and_ratios_that_cannot_be():
    with pytest.raises(InputError, match="ratio of the temperatures must be above 1"):
        BeadSamplingSettings(ratio=1.0)
    data = three_beads()
    energy = energy_of(data)
    with pytest.raises(InputError, match="no bead configuration to begin with"):
        BeadSampler(energy, data[:0], QUICK)
    with pytest.raises(InputError, match="shape"):
        BeadSampler(energy, chains(10, 4), QUICK)
    with pytest.raises(InputError):
        BeadSampler(energy, data * math.nan, QUICK)
