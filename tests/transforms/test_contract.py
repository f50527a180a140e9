"""One contract for every transform: inverse, and log-determinants in both directions against autograd."""

import math

import pytest
import torch
from nflows.transforms import CompositeTransform, Transform
from torch.autograd.functional import jacobian

from openmm_bg.errors import InputError
from openmm_bg.transforms import (
    AffineCoupling,
    CartesianCoordinates,
    CircularShift,
    SplineCoupling,
    VolumePreservingLift,
)
from openmm_bg.transforms.conditional_affine import ConditionalAffine

CIRCULAR = torch.tensor([True, False, False, True, False, True, False])
ALTERNATING = torch.tensor([True, False] * 4)[:7]


def _randomise(transform, scale=0.5):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return transform.double()


def _coupling(mask, circular=CIRCULAR):
    return _randomise(
        SplineCoupling(mask, circular, n_bins=5, bound=3.0, hidden_features=16, n_blocks=1), scale=0.15
    )


def _affine(mask, volume_preserving, circular=CIRCULAR):
    layer = AffineCoupling(mask, circular, volume_preserving=volume_preserving, hidden_features=16)
    return _randomise(layer, scale=0.2)


def _conditional(circular=CIRCULAR):
    return _randomise(ConditionalAffine(circular, 4, hidden_features=16), scale=0.3)


class _InContext(Transform):
    """A transform with the same context for all rows."""

    def __init__(self, transform, context):
        super().__init__()
        self.transform = transform
        self.context = torch.tensor([context], dtype=torch.float64)

    def forward(self, inputs, context=None):
        return self.transform(inputs, self.context.expand(len(inputs), -1))

    def inverse(self, inputs, context=None):
        return self.transform.inverse(inputs, self.context.expand(len(inputs), -1))


TRANSFORMS = {
    "spline coupling": lambda: _coupling(ALTERNATING),
    "spline coupling, all transformed": lambda: _coupling(torch.ones(7, dtype=torch.bool)),
    "spline coupling, angles only": lambda: _coupling(CIRCULAR),
    "spline coupling, no angles": lambda: _coupling(ALTERNATING, torch.zeros(7, dtype=torch.bool)),
    "affine coupling": lambda: _affine(ALTERNATING, False),
    "affine coupling, volume-preserving": lambda: _affine(ALTERNATING, True),
    "affine coupling, angles only": lambda: _affine(CIRCULAR, True),
    "affine coupling, all transformed": lambda: _affine(torch.ones(7, dtype=torch.bool), True),
    "lift of a spline coupling": lambda: VolumePreservingLift(_coupling(ALTERNATING[:5], CIRCULAR[:5]), 5),
    "circular shift": lambda: _randomise(CircularShift(CIRCULAR, torch.tensor([0.3, -2.0, 3.0]))),
    "conditional affine": lambda: _InContext(_conditional(), [0.3, -1.0, 2.0, 0.5]),
    "conditional affine, far away": lambda: _InContext(_conditional(), [30.0, -10.0, 20.0, 5.0]),
    "conditional affine, no angles": lambda: _InContext(
        _conditional(torch.zeros(7, dtype=torch.bool)), [0.3, -1.0, 2.0, 0.5]
    ),
    "composite": lambda: CompositeTransform(
        [
            _coupling(ALTERNATING),
            CircularShift(CIRCULAR, torch.tensor([1.0, 2.0, 3.0])).double(),
            _coupling(~ALTERNATING),
        ]
    ),
}


def _features(n=40):
    generator = torch.Generator().manual_seed(0)
    x = 1.5 * torch.randn(n, 7, generator=generator, dtype=torch.float64)
    x[:, CIRCULAR] = (torch.rand(n, 3, generator=generator, dtype=torch.float64) * 2 - 1) * math.pi
    return x


@pytest.mark.parametrize("name", TRANSFORMS)
def test_inverse_undoes_forward(name):
    transform, x = TRANSFORMS[name](), _features(400)
    z, forward = transform(x)
    back, inverse = transform.inverse(z)
    assert (back - x).abs().max() < 1e-9
    assert (forward + inverse).abs().max() < 1e-8
    assert (z - x).abs().max() > 0.1  # the transform does something


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_determinant_is_that_of_autograd(name, direction):
    transform = TRANSFORMS[name]()
    function = getattr(transform, direction)
    for x in _features(5):
        matrix = jacobian(lambda row: function(row[None])[0][0], x)
        expected = torch.linalg.slogdet(matrix)[1]
        assert float(function(x[None])[1][0].detach()) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("name", ["spline coupling", "conditional affine", "composite"])
def test_angles_are_periodic(name):
    """What comes out is the same on both sides of the seam, as are the derivatives."""
    transform = TRANSFORMS[name]()
    x = _features(30)
    x[:, 0] = -math.pi
    y = x.clone()
    y[:, 0] = math.pi
    (z, logdet_x), (w, logdet_y) = transform(x), transform(y)
    difference = torch.remainder(z - w + math.pi, 2 * math.pi) - math.pi
    assert torch.where(CIRCULAR, difference, z - w).abs().max() < 1e-9
    assert (logdet_x - logdet_y).abs().max() < 1e-9


def test_identity_start():
    layer = SplineCoupling(
        ALTERNATING, CIRCULAR, n_bins=8, bound=6.0, hidden_features=16, n_blocks=1
    ).double()
    x = _features()
    z, logabsdet = layer(x)
    assert (z - x).abs().max() < 1e-12
    assert logabsdet.abs().max() < 1e-12


def _contexts(n=40):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_each_row_is_transformed_by_its_own_context():
    layer, x, context = _conditional(), _features(), _contexts()
    for function in (layer, layer.inverse):
        z, logabsdet = function(x, context)
        for k in range(len(x)):
            alone, own = function(x[k : k + 1], context[k : k + 1])
            assert (alone[0] - z[k]).abs().max() < 1e-12
            assert float((own[0] - logabsdet[k]).detach()) == pytest.approx(0.0, abs=1e-12)
        others = function(x, context.roll(1, 0))
        assert ((others[0] - z).abs().amax(1) > 1e-3).all()  # control
        assert ((others[1] - logabsdet).abs() > 1e-6).all()
    z, forward = layer(x, context)
    back, inverse = layer.inverse(z, context)
    assert (back - x).abs().max() < 1e-9
    assert (forward + inverse).abs().max() < 1e-9


def test_conditional_affine_is_the_identity_at_the_start():
    layer = ConditionalAffine(CIRCULAR, 4, hidden_features=16, n_blocks=2).double()
    x, context = _features(), 100.0 * _contexts()
    for function in (layer, layer.inverse):
        z, logabsdet = function(x, context)
        assert (z - x).abs().max() < 1e-12
        assert torch.count_nonzero(logabsdet) == 0


def test_conditional_affine_turns_angles_and_centres_and_scales_the_rest():
    """The same for all features: what it does to one row of zeros says what it does to all rows."""
    layer, x = _conditional(), _features()
    context = _contexts(1)
    many = context.expand(len(x), -1)
    origin, unit = torch.zeros(1, 7, dtype=torch.float64), torch.ones(1, 7, dtype=torch.float64)
    shift = layer(origin, context)[0]
    scale = layer(unit, context)[0] - shift
    z, logabsdet = layer(x, many)
    line = shift + x * torch.where(CIRCULAR, 1.0, scale)
    turned = torch.remainder(z - line + math.pi, 2 * math.pi) - math.pi
    assert torch.where(CIRCULAR, turned, z - line).abs().max() < 1e-9
    assert (logabsdet - scale[:, ~CIRCULAR].log().sum()).abs().max() < 1e-9
    assert (shift.abs() > 1e-3).all()
    assert ((scale - 1).abs()[:, ~CIRCULAR] > 1e-3).all()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_conditional_affine_wraps_angles(direction):
    """Into [-pi, pi), from shifts of several turns; features that are no angles go on."""
    layer, x, context = _conditional(), _features(400), 10.0 * _contexts(400)
    z = getattr(layer, direction)(x, context)[0]
    assert z[:, CIRCULAR].min() >= -math.pi
    assert z[:, CIRCULAR].max() < math.pi
    assert z[:, ~CIRCULAR].abs().max() > 2 * math.pi
    plain = _conditional(torch.zeros(7, dtype=torch.bool))  # control: it would have left the interval
    assert getattr(plain, direction)(x, context)[0][:, CIRCULAR].abs().max() > 2 * math.pi


def test_scales_of_conditional_affine_are_bounded():
    """By exp(4) a feature, so that contexts far from the data leave densities finite."""
    layer, x = _conditional(), _features()
    for factor in (1e2, 1e4):
        z, logabsdet = layer(x, factor * _contexts())
        assert torch.isfinite(z).all()
        assert logabsdet.abs().max() <= 4.0 * 4 + 1e-9


def test_linear_tails_are_the_identity():
    layer = _coupling(torch.tensor([False, True, False, False, False, False, False]))
    x = _features()
    for value in (3.5, -1e4):
        x[:, 1] = value
        z, logabsdet = layer(x)
        assert torch.equal(z[:, 1], x[:, 1])
        assert torch.equal(logabsdet, torch.zeros(len(x), dtype=torch.float64))


COORDINATES = {
    "all": ({}, {}),
    "all, one scale": ({}, {"whiten": False}),
    "components": ({"components": [4, 0, 5]}, {}),
    "components, one scale": ({"components": [4, 0, 5]}, {"whiten": False}),
}


def _positions(n=5000):
    """Correlated configurations of two atoms."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return (torch.randn(n, 6, generator=generator, dtype=torch.float64) @ mixing.T + 4.0).reshape(-1, 2, 3)


@pytest.mark.parametrize("name", COORDINATES)
def test_cartesian_coordinates_are_scaled_and_invertible(name):
    options, fitting = COORDINATES[name]
    x = _positions()
    coordinates = CartesianCoordinates(2, **options).fit(x, **fitting)
    chosen = options.get("components", list(range(6)))
    assert coordinates.n_features == len(chosen)
    z, forward = coordinates(x)
    back, inverse = coordinates.inverse(z, frame=x[0])
    expected = x[:1].reshape(1, 6).repeat(len(x), 1)
    expected[:, chosen] = x.reshape(-1, 6)[:, chosen]
    assert (back.reshape(-1, 6) - expected).abs().max() < 1e-10
    assert float(forward[0]) == pytest.approx(-float(inverse[0]), abs=1e-12)
    rest = [k for k in range(6) if k not in chosen]
    assert torch.count_nonzero(coordinates.inverse(z)[0].reshape(-1, 6)[:, rest]) == 0
    covariance, original = torch.cov(z.T), torch.cov(x.reshape(-1, 6)[:, chosen].T)
    assert z.mean(0).abs().max() < 1e-9
    if fitting:  # the shape stays
        scale = original.diagonal().mean()
        assert (covariance - original / scale).abs().max() < 1e-9
        assert float(forward[0]) == pytest.approx(-0.5 * len(chosen) * math.log(scale), abs=1e-9)
    else:
        assert (covariance - torch.eye(len(chosen))).abs().max() < 1e-9
        log_determinant = -torch.linalg.slogdet(torch.linalg.cholesky(original))[1]
        assert float(forward[0]) == pytest.approx(float(log_determinant), abs=1e-9)


@pytest.mark.parametrize("name", COORDINATES)
def test_log_determinant_of_cartesian_coordinates_is_that_of_autograd(name):
    options, fitting = COORDINATES[name]
    x = _positions(50)
    coordinates = CartesianCoordinates(2, **options).fit(x, **fitting)
    chosen = options.get("components", list(range(6)))
    forward = jacobian(lambda row: coordinates(row.reshape(1, 2, 3))[0][0], x[1].flatten())
    expected = torch.linalg.slogdet(forward[:, chosen])[1]
    assert float(coordinates(x[1:2])[1]) == pytest.approx(float(expected), abs=1e-9)
    z = coordinates(x[1:2])[0]
    inverse = jacobian(lambda row: coordinates.inverse(row[None], frame=x[0])[0].reshape(6), z[0])
    expected = torch.linalg.slogdet(inverse[chosen])[1]
    assert float(coordinates.inverse(z)[1]) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("name", COORDINATES)
def test_cartesian_coordinates_are_rebuilt_from_their_config(name):
    options, fitting = COORDINATES[name]
    x = _positions(50)
    coordinates = CartesianCoordinates(2, **options).fit(x, **fitting)
    config = coordinates.config()
    assert config == {"kind": "CartesianCoordinates", "n_atoms": 2, **options}
    again = CartesianCoordinates.from_config(config)
    again.load_state_dict(coordinates.state_dict())
    assert set(coordinates.state_dict()) == {"circular", "mean", "factor"}
    assert torch.equal(again(x)[0], coordinates(x)[0])


@pytest.mark.parametrize("components", [[], [0, 0], [6], [-1], [0.5]])
def test_components_that_cannot_be(components):
    with pytest.raises(InputError, match="different whole numbers from 0 to 5"):
        CartesianCoordinates(2, components)


def test_coordinates_that_do_not_vary():
    x = _positions(50)
    x[:, 1] = 0.0
    with pytest.raises(InputError, match="do not vary"):
        CartesianCoordinates(2).fit(x)
    CartesianCoordinates(2, [0, 1, 2]).fit(x)
