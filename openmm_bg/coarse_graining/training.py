"""Training of a coarse-grained model, and the rounds that close the loop: resumable, with a log."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.coarse_graining import rounds
from openmm_bg.coarse_graining.autoregressive_backmapping import TURNING, AutoregressiveBackmapping
from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.choices import MapChoice, choose_map
from openmm_bg.coarse_graining.consistency import consistency_table, largest_deviation
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.free_energy_loss import (
    DATA,
    NO_FIGURES,
    BeadPool,
    FreeEnergyLoss,
    bead_pool,
    pool_of_data,
)
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.invariants import BeadInvariants, chiral_beads
from openmm_bg.coarse_graining.joint_loss import JointLoss
from openmm_bg.coarse_graining.maps import CoarseGrainedMap
from openmm_bg.coarse_graining.noisy_map import NoisyMap, map_from_config
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.files import json_text, provenance
from openmm_bg.model_files import CHECKPOINT
from openmm_bg.training.checkpoint import check_output, part, prefixed, resume_from, write_checkpoint
from openmm_bg.training.progress import LOG, TrainingBar, write_log
from openmm_bg.transforms import Coordinates, FibreCoordinates

if TYPE_CHECKING:
    from openmm_bg.potentials.base import Potential
    from openmm_bg.training.data import TrainingData

_CHECKPOINT_INTERVAL = 250
_START = 512  # bead configurations that are kept with the model
_NEGLIGIBLE = 20.0  # log-weights this far below the samples' are of beads that need not be learned
_PATIENCE = 4  # rounds of the bead energy alone, which cost little, before nothing has got better
_DATA = 8192  # frames whose beads' free energies are taken before rounds that leave the flow as it is


def train_coarse_grained(
    data: TrainingData,
    coarse_map: CoarseGrainedMap | MapChoice,
    output: str | Path,
    settings: CoarseGrainingSettings | None = None,
    *,
    potential: Potential | None = None,
    map_record: dict[str, Any] | None = None,
    progress: bool = False,
    on_checkpoint: Callable[[int], None] | None = None,
) -> CoarseGrainedGenerator:
    """Train a backmapping flow and a bead energy, and close the loop; or continue an interrupted training.

    Args:
        data: Configurations of the temperature that the model is for.
        coarse_map: The map, or which one. A learned map is kept with the checkpoint: what continues an
            interrupted training does not learn it again.
        output: The directory that becomes the model's. An interrupted training leaves its checkpoint there.
        settings: The settings.
        potential: The all-atom potential; that of the data's system if not given.
        map_record: How a given map was made, kept with the model.
        progress: Show a progress bar.
        on_checkpoint: Called with the number of steps after each checkpoint.

    Returns:
        The model, saved in `output`.

    Raises:
        InputError: If the map is of another molecule, or the directory holds other things or a training of another
            map, or with other data or settings.
    """
    settings = settings or CoarseGrainingSettings()
    trainer = _Trainer(
        data, coarse_map, Path(output), settings, potential, map_record=map_record, progress=progress
    )
    trainer.resume()
    if trainer.has_learned:
        trainer.checkpoint(on_checkpoint)
    n_steps = settings.n_steps + settings.n_rounds * settings.round_steps
    with TrainingBar(progress, "coarse-graining", n_steps) as bar:
        trainer.run(bar, on_checkpoint)
    return trainer.finish()


def _identity(
    data: TrainingData, coarse_map: CoarseGrainedMap | MapChoice, settings: CoarseGrainingSettings
) -> dict[str, Any]:
    """Return what makes it the same training, as JSON; of a map that was asked for, how, and not its numbers."""
    identity = {
        "system_hash": data.system.system_hash,
        "n_frames": len(data.positions),
        "data_checksum": float(np.sum(data.energies, dtype=np.float64)),
        "map": coarse_map.used() if isinstance(coarse_map, MapChoice) else coarse_map.config(),
        "settings": dataclasses.asdict(settings),
    }
    return json.loads(json_text(identity))


def _kept_map(
    output: Path, identity: dict[str, Any]
) -> tuple[CoarseGrainedMap, dict[str, Any] | None] | None:
    """Return the map of an interrupted training, and how it was made; None if there is no such training."""
    kept: dict[str, Any] = {}
    resume_from(output, identity, "training", lambda header, _: kept.update(header["map"]))
    return (map_from_config(kept["config"]), kept["record"]) if kept else None


class _Trainer:
    """A training: networks, optimiser, the bead configurations of the last round, and the log."""

    def __init__(
        self,
        data: TrainingData,
        coarse_map: CoarseGrainedMap | MapChoice,
        output: Path,
        settings: CoarseGrainingSettings,
        potential: Potential | None,
        *,
        map_record: dict[str, Any] | None = None,
        progress: bool = False,
    ) -> None:
        check_output(output)
        system = data.system
        if potential is None:
            from openmm_bg.potentials import TorchPotential

            potential = TorchPotential.from_system(system, dtype=torch.float64)
        self.identity, self.has_learned = _identity(data, coarse_map, settings), False
        noisy = coarse_map.noisy if isinstance(coarse_map, MapChoice) else isinstance(coarse_map, NoisyMap)
        if noisy and settings.flow == "autoregressive":
            raise InputError(
                "An autoregressive flow places atoms around beads that have a place; with a noisy map choose "
                "couplings (--flow couplings)."
            )
        if isinstance(coarse_map, MapChoice):
            kept = _kept_map(output, self.identity)
            self.has_learned = kept is None and coarse_map.kind == "learned"
            coarse_map, map_record = kept or choose_map(coarse_map, data, potential, progress=progress)
        if coarse_map.n_atoms != system.n_atoms:
            raise InputError(
                f"The map is of {coarse_map.n_atoms} atoms, but {system.name} has {system.n_atoms}; "
                "give the map of this molecule."
            )
        self.data, self.coarse_map, self.output, self.settings = data, coarse_map, output, settings
        self.map_record, self.potential = map_record, potential
        self.positions = torch.as_tensor(np.asarray(data.positions, dtype=np.float64))
        beads = coarse_map.draw(self.positions, torch.Generator().manual_seed(settings.seed))
        # At random: frames are interleaved by walker, and a stride may take those of some walkers alone.
        chosen = torch.randperm(len(beads), generator=torch.Generator().manual_seed(settings.seed))
        self.start = beads[chosen[:_START]].clone()
        self.invariants = BeadInvariants(coarse_map.n_beads, chiral_beads(self.start)).fit(beads)
        coordinates = coarse_map.coordinates(system.positions, system.bonds, system.masses)
        self.flow = self._new_flow(coordinates)
        self.energy = BeadEnergy(self.invariants, data.temperature, **settings.energy_settings())
        self.energy.fit_prior(beads)
        self.flow.set_dtype(torch.float32)
        self.energy.set_dtype(torch.float32)
        self.parameters = [*self.flow.parameters(), *self.energy.network.parameters()]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.Adam(self.parameters, lr=settings.learning_rate)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step, self.rounds_done, self.in_round, self._evaluations_before = 0, 0, False, 0
        self.log: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.pool: torch.Tensor | None = None  # bead configurations of the last round
        self.bead_pool: BeadPool | None = None  # those of all rounds, if the flow stays as it is
        self.data_log_densities: torch.Tensor | None = None  # by the flow as it was last looked at
        self.kept = 0  # the best round
        self.best = [mean.clone() for mean in self.average]  # its parameters

    def _new_flow(self, coordinates: Coordinates) -> BackmappingFlow:
        """Return a flow of the kind that is asked for, with coordinates that are fitted to the data."""
        settings = self.settings
        if settings.flow == "couplings":
            coordinates.fit(self.positions)
            return CouplingBackmapping(coordinates, self.invariants, **settings.flow_settings())
        assert isinstance(coordinates, FibreCoordinates)  # as the map has no noise
        coordinates.fit_turning(self.positions, TURNING)
        return AutoregressiveBackmapping.from_data(
            coordinates, self.invariants, self.positions, self.data.system.masses, **settings.flow_settings()
        )

    # The run

    def run(self, bar: TrainingBar, on_checkpoint: Callable[[int], None] | None) -> None:
        """Train on the data, then in rounds until the observables stop moving."""
        settings = self.settings
        self.loss = JointLoss(
            self.coarse_map, self.flow, self.energy, self.potential, self.positions, settings
        )
        frames = self.loss.frames.at(slice(self.loss.n_training))
        self.free_energy_loss = FreeEnergyLoss(self.energy, frames, settings)
        self._train(settings.n_steps, settings.learning_rate, bar, on_checkpoint)
        while True:
            if not self.in_round:
                judged = bool(self.rounds) and self.rounds[-1]["round"] == self.rounds_done
                if not judged:  # it is if a run was killed after its last checkpoint
                    self._judge()
                self.in_round = self.rounds_done < settings.n_rounds and not self._settled()
                self.checkpoint(on_checkpoint)
                if not self.in_round:
                    return
            first = settings.n_steps + self.rounds_done * settings.round_steps
            end = first + settings.round_steps
            if settings.frozen_flow:
                self._freeze_flow()
            self._train(end, settings.round_learning_rate, bar, on_checkpoint, first)
            self.rounds_done, self.in_round = self.rounds_done + 1, False

    def _train(
        self,
        end: int,
        learning_rate: float,
        bar: TrainingBar,
        on_checkpoint: Callable[[int], None] | None,
        first: int = 0,
    ) -> None:
        """Take optimiser steps up to a number of steps, with a step size that falls along a cosine."""
        settings = self.settings
        while self.step < end:
            fraction = (self.step - first) / (end - first)
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * fraction)))
            losses, figures = self._losses()
            if self._set_gradients(losses):
                self.optimiser.step()
            decay = min(settings.averaging, (self.step + 1) / (self.step + 10))
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.lerp_(parameter.detach(), 1.0 - decay)
            self.step += 1
            if self.step % 10 == 0:
                bar.show(self.step, f"dispersion {figures.get(DATA, figures['dispersion']):.3g}")
            if self.step % _CHECKPOINT_INTERVAL == 0 or self.step == end:
                self.log.append(
                    {
                        "step": self.step,
                        "round": self.rounds_done,
                        **(NO_FIGURES if settings.frozen_flow else {}),
                        **figures,
                        **self.loss.held_out(*self._averaged()),
                    }
                )
                self.checkpoint(on_checkpoint)

    def _losses(self) -> tuple[list[torch.Tensor], dict[str, float]]:
        if self.in_round and self.bead_pool is not None:
            return self.free_energy_loss(self.bead_pool, self.generator)
        return self.loss(self.step, self.pool, self.generator)

    def _freeze_flow(self) -> None:
        """Set the flow's parameters to their averages, so that these stay as they are when it is not trained."""
        n = len(list(self.flow.parameters()))  # they come first
        with torch.no_grad():
            for parameter, mean in zip(self.parameters[:n], self.average[:n], strict=True):
                parameter.copy_(mean)

    def _set_gradients(self, losses: list[torch.Tensor]) -> bool:
        """Give parameters the sum of the losses' gradients, each of a limited norm; tell whether it is finite.

        A loss whose gradient is large would otherwise leave nothing of the other. The reverse divergence's weight
        counts after the limit.
        """
        total: list[torch.Tensor | None] = [None] * len(self.parameters)
        for loss, weight in zip(losses, (1.0, self.settings.reverse_weight), strict=False):
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm)
            if not torch.isfinite(norm):
                return False
            for k, parameter in enumerate(self.parameters):
                if parameter.grad is not None:
                    own = weight * parameter.grad
                    total[k] = own if total[k] is None else total[k] + own
        for parameter, gradient in zip(self.parameters, total, strict=True):
            parameter.grad = gradient
        return True

    def _averaged(self) -> tuple[BackmappingFlow, BeadEnergy]:
        """Return copies of the networks with the averaged parameters."""
        flow, energy = (type(module).from_config(module.config()) for module in (self.flow, self.energy))
        for copied, module in ((flow, self.flow), (energy, self.energy)):
            copied.load_state_dict(module.state_dict())
            copied.set_dtype(torch.float32)
        copies = [*flow.parameters(), *energy.network.parameters()]
        with torch.no_grad():
            for parameter, mean in zip(copies, self.average, strict=True):
                parameter.copy_(mean)
        return flow.eval(), energy.eval()

    def model(self) -> CoarseGrainedGenerator:
        """Return the model as it is now."""
        flow, energy = self._averaged()
        return CoarseGrainedGenerator(
            self.coarse_map,
            energy,
            flow,
            start=self.start,
            potential=self.potential,
            system=self.data.system,
            sampling=self.settings.sampling,
        )

    # Rounds

    def _judge(self) -> None:
        """Draw samples, record how good they are, and keep their beads for the next round."""
        settings, model = self.settings, self.model()
        n, seed = settings.round_samples, settings.seed + 1000 * (self.rounds_done + 1)
        frames: list[torch.Tensor] = []
        samples = model.sample(
            n,
            seed=seed,
            n_tries=settings.round_tries,
            on_frame=lambda sampler: frames.append(sampler.hot()),
        )
        hot = rounds.hot_beads(frames, n, seed)
        hot_log_weights = self._new_log_weights(model, hot)
        excess = rounds.excess_over(hot_log_weights, samples)
        spread = rounds.hot_dispersion(excess)
        some = bool(np.isfinite(samples.log_weights).any())
        table = consistency_table(samples, self.data) if some else []
        data_log_weights = self.loss.log_weights(self._data_log_densities(model), model.energy)
        held_out = data_log_weights[self.loss.n_training :]  # others may have been learned by heart
        self.rounds.append(
            {
                "round": self.rounds_done,
                "step": self.step,
                "n_samples": len(samples),
                "n_tries": settings.round_tries,
                "effective_sample_size": samples.ess() if some else 0.0,
                "data_effective_sample_size": rounds.data_ess(held_out, samples) if some else 0.0,
                "log_weight_range": rounds.middle_range(samples.log_weights),
                "pareto_k": samples.pareto_k() if some else math.inf,
                "out_of_domain": samples.n_out_of_domain,
                "bead_acceptance": samples.record["bead_acceptance"],
                "bead_timestep": samples.record["bead_timestep"],
                "largest_deviation": largest_deviation(table) if some else math.inf,
                **({} if math.isnan(spread) else {"hot_dispersion": spread}),
                "table": [dataclasses.asdict(line) for line in table],
            }
        )
        last, best = self.rounds[-1], self.rounds[self.kept]
        if len(self.rounds) == 1 or rounds.round_merit(last) > rounds.round_merit(best):
            self.kept, self.best = len(self.rounds) - 1, [mean.clone() for mean in self.average]
        beads = torch.from_numpy(samples.beads)
        if not settings.frozen_flow:
            beads = torch.cat([beads, hot[torch.from_numpy(excess > -_NEGLIGIBLE)]])
            unseen = self._missed_data(data_log_weights, len(beads) // 3, seed)
            self.pool = torch.cat([beads, unseen.to(beads)]).to(self.start)
            return
        self._fill_pool(model, beads, samples.log_weights)
        self._fill_pool(model, hot, hot_log_weights)
        # Only then does a weight far above the others' say more than how wrong all are.
        if rounds.is_trusted(self.rounds[-1]):
            unseen = self._missed_data(data_log_weights, (len(beads) + len(hot)) // 3, seed)
            self._fill_pool(model, unseen, self._new_log_weights(model, unseen))

    def _missed_data(self, log_weights: np.ndarray, n_most: int, seed: int) -> torch.Tensor:
        """Return the data's beads that are hardly drawn; of frames held out none, which are to tell of others."""
        n = self.loss.n_training
        return rounds.missed(self.loss.frames.beads[:n], log_weights[:n], n_most, seed)

    def _data_log_densities(self, model: CoarseGrainedGenerator) -> torch.Tensor:
        """Return what the flow gives the data; of a flow that stays as it is, what it gave them before."""
        if self.data_log_densities is None or not self.settings.frozen_flow:
            self.data_log_densities = self.loss.log_densities(model.flow)
        return self.data_log_densities

    def _fill_pool(self, model: CoarseGrainedGenerator, beads: torch.Tensor, log_weights: np.ndarray) -> None:
        """Add beads and their free energies to the pool, which begins with beads of the data."""
        settings = self.settings
        if self.bead_pool is None:
            generator = torch.Generator().manual_seed(settings.seed)
            if settings.even_fraction:
                chosen = self.loss.choose(_DATA, generator)
            else:  # none twice
                chosen = torch.randperm(self.loss.n_training, generator=generator)[:_DATA]
            self.bead_pool = pool_of_data(
                model, self.loss.frames.beads[chosen], n_tries=settings.round_tries, seed=settings.seed
            )
            rounds.warn_of_clashes(self.bead_pool, settings.round_tries)
        self.bead_pool = self.bead_pool.joined(bead_pool(model, beads, log_weights))

    def _new_log_weights(self, model: CoarseGrainedGenerator, beads: torch.Tensor) -> np.ndarray:
        """Return the log-weights of new configurations of beads with shape=(n,)."""
        if not len(beads):
            return np.zeros(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReliabilityWarning)
            return model.backmap(
                beads, seed=self.settings.seed, n_tries=self.settings.round_tries
            ).log_weights

    def _settled(self) -> bool:
        """Tell whether the last rounds have made nothing better that could be seen."""
        n = _PATIENCE if self.settings.frozen_flow else 1
        if len(self.rounds) <= n:
            return False
        before, *last = self.rounds[-n - 1 :]
        return not any(rounds.is_better(one, before, self.settings.tolerance) for one in last)

    # Checkpoints

    def checkpoint(self, on_checkpoint: Callable[[int], None] | None) -> None:
        """Write the training's state and the map, so that `resume` continues from here."""
        state = self.optimiser.state_dict()["state"]
        tensors = prefixed("parameter.", {str(k): p.detach() for k, p in enumerate(self.parameters)})
        tensors |= prefixed("average.", {str(k): p for k, p in enumerate(self.average)})
        tensors |= prefixed("best.", {str(k): p for k, p in enumerate(self.best)})
        for k, entry in state.items():
            tensors |= prefixed(f"optimiser.{k}.", entry)
        if self.pool is not None:
            tensors["pool"] = self.pool
        if self.bead_pool is not None:
            tensors |= prefixed(
                "bead_pool.", self.bead_pool._asdict() | {"n_data": torch.tensor(self.bead_pool.n_data)}
            )
        tensors["generator"] = self.generator.get_state()
        header = {
            "identity": self.identity,
            "map": {"config": self.coarse_map.config(), "record": self.map_record},
            "step": self.step,
            "rounds_done": self.rounds_done,
            "in_round": self.in_round,
            "n_evaluations": self._n_evaluations(),
            "log": self.log,
            "rounds": self.rounds,
            "kept_round": self.kept,
        }
        write_checkpoint(self.output / CHECKPOINT, tensors, json.loads(json_text(header)))
        if self.log:
            write_log(self.output / LOG, self.log)
        if on_checkpoint is not None:
            on_checkpoint(self.step)

    def resume(self) -> None:
        """Continue from a checkpoint, if there is one."""
        resume_from(self.output, self.identity, "training", self._restore)

    def _restore(self, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for k, (parameter, mean) in enumerate(zip(self.parameters, self.average, strict=True)):
                parameter.copy_(tensors[f"parameter.{k}"])
                mean.copy_(tensors[f"average.{k}"])
        self.best = [tensors[f"best.{k}"] for k in range(len(self.average))]
        state = self.optimiser.state_dict()
        for k in range(len(self.parameters)):
            if own := part(tensors, f"optimiser.{k}."):
                state["state"][k] = own
        self.optimiser.load_state_dict(state)
        self.generator.set_state(tensors["generator"])
        self.step, self.rounds_done = header["step"], header["rounds_done"]
        self.in_round, self.log, self.rounds = header["in_round"], header["log"], header["rounds"]
        self._evaluations_before = header["n_evaluations"]
        self.pool, self.kept = tensors.get("pool"), header["kept_round"]
        if own := part(tensors, "bead_pool."):
            self.bead_pool = BeadPool(own["beads"], own["free_energies"], int(own["n_data"]))

    def finish(self) -> CoarseGrainedGenerator:
        """Save the model of the best round and remove the checkpoint."""
        self.average = self.best
        rounds.warn_of_missed(self.rounds[self.kept])
        model = self.model()
        timestep = self.rounds[self.kept]["bead_timestep"]
        model.sampling = dataclasses.replace(model.sampling, timestep=timestep)
        model.record = provenance(
            seed=self.settings.seed,
            settings=dataclasses.asdict(self.settings),
            data=self.data.record,
            map=self.map_record,
            rounds=self.rounds,
            kept_round=self.kept,
            training={"n_steps": self.step, "n_energy_evaluations": self._n_evaluations()},
        )
        model.save(self.output)
        (self.output / CHECKPOINT).unlink(missing_ok=True)
        return model

    def _n_evaluations(self) -> int:
        return self._evaluations_before + self.potential.n_evaluations
