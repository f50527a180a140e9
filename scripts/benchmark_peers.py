"""What the benchmark compares: each way to evaluate energies and forces, and how they are timed in turn."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from benchmark_systems import load_system, thermal_positions

from openmm_bg import OpenMMPotential, TorchPotential
from openmm_bg.cli.console import say
from openmm_bg.systems import MolecularSystem

SINGLES = ("default", "single")
FLOAT32, FLOAT64 = "torch fused float32", "torch fused float64"
_SHORTEST, _LONGEST = 0.05, 1.0  # [s] of one timing: repeated if shorter, left out if longer


@dataclass
class Peer:
    """One way to evaluate energies and forces.

    Attributes:
        name: What it is called in tables.
        kind: "default", "single", "pool" or "torch".
        precision: "single", "mixed" or "double".
        prepare: Brings positions into the form that it takes, which is not timed.
        evaluate: Returns energies, having computed the forces, too, if it is told so.
        device: Where it computes.
        threads: How many threads it uses.
        close: Frees what it holds.
    """

    name: str
    kind: str
    precision: str
    prepare: Callable[[np.ndarray], Any]
    evaluate: Callable[[Any, bool], Any]
    device: str = "cpu"
    threads: int = 1
    close: Callable[[], None] = field(default=lambda: None)


def make_peers(
    molecule: MolecularSystem, threads: int, *, tensors: bool = True, say: Callable = say
) -> list[Peer]:
    """Return all peers that this machine has; those that it has not are named with the reason.

    Args:
        molecule: The system.
        threads: Threads of `TorchPotential` and the most of OpenMM's CPU platform.
        tensors: Whether to include the eager and the compiled mode.
        say: Where to tell what is left out.
    """
    import openmm

    system = molecule.system
    found = [_context_peer(system, None, {}, threads)]
    for k in range(openmm.Platform.getNumPlatforms()):
        platform = openmm.Platform.getPlatform(k)
        properties = platform.getPropertyNames()
        if "Precision" in properties:
            options = [{"Precision": precision} for precision in ("single", "mixed", "double")]
        elif "Threads" in properties:
            options = [{"Threads": str(n)} for n in sorted({1, threads})]
        else:
            options = [{}]
        for option in options:
            try:
                found.append(_context_peer(system, platform.getName(), option, threads))
                if option == {"Threads": "1"} and hasattr(os, "sched_setaffinity"):
                    found.append(_context_peer(system, platform.getName(), option, threads, one_core=True))
            except openmm.OpenMMException as error:
                say(f"left out: {platform.getName()} {option}: {error}")
    found += _pool_peers(molecule)
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            if tensors:
                say("left out: TorchPotential on a GPU: torch finds no CUDA device.")
            continue
        modes = ("eager", "compiled") if tensors else ()
        for mode in (*modes, *(("fused",) if device == "cpu" else ())):
            found += [
                _torch_peer(molecule, mode, dtype, device, threads)
                for dtype in (torch.float32, torch.float64)
            ]
    return found


def _context_peer(
    system: Any, name: str | None, properties: dict[str, str], threads: int, *, one_core: bool = False
) -> Peer:
    """Return a single Context, on the default platform if no name is given.

    Its worker thread and the caller's wait for each other many times in one evaluation. Where they are on different
    cores of a quiet virtual machine, waking the other one takes most of the time (1,400 evaluations of alanine
    dipeptide a second instead of 4,600); on one core it does not.
    """
    import openmm
    from openmm import unit

    arguments = [system, openmm.VerletIntegrator(0.001)]
    if name is not None:
        arguments += [openmm.Platform.getPlatformByName(name), properties]
    with _cores(one_core):  # its threads will stay there
        contexts = [openmm.Context(*arguments)]
    per_nanometer = unit.kilojoule_per_mole / unit.nanometer

    def loop(batch: np.ndarray, with_forces: bool) -> np.ndarray:
        context, energies = contexts[0], np.empty(len(batch))
        forces = np.empty(batch.shape)
        with _cores(one_core):
            for i, x in enumerate(batch):
                context.setPositions(x)
                state = context.getState(energy=True, forces=with_forces)
                energies[i] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
                if with_forces:
                    forces[i] = state.getForces(asNumpy=True).value_in_unit(per_nanometer)
        return energies

    platform = contexts[0].getPlatform()
    precision = properties.get("Precision", "double" if platform.getName() == "Reference" else "single")
    n_threads = 1
    if name is None:
        label, kind = f"default-platform loop ({platform.getName()})", "default"
        if "Precision" in platform.getPropertyNames():
            precision = platform.getPropertyValue(contexts[0], "Precision")
    else:
        label = " ".join([f"OpenMM {name}", *(f"{k.lower()}={v}" for k, v in properties.items())])
        label, kind = label + (", on one core" if one_core else ""), "single"
    if "Threads" in platform.getPropertyNames():
        n_threads = int(platform.getPropertyValue(contexts[0], "Threads"))
    device = "cpu" if platform.getName() in ("CPU", "Reference") else "gpu"
    return Peer(label, kind, precision, np.ascontiguousarray, loop, device, n_threads, contexts.clear)


@contextmanager
def _cores(one: bool) -> Iterator[None]:
    """Keep this thread on one core, or let it be."""
    if not one:
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _pool_peers(molecule: MolecularSystem) -> list[Peer]:
    """Return a peer for each candidate of the pool: its own trial is short, and may choose the second best."""
    with OpenMMPotential(molecule, dtype=torch.float32) as potential:
        potential.energy(molecule.positions[None])
        choices = potential.choice
    found = []
    for choice in choices:
        if choice.error:
            continue
        count = (
            int(choice.properties.get("Threads", os.cpu_count() or 1)) if choice.platform == "CPU" else None
        )
        pool = OpenMMPotential(
            molecule,
            platform=choice.platform,
            threads=count,
            n_contexts=choice.n_contexts,
            dtype=torch.float32,
        )
        name = f"pool: {choice.n_contexts} x {choice.platform}" + (f" threads={count}" if count else "")
        precision = {"Reference": "double", "CPU": "single"}.get(choice.platform, "mixed")
        device = "cpu" if choice.platform in ("Reference", "CPU") else "gpu"
        threads = choice.n_contexts * (count or 1)
        found.append(
            Peer(name, "pool", precision, torch.as_tensor, _evaluator(pool), device, threads, pool.close)
        )
    return found


def _torch_peer(molecule: MolecularSystem, mode: str, dtype: torch.dtype, device: str, threads: int) -> Peer:
    potential = TorchPotential.from_system(molecule, dtype=dtype, device=device, mode=mode, threads=threads)
    single = dtype == torch.float32
    name = f"torch {mode} {'float32' if single else 'float64'}" + (" GPU" if device == "cuda" else "")

    def prepare(batch: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(batch, dtype=dtype, device=device)

    precision = "single" if single else "double"
    return Peer(name, "torch", precision, prepare, _evaluator(potential), device, threads)


def _evaluator(potential: Any) -> Callable[[torch.Tensor, bool], torch.Tensor]:
    def evaluate(batch: torch.Tensor, with_forces: bool) -> torch.Tensor:
        energy = potential.energy_and_forces(batch)[0] if with_forces else potential.energy(batch)
        if energy.is_cuda:
            torch.cuda.synchronize()
        return energy

    return evaluate


class Bench:
    """The peers on one system, timed in turn.

    Args:
        name: One of `SYSTEMS`.
        threads: As of `make_peers`.
        repeats: Timings of each peer.
        tensors: As of `make_peers`.
        seed: Seed of the thermal configurations.
        say: Where to tell what is left out.

    Attributes:
        rows: What was measured, as written to the CSV file.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        repeats: int,
        *,
        tensors: bool = True,
        seed: int = 0,
        say: Callable = say,
    ) -> None:
        self.name, self.repeats, self.say = name, repeats, say
        self.molecule = load_system(name)
        self.positions = thermal_positions(self.molecule, seed=seed)
        self.peers = make_peers(self.molecule, threads, tensors=tensors, say=say)
        self.rows: list[dict[str, Any]] = []
        self._prepare()

    def _prepare(self) -> None:
        """Start all peers (some compile), and compare their energies with those of the Reference platform."""
        reference = next(peer for peer in self.peers if peer.name == "OpenMM Reference")
        few = self.positions[:: len(self.positions) // (16 if self.molecule.n_atoms < 200 else 4)]
        expected = reference.evaluate(reference.prepare(few), True)
        self.errors, self._calls = {}, {}
        kept = []
        for peer in self.peers:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RuntimeWarning)
                for with_forces in (True, False):
                    energy = np.asarray(torch.as_tensor(peer.evaluate(peer.prepare(few), with_forces)).cpu())
                    start = time.perf_counter()
                    peer.evaluate(peer.prepare(few), with_forces)
                    self._calls[peer.name, with_forces] = len(few), time.perf_counter() - start
            # A mode that is not available takes the eager one's place, which is measured already.
            failed = [
                str(w.message) for w in caught if "fused" in str(w.message) or "compile" in str(w.message)
            ]
            if failed:
                self.say(f"left out: {peer.name}: {failed[0]}")
                continue
            self.errors[peer.name] = float((abs(energy - expected) / np.maximum(abs(expected), 100.0)).max())
            kept.append(peer)
        self.peers = kept

    def sweep(
        self, batches: Sequence[int], with_forces: bool, tick: Callable[[str], None] = lambda text: None
    ) -> None:
        """Time all peers at all batch sizes that they can do in time."""
        for batch in batches:
            possible = [peer for peer in self.peers if batch == 1 or self._is_quick(peer, batch, with_forces)]
            rates = self.time_in_turn([(peer, batch) for peer in possible], with_forces, tick)
            for peer, found in zip(possible, rates, strict=True):
                lower, middle, upper = np.quantile(found, [0.25, 0.5, 0.75])
                self._calls[peer.name, with_forces] = batch, batch / middle
                row = {
                    "system": self.name,
                    "atoms": self.molecule.n_atoms,
                    "peer": peer.name,
                    "kind": peer.kind,
                }
                row |= {"precision": peer.precision, "device": peer.device, "threads": peer.threads}
                row |= {"forces": with_forces, "batch": batch, "rate": middle, "lower": lower, "upper": upper}
                self.rows.append(row | {"repeats": len(found), "error": self.errors[peer.name]})

    def _is_quick(self, peer: Peer, batch: int, with_forces: bool) -> bool:
        """Return whether a batch is expected to be done soon, given the time of a smaller one."""
        size, seconds = self._calls[peer.name, with_forces]
        if peer.kind == "torch" and peer.name not in (FLOAT32, FLOAT64):
            return seconds <= 0.3 * _LONGEST  # small batches cost as much as larger ones
        return seconds * batch / size <= _LONGEST

    def time_in_turn(
        self,
        entries: Sequence[tuple[Peer, int]],
        with_forces: bool,
        tick: Callable[[str], None] = lambda text: None,
    ) -> np.ndarray:
        """Return evaluations per second with shape=(n_entries, repeats): all entries once, then all again."""
        data = [
            peer.prepare(np.resize(self.positions, (n, *self.positions.shape[1:]))) for peer, n in entries
        ]
        counts = []
        for (peer, n), batch in zip(entries, data, strict=True):
            start = time.perf_counter()
            peer.evaluate(batch, with_forces)
            counts.append(max(1, round(_SHORTEST / max(time.perf_counter() - start, 1e-6))))
            tick(f"{self.name}: {peer.name}, batch {n}")
        rates = np.empty((len(entries), self.repeats))
        for turn in range(self.repeats):
            for k, (peer, n) in enumerate(entries):
                tick(f"{self.name}: {peer.name}, batch {n}, {turn + 1}/{self.repeats}")
                start = time.perf_counter()
                for _ in range(counts[k]):
                    peer.evaluate(data[k], with_forces)
                rates[k, turn] = counts[k] * n / (time.perf_counter() - start)
        return rates

    def ratios(self, tick: Callable[[str], None] = lambda text: None) -> dict[str, dict[str, Any]]:
        """Time every Context, pool and fused potential at its best batch once more, all in turn.

        Returns:
            For each ratio of energies and forces a second its median, quartiles and standard error, and the rates
            and peers behind it. The best peer of a kind is the best of these timings.
        """
        batches = {}
        for row in sorted(self.rows, key=lambda row: row["rate"]):
            if row["forces"]:
                batches[row["peer"]] = row["batch"]
        peers = [peer for peer in self.peers if peer.kind != "torch" or peer.name in (FLOAT32, FLOAT64)]
        rates = self.time_in_turn([(peer, batches[peer.name]) for peer in peers], True, tick)
        timed = [(peer, rate, batches[peer.name]) for peer, rate in zip(peers, rates, strict=True)]

        def best(accept: Callable[[Peer], bool]) -> Any:
            return max((entry for entry in timed if accept(entry[0])), key=lambda entry: np.median(entry[1]))

        single, double = (best(lambda peer, name=name: peer.name == name) for name in (FLOAT32, FLOAT64))
        return {
            "best single context": _ratio(single, best(lambda peer: peer.kind in SINGLES)),
            "default-platform loop": _ratio(single, best(lambda peer: peer.kind == "default")),
            "best pool": _ratio(single, best(lambda peer: peer.kind == "pool")),
            "Reference, float64": _ratio(double, best(lambda peer: peer.name == "OpenMM Reference")),
        }

    def close(self) -> None:
        """Free all Contexts."""
        for peer in self.peers:
            peer.close()


def _ratio(first: tuple[Peer, np.ndarray, int], second: tuple[Peer, np.ndarray, int]) -> dict[str, Any]:
    ratio = first[1] / second[1]
    lower, middle, upper = np.quantile(ratio, [0.25, 0.5, 0.75])
    return {
        "value": float(middle),
        "quartiles": [float(lower), float(upper)],
        # Of a median of normal deviates; the timings are few.
        "stderr": float(1.2533 * ratio.std(ddof=1) / np.sqrt(len(ratio))) if len(ratio) > 1 else None,
        "rates": [float(np.median(rates)) for _, rates, _ in (first, second)],
        "peers": [f"{peer.name} ({peer.precision}), batch {batch}" for peer, _, batch in (first, second)],
    }
