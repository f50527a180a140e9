"""Which frames of the data a step of the training sees."""

from __future__ import annotations

import numpy as np
import torch

_N_CLUSTERS = 64
_SMALL = 16.0  # clusters of less than one in so many of the average size count less, in proportion


class FrameChoice:
    """Chooses frames at random, and a part of them evenly over the bead configurations that there are.

    What the networks learn of beads does not depend on how often these are seen: the density of the atoms around
    given beads, the mean force on beads, and weights that are all alike. So rare conformations may be seen more
    often than they occur.

    Even means that clusters count alike, around centres that are as far from each other as can be; those of very
    few frames count less, so that these are not seen over and over again.

    Args:
        n_frames: The number of frames.
        even_fraction: The part of the chosen frames that is chosen evenly.
        invariants: Standardised invariants of the bead configurations with shape=(n_frames, n_invariants); needed
            if a part is chosen evenly.
    """

    def __init__(
        self, n_frames: int, even_fraction: float = 0.0, invariants: torch.Tensor | None = None
    ) -> None:
        self.n_frames, self.even_fraction = n_frames, even_fraction
        self._summed = None if invariants is None else _even_weights(invariants).cumsum(0)

    def __call__(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return the indices of n frames, those that are chosen at random first."""
        n_even = 0 if self._summed is None else round(self.even_fraction * n)
        chosen = torch.randint(self.n_frames, (n - n_even,), generator=generator)
        if self._summed is None or not n_even:
            return chosen
        places = torch.rand(n_even, generator=generator, dtype=torch.float64) * self._summed[-1]
        even = torch.searchsorted(self._summed, places).clamp_max(self.n_frames - 1)
        return torch.cat([chosen, even])


def _even_weights(invariants: torch.Tensor) -> torch.Tensor:
    """Return relative probabilities of frames with shape=(n_frames,), float64."""
    nearest = _clusters(invariants)
    sizes = np.bincount(nearest.numpy())
    least = len(invariants) / (_SMALL * np.count_nonzero(sizes))
    return torch.from_numpy(1.0 / np.maximum(sizes, least))[nearest]


def _clusters(points: torch.Tensor) -> torch.Tensor:
    """Return to which centre each point is nearest; each next centre is the point furthest from those before."""
    distances = torch.full((len(points),), torch.inf, dtype=points.dtype)
    nearest = torch.zeros(len(points), dtype=torch.int64)
    centre = points.mean(0)
    for k in range(min(_N_CLUSTERS, len(points))):
        if k:
            centre = points[int(distances.argmax())]
        found = (points - centre).square().sum(1)
        closer = found < distances
        distances = torch.where(closer, found, distances)
        nearest[closer] = k
    return nearest
