"""Noisy coarse-grained maps: r(z | x) is normalised, and beads are drawn from it, modulo place and orientation."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from openmm_bg.coarse_graining.maps import LinearMap, selection_map
from openmm_bg.coarse_graining.noisy_map import NoisyMap, map_from_config
from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.systems import load
from openmm_bg.transforms import InternalCoordinates

WIDTHS = {"bond_width": 0.2, "angle_width": 0.3, "torsion_width": 0.4}
WIDE = {"bond_width": 0.6, "angle_width": 0.9, "torsion_width": 1.0}
# Five atoms, so that the beads' centres are averages.
ATOMS = torch.tensor(
    [[0.0, 0.0, 0.0], [0.3, 0.1, 0.0], [0.4, 0.4, 0.1], [0.7, 0.4, 0.4], [0.8, 0.7, 0.3]], dtype=torch.float64
)


def centre(n_beads):
    """Beads between neighbouring atoms; the last is the last atom."""
    weights = np.zeros((n_beads, 5))
    for bead in range(n_beads):
        weights[bead, [bead, min(bead + 1, 4)]] = 0.5 if bead < 4 else 1.0
    return LinearMap(weights, range(n_beads))


def measured(beads):
    """r, theta and phi of chains by numpy, each with shape=(batch, ...)."""
    beads = np.asarray(beads)
    steps = np.diff(beads, axis=1)
    r = np.linalg.norm(steps, axis=-1)
    theta = np.pi - np.arccos((steps[:, 1:] * steps[:, :-1]).sum(-1) / r[:, 1:] / r[:, :-1])
    normals = np.cross(steps[:, :-1], steps[:, 1:])
    middle = steps[:, 1:-1] / r[:, 1:-1, None]
    sine = (np.cross(normals[:, :-1], normals[:, 1:]) * middle).sum(-1)
    phi = np.arctan2(sine, (normals[:, :-1] * normals[:, 1:]).sum(-1))
    return r, theta, phi


def chain(r, theta, phi):
    """Beads with given r, theta and phi, one after the other in spherical coordinates."""
    beads = np.zeros((len(r), r.shape[1] + 1, 3))
    beads[:, 1, 2] = r[:, 0]
    for k in range(2, r.shape[1] + 1):
        along = beads[:, k - 1] - beads[:, k - 2]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        before = beads[:, k - 2] - beads[:, k - 3] if k > 2 else np.array([[1.0, 0.0, 0.0]])
        side = np.cross(before, along)
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        angle = phi[:, k - 3] if k > 2 else np.zeros(len(r))
        t, f = theta[:, k - 2, None], angle[:, None]
        turned = np.cos(f) * np.cross(side, along) + np.sin(f) * side
        beads[:, k] = beads[:, k - 1] + r[:, k - 1, None] * (-np.cos(t) * along + np.sin(t) * turned)
    return torch.as_tensor(beads)


def log_prob(noisy, beads):
    return noisy.log_prob(beads, ATOMS.expand(len(beads), -1, -1)).numpy()


def coordinates(r, theta, phi):
    """log(r^3/3), atanh(-cos theta) and phi, in which the noise is normal."""
    return np.log(r**3 / 3), np.arctanh(-np.cos(theta)), phi


def means(n_beads):
    beads = centre(n_beads).weights @ ATOMS
    return [value[0] for value in coordinates(*measured(beads[None]))]


def wrapped_normal(offset, width):
    """Its density by Fourier's series (Poisson summation), not by images."""
    k = np.arange(1, 200)
    return (1 + 2 * (np.exp(-0.5 * (k * width) ** 2) * np.cos(np.multiply.outer(offset, k))).sum(-1)) / (
        2 * np.pi
    )


def wrapped_normal_cdf(offset, width):
    """Its cumulative distribution from -pi, likewise."""
    k = np.arange(1, 200)
    waves = np.exp(-0.5 * (k * width) ** 2) * np.sin(np.multiply.outer(offset, k)) / k
    return 0.5 + offset / (2 * np.pi) + waves.sum(-1) / np.pi


def normal_cdf(offset, width):
    return stats.norm.cdf(offset, 0.0, width)


def test_chains_are_built_and_measured_alike(rng):
    """The tests' own tools."""
    r, theta = rng.uniform(0.1, 1, (50, 4)), rng.uniform(0.1, 3, (50, 3))
    phi = rng.uniform(-3, 3, (50, 2))
    for found, expected in zip(measured(chain(r, theta, phi)), (r, theta, phi), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("widths", [{}, WIDTHS, WIDE])
def test_density_of_three_beads_is_normalised(widths):
    """By Gauss-Legendre quadrature of r1^2 r2^2 sin(theta) dr1 dr2 dtheta; a wrong volume element does not pass."""
    noisy = NoisyMap(centre(3), **widths)
    bonds, angles, _ = means(3)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    axes = []
    for mean in bonds:
        reach = 8 * noisy.widths["bond_width"] / 3
        axes.append(((3 * math.exp(mean)) ** (1 / 3) * np.exp(reach * nodes), reach * weights))
    u = angles[0] + 8 * noisy.widths["angle_width"] * nodes  # -cos theta = tanh u
    theta = np.arccos(-np.tanh(u))
    axes.append((theta, 8 * noisy.widths["angle_width"] * weights * np.sin(theta)))  # dtheta = sin(theta) du
    (r1, w1), (r2, w2), (_, w3) = axes
    grid = np.meshgrid(r1, r2, theta, indexing="ij")
    beads = chain(
        np.stack([grid[0], grid[1]], -1).reshape(-1, 2), grid[2].reshape(-1, 1), np.zeros((60**3, 0))
    )
    density = np.exp(log_prob(noisy, beads)).reshape(60, 60, 60)
    volume = np.einsum("i,j,k->ijk", w1 * r1, w2 * r2, w3)  # dr = r d(log r)
    volume_element = grid[0] ** 2 * grid[1] ** 2 * np.sin(grid[2])
    assert (density * volume * volume_element).sum() == pytest.approx(1.0, abs=1e-7)
    flat = (density * volume * grid[0] * grid[1] * np.sin(grid[2])).sum()  # control: r in the place of r^2
    assert abs(flat - 1.0) > 0.1


@pytest.mark.parametrize("widths", [{}, WIDTHS, WIDE])
@pytest.mark.parametrize("n_beads", [3, 4, 5])
def test_density_is_the_product_of_the_exact_laws(widths, n_beads, rng):
    """Log-normal r^3/3, normal atanh(-cos theta), wrapped normal phi: densities by scipy and Fourier's series."""
    noisy = NoisyMap(centre(n_beads), **widths)
    bond, angle, torsion = noisy.widths.values()
    mean_bonds, mean_angles, mean_torsions = means(n_beads)
    n = 500
    b = np.exp(mean_bonds + 2 * bond * rng.normal(size=(n, n_beads - 1)))
    w = np.tanh(mean_angles + 2 * angle * rng.normal(size=(n, n_beads - 2)))
    phi = mean_torsions + rng.uniform(-1, 1, (n, n_beads - 3)) * min(np.pi, 5 * torsion)
    beads = chain((3 * b) ** (1 / 3), np.arccos(-w), phi)
    expected = stats.lognorm.logpdf(b, bond, scale=np.exp(mean_bonds)).sum(1)
    expected += (stats.norm.logpdf(np.arctanh(w), mean_angles, angle) - np.log1p(-(w**2))).sum(1)
    expected += np.log(wrapped_normal(phi - mean_torsions, torsion)).sum(1)
    np.testing.assert_allclose(log_prob(noisy, beads), expected, atol=1e-6, rtol=1e-8)


@pytest.mark.parametrize("widths", [WIDTHS, WIDE])
def test_density_of_four_beads_is_normalised(widths, rng):
    """Importance sampling of the beads' positions in space, from laws of the test's own."""
    noisy, n = NoisyMap(centre(4), **widths), 200_000
    bonds, angles, _ = means(4)
    bond, angle, _ = noisy.widths.values()
    typical = (3 * np.exp(bonds)) ** (1 / 3)
    r = typical * np.exp(1.3 * bond / 3 * rng.normal(size=(n, 3)))
    proposal = stats.lognorm.logpdf(r, 1.3 * bond / 3, scale=typical).sum(1)
    u = angles + 1.3 * angle * rng.normal(size=(n, 2))
    theta = np.arccos(-np.tanh(u))
    proposal += (stats.norm.logpdf(u, angles, 1.3 * angle) - np.log(np.sin(theta))).sum(
        1
    )  # du = dtheta / sin
    phi = rng.uniform(-np.pi, np.pi, (n, 1))
    proposal -= math.log(2 * np.pi)
    volume_element = (2 * np.log(r)).sum(1) + np.log(np.sin(theta)).sum(1)
    weights = np.exp(log_prob(noisy, chain(r, theta, phi)) + volume_element - proposal)
    error = weights.std() / math.sqrt(n)
    assert error < 0.01
    assert abs(weights.mean() - 1.0) < 4 * error


@pytest.mark.parametrize("width", [0.1, 0.5, 1.0])
def test_density_of_torsions_is_normalised_on_the_circle(width):
    """A sum over an even grid is exact for periodic functions that are this smooth."""
    noisy = NoisyMap(centre(4), torsion_width=width)
    bonds, angles, torsions = means(4)
    phi = np.linspace(-np.pi, np.pi, 400, endpoint=False)[:, None]
    r, theta = (3 * np.exp(bonds)) ** (1 / 3), np.arccos(-np.tanh(angles))
    beads = chain(np.tile(r, (400, 1)), np.tile(theta, (400, 1)), phi)
    density = np.exp(log_prob(noisy, beads))
    at_mean = stats.lognorm.pdf(np.exp(bonds), 0.05, scale=np.exp(bonds)).prod()
    at_mean *= (stats.norm.pdf(0, 0, 0.1) / (1 - np.tanh(angles) ** 2)).prod()
    assert density.sum() * 2 * np.pi / 400 == pytest.approx(at_mean, rel=1e-9)
    assert abs(np.angle(np.exp(1j * (phi[density.argmax(), 0] - torsions[0])))) < 2 * np.pi / 400


@pytest.mark.parametrize("n_beads", [3, 4, 5])
def test_drawn_beads_have_the_exact_laws(n_beads):
    """Kolmogorov-Smirnov tests of each coordinate; with a width 10 percent off they fail."""
    n = 20_000
    noisy = NoisyMap(centre(n_beads), **WIDTHS)
    z = noisy.draw(ATOMS.expand(n, -1, -1), torch.Generator().manual_seed(0))
    assert z.shape == (n, n_beads, 3)
    drawn, mean = coordinates(*measured(z)), means(n_beads)
    columns = []
    for values, middle, (name, width) in zip(drawn, mean, WIDTHS.items(), strict=True):
        law = wrapped_normal_cdf if name == "torsion_width" else normal_cdf
        for k, column in enumerate(values.T):
            offset = column - middle[k]
            if name == "torsion_width":
                offset = np.remainder(offset + np.pi, 2 * np.pi) - np.pi
            assert stats.kstest(offset, law, args=(width,)).pvalue > 1e-3
            assert stats.kstest(offset, law, args=(1.1 * width,)).pvalue < 1e-6
            columns.append(offset)
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / math.sqrt(n)  # coordinates are independent


def test_torsions_that_wrap_are_drawn_from_the_wrapped_law():
    """The mean next to the cut at 180 degrees, and the largest width."""
    atoms = chain(np.full((1, 3), 0.3), np.full((1, 2), 1.9), np.array([[3.1]]))
    noisy = NoisyMap(selection_map(4, [0, 1, 2, 3]), torsion_width=1.0)
    z = noisy.draw(atoms.expand(20_000, -1, -1), torch.Generator().manual_seed(1))
    phi = measured(z)[2][:, 0]
    offset = np.remainder(phi - 3.1 + np.pi, 2 * np.pi) - np.pi
    assert stats.kstest(offset, wrapped_normal_cdf, args=(1.0,)).pvalue > 1e-3
    assert stats.kstest(phi - 3.1, stats.norm.cdf).pvalue < 1e-6  # control: half of them crossed the cut
    assert torch.isfinite(z).all()


def test_each_configuration_has_beads_of_its_own():
    one = load("alanine_dipeptide")
    x = torch.as_tensor(one.positions + 0.02 * np.random.default_rng(0).normal(size=(300, 22, 3)))
    noisy = NoisyMap(selection_map(22, [1, 4, 6, 8, 14]))
    z = noisy.draw(x, torch.Generator().manual_seed(0))
    own, others = noisy.log_prob(z, x), noisy.log_prob(z, x.roll(1, 0))
    assert torch.isfinite(own).all()
    # Minus twice the exponent has a chi-squared law with 3 n - 6 = 9 degrees of freedom; others' is far larger.
    found, mean = coordinates(*measured(z)), coordinates(*measured(x[:, [1, 4, 6, 8, 14]]))
    normal = [values - middle for values, middle in zip(found, mean, strict=True)]
    normal[2] = np.remainder(normal[2] + np.pi, 2 * np.pi) - np.pi
    squares = sum(((c / w) ** 2).sum(1) for c, w in zip(normal, noisy.widths.values(), strict=True))
    assert stats.kstest(squares, stats.chi2(9).cdf).pvalue > 1e-3
    assert (own - others).mean() > 5


@pytest.mark.parametrize("n_beads", [3, 5])
def test_density_does_not_depend_on_place_and_orientation(n_beads, rng):
    noisy = NoisyMap(centre(n_beads), **WIDTHS)
    x = ATOMS.expand(50, -1, -1)
    z = noisy.draw(x, torch.Generator().manual_seed(0))
    expected = noisy.log_prob(z, x)
    matrix, _ = np.linalg.qr(rng.normal(size=(50, 3, 3)))
    matrix *= np.sign(np.linalg.det(matrix))[:, None, None]
    matrix, shift = torch.as_tensor(matrix), torch.as_tensor(rng.normal(size=(50, 1, 3)))
    assert (noisy.log_prob(z @ matrix + shift, x) - expected).abs().max() < 1e-8
    assert (noisy.log_prob(z, x @ matrix + shift) - expected).abs().max() < 1e-8
    assert (noisy.log_prob(z @ matrix, x @ matrix.flip(0)) - expected).abs().max() < 1e-8
    both_mirrored = noisy.log_prob(-z, -x)
    assert (both_mirrored - expected).abs().max() < 1e-8
    mirrored = noisy.log_prob(-z, x)  # control: three beads have no handedness, five have
    assert ((mirrored - expected).abs().max() < 1e-8) == (n_beads == 3)
    assert (noisy.log_prob(1.1 * z, x) - expected).abs().min() > 1e-2  # control: another size


def test_draws_follow_their_generator():
    noisy, x = NoisyMap(centre(4)), ATOMS.expand(20, -1, -1)
    generator = torch.Generator().manual_seed(3)
    first, second = noisy.draw(x, generator), noisy.draw(x, generator)
    assert torch.equal(first, noisy.draw(x, torch.Generator().manual_seed(3)))
    assert not torch.isclose(first, second).all(2).all(1).any()
    assert not torch.equal(first, noisy.draw(x, torch.Generator().manual_seed(4)))
    # The frame is the beads' own: turning x changes nothing but rounding errors.
    turned = noisy.draw(x[:, :, [1, 2, 0]] + 1.0, torch.Generator().manual_seed(3))
    assert (turned - first).abs().max() < 1e-12


def test_narrow_noise_draws_the_centre():
    noisy = NoisyMap(centre(5), bond_width=1e-6, angle_width=1e-6, torsion_width=1e-6)
    x = ATOMS.expand(10, -1, -1)
    z = noisy.draw(x, torch.Generator().manual_seed(0))
    distances = torch.cdist(z, z), torch.cdist(noisy.beads(x), noisy.beads(x))
    assert (distances[0] - distances[1]).abs().max() < 1e-4
    assert torch.isfinite(noisy.log_prob(z, x)).all()


def test_beads_and_forces_are_those_of_the_centre(rng):
    linear = centre(4)
    noisy, x = NoisyMap(linear), torch.as_tensor(rng.normal(size=(10, 5, 3)))
    assert torch.equal(noisy.beads(x), linear.beads(x))
    assert torch.equal(noisy.bead_forces(x), linear.bead_forces(x))
    assert (noisy.n_atoms, noisy.n_beads) == (5, 4)
    with pytest.raises(InputError, match="5 atoms"):
        noisy.draw(x[:, :4], torch.Generator())
    with pytest.raises(InputError, match="5 atoms"):
        noisy.log_prob(linear.beads(x), x[:, :4])


def test_coordinates_are_those_of_all_atoms():
    """Also where no anchors follow from the beads: two of them tell the middle of atoms 1 and 18 only."""
    one = load("alanine_dipeptide")
    weights = np.zeros((3, 22))
    weights[0, [1, 18, 10]] = 0.3, 0.3, 0.4
    weights[1, [1, 18]] = 0.5
    weights[2, 14] = 1.0
    noisy = NoisyMap(LinearMap(weights, [1, 18, 14]))
    coordinates = noisy.coordinates(one.positions, one.bonds, one.masses)
    assert isinstance(coordinates, InternalCoordinates)
    assert coordinates.n_features == 3 * 22 - 6
    x = torch.as_tensor(one.positions[None].copy())
    assert torch.isfinite(noisy.log_prob(noisy.draw(x, torch.Generator().manual_seed(0)), x)).all()
    with pytest.raises(InputError, match="do not follow"):
        noisy.centre.coordinates(one.positions, one.bonds, one.masses)


def test_config_rebuilds_the_map():
    noisy, x = NoisyMap(centre(4), **WIDTHS), ATOMS.expand(10, -1, -1)
    again = map_from_config(json.loads(json.dumps(noisy.config())))
    z = noisy.draw(x, torch.Generator().manual_seed(0))
    assert torch.equal(again.draw(x, torch.Generator().manual_seed(0)), z)
    assert torch.equal(again.log_prob(z, x), noisy.log_prob(z, x))
    linear = map_from_config(noisy.centre.config())
    assert isinstance(linear, LinearMap)
    assert torch.equal(linear.beads(x), noisy.beads(x))
    assert linear.anchors.tolist() == noisy.centre.anchors.tolist()
    with pytest.raises(ModelFileError, match="kind 'CurvedMap'"):
        map_from_config({**noisy.config(), "kind": "CurvedMap"})


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("width", [0.0, -0.1, math.nan, math.inf])
def test_widths_that_are_not_positive_are_refused(name, width):
    with pytest.raises(InputError, match=f"{name} must be positive"):
        NoisyMap(centre(3), **{name: width})


def test_torsion_widths_above_one_are_refused():
    with pytest.raises(InputError, match="at most 1 for torsions"):
        NoisyMap(centre(4), torsion_width=1.01)
    NoisyMap(centre(4), bond_width=1.01, angle_width=1.01, torsion_width=1.0)
