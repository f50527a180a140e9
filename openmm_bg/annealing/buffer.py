"""Samples with their energies, kept to be used again."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from openmm_bg.training.data import TrainingData
from openmm_bg.transforms.base import Coordinates
from openmm_bg.units import thermal_energy


@dataclass
class Labelled:
    """Configurations with all that a loss needs of them, computed once.

    Attributes:
        features: Features of the flow with shape=(n, n_features).
        reduced: Their energies in kT of their own temperature, tamed where they are far too high, shape=(n,).
        logabsdet: Log-determinants of the map from features to positions with shape=(n,).
        log_z: The logarithm of the target's partition function at their temperature with shape=(n,).
        ratio: Their temperatures as T / T_train with shape=(n,).
        weight: Importance weights by which they stand for the target p, of mean one in their round, shape=(n,);
            for p^2 / q, if annealed importance sampling has moved them.
    """

    features: torch.Tensor
    reduced: torch.Tensor
    logabsdet: torch.Tensor
    log_z: torch.Tensor
    ratio: torch.Tensor
    weight: torch.Tensor

    @property
    def log_target(self) -> torch.Tensor:
        """The log-densities of the target in the space of the features, with shape=(n,)."""
        return self.logabsdet - self.reduced - self.log_z

    def at(self, ratio: float, log_z: float) -> Labelled:
        """Return the same configurations as members of another temperature; their energies are known there, too.

        Args:
            ratio: The temperature as T / T_train.
            log_z: The logarithm of the partition function there.
        """
        return replace(
            self,
            reduced=self.reduced * (self.ratio / ratio),
            log_z=torch.full_like(self.log_z, log_z),
            ratio=torch.full_like(self.ratio, ratio),
        )

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: torch.Tensor | slice) -> Labelled:
        return Labelled(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def joined(cls, parts: list[Labelled]) -> Labelled:
        """Return several sets as one."""
        columns = [[getattr(part, field.name) for part in parts] for field in fields(cls)]
        return cls(*(torch.cat(column) for column in columns))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def labelled_frames(data: TrainingData, coordinates: Coordinates, log_z: float) -> Labelled:
    """Return frames of molecular dynamics as samples of the target at their temperature, that of the training.

    Frames outside the domain of the coordinates are left out.

    Args:
        data: The frames with their energies.
        coordinates: The flow's coordinates.
        log_z: The logarithm of the partition function at their temperature.
    """
    parts = torch.as_tensor(data.positions, dtype=torch.float64).split(20_000)
    features, logabsdet = (torch.cat(c) for c in zip(*map(coordinates.forward, parts), strict=True))
    kept = torch.isfinite(logabsdet)
    reduced = (torch.as_tensor(data.energies) / thermal_energy(data.temperature))[kept].float()
    ones = torch.ones_like(reduced)
    return Labelled(
        features[kept].float(), reduced, -logabsdet[kept].float(), log_z * ones, ones, ones.clone()
    )


class WeightedSamples:
    """Samples that are drawn by weights.

    Args:
        samples: The samples.
        weights: Weights with shape=(n,), which need not be normalised.
    """

    def __init__(self, samples: Labelled, weights: torch.Tensor) -> None:
        self.samples = samples
        # Inverse transform sampling: torch.multinomial is slow, and takes 2^24 categories at most.
        self._cumulative = weights.double().cumsum(0)

    def draw(self, n: int, generator: torch.Generator) -> Labelled:
        """Draw some, with replacement."""
        uniform = torch.rand(n, generator=generator, dtype=torch.float64) * self._cumulative[-1]
        return self.samples[torch.searchsorted(self._cumulative, uniform).clamp_max(len(self.samples) - 1)]


class SampleBuffer:
    """The samples of the latest rounds.

    Args:
        n_rounds: How many rounds are kept.
    """

    def __init__(self, n_rounds: int) -> None:
        self._n_rounds = n_rounds
        self.rounds: list[Labelled] = []
        self._all: WeightedSamples | None = None

    @property
    def all(self) -> WeightedSamples:
        """All samples, to be drawn by their importance weights."""
        if self._all is None:
            joined = Labelled.joined(self.rounds)
            self._all = WeightedSamples(joined, joined.weight)
        return self._all

    def add(self, samples: Labelled) -> None:
        """Add a round; the oldest goes if there are too many."""
        self.rounds = [*self.rounds, samples][-self._n_rounds :]
        self._all = None

    def clear(self) -> None:
        """Forget all rounds."""
        self.rounds, self._all = [], None

    def draw(self, n: int, resampled: int, generator: torch.Generator) -> Labelled:
        """Draw a batch.

        Args:
            n: How many are drawn evenly.
            resampled: How many are drawn by their weights, in addition.
            generator: Source of randomness.
        """
        even = torch.randint(len(self.all.samples), (n,), generator=generator)
        return Labelled.joined([self.all.samples[even], self.all.draw(resampled, generator)])

    def state(self) -> dict[str, torch.Tensor]:
        """Return the rounds as tensors."""
        return {
            f"{i}.{name}": tensor
            for i, samples in enumerate(self.rounds)
            for name, tensor in samples.tensors().items()
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue with what `state` returned."""
        names = [field.name for field in fields(Labelled)]
        count = len(state) // len(names)
        self.rounds = [Labelled(*(state[f"{i}.{name}"] for name in names)) for i in range(count)]
        self._all = None
