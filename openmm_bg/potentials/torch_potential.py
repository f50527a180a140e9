"""An OpenMM system's energy function as batched code, without OpenMM at run time."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.potentials.base import Potential
from openmm_bg.potentials.tables import read_table
from openmm_bg.potentials.tensor_engine import TensorEngine
from openmm_bg.potentials.terms import TERMS, Term
from openmm_bg.threads import potential_threads

if TYPE_CHECKING:
    import openmm

    from openmm_bg.potentials.fused.engine import FusedEngine, SingleConfiguration

_FORMAT = 2
MODES = ("auto", "fused", "compiled", "eager")
# [MiB] On a CPU, intermediate results that stay in its cache; on a GPU, enough of them to fill it.
_MEMORY = {"cpu": 32.0, "cuda": 2048.0}
_CHECKED_CONFIGURATIONS = 4
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_HUGE = {torch.float64: 1e290, torch.float32: 1e30}


class TorchPotential(Potential):
    """A translated energy function; build it with `from_system` or `load`.

    There are three ways to evaluate it, which differ in speed and, by rounding, in nothing else. ``"fused"``:
    machine code for this very system, with analytic forces, written through LLVM at first use (CPU only, and
    by far the fastest there). ``"eager"``: tensor operations, in chunks whose intermediate results fit in the
    processor's cache. ``"compiled"``: the same, fused by ``torch.compile``, which takes some ten seconds at first
    use and needs a C++ compiler (CPU) or Triton (GPU). ``"auto"`` is "fused" on the CPU and "compiled"
    elsewhere. Where a way is not available, a warning says so and "eager" takes its place.

    Results do not depend on the batch size beyond rounding. Threads evaluate different configurations, so that
    results do not depend on their number at all in the fused mode.

    Args:
        n_atoms: The number of atoms.
        terms: The energy terms.
        dtype: Precision of the arithmetic; results have it, whatever the positions' dtype.
        device: Where to compute; results are returned on the positions' device.
        mode: One of `MODES`.
        threads: Threads of the fused mode; if not given, ``OPENMM_BG_THREADS`` in the environment says how
            many, or else it takes as many as torch.
        memory: Bound [MiB] of the intermediate results of the tensor modes; by default 32 on a CPU, and 2048 on
            a GPU. The fused mode needs 128 bytes for each pair of atoms and thread in a generalized-Born solvent
            (61 MiB for 1,000 atoms), whatever the batch.

    Attributes:
        dtype: As given.
        device: As given.
        threads: As given.

    Raises:
        InputError: If there is no such mode, or it is not for this device or precision.
    """

    def __init__(
        self,
        n_atoms: int,
        terms: Sequence[Term],
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        mode: str = "auto",
        threads: int | None = None,
        memory: float | None = None,
    ) -> None:
        super().__init__(n_atoms)
        self.dtype, self.device = dtype, _checked_device(device)
        for term in terms:
            _check_indices(term, n_atoms)
        self._requested = (mode, memory)
        if dtype not in _TOLERANCE:
            raise InputError(f"dtype must be torch.float64 or torch.float32, not {dtype}.")
        if mode not in MODES:
            raise InputError(f"There is no mode {mode!r}; the modes are {', '.join(MODES)}.")
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads must be a whole number of at least 1, not {threads!r}.")
        if memory is not None and not memory > 0:
            raise InputError(f"memory must be positive, not {memory}.")
        on_cpu = self.device.type == "cpu"
        if mode == "fused" and not on_cpu:
            raise InputError(f"The mode 'fused' is for the CPU, not for {self.device}; use 'compiled'.")
        if mode == "auto":
            mode = "fused" if on_cpu else "compiled"
        self.threads = threads
        self._tensors = TensorEngine(
            n_atoms,
            terms,
            dtype=dtype,
            device=self.device,
            compiled=mode == "compiled",
            memory=memory or _MEMORY.get(self.device.type, _MEMORY["cuda"]),
        )
        self._fused: FusedEngine | None = None
        self._is_checked = False
        self._lock = threading.Lock()
        self._use_fused = mode == "fused"
        if self._use_fused and find_spec("llvmlite") is None:
            self._give_up_fusing("llvmlite is not installed")

    @classmethod
    def from_system(
        cls,
        system: openmm.System | Any,
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        mode: str = "auto",
        threads: int | None = None,
        memory: float | None = None,
    ) -> TorchPotential:
        """Translate an OpenMM system, and check the translation against OpenMM's Reference platform.

        Args:
            system: An ``openmm.System`` or a `MolecularSystem`.
            dtype: As of the class; so are the other options.
            device: Where to compute.
            mode: One of `MODES`.
            threads: Threads of the fused mode.
            memory: Bound [MiB] of the intermediate results of the tensor modes.

        Raises:
            InputError: If the system has a force that is not supported (use `OpenMMPotential` for it).
            TranslationError: If the translation disagrees with OpenMM.
        """
        from openmm_bg.potentials.translation import translate

        system = getattr(system, "system", system)
        if not hasattr(system, "getNumParticles"):
            raise InputError(f"An openmm.System or a MolecularSystem is needed, not {type(system).__name__}.")
        options = {"dtype": dtype, "device": device, "mode": mode, "threads": threads, "memory": memory}
        return cls(system.getNumParticles(), translate(system), **options)

    def to(
        self,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        mode: str | None = None,
        threads: int | None = None,
    ) -> TorchPotential:
        """Return a copy with another precision, device, mode or threads; its counters start at zero."""
        # The float64 parameters are rebuilt from the terms' own arrays, so that float32 -> float64
        # does not keep rounded parameters.
        own_mode, memory = self._requested
        moves = device is not None and torch.device(device).type != self.device.type
        return TorchPotential(
            self.n_atoms,
            [term.copy() for term in self.terms],
            dtype=dtype or self.dtype,
            device=device or self.device,
            mode=mode or ("auto" if moves else own_mode),
            threads=self.threads if threads is None else threads,
            memory=memory,
        )

    @property
    def terms(self) -> list[Term]:
        """The energy terms."""
        return list(self._tensors.module.terms)

    @property
    def mode(self) -> str:
        """The mode in use: "fused", "compiled" or "eager"."""
        return "fused" if self._use_fused else self._tensors.mode

    @property
    def description(self) -> str:
        """How the energies are computed, in a few words for a record."""
        precision = str(self.dtype).removeprefix("torch.")
        threads = ""
        if self._use_fused:
            count = self.threads or potential_threads()
            threads = f", {count} thread{'s' if count > 1 else ''}"
        return f"TorchPotential, {self.mode}, {precision}, {self.device.type}{threads}"

    @property
    def chunk_size(self) -> int:
        """Configurations that the tensor modes evaluate at a time."""
        return self._tensors.chunk_size

    def single(self, positions: Any) -> SingleConfiguration:
        """Return machine code that evaluates one configuration at a time, for dynamics of a single molecule.

        Its evaluations are not counted in `n_evaluations`, and non-finite energies are returned as they are.

        Args:
            positions: A configuration [nm] with shape=(n_atoms, 3), of finite energy: there the machine code is
                compared with this potential, and it is set to it.

        Raises:
            InputError: If the energy is not finite, or the mode is not "fused", or machine code cannot be written.
        """
        from openmm_bg.potentials.fused.engine import SingleConfiguration

        positions = torch.tensor(np.asarray(positions), dtype=self.dtype)
        expected, expected_forces = self.energy_and_forces(positions[None])
        if self.mode != "fused":
            raise InputError(
                f"One configuration at a time takes the mode 'fused', and this potential's is {self.mode!r}."
            )
        if not torch.isfinite(expected).all():
            raise InputError("The energy of the configuration is not finite; begin with other positions.")
        one = SingleConfiguration(self.n_atoms, self.terms)
        one.positions[:] = positions.numpy()
        one.fill()
        one.evaluate()
        tolerance = _TOLERANCE[self.dtype]
        error = abs(one.energy - float(expected[0])) / max(100.0, abs(float(expected[0])))
        force_error = np.linalg.norm(one.forces - expected_forces[0].numpy())
        force_error /= max(100.0, float(expected_forces.norm()))
        if not max(error, force_error) <= tolerance:
            raise InputError(
                "Machine code for one configuration gives another energy than the potential; use its batches."
            )
        return one

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_fused", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore all but the machine code, which is written on first use."""
        self.__dict__.update(state)
        self._fused, self._is_checked, self._lock = None, False, threading.Lock()

    def _evaluate(
        self, positions: torch.Tensor, with_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if len(positions) == 0:
            forces = positions.new_zeros(positions.shape, dtype=self.dtype)
            return positions.new_zeros(0, dtype=self.dtype), (forces if with_forces else None)
        if self._use_fused:
            engine = self._fused_engine(positions)
            if engine is not None:
                energy, forces = engine.evaluate(positions.to("cpu", self.dtype), with_forces, self.threads)
                return energy.to(positions.device), None if forces is None else forces.to(positions.device)
        return self._tensors.evaluate(positions, with_forces)

    def _fused_engine(self, positions: torch.Tensor) -> FusedEngine | None:
        """Return the machine code, written at first use and compared with the tensor form in the first batch.

        Of a batch without a finite energy nothing can be compared; the next one is, then.
        """
        with self._lock:
            if self._is_checked or not self._use_fused:
                return self._fused
            try:
                from openmm_bg.potentials.fused.engine import FusedEngine

                engine = self._fused or FusedEngine(self.n_atoms, self.terms, self.dtype)
                self._is_checked = self._compare(engine, positions[:_CHECKED_CONFIGURATIONS])
            except Exception as error:  # no LLVM for this processor, a wrong result: many kinds
                self._fused = None
                self._give_up_fusing(" ".join(str(error).split())[:200])
                return None
            self._fused = engine
            return engine

    def _compare(self, engine: FusedEngine, positions: torch.Tensor) -> bool:
        """Raise if the machine code differs; return whether there was a finite energy to compare."""
        compared = False
        expected, expected_forces = self._tensors.evaluate(positions, with_forces=True)
        for with_forces in (True, False):
            energy, forces = engine.evaluate(positions.to("cpu", self.dtype), with_forces, threads=1)
            for found, reference in ((energy, expected), (forces, expected_forces)):
                if found is None or reference is None:
                    continue
                found = found.double().reshape(len(found), -1)
                reference = reference.to("cpu").double().reshape(len(reference), -1)
                defined, expected_defined = torch.isfinite(found).all(1), torch.isfinite(reference).all(1)
                size = reference.norm(dim=1).clamp_min(100.0)
                wrong = (found - reference).norm(dim=1) > _TOLERANCE[self.dtype] * size
                if found.shape[1] == 1:  # energies: both are undefined, or none, or both nearly overflow
                    compared |= bool((defined & expected_defined).any())
                    wrong |= (defined != expected_defined) & ~(
                        found.abs() + reference.abs() > _HUGE[self.dtype]
                    )[:, 0]
                    wrong &= defined | expected_defined
                else:
                    wrong &= defined & expected_defined
                if wrong.any():
                    raise ArithmeticError("its results differ from those of the tensor operations")
        return compared

    def _give_up_fusing(self, reason: str) -> None:
        self._use_fused = False
        warnings.warn(
            f"The potential cannot be fused to machine code, so that it runs some ten times slower: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )

    def save(self, path: str | Path) -> None:
        """Write the parameters to one safetensors file, with the expressions in its JSON header."""
        from safetensors.torch import save

        from openmm_bg.files import atomic_write_bytes

        header = {"format": _FORMAT, "n_atoms": self.n_atoms, "terms": []}
        tensors = {}
        for k, term in enumerate(self.terms):
            tables = {
                name: {"kind": type(table).__name__, "config": table.config}
                for name, table in term.tables.items()
            }
            header["terms"].append({"kind": type(term).__name__, "config": term.config, "tables": tables})
            tensors |= {f"{k}.{name}": array.contiguous() for name, array in term.arrays().items()}
            tensors |= {f"{k}.tables.{name}": table.array.contiguous() for name, table in term.tables.items()}
        atomic_write_bytes(path, save(tensors, metadata={"openmm_bg_potential": json.dumps(header)}))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        mode: str = "auto",
        threads: int | None = None,
        memory: float | None = None,
    ) -> TorchPotential:
        """Read a potential that `save` wrote; OpenMM is not needed.

        Args:
            path: The file.
            dtype: As of the class; so are the other options.
            device: Where to compute.
            mode: One of `MODES`.
            threads: Threads of the fused mode.
            memory: Bound [MiB] of the intermediate results of the tensor modes.

        Raises:
            ModelFileError: If the file is missing, truncated or of another kind.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ModelFileError(f"There is no potential file {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["openmm_bg_potential"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ModelFileError(f"{path} is truncated or is not a saved potential: {error}") from error
        if header.get("format") != _FORMAT:
            raise ModelFileError(
                f"{path} has format {header.get('format')}; this version reads format {_FORMAT}."
            )
        try:
            terms = []
            for k, entry in enumerate(header["terms"]):
                own = {
                    name.split(".", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{k}.")
                }
                tables = {
                    name: read_table(table["kind"], own.pop(f"tables.{name}"), table["config"])
                    for name, table in entry["tables"].items()
                }
                terms.append(TERMS[entry["kind"]](entry["config"], tables, **own))
            n_atoms = int(header["n_atoms"])
            for term in terms:
                _check_indices(term, n_atoms)
        except (KeyError, TypeError, ValueError, RuntimeError, InputError) as error:
            raise ModelFileError(f"{path} is not a potential that this version can read: {error}") from error
        options = {"dtype": dtype, "device": device, "mode": mode, "threads": threads, "memory": memory}
        return cls(n_atoms, terms, **options)


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"There is no device {device!r}: {str(error).splitlines()[0]}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"The device {device!r} is not available: torch finds no GPU here. Use 'cpu'.")
    return found


def _check_indices(term: Term, n_atoms: int) -> None:
    """Machine code does not look where it reads: indices must be of atoms that exist."""
    n_pairs = n_atoms * (n_atoms - 1) // 2
    for name, array in term.arrays().items():
        if name in term.indices and array.numel() and not 0 <= int(array.min()) <= int(array.max()) < n_atoms:
            raise InputError(
                f"A {type(term).__name__} names atoms that are not there: 0 to {n_atoms - 1} are."
            )
        wanted = {"particle_parameters": n_atoms, "included": n_pairs}.get(name)
        if wanted is not None and array.shape[-1] != wanted:
            raise InputError(f"The {name} of a {type(term).__name__} are {array.shape[-1]}, not {wanted}.")


class TranslationError(InputError):
    """A translated potential disagrees with OpenMM; please report it, and use `OpenMMPotential`."""
