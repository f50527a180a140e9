"""The shipped reference, and comparisons that tell equal from different."""

import numpy as np
import pytest

from openmm_bg.analysis import Ramachandran
from openmm_bg.comparison import Ensemble, compare
from openmm_bg.errors import InputError
from openmm_bg.reference import _ANGLE_UNIT, load_reference, make_reference
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.training import load_data
from openmm_bg.units import thermal_energy


def _ensemble(seed, n=20_000, energy_shift=0.0, temperature=300.0):
    generator = np.random.default_rng(seed)
    phi = np.where(generator.random(n) < 0.02, 1.0, -2.0) + 0.2 * generator.normal(size=n)
    psi = np.where(generator.random(n) < 0.2, -0.8, 2.6) + 0.2 * generator.normal(size=n)
    psi = (psi + np.pi) % (2 * np.pi) - np.pi
    energy = thermal_energy(temperature) * (energy_shift + 5.0 * generator.normal(size=n))
    return Ensemble(Ramachandran(f"set {seed}", phi, psi), energy, temperature)


def test_equal_laws_agree_and_a_shift_does_not():
    table = compare(_ensemble(0), {"same": _ensemble(1), "shifted": _ensemble(2, energy_shift=0.5)})
    assert all(row["same"]["agrees"] for row in table.values())
    assert not table["mean energy (kT)"]["shifted"]["agrees"]
    assert table["mean energy (kT)"]["shifted"]["z"] == pytest.approx(
        0.5 / (5.0 * (2 / 20_000) ** 0.5), abs=3.5
    )
    assert table["P(phi > 0)"]["reference"]["value"] == pytest.approx(0.02, abs=0.004)
    assert table["P(alpha-R)"]["same"]["value"] == pytest.approx(0.2 * 0.98, abs=0.012)
    assert table["std of energy (kT)"]["same"]["value"] == pytest.approx(
        5.0, abs=4 * 5.0 / (2 * 20_000) ** 0.5
    )


def test_reference_of_alanine_dipeptide(alanine):
    reference = load_reference("alanine_dipeptide", 300.0)
    assert reference.record["system_hash"] == alanine.system_hash
    assert reference.record["settings"]["ladder"]  # parallel tempering, no flow
    assert reference.ramachandran.n_walkers == reference.record["n_walkers"] == 128
    assert len(reference.potential_energy) == len(reference.ramachandran.phi) == reference.record["n_frames"]
    # 60 internal degrees of freedom: the energy of a harmonic molecule has the variance 60 / 2 (kT)^2.
    spread = reference.potential_energy.std() / thermal_energy(300.0)
    assert spread == pytest.approx((60 / 2) ** 0.5, rel=0.05)
    with pytest.raises(InputError, match="no reference"):
        load_reference("alanine_dipeptide", 310.0)


def test_make_reference_keeps_angles_and_energies(alanine, tmp_path):
    settings = SimulationSettings(
        temperature=300.0, ladder=(400.0,), n_walkers=4, n_frames=160, interval=2, burn_in=10
    )
    simulate(alanine, tmp_path / "data", settings)
    path = make_reference(tmp_path / "data", tmp_path, discard=0.1, thin=4)
    assert path.name == "alanine_dipeptide_300K.npz"
    data = load_data(tmp_path / "data")
    rows = np.arange(160).reshape(-1, 4)[4::4].reshape(-1)
    with np.load(path) as arrays:
        assert len(arrays["phi"]) == len(rows)
        assert np.allclose(arrays["potential_energy"], data.energies[rows], atol=1e-3)
        import mdtraj

        trajectory = mdtraj.Trajectory(data.positions[rows], mdtraj.Topology.from_openmm(alanine.topology))
        _, phi = mdtraj.compute_phi(trajectory)
        difference = arrays["phi"] * _ANGLE_UNIT - phi[:, 0]
    assert np.abs(np.angle(np.exp(1j * difference))).max() < 2e-4
