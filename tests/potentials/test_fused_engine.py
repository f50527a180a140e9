"""Threads, processes, copies, memory and failures of machine code, and where it cannot be used."""

import builtins
import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.potentials.fused.engine import FusedEngine
from openmm_bg.potentials.terms import BondedTerm

PRECISIONS = [torch.float64, torch.float32]


def spring():
    """Return the harmonic bonds of a chain of three atoms."""
    config = {
        "expression": "k*(r-1)^2",
        "globals": {},
        "group_parameters": ["k"],
        "inputs": {"r": ["distance", [0, 1]]},
    }
    return BondedTerm(config, atoms=np.array([[0, 1], [1, 2]]), group_parameters=np.ones((1, 2)))


@pytest.fixture(scope="module")
def potential(alanine):
    return TorchPotential.from_system(alanine.system, mode="fused")


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_results_do_not_depend_on_threads_and_batches_at_all(potential, md_configurations, dtype):
    positions = torch.tensor(np.resize(md_configurations.positions, (1003, 22, 3)), dtype=dtype)
    one = potential.to(dtype=dtype, threads=1)
    energy, forces = one.energy_and_forces(positions)
    for threads in (2, 3, 5):
        more = potential.to(dtype=dtype, threads=threads).energy_and_forces(positions)
        assert torch.equal(more[0], energy)
        assert torch.equal(more[1], forces)
    for part in (slice(0, 1), slice(5, 22), slice(990, 1003)):
        some = one.energy_and_forces(positions[part])
        assert torch.equal(some[0], energy[part])
        assert torch.equal(some[1], forces[part])


def test_noncontiguous_positions(potential, md_configurations):
    positions = torch.tensor(md_configurations.positions[:20])
    strided = positions.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(potential.energy(strided), potential.energy(positions))
    assert torch.equal(potential.energy(positions[::3]), potential.energy(positions)[::3])


def test_threads_of_the_environment(potential, monkeypatch, md_configurations):
    positions = torch.tensor(md_configurations.positions)
    monkeypatch.setenv("OPENMM_BG_THREADS", "two")
    with pytest.raises(InputError, match="OPENMM_BG_THREADS must be a positive whole number"):
        potential.energy(positions)
    monkeypatch.setenv("OPENMM_BG_THREADS", "3")
    seen = set()
    original = FusedEngine._pool
    monkeypatch.setattr(
        FusedEngine, "_pool", lambda self, threads: (seen.add(threads), original(self, threads))[1]
    )
    potential.energy(positions)
    assert seen == {3}


def test_worker_that_fails_raises(potential, md_configurations, monkeypatch):
    """The error reaches the caller, also one that ends a thread, and the next batch is served."""
    own = potential.to(threads=2)
    positions = torch.tensor(md_configurations.positions)
    expected = own.energy(positions)
    from openmm_bg.potentials.fused import engine

    for error in (MemoryError("no memory for the workspace"), SystemExit("a thread ends")):

        def failing(self, first, *arguments, error=error):
            if first > 0:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(engine.Kernel, "run", failing)
            with pytest.raises(type(error)):
                own.energy(positions)
    assert torch.equal(own.energy(positions), expected)


def test_several_callers_at_the_same_time(potential, md_configurations):
    own = potential.to(threads=2)
    positions = torch.tensor(md_configurations.positions)
    expected = potential.energy(positions)
    results = [None] * 6

    def call(k):
        results[k] = own.energy(positions)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking a process that has threads
def test_forked_child_evaluates(potential, md_configurations):
    own = potential.to(threads=2)
    positions = torch.tensor(md_configurations.positions)
    expected = own.energy(positions)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(own.energy(positions), expected) else 1)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_copies(potential, md_configurations):
    positions = torch.tensor(md_configurations.positions[:5])
    expected = potential.energy(positions)
    for twin in (copy.deepcopy(potential), pickle.loads(pickle.dumps(potential)), potential.to()):
        assert twin.mode == "fused"
        assert torch.equal(twin.energy(positions), expected)


def test_wrong_machine_code_is_found(alanine, md_configurations, monkeypatch):
    """A kernel that is off by a little is not used: a warning says so, and the tensor form takes its place."""
    from openmm_bg.machine_code.elementary import FunctionBuilder

    original = FunctionBuilder._log
    monkeypatch.setattr(FunctionBuilder, "_log", lambda self, x: original(self, x) * 1.0001)
    positions = torch.tensor(md_configurations.positions[:5])
    potential = TorchPotential.from_system(alanine.system, mode="fused")
    with pytest.warns(RuntimeWarning, match="cannot be fused to machine code.*differ"):
        energy = potential.energy(positions)
    assert potential.mode == "eager"
    np.testing.assert_allclose(energy, md_configurations.energies[:5], rtol=1e-8)


def test_wrong_machine_code_is_found_after_a_batch_without_energies(alanine, md_configurations, monkeypatch):
    """Nothing can be compared in such a batch, so the next one is."""
    from openmm_bg.machine_code.elementary import FunctionBuilder

    original = FunctionBuilder._log
    monkeypatch.setattr(FunctionBuilder, "_log", lambda self, x: original(self, x) * 1.0001)
    potential = TorchPotential.from_system(alanine.system, mode="fused")
    assert torch.isposinf(potential.energy(np.full((3, 22, 3), np.nan))).all()
    with pytest.warns(RuntimeWarning, match="cannot be fused to machine code.*differ"):
        energy = potential.energy(torch.tensor(md_configurations.positions[:5]))
    np.testing.assert_allclose(energy, md_configurations.energies[:5], rtol=1e-8)


def test_without_llvm(alanine, md_configurations, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("llvmlite") or name.startswith("openmm_bg.potentials.fused"):
            raise ImportError("No module named 'llvmlite'")
        return original(name, *arguments, **options)

    potential = TorchPotential.from_system(alanine.system)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.warns(RuntimeWarning, match="cannot be fused to machine code.*llvmlite"):
        energy = potential.energy(torch.tensor(md_configurations.positions[:5]))
    np.testing.assert_allclose(energy, md_configurations.energies[:5], rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "There is no mode 'fast'; the modes are auto, fused, compiled, eager"),
        ({"threads": 0}, "threads must be a whole number of at least 1, not 0"),
        ({"threads": 1.5}, "threads must be a whole number of at least 1, not 1.5"),
        ({"device": "gpu"}, "There is no device 'gpu'"),
        ({"memory": -1.0}, "memory must be positive, not -1.0"),
        ({"dtype": torch.float16}, "dtype must be torch.float64 or torch.float32"),
        ({"mode": "fused", "device": "meta"}, "The mode 'fused' is for the CPU, not for meta"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        TorchPotential(3, [spring()], **options)


def test_memory_bounds_the_chunks(alanine, md_configurations):
    """A smaller budget means smaller chunks, and the same energies."""
    positions = torch.tensor(md_configurations.positions)
    sizes = []
    for memory in (0.001, 1.0, 8.0, 64.0):
        potential = TorchPotential.from_system(alanine.system, mode="eager", memory=memory)
        sizes.append(potential.chunk_size)
        np.testing.assert_allclose(potential.energy(positions), md_configurations.energies, rtol=1e-9)
    assert sizes[0] == 1
    assert sizes[1:] == sorted(set(sizes[1:]))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to forget the peak")
def test_memory_of_one_chunk_is_within_the_budget():
    """The peak of the process, above what it needs for a single configuration, stays near the budget."""
    code = """
        import torch
        from openmm_bg import TorchPotential, systems
        torch.set_num_threads(1)
        alanine = systems.load("alanine_dipeptide")
        potential = TorchPotential.from_system(alanine.system, mode="eager", memory=200.0)

        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

        x = torch.tensor(alanine.positions)[None]
        potential.energy_and_forces(x)
        open("/proc/self/clear_refs", "w").write("5")
        before = peak()
        potential.energy_and_forces(x.expand(potential.chunk_size, -1, -1))
        print(potential.chunk_size, peak() - before)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    chunk, mebibytes = (float(word) for word in result.stdout.split())
    assert chunk > 100
    assert 20.0 < mebibytes < 300.0


def test_compiled_agrees():
    """The form that ``torch.compile`` fuses, energies with forces, gives the same numbers."""
    potential = TorchPotential(3, [spring()], mode="compiled", memory=0.01)
    positions = torch.tensor(np.random.default_rng(0).normal(size=(potential.chunk_size + 3, 3, 3)))
    expected = potential.to(mode="eager").energy_and_forces(positions)
    energy, forces = potential.energy_and_forces(positions)
    assert potential.mode == "compiled"
    torch.testing.assert_close(energy, expected[0], rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(forces, expected[1], rtol=1e-8, atol=1e-6)
