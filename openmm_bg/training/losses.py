"""The losses of Boltzmann generators: by example, by energy, and by energies of the examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from openmm_bg.flows.base import Flow
from openmm_bg.potentials.base import Potential
from openmm_bg.units import thermal_energy


def maximum_likelihood(log_q: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-density of data, from their log-densities with shape=(batch,).

    Source: Noe et al. (2019), J_ML; Dibak et al. (2021), equation 5.
    """
    return -log_q.mean()


def log_dispersion(log_q: torch.Tensor, reduced_energies: torch.Tensor, bound: float = 6.0) -> torch.Tensor:
    """Return the variance of log q + u over data of the Boltzmann distribution.

    It is zero exactly when q is that distribution, and uses the energies that the simulation has computed
    anyway. Unlike the gradient of maximum likelihood, its gradient vanishes for every batch at the optimum.

    Args:
        log_q: Log-densities with shape=(batch,), up to a constant.
        reduced_energies: Energies in kT with shape=(batch,).
        bound: Deviations from the mean count up to this many kT, so that outliers do not own the gradient.

    Source: arXiv 2602.03729 (off-policy log-dispersion regularisation).
    """
    deviation = log_q + reduced_energies
    deviation = deviation - deviation.mean().detach()
    return deviation.clamp(-bound, bound).var()


@dataclass
class ReverseKL:
    """The Kullback-Leibler divergence KL(q || p) at the training temperature, up to a constant.

    Of a flow with momenta it is that of the joint densities.

    Args:
        potential: The potential, in the network's precision.
        temperature: The training temperature [K].
        energy_cut: Reduced energies above it grow only logarithmically *in the loss* (never in weights), so
            that a clash does not own the gradient.

    Source: Noe et al. (2019), J_KL; Dibak et al. (2021), equation 6.
    """

    potential: Potential
    temperature: float
    energy_cut: float

    def __call__(self, flow: Flow, n: int, generator: torch.Generator) -> tuple[torch.Tensor, float]:
        """Draw n samples.

        Returns:
            The loss and the samples' effective fraction (ESS / n, unclipped).
        """
        z = flow.sample_base(n, 1.0, generator)
        state, logabsdet = flow.state_inverse(z)
        features, momenta = flow.parted(state)
        positions, _ = flow.coordinates.inverse(features)
        log_expansion = logabsdet + flow.momenta_log_prob(momenta)
        reduced = self.potential.energy(positions) / thermal_energy(self.temperature)
        finite = torch.isfinite(reduced)
        reduced = torch.where(finite, reduced, 0.0)
        excess = (reduced - self.energy_cut).clamp_min(0.0)
        tamed = torch.where(excess > 0, self.energy_cut + torch.log1p(excess), reduced)
        loss = torch.where(finite, tamed - log_expansion, 0.0).sum() / finite.sum().clamp_min(1)
        with torch.no_grad():
            log_weights = torch.where(
                finite, log_expansion - flow.base_log_prob(z) - reduced, -torch.inf
            ).double()
            weights = torch.softmax(log_weights, 0)
            ess = float(1.0 / weights.square().sum() / n)
        return loss, ess
