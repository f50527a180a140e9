"""The spline flow: densities that integrate to one, at every temperature, and that match its samples."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats

from openmm_bg.flows import SplineFlow, flow_from_config
from openmm_bg.systems import load
from openmm_bg.transforms import CartesianCoordinates, InternalCoordinates


def _randomise(flow, scale=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return flow


@pytest.fixture(scope="module")
def molecular_flow():
    ala = load("alanine_dipeptide")
    positions = ala.positions + 0.003 * np.random.default_rng(0).normal(size=(300, 22, 3))
    coordinates = InternalCoordinates.from_reference(ala.positions, ala.bonds, ala.masses).fit(positions)
    coordinates.circular[[44, 50]] = True  # two torsions on the circle
    return _randomise(SplineFlow(coordinates, 600.0, n_layers=4, hidden_features=24), 0.02)


def _one_angle_flow(conditioned=False):
    """A flow of three features, one of them an angle, small enough to integrate numerically."""
    coordinates = CartesianCoordinates(1)
    coordinates.circular[0] = True
    size = {"n_layers": 4, "n_bins": 4, "bound": 3.0, "hidden_features": 12}
    return _randomise(SplineFlow(coordinates, 600.0, conditioned=conditioned, **size), 0.15)


def _grid(n):
    angle = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 * math.pi - math.pi
    line = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 14.0 - 7.0
    mesh = torch.meshgrid(angle, line, line, indexing="ij")
    return torch.stack([axis.reshape(-1) for axis in mesh], dim=1), (2 * math.pi / n) * (14.0 / n) ** 2


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("temperature", [300.0, 600.0, 900.0])
def test_density_integrates_to_one_at_every_temperature(temperature, conditioned):
    flow = copy.deepcopy(_one_angle_flow(conditioned)).double()
    points, volume = _grid(72)
    with torch.no_grad():
        log_q = torch.cat([flow.state_log_prob(part, temperature / 600.0) for part in points.split(20_000)])
    assert float(log_q.exp().sum() * volume) == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("temperature", [300.0, 600.0])
def test_samples_follow_the_density(temperature, conditioned):
    """Histograms of samples against the density, by the chi-squared test; with a negative control."""
    flow = _one_angle_flow(conditioned)
    positions, _ = flow.sample(40_000, temperature, generator=torch.Generator().manual_seed(2))
    x = positions.reshape(-1, 3)
    points, volume = _grid(72)
    exact = copy.deepcopy(flow).double()
    p_values = {}
    for judged in (temperature, 0.75 * temperature):
        with torch.no_grad():
            parts = [exact.state_log_prob(part, judged / 600.0) for part in points.split(20_000)]
        density = (torch.cat(parts).exp() * volume).reshape(72, 72, 72)
        # Coarse cells: the angle in 6 parts, the first line in 12.
        expected = density.sum(2).reshape(6, 12, 12, 6).sum((1, 3)).numpy()
        edges = [np.linspace(-np.pi, np.pi, 7), np.linspace(-7, 7, 13)]
        observed, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=edges)
        keep = expected * len(x) > 10
        observed, expected = observed[keep], expected[keep]
        expected = expected / expected.sum() * observed.sum()
        p_values[judged] = stats.chisquare(observed, expected).pvalue
    assert p_values[temperature] > 1e-3
    assert p_values[0.75 * temperature] < 1e-6


def test_a_conditioned_network_depends_on_temperature():
    """Beyond its base; the one that is not conditioned does not."""
    state = 0.5 * torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    for conditioned in (False, True):
        flow = _one_angle_flow(conditioned)
        assert flow.conditioned == conditioned
        with torch.no_grad():
            hot, cold = flow.state_forward(state, 1.0)[0], flow.state_forward(state, 0.5)[0]
            assert torch.equal(hot, cold) != conditioned
            back = flow.state_inverse(cold, 0.5)[0]
        torch.testing.assert_close(back, state, atol=1e-5, rtol=0)


def test_log_prob_of_samples(molecular_flow):
    for temperature in (300.0, 600.0):
        positions, log_q = molecular_flow.sample(500, temperature, generator=torch.Generator().manual_seed(1))
        inside = torch.isfinite(positions).all(-1).all(-1)
        assert inside.float().mean() > 0.5
        again = molecular_flow.log_prob(positions[inside], temperature)
        assert positions.dtype == log_q.dtype == again.dtype == torch.float64
        assert (again - log_q[inside]).abs().max() < 1e-9


def test_base_scaling(molecular_flow):
    """At the start (identity) the density is the base's: normal with variance T / T_train, uniform angles."""
    flow = SplineFlow(molecular_flow.coordinates, 600.0, n_layers=2, hidden_features=8)
    positions, log_q = flow.sample(4000, 300.0, generator=torch.Generator().manual_seed(1))
    features, logabsdet = flow.coordinates.forward(positions)
    linear = features[:, ~flow.coordinates.circular]
    inside = torch.isfinite(positions).all(-1).all(-1)
    variance = linear[inside].var(0)
    assert (variance - 0.5).abs().max() < 5 * 0.5 * math.sqrt(2 / 4000) + 0.02
    expected = torch.distributions.Normal(torch.zeros(()).double(), math.sqrt(0.5)).log_prob(linear).sum(
        1
    ) - 2 * math.log(2 * math.pi)
    assert (log_q - expected - logabsdet)[inside].abs().max() < 1e-9


def test_frame_is_kept(molecular_flow):
    ala = load("alanine_dipeptide")
    frame = torch.as_tensor(ala.positions.copy()) @ torch.linalg.qr(torch.randn(3, 3).double())[0] + 3.0
    positions, log_q = molecular_flow.sample(50, generator=torch.Generator().manual_seed(3), frame=frame)
    standard, log_q_standard = molecular_flow.sample(50, generator=torch.Generator().manual_seed(3))
    inside = torch.isfinite(positions).all(-1).all(-1)
    first, second, third = molecular_flow.coordinates.z_matrix.atoms[:3].tolist()
    placed = positions[inside]
    assert (placed[:, first] - frame[first]).abs().max() < 1e-12
    axis = (frame[second] - frame[first]) / (frame[second] - frame[first]).norm()
    along = placed[:, second] - placed[:, first]
    assert (torch.linalg.cross(along, axis.expand_as(along))).abs().max() < 1e-12
    normal = torch.linalg.cross(frame[second] - frame[first], frame[third] - frame[first])
    assert ((placed[:, third] - placed[:, first]) @ normal).abs().max() < 1e-12
    assert torch.equal(log_q, log_q_standard)
    # The same molecules in another place: all distances agree.
    distances = [torch.cdist(x[inside], x[inside]) for x in (positions, standard)]
    assert (distances[0] - distances[1]).abs().max() < 1e-10


def test_wrong_chirality_has_zero_density(molecular_flow):
    ala = load("alanine_dipeptide")
    x = torch.as_tensor(ala.positions.copy())[None]
    assert torch.isfinite(molecular_flow.log_prob(x)).all()
    assert torch.isneginf(molecular_flow.log_prob(-x)).all()
    assert molecular_flow.in_domain(torch.cat([x, -x])).tolist() == [True, False]
    assert torch.isneginf(molecular_flow.log_prob(x * torch.nan)).all()


def test_same_seed_same_flow_and_samples(molecular_flow):
    coordinates = molecular_flow.coordinates
    a, b = (SplineFlow(coordinates, 600.0, n_layers=2, hidden_features=8, seed=5) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    draws = [a.sample(10, generator=torch.Generator().manual_seed(1))[0] for _ in range(2)]
    assert torch.equal(*draws)


def test_config_rebuilds_the_flow(molecular_flow):
    rebuilt = flow_from_config(molecular_flow.config())
    rebuilt.load_state_dict(molecular_flow.state_dict())
    x = molecular_flow.sample(20, generator=torch.Generator().manual_seed(1))[0]
    assert torch.equal(rebuilt.log_prob(x), molecular_flow.log_prob(x))


def test_exact_twin_follows_the_parameters(molecular_flow):
    flow = copy.deepcopy(molecular_flow)
    x = flow.sample(5, generator=torch.Generator().manual_seed(1))[0]
    x = x[torch.isfinite(x).all(-1).all(-1)]
    before = flow.log_prob(x)
    _randomise(flow, 0.05, seed=9)
    assert (flow.log_prob(x) - before).abs().max() > 1e-3


def test_exact_densities_follow_a_fused_optimiser():
    """Which changes parameters without telling so."""
    flow = _one_angle_flow()
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.1, fused=True)
    state = torch.zeros(3, len(flow.circular))
    before = flow.exact().state_log_prob(state.double())
    flow.state_log_prob(state).sum().backward()
    optimizer.step()
    fresh = copy.deepcopy(flow)
    fresh._twin = None
    after = flow.exact().state_log_prob(state.double())
    assert torch.equal(after, fresh.exact().state_log_prob(state.double()))
    assert not torch.allclose(after, before)
