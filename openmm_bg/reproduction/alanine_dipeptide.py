"""Figure 3 of seed 001: alanine dipeptide, four flows trained at 600 K and judged from 600 to 300 K."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.analysis import torsion_angles
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_bytes
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.mcmc import registry
from openmm_bg.reproduction.arrays import arrays_bytes
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.systems import load
from openmm_bg.training import TrainingSettings, load_data, train
from openmm_bg.units import thermal_energy

HOT, COLD = 600.0, 300.0
"""The temperatures [K] of training and of interest."""

# Of about as many parameters each: 1.07, 1.07, 1.04 and 1.07 million.
FLOWS: dict[str, dict[str, Any]] = {
    "spline": {"flow": "spline"},
    "tsf": {"flow": "tsf"},
    "tsf-affine": {"flow": "tsf-affine", "hidden_features": 152},
    "realnvp": {"flow": "realnvp", "hidden_features": 168},
}
"""What distinguishes the flows' training settings; everything else is the same."""

LABELS = {
    "spline": "spline flow",
    "tsf": "TSF, spline layers",
    "tsf-affine": "TSF, affine layers",
    "realnvp": "RealNVP",
}
"""How plots and tables name the flows."""


@dataclass(frozen=True)
class AlanineSettings:
    """Settings of the experiment.

    Args:
        n_frames: Frames of dynamics at 600 K for the training, and as many for the ground truth.
        training: Settings of the training; those in `FLOWS` come on top.
        n_samples: Samples of each flow at 600 and at 300 K.
        n_curve: Samples at each temperature between.
        temperatures: The temperatures between [K].
        n_latent: Iterations of the parallel tempering of five rungs with the latent Monte Carlo move.
        n_flow: Iterations of that of two rungs with the flow move.
        seed: Seed of the dynamics, the training and the samples.
    """

    n_frames: int = 204_800
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(n_steps=6500, cold_fraction=1.0)
    )
    n_samples: int = 1_000_000
    n_curve: int = 100_000
    temperatures: tuple[float, ...] = (350.0, 400.0, 450.0, 500.0, 550.0)
    n_latent: int = 7500
    n_flow: int = 8000
    seed: int = 0

    @staticmethod
    def quick(seed: int = 0) -> AlanineSettings:
        """Return settings that show in minutes how it works; their figures prove nothing."""
        return AlanineSettings(
            n_frames=20_480,
            training=TrainingSettings(n_steps=150, validation_interval=75, validation_samples=500),
            n_samples=20_000,
            n_curve=5_000,
            temperatures=(450.0,),
            n_latent=350,  # of which 250 tune the step size
            n_flow=100,
            seed=seed,
        )

    def of(self, flow: str) -> TrainingSettings:
        """Return the settings of a flow's training."""
        return dataclasses.replace(self.training, seed=self.seed, **FLOWS[flow])


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of a flow at a temperature, reduced to what is judged.

    Attributes:
        temperature: Temperature [K].
        log_q: As of `Samples`, with shape=(n,).
        energy: Potential energies [kJ/mol] with shape=(n,); +inf outside the domain.
        phi: Angles [rad] with shape=(n,); NaN outside the domain.
        psi: Angles [rad] with shape=(n,).
    """

    temperature: float
    log_q: np.ndarray
    energy: np.ndarray
    phi: np.ndarray
    psi: np.ndarray

    def log_weights(self, temperature: float | None = None) -> np.ndarray:
        """Return log-weights with shape=(n,) for the draws' temperature, or for another: plain reweighting."""
        kt = thermal_energy(self.temperature if temperature is None else temperature)
        usable = np.isfinite(self.energy) & np.isfinite(self.log_q)
        weights = np.full(len(self.energy), -np.inf)
        weights[usable] = -self.energy[usable] / kt - self.log_q[usable]
        return weights


def run_simulations(output: Path, settings: AlanineSettings, *, progress: bool = False) -> None:
    """Run the dynamics at 600 K, for the training (``data``) and as the ground truth (``truth``)."""
    for name, seed in (("data", settings.seed), ("truth", settings.seed + 1000)):
        if (output / name / "trajectory.h5").exists():
            continue
        own = SimulationSettings(temperature=HOT, n_frames=settings.n_frames, hot_start=1200.0, seed=seed)
        simulate(load("alanine_dipeptide"), output / name, own, progress=progress)


def run_training(output: Path, flow: str, settings: AlanineSettings, *, progress: bool = False) -> None:
    """Train a flow, or go on with it; a finished model is left as it is.

    Raises:
        InputError: If there is a model of other settings.
    """
    path = model_path(output, flow)
    if not (path / "model.json").exists():
        train(load_data(output / "data"), path, settings.of(flow), progress=progress)
    trained = training_record(output, flow)["settings"]
    if {**dataclasses.asdict(settings.of(flow)), **trained} != dataclasses.asdict(settings.of(flow)):
        raise InputError(f"{path} was trained with other settings; choose another directory or remove it.")


def training_record(output: Path, flow: str) -> dict[str, Any]:
    """Return the record of a trained flow: command, date, versions, settings and cost."""
    record = json.loads((model_path(output, flow) / "model.json").read_text())["record"]
    training = {name: value for name, value in record["training"].items() if name != "log"}
    return {**record, "training": training}


def model_path(output: Path, flow: str) -> Path:
    """Return the directory of a flow's model."""
    return output / "models" / flow


def draw(output: Path, flow: str, temperature: float, n: int, seed: int, *, progress: bool = False) -> Draws:
    """Draw from a trained flow, or read what was drawn before.

    Args:
        output: The directory of the experiment.
        flow: The flow's name.
        temperature: Temperature [K]: the base is scaled to it.
        n: How many.
        seed: Seed; each chunk of 50,000 draws has its own, derived from this one.
        progress: Show a progress bar.
    """
    path = output / "draws" / f"{flow}_{temperature:g}K.npz"
    model_hash = registry.current_hash(str(model_path(output, flow)))
    if not _is_of_model(path, model_hash):
        generator = BoltzmannGenerator.load(model_path(output, flow))
        parts = [
            _draw_chunk(generator, temperature, size, chunk_seed)
            for size, chunk_seed in _chunks(n, seed, f"{flow}, {temperature:g} K", progress)
        ]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, arrays_bytes({**columns, "model_hash": np.array(model_hash)}))
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in ("log_q", "energy", "phi", "psi")}
    return Draws(temperature, **{name: column.astype(np.float64) for name, column in columns.items()})


def _is_of_model(path: Path, model_hash: str) -> bool:
    """Tell whether there are draws, and of this very model."""
    if not path.exists():
        return False
    with np.load(path) as arrays:
        return str(arrays["model_hash"]) == model_hash


def draw_all(
    output: Path, flow: str, settings: AlanineSettings, *, progress: bool = False
) -> dict[float, Draws]:
    """Draw at all temperatures, which are the keys of the result."""
    sizes = {HOT: settings.n_samples, COLD: settings.n_samples}
    sizes |= dict.fromkeys(settings.temperatures, settings.n_curve)
    return {
        temperature: draw(output, flow, temperature, n, settings.seed + 1, progress=progress)
        for temperature, n in sorted(sizes.items())
    }


def _draw_chunk(
    generator: BoltzmannGenerator, temperature: float, n: int, seed: int
) -> dict[str, np.ndarray]:
    samples = generator.sample(n, temperature, seed=seed)
    assert samples.system is not None
    angles = torsion_angles(samples.positions, samples.system.torsions)
    return {
        "log_q": samples.log_q,
        "energy": samples.energies,
        "phi": angles["phi"].astype(np.float32),
        "psi": angles["psi"].astype(np.float32),
    }


def _chunks(n: int, seed: int, label: str, progress: bool, size: int = 50_000) -> Iterator[tuple[int, int]]:
    from rich.progress import track

    sizes = [min(size, n - start) for start in range(0, n, size)]
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes))
    yield from track(
        list(zip(sizes, (int(s) for s in seeds), strict=True)),
        description=label,
        disable=not progress,
        transient=True,
    )
