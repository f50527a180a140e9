"""The generator: weights, reproducibility, and models that are whole or refused."""

import json
import math
import stat

import numpy as np
import pytest
import torch

from openmm_bg import BoltzmannGenerator, InputError, TorchPotential
from openmm_bg.errors import ModelFileError, ReliabilityWarning
from openmm_bg.flows import SplineFlow
from openmm_bg.model_files import model_hash
from openmm_bg.potentials.base import Potential
from openmm_bg.transforms import CartesianCoordinates, InternalCoordinates
from openmm_bg.units import thermal_energy


class Harmonic(Potential):
    """k/2 |x|^2 of one particle: its free energy is known."""

    k = 1000.0

    def _evaluate(self, positions, with_forces):
        return 0.5 * self.k * positions.square().sum((1, 2)), -self.k * positions


@pytest.fixture(scope="module")
def harmonic():
    generator = np.random.default_rng(0)
    # Wider than the target and off its centre, so that weights matter.
    data = 0.01 + 1.2 * math.sqrt(thermal_energy(600) / Harmonic.k) * generator.normal(size=(5000, 1, 3))
    flow = SplineFlow(CartesianCoordinates(1).fit(data), 600.0, n_layers=2, hidden_features=8)
    return BoltzmannGenerator(flow, Harmonic(1))


@pytest.fixture(scope="module")
def molecular(alanine, md_positions):
    coordinates = InternalCoordinates.from_reference(alanine.positions, alanine.bonds, alanine.masses)
    flow = SplineFlow(coordinates.fit(md_positions), 600.0, n_layers=2, hidden_features=8)
    return BoltzmannGenerator(
        flow, TorchPotential.from_system(alanine), system=alanine, record={"note": "test"}
    )


@pytest.mark.parametrize("temperature", [300.0, 600.0])
def test_weights_are_exact(harmonic, temperature):
    """Mean energy 3/2 kT and the free energy of a harmonic oscillator, from a flow that is off."""
    samples = harmonic.sample(20_000, temperature, seed=1)
    kt = thermal_energy(temperature)
    energy = samples.expectation(samples.energies)
    assert abs(energy.value - 1.5 * kt) < 4 * energy.stderr
    assert energy.stderr < 0.02 * kt
    free_energy = samples.free_energy()
    expected = -1.5 * math.log(2 * math.pi * kt / Harmonic.k)
    assert abs(free_energy.value - expected) < 4 * free_energy.stderr
    # Negative control: without the weights the mean energy is far off.
    assert abs(samples.energies.mean() - 1.5 * kt) > 0.2 * kt


def test_same_seed_same_samples(molecular):
    a, b, c = (molecular.sample(50, 300.0, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(a.positions, b.positions, equal_nan=True)
    assert np.array_equal(a.log_weights, b.log_weights)
    assert not np.array_equal(a.positions, c.positions, equal_nan=True)


def test_log_q_and_energy_are_those_of_the_positions(molecular, alanine, reference_energies_and_forces):
    samples = molecular.sample(40, 300.0, seed=0)
    inside = samples.in_domain
    log_q = molecular.log_prob(samples.positions[inside], 300.0).numpy()
    assert np.abs(log_q - samples.log_q[inside]).max() < 1e-9
    energies, _ = reference_energies_and_forces(alanine.system, samples.positions[inside])
    finite = np.isfinite(energies)
    error = np.abs(samples.energies[inside][finite] - energies[finite])
    assert (error <= 1e-6 * np.maximum(np.abs(energies[finite]), 100.0)).all()


def test_save_and_load(molecular, tmp_path):
    saved = molecular.save(tmp_path / "model")
    loaded = BoltzmannGenerator.load(saved)
    a, b = molecular.sample(50, 300.0, seed=1), loaded.sample(50, 300.0, seed=1)
    assert np.array_equal(a.positions, b.positions, equal_nan=True)
    assert np.array_equal(a.log_weights, b.log_weights)
    assert loaded.record == {"note": "test"}
    assert loaded.system_hash == molecular.system_hash
    assert loaded.system.torsions == molecular.system.torsions
    assert np.array_equal(loaded.system.bonds, molecular.system.bonds)
    assert loaded.path == saved
    header = json.loads((saved / "model.json").read_text())
    assert header["flow"]["coordinates"]["z_matrix"]["atoms"]
    assert header["units"]["length"] == "nm"
    assert not list(saved.glob("*.p*kl"))
    for path in saved.iterdir():
        assert path.stat().st_mode & stat.S_IRUSR
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing temporary stays


def test_model_hash_tells_models_apart(molecular, tmp_path):
    first = model_hash(molecular.save(tmp_path / "a"))
    changed = BoltzmannGenerator(
        molecular.flow, molecular.potential, system=molecular.system, record={"n": 2}
    )
    assert model_hash(changed.save(tmp_path / "b")) != first


@pytest.mark.parametrize("name", ["flow.safetensors", "potential.safetensors", "model.json", "system.xml"])
def test_truncated_and_missing_files_are_refused(molecular, tmp_path, name):
    directory = molecular.save(tmp_path / "model")
    path = directory / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=r"truncated"):
        BoltzmannGenerator.load(directory)
    path.unlink()
    with pytest.raises(ModelFileError, match=r"no model in|lacks its file"):
        BoltzmannGenerator.load(directory)


def test_changed_weights_are_refused(molecular, tmp_path):
    directory = molecular.save(tmp_path / "model")
    content = bytearray((directory / "flow.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "flow.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="changed"):
        BoltzmannGenerator.load(directory)


def test_save_does_not_overwrite_other_things(molecular, tmp_path):
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(InputError, match="not a model"):
        molecular.save(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "data"


def test_warns_outside_its_temperatures(harmonic):
    with pytest.warns(ReliabilityWarning, match="outside the range"):
        harmonic.sample(10, 200.0)


def test_bad_arguments(harmonic, molecular, alanine):
    with pytest.raises(InputError, match="positive number of kelvin"):
        harmonic.sample(10, 0.0)
    with pytest.raises(InputError, match="at least 1"):
        harmonic.sample(0)
    with pytest.raises(InputError, match="no potential"):
        BoltzmannGenerator(harmonic.flow).sample(1)
    with pytest.raises(InputError, match="different numbers of atoms"):
        BoltzmannGenerator(harmonic.flow, system=alanine)


def test_float64_network(molecular, tmp_path):
    directory = molecular.save(tmp_path / "model")
    single, double = (BoltzmannGenerator.load(directory, dtype=d) for d in (torch.float32, torch.float64))
    a, b = single.sample(50, seed=1), double.sample(50, seed=1)
    assert not np.array_equal(a.positions, b.positions, equal_nan=True)  # other random bits
    x = b.positions[b.in_domain]
    again = double.log_prob(x).numpy()
    assert np.abs(again - b.log_q[b.in_domain]).max() < 1e-6
    assert torch.equal(single.log_prob(x), double.log_prob(x))  # densities are float64 either way
