"""The Boltzmann distribution at any temperature, in the space of a flow's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from openmm_bg import statistics
from openmm_bg.annealing.buffer import Labelled
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
    """

    def __init__(
        self, potential: Potential, temperature: float, *, energy_margin: float, weight_clip: float
    ) -> None:
        self.potential, self.temperature = potential, temperature
        self._energy_margin, self._weight_clip = energy_margin, weight_clip

    def log_density(
        self, flow: PositionFlow, features: torch.Tensor, ratio: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unnormalised log-densities, and tamed ones for the loss, with shape=(n,).

        The first are -inf where the energy is not finite; the others are finite everywhere.
        """
        positions, logabsdet = flow.coordinates.inverse(features)
        reduced = self.potential.energy(positions) / (ratio * thermal_energy(self.temperature)).to(features)
        outside = ~torch.isfinite(reduced) | ~torch.isfinite(logabsdet)
        logabsdet = torch.where(outside, 0.0, logabsdet)
        finite = reduced[~outside]
        cut = (float(finite.median()) if len(finite) else 0.0) + self._energy_margin
        excess = (reduced - cut).clamp_min(0.0)
        tamed = torch.where(excess > 0, cut + torch.log1p(excess), reduced)
        tamed = torch.where(outside, cut + math.log(1e30), tamed)
        log_density = torch.where(outside, -torch.inf, logabsdet - reduced)
        return log_density, logabsdet - tamed

    def draw(
        self,
        flow: PositionFlow,
        temperatures: Sequence[float],
        sizes: Sequence[int],
        generator: torch.Generator,
    ) -> tuple[Labelled, list[RoundFigures]]:
        """Draw samples of the flow and evaluate their energies.

        Args:
            flow: The flow.
            temperatures: Temperatures [K].
            sizes: How many samples at each.
            generator: Source of randomness.

        Returns:
            The samples, and what they say at each temperature.
        """
        parts, figures = [], []
        for temperature, size in zip(temperatures, sizes, strict=True):
            ratio = torch.full((size,), temperature / self.temperature)
            with torch.no_grad():
                z = flow.sample_base(size, float(ratio[0]), generator)
                features, logabsdet = flow.state_inverse(z, float(ratio[0]))
                log_q = flow.base_log_prob(z, float(ratio[0])) - logabsdet
                log_density, tamed = self.log_density(flow, features, ratio)
            one = self._labelled(temperature, features, ratio, log_q, log_density, tamed)
            parts.append(one[0])
            figures.append(one[1])
        return Labelled.joined(parts), figures

    def _labelled(
        self,
        temperature: float,
        features: torch.Tensor,
        ratio: torch.Tensor,
        log_q: torch.Tensor,
        log_density: torch.Tensor,
        tamed: torch.Tensor,
    ) -> tuple[Labelled, RoundFigures]:
        log_weights = torch.where(torch.isfinite(log_q), log_density - log_q, -torch.inf).double()
        finite = bool(torch.isfinite(log_weights).any())
        # Of a round without a single finite energy nothing is known.
        log_z = float(torch.logsumexp(log_weights, 0)) - math.log(len(ratio)) if finite else 0.0
        weights = (log_weights - log_z).exp()
        n_clipped = math.floor(self._weight_clip * len(weights))
        clipped = weights
        if n_clipped:
            clipped = weights.clamp_max(float(weights.topk(n_clipped).values[-1]))
        figures = RoundFigures(
            temperature,
            log_z,
            statistics.effective_sample_size(log_weights.numpy()) if finite else 0.0,
            n_clipped,
            1.0 - float(clipped.sum() / weights.sum()) if finite else 0.0,
        )
        kept = torch.isfinite(features).all(1) & torch.isfinite(tamed)
        labelled = Labelled(features, (tamed.double() - log_z).float(), ratio, clipped.float())
        return labelled[kept], figures
