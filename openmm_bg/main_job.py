"""The main job: train a flow on 600 K dynamics, sample at 300 K, and check against a reference."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.analysis import Ramachandran, torsion_angles, total_variation, total_variation_floor
from openmm_bg.comparison import Ensemble, compare
from openmm_bg.files import atomic_write_json, provenance
from openmm_bg.models import GENERATOR, shipped_models
from openmm_bg.reference import load_reference
from openmm_bg.report import write_report
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.stages import Stages
from openmm_bg.training import TrainingSettings, load_data, train

if TYPE_CHECKING:
    from openmm_bg.exchange import ExchangeRecord
    from openmm_bg.samples import Samples


@dataclass(frozen=True)
class MainJobSettings:
    """Settings of the main job.

    Args:
        system: Name of the system; the package must have its reference at `target_temperature`.
        simulation: Settings of the simulation, whose temperature is that of training.
        training: Settings of the training.
        target_temperature: The temperature to sample [K].
        n_samples: Samples drawn at the training temperature, as many at the target temperature, and as many
            there of the package's own model of the system, if it has one.
        n_replicas: Temperatures of the replica exchange, from the target to the training temperature.
        n_iterations: Iterations of the replica exchange.
        n_proposals: Flow proposals in each iteration.
        seed: Seed of the samples and the replica exchange.
    """

    system: str = "alanine_dipeptide"
    simulation: SimulationSettings = field(
        default_factory=lambda: SimulationSettings(temperature=600.0, n_frames=204_800, hot_start=1200.0)
    )
    training: TrainingSettings = field(default_factory=TrainingSettings)
    target_temperature: float = 300.0
    n_samples: int = 200_000
    n_replicas: int = 4
    n_iterations: int = 600
    n_proposals: int = 16
    seed: int = 0


def run_main_job(
    output: str | Path,
    settings: MainJobSettings | None = None,
    *,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Simulate, train, sample, exchange and compare; or continue where an earlier call was stopped.

    The output directory gets ``data/``, ``model/``, samples at both temperatures, ``exchange.nc``,
    ``ramachandran.png`` and ``.svg``, ``torsions.csv``, ``summary.json``, and ``report.html`` with all of it.

    Args:
        output: The directory.
        settings: The settings.
        progress: Show progress bars.
        say: Called with a line before each stage.

    Returns:
        What ``summary.json`` holds.

    Raises:
        InputError: If the directory holds the results of other settings.
    """
    settings = settings or MainJobSettings()
    job = _MainJob(Path(output), settings, progress, say)
    data = job.simulate()
    job.train(data)
    hot, cold = job.sample()
    shipped = job.sample_shipped()
    chain = job.exchange()
    return job.conclude(hot, cold, shipped, chain)


class _MainJob:
    def __init__(
        self, output: Path, settings: MainJobSettings, progress: bool, say: Callable[[str], None]
    ) -> None:
        from openmm_bg.systems import load

        self.output, self.settings, self.progress = output, settings, progress
        self.system = load(settings.system)
        self.reference = load_reference(settings.system, settings.target_temperature)
        self.stages = Stages(output, dataclasses.asdict(settings), say)

    def simulate(self) -> Path:
        """Run the simulation."""
        directory, settings = self.output / "data", self.settings.simulation
        if not (directory / "trajectory.h5").exists():
            with self.stages.stage("simulate", f"1/4  Molecular dynamics at {settings.temperature:g} K"):
                simulate(self.system, directory, settings, progress=self.progress)
        return directory

    def train(self, data: Path) -> None:
        """Train the flow."""
        directory = self.output / "model"
        if not (directory / "model.json").exists():
            with self.stages.stage("train", "2/4  Training by example and by energy"):
                train(load_data(data), directory, self.settings.training, progress=self.progress)

    def sample(self) -> tuple[Samples, Samples]:
        """Sample at the training and at the target temperature."""
        from openmm_bg.generator import BoltzmannGenerator
        from openmm_bg.io import load_samples, save_samples

        found = []
        settings = self.settings
        for temperature in (settings.simulation.temperature, settings.target_temperature):
            path = self.output / f"samples_{temperature:g}K.h5"
            if not self._is_of_model(path, self.output / "model"):
                label = f"3/4  {settings.n_samples} samples at {temperature:g} K"
                with self.stages.stage(f"sample_{temperature:g}K", label):
                    generator = BoltzmannGenerator.load(self.output / "model")
                    samples = generator.sample(
                        settings.n_samples, temperature, seed=settings.seed, progress=self.progress
                    )
                    save_samples(samples, path)
            found.append(load_samples(path, self.system))
        return found[0], found[1]

    def sample_shipped(self) -> Samples | None:
        """Sample the package's own model of the system at the target temperature, if there is one."""
        from openmm_bg.generator import BoltzmannGenerator
        from openmm_bg.io import load_samples, save_samples

        settings, temperature = self.settings, self.settings.target_temperature
        model = shipped_models(GENERATOR).get(settings.system)
        if model is None:
            return None
        path = self.output / f"samples_shipped_model_{temperature:g}K.h5"
        if not self._is_of_model(path, model):
            label = f"3/4  {settings.n_samples} samples at {temperature:g} K of the model in the package"
            with self.stages.stage("sample_shipped", label):
                generator = BoltzmannGenerator.load(model)
                samples = generator.sample(
                    settings.n_samples, temperature, seed=settings.seed, progress=self.progress
                )
                save_samples(samples, path)
        return load_samples(path, self.system)

    def _is_of_model(self, path: Path, model: Path) -> bool:
        """Tell whether samples are there, and of the model that is there now."""
        from openmm_bg.model_files import model_hash

        summary = path.with_suffix(".json")
        if not summary.exists():
            return False
        return json.loads(summary.read_text())["record"]["model_hash"] == model_hash(model)

    def exchange(self) -> ExchangeRecord:
        """Run the replica exchange with flow moves in openmmtools."""
        from openmm_bg.exchange import run_parallel_tempering

        settings = self.settings
        low, high = settings.target_temperature, settings.simulation.temperature
        with self.stages.stage(
            "exchange", f"4/4  Replica exchange from {low:g} to {high:g} K in openmmtools, with the flow move"
        ):
            return run_parallel_tempering(
                self.output / "model",
                self.output / "exchange.nc",
                temperature_min=low,
                temperature_max=high,
                n_replicas=settings.n_replicas,
                n_iterations=settings.n_iterations,
                n_proposals=settings.n_proposals,
                dynamics="fused",  # the demo has a single molecule, for which this is several times faster
                seed=settings.seed,
                progress=self.progress,
            )

    def conclude(
        self, hot: Samples, cold: Samples, shipped: Samples | None, chain: ExchangeRecord
    ) -> dict[str, Any]:
        """Compare, draw, write the summary and the report."""
        settings, temperature = self.settings, self.settings.target_temperature
        self.stages.wall_seconds.pop("compare", None)  # of an earlier call
        with self.stages.timed("compare"):
            sampled = self._ensemble("flow, reweighted", cold.positions, cold.energies, cold.log_weights)
            walked = self._ensemble(
                "replica exchange with flow", chain.positions[:, 0], chain.potential_energy[:, 0]
            )
            reference = Ensemble(self.reference.ramachandran, self.reference.potential_energy, temperature)
            compared = {"samples": sampled, "chain": walked}
            if shipped is not None:
                compared["shipped"] = self._ensemble(
                    "the package's model", shipped.positions, shipped.energies, shipped.log_weights
                )
            table = compare(reference, compared)
            self._draw([*compared.values(), reference])
        model = json.loads((self.output / "model" / "model.json").read_text())["record"]
        data = json.loads((self.output / "data" / "provenance.json").read_text())
        evaluations = {
            "simulation": data["n_energy_evaluations"],
            "training": model["training"]["n_energy_evaluations"],
            "sampling": len(hot) + len(cold) + len(shipped or ()),
            "exchange": chain.energy_evaluations,
        }
        t_hot, t_cold = f"{settings.simulation.temperature:g}K", f"{temperature:g}K"
        phi = table["P(phi > 0)"]
        labels = (*compared, "reference")
        summary = {
            f"ess_{t_hot}": hot.ess(),
            f"ess_{t_cold}": cold.ess(),
            f"ess_{t_hot}_clipped": hot.ess(clip=1e-4),
            f"ess_{t_cold}_clipped": cold.ess(clip=1e-4),
            f"pareto_k_{t_hot}": hot.pareto_k(),
            f"pareto_k_{t_cold}": cold.pareto_k(),
            **({} if shipped is None else {f"ess_{t_cold}_shipped": shipped.ess()}),
            "n_samples": len(cold),
            "n_energy_evaluations": sum(evaluations.values()),
            "n_energy_evaluations_by_stage": evaluations,
            "energies_from": {
                "simulation": data["energies_from"],
                "training": model["training"]["energies_from"],
                "sampling": hot.record["energies_from"],
            },
            "training_frames": data["n_frames"],
            f"p_phi_positive_{t_cold}": {label: phi[label]["value"] for label in labels},
            f"p_phi_positive_{t_cold}_stderr": {label: phi[label]["stderr"] for label in labels},
            f"figures_{t_cold}": table,
            f"ramachandran_total_variation_{t_cold}": {
                label: {
                    "value": total_variation(ensemble.ramachandran, reference.ramachandran),
                    "noise_floor": total_variation_floor(ensemble.ramachandran, reference.ramachandran),
                }
                for label, ensemble in compared.items()
            },
            f"acceptance_{t_cold}": float(chain.flow_acceptance[0]),
            "acceptance_exchange": chain.exchange_acceptance,
            "round_trips": chain.round_trips,
            "wall_seconds": self.stages.wall_seconds,
            "wall_seconds_total": round(sum(self.stages.wall_seconds.values()), 1),
            "all_agree": all(table[name][label]["agrees"] for name in table for label in compared),
            "record": provenance(seed=settings.seed, settings=self.stages.settings),
        }
        atomic_write_json(self.output / "summary.json", summary)
        write_report([self.output], self.output / "report.html")
        return json.loads((self.output / "summary.json").read_text())

    def _ensemble(
        self, label: str, positions: np.ndarray, energies: np.ndarray, log_weights: np.ndarray | None = None
    ) -> Ensemble:
        temperature = self.settings.target_temperature
        angles = torsion_angles(positions, self.system.torsions)
        return Ensemble(
            Ramachandran(f"{label}, {temperature:g} K", angles["phi"], angles["psi"], log_weights),
            energies,
            temperature,
        )

    def _draw(self, ensembles: list[Ensemble]) -> None:
        from openmm_bg.plotting import plot_ramachandran, plot_torsions, save_figure, write_torsions_csv

        panels = [ensemble.ramachandran for ensemble in ensembles]
        save_figure(plot_ramachandran(panels), self.output / "ramachandran.png")
        save_figure(plot_torsions(panels), self.output / "torsions.png")
        write_torsions_csv(panels, self.output / "torsions.csv")
