"""Figure 2 of seed 001: flows trained at T = 1 on mixtures of double wells, judged from T = 0.1 to 10."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json, atomic_write_text, provenance
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.reproduction import mixture_results as results
from openmm_bg.reproduction.arrays import csv_text
from openmm_bg.reproduction.mixture_equilibrium import Equilibrium, convergence, ladder, sample_equilibrium
from openmm_bg.reproduction.mixture_flows import FIXED, judge, n_parameters, train_flow
from openmm_bg.reproduction.mixture_settings import KINDS, WIDTHS, MixtureSettings
from openmm_bg.stages import Stages
from openmm_bg.systems.double_well_mixture import DoubleWellMixture, double_well_mixture


def run_mixture(
    output: str | Path,
    settings: MixtureSettings | None = None,
    *,
    quick: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Remake figure 2 with its numbers, or go on where an earlier call was stopped.

    The directory gets ``d5`` and ``d20`` with samples, models and their figures, and after each round of trainings
    ``figure_2.png`` and ``.svg``, ``marginals.csv`` with the densities of panel A, ``mixture.csv`` with the curves
    of panels B and C, ``differences.csv`` with those between flows, and ``mixture.json`` with all other numbers.
    Samples that are already there (``equilibrium.npz``) are used, also if nothing else is.

    Args:
        output: The directory.
        settings: The settings.
        quick: Take those of `MixtureSettings.quick` if none are given.
        progress: Show progress bars.
        say: Called with a line before each stage.

    Returns:
        What ``mixture.json`` holds; its ``rows`` are the acceptance figures.

    Raises:
        InputError: If the directory holds the results of other settings.
    """
    settings = settings or (MixtureSettings.quick() if quick else MixtureSettings())
    experiment = _Experiment(Path(output), settings, progress, say)
    for n_seeds in range(1, len(settings.seeds) + 1):
        for dimension in settings.equilibrium:
            for kind in KINDS:
                experiment.train_and_judge(dimension, kind, settings.seeds[n_seeds - 1])
        found = experiment.conclude()
    return found


def rows(output: str | Path) -> list[dict[str, Any]]:
    """Return the acceptance figures that `run_mixture` left in a directory.

    Raises:
        InputError: If it left none.
    """
    path = Path(output) / "mixture.json"
    if not path.is_file():
        raise InputError(f"{path} is missing; {results.COMMAND} writes it.")
    return json.loads(path.read_text())["rows"]


class _Experiment:
    """The experiment and its output directory."""

    def __init__(
        self, output: Path, settings: MixtureSettings, progress: bool, say: Callable[[str], None]
    ) -> None:
        # Without a record only samples may be there.
        leftovers = [
            one for one in output.glob("d*/*") if not one.name.lstrip(".").startswith("equilibrium.")
        ]
        if leftovers and not Stages.path_in(output).exists():
            raise InputError(Stages.refusal(output))
        self.output, self.settings, self.progress, self.say = output, settings, progress, say
        self.toys: dict[int, DoubleWellMixture] = {d: double_well_mixture(d) for d in settings.equilibrium}
        self.equilibrium = {d: self._loaded(d) for d in self.toys if self._samples(d).exists()}
        Stages(output, dataclasses.asdict(settings) | {"widths": WIDTHS})
        self.judged: dict[tuple[int, str], list[dict[str, np.ndarray]]] = {}
        self.n_parameters: dict[str, int] = {}
        self.training_seconds: dict[str, float] = {}
        for dimension in self.toys:
            if dimension not in self.equilibrium:
                self._sample(dimension)

    def _sample(self, dimension: int) -> None:
        self.say(f"{dimension} dimensions: parallel tempering")
        path, start = self._samples(dimension), time.perf_counter()
        sample_equilibrium(self.toys[dimension], self.settings.equilibrium[dimension]).save(path)
        atomic_write_json(path.with_suffix(".json"), {"seconds": time.perf_counter() - start})
        self.equilibrium[dimension] = self._loaded(dimension)

    def _loaded(self, dimension: int) -> Equilibrium:
        """Read samples, and refuse those that cannot be of these settings."""
        found, own = Equilibrium.load(self._samples(dimension)), self.settings.equilibrium[dimension]
        expected = (own.n_frames, len(ladder()), own.n_walkers, dimension)
        if found.samples.shape != expected or len(found.training) != own.n_training:
            raise InputError(Stages.refusal(self.output))
        return found

    def train_and_judge(self, dimension: int, kind: str, seed: int) -> None:
        """Train a flow and judge it, or read what is there."""
        self.say(f"{dimension} dimensions, seed {seed}: {kind}")
        toy, equilibrium = self.toys[dimension], self.equilibrium[dimension]
        own = self.settings.of(kind, dimension, seed)
        directory = self._model(dimension, kind, seed)
        model = train_flow(toy, equilibrium, directory, own, progress=self.progress)
        path = directory.with_suffix(".npz")
        found = judge(toy, model.flow, equilibrium, path, n_momenta=self.settings.n_momenta, seed=seed)
        self.judged.setdefault((dimension, kind), []).append(found)
        self.n_parameters[f"d={dimension}, {kind}"] = n_parameters(model.flow)
        self.training_seconds[directory.relative_to(self.output).as_posix()] = round(
            model.record["training"]["seconds"], 1
        )

    def conclude(self) -> dict[str, Any]:
        """Compare the flows that are there, draw and write."""
        settings = self.settings
        found: dict[str, Any] = {"rows": []}
        table, differences, panels = [], [], []
        for dimension, toy in self.toys.items():
            curves = self._curves(dimension)
            panels.append((toy, curves))
            table += results.curve_table(dimension, toy, curves)
            differences += results.difference_table(dimension, curves)
            converged = convergence(toy, self.equilibrium[dimension])
            seed = settings.equilibrium[dimension].seed
            n_seeds = len(self.judged[dimension, KINDS[0]])
            found["rows"] += results.convergence_rows(dimension, converged, seed)
            found["rows"] += results.claim_rows(dimension, curves, list(settings.seeds[:n_seeds]))
            timed = self._samples(dimension).with_suffix(".json")
            seconds = json.loads(timed.read_text())["seconds"] if timed.exists() else None
            found[f"parallel_tempering_{dimension}"] = converged | {"seconds": seconds}
        marginals = self._marginals()
        self._draw(marginals, panels, n_seeds)
        for name, lines in (
            ("marginals", results.marginal_table(marginals)),
            ("mixture", table),
            ("differences", differences),
        ):
            atomic_write_text(self.output / f"{name}.csv", csv_text(lines))
        found |= {
            "n_seeds": n_seeds,
            "tighter_bounds": results.bound_table(self.judged),
            "n_parameters": self.n_parameters,
            "widths": WIDTHS,
            "training_seconds": self.training_seconds,
            "panel_a": {name: marginals[name] for name in ("total_variation", "ess", "pareto_k", "n")},
            "record": provenance(settings=dataclasses.asdict(settings), command=results.COMMAND),
        }
        atomic_write_json(self.output / "mixture.json", found)
        return json.loads((self.output / "mixture.json").read_text())

    def _curves(self, dimension: int) -> results.Curves:
        curves = {kind: np.stack([one["scaled"] for one in self.judged[dimension, kind]]) for kind in KINDS}
        fixed = np.stack([one["fixed"] for one in self.judged[dimension, "realnvp"]])
        return {"tsf-affine": curves["tsf-affine"], "realnvp": curves["realnvp"], FIXED: fixed} | curves

    def _marginals(self) -> dict[str, Any]:
        """Sample the first TSF of the largest system, at the training temperature."""
        dimension = max(self.toys)
        model = BoltzmannGenerator.load(self._model(dimension, KINDS[0], self.settings.seeds[0]))
        samples = model.sample(self.settings.n_samples, seed=0)
        tempered = self.equilibrium[dimension].training
        return results.marginals(self.toys[dimension], samples, tempered, n_exact=self.settings.n_exact)

    def _draw(self, marginals: dict[str, Any], panels: list[Any], n_seeds: int) -> None:
        from openmm_bg.plotting import save_figure
        from openmm_bg.reproduction.mixture_figures import plot_figure_2

        save_figure(plot_figure_2(marginals, panels, n_seeds), self.output / "figure_2.png")

    def _folder(self, dimension: int) -> Path:
        return self.output / f"d{dimension}"

    def _samples(self, dimension: int) -> Path:
        return self._folder(dimension) / "equilibrium.npz"

    def _model(self, dimension: int, kind: str, seed: int) -> Path:
        return self._folder(dimension) / f"{kind}_{seed}"
