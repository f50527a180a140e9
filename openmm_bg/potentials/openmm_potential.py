"""OpenMM as a batched potential: a pool of Contexts on the platform that is fastest for this system."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials.base import Potential

if TYPE_CHECKING:
    import openmm

    from openmm_bg.systems import MolecularSystem

_GPU_CONTEXTS = 4
_TRIAL_CONFIGURATIONS = 16
_TRIAL_SECONDS = 0.1

# Destroying a Context of the CPU platform in a forked child waits for threads that do not exist there.
_inherited_by_fork: list[object] = []


@dataclass(frozen=True)
class PlatformChoice:
    """One way to evaluate a batch, and how fast it was.

    Attributes:
        platform: The name of the OpenMM platform.
        n_contexts: How many Contexts work at the same time, each on its chunk of the batch.
        properties: Platform properties, e.g. ``{"Threads": "1"}``.
        rate: Energies and forces per second in the trial; None if there was nothing to choose from,
            0 if it failed.
        error: Why it failed.
    """

    platform: str
    n_contexts: int
    properties: dict[str, str] = field(default_factory=dict)
    rate: float | None = None
    error: str | None = None


class OpenMMPotential(Potential):
    """The potential energy of an OpenMM system, evaluated by OpenMM, whatever its forces are.

    A pool of Contexts evaluates a batch, each in its own thread on one chunk of it: OpenMM releases
    Python's global lock in ``getState``, where nearly all the time goes. Which platform, and whether a
    second Context helps, depends on the forces and on the machine (alanine dipeptide in OBC1 on two
    cores: Reference 600 to 700 configurations a second with one Context, 500 to 650 with two, as with two
    processes; CPU 1,000 to 5,600). So the candidates are timed on the first batch, for a tenth of a second
    each; `choice` has the result. These trials do not count as evaluations.

    ``dtype=torch.float64`` promises energies to double precision, so only platforms that compute in
    double precision are candidates: Reference, and GPUs in their double mode. The CPU platform computes
    in single precision. On alanine dipeptide in OBC1, 1,000 configurations of dynamics at 600 K and 1,000
    perturbed ones, its energies differ from Reference by up to 2e-6 max(\\|U\\|, 100 kJ/mol), its forces by
    up to 2e-6 relative: fine for training, and several times faster there. ``dtype=torch.float32`` makes it
    and the GPUs' mixed mode candidates as well; name the ``platform`` where runs have to agree in the last
    digits, since the choice may differ from run to run.

    Contexts are created on first use and closed by `close` or a ``with`` block; a later evaluation
    creates them anew, and so do copies and unpickled objects.

    Args:
        system: The system; a copy is kept. Masses and thermostats do not matter.
        platform: Use this OpenMM platform only.
        threads: The number of threads of one Context on the CPU platform.
        n_contexts: The number of Contexts that work at the same time.
        dtype: ``torch.float64`` or ``torch.float32``: the precision of the energies and forces.

    Attributes:
        system: The copy of the ``openmm.System``.
        dtype: As given.

    Raises:
        InputError: If the system is not supported (see `openmm_bg.systems.check_system`), or the
            platform is not available or not as precise as ``dtype``.
    """

    def __init__(
        self,
        system: openmm.System | MolecularSystem,
        platform: str | openmm.Platform | None = None,
        threads: int | None = None,
        n_contexts: int | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        import openmm

        from openmm_bg.systems import MolecularSystem, check_system

        if isinstance(system, MolecularSystem):
            system = system.system
        if not isinstance(system, openmm.System):
            raise InputError(f"An openmm.System or a MolecularSystem is needed, not {type(system).__name__}.")
        check_system(system)
        super().__init__(system.getNumParticles())
        self.system: openmm.System = openmm.XmlSerializer.clone(system)
        self.dtype = dtype
        self._candidates = _candidates(platform, threads, n_contexts, dtype)
        self._choice: tuple[PlatformChoice, ...] = ()
        self._reset()

    @property
    def choice(self) -> tuple[PlatformChoice, ...]:
        """The candidates with their rates, the one in use first; empty before the first evaluation."""
        return self._choice

    @property
    def platform_name(self) -> str | None:
        """The OpenMM platform in use; None before the first evaluation."""
        return self._choice[0].platform if self._choice else None

    @property
    def description(self) -> str:
        """How the energies are computed, in a few words for a record."""
        if not self._choice:
            return "OpenMM"
        choice = self._choice[0]
        properties = "".join(f", {key} {value}" for key, value in choice.properties.items())
        return f"OpenMM, {choice.platform} platform{properties}, {choice.n_contexts} at a time"

    def close(self) -> None:
        """Free the Contexts and stop the threads."""
        self._leave_to_parent()
        with self._lock:
            self._pool.close()
            self._pool = _Pool(())

    def __enter__(self) -> OpenMMPotential:
        """Return the potential itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Free the Contexts."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process; the choice too, as the copy may live on another machine."""
        state = {key: value for key, value in self.__dict__.items() if key not in ("_pool", "_lock", "_pid")}
        return {**state, "_choice": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore all but the Contexts, which are created on first use."""
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._pool = _Pool(())
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def _leave_to_parent(self) -> None:
        """In a forked child, forget the parent's Contexts and threads: they do not work there."""
        if self._pid != os.getpid():
            _inherited_by_fork.append(self._pool)
            self._reset()

    def _evaluate(
        self, positions: torch.Tensor, with_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch = positions.detach().to("cpu", torch.float64).numpy()
        self._leave_to_parent()
        # NaN positions give NaN on the Reference platform and an exception on CPU: OpenMM never sees them.
        usable = np.flatnonzero(np.isfinite(batch).all(axis=(1, 2)))
        energy = np.full(len(batch), np.nan)
        forces = np.zeros(batch.shape) if with_forces else None
        if len(usable):
            with self._lock:
                self._open(batch[usable[:_TRIAL_CONFIGURATIONS]])
                found = self._pool.evaluate(batch[usable], with_forces)
            energy[usable] = found[0]
            if forces is not None:
                forces[usable] = found[1]
        like = {"dtype": self.dtype, "device": positions.device}
        return torch.as_tensor(energy, **like), None if forces is None else torch.as_tensor(forces, **like)

    def _open(self, trial_batch: np.ndarray) -> None:
        """Create the Contexts, after timing the candidates if that was not done."""
        if self._pool:
            return
        if not self._choice:
            if len(self._candidates) > 1:
                trials = [_trial(self.system, candidate, trial_batch) for candidate in self._candidates]
            else:
                trials = list(self._candidates)
            trials.sort(key=lambda trial: -(trial.rate or 0.0))
            if trials[0].error:
                reasons = "; ".join(f"{trial.platform}: {trial.error}" for trial in trials)
                raise InputError(f"OpenMM can evaluate this system on none of its platforms ({reasons}).")
            self._choice = tuple(trials)
        self._pool = _open_pool(self.system, self._choice[0])


class _Pool:
    """Contexts, each worked by its own thread (a single one by the caller's)."""

    def __init__(self, contexts: Sequence[openmm.Context]) -> None:
        self.contexts = list(contexts)
        self.executor = ThreadPoolExecutor(len(contexts)) if len(contexts) > 1 else None

    def __len__(self) -> int:
        return len(self.contexts)

    def evaluate(self, batch: np.ndarray, with_forces: bool) -> tuple[np.ndarray, np.ndarray | None]:
        n_chunks = min(len(self), len(batch))
        if n_chunks == 1 or self.executor is None:
            return _evaluate_chunk(self.contexts[0], batch, with_forces)
        chunks = np.array_split(batch, n_chunks)
        jobs = zip(self.contexts, chunks, [with_forces] * n_chunks, strict=False)
        energies, forces = zip(*self.executor.map(lambda job: _evaluate_chunk(*job), jobs), strict=True)
        return np.concatenate(energies), np.concatenate(forces) if with_forces else None

    def close(self) -> None:
        if self.executor is not None:
            self.executor.shutdown()
        self.contexts.clear()


def _evaluate_chunk(
    context: openmm.Context, chunk: np.ndarray, with_forces: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    from openmm import OpenMMException, unit

    kilojoules_per_mole = unit.kilojoule_per_mole
    per_nanometer = kilojoules_per_mole / unit.nanometer
    energies = np.full(len(chunk), np.nan)
    forces = np.zeros(chunk.shape) if with_forces else None
    for i, positions in enumerate(chunk):
        try:
            context.setPositions(positions)
            state = context.getState(energy=True, forces=with_forces)
        except OpenMMException:
            continue  # NaN for this configuration; the next ones are not its business
        energies[i] = state.getPotentialEnergy().value_in_unit(kilojoules_per_mole)
        if forces is not None:
            forces[i] = state.getForces(asNumpy=True).value_in_unit(per_nanometer)
    return energies, forces


def _open_pool(system: openmm.System, choice: PlatformChoice) -> _Pool:
    import openmm

    platform = openmm.Platform.getPlatformByName(choice.platform)
    return _Pool(
        [
            openmm.Context(system, openmm.VerletIntegrator(0.001), platform, choice.properties)
            for _ in range(choice.n_contexts)
        ]
    )


def _trial(system: openmm.System, candidate: PlatformChoice, batch: np.ndarray) -> PlatformChoice:
    """Time one candidate on a few configurations; one that cannot be used gets the rate 0."""
    try:
        pool = _open_pool(system, candidate)
    except Exception as error:  # no such device, no double precision, a force without a kernel: many kinds
        return replace(candidate, rate=0.0, error=str(error))
    try:
        batch = np.resize(batch, (max(len(batch), candidate.n_contexts), *batch.shape[1:]))
        pool.evaluate(batch, with_forces=True)
        count, start = 0, perf_counter()
        while (elapsed := perf_counter() - start) < _TRIAL_SECONDS:
            pool.evaluate(batch, with_forces=True)
            count += len(batch)
        return replace(candidate, rate=count / elapsed)
    finally:
        pool.close()


def _candidates(
    platform: str | openmm.Platform | None, threads: int | None, n_contexts: int | None, dtype: torch.dtype
) -> tuple[PlatformChoice, ...]:
    """List what may be timed, given what the user fixed and the precision that was asked for."""
    import openmm

    if dtype not in (torch.float64, torch.float32):
        raise InputError(f"dtype must be torch.float64 or torch.float32, not {dtype}.")
    for name, value in (("threads", threads), ("n_contexts", n_contexts)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, not {value}.")
    available = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if platform is not None:
        platform = platform if isinstance(platform, str) else platform.getName()
        if platform not in available:
            raise InputError(
                f"OpenMM has no platform called {platform!r} here; it has {', '.join(available)}."
            )
        available = [platform]
    cores = os.cpu_count() or 1
    found = []
    for name in available:
        properties = openmm.Platform.getPlatformByName(name).getPropertyNames()
        if name == "Reference":
            options = [({}, {1, cores})]
        elif "Precision" in properties:
            precision = "double" if dtype == torch.float64 else "mixed"
            options = [({"Precision": precision}, {1, min(_GPU_CONTEXTS, cores)})]
        elif dtype == torch.float64:
            continue
        elif "Threads" not in properties:
            options = [({}, {1})]
        elif threads is None:
            options = [({"Threads": "1"}, {1, cores}), ({}, {1})]
        else:
            options = [({"Threads": str(threads)}, {1, max(1, cores // threads)})]
        for chosen, counts in options:
            counts = counts if n_contexts is None else {n_contexts}
            found += [PlatformChoice(name, count, chosen) for count in sorted(counts)]
    if not found:
        raise InputError(
            f"The OpenMM platform {platform} computes in single precision: use dtype=torch.float32 with it, "
            "or the Reference platform."
        )
    return tuple(found)
