"""Umbrella sampling of a torsion: all windows at once, with exchange; resumable, written as one file."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.files import atomic_path, atomic_write_json, provenance
from openmm_bg.geometry import dihedrals, wrap
from openmm_bg.potentials.torch_potential import MODES, TorchPotential
from openmm_bg.simulation.checks import positive, whole_number, with_hydrogen_mass
from openmm_bg.simulation.langevin import LangevinDynamics
from openmm_bg.simulation.torsion_bias import TorsionBias
from openmm_bg.simulation.umbrella_exchange import UmbrellaExchange
from openmm_bg.units import kelvin

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem

FRAMES = "umbrella.npz"
_SEGMENT_ROUNDS = 200  # exchange rounds between two checkpoints


@dataclass(frozen=True)
class UmbrellaSettings:
    """Settings of umbrella sampling.

    Each window holds the torsion near its centre by the bias stiffness * (1 - cos(torsion - centre)); the centres
    share the full circle evenly, the first at -180 degrees. A ladder is one walker in each window. Neighbouring
    windows of a ladder exchange walkers; ladders never do, so that they are independent of each other.

    Args:
        torsion: The name of the torsion, as in `MolecularSystem.torsions`.
        spread: Names of torsions that start evenly spread: every walker is pulled to random values of them while it
            is pulled into its window, and then let go.
        temperature: Temperature [K].
        n_windows: Windows; an even number, so that all have partners in every round of exchange.
        n_ladders: Independent ladders.
        stiffness: Strength of the bias [kJ/mol]; near a centre, also its force constant [kJ/mol/rad^2].
        interval: Steps between exchanges.
        thin: Exchanges between frames.
        n_frames: Frames of each walker.
        pull: Steps in which the walkers are pulled from the reference configuration into their windows.
        burn_in: Steps after this that are thrown away.
        timestep: Time step [ps].
        friction: Friction [1/ps].
        hydrogen_mass: Hydrogens get this mass [Da], which allows longer steps and does not change the
            distribution of positions; as in the system if not given.
        mode: How the batched potential is evaluated, as of `TorchPotential`.
        seed: Seed of the random numbers.

    Raises:
        InputError: If a setting makes no sense.
    """

    torsion: str = "phi"
    spread: tuple[str, ...] = ("psi",)
    temperature: float = 300.0
    n_windows: int = 30
    n_ladders: int = 32
    stiffness: float = 100.0
    interval: int = 50
    thin: int = 10
    n_frames: int = 1000
    pull: int = 20_000
    burn_in: int = 50_000
    timestep: float = 0.002
    friction: float = 2.0
    hydrogen_mass: float | None = 4.0
    mode: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        kelvin(self.temperature)
        whole_number("number of windows", self.n_windows, least=4)
        if self.n_windows % 2:
            raise InputError(
                f"The number of windows must be even, and is {self.n_windows}: all exchange in pairs."
            )
        for name, value in (
            ("number of ladders", self.n_ladders),
            ("interval", self.interval),
            ("thin", self.thin),
            ("number of frames", self.n_frames),
        ):
            whole_number(name, value, least=1)
        for name, value in (("pull", self.pull), ("burn_in", self.burn_in)):
            whole_number(name, value, least=0)
        for name in ("stiffness", "timestep", "friction"):
            positive(name, getattr(self, name))
        if self.hydrogen_mass is not None:
            positive("hydrogen_mass", self.hydrogen_mass)
        if self.torsion in self.spread:
            raise InputError(f"The torsion {self.torsion!r} has windows; it cannot be spread as well.")
        if self.mode not in MODES:
            raise InputError(f"There is no mode {self.mode!r}; the modes are: {', '.join(MODES)}.")

    @property
    def n_walkers(self) -> int:
        """Walkers of all ladders."""
        return self.n_windows * self.n_ladders

    def centres(self) -> np.ndarray:
        """Return the centres of the windows [rad] with shape=(n_windows,)."""
        return window_centres(self.n_windows)


def window_centres(n_windows: int) -> np.ndarray:
    """Return centres [rad] that share the full circle, from -pi on, with shape=(n_windows,)."""
    return -np.pi + 2.0 * np.pi * np.arange(n_windows) / n_windows


def umbrella_sampling(
    system: MolecularSystem,
    output: str | Path,
    settings: UmbrellaSettings | None = None,
    *,
    progress: bool = False,
    on_segment: Callable[[int], None] | None = None,
) -> Path:
    """Run umbrella sampling of a torsion, or continue an interrupted run.

    The output directory gets ``umbrella.npz`` and ``provenance.json``. The arrays have shape=(n_frames, n_walkers);
    walker w is of ladder w % n_ladders. They are the system's torsions [rad] under their names,
    ``potential_energy`` [kJ/mol] without the bias, and ``window``, whose bias the walker felt. An interrupted run
    leaves checkpoints there, from which the same call continues; frames do not depend on interruptions.

    Args:
        system: The molecule.
        output: The directory.
        settings: The settings.
        progress: Show a progress bar.
        on_segment: Called with the number of segments after each checkpoint.

    Returns:
        The file with the frames.

    Raises:
        InputError: If the system has no such torsions, or the batched potential does not support it, or the
            directory holds a finished run, or an interrupted one of other settings.
    """
    run = _Run(system, Path(output), settings or UmbrellaSettings())
    with _bar(progress, run.settings) as advance:
        run.prepare(advance)
        run.advance(advance, on_segment)
    return run.finish()


class _Run:
    def __init__(self, system: MolecularSystem, output: Path, settings: UmbrellaSettings) -> None:
        names = (settings.torsion, *settings.spread)
        if unknown := [name for name in names if name not in system.torsions]:
            raise InputError(
                f"{system.name} has no torsion {unknown[0]!r}; it has: {', '.join(system.torsions) or 'none'}."
            )
        self.system, self.output, self.settings = system, output, settings
        self.quadruples = np.array([system.torsions[name] for name in names])
        self.work = output / "in_progress"
        self.identity = {
            "system_hash": system.system_hash,
            "torsions": {name: list(atoms) for name, atoms in system.torsions.items()},
            "settings": dataclasses.asdict(settings),
        }
        self.n_evaluations, self.n_segments = 0, 0

    @property
    def burn_in_rounds(self) -> int:
        return -(-self.settings.burn_in // self.settings.interval)

    @property
    def n_rounds(self) -> int:
        return self.burn_in_rounds + self.settings.n_frames * self.settings.thin

    def prepare(self, advance: Callable[[int], None]) -> None:
        """Pull the walkers into their windows, or take them from the last checkpoint."""
        if (self.output / FRAMES).exists():
            raise InputError(
                f"{self.output} holds finished umbrella sampling; choose another output directory or remove it."
            )
        checkpoint = self.work / "checkpoint.npz"
        if checkpoint.exists():
            stored = json.loads((self.work / "identity.json").read_text())
            if stored != json.loads(json.dumps(self.identity)):
                raise InputError(
                    f"{self.output} holds interrupted umbrella sampling of another system or with other settings; "
                    "repeat its settings to continue it, or choose another output directory."
                )
        settings, system = self.settings, self.system
        self.masses = with_hydrogen_mass(system.masses, settings.hydrogen_mass)
        self.potential = TorchPotential.from_system(system, dtype=torch.float32, mode=settings.mode)
        self.generator = torch.Generator().manual_seed(settings.seed)
        centres = np.repeat(settings.centres(), settings.n_ladders)[:, None]
        positions = torch.from_numpy(np.repeat(system.positions[None], settings.n_walkers, axis=0)).float()
        if checkpoint.exists():
            self.exchange = self._exchange(positions, centres)
            with np.load(checkpoint) as stored:
                state = dict(stored)
            self.n_evaluations = int(state.pop("n_evaluations"))
            self.n_segments = int(state.pop("n_segments"))
            self.exchange.restore(state)
            advance(settings.pull)
        else:
            atomic_write_json(self.work / "identity.json", self.identity)
            self.exchange = self._exchange(self._pulled(positions, centres, advance), centres)
            self._checkpoint()

    def _exchange(self, positions: torch.Tensor, centres: np.ndarray) -> UmbrellaExchange:
        bias = TorsionBias(self.potential, self.quadruples[:1], centres, self.settings.stiffness)
        return UmbrellaExchange(self._dynamics(bias, positions), n_ladders=self.settings.n_ladders)

    def _dynamics(self, bias: TorsionBias, positions: torch.Tensor) -> LangevinDynamics:
        settings = self.settings
        options = {"timestep": settings.timestep, "friction": settings.friction, "generator": self.generator}
        return LangevinDynamics(bias, positions, self.masses, settings.temperature, **options)

    def _pulled(
        self, positions: torch.Tensor, centres: np.ndarray, advance: Callable[[int], None]
    ) -> torch.Tensor:
        """Return positions after a pull in which the bias moves to the windows, and to random `spread` torsions."""
        settings = self.settings
        start = dihedrals(positions.double(), self.quadruples)
        random = torch.rand(
            len(positions), len(settings.spread), generator=self.generator, dtype=torch.float64
        )
        way = wrap(torch.cat([torch.from_numpy(centres), 2.0 * math.pi * random], dim=1) - start)
        dynamics = self._dynamics(
            TorsionBias(self.potential, self.quadruples, start, settings.stiffness), positions
        )
        for done in range(0, settings.pull, settings.interval):
            size = min(settings.interval, settings.pull - done)
            dynamics.potential.centres = start + way * min(1.0, 1.25 * (done + size) / settings.pull)
            dynamics.step(size)
            advance(size)
        return dynamics.positions

    def advance(self, advance: Callable[[int], None], on_segment: Callable[[int], None] | None) -> None:
        """Write segments until there are enough frames."""
        interval = self.settings.interval
        done = min(self.n_segments * _SEGMENT_ROUNDS, self.n_rounds)
        advance(done * interval)
        while done < self.n_rounds:
            frames: list[dict[str, np.ndarray]] = []
            for _ in range(min(_SEGMENT_ROUNDS, self.n_rounds - done)):
                self.exchange.step(interval)
                done += 1
                if done > self.burn_in_rounds and (done - self.burn_in_rounds) % self.settings.thin == 0:
                    frames.append(self._frame())
                advance(interval)
            if frames:
                content = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
                with atomic_path(self._segment(self.n_segments)) as path, path.open("wb") as file:
                    np.savez(file, **content)
            self.n_segments += 1
            self._checkpoint()
            if on_segment is not None:
                on_segment(self.n_segments)

    def _frame(self) -> dict[str, np.ndarray]:
        dynamics = self.exchange.dynamics
        angles = dihedrals(dynamics.positions.double(), np.array(list(self.system.torsions.values()))).numpy()
        bias = dynamics.potential.bias(dynamics.potential.torsion_angles(dynamics.positions))
        return {
            **{name: angles[:, k].astype(np.float32) for k, name in enumerate(self.system.torsions)},
            "potential_energy": (dynamics.energy.double() - bias).numpy().astype(np.float32),
            "window": self.exchange.windows.astype(np.int16),
        }

    def _segment(self, number: int) -> Path:
        return self.work / f"segment_{number:06d}.npz"

    def _evaluations(self) -> int:
        return self.n_evaluations + self.potential.n_evaluations

    def _checkpoint(self) -> None:
        with atomic_path(self.work / "checkpoint.npz") as path, path.open("wb") as file:
            np.savez(
                file, n_evaluations=self._evaluations(), n_segments=self.n_segments, **self.exchange.state()
            )

    def finish(self) -> Path:
        """Join the segments to one file, and write how it was made."""
        settings, dynamics = self.settings, self.exchange.dynamics
        if restarts := dynamics.n_restarts:
            warnings.warn(
                f"Walkers came to a non-finite energy {restarts} times and were put back to their last good "
                "frame, which biases the data; use a shorter time step.",
                ReliabilityWarning,
                stacklevel=3,
            )
        segments = []
        for number in range(self.n_segments):
            if self._segment(number).exists():  # those of the burn-in have no frames
                with np.load(self._segment(number)) as segment:
                    segments.append(dict(segment))
        content = {name: np.concatenate([segment[name] for segment in segments]) for name in segments[0]}
        record = provenance(
            seed=settings.seed,
            name=self.system.name,
            temperature=settings.temperature,
            n_walkers=settings.n_walkers,
            n_frames=settings.n_frames * settings.n_walkers,
            n_energy_evaluations=self._evaluations(),
            n_restarts=restarts,
            energies_from=self.potential.description,
            exchange_acceptance=(self.exchange.n_accepted / np.maximum(self.exchange.n_proposed, 1)).tolist(),
            **self.identity,
        )
        with atomic_path(self.output / FRAMES) as path:
            with path.open("wb") as file:
                np.savez(file, **content)
            # Last before the frames appear: frames that are there have their record.
            atomic_write_json(self.output / "provenance.json", record)
        shutil.rmtree(self.work)
        return self.output / FRAMES


@contextmanager
def _bar(show: bool, settings: UmbrellaSettings) -> Iterator[Callable[[int], None]]:
    """Show a progress bar over the steps, or nothing; give a function that advances it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    label = f"{settings.n_ladders} ladders of {settings.n_windows} windows in {settings.torsion}"
    rounds = -(-settings.burn_in // settings.interval) + settings.n_frames * settings.thin
    with Progress(*columns, TimeRemainingColumn(), disable=not show) as progress:
        task = progress.add_task(label, total=settings.pull + rounds * settings.interval)
        yield lambda steps: progress.advance(task, steps)
