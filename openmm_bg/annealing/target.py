"""The Boltzmann distribution at any temperature, in the space of a flow's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from openmm_bg import statistics
from openmm_bg.annealing.buffer import Labelled
from openmm_bg.annealing.importance_sampling import AnnealedImportanceSampling
from openmm_bg.flows import PositionFlow
from openmm_bg.potentials.base import Potential
from openmm_bg.units import thermal_energy


@dataclass(frozen=True)
class RoundFigures:
    """What a round of samples says at one temperature.

    Attributes:
        temperature: The temperature [K].
        log_z: The logarithm of the partition function of the target.
        ess: The effective sample size as a fraction, of unclipped weights.
        n_clipped: How many weights were clipped before resampling.
        clipped_mass: The part of all weight that clipping took away.
    """

    temperature: float
    log_z: float
    ess: float
    n_clipped: int
    clipped_mass: float


class Target:
    """The target of the flow: energies are evaluated here, and nowhere else in annealing.

    Args:
        potential: The potential, in the precision of the network.
        temperature: The temperature of the flow's training [K].
        energy_margin: Energies this many kT above the median of a round grow only logarithmically in the loss.
        weight_clip: The part of a round, its largest weights, that is clipped before resampling.
        importance_sampling: Moves samples after they are drawn, or None.
    """

    def __init__(
        self,
        potential: Potential,
        temperature: float,
        *,
        energy_margin: float,
        weight_clip: float,
        importance_sampling: AnnealedImportanceSampling | None = None,
    ) -> None:
        self.potential, self.temperature = potential, temperature
        self.importance_sampling = importance_sampling
        self._energy_margin, self._weight_clip = energy_margin, weight_clip

    def log_density(
        self, flow: PositionFlow, features: torch.Tensor, ratio: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return unnormalised log-densities, tamed energies [kT] for the loss, and log-determinants; shape=(n,).

        The first are -inf where the energy is not finite; the others are finite everywhere.
        """
        positions, logabsdet = flow.coordinates.inverse(features)
        reduced = self.potential.energy(positions) / (ratio * thermal_energy(self.temperature)).to(features)
        outside = ~torch.isfinite(reduced) | ~torch.isfinite(logabsdet)
        logabsdet = torch.where(outside, 0.0, logabsdet)
        finite = reduced.detach()[~outside]
        cut = (float(finite.median()) if len(finite) else 0.0) + self._energy_margin
        excess = (reduced - cut).clamp_min(0.0)
        tamed = torch.where(excess > 0, cut + torch.log1p(excess), reduced)
        tamed = torch.where(outside, cut + math.log(1e30), tamed)
        return torch.where(outside, -torch.inf, logabsdet - reduced), tamed, logabsdet

    def draw(
        self,
        flow: PositionFlow,
        temperatures: Sequence[float],
        sizes: Sequence[int],
        generator: torch.Generator,
        *,
        moved: bool = False,
    ) -> tuple[Labelled, list[RoundFigures]]:
        """Draw samples of the flow and evaluate their energies.

        Args:
            flow: The flow.
            temperatures: Temperatures [K].
            sizes: How many samples at each.
            generator: Source of randomness.
            moved: Whether annealed importance sampling moves them, if there is one; their weights are then those
                for p^2 / q, with the target p and the flow q.

        Returns:
            The samples, and what they say at each temperature.
        """
        parts, figures = [], []
        for temperature, size in zip(temperatures, sizes, strict=True):
            ratio = temperature / self.temperature
            ratios = torch.full((size,), ratio)
            with torch.no_grad():
                z = flow.sample_base(size, ratio, generator)
                features, logabsdet = flow.state_inverse(z, ratio)
                log_q = flow.base_log_prob(z, ratio) - logabsdet
                log_density, tamed, determinant = self.log_density(flow, features, ratios)
            log_weights = torch.where(torch.isfinite(log_q), log_density - log_q, -torch.inf).double()
            log_z = _log_mean(log_weights)
            if moved and self.importance_sampling is not None:
                features, log_weights = self._moved(flow, features, ratios, generator)
                with torch.no_grad():
                    _, tamed, determinant = self.log_density(flow, features, ratios)
            weights, n_clipped, clipped_mass = self._clipped(log_weights)
            ess = statistics.effective_sample_size(log_weights.numpy()) if weights.any() else 0.0
            figures.append(RoundFigures(temperature, log_z, ess, n_clipped, clipped_mass))
            kept = torch.isfinite(features).all(1) & torch.isfinite(tamed)
            log_zs = torch.full_like(ratios, log_z)
            labelled = Labelled(features, tamed, determinant.float(), log_zs, ratios, weights.float())
            parts.append(labelled[kept])
        return Labelled.joined(parts), figures

    def _moved(
        self, flow: PositionFlow, features: torch.Tensor, ratios: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        def density(x: torch.Tensor) -> torch.Tensor:
            return self.log_density(flow, x, ratios)[0]

        return self.importance_sampling(flow, density, features, float(ratios[0]), generator)

    def _clipped(self, log_weights: torch.Tensor) -> tuple[torch.Tensor, int, float]:
        """Return weights of mean one before clipping, how many were clipped, and what that took away."""
        weights = (log_weights - _log_mean(log_weights)).exp()
        n_clipped = math.ceil(self._weight_clip * len(weights))
        if not n_clipped or n_clipped >= len(weights) or not weights.any():
            return weights, 0, 0.0
        clipped = weights.clamp_max(
            float(weights.topk(n_clipped + 1).values[-1])
        )  # to the largest that is not
        return clipped, n_clipped, 1.0 - float(clipped.sum() / weights.sum())


def _log_mean(log_weights: torch.Tensor) -> float:
    """Return the logarithm of the mean of weights; zero if none is finite, since nothing is known then."""
    if not torch.isfinite(log_weights).any():
        return 0.0
    return float(torch.logsumexp(log_weights, 0)) - math.log(len(log_weights))
