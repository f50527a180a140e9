"""Compilation of kernels, and their evaluation by several threads."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch

from openmm_bg.machine_code.compilation import VECTOR_BYTES, aligned, compile_module
from openmm_bg.potentials.fused.kernel import NAME, write_kernel
from openmm_bg.potentials.terms import Term
from openmm_bg.threads import potential_threads

_NARROW_BYTES = 16
_TASKS_PER_THREAD = 4  # so that a thread that was held up does not hold up all


class Kernel:
    """Compiled machine code of a list of terms.

    Args:
        n_atoms: The number of atoms.
        terms: The terms.
        dtype: ``numpy.float32`` or ``numpy.float64``.
        with_forces: Whether it computes forces beside energies.
        vector_bytes: The width of its vectors, one configuration in each of their lanes.
    """

    def __init__(
        self,
        n_atoms: int,
        terms: Sequence[Term],
        dtype: type,
        with_forces: bool,
        vector_bytes: int = VECTOR_BYTES,
    ) -> None:
        self.dtype, self.n_atoms, self.with_forces = np.dtype(dtype), n_atoms, with_forces
        lanes = vector_bytes // self.dtype.itemsize
        code = write_kernel(
            n_atoms, terms, double=self.dtype.itemsize == 8, lanes=lanes, with_forces=with_forces
        )
        self.lanes = lanes
        self._code = code
        self._engine, address = compile_module(code.module, NAME)
        arguments = [ctypes.c_int64] * 2 + [ctypes.c_void_p] * 6
        self._function = ctypes.CFUNCTYPE(None, *arguments)(address)

    def run(
        self, first: int, last: int, positions: np.ndarray, energies: np.ndarray, forces: np.ndarray | None
    ) -> None:
        """Evaluate blocks of configurations; the global interpreter lock is free meanwhile.

        Args:
            first: The first block.
            last: The block after the last one.
            positions: All configurations with shape=(n_blocks * lanes, n_atoms, 3), contiguous.
            energies: Where energies go, with shape=(n_blocks * lanes,), aligned to a vector.
            forces: Where forces go, with the positions' shape, or None.
        """
        workspace = self._workspace()  # kept until the function returns
        self._function(first, last, *self._addresses(positions, energies, forces, workspace))

    def bound(
        self, positions: np.ndarray, energies: np.ndarray, forces: np.ndarray | None
    ) -> Callable[[], None]:
        """Return a function that evaluates the first block of these arrays, again and again.

        Args:
            positions: As of `run`; so are the other arrays.
            energies: Where energies go.
            forces: Where forces go, or None.
        """
        workspace, function = self._workspace(), self._function
        addresses = self._addresses(positions, energies, forces, workspace)
        kept = (
            self,
            positions,
            energies,
            forces,
            workspace,
        )  # addresses alone do not keep what they point to

        def evaluate(_kept: tuple = kept) -> None:
            function(0, 1, *addresses)

        return evaluate

    def _workspace(self) -> np.ndarray:
        return aligned((self._code.workspace * self.lanes,), self.dtype)

    def _addresses(
        self, positions: np.ndarray, energies: np.ndarray, forces: np.ndarray | None, workspace: np.ndarray
    ) -> tuple[int, ...]:
        return (
            positions.ctypes.data,
            energies.ctypes.data,
            0 if forces is None else forces.ctypes.data,
            workspace.ctypes.data,
            self._code.reals.ctypes.data,
            self._code.integers.ctypes.data,
        )


class SingleConfiguration:
    """Evaluates one configuration in arrays of its own: for dynamics, where a call must cost little.

    Nothing is allocated or copied in a call, and vectors are narrow, so that fewer lanes are in vain. It is in
    double precision. One thread at a time may use it.

    Args:
        n_atoms: The number of atoms.
        terms: The terms.

    Attributes:
        positions: Write the configuration [nm] here, with shape=(n_atoms, 3).
        forces: The forces [kJ/mol/nm] of the last `evaluate` with shape=(n_atoms, 3).
    """

    def __init__(self, n_atoms: int, terms: Sequence[Term]) -> None:
        kernel = Kernel(n_atoms, terms, np.float64, True, vector_bytes=_NARROW_BYTES)
        block = np.zeros((kernel.lanes, n_atoms, 3))  # other lanes than the first are never looked at
        self._energies = aligned((kernel.lanes,), kernel.dtype)
        forces = np.zeros_like(block)
        self._evaluate = kernel.bound(block, self._energies, forces)
        self.positions, self.forces = block[0], forces[0]
        self._others = block[1:]

    def evaluate(self) -> None:
        """Compute the forces at the positions, and the energy."""
        self._evaluate()

    @property
    def energy(self) -> float:
        """The energy [kJ/mol] of the last `evaluate`; it may be infinite or NaN."""
        return float(self._energies[0])

    def fill(self) -> None:
        """Copy the positions to the idle lanes, which would compute with atoms on top of each other otherwise."""
        self._others[:] = self.positions


class FusedEngine:
    """Evaluates batches by machine code, on several threads.

    Args:
        n_atoms: The number of atoms.
        terms: The terms.
        dtype: ``torch.float32`` or ``torch.float64``.
    """

    def __init__(self, n_atoms: int, terms: Sequence[Term], dtype: torch.dtype) -> None:
        self.dtype = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}[dtype]
        self._n_atoms, self._terms = n_atoms, list(terms)
        self._kernels: dict[bool, Kernel] = {}
        self._lock = threading.Lock()
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._pid = os.getpid()

    def evaluate(
        self, positions: torch.Tensor, with_forces: bool, threads: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return energies and forces.

        Args:
            positions: Configurations with shape=(batch, n_atoms, 3), on the CPU, of the engine's precision.
            with_forces: Whether to compute forces.
            threads: How many threads work; by default `potential_threads`.
        """
        kernel = self._kernel(with_forces)
        batch = positions.detach().contiguous().numpy()
        n_blocks = -(-len(batch) // kernel.lanes)
        padded = n_blocks * kernel.lanes
        if padded > len(batch):
            rest = np.repeat(batch[-1:], padded - len(batch), axis=0)
            batch = np.concatenate([batch, rest])
        energies = aligned((padded,), self.dtype)
        forces = np.empty(batch.shape, dtype=self.dtype) if with_forces else None
        threads = threads or potential_threads()
        if min(threads, n_blocks) == 1:
            kernel.run(0, n_blocks, batch, energies, forces)
        else:
            bounds = np.linspace(0, n_blocks, min(n_blocks, _TASKS_PER_THREAD * threads) + 1).astype(int)
            pool = self._pool(threads)
            tasks = [
                pool.submit(kernel.run, int(first), int(last), batch, energies, forces)
                for first, last in pairwise(bounds)
            ]
            for task in tasks:
                task.result()
        count = len(positions)
        return (
            torch.from_numpy(energies[:count]),
            None if forces is None else torch.from_numpy(forces[:count]),
        )

    def _kernel(self, with_forces: bool) -> Kernel:
        with self._lock:
            if with_forces not in self._kernels:
                self._kernels[with_forces] = Kernel(self._n_atoms, self._terms, self.dtype, with_forces)
            return self._kernels[with_forces]

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        """Return the worker threads; a forked child has none of its parent's, and starts its own."""
        with self._lock:
            if self._pid != os.getpid():
                self._pools, self._pid = {}, os.getpid()
            if threads not in self._pools:
                self._pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="openmm_bg")
            return self._pools[threads]
