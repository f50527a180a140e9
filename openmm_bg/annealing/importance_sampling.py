"""Annealed importance sampling: a flow's samples are moved to where its density is too low."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from openmm_bg.flows import PositionFlow

_WANTED_ACCEPTANCE = 0.65

Density = Callable[[torch.Tensor], torch.Tensor]
"""Log-densities with shape=(n,), not normalised, of features with shape=(n, n_features)."""


@dataclass(frozen=True)
class Points:
    """Features with both densities and their gradients.

    Attributes:
        features: Features with shape=(n, n_features).
        log_q: Log-densities of the flow with shape=(n,).
        log_p: Those of the target, not normalised, with shape=(n,).
        gradient_q: Gradients of log_q with shape=(n, n_features).
        gradient_p: Gradients of log_p with shape=(n, n_features).
    """

    features: torch.Tensor
    log_q: torch.Tensor
    log_p: torch.Tensor
    gradient_q: torch.Tensor
    gradient_p: torch.Tensor

    def log_density(self, beta: float) -> torch.Tensor:
        """Return the log-density of an intermediate distribution, q (p / q)^(2 beta)."""
        return self.log_q + 2.0 * beta * (self.log_p - self.log_q)

    def gradient(self, beta: float) -> torch.Tensor:
        """Return its gradient; zero where it is not finite."""
        gradient = self.gradient_q + 2.0 * beta * (self.gradient_p - self.gradient_q)
        return torch.where(torch.isfinite(gradient).all(1, keepdim=True), gradient, 0.0)

    def where(self, mask: torch.Tensor, other: Points) -> Points:
        """Return these points where the mask is true, and others elsewhere."""
        chosen = {}
        for name, tensor in vars(self).items():
            shaped = mask if tensor.ndim == 1 else mask[:, None]
            chosen[name] = torch.where(shaped, tensor, getattr(other, name))
        return replace(self, **chosen)


class AnnealedImportanceSampling:
    """Moves samples of q in steps towards p^2 / q, the density of least variance for the square of the weights.

    Between the intermediate distributions q (p / q)^(2 beta) samples take a trajectory of Hamiltonian Monte Carlo,
    in the space of the flow's features, and gather log-weights. The step size follows the acceptance.

    Source: Neal, Stat. Comput. 11, 125 (2001); Midgley et al. (2023), Flow annealed importance sampling bootstrap.

    Args:
        n_distributions: Intermediate distributions, the last one included.
        n_leapfrog: Time steps of a trajectory.
        step_size: Time step at the start, in units of the features.
    """

    def __init__(self, n_distributions: int, n_leapfrog: int = 5, step_size: float = 0.05) -> None:
        self.n_distributions, self.n_leapfrog, self.step_size = n_distributions, n_leapfrog, step_size

    def __call__(
        self,
        flow: PositionFlow,
        density: Density,
        features: torch.Tensor,
        ratio: float,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move samples.

        Args:
            flow: The flow q.
            density: The target p at one temperature.
            features: Samples of q with shape=(n, n_features).
            ratio: Their temperature as T / T_train.
            generator: Source of randomness.

        Returns:
            The samples, and their log-weights with regard to p^2 / q, not normalised.
        """

        def evaluate(x: torch.Tensor) -> Points:
            return _points(flow, density, x, ratio)

        points = evaluate(features)
        log_weights = torch.zeros(len(features), dtype=torch.float64)
        accepted = 0.0
        for k in range(1, self.n_distributions + 1):
            gain = (2.0 / self.n_distributions) * (points.log_p - points.log_q).double()
            log_weights = log_weights + torch.where(torch.isnan(gain), -torch.inf, gain)
            points, share = self._trajectory(
                points, k / self.n_distributions, evaluate, flow.circular, generator
            )
            accepted += share / self.n_distributions
        self.step_size *= math.exp(0.2 * (accepted - _WANTED_ACCEPTANCE))
        return points.features, log_weights

    def _trajectory(
        self,
        start: Points,
        beta: float,
        evaluate: Callable[[torch.Tensor], Points],
        circular: torch.Tensor,
        generator: torch.Generator,
    ) -> tuple[Points, float]:
        """Take one trajectory and accept it or not; return the points and the share that was accepted."""
        step = self.step_size
        momenta = torch.randn(start.features.shape, generator=generator).to(start.features)
        old = start.log_density(beta).double() - 0.5 * momenta.double().square().sum(1)
        points = start
        momenta = momenta + 0.5 * step * points.gradient(beta)
        for i in range(self.n_leapfrog):
            moved = points.features + step * momenta
            wrapped = torch.remainder(moved + math.pi, 2.0 * math.pi) - math.pi
            points = evaluate(torch.where(circular, wrapped, moved))
            last = i == self.n_leapfrog - 1
            momenta = momenta + (0.5 if last else 1.0) * step * points.gradient(beta)
        new = points.log_density(beta).double() - 0.5 * momenta.double().square().sum(1)
        uniform = torch.rand(len(new), generator=generator, dtype=torch.float64)
        accepted = uniform.log() < new - old  # never if it is NaN
        return points.where(accepted, start), float(accepted.double().mean())


def _points(flow: PositionFlow, density: Density, features: torch.Tensor, ratio: float) -> Points:
    with torch.enable_grad():
        x = features.detach().clone().requires_grad_()
        log_q = flow.state_log_prob(x, ratio)
        (gradient_q,) = torch.autograd.grad(log_q.sum(), x)
        x = features.detach().clone().requires_grad_()
        log_p = density(x)
        (gradient_p,) = torch.autograd.grad(torch.where(torch.isfinite(log_p), log_p, 0.0).sum(), x)
    return Points(features, log_q.detach(), log_p.detach(), gradient_q, torch.nan_to_num(gradient_p))
