"""Weights of umbrella sampling: exact answers, honest errors, and the reference that ships."""

import json

import numpy as np
import pytest

from openmm_bg.analysis import BASINS
from openmm_bg.errors import InputError
from openmm_bg.reference import load_reference, load_umbrella_reference, make_umbrella_reference
from openmm_bg.simulation import UmbrellaSettings, umbrella_sampling
from openmm_bg.simulation.umbrella import window_centres
from openmm_bg.simulation.umbrella_analysis import (
    UmbrellaEnsemble,
    UmbrellaFrames,
    _quiet_pymbar,
    load_umbrella,
    torsion_cells,
)
from openmm_bg.statistics import z_score
from openmm_bg.units import thermal_energy

KT = thermal_energy(300.0)
N_WINDOWS, STIFFNESS = 20, 40.0
GRID = np.linspace(-np.pi, np.pi, 7200, endpoint=False) + np.pi / 7200
ENERGY = 7.0 * (1 + np.cos(GRID - 1.4)) + 12.0 * (1 + np.cos(2 * GRID))
EXACT = np.exp(-ENERGY / KT) / np.exp(-ENERGY / KT).sum()


def _frames(seed, n_frames=20, n_ladders=16, repeats=1):
    """Draw frames of every window from its exact distribution, in ladders; each frame can be there repeatedly."""
    rng = np.random.default_rng(seed)
    windows = np.repeat(np.arange(N_WINDOWS), n_ladders)
    angles = np.empty((n_frames, len(windows)))
    for k, centre in enumerate(window_centres(N_WINDOWS)):
        density = EXACT * np.exp(-STIFFNESS * (1 - np.cos(GRID - centre)) / KT)
        drawn = rng.choice(len(GRID), size=(n_frames, n_ladders), p=density / density.sum())
        angles[:, windows == k] = GRID[drawn]
    angles = np.repeat(angles, repeats, axis=0)
    settings = {
        "temperature": 300.0,
        "n_windows": N_WINDOWS,
        "n_ladders": n_ladders,
        "stiffness": STIFFNESS,
        "torsion": "phi",
    }
    energy = np.interp(angles, GRID, ENERGY, period=2 * np.pi)
    windows = np.broadcast_to(windows, angles.shape)
    return UmbrellaFrames({"phi": angles}, energy, windows, {"settings": settings})


@pytest.fixture(scope="module")
def ensemble():
    """An ensemble of many frames."""
    return UmbrellaEnsemble(_frames(0, n_frames=100))


def test_weights_are_those_of_pymbar(ensemble):
    """The weights of a state that was not sampled, as pymbar computes them."""
    angles = ensemble.torsions["phi"]
    bias = STIFFNESS / KT * (1 - np.cos(angles - window_centres(N_WINDOWS)[:, None]))
    with _quiet_pymbar():
        from pymbar import MBAR

        count = [len(angles) // N_WINDOWS] * N_WINDOWS + [0]
        mbar = MBAR(
            np.vstack([bias, np.zeros_like(angles)]), count, solver_protocol=({"method": "adaptive"},)
        )
    assert np.abs(ensemble.weights / mbar.W_nk[:, -1] - 1).max() < 1e-5
    assert ensemble.weights.sum() == pytest.approx(1.0)
    assert np.allclose(ensemble.free_energies, mbar.f_k[:-1], atol=1e-6)


def test_free_energies_of_windows_are_exact(ensemble):
    bias = STIFFNESS / KT * (1 - np.cos(GRID - window_centres(N_WINDOWS)[:, None]))
    expected = -np.log(np.exp(-bias) @ EXACT)
    assert np.abs(ensemble.free_energies - (expected - expected[0])).max() < 0.3


def test_averages_are_exact(ensemble):
    rare = ensemble.torsions["phi"] > 0
    found, expected = ensemble.population(rare), EXACT[GRID > 0].sum()
    assert 0.002 < expected < 0.01
    assert abs(z_score(found, (expected, 0.0))) < 3.5
    assert found.stderr < 0.1 * expected
    assert abs(z_score(ensemble.mean(ensemble.potential_energy), (EXACT @ ENERGY, 0.0))) < 3.5
    # The negative control: the bias left out of the reweighting.
    assert abs(rare.mean() - expected) > 40 * found.stderr


def test_profile_is_exact(ensemble):
    centres, profile, stderr = ensemble.free_energy("phi", bins=36)
    expected = -np.log(EXACT.reshape(36, -1).sum(1))
    assert np.allclose(centres, GRID.reshape(36, -1).mean(1))
    assert profile.min() == 0.0
    difference = profile - (expected - expected.min())
    assert (np.abs(difference) < 4.5 * stderr + 0.02).all()  # 0.02: the minimum itself has an error
    assert stderr.max() < 0.3
    fraction, fraction_stderr = ensemble.fractions(torsion_cells(ensemble.torsions["phi"], 36), 36)
    assert np.allclose(-np.log(fraction) + np.log(fraction.max()), profile)
    assert np.allclose(fraction_stderr / fraction, stderr)
    assert ensemble.free_energy("phi", bins=7200)[1].max() == np.inf  # a bin without frames


def test_errors_are_honest():
    """Over many repetitions the deviation in standard errors has mean 0 and variance 1."""
    expected = EXACT[GRID > 0].sum()
    scores = []
    for seed in range(14):
        ensemble = UmbrellaEnsemble(_frames(100 + seed, n_frames=10))
        found = ensemble.population(ensemble.torsions["phi"] > 0)
        scores.append(np.log(found.value / expected) / (found.stderr / found.value))
    assert abs(np.mean(scores)) < 3.5 / 14**0.5
    assert 0.6 < np.std(scores) < 1.5


def test_correlated_frames_do_not_shrink_the_error():
    """Each frame ten times over is no more information, whatever its statistical weight."""
    states = []
    for repeats in (1, 10):
        ensemble = UmbrellaEnsemble(_frames(3, n_frames=6, repeats=repeats))
        states.append(ensemble.population(ensemble.torsions["phi"] > 0))
        never = ensemble.population(np.zeros_like(ensemble.weights, dtype=bool))
        assert never.value == 0.0
        assert never.stderr == pytest.approx(1.0 / ensemble.n_effective)
    assert states[1] == pytest.approx(states[0], rel=1e-4)


def test_groups_of_ladders():
    frames = _frames(4, n_frames=6)
    assert UmbrellaEnsemble(frames).n_groups == 16
    fine, coarse = (UmbrellaEnsemble(frames, n_groups) for n_groups in (16, 8))
    errors = [e.population(e.torsions["phi"] > 0).stderr for e in (fine, coarse)]
    assert errors[1] == pytest.approx(errors[0], rel=0.7)
    for n_groups in (1, 17):
        with pytest.raises(InputError, match=f"no more than the 16 ladders, not {n_groups}"):
            UmbrellaEnsemble(frames, n_groups)
    with pytest.raises(InputError, match="whole number"):
        UmbrellaEnsemble(frames, 2.5)


def test_missing_runs(tmp_path):
    with pytest.raises(InputError, match="is no output of umbrella sampling"):
        load_umbrella(tmp_path)
    (tmp_path / "in_progress").mkdir()
    with pytest.raises(InputError, match="not finished"):
        load_umbrella(tmp_path)


def test_make_umbrella_reference(alanine, tmp_path):
    system = alanine.with_torsions({**alanine.torsions, "omega": (8, 14, 16, 18)})
    settings = UmbrellaSettings(
        n_windows=12, n_ladders=4, stiffness=20.0, pull=300, burn_in=0, n_frames=10, thin=1, interval=20
    )
    umbrella_sampling(system, tmp_path / "run", settings)
    path = make_umbrella_reference(tmp_path / "run", tmp_path, n_sample=96)
    assert path.name == "alanine_dipeptide_300K_umbrella.npz"
    ensemble = UmbrellaEnsemble(load_umbrella(tmp_path / "run"))
    record = json.loads(path.with_suffix(".json").read_text())
    expected = ensemble.population(ensemble.torsions["phi"] > 0)
    assert record["estimates"]["P(phi > 0)"] == pytest.approx(expected._asdict())
    assert record["n_cis_frames"] == {"omega": 0}
    with np.load(path) as arrays:
        assert arrays["density"].sum() * (2 * np.pi / 50) ** 2 == pytest.approx(1.0)
        assert len(arrays["sample_phi"]) == record["n_sample"] == 96
        assert np.allclose(arrays["sample_log_weight"][:48], np.log(ensemble.weights[:48]), atol=1e-4)
        angles = arrays["sample_psi"][48:] * np.pi / 2**15  # rows 0 and 5 of the frames
        assert np.abs(np.exp(1j * angles) - np.exp(1j * ensemble.torsions["psi"][240:288])).max() < 1e-4
    umbrella_sampling(alanine.with_torsions({"phi": alanine.torsions["phi"]}), tmp_path / "no psi", _no_psi())
    with pytest.raises(InputError, match="no single phi and psi"):
        make_umbrella_reference(tmp_path / "no psi", tmp_path)


def _no_psi():
    return UmbrellaSettings(
        n_windows=4, n_ladders=2, spread=(), pull=0, burn_in=0, n_frames=1, thin=1, interval=1
    )


def test_shipped_reference_agrees_with_parallel_tempering(alanine):
    """Two methods that share the dynamics and nothing else."""
    umbrella, tempering = (
        load_umbrella_reference("alanine_dipeptide", 300.0),
        load_reference("alanine_dipeptide", 300.0),
    )
    assert umbrella.record["system_hash"] == alanine.system_hash
    assert set(umbrella.record["n_cis_frames"].values()) == {0}
    found = umbrella.p_phi_positive()
    assert found.stderr < 0.04 * found.value
    assert abs(z_score(found, tempering.ramachandran.p_phi_positive())) < 3.5
    for name, basin in BASINS.items():
        expected = tempering.ramachandran.population(basin)
        assert abs(z_score(umbrella.populations[f"P({name})"], expected)) < 3.5
    energy = tempering.potential_energy / KT
    assert umbrella.mean_energy.value == pytest.approx(energy.mean(), abs=0.15)
    area = (2 * np.pi / 50) ** 2
    assert umbrella.density.sum() * area == pytest.approx(1.0, abs=1e-5)
    assert umbrella.density[25:].sum() * area == pytest.approx(found.value, rel=1e-4)
    assert umbrella.ramachandran.weights[umbrella.ramachandran.phi > 0].sum() == pytest.approx(
        found.value, rel=0.3
    )
    assert umbrella.free_energy.shape == umbrella.free_energy_stderr.shape == umbrella.phi.shape == (72,)
    with pytest.raises(InputError, match="no reference by umbrella sampling for alanine_dipeptide at 310 K"):
        load_umbrella_reference("alanine_dipeptide", 310.0)
