"""Thinned trajectories that come with the package."""

import json
from importlib import resources

import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.reference_frames import load_reference_frames, make_reference_frames
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.training import load_data


@pytest.fixture(scope="module")
def simulation(alanine, tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "data"
    settings = SimulationSettings(
        temperature=300.0, ladder=(400.0,), n_walkers=4, n_frames=160, interval=2, burn_in=10
    )
    simulate(alanine, path, settings)
    return path


def test_frames_are_kept_with_their_energies(alanine, simulation, tmp_path):
    path = make_reference_frames(simulation, tmp_path, n_frames=50, discard=0.1)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".npz", ".xtc"]
    frames = load_reference_frames("alanine_dipeptide", 300.0, tmp_path)
    assert frames.path == path
    assert (frames.n_walkers, frames.temperature, frames.convergence) == (4, 300.0, "")
    # 36 of 40 frames of each walker; every third of them is kept, which is 48 in all.
    data = load_data(simulation)
    rows = np.arange(160).reshape(-1, 4)[4::3].reshape(-1)
    assert len(frames) == len(rows) == 48
    np.testing.assert_allclose(frames.potential_energy, data.energies[rows], atol=1e-3)
    expected = data.positions[rows] - data.positions[rows].mean(axis=1, keepdims=True)
    assert np.abs(frames.positions - expected).max() < 6e-4
    names = [atom.name for atom in frames.topology.atoms]
    assert names == [atom.name for atom in alanine.topology.atoms()]


def test_what_is_not_there_is_refused(simulation, tmp_path):
    with pytest.raises(InputError, match="no configurations of chignolin at 360 K in the package"):
        load_reference_frames("chignolin", 360.0)
    with pytest.raises(InputError, match="at least one frame of each of the 4 walkers"):
        make_reference_frames(simulation, tmp_path, n_frames=3)


@pytest.fixture(scope="module")
def shipped():
    return load_reference_frames("chignolin", 350.0)


def test_frames_of_chignolin_come_with_the_package(shipped):
    assert len(shipped) == 3000
    assert shipped.n_walkers == 8
    assert shipped.topology.n_atoms == 175
    (path,) = resources.files("openmm_bg.systems").joinpath("data").glob("chignolin_350K_frames.xtc")
    assert sum(file.stat().st_size for file in path.parent.glob("chignolin_350K_frames.*")) < 5e6
    record = json.loads(path.with_suffix(".json").read_text())
    assert "/" not in record["command"]
    assert "starts do not agree: not converged" in record["start_comparison"]["statement"]
    assert shipped.convergence == record["start_comparison"]["statement"]
    assert sorted(set(record["walker_starts"])) == ["extended", "native"]


def test_energies_of_shipped_frames_are_those_of_openmm(shipped):
    """But for what the rounding of positions changes: forces times errors of 0.001 / sqrt(12) nm."""
    system = systems.load("chignolin")
    context = openmm.Context(
        system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    energies, scales = [], []
    chosen = np.arange(0, len(shipped), 300)
    for x in shipped.positions[chosen]:
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        scales.append(np.linalg.norm(forces) * 0.001 / np.sqrt(12))
    z = (np.array(energies) - shipped.potential_energy[chosen]) / scales
    assert np.abs(z).max() < 3.5
    others = (np.array(energies) - shipped.potential_energy[chosen + 1]) / scales  # the negative control
    assert np.abs(others).max() > 3.5
