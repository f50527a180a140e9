"""The law of temperature-steerable flows, down to Cartesian coordinates, and that their samples obey it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from openmm_bg.errors import InputError
from openmm_bg.flows import TemperatureSteerableFlow, flow_from_config
from openmm_bg.systems import load
from openmm_bg.transforms import AffineCoupling, CartesianCoordinates, InternalCoordinates

RATIOS = [0.1, 0.5, 2.0, 10.0]


def randomised(flow, scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return flow


def toy(n_momenta=4, circular=(), dtype=torch.float64, coupling="affine", scale=0.12):
    coordinates = CartesianCoordinates(1)
    coordinates.circular[list(circular)] = True
    flow = TemperatureSteerableFlow(
        coordinates, 300.0, n_momenta=n_momenta, coupling=coupling, n_layers=6, hidden_features=16, seed=1
    )
    flow = randomised(flow, scale)
    flow.set_dtype(dtype)
    return flow


@pytest.fixture(scope="module", params=["affine", "spline"])
def molecular(request):
    ala = load("alanine_dipeptide")
    positions = ala.positions + 0.003 * np.random.default_rng(0).normal(size=(300, 22, 3))
    coordinates = InternalCoordinates.from_reference(ala.positions, ala.bonds, ala.masses).fit(positions)
    coordinates.circular[[44, 50]] = True  # two torsions on the circle
    flow = TemperatureSteerableFlow(
        coordinates, 600.0, coupling=request.param, n_layers=4, hidden_features=24
    )
    flow = randomised(flow, 0.03)
    flow.set_dtype(torch.float64)
    return flow, positions


def deviation_from_law(flow, positions, momenta, ratio, power=None):
    """How far log q_T - (T0/T) log q_T0 is from constant, relative to its terms, at the worst point."""
    power = 1.0 / ratio if power is None else power
    hot = flow.log_prob(positions, momenta, ratio * flow.temperature)
    cold = flow.log_prob(positions, momenta)
    assert torch.isfinite(hot).all()
    difference = hot - power * cold
    size = torch.maximum(hot.abs(), power * cold.abs()).clamp_min(1.0)
    return float(((difference - difference.median()).abs() / size).max())


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("circular", [(), (0,)])
@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_law_of_a_toy_flow(ratio, circular, coupling):
    """It holds anywhere, not only where the flow has its mass; another power of the density does not."""
    flow = toy(circular=circular, coupling=coupling)
    rng = np.random.default_rng(2)
    positions, momenta = rng.normal(0, 1.5, (200, 1, 3)), rng.normal(0, 2.0, (200, 4))
    assert deviation_from_law(flow, positions, momenta, ratio) < 1e-10
    assert deviation_from_law(flow, positions, momenta, ratio, power=1.05 / ratio) > 1e-3


@pytest.mark.parametrize("ratio", RATIOS)
def test_law_of_a_molecule_in_cartesian_coordinates(molecular, ratio):
    flow, positions = molecular
    momenta = np.random.default_rng(3).normal(size=(100, flow.n_momenta))
    assert deviation_from_law(flow, positions[:100], momenta, ratio) < 1e-10
    assert deviation_from_law(flow, positions[:100], momenta, ratio, power=1.05 / ratio) > 1e-4


def test_law_needs_layers_that_preserve_volume():
    """The control: plain RealNVP layers in the same flow break it."""
    flow = toy()
    for layer in flow.transform._transforms:
        layer.volume_preserving = False
    rng = np.random.default_rng(2)
    positions, momenta = rng.normal(0, 1.5, (200, 1, 3)), rng.normal(0, 2.0, (200, 4))
    assert deviation_from_law(flow, positions, momenta, 2.0) > 1e-3


@pytest.mark.parametrize("volume_preserving", [True, False])
def test_affine_coupling_has_the_jacobian_that_it_reports(volume_preserving):
    circular = torch.tensor([False, True, False, False, True, False])
    mask = torch.tensor([True, True, True, False, False, False])
    layer = AffineCoupling(mask, circular, volume_preserving=volume_preserving, hidden_features=8)
    layer = randomised(layer, 0.4).double()
    x = torch.rand(5, 6, dtype=torch.float64) * 2 - 1
    y, logabsdet = layer(x)
    for k in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda row: layer(row[None])[0][0], x[k])
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(
            float(logabsdet[k].detach()), abs=1e-12
        )
    assert (logabsdet.abs() < 1e-14).all() == volume_preserving
    back, inverse_logabsdet = layer.inverse(y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-13)
    torch.testing.assert_close(inverse_logabsdet, -logabsdet, rtol=0, atol=1e-13)
    scale = (layer(x + torch.eye(6)[0] * 1e-3)[0] - y)[:, 0] / 1e-3
    assert (scale - 1).abs().max() > 1e-3  # it is not trivially volume-preserving


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_density_of_the_toy_flow_integrates_to_one(ratio, coupling):
    """Over one position coordinate's worth of a grid: three features and one momentum by quasi-random points."""
    # A single momentum absorbs all changes of volume: weaker layers keep it within the grid.
    flow = toy(n_momenta=1, circular=(1,), coupling=coupling, scale=0.12 if coupling == "affine" else 0.04)
    n = 2**17
    unit = torch.as_tensor(stats.qmc.Sobol(4, seed=0).random(n))
    width = torch.tensor([24.0, 2 * math.pi, 24.0, 24.0], dtype=torch.float64)
    state = (unit - 0.5) * width
    with torch.no_grad():
        total = float(flow.state_log_prob(state, ratio).exp().mean() * width.prod())
    assert total == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_samples_come_with_their_density(molecular, ratio, dtype):
    flow, _ = molecular
    flow.set_dtype(dtype)
    temperature = ratio * flow.temperature
    drawn, momenta, log_q = flow.sample(50, temperature, generator=torch.Generator().manual_seed(0))
    flow.set_dtype(torch.float64)
    usable = torch.isfinite(drawn).all(-1).all(-1)
    assert usable.sum() > 5
    again = flow.log_prob(drawn[usable], momenta[usable], temperature)
    torch.testing.assert_close(again, log_q[usable], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("ratio", [0.5, 2.0])
@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_samples_follow_the_law(ratio, coupling):
    """Those of the hotter distribution, with the weights that the law gives, are those of the colder one."""
    flow = toy(n_momenta=2, coupling=coupling)
    cold, hot = min(1.0, ratio) * 300.0, max(1.0, ratio) * 300.0
    draws = {}
    for name, temperature, seed in (("hot", hot, 4), ("cold", cold, 5), ("wrong", 1.3 * cold, 6)):
        generator = torch.Generator().manual_seed(seed)
        draws[name] = flow.sample(40_000, temperature, generator=generator)
    columns = {name: torch.cat([x.reshape(len(x), 3), p], dim=1) for name, (x, p, _) in draws.items()}
    weights = torch.softmax((hot / cold - 1.0) * draws["hot"][2], dim=0).numpy()
    effective = 1.0 / (weights**2).sum()
    assert effective > 2000
    for name, follows in (("cold", True), ("wrong", False)):
        distances = []
        for weighted, plain in zip(columns["hot"].T.numpy(), columns[name].T.numpy(), strict=True):
            order = np.argsort(weighted)
            empirical = np.searchsorted(np.sort(plain), weighted[order], side="right") / len(plain)
            distances.append(np.abs(np.cumsum(weights[order]) - empirical).max())
        n = 1.0 / (1.0 / effective + 1.0 / 40_000)
        p_values = [stats.kstwobign.sf(distance * math.sqrt(n)) for distance in distances]
        assert (min(p_values) > 0.01 / len(p_values)) == follows, p_values


def test_scale_acts_on_the_coordinates_alone():
    flow = toy(n_momenta=2, circular=(1,))
    state = torch.randn(10, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, _ = flow.state_forward(state)
    with torch.no_grad():
        flow.log_scale.add_(0.7)
    after, logabsdet = flow.state_forward(state)
    ratio = after / before
    torch.testing.assert_close(ratio[:, [0, 2]], torch.full((10, 2), math.exp(0.7), dtype=torch.float64))
    torch.testing.assert_close(ratio[:, [1, 3, 4]], torch.ones(10, 3, dtype=torch.float64))
    torch.testing.assert_close(logabsdet, (2 * flow.log_scale).expand(10))
    back, _ = flow.state_inverse(after)
    torch.testing.assert_close(back, state, rtol=0, atol=1e-12)


def test_density_of_positions_alone_is_refused_and_estimated():
    flow = toy(n_momenta=1)
    positions = np.zeros((3, 1, 3))
    for arguments in ((300.0,), (None,), (np.zeros(3),)):
        with pytest.raises(InputError, match=r"density of positions and momenta.*estimate_log_prob"):
            flow.log_prob(positions, *arguments)
    with pytest.raises(InputError, match=r"must have the shape \(3, 1\), not \(3, 2\)"):
        flow.log_prob(positions, np.zeros((3, 2)))
    generator = torch.Generator().manual_seed(0)
    estimate = flow.estimate_log_prob(positions, 450.0, n_momenta=1000, generator=generator)
    grid = np.linspace(-12, 12, 2001)
    joint = flow.log_prob(np.zeros((len(grid), 1, 3)), grid[:, None], 450.0)
    exact = math.log(float(joint.exp().sum() * (grid[1] - grid[0])))
    np.testing.assert_allclose(estimate, exact, atol=0.1)


def test_rebuilt_flow_is_the_same(molecular):
    flow, positions = molecular
    twin = flow_from_config(flow.config())
    twin.load_state_dict({k: v.clone() for k, v in flow.state_dict().items()})
    twin.set_dtype(torch.float64)
    momenta = np.random.default_rng(0).normal(size=(5, flow.n_momenta))
    torch.testing.assert_close(
        twin.log_prob(positions[:5], momenta, 400.0),
        flow.log_prob(positions[:5], momenta, 400.0),
        rtol=1e-6,
        atol=1e-4,
    )
