"""Umbrella sampling: its bias against OpenMM, its windows and probabilities against quadrature, interruptions."""

import copy
import json

import numpy as np
import pytest
import torch
from openmm import (
    CustomTorsionForce,
    HarmonicAngleForce,
    HarmonicBondForce,
    PeriodicTorsionForce,
    System,
    app,
)
from toy_potentials import Harmonic, generator

from openmm_bg import TorchPotential
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.simulation import LangevinDynamics, UmbrellaSettings, umbrella, umbrella_sampling
from openmm_bg.simulation.torsion_bias import TorsionBias
from openmm_bg.simulation.umbrella_analysis import UmbrellaEnsemble, load_umbrella
from openmm_bg.simulation.umbrella_exchange import UmbrellaExchange
from openmm_bg.systems import MolecularSystem
from openmm_bg.units import thermal_energy

KT = thermal_energy(300.0)
TERMS = [(1, 1.4, 7.0), (2, 0.0, 12.0)]  # periodicity, phase [rad], strength [kJ/mol]
GRID = np.linspace(-np.pi, np.pi, 3600, endpoint=False) + np.pi / 3600
SETTINGS = UmbrellaSettings(
    torsion="phi",
    spread=(),
    n_windows=12,
    n_ladders=16,
    stiffness=40.0,
    interval=10,
    thin=2,
    n_frames=160,
    pull=400,
    burn_in=600,
    friction=10.0,
    hydrogen_mass=None,
    seed=5,
)
QUICK = {"n_windows": 4, "n_ladders": 2, "spread": (), "stiffness": 5.0, "interval": 5, "thin": 2}
QUICK |= {"pull": 30, "burn_in": 65, "n_frames": 40}


def _torsion_energy(angle):
    return sum(strength * (1 + np.cos(n * angle - phase)) for n, phase, strength in TERMS)


def _probabilities(bias=0.0):
    """Return the exact probabilities on the grid: nothing else in the chain depends on the torsion."""
    density = np.exp(-(_torsion_energy(GRID) + bias) / KT)
    return density / density.sum()


@pytest.fixture(scope="module")
def chain():
    """A chain of four atoms with two wells: P(phi > 0) is 0.5 %, behind barriers of 12 kT."""
    system, topology = System(), app.Topology()
    residue = topology.addResidue("CHN", topology.addChain())
    atoms = [topology.addAtom(f"C{k}", app.element.carbon, residue) for k in range(4)]
    bonds, angles, torsion = HarmonicBondForce(), HarmonicAngleForce(), PeriodicTorsionForce()
    for _ in range(4):
        system.addParticle(12.0)
    for k in range(3):
        topology.addBond(atoms[k], atoms[k + 1])
        bonds.addBond(k, k + 1, 0.15, 100_000.0)
    for k in range(2):
        angles.addAngle(k, k + 1, k + 2, 1.95, 400.0)
    for n, phase, strength in TERMS:
        torsion.addTorsion(0, 1, 2, 3, n, phase, strength)
    for force in (bonds, angles, torsion):
        system.addForce(force)
    positions = [[0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.2, 0.14, 0.0], [0.34, 0.15, 0.03]]
    return MolecularSystem("chain", system, topology, np.array(positions), 300.0, {"phi": (0, 1, 2, 3)})


@pytest.fixture(scope="module")
def finished(chain, tmp_path_factory):
    """The output directory of a run."""
    return umbrella_sampling(chain, tmp_path_factory.mktemp("umbrella") / "run", SETTINGS).parent


def test_bias_has_the_energies_and_forces_of_openmm(alanine, reference_energies_and_forces):
    torsions = np.array([alanine.torsions["phi"], alanine.torsions["psi"]])
    centres = np.random.default_rng(0).uniform(-np.pi, np.pi, (8, 2))
    noise = np.random.default_rng(1).normal(size=(8, 22, 3))
    positions = alanine.positions + 0.01 * noise
    bias = TorsionBias(TorchPotential.from_system(alanine), torsions, centres, 70.0)
    energy, forces = bias.energy_and_forces(positions)
    for k in range(8):
        system, custom = copy.deepcopy(alanine.system), CustomTorsionForce("70*(1-cos(theta-centre))")
        custom.addPerTorsionParameter("centre")
        for atoms, centre in zip(torsions, centres[k], strict=True):
            custom.addTorsion(*atoms.tolist(), [centre])
        system.addForce(custom)
        expected_energy, expected_forces = reference_energies_and_forces(system, positions[k : k + 1])
        assert float(energy[k]) == pytest.approx(expected_energy[0], abs=1e-6)
        assert np.abs(forces[k].numpy() - expected_forces[0]).max() < 1e-8 * np.abs(expected_forces).max()
    assert torch.allclose(bias.energy(positions), energy)
    unbiased = bias.potential.energy(positions)
    assert torch.allclose(energy - unbiased, bias.bias(bias.torsion_angles(torch.from_numpy(positions))))
    assert (energy - unbiased > 1.0).all()


def test_atoms_on_a_line_get_finite_forces():
    positions = torch.zeros(2, 4, 3)
    positions[:, :, 0] = 0.1 * torch.arange(4)
    positions[1] = 0.0
    bias = TorsionBias(Harmonic(4), [[0, 1, 2, 3]], np.ones((2, 1)), 10.0)
    energy, forces = bias.energy_and_forces(positions)
    expected, harmonic_forces = Harmonic(4).energy_and_forces(positions)
    assert torch.allclose(energy - expected, torch.full((2,), 10.0 * (1 - np.cos(1.0))), atol=1e-3)
    assert torch.equal(forces, harmonic_forces)


def test_bad_bias():
    with pytest.raises(InputError, match="atoms that are not there: 0 to 3 are"):
        TorsionBias(Harmonic(4), [[0, 1, 2, 4]], [[0.0]], 10.0)
    with pytest.raises(InputError, match=r"must have the shape \(batch, 1\), not \(3,\)"):
        TorsionBias(Harmonic(4), [[0, 1, 2, 3]], [0.0, 0.0, 0.0], 10.0)
    with pytest.raises(InputError, match="stiffness must be positive"):
        TorsionBias(Harmonic(4), [[0, 1, 2, 3]], [[0.0]], -1.0)
    with pytest.raises(InputError, match="2 centres of the bias for 3 configurations"):
        TorsionBias(Harmonic(4), [[0, 1, 2, 3]], [[0.0], [1.0]], 10.0).energy(torch.rand(3, 4, 3))


def _exchange(chain, n_windows, n_ladders, stiffness, torsions=((0, 1, 2, 3),), seed=0):
    centres = np.repeat(umbrella.window_centres(n_windows), n_ladders)[:, None].repeat(len(torsions), axis=1)
    bias = TorsionBias(TorchPotential.from_system(chain, dtype=torch.float32), torsions, centres, stiffness)
    positions = torch.from_numpy(np.repeat(chain.positions[None], len(centres), axis=0)).float()
    dynamics = LangevinDynamics(
        bias, positions, chain.masses, 300.0, timestep=0.002, friction=10.0, generator=generator(seed)
    )
    return UmbrellaExchange(dynamics, n_ladders=n_ladders)


def test_exchange_moves_the_bias_and_nothing_else(chain):
    exchange = _exchange(chain, n_windows=6, n_ladders=16, stiffness=8.0)
    for _ in range(20):
        exchange.step(5)
    bias = exchange.dynamics.potential
    assert np.allclose(bias.centres[:, 0], umbrella.window_centres(6)[exchange.windows])
    for ladder in range(16):  # walkers stay in their ladder, one in each window
        assert sorted(exchange.walkers[:, ladder] % 16) == [ladder] * 6
        assert sorted(exchange.walkers[:, ladder] // 16) == list(range(6))
    energy, forces = bias.energy_and_forces(exchange.dynamics.positions)
    assert torch.equal(energy, exchange.dynamics.energy)
    assert torch.equal(forces, exchange.dynamics.forces)
    assert exchange.n_proposed.tolist() == [160] * 6
    assert ((exchange.n_accepted > 0) & (exchange.n_accepted < 160)).all()
    assert np.abs(exchange.walkers // 16 - np.arange(6)[:, None]).max() > 1


def test_bad_ladders(chain):
    with pytest.raises(InputError, match="ladders of an even number of windows"):
        _exchange(chain, n_windows=5, n_ladders=2, stiffness=8.0)
    with pytest.raises(InputError, match="with one torsion"):
        _exchange(chain, 4, 2, 8.0, torsions=((0, 1, 2, 3), (3, 2, 1, 0)))


def _window_scores(frames):
    """Return how far the mean of cos(phi - centre) in each window is from quadrature, in standard errors."""
    centres, scores = umbrella.window_centres(SETTINGS.n_windows), []
    ladder = np.broadcast_to(np.arange(frames.windows.shape[1]) % SETTINGS.n_ladders, frames.windows.shape)
    for k, centre in enumerate(centres):
        expected = _probabilities(SETTINGS.stiffness * (1 - np.cos(GRID - centre))) @ np.cos(GRID - centre)
        inside = frames.windows == k
        values = np.cos(frames.torsions["phi"] - centre)
        means = [values[inside & (ladder == j)].mean() for j in range(SETTINGS.n_ladders)]
        scores.append((np.mean(means) - expected) / (np.std(means, ddof=1) / len(means) ** 0.5))
    return np.abs(scores)


def test_every_window_has_its_own_distribution(finished):
    assert _window_scores(load_umbrella(finished)).max() < 3.5


def test_exchange_that_always_accepts_is_found(chain, tmp_path, monkeypatch):
    """The negative control: the distributions of the windows do depend on the acceptance."""
    monkeypatch.setattr(UmbrellaExchange, "_accepts", lambda self, i, j: torch.ones(len(i), dtype=torch.bool))
    umbrella_sampling(chain, tmp_path / "run", SETTINGS)
    assert (_window_scores(load_umbrella(tmp_path / "run")) > 10).sum() > 5


def test_probability_is_exact(finished):
    frames = load_umbrella(finished)
    ensemble = UmbrellaEnsemble(frames)
    expected = _probabilities()[GRID > 0].sum()
    assert 0.002 < expected < 0.02
    found = ensemble.population(ensemble.torsions["phi"] > 0)
    assert abs(found.value - expected) < 3.5 * found.stderr
    assert found.stderr < 0.15 * expected
    # 3 bonds and 2 angles with kT/2 each, up to 1 % for their volume elements, and the torsion by quadrature.
    energy = ensemble.mean(ensemble.potential_energy)
    assert (
        abs(energy.value - (2.5 * KT + _probabilities() @ _torsion_energy(GRID))) < 3.5 * energy.stderr + 0.02
    )
    # The negative control: without the reweighting the answer is far off.
    rare = ensemble.torsions["phi"] > 0
    assert abs(rare.mean() - expected) > 50 * found.stderr


def test_record_and_frames(chain, finished):
    record = json.loads((finished / "provenance.json").read_text())
    assert sorted(path.name for path in finished.iterdir()) == ["provenance.json", "umbrella.npz"]
    assert record["system_hash"] == chain.system_hash
    assert record["settings"]["stiffness"] == 40.0
    assert record["n_restarts"] == 0
    assert len(record["exchange_acceptance"]) == 12
    n_steps, n_rounds = SETTINGS.pull + SETTINGS.burn_in + 3200, 60 + 320
    assert record["n_energy_evaluations"] == 192 * (n_steps + n_rounds + 2)
    frames = load_umbrella(finished)
    assert frames.windows.shape == frames.potential_energy.shape == frames.torsions["phi"].shape == (160, 192)
    assert all(np.bincount(row).tolist() == [16] * 12 for row in frames.windows)
    stretch = frames.potential_energy - _torsion_energy(frames.torsions["phi"])
    assert stretch.min() > -1e-3  # of bonds and angles: the bias is not in it


class _Interrupted(Exception):
    pass


def test_interrupted_runs_go_on_bit_by_bit(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(umbrella, "_SEGMENT_ROUNDS", 7)
    settings = UmbrellaSettings(**QUICK)
    whole = umbrella_sampling(chain, tmp_path / "whole", settings)
    step, calls = UmbrellaExchange.step, []

    def interrupted(self, n_steps):
        calls.append(n_steps)
        if len(calls) in (10, 40, 70):  # in the burn-in and twice among the frames, never after a checkpoint
            raise _Interrupted
        step(self, n_steps)

    monkeypatch.setattr(UmbrellaExchange, "step", interrupted)
    for _ in range(3):
        with pytest.raises(_Interrupted):
            umbrella_sampling(chain, tmp_path / "parts", settings)
        assert not (tmp_path / "parts" / "umbrella.npz").exists()
        with pytest.raises(InputError, match="not finished"):
            load_umbrella(tmp_path / "parts")
    segments = []
    parts = umbrella_sampling(chain, tmp_path / "parts", settings, on_segment=segments.append)
    assert segments[0] > 7  # went on, did not start again
    with np.load(whole) as first, np.load(parts) as second:
        assert set(first) == set(second) == {"phi", "potential_energy", "window"}
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_refuses_to_mix_runs(chain, tmp_path, monkeypatch):
    settings = UmbrellaSettings(**QUICK)
    umbrella_sampling(chain, tmp_path / "run", settings)
    with pytest.raises(InputError, match="holds finished umbrella sampling"):
        umbrella_sampling(chain, tmp_path / "run", settings)

    def stop(_):
        raise _Interrupted

    with pytest.raises(_Interrupted):
        umbrella_sampling(chain, tmp_path / "other", settings, on_segment=stop)
    with pytest.raises(InputError, match="with other settings"):
        umbrella_sampling(chain, tmp_path / "other", UmbrellaSettings(**QUICK, seed=9))


def test_walkers_start_spread_and_in_their_windows(alanine, tmp_path):
    """Alanine dipeptide: a short pull brings phi to the windows, and psi all around the circle."""
    settings = UmbrellaSettings(
        n_windows=12, n_ladders=4, pull=1200, burn_in=0, n_frames=1, thin=1, interval=50, seed=1
    )
    frames = load_umbrella(umbrella_sampling(alanine, tmp_path / "run", settings).parent)
    distance = np.cos(frames.torsions["phi"] - settings.centres()[frames.windows])
    assert (distance > 0.5).all()
    assert (np.histogram(frames.torsions["psi"], bins=6, range=(-np.pi, np.pi))[0] > 0).all()


def test_walkers_that_explode_are_reported(chain, tmp_path):
    with pytest.warns(ReliabilityWarning, match="use a shorter time step"):
        umbrella_sampling(chain, tmp_path / "run", UmbrellaSettings(**QUICK, timestep=1.0))


def test_unknown_torsions(alanine, tmp_path):
    with pytest.raises(InputError, match="no torsion 'chi'; it has: phi, psi"):
        umbrella_sampling(alanine, tmp_path / "run", UmbrellaSettings(torsion="chi"))
    with pytest.raises(InputError, match="no torsion 'chi'"):
        umbrella_sampling(alanine, tmp_path / "run", UmbrellaSettings(spread=("psi", "chi")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "positive number of kelvin"),
        ({"n_windows": 2}, "number of windows must be at least 4"),
        ({"n_windows": 31}, "must be even, and is 31"),
        ({"n_ladders": 0}, "number of ladders must be at least 1"),
        ({"n_frames": 1.5}, "number of frames must be a whole number"),
        ({"thin": 0}, "thin must be at least 1"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
        ({"stiffness": float("nan")}, "stiffness must be positive"),
        ({"timestep": -0.001}, "timestep must be positive"),
        ({"hydrogen_mass": 0.0}, "hydrogen_mass must be positive"),
        ({"spread": ("phi",)}, "cannot be spread as well"),
        ({"mode": "quick"}, "no mode 'quick'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        UmbrellaSettings(**changes)


def test_centres_share_the_circle():
    centres = UmbrellaSettings(n_windows=8).centres()
    assert centres[0] == -np.pi
    assert np.allclose(np.diff(centres), np.pi / 4)
