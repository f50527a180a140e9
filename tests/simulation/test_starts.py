"""Simulations from several starts: who begins where, what is recorded, and what continues."""

import json

import numpy as np
import pytest
import torch

from openmm_bg import TorchPotential, systems
from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.simulation import SimulationSettings, preset, run, simulate
from openmm_bg.simulation.starts import start_configurations
from openmm_bg.training import load_data
from openmm_bg.transforms import InternalCoordinates
from openmm_bg.transforms.handedness import with_labels_of

PHI = (4, 6, 8, 14)
BOTH = ("C7eq", "alpha-L")
SHORT = {"n_walkers": 5, "starts": BOTH, "interval": 2, "burn_in": 0}


def turned(positions, angle):
    """Turn all of alanine dipeptide beyond the bond N-CA by an angle [rad] (Rodrigues' formula)."""
    axis = positions[8] - positions[6]
    axis = axis / np.linalg.norm(axis)
    moved = positions[9:] - positions[8]
    result = positions.copy()
    result[9:] = (
        positions[8]
        + moved * np.cos(angle)
        + np.cross(axis, moved) * np.sin(angle)
        + np.outer(moved @ axis, axis) * (1 - np.cos(angle))
    )
    return result


def phi_of(positions):
    return np.degrees(dihedrals(np.asarray(positions, dtype=np.float64), np.array([PHI])))[..., 0]


@pytest.fixture(scope="module")
def molecule(alanine):
    """Alanine dipeptide with a start at phi = -80 degrees, and one at 55."""
    now = float(phi_of(alanine.positions[None])[0])
    starts = {
        name: turned(alanine.positions, np.radians(phi - now))
        for name, phi in zip(BOTH, (-80, 55), strict=True)
    }
    assert phi_of(np.stack(list(starts.values()))) == pytest.approx([-80, 55])
    return alanine.with_starts(starts)


def stop(_):
    raise KeyboardInterrupt


def interrupted(molecule, output, settings):
    with pytest.raises(KeyboardInterrupt):
        simulate(molecule, output, settings, on_segment=stop)


@pytest.mark.parametrize("engine", ["torch", "openmm"])
def test_walkers_begin_in_turn(molecule, tmp_path, engine):
    simulate(molecule, tmp_path / "data", SimulationSettings(**SHORT, n_frames=10, engine=engine))
    data = load_data(tmp_path / "data")
    assert data.record["walker_starts"] == ["C7eq", "alpha-L", "C7eq", "alpha-L", "C7eq"]
    assert data.record["settings"]["starts"] == ["C7eq", "alpha-L"]
    phi = phi_of(data.positions).reshape(2, 5)
    assert np.abs(phi[:, ::2] + 80).max() < 30
    assert np.abs(phi[:, 1::2] - 55).max() < 30
    comparison = data.record["start_comparison"]
    assert comparison["n_walkers"] == {"C7eq": 3, "alpha-L": 2}
    energies = data.energies.reshape(2, 5)[1:]
    assert comparison["means"]["alpha-L"][0] == pytest.approx(energies[:, 1::2].mean())


def test_replicas_of_a_ladder_begin_where_its_walker_does(molecule, tmp_path):
    settings = SimulationSettings(**SHORT, n_frames=10, ladder=(700.0, 800.0))
    interrupted(molecule, tmp_path / "data", settings)
    with np.load(tmp_path / "data" / "in_progress" / "checkpoint.npz") as state:
        phi = phi_of(state["positions"]).reshape(3, 5)
    assert (phi[:, ::2] < 0).all()
    assert (phi[:, 1::2] > 0).all()


def test_the_reference_is_where_walkers_begin_otherwise(molecule, tmp_path):
    potential = TorchPotential.from_system(molecule)
    plain = start_configurations(molecule, SimulationSettings(n_walkers=3), potential)
    np.testing.assert_array_equal(plain, np.repeat(molecule.positions[None], 3, axis=0))
    settings = SimulationSettings(n_walkers=3, starts=("alpha-L", "reference"))
    mixed = start_configurations(molecule, settings, potential)
    np.testing.assert_array_equal(mixed[1], molecule.positions)
    np.testing.assert_array_equal(mixed[0], mixed[2])
    simulate(molecule, tmp_path / "data", SimulationSettings(n_walkers=2, n_frames=2, interval=1, burn_in=0))
    record = load_data(tmp_path / "data").record
    assert record["walker_starts"] is None
    assert record["start_comparison"] is None


def test_clashes_are_minimised_and_sound_structures_are_left(molecule):
    potential = TorchPotential.from_system(molecule)
    sound = start_configurations(molecule, SimulationSettings(starts=("C7eq",), n_walkers=1), potential)
    again = molecule.with_starts({"sound": sound[0], "clash": sound[0] + clash(sound[0])})
    before, _ = potential.energy_and_forces(again.starts["clash"][None])
    assert before.item() > 1e5
    settings = SimulationSettings(starts=("sound", "clash"), n_walkers=2)
    found = start_configurations(again, settings, potential)
    np.testing.assert_array_equal(found[0], sound[0])  # already below the tolerance: the same digits
    energy, forces = potential.energy_and_forces(found)
    assert (forces.square().mean((1, 2)).sqrt() < 101).all()
    assert energy[1] < 100
    lost = molecule.with_starts({"lost": np.zeros((22, 3))})
    with pytest.raises(InputError, match="start 'lost' of alanine_dipeptide comes to no minimum"):
        start_configurations(lost, SimulationSettings(starts=("lost",), n_walkers=1), potential)


def clash(positions):
    """A move [nm] that brings a hydrogen of one end close to one of the other."""
    move = np.zeros_like(positions)
    move[0] = positions[21] - positions[0] + [0.03, 0.03, 0.03]
    return move


def test_resuming_with_starts(molecule, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_SEGMENT_FRAMES", 20)
    settings = SimulationSettings(**SHORT, n_frames=40, ladder=(700.0,))
    simulate(molecule, tmp_path / "whole", settings)
    interrupted(molecule, tmp_path / "parts", settings)
    for starts in ((), ("alpha-L",), BOTH[::-1]):
        with pytest.raises(InputError, match="other settings"):
            simulate(molecule, tmp_path / "parts", SimulationSettings(**{**SHORT, "starts": starts}))
    simulate(molecule, tmp_path / "parts", settings)
    whole, parts = (load_data(tmp_path / name) for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole.positions, parts.positions)
    assert whole.record["start_comparison"] == parts.record["start_comparison"]


@pytest.mark.parametrize("n_frames", [15, 20, 60])
def test_an_interrupted_run_ends_early_or_gets_longer(molecule, tmp_path, monkeypatch, n_frames):
    monkeypatch.setattr(run, "_SEGMENT_FRAMES", 20)
    changed = SimulationSettings(**SHORT, n_frames=n_frames)
    simulate(molecule, tmp_path / "whole", changed)
    interrupted(molecule, tmp_path / "parts", SimulationSettings(**SHORT, n_frames=40))  # with 20 frames
    simulate(molecule, tmp_path / "parts", changed)
    whole, parts = (load_data(tmp_path / name) for name in ("whole", "parts"))
    assert parts.record["n_frames"] == len(parts.positions) == n_frames
    np.testing.assert_array_equal(whole.positions, parts.positions)


def test_interrupted_runs_of_older_versions_continue(alanine, tmp_path, monkeypatch):
    """They know neither starts nor the number of frames of a checkpoint."""
    monkeypatch.setattr(run, "_SEGMENT_FRAMES", 20)
    settings = SimulationSettings(n_walkers=5, n_frames=40, interval=2, burn_in=4)
    simulate(alanine, tmp_path / "whole", settings)
    interrupted(alanine, tmp_path / "parts", settings)
    work = tmp_path / "parts" / "in_progress"
    identity = json.loads((work / "identity.json").read_text())
    del identity["settings"]["starts"]
    (work / "identity.json").write_text(json.dumps(identity))
    with np.load(work / "checkpoint.npz") as stored:
        state = {name: stored[name] for name in stored.files if name != "frames_per_walker"}
    np.savez(work / "checkpoint.npz", **state)
    simulate(alanine, tmp_path / "parts", settings)
    whole, parts = (load_data(tmp_path / name).positions for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole, parts)


def test_outputs_of_older_versions_load(alanine, tmp_path):
    simulate(alanine, tmp_path, SimulationSettings(n_walkers=2, n_frames=4, interval=1, burn_in=0))
    path = tmp_path / "provenance.json"
    record = json.loads(path.read_text())
    for name in ("walker_starts", "start_comparison"):
        del record[name]
    del record["settings"]["starts"]
    path.write_text(json.dumps(record))
    assert len(load_data(tmp_path).positions) == 4


def test_segments_of_costly_systems_are_shorter(molecule, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_SEGMENT_STEPS", 45)  # two frames of five walkers and two steps, and a bit
    segments = []
    simulate(molecule, tmp_path, SimulationSettings(**SHORT, n_frames=40), on_segment=segments.append)
    assert segments == [1, 2]
    assert load_data(tmp_path).record["n_energy_evaluations"] >= 5 * 8 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": "native"}, "must be a tuple of names, not 'native'"),
        ({"starts": (1,)}, "must be a tuple of names"),
        ({"starts": ("a", "b", "a")}, "named twice: a, b, a"),
        ({"starts": ("a", "b"), "n_walkers": 1}, "2 starts need at least as many walkers, not 1"),
    ],
)
def test_bad_starts(changes, message):
    with pytest.raises(InputError, match=message):
        SimulationSettings(**changes)


def test_a_start_that_the_system_lacks(molecule, tmp_path):
    with pytest.raises(InputError, match=r"no start 'native'; its starts are: reference, C7eq, alpha-L\."):
        simulate(molecule, tmp_path / "data", SimulationSettings(starts=("native",)))
    assert not (tmp_path / "data").exists()


def test_preset():
    settings = preset("chignolin", n_frames=80)
    temperatures = np.unique(settings.replica_temperatures())
    assert (temperatures[0], temperatures[-1], settings.n_frames) == (350, 600, 80)
    ratios = temperatures[1:] / temperatures[:-1]
    assert ratios == pytest.approx(1.08, abs=0.002)
    starts = settings.walker_starts()
    assert starts.count("native") == starts.count("extended") == 4
    assert len(settings.replica_temperatures()) % 16 == 0
    with pytest.raises(InputError, match="no settings of 'alanine_dipeptide'; there are those of: chignolin"):
        preset("alanine_dipeptide")


def test_equal_hydrogens_of_a_start_get_the_reference_s_labels(molecule):
    """Otherwise no coordinates could be fitted to the data of both; a start of another chirality stays so."""
    swapped = np.array(molecule.starts["C7eq"])
    swapped[[11, 12]] = swapped[[12, 11]]  # of the side chain's methyl group
    mirrored = swapped * [-1.0, 1.0, 1.0]
    again = molecule.with_starts({"swapped": swapped, "mirrored": mirrored})
    coordinates = InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)
    assert not torch.isfinite(coordinates.forward(torch.tensor(swapped[None]))[1]).any()
    potential = TorchPotential.from_system(molecule)
    settings = SimulationSettings(starts=("swapped", "mirrored"), n_walkers=2)
    found = start_configurations(again, settings, potential)
    finite = torch.isfinite(coordinates.forward(torch.tensor(found))[1])
    assert finite.tolist() == [True, False]


def test_both_starts_of_chignolin_are_in_one_domain():
    one = systems.load("chignolin")
    coordinates = InternalCoordinates.from_reference(one.positions, one.bonds, one.masses)
    hydrogens = np.array([atom.element.symbol == "H" for atom in one.topology.atoms()])
    extended = with_labels_of(one.positions, one.starts["extended"], one.bonds, hydrogens)
    assert torch.isfinite(coordinates.forward(torch.tensor(extended[None]))[1]).all()
    np.testing.assert_array_equal(extended[~hydrogens], one.starts["extended"][~hydrogens])
