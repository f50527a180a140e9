"""Toy systems: energies as OpenMM has them, and exact answers against quadrature and their own samples."""

import pickle
from itertools import pairwise

import numpy as np
import openmm
import pytest
from openmm import unit
from scipy import integrate, stats

from openmm_bg import BoltzmannGenerator, TorchPotential, systems
from openmm_bg.errors import InputError
from openmm_bg.flows import SplineFlow
from openmm_bg.systems import MolecularSystem
from openmm_bg.systems.quartic import Quartic
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.transforms import CartesianCoordinates

T = UNIT_TEMPERATURE
TOYS = {
    "double well": systems.double_well,
    "double well, printed": lambda: systems.double_well("printed"),
    "oscillator": systems.harmonic_oscillator,
    "mixture, 3": lambda: systems.double_well_mixture(3, seed=2),  # no coordinate to fill
    "mixture, 5": lambda: systems.double_well_mixture(5),
    "mixture, 20": lambda: systems.double_well_mixture(20),
}


@pytest.fixture(scope="module")
def toys():
    return {name: build() for name, build in TOYS.items()}


@pytest.fixture(params=TOYS)
def toy(toys, request):
    return toys[request.param]


@pytest.fixture
def configurations(toy, rng):
    """Samples at T = 4, with the other coordinates filled by random numbers."""
    x = toy.sample(8, 4 * T, rng)
    fill = rng.standard_normal((8, len(toy.fill_components)))
    return x, fill, toy.to_positions(x, fill)


def test_unit_temperature():
    constant = unit.MOLAR_GAS_CONSTANT_R * UNIT_TEMPERATURE * unit.kelvin
    assert constant.value_in_unit(unit.kilojoule_per_mole) == pytest.approx(1.0, abs=1e-14)


def test_energies_and_forces_are_those_of_openmm(toy, configurations, reference_energies_and_forces):
    x, fill, positions = configurations
    ours = toy.energy(x) + 0.5 * (fill**2).sum(1)
    energies, forces = reference_energies_and_forces(toy.molecule.system, positions)
    np.testing.assert_allclose(energies, ours, rtol=0, atol=1e-10)
    potential = TorchPotential.from_system(toy.molecule.system)
    translated, translated_forces = potential.energy_and_forces(positions)
    np.testing.assert_allclose(translated, ours, rtol=0, atol=1e-10)
    np.testing.assert_allclose(translated_forces, forces, rtol=0, atol=1e-9)
    # Without fill coordinates, the potential of the positions is that of the toy alone.
    np.testing.assert_allclose(potential.energy(toy.to_positions(x)), toy.energy(x), rtol=0, atol=1e-10)


def test_positions_and_back(toy, configurations):
    x, fill, positions = configurations
    assert positions.shape == (8, toy.molecule.n_atoms, 3)
    np.testing.assert_array_equal(toy.from_positions(positions), x)
    np.testing.assert_allclose(toy.from_positions(10 * positions * unit.angstrom), x, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(positions.reshape(8, -1)[:, toy.fill_components], fill)
    assert sorted([*toy.components, *toy.fill_components]) == list(range(3 * toy.molecule.n_atoms))
    assert toy.dimension == x.shape[1]
    assert len(toy.fill_components) < 5


def test_molecule_is_saved_and_read(toy, tmp_path):
    molecule = toy.molecule
    xml, pdb = tmp_path / "system.xml", tmp_path / "topology.pdb"
    xml.write_text(molecule.system_xml())
    pdb.write_text(molecule.topology_pdb())
    again = MolecularSystem.from_files(xml, pdb, temperature=T, bonds=molecule.bonds)
    for other in (again, pickle.loads(pickle.dumps(molecule)), pickle.loads(pickle.dumps(toy)).molecule):
        assert other.system_hash == molecule.system_hash
        assert other.temperature == T
        assert len(other.bonds) == 0
        np.testing.assert_allclose(other.positions, molecule.positions, atol=5.1e-5)  # a PDB file's digits


def test_generator_is_saved_and_read(toys, rng, tmp_path):
    """A flow of the toy's coordinates alone, whose other coordinates stay zero."""
    toy = toys["oscillator"]
    data = toy.to_positions(toy.sample(500, T, rng))
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components).fit(data, whiten=False)
    flow = SplineFlow(coordinates, T, n_layers=2, hidden_features=8, seed=0)
    potential = TorchPotential.from_system(toy.molecule)
    BoltzmannGenerator(flow, potential, system=toy.molecule).save(tmp_path / "model")
    generator = BoltzmannGenerator.load(tmp_path / "model")
    assert generator.flow.coordinates.components == toy.components
    samples = generator.sample(200, seed=1)
    np.testing.assert_array_equal(samples.positions.reshape(200, -1)[:, toy.fill_components], 0.0)
    np.testing.assert_allclose(samples.reduced_energy, toy.energy(toy.from_positions(samples.positions)))
    assert 0.1 < samples.ess() < 1
    first = BoltzmannGenerator(flow, potential, system=toy.molecule).sample(200, seed=1)
    np.testing.assert_array_equal(first.log_q, samples.log_q)


def test_reference_is_a_minimum(toy, rng):
    x = toy.from_positions(toy.molecule.positions[None])
    nearby = x + 0.02 * rng.standard_normal((200, toy.dimension))
    assert toy.energy(nearby).min() > toy.energy(x)[0]


def test_exact_answers_are_those_of_the_samples(toy, rng):
    """The mean of the log-density is minus the entropy; a wrong temperature is noticed."""

    def deviation(temperature):
        x = toy.sample(20_000, temperature, rng)
        log_prob, energy = toy.log_prob(x, 2 * T), toy.energy(x)
        errors = [(log_prob, -toy.entropy(2 * T)), (energy, toy.mean_energy(2 * T))]
        return [abs(v.mean() - exact) / (v.std() / np.sqrt(len(v))) for v, exact in errors]

    assert max(deviation(2 * T)) < 4
    assert min(deviation(2.2 * T)) > 6
    assert max(deviation(2 * T * unit.kelvin)) < 4


@pytest.mark.parametrize("kt", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("a1", [1.0, 0.0, -0.3])
def test_quartic_against_quadrature(kt, a1):
    well = Quartic(1.0, -4.0, a1)
    lowest = well.energy(well.minimum)

    def integral(function, high=6.0):
        value, _ = integrate.quad(
            lambda x: function(x) * np.exp(-(well.energy(x) - lowest) / kt),
            -6.0,
            high,
            points=[p for p in (-1.4, 1.4) if p < high],
            epsabs=1e-13,
            epsrel=1e-12,
            limit=200,
        )
        return value

    z = integral(lambda x: 1.0)
    assert well.log_z(kt) == pytest.approx(np.log(z) - lowest / kt, abs=1e-10)
    assert well.mean_energy(kt) == pytest.approx(integral(well.energy) / z, abs=1e-9)
    at = np.array([-1.9, -1.4, 0.1, 1.3])
    exact = np.array([integral(lambda x: 1.0, high=x) for x in at]) / z
    np.testing.assert_allclose(well.cdf(at, kt), exact, rtol=0, atol=1e-6)
    masses = well.log_masses(np.array([-np.inf, *at, np.inf]), kt) - well.log_z(kt)
    np.testing.assert_allclose(np.cumsum(np.exp(masses))[:-1], exact, rtol=0, atol=1e-10)


def test_mixture_against_quadrature():
    """Without the separation: a grid over both coordinates."""
    toy = systems.double_well_mixture(2, seed=3)
    axis = np.linspace(-9.0, 9.0, 1201)
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    energy = toy.energy(x)
    for kt in (0.5, 1.0, 3.0):
        weights = np.exp(-(energy - energy.min()) / kt)
        log_z = np.log(weights.sum() * (axis[1] - axis[0]) ** 2) - energy.min() / kt
        mean = (weights * energy).sum() / weights.sum()
        assert toy.log_z(kt * T) == pytest.approx(log_z, abs=1e-8)
        assert toy.mean_energy(kt * T) == pytest.approx(mean, abs=1e-8)
        assert toy.entropy(kt * T) == pytest.approx(mean / kt + log_z, abs=1e-8)


@pytest.mark.parametrize("dimension", [1, 2, 5, 20])
def test_mixture_is_as_described(dimension):
    toy = systems.double_well_mixture(dimension, seed=1)
    assert toy.molecule.n_atoms == -(-dimension // 3)
    assert np.linalg.cond(toy.matrix) < 5
    for well in toy.wells:
        left, barrier, right = well.energy(well.stationary_points)
        assert 1.0 < barrier - max(left, right) < barrier - min(left, right) < 8.0
    same, other = (systems.double_well_mixture(dimension, seed=seed) for seed in (1, 2))
    assert same.molecule.system_hash == toy.molecule.system_hash != other.molecule.system_hash
    y = toy.to_wells(toy.sample(4, T, np.random.default_rng(0)))
    np.testing.assert_allclose(toy.to_wells(toy.from_wells(y)), y, atol=1e-12)


def marginals(toy, rng, temperature):
    """Yield samples of one coordinate and its exact cumulative distribution at T = 1."""
    x = toy.sample(20_000, temperature, rng)
    if hasattr(toy, "wells"):
        y = toy.to_wells(x)
        for k in range(toy.dimension):
            yield y[:, k], lambda value, k=k: toy.well_cdf(value, T, k)
    elif hasattr(toy, "well"):
        yield x[:, 0], lambda value: toy.marginal_cdf(value, T)
    else:
        for k in range(2):
            yield x[:, k], lambda value, k=k: toy.marginal_cdf(value, T, k)


def test_samples_have_the_exact_marginals(toy, rng):
    for values, cdf in marginals(toy, rng, T):
        assert stats.kstest(values, cdf).pvalue > 1e-3
    # The box hides much of the temperature from the oscillator's marginals.
    wrong = 4.0 if toy.name == "harmonic_oscillator" else 1.3
    assert min(stats.kstest(*pair).pvalue for pair in marginals(toy, rng, wrong * T)) < 1e-6


def test_two_wells_and_one_well(toys):
    two, printed = toys["double well"], toys["double well, printed"]
    derivative = np.roots([1, 0, -6, 1])
    assert np.isreal(derivative).all()
    np.testing.assert_allclose(two.well.stationary_points, np.sort(derivative.real), atol=1e-12)
    assert np.isreal(np.roots([4, 0, -2, 1])).sum() == 1
    assert len(printed.well.stationary_points) == 1
    assert two.barrier == pytest.approx(0.16744919, abs=1e-8)
    np.testing.assert_allclose(two.energy([[1.0, 2.0]]), 0.25 - 3 + 1 + 2)
    np.testing.assert_allclose(printed.energy([[2.0, 2.0]]), 16 - 4 + 2 + 2)
    for question in (lambda: printed.barrier, lambda: printed.well_free_energy_difference(T)):
        with pytest.raises(InputError, match="single well"):
            question()


def test_free_energies_of_bins_and_wells(toys):
    toy, kt = toys["double well"], 0.7
    edges = np.linspace(-3.6, 3.4, 15)
    lowest = toy.well.energy(toy.well.minimum)

    def weight(x):
        return np.exp(-(toy.well.energy(x) - lowest) / kt)

    masses = [integrate.quad(weight, *pair, epsabs=0)[0] for pair in pairwise(edges)]
    expected = -np.log(masses)
    result = toy.free_energy(edges, kt * T)
    np.testing.assert_allclose(result, expected - expected.min(), rtol=0, atol=1e-8)
    assert result.min() == 0.0
    assert result.max() > 15
    left, right = (integrate.quad(weight, *sorted((toy.barrier, end)))[0] for end in (-6, 6))
    assert toy.well_free_energy_difference(kt * T) == pytest.approx(np.log(left / right), abs=1e-8)
    p_left = toy.marginal_cdf(toy.barrier, 5 * T)
    difference = toy.well_free_energy_difference(5 * T)
    assert p_left == pytest.approx(1 / (1 + np.exp(-difference)), abs=1e-7)


def test_map_to_normal_numbers(toys, rng):
    toy = toys["oscillator"]
    x = toy.sample(20_000, 2 * T, rng)
    z = toy.to_normal(x, 2 * T)
    for column in z.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z.T)[0, 1]) < 4 / np.sqrt(len(z))
    assert stats.kstest(toy.to_normal(x, T)[:, 1], "norm").pvalue < 1e-6
    assert stats.kstest(np.abs(z[:, 1]), "norm").pvalue < 1e-6  # equation 4 as printed
    np.testing.assert_allclose(toy.from_normal(z, 2 * T), x, rtol=0, atol=1e-10)
    # The change of variables gives equation 3: dz1/dx1 = 1 / (L phi(z1)), dz2/dx2 = sqrt(2k / kT).
    log_phi = stats.norm.logpdf(z)
    jacobian = -np.log(toy.length) - log_phi[:, 0] + 0.5 * np.log(2 * toy.k / 2.0)
    np.testing.assert_allclose(toy.log_prob(x, 2 * T), log_phi.sum(1) + jacobian, atol=1e-9)
    equation_3 = np.sqrt(toy.k / (np.pi * toy.length**2)) * np.exp(-toy.k * (x[:, 1] - x[:, 0]) ** 2)
    np.testing.assert_allclose(np.exp(toy.log_prob(x, T)), equation_3, rtol=1e-12)


def test_hard_walls(toys, reference_energies_and_forces):
    toy = toys["oscillator"]
    x = np.array([[-1e-6, 0.3], [4.0 + 1e-6, 3.0], [0.0, 0.5], [4.0, 5.0], [2.0, 1.0]])
    expected = [np.inf, np.inf, 0.25, 1.0, 1.0]
    np.testing.assert_array_equal(toy.energy(x), expected)
    positions = toy.to_positions(x)
    np.testing.assert_array_equal(reference_energies_and_forces(toy.molecule.system, positions)[0], expected)
    np.testing.assert_array_equal(TorchPotential.from_system(toy.molecule.system).energy(positions), expected)
    assert np.isneginf(toy.log_prob(x, T)[:2]).all()
    assert np.isnan(toy.to_normal(x, T)[:2]).all()
    assert toy.energy([[np.nan, 0.0]])[0] == toy.energy([[1.0, np.nan]])[0] == np.inf


def test_walls_exert_no_force_so_that_dynamics_leave_the_box(toys, reference_energies_and_forces):
    """What the oscillator's docstring says: it is for Monte Carlo moves only."""
    toy = toys["oscillator"]
    x = np.array([[-0.5, 0.3], [1e-9, 0.3], [4.0 - 1e-9, 3.0], [5.0, 4.0]])
    energies, forces = reference_energies_and_forces(toy.molecule.system, toy.to_positions(x))
    np.testing.assert_array_equal(np.isposinf(energies), [True, False, False, True])
    spring = 2 * toy.k * (x[:, 1] - x[:, 0])
    np.testing.assert_allclose(toy.from_positions(forces), np.stack([spring, -spring], axis=1), atol=1e-12)
    integrator = openmm.LangevinMiddleIntegrator(T * unit.kelvin, 1.0, 0.01)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(toy.molecule.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(toy.molecule.positions)
    context.setVelocitiesToTemperature(T * unit.kelvin, 1)
    outside, infinite = [], []
    for _ in range(200):
        integrator.step(50)
        state = context.getState(positions=True, energy=True)
        x1 = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[0, 0]
        outside.append(not 0 <= x1 <= toy.length)
        infinite.append(np.isposinf(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)))
    assert infinite == outside
    assert np.mean(outside) > 0.1


def test_dynamics_run(toys):
    """The systems serve OpenMM's integrators as they are."""
    system = toys["mixture, 5"].molecule.system
    integrator = openmm.LangevinMiddleIntegrator(T * unit.kelvin, 1.0, 0.01)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(toys["mixture, 5"].molecule.positions)
    integrator.step(200)
    energy = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    assert np.isfinite(energy)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: systems.double_well("three wells"),
            "no double well called 'three wells'; there are: two we",
        ),
        (lambda: systems.double_well((1.0, 2.0)), "three parameters, a4, a2 and a1, not 2"),
        (lambda: systems.double_well((-1.0, 2.0, 0.0)), "finite parameters with a4 > 0"),
        (lambda: systems.double_well((1.0, np.inf, 0.0)), "finite parameters with a4 > 0"),
        (lambda: systems.double_well().free_energy([0.0], T), "at least two finite numbers that increase"),
        (lambda: systems.double_well().free_energy([0.0, 0.0], T), "finite numbers that increase"),
        (lambda: systems.double_well().energy([1.0, 2.0]), r"must have the shape \(n, 2\), not \(2,\)"),
        (lambda: systems.double_well().log_z(0.0), "positive number of kelvin"),
        (lambda: systems.double_well().to_positions(np.zeros((3, 3))), r"must have the shape \(n, 2\)"),
        (lambda: systems.double_well().to_positions(np.zeros((3, 2)), np.zeros((2, 1))), r"shape \(3, 1\)"),
        (
            lambda: systems.double_well().from_positions(np.zeros((3, 2, 3))),
            r"must have the shape \(n, 1, 3\)",
        ),
        (lambda: systems.harmonic_oscillator(k=0.0), "oscillator's k must be a positive number"),
        (lambda: systems.harmonic_oscillator(length=-1.0), "oscillator's length must be a positive number"),
        (lambda: systems.harmonic_oscillator().marginal_cdf(0.0, T, 2), "coordinates 0 to 1, but no 2"),
        (lambda: systems.double_well_mixture(0), "whole number of at least 1, not 0"),
        (lambda: systems.double_well_mixture(2.5), "whole number of at least 1, not 2.5"),
        (lambda: systems.double_well_mixture(2).well_cdf(0.0, T, -1), "coordinates 0 to 1, but no -1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
