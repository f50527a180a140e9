"""Ramachandran statistics of distributions on the torus whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_bg import analysis, statistics, systems
from openmm_bg.analysis import BASINS, PHI_POSITIVE, Basin, Ramachandran
from openmm_bg.errors import InputError

TURN = 2 * np.pi


def uniform(n: int, seed: int, **kwargs) -> Ramachandran:
    phi, psi = np.random.default_rng(seed).uniform(-np.pi, np.pi, size=(2, n))
    return Ramachandran("uniform", phi, psi, **kwargs)


def cosine(n: int, seed: int) -> Ramachandran:
    """Uniform draws with the weights of the density (1 + cos(phi)) / (4 pi^2)."""
    phi, psi = np.random.default_rng(seed).uniform(-np.pi, np.pi, size=(2, n))
    return Ramachandran("cosine", phi, psi, log_weights=np.log1p(np.cos(phi)) + 7.0)


def test_torsion_angles_of_a_molecule_equal_mdtraj():
    import mdtraj

    molecule = systems.load("alanine_dipeptide")
    rng = np.random.default_rng(0)
    positions = molecule.positions + rng.normal(scale=0.02, size=(25, 22, 3))
    trajectory = mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(molecule.topology))
    angles = analysis.torsion_angles(positions, molecule.torsions, chunk=10)
    np.testing.assert_allclose(angles["phi"], mdtraj.compute_phi(trajectory)[1][:, 0], atol=1e-4)
    np.testing.assert_allclose(angles["psi"], mdtraj.compute_psi(trajectory)[1][:, 0], atol=1e-4)
    assert analysis.torsion_angles(positions, {}) == {}


def test_torsion_pairs():
    assert analysis.torsion_pairs({"psi": (0, 1, 2, 3), "phi": (1, 2, 3, 4)}) == {"": ("phi", "psi")}
    several = {"phi 2 (ALA)": 0, "psi 2 (ALA)": 0, "phi 3 (GLY)": 0, "psi 1 (SER)": 0, "phiX": 0}
    assert analysis.torsion_pairs(several) == {"2 (ALA)": ("phi 2 (ALA)", "psi 2 (ALA)")}


def test_basins_are_a_partition_of_the_torus():
    edges = np.radians([-180.0, -120.0, 0.0, 15.0, 120.0, 180.0, 360.0])
    angles = np.concatenate(
        [np.linspace(-np.pi, np.pi, 181), edges, np.nextafter(edges, 9), np.nextafter(edges, -9)]
    )
    angles = np.append(angles, [0.0, -0.0, 1e-300, -1e-300, -1e-18])
    phi, psi = (grid.ravel() for grid in np.meshgrid(angles, angles))
    inside = np.stack([basin.contains(phi, psi) for basin in BASINS.values()])
    np.testing.assert_array_equal(inside.sum(axis=0), 1)


@pytest.mark.parametrize(
    ("phi", "psi", "name"),
    [
        (-150, 155, "beta/PPII"),
        (-75, 150, "beta/PPII"),
        (-150, -170, "beta/PPII"),
        (170, 160, "beta/PPII"),
        (-80, 60, "beta/PPII"),
        (-70, -40, "alpha-R"),
        (-60, 10, "alpha-R"),
        (55, 40, "alpha-L/C7ax"),
        (65, -50, "alpha-L/C7ax"),
        (55, -130, "alpha-L/C7ax"),
    ],
)
def test_well_known_conformations_are_in_their_basins(phi, psi, name):
    inside = {key: bool(basin.contains(np.radians(phi), np.radians(psi))) for key, basin in BASINS.items()}
    assert inside == {key: key == name for key in BASINS}
    assert bool(PHI_POSITIVE.contains(np.radians(phi), np.radians(psi))) == (phi > 0)


def test_basin_that_runs_through_180_degrees():
    basin = Basin((170.0, -170.0), (-180.0, 180.0))
    degrees = np.array([169.9, 170.0, 179.0, -180.0, -171.0, -170.0, 0.0, np.nan])
    inside = basin.contains(np.radians(degrees), np.zeros(8))
    assert inside.tolist() == [False, True, True, True, True, False, False, False]


def test_density_and_marginals_of_weighted_samples():
    samples = cosine(400_000, seed=1)
    density = samples.density(36)
    area = (TURN / 36) ** 2
    assert density.sum() * area == pytest.approx(1.0)
    edges = np.linspace(-np.pi, np.pi, 37)
    in_bin = (np.diff(edges) + np.diff(np.sin(edges))) / TURN  # the integral of 1 + cos, over 2 pi
    np.testing.assert_allclose(density.sum(axis=1) * area, in_bin, atol=0.002)
    np.testing.assert_allclose(density.sum(axis=0) * area, 1 / 36, atol=0.002)
    centres, marginal, stderr = samples.marginal("phi", 36)
    np.testing.assert_allclose(centres, (edges[1:] + edges[:-1]) / 2)
    scores = (marginal - in_bin / (TURN / 36)) / stderr
    assert 0.6 < scores.std() < 1.5
    assert np.abs(scores).max() < 4


def test_phi_and_psi_are_the_first_and_second_axis():
    one = Ramachandran("one", np.radians([-100.0]), np.radians([50.0]))
    phi_bin, psi_bin = np.argwhere(one.density(36) > 0)[0]
    assert (phi_bin, psi_bin) == (8, 23)
    # 180 and -180 degrees are the same angle.
    both = Ramachandran("both", np.array([np.pi, -np.pi]), np.array([0.1, 0.1]))
    assert (both.density(36) > 0).sum() == 1


def test_marginal_errors_of_chains():
    # 20,000 frames repeated 5 times each are worth 20,000, not 100,000.
    base = uniform(20_000, seed=2)
    repeated = Ramachandran("chain", np.repeat(base.phi, 5), np.repeat(base.psi, 5))
    _, density, stderr = repeated.marginal("psi", 24)
    expected = np.sqrt((1 / 24) * (23 / 24) / 20_000) / (TURN / 24)
    assert np.median(stderr) == pytest.approx(expected, rel=0.15)
    np.testing.assert_allclose(density, 1 / TURN, atol=5 * expected)
    # Forty interleaved walkers, each stuck at its own angle, are worth forty frames.
    walkers = np.tile(np.random.default_rng(3).uniform(-np.pi, np.pi, 40), 500)
    stuck = Ramachandran("stuck", walkers, walkers, n_walkers=40)
    centres, density, stderr = stuck.marginal("phi", 4)
    fraction = density * TURN / 4
    np.testing.assert_allclose(stderr * TURN / 4, np.sqrt(fraction * (1 - fraction) / 39), rtol=1e-6)
    assert len(centres) == 4


def test_populations_of_weighted_samples():
    samples = cosine(200_000, seed=4)
    # The integral of 1 + cos(phi) over (0, 2 pi/3) and over the rest, psi being uniform.
    left = (TURN / 3 + np.sin(TURN / 3)) / TURN
    expected = {
        "beta/PPII": (1 - left) * 225 / 360,
        "alpha-R": (1 - left) * 135 / 360,
        "alpha-L/C7ax": left,
    }
    populations = samples.populations()
    assert sum(p.value for p in populations.values()) == pytest.approx(1.0)
    for name, truth in expected.items():
        assert abs(statistics.z_score(populations[name], (truth, 0.0))) < 4
        assert populations[name].stderr < 0.003
    assert abs(statistics.z_score(samples.p_phi_positive(), (0.5, 0.0))) < 4


def test_population_of_a_chain_that_jumps_between_basins():
    # A two-state chain with jump probability 0.02: correlation time known, g = (1 + 0.96) / (1 - 0.96) = 49.
    rng = np.random.default_rng(5)
    state = np.cumsum(rng.random((100_000, 4)) < 0.02, axis=0) % 2
    phi = np.where(state == 1, 1.0, -1.0).ravel()
    chain = Ramachandran("chain", phi, np.full(phi.shape, 3.0), n_walkers=4)
    value, stderr = chain.p_phi_positive()
    assert stderr == pytest.approx(np.sqrt(0.25 * 49 / 400_000), rel=0.15)
    assert abs(value - 0.5) < 4 * stderr


def test_density_errors_are_those_of_draws():
    """Equal weights: binomial errors; a hundred times the weight of one draw is worth that one draw."""
    phi, psi = np.full(1000, -1.0), np.full(1000, 1.0)
    phi[:250] = 1.0
    log_weights = np.zeros(1000)
    one = Ramachandran("x", phi, psi, log_weights)
    density, stderr = one.density(4), one.density_stderr(4)
    assert density[2, 2] == pytest.approx(0.25 / (np.pi / 2) ** 2)
    assert stderr[2, 2] / density[2, 2] == pytest.approx(np.sqrt(0.25 * 0.75 / 1000) / 0.25)
    assert stderr[0, 0] == 0.0
    phi[:250], log_weights[0] = -1.0, np.log(100.0)
    phi[0] = 1.0
    one = Ramachandran("x", phi, psi, log_weights)
    assert one.density_stderr(4)[2, 2] / one.density(4)[2, 2] == pytest.approx(1.0, abs=0.1)


def test_free_energy_surface():
    density = np.array([[np.exp(-3.0), 0.0], [1.0, np.exp(-1.0)]])
    np.testing.assert_allclose(analysis.free_energy_surface(density), [[3.0, np.inf], [0.0, 1.0]])


def test_kl_divergence_of_known_densities():
    rng = np.random.default_rng(6)
    flat, source = uniform(2_000_000, seed=7), uniform(2_000_000, seed=17)
    # Accept-reject draws of (1 + cos(phi)) / (4 pi^2).
    accept = rng.random(len(source.phi)) * 2 < 1 + np.cos(source.phi)
    peaked = Ramachandran("peaked", source.phi[accept], source.psi[accept])
    # KL(peaked || flat) = <(1 + cos) log(1 + cos)> over the circle = 1 - log(2)
    truth = 1 - np.log(2)
    noise = 100**2 / 2 * (1 / len(peaked.phi) + 1 / len(flat.phi))  # bias of a plug-in KL: bins/2 (1/n + 1/m)
    assert analysis.kl_divergence(peaked, flat) == pytest.approx(truth + noise, abs=0.003)
    assert analysis.kl_divergence(flat, flat) == 0.0
    # Mass where the other has none costs log(p / 1e-10), p in 1/rad^2.
    a = Ramachandran("a", np.array([0.1]), np.array([0.1]))
    b = Ramachandran("b", np.array([2.0]), np.array([0.1]))
    density = (100 / TURN) ** 2
    assert analysis.kl_divergence(a, b) == pytest.approx(np.log((density + 1e-10) / 1e-10))


def test_total_variation_of_known_densities():
    flat, tilted = uniform(400_000, seed=8), cosine(400_000, seed=9)
    noise = analysis.total_variation_floor(flat, tilted, bins=10)
    # 1/2 <|cos|> over the circle = 1/pi
    assert analysis.total_variation(flat, tilted, bins=10) == pytest.approx(1 / np.pi, abs=0.02 + noise)
    a = Ramachandran("a", np.array([0.1]), np.array([0.1]))
    b = Ramachandran("b", np.array([2.0]), np.array([0.1]))
    assert analysis.total_variation(a, b) == pytest.approx(1.0)
    assert analysis.total_variation(a, a) == 0.0


def test_total_variation_floor_is_the_distance_of_equal_laws():
    for one, two in (
        (uniform(200_000, seed=10), uniform(100_000, seed=11)),
        (uniform(200_000, seed=12, n_walkers=10), cosine_as_uniform(100_000, seed=13)),
    ):
        found, floor = analysis.total_variation(one, two), analysis.total_variation_floor(one, two)
        assert found == pytest.approx(floor, rel=0.05)


def cosine_as_uniform(n: int, seed: int) -> Ramachandran:
    """Draws of a law that is not uniform, with weights that make it so."""
    phi, psi = np.random.default_rng(seed).uniform(-np.pi, np.pi, size=(2, 4 * n))
    accept = np.random.default_rng(seed + 1).random(4 * n) * 1.5 < 1 + 0.5 * np.cos(phi)
    phi, psi = phi[accept][:n], psi[accept][:n]
    return Ramachandran("reweighted", phi, psi, log_weights=-np.log1p(0.5 * np.cos(phi)))


def test_energy_statistics():
    rng = np.random.default_rng(14)
    # Draws from N(0, 2), reweighted to N(1, 1): log w = -(e-1)^2/2 + e^2/8. One has no energy, and no weight.
    energy = rng.normal(scale=2.0, size=100_000)
    log_weights = -0.5 * (energy - 1) ** 2 + energy**2 / 8
    energy[0], log_weights[0] = np.inf, -np.inf
    found = analysis.energy_statistics(energy, log_weights)
    assert abs(statistics.z_score(found["mean"], (1.0, 0.0))) < 4
    assert abs(statistics.z_score(found["std"], (1.0, 0.0))) < 4
    assert found["mean"].stderr < 0.01
    # A chain of white noise: stderr of the mean 1/sqrt(n), of the standard deviation 1/sqrt(2n).
    noise = rng.normal(size=40_000)
    found = analysis.energy_statistics(noise, n_walkers=8)
    assert found["mean"].stderr == pytest.approx(1 / 200, rel=0.1)
    assert found["std"].stderr == pytest.approx(1 / np.sqrt(80_000), rel=0.1)
    assert analysis.energy_statistics(np.ones(10))["std"] == (0.0, 0.0)


def test_impossible_input_is_refused():
    angles = np.zeros(6)
    with pytest.raises(InputError, match="one length"):
        Ramachandran("x", angles, angles[:5])
    with pytest.raises(InputError, match="4 walkers"):
        Ramachandran("x", angles, angles, n_walkers=4)
    with pytest.raises(InputError, match="NaN"):
        Ramachandran("x", np.append(angles, np.nan), np.zeros(7))
    weights = np.append(np.zeros(6), -np.inf)
    allowed = Ramachandran("x", np.append(angles, np.nan), np.zeros(7), weights)
    assert allowed.density(10).sum() * (TURN / 10) ** 2 == pytest.approx(1.0)
    with pytest.raises(InputError, match="no weight at all"):
        allowed.density(10, part=slice(6, 7))
    with pytest.raises(InputError, match="walkers"):
        analysis.energy_statistics(angles, n_walkers=4)
