"""Alanine dipeptide as the checks move it: by the package's batched dynamics, and by OpenMM's integrator."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from openmm_bg import TorchPotential, systems
from openmm_bg.reference import load_reference
from openmm_bg.simulation import LangevinDynamics, ParallelTempering

INTERVAL = 50  # steps between frames


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        threads: Threads of the potential, and walkers that OpenMM moves at a time.
        short: Divides all lengths: 1, or more for a trial whose figures mean little.
        advance: Moves the progress bar: a label, the steps done and all of them.
    """

    threads: int
    short: int = 1
    advance: Callable[[str, int, int], None] = lambda label, done, total: None


class Alanine:
    """Alanine dipeptide with the settings of the reference that comes with the package.

    Attributes:
        molecule: The system.
        reference: The reference at 300 K.
        masses: Masses [Da], hydrogens heavier.
        options: Time step and friction.
        ladder: Temperatures [K], 300 K first.
    """

    def __init__(self, effort: Effort) -> None:
        self.molecule = systems.load("alanine_dipeptide")
        self.reference = load_reference("alanine_dipeptide", 300.0)
        settings = self.reference.record["settings"]
        masses = self.molecule.masses
        self.masses = np.where(masses < 2.0, settings["hydrogen_mass"], masses)
        self.options = {"timestep": settings["timestep"], "friction": settings["friction"]}
        self.ladder = [300.0, *settings["ladder"]]
        self.potential = TorchPotential.from_system(
            self.molecule, dtype=torch.float32, threads=effort.threads
        )
        self._effort = effort

    def dynamics(self, positions: Any, temperature: Any, seed: int, **options: Any) -> LangevinDynamics:
        """Return batched Langevin dynamics."""
        generator = torch.Generator().manual_seed(seed)
        options = self.options | options
        return LangevinDynamics(
            self.potential, positions, self.masses, temperature, generator=generator, **options
        )

    def tempering(self, n_ladders: int, burn_in: int, seed: int) -> ParallelTempering:
        """Return parallel tempering after a burn-in, the first half of which is at the highest temperature."""
        temperatures = np.repeat(self.ladder, n_ladders)
        start = np.repeat(self.molecule.positions[None], len(temperatures), axis=0)
        ladders = ParallelTempering(self.dynamics(start, self.ladder[-1], seed), n_ladders=n_ladders)
        for done in range(0, burn_in, INTERVAL):
            if done == burn_in // 2 // INTERVAL * INTERVAL:
                ladders.set_temperature(temperatures)
            ladders.step(INTERVAL)
            self._effort.advance("burn-in of the ladders", done, burn_in)
        ladders.n_proposed[:], ladders.n_accepted[:] = 0, 0
        return ladders

    def starts(self, temperature: float, seed: int) -> torch.Tensor:
        """Return equilibrium configurations with shape=(64 independent ladders, 8 times, n_atoms, 3)."""
        short = self._effort.short
        rung = self.ladder.index(temperature)
        ladders = self.tempering(64, 20_000 // short, seed)
        found = []
        for _ in range(8):
            for _ in range(2500 // INTERVAL // short + 1):
                ladders.step(INTERVAL)
            found.append(ladders.positions[rung * 64 : (rung + 1) * 64].clone())
            self._effort.advance("starts", len(found), 8)
        return torch.stack(found, dim=1)

    def energies(self, dynamics: Any, n_frames: int, interval: int, label: str) -> tuple[np.ndarray, float]:
        """Return energies with shape=(n_walkers, n_frames), and the steps a second of all walkers together."""
        kept = np.empty((len(dynamics.positions), n_frames))
        start = time.perf_counter()
        for frame in range(n_frames):
            dynamics.step(interval)
            kept[:, frame] = dynamics.energy.double().numpy()
            self._effort.advance(label, frame, n_frames)
        return kept, kept.size * interval / (time.perf_counter() - start)


class OpenMMWalkers:
    """Independent walkers of OpenMM's LangevinMiddleIntegrator, a Context each, on the fastest platform.

    Args:
        alanine: The system, and the masses, time step and friction.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3).
        temperature: Temperature [K].
        seed: Seed.
        threads: The most threads to use.
    """

    def __init__(
        self, alanine: Alanine, positions: np.ndarray, temperature: float, seed: int, threads: int
    ) -> None:
        candidates = [("Reference", {}, 1), ("Reference", {}, threads)]
        candidates += [("CPU", {"Threads": "1"}, threads), ("CPU", {"Threads": str(threads)}, 1)]
        rates = []
        for platform, properties, workers in candidates:
            self._open(alanine, positions[:workers], temperature, seed, (platform, properties, workers))
            self.step(10)
            start = time.perf_counter()
            self.step(200)
            rates.append(200 * workers / (time.perf_counter() - start))
            self.close()
        self.chosen = candidates[int(np.argmax(rates))]
        self._open(alanine, positions, temperature, seed, self.chosen)

    def _open(
        self, alanine: Alanine, positions: np.ndarray, temperature: float, seed: int, how: tuple
    ) -> None:
        import openmm

        platform, properties, workers = how
        system = openmm.XmlSerializer.clone(alanine.molecule.system)
        for force in reversed(range(system.getNumForces())):
            if isinstance(system.getForce(force), openmm.CMMotionRemover):
                system.removeForce(force)  # the batched dynamics has none
        for k, mass in enumerate(alanine.masses):
            system.setParticleMass(k, float(mass))
        self._executor, self._contexts = ThreadPoolExecutor(workers), []
        for k, x in enumerate(positions):
            integrator = openmm.LangevinMiddleIntegrator(
                temperature, alanine.options["friction"], alanine.options["timestep"]
            )
            integrator.setRandomNumberSeed(seed + k)
            context = openmm.Context(
                system, integrator, openmm.Platform.getPlatformByName(platform), properties
            )
            context.setPositions(x)
            context.setVelocitiesToTemperature(temperature, seed + k)
            self._contexts.append(context)

    def step(self, n_steps: int) -> np.ndarray:
        """Advance all walkers; return their energies [kJ/mol] with shape=(n_walkers, n_steps / INTERVAL)."""

        def move(context: Any) -> list[float]:
            found = []
            for k in range(0, n_steps, INTERVAL):
                context.getIntegrator().step(min(INTERVAL, n_steps - k))
                found.append(context.getState(energy=True).getPotentialEnergy()._value)
            return found

        return np.array(list(self._executor.map(move, self._contexts)))

    def close(self) -> None:
        """Free the Contexts, after what is being done is done."""
        self._executor.shutdown(cancel_futures=True)
        self._contexts.clear()
