"""Simulations that make training data: resumable, with progress, written as one trajectory."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.files import atomic_path, atomic_write_json, atomic_write_text, provenance
from openmm_bg.simulation.checks import with_hydrogen_mass
from openmm_bg.simulation.langevin import LangevinDynamics
from openmm_bg.simulation.openmm_dynamics import OpenMMDynamics
from openmm_bg.simulation.progress import StepBar
from openmm_bg.simulation.settings import SimulationSettings
from openmm_bg.simulation.start_comparison import compare_starts
from openmm_bg.simulation.starts import check_starts, start_configurations
from openmm_bg.simulation.tempering import ParallelTempering

if TYPE_CHECKING:
    from openmm_bg.potentials import Potential
    from openmm_bg.systems import MolecularSystem

TRAJECTORY = "trajectory.h5"
# Between two checkpoints at most so many frames of all walkers together, and steps of all replicas together.
_SEGMENT_FRAMES, _SEGMENT_STEPS = 10_000, 2_000_000


def simulate(
    system: MolecularSystem,
    output: str | Path,
    settings: SimulationSettings | None = None,
    *,
    progress: bool = False,
    on_segment: Callable[[int], None] | None = None,
) -> Path:
    """Run a simulation, or continue an interrupted one.

    The output directory gets ``trajectory.h5`` (mdtraj's HDF5: positions, energies, temperature; frame i is
    of walker i % n_walkers), ``system.xml``, ``topology.pdb`` and ``provenance.json``. An interrupted run
    leaves checkpoints there, from which the same call continues. Only `n_frames` may be another one then: with a
    number that is already reached the call ends the run.

    If walkers begin from several starts, ``provenance.json`` says which began where (``walker_starts``), and
    whether the starts agree in the potential energy of the second half of the frames (``start_comparison``).

    Args:
        system: The molecule.
        output: The directory.
        settings: The settings.
        progress: Show a progress bar.
        on_segment: Called with the number of segments after each checkpoint.

    Returns:
        The trajectory.

    Raises:
        InputError: If the directory holds a finished run, or an interrupted one of other settings, or the system
            lacks a start.
    """
    settings = settings or SimulationSettings()
    run = _Run(system, Path(output), settings)
    run.prepare()
    with StepBar(progress, settings) as bar:
        run.advance(bar, on_segment)
    return run.finish()


class _Run:
    def __init__(self, system: MolecularSystem, output: Path, settings: SimulationSettings) -> None:
        self.system, self.output, self.settings = system, output, settings
        self.work = output / "in_progress"
        self.identity = {"system_hash": system.system_hash, "settings": dataclasses.asdict(settings)}

    def prepare(self) -> None:
        """Build the dynamics, at the start or at the last checkpoint."""
        if (self.output / TRAJECTORY).exists():
            raise InputError(
                f"{self.output} holds a finished simulation; choose another output directory or remove it."
            )
        check_starts(self.system, self.settings)
        checkpoint = self.work / "checkpoint.npz"
        if checkpoint.exists():
            stored = json.loads((self.work / "identity.json").read_text())
            if _comparable(stored) != _comparable(json.loads(json.dumps(self.identity))):
                raise InputError(
                    f"{self.output} holds an interrupted simulation of another system or with other settings; "
                    "repeat its settings to continue it, or choose another output directory."
                )
        self.dynamics = self._dynamics(resumed=checkpoint.exists())
        self.n_evaluations, self.burned_in, self.n_segments, self.done = 0, False, 0, 0
        self.seconds, self._started = 0.0, time.perf_counter()
        if checkpoint.exists():
            with np.load(checkpoint) as stored:
                state = dict(stored)
            self.n_evaluations = int(state.pop("n_evaluations"))
            self.seconds = float(state.pop("seconds", 0.0))
            self.n_segments = int(state["n_segments"])
            # Checkpoints of older versions do not count frames; their segments were of this length.
            old_length = max(1, _SEGMENT_FRAMES // self.settings.n_walkers)
            self.done = int(state.pop("frames_per_walker", self.n_segments * old_length))
            self.burned_in = True
            self.dynamics.restore(state)
            self._set_final_temperature()
        else:
            atomic_write_json(self.work / "identity.json", self.identity)

    def _dynamics(self, resumed: bool) -> LangevinDynamics | ParallelTempering | OpenMMDynamics:
        settings, system = self.settings, self.system
        temperatures = settings.replica_temperatures()
        masses = with_hydrogen_mass(system.masses, settings.hydrogen_mass)
        if settings.hot_start and settings.burn_in:
            temperatures = np.full_like(temperatures, settings.hot_start)
        common = {"timestep": settings.timestep, "friction": settings.friction}
        if settings.engine == "openmm":
            from openmm_bg.potentials import OpenMMPotential

            with OpenMMPotential(system.system) as potential:
                start = self._start(potential, resumed)
            return OpenMMDynamics(system.system, start, masses, temperatures[0], seed=settings.seed, **common)
        from openmm_bg.potentials import TorchPotential
        from openmm_bg.potentials.torch_potential import TranslationError

        try:
            potential = TorchPotential.from_system(system, dtype=torch.float32, mode=settings.mode)
        except TranslationError:
            raise
        except InputError as error:
            raise InputError(
                f"{str(error).rstrip('.')}; for a simulation, the engine 'openmm' does."
            ) from error
        # Replicas of a ladder begin where its walker does.
        start = np.tile(self._start(potential, resumed), (len(temperatures) // settings.n_walkers, 1, 1))
        generator = torch.Generator().manual_seed(settings.seed)
        dynamics = LangevinDynamics(potential, start, masses, temperatures, generator=generator, **common)
        return ParallelTempering(dynamics, n_ladders=settings.n_walkers) if settings.ladder else dynamics

    def _start(self, potential: Potential, resumed: bool) -> np.ndarray:
        """Return where the walkers begin [nm]; of a run that is continued anything will do."""
        if resumed:
            return np.repeat(self.system.positions[None], self.settings.n_walkers, axis=0)
        return start_configurations(self.system, self.settings, potential)

    def advance(self, bar: StepBar, on_segment: Callable[[int], None] | None) -> None:
        """Burn in, then write segments until there are enough frames."""
        settings = self.settings
        if not self.burned_in:
            self._burn_in(bar)
            self._checkpoint()
        steps_per_frame = settings.interval * len(settings.replica_temperatures())
        per_segment = max(1, min(_SEGMENT_FRAMES // settings.n_walkers, _SEGMENT_STEPS // steps_per_frame))
        bar.advance(settings.burn_in if self.n_segments else 0)
        bar.advance(min(self.done, settings.frames_per_walker) * settings.interval)
        while self.done < settings.frames_per_walker:
            count = min(per_segment, settings.frames_per_walker - self.done)
            positions, energies = [], []
            for _ in range(count):
                self.dynamics.step(settings.interval)
                kept = slice(settings.n_walkers)  # of a ladder, the lowest rung
                positions.append(np.asarray(self.dynamics.positions[kept]).astype(np.float32))
                energies.append(np.asarray(self.dynamics.energy[kept]).astype(np.float32))
                bar.advance(settings.interval)
            with atomic_path(self._segment(self.n_segments)) as path, path.open("wb") as file:
                np.savez(file, positions=np.stack(positions), energies=np.stack(energies))
            self.n_segments, self.done = self.n_segments + 1, self.done + count
            self._checkpoint()
            if on_segment is not None:
                on_segment(self.n_segments)

    def _burn_in(self, bar: StepBar) -> None:
        half = self.settings.burn_in // 2
        for n_steps in (half, self.settings.burn_in - half):
            for start in range(0, n_steps, self.settings.interval):
                size = min(self.settings.interval, n_steps - start)
                self.dynamics.step(size)
                bar.advance(size)
            self._set_final_temperature()

    def _set_final_temperature(self) -> None:
        settings = self.settings
        many = not isinstance(self.dynamics, OpenMMDynamics)
        self.dynamics.set_temperature(settings.replica_temperatures() if many else settings.temperature)

    def _segment(self, number: int) -> Path:
        return self.work / f"segment_{number:06d}.npz"

    def _evaluations(self) -> int:
        own = isinstance(self.dynamics, OpenMMDynamics)
        source = self.dynamics if own else self.dynamics.potential
        return self.n_evaluations + source.n_evaluations

    def _seconds(self) -> float:
        """Return the wall time so far; of a run that was interrupted, that up to its last checkpoint and since."""
        return self.seconds + time.perf_counter() - self._started

    def _energies_from(self) -> str:
        if isinstance(self.dynamics, OpenMMDynamics):
            return "OpenMM"
        return self.dynamics.potential.description

    def _checkpoint(self) -> None:
        state = self.dynamics.state()
        with atomic_path(self.work / "checkpoint.npz") as path, path.open("wb") as file:
            counters = {"n_evaluations": self._evaluations(), "seconds": self._seconds()}
            counters["frames_per_walker"] = self.done
            np.savez(file, **counters, n_segments=self.n_segments, **state)

    def _exchange_acceptance(self) -> list[float] | None:
        if not isinstance(self.dynamics, ParallelTempering):
            return None
        return (self.dynamics.n_accepted / np.maximum(self.dynamics.n_proposed, 1)).tolist()

    def _kept_segments(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions [nm] and energies [kJ/mol] of the frames that are to be kept, segment by segment."""
        left = self.settings.frames_per_walker
        for number in range(self.n_segments):
            with np.load(self._segment(number)) as segment:
                positions, energies = segment["positions"][:left], segment["energies"][:left]
            if len(energies):
                yield positions, energies
            left -= len(energies)

    def _start_comparison(self) -> dict[str, Any] | None:
        if len(self.settings.starts) < 2:
            return None
        energies = np.concatenate([energies for _, energies in self._kept_segments()])
        second_half = energies[len(energies) // 2 :]
        comparison = compare_starts(second_half, self.settings.walker_starts())
        return comparison.record("potential energy (kJ/mol), second half of the frames")

    def finish(self) -> Path:
        """Join the segments to one trajectory, and write what belongs to it."""
        import mdtraj

        settings, system = self.settings, self.system
        trajectory = self.output / TRAJECTORY
        if restarts := self.dynamics.n_restarts:
            warnings.warn(
                f"Walkers came to a non-finite energy {restarts} times and were put back to their last good "
                "frame, which biases the data; use a shorter time step.",
                ReliabilityWarning,
                stacklevel=3,
            )
        atomic_write_text(self.output / "system.xml", system.system_xml())
        atomic_write_text(self.output / "topology.pdb", system.topology_pdb())
        record = provenance(
            seed=settings.seed,
            name=system.name,
            torsions=dict(system.torsions),
            bonds=system.bonds,
            system_temperature=system.temperature,
            temperature=settings.temperature,
            n_walkers=settings.n_walkers,
            n_frames=settings.frames_per_walker * settings.n_walkers,
            n_energy_evaluations=self._evaluations(),
            seconds=round(self._seconds(), 2),
            n_restarts=self.dynamics.n_restarts,
            energies_from=self._energies_from(),
            exchange_acceptance=self._exchange_acceptance(),
            walker_starts=settings.walker_starts() if settings.starts else None,
            start_comparison=self._start_comparison(),
            **self.identity,
        )
        with atomic_path(trajectory) as path:
            with mdtraj.formats.HDF5TrajectoryFile(str(path), "w") as file:
                file.topology = mdtraj.Topology.from_openmm(system.topology)
                n_frames = 0
                for positions, energies in self._kept_segments():
                    steps = n_frames + np.arange(1, len(positions) + 1)
                    n_frames += len(positions)
                    file.write(
                        coordinates=positions.reshape(-1, system.n_atoms, 3),
                        time=np.repeat(steps * settings.interval * settings.timestep, settings.n_walkers),
                        potentialEnergy=energies.reshape(-1),
                        temperature=np.full(energies.size, settings.temperature),
                    )
            # Last before the trajectory appears: a trajectory that is there has its record.
            atomic_write_json(self.output / "provenance.json", record)
        shutil.rmtree(self.work)
        return trajectory


def _comparable(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what an interrupted run must share with the call that continues it."""
    settings = {"starts": [], **identity["settings"]}  # older versions had no starts
    del settings["n_frames"]
    return {**identity, "settings": settings}
