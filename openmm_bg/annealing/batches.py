"""Batches of annealing: samples of the flow, frames of molecular dynamics, and rare states."""

from __future__ import annotations

from collections.abc import Callable

import torch

from openmm_bg.annealing.buffer import Labelled, SampleBuffer, WeightedSamples
from openmm_bg.annealing.regions import Rarity
from openmm_bg.annealing.settings import AnnealingSettings
from openmm_bg.training.checkpoint import Tensors, part, prefixed


class Batches:
    """Draws batches from all that has been labelled so far.

    Args:
        settings: The settings.
        circular: Which features are angles, with shape=(n_features,).
        make_frames: Returns the frames of molecular dynamics, labelled; called when they are first needed. None if
            there are none.

    Attributes:
        buffer: The flow's own samples.
    """

    def __init__(
        self,
        settings: AnnealingSettings,
        circular: torch.Tensor,
        make_frames: Callable[[], Labelled] | None,
    ) -> None:
        self.buffer = SampleBuffer(settings.buffer_rounds)
        self._settings, self._circular = settings, circular
        self._make_frames = make_frames if settings.data_share > 0 else None
        self._frames: Labelled | None = None
        self._cold: WeightedSamples | None = None

    def add(self, samples: Labelled) -> None:
        """Add a round of the flow's samples."""
        self.buffer.add(samples)
        self._cold = None

    def clear(self) -> None:
        """Forget the flow's samples."""
        self.buffer.clear()
        self._cold = None

    def frames(self) -> Labelled:
        """Return the frames of molecular dynamics."""
        if self._frames is None:
            self._frames = self._make_frames()
        return self._frames

    def draw(self, lowest: float, log_z: float, generator: torch.Generator) -> Labelled:
        """Draw a batch.

        Args:
            lowest: The lowest temperature as T / T_train.
            log_z: The logarithm of the partition function there.
            generator: Source of randomness.
        """
        settings = self._settings
        n_cooled = round(settings.cooled_share * settings.batch_size)
        size = settings.batch_size - n_cooled
        n_data = round(settings.data_share * size) if self._make_frames is not None else 0
        n_resampled = round(settings.resampled_share * size)
        parts = [self.buffer.draw(max(0, size - n_resampled - n_data), n_resampled, generator)]
        if n_data:
            frames = self.frames()
            parts.append(frames[torch.randint(len(frames), (n_data,), generator=generator)])
        if not settings.conditioned:  # a flow for one temperature learns that one alone
            parts = [samples.at(lowest, log_z) for samples in parts]
        if n_cooled:
            parts.append(self.cooled(n_cooled, lowest, log_z, generator))
        return Labelled.joined(parts)

    def cooled(self, n: int, lowest: float, log_z: float, generator: torch.Generator) -> Labelled:
        """Draw samples and frames, of any temperature, that are typical of the lowest one: rare ones more often.

        Args:
            n: How many.
            lowest: The lowest temperature as T / T_train.
            log_z: The logarithm of the partition function there.
            generator: Source of randomness.
        """
        if self._cold is None:  # made once for all batches of a round
            pool = self.buffer.all.samples
            rarity = Rarity(pool, lowest, self._circular)
            if self._make_frames is not None:
                pool = Labelled.joined([pool, self.frames()])
            cold = pool.at(lowest, log_z)
            typical = (cold.log_target - pool.log_target).clamp_max(0.0).exp()
            self._cold = WeightedSamples(cold, pool.weight * typical * rarity(pool.features))
        return self._cold.draw(n, generator)

    def state(self) -> Tensors:
        """Return samples and frames as tensors."""
        frames = {} if self._frames is None else self._frames.tensors()
        return prefixed("buffer.", self.buffer.state()) | prefixed("frames.", frames)

    def restore(self, tensors: Tensors) -> None:
        """Continue with what `state` returned; other tensors are passed over."""
        self.buffer.restore(part(tensors, "buffer."))
        self._cold = None
        if frames := part(tensors, "frames."):
            self._frames = Labelled(**frames)
