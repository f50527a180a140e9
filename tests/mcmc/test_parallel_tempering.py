"""Parallel tempering with the move in openmmtools: run, killed, resumed and extended."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_bg import systems
from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.exchange import (
    ExchangeRecord,
    parallel_tempering,
    read_exchange,
    resume_sampler,
    run_parallel_tempering,
)
from openmm_bg.exchange.record import _ratio_errors
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.io import read_frames
from openmm_bg.mcmc import LatentMonteCarloMove, registry

SETTINGS = {
    "temperature_max": 450.0,
    "n_replicas": 3,
    "n_proposals": 4,
    "n_steps": 5,
    "checkpoint_interval": 4,
    "platform": "CPU",
}

# A script of its own, as a user's; it is killed while a replica is being propagated.
KILLED_RUN = """
import json, os, signal, sys
from openmm_bg.exchange import run_parallel_tempering, silence_openmmtools
silence_openmmtools()
from openmm_bg.mcmc import FlowMove

model, storage, last_call, settings = sys.argv[1:]
calls, apply = 0, FlowMove.apply

def apply_and_die(self, *args, **kwargs):
    global calls
    calls += 1
    if calls == int(last_call):
        os.kill(os.getpid(), signal.SIGKILL)
    apply(self, *args, **kwargs)

FlowMove.apply = apply_and_die
run_parallel_tempering(model, storage, n_iterations=20, seed=1, **json.loads(settings))
"""

RESUMED_RUN = """
import sys
from openmm_bg.exchange import silence_openmmtools
silence_openmmtools()
from openmmtools.multistate import MultiStateReporter, ParallelTemperingSampler

# As openmmtools' users do it: our module is found by the reader of the stored moves.
sampler = ParallelTemperingSampler.from_storage(MultiStateReporter(sys.argv[1], velocity_interval=0))
assert "openmm_bg.mcmc.flow_move" in sys.modules
sampler.run()
sampler.extend(3)
print("iterations", sampler.iteration)
"""


@pytest.fixture(scope="module")
def model(alanine_model: Path) -> Path:
    return alanine_model


def run_script(script: str, *arguments: Any) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_killed_run_is_resumed_and_extended_in_a_fresh_process(
    model: Path, alanine: systems.MolecularSystem, tmp_path: Path
) -> None:
    storage = tmp_path / "exchange.nc"
    # Three replicas: the second one of the eleventh iteration is the last thing it does.
    killed = run_script(KILLED_RUN, model, storage, 3 * 10 + 2, json.dumps(SETTINGS))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout == killed.stderr == ""  # no banner, no list of papers
    before = read_exchange(storage)
    assert before.n_iterations == 10

    resumed = run_script(RESUMED_RUN, storage)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == "iterations 23"
    after = read_exchange(storage)
    assert after.n_iterations == 23
    # It went on from the checkpoint at iteration 8.
    np.testing.assert_array_equal(after.positions[:8], before.positions[:8])
    np.testing.assert_array_equal(after.replicas[:8], before.replicas[:8])
    assert not np.isclose(after.positions[8], before.positions[8]).all()
    # The moves' own counters go on too; iterations 9 and 10 were run, and are counted, twice.
    np.testing.assert_array_equal(before.flow_proposed, 40)
    np.testing.assert_array_equal(after.flow_proposed, 40 + 15 * 4)
    assert_consistent(after, alanine)

    # Our own way to go on is the call that started the run.
    final = run_parallel_tempering(model, storage, n_iterations=25, **SETTINGS)
    assert final.n_iterations == 25
    np.testing.assert_array_equal(final.positions[:20], after.positions[:20])
    complete = run_parallel_tempering(model, storage, n_iterations=10, **SETTINGS)
    np.testing.assert_array_equal(complete.positions, final.positions)


def assert_consistent(record: ExchangeRecord, system: systems.MolecularSystem) -> None:
    """Compare the stored energies with OpenMM's for the positions that are said to be theirs."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system.system, openmm.VerletIntegrator(0.001), platform)
    for state in range(len(record.temperatures)):
        for k in range(record.n_iterations):
            context.setPositions(record.positions[k, state].astype(np.float64))
            energy = context.getState(energy=True).getPotentialEnergy()
            # Positions are stored in single precision.
            assert energy.value_in_unit(unit.kilojoule_per_mole) == pytest.approx(
                record.potential_energy[k, state], abs=0.1
            )
    np.testing.assert_array_equal(
        np.sort(record.replicas, axis=1), np.tile([0, 1, 2], (record.n_iterations, 1))
    )
    bonds = record.positions[..., system.bonds[:, 0], :] - record.positions[..., system.bonds[:, 1], :]
    assert np.linalg.norm(bonds, axis=-1).max() < 0.2


def test_the_same_seed_gives_the_same_run(model: Path, tmp_path: Path) -> None:
    records = [
        run_parallel_tempering(model, tmp_path / f"{name}.nc", n_iterations=4, seed=seed, **SETTINGS)
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    np.testing.assert_array_equal(records[0].positions, records[1].positions)
    np.testing.assert_array_equal(records[0].replicas, records[1].replicas)
    assert not np.isclose(records[0].positions, records[2].positions).all()
    np.testing.assert_allclose(records[0].temperatures, [300, np.sqrt(300 * 450), 450])


def test_torsions_are_those_of_the_system(model: Path, alanine: Any, tmp_path: Path) -> None:
    import mdtraj

    timed = {**SETTINGS, "platform": None}
    record = run_parallel_tempering(model, tmp_path / "a.nc", n_iterations=3, **timed)
    assert record.settings["platform"] in ("CPU", "Reference", "CUDA", "OpenCL", "HIP")
    angles = record.torsions(alanine.torsions)
    assert list(angles) == ["phi", "psi"]
    topology = mdtraj.Topology.from_openmm(alanine.topology)
    for state in range(3):
        trajectory = mdtraj.Trajectory(record.positions[:, state], topology)
        expected = mdtraj.compute_dihedrals(trajectory, list(alanine.torsions.values()))
        for k, name in enumerate(alanine.torsions):
            np.testing.assert_allclose(angles[name][:, state], expected[:, k], atol=1e-4)


def test_iterations_that_tuned_a_latent_move_are_left_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quickly_tuned(choices: Any, path: str, timestep: float) -> LatentMonteCarloMove:
        return LatentMonteCarloMove(path, choices.n_proposals, n_tuning=10, reassign_velocities=True)

    monkeypatch.setattr(parallel_tempering, "_flow_move", quickly_tuned)
    storage = tmp_path / "latent.nc"
    run = run_parallel_tempering(model, storage, n_iterations=2, move="latent", seed=1, **SETTINGS)
    assert run.n_tuning == 2
    with pytest.raises(InputError, match="only iterations that tuned"):
        read_frames(storage)
    run = run_parallel_tempering(model, storage, n_iterations=5, move="latent", **SETTINGS)
    assert run.n_tuning == 3  # ten proposals in calls of four
    frames = read_frames(storage)
    np.testing.assert_array_equal(frames.positions, run.positions[3:, 0].astype(np.float64))
    np.testing.assert_array_equal(frames.potential_energy, run.potential_energy[3:, 0])
    assert len(set(run.step_sizes)) == 3  # each temperature has its own
    assert (run.step_sizes != 0.1).all()
    # Dynamics and the ends of both moves, exchanges, forces for new velocities; and batches with the configuration
    # they start from.
    fixed = 5 * 3 * (5 + 3 + 3)
    assert fixed + 5 * 3 * 5 <= run.energy_evaluations <= fixed + 5 * 3 * 4 * 5


def test_multiple_tries(model: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"move": "multiple-try", "n_proposals": 2, "n_candidates": 8}
    storage = tmp_path / "run.nc"
    run = run_parallel_tempering(model, storage, n_iterations=2, seed=1, **settings)
    np.testing.assert_array_equal(run.flow_proposed, 2 * 2)
    # Dynamics, the end of both moves and exchange, forces for new velocities; and one batch with the configuration
    # it starts from.
    assert run.energy_evaluations == 2 * 3 * (5 + 3 + 3 + 2 * 8 + 1)
    with pytest.raises(InputError, match="holds a run with n_candidates=8, not 9"):
        run_parallel_tempering(model, storage, n_iterations=3, **settings | {"n_candidates": 9})


def test_round_trips_are_counted_from_the_lowest_temperature() -> None:
    def record(states_of_replica_0: list[int]) -> ExchangeRecord:
        replicas = np.array([{0: [0, 1, 2], 1: [1, 0, 2], 2: [2, 1, 0]}[s] for s in states_of_replica_0])
        rest = np.zeros(0)
        return ExchangeRecord(
            rest, np.zeros((len(replicas), 3, 1, 3)), rest, replicas, rest, rest, rest, rest, rest, {}
        )

    # Replica 2 is at the highest temperature but when replica 0 is: only replica 0 can make round trips
    # unless it comes back several times.
    assert record([0, 1, 1]).round_trips == 0
    assert record([0, 1, 2, 1]).round_trips == 0
    assert record([0, 1, 2, 1, 0]).round_trips == 1
    assert record([2, 1, 0]).round_trips == 0
    assert record([0, 0, 2, 2, 0, 2, 0]).round_trips == 3  # twice by replica 0, once by replica 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature_min": 0}, "positive number of kelvin"),
        ({"temperature_min": 500}, r"lowest temperature \(500 K\) must be below"),
        ({"n_replicas": 1}, "at least 2 replicas"),
        ({"n_proposals": 0}, "n_proposals must be at least 1"),
        ({"move": "multiple-try", "n_candidates": 0}, "n_candidates must be at least 1"),
        ({"n_candidates": 8}, "Candidates go with the move 'multiple-try', not with 'flow'"),
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"n_iterations": 0}, "n_iterations must be at least 1"),
        ({"timestep": 1.0}, "time step must be between"),
        ({"platform": "Abacus"}, "no platform called 'Abacus'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_parallel_tempering(model, tmp_path / "a.nc", **{"n_iterations": 2, **SETTINGS, **changes})
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused(model: Path, oscillator_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        run_parallel_tempering(tmp_path / "no_model", tmp_path / "a.nc")
    with pytest.raises(InputError, match="without its molecular system"):
        run_parallel_tempering(oscillator_model, tmp_path / "a.nc")
    with pytest.raises(InputError, match="There is no directory"):
        run_parallel_tempering(model, tmp_path / "nowhere" / "a.nc")
    with pytest.raises(InputError, match="There is no file"):
        read_exchange(tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.nc").write_text("not a netCDF file")
    with netCDF4.Dataset(tmp_path / "other.nc", "w") as other:
        other.createDimension("x", 1)
    with pytest.raises(InputError, match=r"text\.nc cannot be read as a netCDF file"):
        run_parallel_tempering(model, tmp_path / "text.nc")
    with pytest.raises(InputError, match=r"other\.nc holds no parallel tempering run of openmm-bg exchange"):
        run_parallel_tempering(model, tmp_path / "other.nc")


def test_a_run_that_was_killed_while_it_was_created_starts_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    storage = tmp_path / "a.nc"
    with monkeypatch.context() as patch:
        patch.setattr(parallel_tempering, "prepare", die)
        with pytest.raises(KeyboardInterrupt):
            run_parallel_tempering(model, storage, n_iterations=1, **SETTINGS)
    assert storage.exists()
    storage.write_bytes(b"half a file")
    assert run_parallel_tempering(model, storage, n_iterations=1, **SETTINGS).n_iterations == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "a_checkpoint.nc"]


def test_heavy_hydrogens(model: Path, alanine: Any, tmp_path: Path) -> None:
    """The dynamics have them, also after a resume; the model's own system is left as it was."""
    storage = tmp_path / "a.nc"
    run = run_parallel_tempering(model, storage, n_iterations=1, hydrogen_mass=4.0, **SETTINGS)
    assert run.settings["hydrogen_mass"] == 4.0
    sampler = resume_sampler(storage)
    system = sampler._thermodynamic_states[-1].system
    sampler._reporter.close()
    masses = [system.getParticleMass(k)._value for k in range(22)]
    assert masses == [4.0 if mass < 2 else mass for mass in alanine.masses]
    assert min(BoltzmannGenerator.load(model).system.masses) < 1.1
    run = run_parallel_tempering(model, storage, n_iterations=2, hydrogen_mass=4.0, **SETTINGS)
    assert run.n_iterations == 2
    with pytest.raises(InputError, match="hydrogen mass must be positive"):
        run_parallel_tempering(model, tmp_path / "b.nc", hydrogen_mass=-1.0, **SETTINGS)
    assert not (tmp_path / "b.nc").exists()


def test_another_run_is_not_continued(
    model: Path, oscillator_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "a.nc"
    run_parallel_tempering(model, storage, n_iterations=1, **SETTINGS)
    content = storage.read_bytes()
    changed = ({"temperature_min": 310}, {"n_replicas": 4}, {"n_proposals": 5})
    dynamics = ({"n_steps": 6}, {"timestep": 0.0004}, {"collision_rate": 3.0}, {"hydrogen_mass": 4.0})
    for changes in (*changed, *dynamics):
        with pytest.raises(InputError, match=f"holds a run with {next(iter(changes))}="):
            run_parallel_tempering(model, storage, n_iterations=2, **{**SETTINGS, **changes})
    with pytest.raises(InputError, match="holds a run with model="):
        run_parallel_tempering(oscillator_model, storage, n_iterations=2, **SETTINGS)
    checkpoint = tmp_path / "a_checkpoint.nc"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"or its checkpoint file is damaged or of another run"):
        resume_sampler(storage)
    checkpoint.rename(tmp_path / "elsewhere.nc")
    with pytest.raises(InputError, match=r"checkpoint file of .* is missing"):
        resume_sampler(storage)
    # The model was trained again in the meantime.
    registry.clear()
    monkeypatch.setattr(registry, "current_hash", lambda path: "0" * 64)
    with pytest.raises(ModelFileError, match="not the one this move was made with"):
        resume_sampler(storage)
    assert storage.read_bytes() == content


def test_errors_of_exchange_acceptance(rng):
    """Of independent iterations it is the binomial one; iterations that repeat each other are worth less."""
    proposed = np.full((4000, 2), 10.0)
    proposed[:, 1] = 0
    accepted = np.stack([rng.binomial(10, 0.3, size=4000), np.zeros(4000)], axis=1).astype(float)
    errors = _ratio_errors(accepted, proposed)
    assert errors[0] == pytest.approx(np.sqrt(0.3 * 0.7 / 40_000), rel=0.15)
    assert np.isnan(errors[1])
    repeated = np.repeat(accepted[:400], 10, axis=0)
    assert _ratio_errors(repeated, proposed)[0] == pytest.approx(np.sqrt(0.3 * 0.7 / 4000), rel=0.3)
    assert np.isnan(_ratio_errors(accepted[:1], proposed[:1])).all()


def test_platforms_are_timed_by_dynamics(alanine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest is taken, one thread before several that gain little, and a named one without any trial."""
    from openmm_bg.exchange import platforms, preparation

    timed = platforms.timed_platforms(alanine, 2)
    names = [(one.platform.name, one.platform.properties.get("Threads")) for one in timed]
    assert {("Reference", None), ("CPU", "1"), ("CPU", "2")} <= set(names)
    assert all(one.steps_per_second > 10 for one in timed)

    def found(**rates: float) -> tuple[str, dict[str, str]]:
        known = {
            "reference": platforms.Platform("Reference", {}),
            "one": platforms.Platform("CPU", {"Threads": "1"}),
            "two": platforms.Platform("CPU", {"Threads": "2"}),
        }
        result = [platforms.TimedPlatform(known[name], rate) for name, rate in rates.items()]
        monkeypatch.setattr(preparation, "timed_platforms", lambda system, threads: result)
        return preparation.choose_platform(alanine, None)

    assert found(reference=900.0, one=100.0, two=90.0) == ("Reference", {})
    assert found(reference=100.0, one=900.0, two=1000.0) == ("CPU", {"Threads": "1"})
    assert found(reference=100.0, one=900.0, two=1500.0) == ("CPU", {"Threads": "2"})
    assert found(reference=900.0) == ("Reference", {})
    monkeypatch.setattr(preparation, "timed_platforms", lambda system, threads: pytest.fail("timed"))
    assert preparation.choose_platform(alanine, "CPU") == ("CPU", {"Threads": "1"})
    assert preparation.choose_platform(alanine, "Reference") == ("Reference", {})


def test_no_platform_at_all(alanine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmm_bg.exchange import platforms

    monkeypatch.setattr(platforms, "_contexts", lambda system, threads: iter(()))
    with pytest.raises(InputError, match="None of OpenMM's platforms"):
        platforms.timed_platforms(alanine, 1)
