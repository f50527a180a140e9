"""An openmmtools move that walks at random in the latent space of a trained flow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.geometry import wrap
from openmm_bg.mcmc.proposal_move import ProposalMove
from openmm_bg.mcmc.randomness import log_uniform, random_generator
from openmm_bg.mcmc.target import Target, log_density_where_finite

if TYPE_CHECKING:
    import os

    from openmm_bg.flows import Flow
    from openmm_bg.generator import BoltzmannGenerator

_LARGEST_STEP = 10.0  # latents are of order one
_LARGEST_BATCH = 256


class LatentMonteCarloMove(ProposalMove):
    r"""Metropolis Monte Carlo with random displacements of a flow's latents.

    Each step draws the flow's auxiliary momenta p, if it has any, from the target's density a; maps the current
    configuration and p to latents v; displaces them, v' = v + s xi with standard normal xi; maps v' back to a
    configuration x' and momenta p'; and accepts x' with the probability

    .. math:: \min\Bigl\{1, \frac{e^{-u(x')}\, a(p')\, |\partial(x', p') / \partial v'|}
                                 {e^{-u(x)}\, a(p)\, |\partial(x, p) / \partial v|}\Bigr\}

    with u the reduced potential of the host's thermodynamic state. The displacement is symmetric, so that this is
    the Metropolis-Hastings ratio in latent space, and it is exact for every flow; the determinants cancel only if
    the flow preserves volume. Both come from the flow's forward pass on Cartesian positions in double precision,
    for a proposal on the positions that the inverse pass has built, whose latents are v' up to rounding.

    The width s is ``step_size`` for latents that are angles, and ``step_size * sqrt(T / T_train)`` for
    the others: it goes with the width of the flow's base, which for angles is the whole circle at every
    temperature. Displaced angles are wrapped. A proposal takes over the position of the current configuration's
    seed atom and its orientation, as in `FlowMove`, so the chain is exact for Cartesian positions; use it in a
    `SequenceMove` with dynamics.

    *Tuning.* The first ``n_tuning`` proposals tune the step size towards ``target_acceptance`` (Robbins and Monro
    1951; Andrieu and Thoms 2008), and then it is frozen. Samples from before are not exact: discard the
    iterations until `is_tuned`. openmmtools gives each thermodynamic state its own copy of the move,
    which is thus tuned for its temperature.

    *Prefetching* (Brockwell 2006). Until a proposal is accepted, the next one starts from the same configuration.
    So a batch of proposals is made from it at once, offered in turn up to the first acceptance, and the rest is
    thrown away unseen: the chain is that of single steps.

    After an acceptance all velocities are drawn from the Maxwell-Boltzmann distribution. Random
    numbers come from `openmm_bg.mcmc.seed`'s stream.

    Source: Dibak et al., Temperature-steerable flows (2021), section "Sampling and latent Monte Carlo".

    Args:
        model: The directory of a saved model, or a generator that was saved to or loaded from one.
        n_proposals: Steps in each call.
        step_size: The width of displacements, before it is tuned.
        target_acceptance: The fraction of accepted proposals that tuning aims at.
        n_tuning: How many proposals tune the step size; 0 keeps it as it is.
        reassign_velocities: Draw new velocities in every call, see `FlowMove`.
        timestep: The time step [ps] of a leap-frog integrator that continues, see `FlowMove`.

    Attributes:
        step_size: The width of displacements.
        n_tuning_left: How many proposals are still to tune the step size.
        n_accepted: Proposals accepted so far, those that tuned included.
        n_proposed: Proposals made so far.
        n_nonfinite: Proposals rejected so far since they had no finite energy or density.

    Raises:
        ModelFileError: If there is no model, or it is damaged.
        InputError: If another argument cannot be used.
    """

    _SETTINGS: ClassVar = (*ProposalMove._SETTINGS, "target_acceptance", "n_tuning")
    _STATISTICS: ClassVar = {**ProposalMove._STATISTICS, "step_size": float, "n_tuning_left": int}

    def __init__(
        self,
        model: str | os.PathLike | BoltzmannGenerator,
        n_proposals: int = 16,
        step_size: float = 0.1,
        target_acceptance: float = 0.25,
        n_tuning: int = 1000,
        reassign_velocities: bool = False,
        timestep: Any = None,
    ) -> None:
        """Load the model, unless this process has it already."""
        super().__init__(model, n_proposals, reassign_velocities, timestep)
        if not (isinstance(step_size, int | float) and 0 < step_size <= _LARGEST_STEP):
            raise InputError(f"step_size must be above 0 and at most {_LARGEST_STEP:g}, not {step_size!r}.")
        if not (isinstance(target_acceptance, int | float) and 0 < target_acceptance < 1):
            raise InputError(f"target_acceptance must be between 0 and 1, not {target_acceptance!r}.")
        if not isinstance(n_tuning, int | np.integer) or n_tuning < 0:
            raise InputError(f"n_tuning must be a whole number that is not negative, not {n_tuning!r}.")
        self.step_size = float(step_size)
        self.target_acceptance = float(target_acceptance)
        self.n_tuning = self.n_tuning_left = int(n_tuning)

    @property
    def is_tuned(self) -> bool:
        """Whether the step size is frozen, and the chain thereby exact."""
        return self.n_tuning_left == 0

    def _steps(self, target: Target, start: torch.Tensor) -> torch.Tensor:
        """Offer batches of proposals, each up to its first acceptance."""
        current, remaining = start, self.n_proposals
        while remaining:
            size = self._batch_size(remaining)
            proposals, proposed, own = self._propose(target, current, size)
            ratios = target.log_ratios(proposed, own)
            accepted = np.flatnonzero(log_uniform(size) <= ratios)[:1]
            n_used = int(accepted[0]) + 1 if len(accepted) else size
            if len(accepted):
                current = proposals[accepted[0]]
            self._count(proposed[:n_used], len(accepted))
            self._tune(ratios[:n_used])
            remaining -= n_used
        return current

    def _batch_size(self, remaining: int) -> int:
        """Return how many proposals to make at once: twice as many as are expected to be offered."""
        acceptance = (self.n_accepted + 1) / (self.n_proposed + 4)
        # The chain does not depend on the size, but tuning ends after its last proposal.
        return min(math.ceil(2 / acceptance), _LARGEST_BATCH, remaining, self.n_tuning_left or _LARGEST_BATCH)

    def _propose(
        self, target: Target, current: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Make n proposals from one configuration, each with momenta of its own.

        Returns:
            Positions [nm] with shape=(n, n_atoms, 3), the proposals' log-weights and those of the
            current configuration with its momenta, each with shape=(n,).
        """
        flow = target.flow
        own_momenta = target.sample_momenta(n)
        z, own_logabsdet = _latents(flow, current.expand(n, -1, -1), own_momenta)
        self._refuse_outside(float(own_logabsdet[0]))

        z = _displaced(z, flow.circular, self.step_size, flow.ratio(target.temperature))
        features, momenta = flow.parted(flow.state_inverse(z)[0])
        proposals, _ = flow.coordinates.inverse(features, frame=current)
        logabsdet = log_density_where_finite(lambda x, p: _latents(flow, x, p)[1], proposals, momenta)

        reduced = target.reduced_energies(torch.cat([current[None], proposals]))
        # |dv/d(x, p)| is a density: that of all latents, mapped to positions and momenta.
        proposed = target.log_weights(reduced[1:], momenta, logabsdet)
        own = target.log_weights(reduced[:1], own_momenta, own_logabsdet.numpy())
        return proposals, proposed, own

    def _tune(self, ratios: np.ndarray) -> None:
        """Take a step of Robbins and Monro for each proposal, given their log-ratios with shape=(n,)."""
        if self.is_tuned:
            return
        first = self.n_tuning - self.n_tuning_left + 1
        gains = np.arange(first, first + len(ratios)) ** -0.6
        excess = np.exp(np.minimum(ratios, 0.0)) - self.target_acceptance
        self.step_size = float(min(self.step_size * np.exp(gains @ excess), _LARGEST_STEP))
        self.n_tuning_left -= len(ratios)


def _latents(flow: Flow, positions: torch.Tensor, momenta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents v with shape=(batch, n_latents), and log|dv / d(x, p)|, which is -inf outside the domain."""
    state, coordinates_logabsdet, outside = flow.state_of(positions, momenta)
    z, logabsdet = flow.state_forward(state)
    return z, torch.where(outside, -torch.inf, coordinates_logabsdet + logabsdet)


def _displaced(z: torch.Tensor, circular: torch.Tensor, step_size: float, ratio: float) -> torch.Tensor:
    """Displace latents by a symmetric step; its width does not depend on the latents.

    Args:
        z: Latents with shape=(batch, n_latents).
        circular: Which are angles, with shape=(n_latents,).
        step_size: The width of the step.
        ratio: T / T_train, by whose root the width of the others is multiplied.
    """
    step = step_size * torch.randn(z.shape, dtype=z.dtype, generator=random_generator())
    step[:, ~circular] *= math.sqrt(ratio)
    return torch.where(circular, wrap(z + step), z + step)
