"""Compilation of LLVM modules to machine code for this processor."""

from __future__ import annotations

import hashlib
import threading

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

VECTOR_BYTES = 64
"""The width of a vector: 16 numbers of single precision, or 8 of double precision."""

# The machine code of the last modules, the latest at the end: potentials of one system have the same.
_KEPT = 16
_recent: dict[bytes, llvm.ExecutionEngine] = {}
_lock = threading.Lock()


def _target_machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


def compile_module(written: ir.Module, name: str) -> tuple[llvm.ExecutionEngine, int]:
    """Compile a module, if its text is not that of one of the last that were compiled.

    Args:
        written: The module.
        name: One of its functions.

    Returns:
        The engine, which owns the machine code, and the function's address.
    """
    text = str(written)
    key = hashlib.sha256(text.encode()).digest()
    with _lock:
        engine = _recent.pop(key, None) or _compiled(text)
        _recent[key] = engine  # the last one
        if len(_recent) > _KEPT:
            del _recent[next(iter(_recent))]
    return engine, engine.get_function_address(name)


def _compiled(text: str) -> llvm.ExecutionEngine:
    machine = _target_machine()  # the execution engine will own it: one for each
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.slp_vectorization = options.loop_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array that starts at a multiple of the vectors' width."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(n_bytes + VECTOR_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % VECTOR_BYTES
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
