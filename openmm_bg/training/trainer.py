"""Training of a flow by example and by energy: resumable, logged, with the best model kept."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_bg import statistics
from openmm_bg.errors import InputError
from openmm_bg.files import provenance
from openmm_bg.flows import Flow, RealNVP, SplineFlow, TemperatureSteerableFlow
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.model_files import CHECKPOINT
from openmm_bg.training.checkpoint import Tensors, check_output, resume_from, write_checkpoint
from openmm_bg.training.data import TrainingData
from openmm_bg.training.learner import Learner
from openmm_bg.training.losses import ReverseKL, log_dispersion, maximum_likelihood
from openmm_bg.training.potentials import training_potentials
from openmm_bg.training.progress import LOG, TrainingBar, write_log
from openmm_bg.training.settings import TrainingSettings
from openmm_bg.training.tensorboard import TensorBoardLog
from openmm_bg.transforms import Coordinates, InternalCoordinates
from openmm_bg.units import thermal_energy

_FLOWS: dict[str, Callable[..., Flow]] = {
    "spline": SplineFlow,
    "realnvp": RealNVP,
    "tsf": partial(TemperatureSteerableFlow, coupling="spline"),
    "tsf-affine": partial(TemperatureSteerableFlow, coupling="affine"),
}


def train(
    data: TrainingData,
    output: str | Path,
    settings: TrainingSettings | None = None,
    *,
    coordinates: Coordinates | None = None,
    progress: bool = False,
    tensorboard: bool = False,
) -> BoltzmannGenerator:
    """Train a flow on molecular dynamics data, or continue an interrupted training.

    The output directory becomes the model; ``log.csv`` in it has a row for every validation: losses, held-out
    negative log-likelihood, KL divergence and effective sample size. An interrupted run leaves a checkpoint
    there, from which the same call continues. The model of the best validation is kept: that with the lowest
    sum of both KL divergences, KL(data || q) + KL(q || p), up to a constant.

    Args:
        data: The data.
        output: The directory.
        settings: The settings.
        coordinates: The map between positions and features, fitted to data or not in need of it; the molecule's
            internal coordinates, fitted to the data, if not given.
        progress: Show a progress bar with the latest figures.
        tensorboard: Write the rows of ``log.csv`` as event files for TensorBoard, too, beside it.

    Returns:
        The generator, saved in the directory.

    Raises:
        InputError: If the data are unsuitable, or the directory holds a finished model, or an interrupted
            training of other data or settings, or TensorBoard is wanted and not installed.
    """
    events = TensorBoardLog(Path(output)) if tensorboard else None
    trainer = Trainer(data, Path(output), settings or TrainingSettings(), coordinates, events)
    trainer.resume()
    trainer.run(progress)
    return trainer.finish()


class Trainer:
    """The state of a training run; `train` is the usual way to use it."""

    def __init__(
        self,
        data: TrainingData,
        output: Path,
        settings: TrainingSettings,
        coordinates: Coordinates | None = None,
        events: TensorBoardLog | None = None,
    ) -> None:
        check_output(output)
        self.data, self.output, self.settings, self._events = data, output, settings, events
        self.identity = {
            "system_hash": data.system.system_hash,
            "temperature": data.temperature,
            "n_frames": len(data.positions),
            "data_checksum": float(np.sum(data.energies, dtype=np.float64)),
            "settings": dataclasses.asdict(settings),
        }
        system = data.system
        n_held_out = math.ceil(settings.validation_fraction * len(data.positions))
        if len(data.positions) - n_held_out < 100:
            raise InputError(f"{len(data.positions)} frames are too few to train a flow; simulate more.")
        if coordinates is None:
            coordinates = InternalCoordinates.from_reference(system.positions, system.bonds, system.masses)
            # Affine layers alone could not give an angle on a circle anything but a uniform distribution.
            coordinates.fit(data.positions[:-n_held_out], circular=settings.flow != "realnvp")
        features = _features(coordinates, data.positions)
        self._train, self._held_out = features[:-n_held_out], features[-n_held_out:]
        self.flow = _FLOWS[settings.flow](coordinates, data.temperature, **settings.flow_settings())
        self._learner = Learner(self.flow, settings, last_rate=0.02, warm_up=200)
        self.average = self._learner.average
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._fast, self._exact = training_potentials(system)
        reduced = torch.as_tensor(data.energies) / thermal_energy(data.temperature)
        self._energies = reduced.float()
        cut = float(reduced.max()) + settings.energy_margin
        self._kl = ReverseKL(self._fast, data.temperature, cut)
        self.step, self.seconds, self._n_evaluations_before = 0, 0.0, 0
        self.log: list[dict[str, float]] = []
        self._best_score, self._since_best = math.inf, 0
        self._recent: list[tuple[float, float, float, float]] = []

    def run(self, progress: bool = False) -> None:
        """Train until the last step, or until early stopping."""
        settings = self.settings
        with TrainingBar(progress, "training", settings.n_steps) as bar:
            while self.step < settings.n_steps and not self._out_of_patience():
                start = time.perf_counter()
                self._one_step()
                self.step += 1
                self.seconds += time.perf_counter() - start
                if self.step % settings.validation_interval == 0 or self.step == settings.n_steps:
                    self._validate()
                    self.checkpoint()
                bar.show(self.step, self._latest())

    def _latest(self) -> str:
        if not self.log:
            return ""
        return f"ESS {self.log[-1]['ess']:.1%}, held-out NLL {self.log[-1]['held_out_nll']:.2f}"

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self._since_best

    def _one_step(self) -> None:
        settings, fraction = self.settings, self.step / self.settings.n_steps
        weight = settings.kl_weight_at(fraction)
        loss_kl, ess = math.nan, math.nan
        chosen = torch.randint(len(self._train), (settings.batch_size,), generator=self._generator)
        densities = _Densities(self.flow, self._train[chosen], self._generator)
        loss_ml = maximum_likelihood(densities.log_prob())
        ratio = self._temperature_ratio()
        if ratio < 1 and (self.flow.n_momenta or self.flow.conditioned):
            densities = _Densities(self.flow, self._train[chosen], self._generator, ratio)
        # In kT of the training temperature, so that every temperature counts alike.
        loss_ld = log_dispersion(ratio * densities.log_prob(ratio), self._energies[chosen])
        loss = (1.0 - weight) * loss_ml + settings.dispersion_weight_at(fraction) * loss_ld
        if weight > 0:
            kl, ess = self._kl(self.flow, settings.kl_batch_size, self._generator)
            loss_kl = float(kl.detach())
            loss = loss + weight * kl
        self._learner.update(loss, self.step)
        self._recent.append((float(loss_ml.detach()), float(loss_ld.detach()), loss_kl, ess))

    def _temperature_ratio(self) -> float:
        """Return T / T_train at which this step looks at the dispersion."""
        lowest, share = self.settings.dispersion_ratio, self.settings.cold_fraction
        if lowest == 1.0 or math.floor((self.step + 1) * share) == math.floor(self.step * share):
            return 1.0
        return lowest + (1.0 - lowest) * float(torch.rand((), generator=self._generator))

    def _validate(self) -> None:
        """Judge the averaged flow, add a row to the log, and keep it if it is the best so far."""
        temperature, n = self.data.temperature, self.settings.validation_samples
        with torch.no_grad():
            draw = torch.Generator().manual_seed(self.settings.seed + 1)
            batches = self._held_out[: 4 * n].split(2048)
            log_q = [_Densities(self.average, batch, draw).log_prob().double() for batch in batches]
            nll = -float(torch.cat(log_q).mean())
            draw.manual_seed(self.settings.seed + 1)
            positions, momenta, log_q = self.average.joint_sample(n, temperature, generator=draw)
            log_q = log_q - self.average.momenta_log_prob(momenta)
            reduced = self._exact.energy(positions) / thermal_energy(temperature)
        finite = torch.isfinite(reduced)
        log_weights = torch.where(finite, -reduced - log_q, -torch.inf).numpy()
        # KL(q || p) up to log Z. A few clashes would own its mean, so the highest 1 % are left out here.
        terms = np.sort(-log_weights[finite.numpy()])
        kl = float(terms[: max(1, math.floor(0.99 * len(terms)))].mean()) if len(terms) else math.inf
        losses = np.array(self._recent or [(math.nan,) * 4])
        self._recent = []
        self.log.append(
            {
                "step": self.step,
                "seconds": round(self.seconds, 1),
                "energy_evaluations": self.n_energy_evaluations,
                "kl_weight": round(self.settings.kl_weight_at((self.step - 1) / self.settings.n_steps), 4),
                "loss_ml": _mean(losses[:, 0]),
                "loss_dispersion": _mean(losses[:, 1]),
                "loss_kl": _mean(losses[:, 2]),
                "held_out_nll": nll,
                "kl": kl,
                "ess": statistics.effective_sample_size(log_weights) if finite.any() else 0.0,
                "batch_ess": _mean(losses[:, 3]),
                "skipped_steps": self._learner.n_skipped,
                "outside_domain": int((~finite).sum()),
            }
        )
        self._since_best += 1
        # Both terms contain the same unknown constants, so that their sum ranks models.
        score = nll + kl
        if score < self._best_score:
            self._best_score, self._since_best = score, 0
            self._learner.keep()

    def checkpoint(self) -> None:
        """Write the run's state, so that `resume` continues from here."""
        tensors = self._learner.state() | {"generator": self._generator.get_state()}
        header = {
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "n_energy_evaluations": self.n_energy_evaluations,
            "best_score": self._best_score if math.isfinite(self._best_score) else None,
            "since_best": self._since_best,
            "n_skipped": self._learner.n_skipped,
            "log": self.log,
        }
        write_checkpoint(self.output / CHECKPOINT, tensors, header)
        write_log(self.output / LOG, self.log)
        if self._events is not None:
            self._events.write(self.log)

    def resume(self) -> None:
        """Continue from a checkpoint, if the output directory has one.

        Raises:
            InputError: If it is of another training.
            ModelFileError: If it cannot be read.
        """
        resume_from(self.output, self.identity, "training", self._continue)

    def _continue(self, header: dict[str, Any], tensors: Tensors) -> None:
        self._learner.restore(tensors)
        self._generator.set_state(tensors["generator"])
        self.step, self.seconds, self.log = header["step"], header["seconds"], header["log"]
        self._n_evaluations_before = header["n_energy_evaluations"]
        self._best_score = math.inf if header["best_score"] is None else header["best_score"]
        self._since_best, self._learner.n_skipped = header["since_best"], header["n_skipped"]

    @property
    def n_energy_evaluations(self) -> int:
        """Energy evaluations so far, as the potentials have counted them."""
        return self._n_evaluations_before + self._fast.n_evaluations + self._exact.n_evaluations

    def finish(self) -> BoltzmannGenerator:
        """Save the best model and remove the checkpoint."""
        if self._learner.best is None:
            raise InputError(
                "The training came to no usable model; look at its log.csv, and lower the learning rate."
            )
        record = provenance(
            seed=self.settings.seed,
            settings=dataclasses.asdict(self.settings),
            training={
                "seconds": self.seconds,
                "n_energy_evaluations": self.n_energy_evaluations,
                "energies_from": self._fast.description,
                "log": self.log,
            },
            data=self.data.record,
        )
        generator = BoltzmannGenerator(
            self._learner.result(), self._exact, system=self.data.system, record=record
        )
        write_log(self.output / LOG, self.log)
        # The checkpoint stays until the model is whole.
        generator.save(self.output)
        (self.output / CHECKPOINT).unlink(missing_ok=True)
        if self._events is not None:
            self._events.close()
        return generator


class _Densities:
    """The densities of a batch of features, from one pass through the network.

    They are those at any temperature, unless the network itself depends on it. Of a flow with momenta these are
    drawn, and their own log-density is taken off. The mean log-density is then a
    lower bound of that of the features alone.

    Args:
        flow: The flow.
        features: Features with shape=(batch, n_features).
        generator: Source of the momenta.
        ratio: The temperature of the pass and of the momenta, as T / T_train.
    """

    def __init__(
        self, flow: Flow, features: torch.Tensor, generator: torch.Generator, ratio: float = 1.0
    ) -> None:
        self._flow = flow
        noise = torch.randn(len(features), flow.n_momenta, generator=generator, dtype=features.dtype)
        self._momenta = math.sqrt(ratio) * noise
        self._z, self._logabsdet = flow.state_forward(torch.cat([features, self._momenta], dim=1), ratio)

    def log_prob(self, ratio: float = 1.0) -> torch.Tensor:
        """Return log-densities at a temperature, given as T / T_train, with shape=(batch,)."""
        log_momenta = self._flow.momenta_log_prob(self._momenta, ratio * self._flow.temperature)
        return self._flow.base_log_prob(self._z, ratio) + self._logabsdet - log_momenta


def _features(coordinates: Coordinates, positions: np.ndarray) -> torch.Tensor:
    parts = torch.as_tensor(positions, dtype=torch.float64).split(20_000)
    return torch.cat([coordinates.forward(part)[0].float() for part in parts])


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
