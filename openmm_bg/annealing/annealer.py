"""Temperature annealing of a flow: resumable, logged, guarded against collapse."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from openmm_bg.annealing.batches import Batches
from openmm_bg.annealing.buffer import Labelled, labelled_frames
from openmm_bg.annealing.checks import check_annealing, checksum
from openmm_bg.annealing.coverage import Coverage
from openmm_bg.annealing.importance_sampling import AnnealedImportanceSampling
from openmm_bg.annealing.rungs import next_temperature
from openmm_bg.annealing.settings import AnnealingSettings
from openmm_bg.annealing.target import RoundFigures, Target
from openmm_bg.annealing.validation import judge
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.files import provenance
from openmm_bg.flows import PositionFlow
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.model_files import CHECKPOINT
from openmm_bg.training.checkpoint import Tensors, part, prefixed, resume_from, write_checkpoint
from openmm_bg.training.data import TrainingData
from openmm_bg.training.learner import Learner
from openmm_bg.training.potentials import training_potentials
from openmm_bg.training.progress import TrainingBar, write_log

LOG = "annealing.csv"
_COVERAGE_SAMPLES = 4000
_POOR_REGION = 0.1


def anneal(
    generator: BoltzmannGenerator,
    output: str | Path,
    settings: AnnealingSettings | None = None,
    *,
    data: TrainingData | None = None,
    progress: bool = False,
) -> BoltzmannGenerator:
    """Anneal a flow to a lower temperature, or continue an interrupted annealing.

    No configurations from below the training temperature are needed: the flow's own samples, with their energies,
    are the data. The output directory becomes the model; ``annealing.csv`` in it has a row for every validation. An
    interrupted run leaves a checkpoint there, from which the same call continues.

    Args:
        generator: The generator, trained at a higher temperature.
        output: The directory.
        settings: The settings.
        data: Molecular dynamics at the training temperature, whose energies are used again.
        progress: Show a progress bar with the latest figures.

    Returns:
        The annealed generator, saved in the directory.

    Raises:
        InputError: If generator or data are unsuitable, or the directory holds a finished model, or an
            interrupted annealing of another model or of other settings.
    """
    annealer = Annealer(generator, Path(output), settings or AnnealingSettings(), data)
    annealer.resume()
    annealer.run(progress)
    return annealer.finish()


class Annealer:
    """The state of an annealing run; `anneal` is the usual way to use it."""

    def __init__(
        self,
        generator: BoltzmannGenerator,
        output: Path,
        settings: AnnealingSettings,
        data: TrainingData | None = None,
    ) -> None:
        check_annealing(generator, output, settings, data)
        self.generator, self.output, self.settings = generator, output, settings
        self.identity = {
            "flow": checksum(generator.flow.state_dict()),
            "system_hash": generator.system_hash,
            "data_checksum": None if data is None else float(np.sum(data.energies, dtype=np.float64)),
            "settings": dataclasses.asdict(settings),
        }
        flow = generator.flow
        self.flow: PositionFlow = flow.with_condition() if settings.conditioned else copy.deepcopy(flow)
        self.flow.set_dtype(torch.float32)
        self.flow.train().requires_grad_(True)
        self._learner = Learner(self.flow, settings, last_rate=0.01, warm_up=100)
        self.average = self._learner.average
        self._random = torch.Generator().manual_seed(settings.seed)
        self._fast, self._exact = training_potentials(generator.system)
        self.target = Target(
            self._fast,
            flow.temperature,
            energy_margin=settings.energy_margin,
            weight_clip=settings.weight_clip,
            importance_sampling=AnnealedImportanceSampling(settings.ais_distributions)
            if settings.ais_distributions
            else None,
        )
        make_frames = None if data is None else lambda: self._labelled(data)
        self.batches, self.coverage = Batches(settings, flow.circular, make_frames), Coverage()
        self.lowest = flow.temperature
        self.step, self.seconds, self._n_evaluations_before = 0, 0.0, 0
        self._clock = time.perf_counter()  # when it would have begun, had it not been interrupted
        self.n_restored, self._rate_factor = 0, 1.0
        self.log: list[dict[str, float]] = []
        self.rungs: list[dict[str, float]] = []
        self._best_figures: dict[str, float] = {}
        self._recent: list[float] = []
        self._lowest_log_z: list[tuple[float, float]] = []  # and how much each is worth

    @property
    def _log_z(self) -> float:
        """The logarithm of the partition function at the lowest temperature, by the latest rounds."""
        log_z, weights = np.array(self._lowest_log_z).T
        return float(np.average(log_z, weights=weights))

    @property
    def n_energy_evaluations(self) -> int:
        """Energy evaluations so far, as the potentials have counted them."""
        return self._n_evaluations_before + self._fast.n_evaluations + self._exact.n_evaluations

    def run(self, progress: bool = False) -> None:
        """Anneal until the last step."""
        settings = self.settings
        with TrainingBar(progress, "annealing", settings.n_steps) as bar:
            while self.step < settings.n_steps:
                self._clock = time.perf_counter() - self.seconds
                self._lower()
                figures = self._new_round()
                if not self._best_figures:  # of this rung: what it begins with is the first that may be kept
                    self._validate(figures)
                before = self.step
                for _ in range(min(settings.steps_per_round, settings.n_steps - self.step)):
                    self._one_step()
                    self.step += 1
                    bar.show(self.step, self._latest())
                interval = settings.validation_interval
                last = self.step >= settings.n_steps
                if self.step // interval > before // interval or last:
                    self._validate(figures)
                self.seconds = time.perf_counter() - self._clock
                if self.step // interval > before // interval or last:
                    self.checkpoint()
            bar.show(self.step, self._latest())

    def _latest(self) -> str:
        if not self.log:
            return f"{self.lowest:g} K"
        return f"{self.log[-1]['lowest']:g} K, ESS {self.log[-1]['ess']:.1%}"

    def _lower(self) -> None:
        """Take in a lower temperature, if the flow bears one."""
        settings = self.settings
        if self.lowest <= settings.temperature:
            return
        found = next_temperature(
            self.average, self.target, self.lowest, settings.temperature, settings.rung_ess, self._random
        )
        if found < self.lowest:
            self.lowest = found
            self.rungs.append({"temperature": found, "step": self.step})
            self._lowest_log_z = []
            self._best_figures = {}

    def _new_round(self) -> list[RoundFigures]:
        settings, top = self.settings, self.flow.temperature
        if settings.conditioned and self.lowest < top:
            n = settings.n_temperatures - 1
            lowest_size = math.ceil(settings.lowest_share * settings.round_size)
            # One random temperature in each of n equal intervals of log T.
            places = (torch.arange(n) + torch.rand(n, generator=self._random)) / n
            others = (self.lowest * (top / self.lowest) ** places.double()).tolist()
            sizes = [lowest_size, *[(settings.round_size - lowest_size) // n] * n]
            temperatures = [self.lowest, *others]
        else:
            temperatures, sizes = [self.lowest], [settings.round_size]
        samples, figures = self.target.draw(self.flow, temperatures, sizes, self._random, moved=True)
        if not len(samples):
            raise InputError(
                "No sample of the flow has a finite energy; the annealing came to no usable model."
            )
        self.batches.add(samples)
        worth = max(figures[0].ess, 1e-6)
        self._lowest_log_z = [*self._lowest_log_z, (figures[0].log_z, worth)][-settings.buffer_rounds :]
        wanted = {"highest": top} if "highest" not in self.coverage.sets else {}
        if not self._best_figures:
            wanted["lowest"] = self.lowest
        for name, temperature in wanted.items():  # apart, since importance sampling moves those of a round
            drawn, _ = self.target.draw(self.average, [temperature], [settings.round_size], self._random)
            self.coverage.keep(name, drawn, _COVERAGE_SAMPLES, self._random)
        return figures

    def _one_step(self) -> None:
        batch = self.batches.draw(self.lowest / self.flow.temperature, self._log_z, self._random)
        log_q = self.flow.state_log_prob(batch.features, batch.ratio)
        deviation = log_q - batch.log_target
        loss = functional.huber_loss(deviation, torch.zeros_like(deviation), delta=self.settings.huber)
        self._learner.update(loss, self.step, self._rate_factor)
        self._recent.append(float(loss.detach()))

    def _labelled(self, data: TrainingData) -> Labelled:
        """Return the frames of molecular dynamics, whose partition function is that of the flow's samples."""
        flow, size = self.generator.flow, 4 * self.settings.round_size
        _, (figures,) = self.target.draw(flow, [flow.temperature], [size], self._random)
        return labelled_frames(data, flow.coordinates, figures.log_z)

    def _validate(self, rounds: list[RoundFigures]) -> None:
        """Judge the averaged flow, add a row to the log, keep it if it is the best, and guard against collapse."""
        settings, top = self.settings, self.flow.temperature
        middle = math.sqrt(self.lowest * top)
        temperatures = [self.lowest, middle, top] if settings.conditioned else [self.lowest]
        judged = [
            judge(self.average, self._exact, temperature, settings.validation_samples, settings.seed + 1)
            for temperature in temperatures
        ]
        covered = self.coverage.covered(
            self.average, ("highest", "lowest") if settings.conditioned else ("lowest",)
        )
        cooled = self.coverage.sets["highest"].at(self.lowest / top, self._log_z)
        row = {
            "step": self.step,
            "seconds": round(time.perf_counter() - self._clock, 1),
            "energy_evaluations": self.n_energy_evaluations,
            "lowest": self.lowest,
            "loss": float(np.mean(self._recent)) if self._recent else math.nan,
            "ess": judged[0]["ess"],
            "clipped_ess": judged[0]["clipped_ess"],
            "pareto_k": judged[0]["pareto_k"],
            "ess_middle": judged[len(judged) // 2]["ess"],
            "ess_highest": judged[-1]["ess"],
            "covered": covered,
            "poorest_region": self.coverage.poorest_region(self.average, cooled),
            "clipped_weight": max(figures.clipped_mass for figures in rounds),
            "skipped_steps": self._learner.n_skipped,
            "restored": self.n_restored,
        }
        self._recent = []
        self.log.append(row)
        score = float(np.mean([math.log(max(one["clipped_ess"], 1e-6)) for one in judged]))
        best = dict(self._best_figures)
        if best and (
            row["clipped_ess"] < settings.collapse_ess * best["clipped_ess"]
            or covered < settings.covered * best["covered"]
        ):
            self._put_back()
            return
        self._best_figures["covered"] = max(covered, best.get("covered", 0.0))
        if not best or score > best.get("score", -math.inf):
            self._learner.keep()
            self._best_figures |= {"score": score, "clipped_ess": row["clipped_ess"], "step": self.step}

    def _put_back(self) -> None:
        """Put the best flow back, forget what the worse one has told, and go on with smaller steps."""
        self._learner.put_back()
        self.batches.clear()
        self._lowest_log_z = []
        self._rate_factor *= 0.5
        self.n_restored += 1

    def checkpoint(self) -> None:
        """Write the run's state, so that `resume` continues from here."""
        tensors = self._learner.state() | self.batches.state()
        for name, samples in self.coverage.sets.items():
            tensors |= prefixed(f"coverage.{name}.", samples.tensors())
        tensors["generator"] = self._random.get_state()
        names = ("identity", "step", "seconds", "n_energy_evaluations", "lowest", "n_restored")
        header: dict[str, Any] = {name: getattr(self, name) for name in (*names, "log", "rungs")}
        header["n_skipped"] = self._learner.n_skipped
        if self.target.importance_sampling is not None:
            header["ais_step_size"] = self.target.importance_sampling.step_size
        header |= {"rate_factor": self._rate_factor, "best_figures": self._best_figures}
        header["lowest_log_z"] = self._lowest_log_z
        write_checkpoint(self.output / CHECKPOINT, tensors, header)
        write_log(self.output / LOG, self.log)

    def resume(self) -> None:
        """Continue from a checkpoint, if the output directory has one.

        Raises:
            InputError: If it is of another annealing.
            ModelFileError: If it cannot be read.
        """
        resume_from(self.output, self.identity, "annealing", self._continue)

    def _continue(self, header: dict[str, Any], tensors: Tensors) -> None:
        self._learner.restore(tensors)
        self.batches.restore(tensors)
        for name in ("highest", "lowest"):
            if kept := part(tensors, f"coverage.{name}."):
                self.coverage.sets[name] = Labelled(**kept)
        self._random.set_state(tensors["generator"])
        self._learner.n_skipped = header["n_skipped"]
        for name in ("step", "seconds", "lowest", "n_restored", "log", "rungs"):
            setattr(self, name, header[name])
        if self.target.importance_sampling is not None:
            self.target.importance_sampling.step_size = header["ais_step_size"]
        self._n_evaluations_before = header["n_energy_evaluations"]
        self._rate_factor, self._best_figures = header["rate_factor"], header["best_figures"]
        self._lowest_log_z = header["lowest_log_z"]

    def finish(self) -> BoltzmannGenerator:
        """Save the best flow and remove the checkpoint.

        Raises:
            InputError: If no lower temperature was reached, or the flow is of no use.
        """
        settings, before = self.settings, self.generator
        hint = "take more steps, a smaller learning rate, a lower rung_ess, or a better model to begin with."
        if not self.rungs:
            raise InputError(
                f"The annealing reached no temperature below {self.lowest:g} K at an effective sample size of "
                f"{settings.rung_ess:g}: {hint}"
            )
        if not self._best_figures["clipped_ess"] > 0:
            raise InputError(f"The annealing came to no usable model: {hint}")
        if self.lowest > settings.temperature:
            warnings.warn(
                f"The annealing came down to {self.lowest:g} K only, and the model is meant for temperatures from "
                "there; anneal it again to go on.",
                ReliabilityWarning,
                stacklevel=3,
            )
        record = provenance(
            seed=settings.seed,
            settings=dataclasses.asdict(settings),
            seconds=self.seconds,
            n_energy_evaluations=self.n_energy_evaluations,
            energies_from=self._fast.description,
            best_step=self._best_figures["step"],
            rungs=self.rungs,
            log=self.log,
            before=before.record.get("annealing"),  # if the model was annealed already
        )
        top = self.flow.temperature if settings.conditioned else 4.0 / 3.0 * self.lowest
        generator = BoltzmannGenerator(
            self._learner.result(),
            self._exact,
            system=before.system,
            record={**before.record, "annealing": record},
            temperature_range=(self.lowest, top),
        )
        write_log(self.output / LOG, self.log)
        if record["best_step"] == self.log[0]["step"]:
            warnings.warn(
                "No step of the annealing has made the flow better, over all its temperatures, than it was, and "
                "the result is what it began with: take more steps, or a smaller learning rate.",
                ReliabilityWarning,
                stacklevel=3,
            )
        poorest = next(row for row in reversed(self.log) if row["step"] == record["best_step"])[
            "poorest_region"
        ]
        if poorest < _POOR_REGION:
            warnings.warn(
                f"The flow gives some region {poorest:.2g} of its fair density at {self.lowest:g} K, which the "
                "effective sample size does not show: averages of rare states may be poor; train longer, at "
                "several temperatures and with data.",
                ReliabilityWarning,
                stacklevel=3,
            )
        # The checkpoint stays until the model is whole.
        generator.save(self.output)
        (self.output / CHECKPOINT).unlink(missing_ok=True)
        return generator
