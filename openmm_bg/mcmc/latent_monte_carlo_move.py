"""An openmmtools move that walks at random in the latent space of a trained flow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.geometry import wrap
from openmm_bg.mcmc.proposal_move import ProposalMove, refuse_outside
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
    configuration and p to latents v; displaces them; maps the displaced v' back to a configuration x' and momenta
    p'; and accepts x' with the probability

    .. math:: \min\Bigl\{1, \frac{e^{-u(x')}\, a(p')\, |\partial(x', p') / \partial v'|\, d(v' \to v)}
                                 {e^{-u(x)}\, a(p)\, |\partial(x, p) / \partial v|\, d(v \to v')}\Bigr\}

    with u the reduced potential of the host's thermodynamic state and d the density of the displacement, which
    makes it exact for every flow. The determinants cancel only if the flow preserves volume. Both come from the
    flow's forward pass on Cartesian positions in double precision, for a proposal on the positions that the
    inverse pass has built, whose latents are v' up to rounding.

    *Displacements.* In both kinds, angles (latents on a circle) diffuse freely: v' = v + s xi, wrapped, with
    standard normal xi and s the ``step_size``. They differ in the latents whose base is normal, of the variance
    T / T_train = r^2. By ``"diffusion"`` these diffuse in the base for the same time s^2,

    .. math:: v' = \rho v + \sqrt{1 - \rho^2}\, r \xi, \quad \rho = e^{-s^2 / 2},

    an Ornstein-Uhlenbeck process, also known as the preconditioned Crank-Nicolson proposal (Cotter et al. 2013).
    It keeps the base: d(v' -> v) / d(v -> v') is the ratio of the base's densities at v and v', and steps of any
    width are accepted if the flow is perfect, however many latents there are; wide steps are
    proposals from the flow that do not depend on v, as those of `FlowMove`. The ``"random_walk"`` of the source,
    v' = v + s r xi, is symmetric, and its steps must get the narrower the more latents there are.

    A proposal takes over the position of the current configuration's seed atom and its orientation, as in
    `FlowMove`, so the chain is exact for Cartesian positions; use it in a `SequenceMove` with dynamics.

    *Tuning.* The first ``n_tuning`` proposals tune the step size towards ``target_acceptance`` (Robbins and Monro
    1951; Andrieu and Thoms 2008), and then it is frozen. Samples from before are not exact: discard the
    iterations until `is_tuned`. openmmtools gives each thermodynamic state its own copy of the move,
    which is thus tuned for its temperature.

    *Prefetching* (Brockwell 2006). Until a proposal is accepted, the next one starts from the same configuration.
    So a batch of proposals is made from it at once, offered in turn up to the first acceptance, and the rest is
    thrown away unseen: the chain is that of single steps.

    After an acceptance all velocities are drawn from the Maxwell-Boltzmann distribution. Random
    numbers come from `openmm_bg.mcmc.seed`'s stream.

    Source: Dibak et al., Temperature-steerable flows (2021), section "Sampling and latent Monte Carlo"; Cotter et
    al., Statistical Science 28, 424 (2013).

    Args:
        model: The directory of a saved model, or a generator that was saved to or loaded from one.
        n_proposals: Steps in each call.
        step_size: The width of displacements, before it is tuned.
        displacement: How latents are displaced, ``"diffusion"`` or ``"random_walk"``.
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

    # The step size is a setting that tuning changes, so it is among the statistics.
    _SETTINGS: ClassVar = (*ProposalMove._SETTINGS, "displacement", "target_acceptance", "n_tuning")
    _STATISTICS: ClassVar = {**ProposalMove._STATISTICS, "step_size": float, "n_tuning_left": int}

    def __init__(
        self,
        model: str | os.PathLike | BoltzmannGenerator,
        n_proposals: int = 16,
        step_size: float = 0.1,
        displacement: Literal["diffusion", "random_walk"] = "diffusion",
        target_acceptance: float = 0.25,
        n_tuning: int = 1000,
        reassign_velocities: bool = False,
        timestep: Any = None,
    ) -> None:
        """Load the model, unless this process has it already."""
        super().__init__(model, n_proposals, reassign_velocities, timestep)
        if not (isinstance(step_size, int | float) and 0 < step_size <= _LARGEST_STEP):
            raise InputError(f"step_size must be above 0 and at most {_LARGEST_STEP:g}, not {step_size!r}.")
        if displacement not in ("diffusion", "random_walk"):
            raise InputError(f"displacement must be 'diffusion' or 'random_walk', not {displacement!r}.")
        if not (isinstance(target_acceptance, int | float) and 0 < target_acceptance < 1):
            raise InputError(f"target_acceptance must be between 0 and 1, not {target_acceptance!r}.")
        if not isinstance(n_tuning, int | np.integer) or n_tuning < 0:
            raise InputError(f"n_tuning must be a whole number that is not negative, not {n_tuning!r}.")
        self.step_size = float(step_size)
        self.displacement = displacement
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
        flow, ratio = target.flow, target.flow.ratio(target.temperature)
        own_momenta = target.sample_momenta(n)
        z, own_density = self._density(flow, current.expand(n, -1, -1), own_momenta, ratio)
        refuse_outside(self.model, float(own_density[0]))

        z = _displaced(z, flow.circular, self.step_size, self.displacement, ratio)
        features, momenta = flow.parted(flow.state_inverse(z, ratio)[0])
        proposals, _ = flow.coordinates.inverse(features, frame=current)
        density = log_density_where_finite(
            lambda x, p: self._density(flow, x, p, ratio)[1], proposals, momenta
        )

        reduced = target.reduced_energies(torch.cat([current[None], proposals]))
        proposed = target.log_weights(reduced[1:], momenta, density)
        own = target.log_weights(reduced[:1], own_momenta, own_density.numpy())
        return proposals, proposed, own

    def _density(
        self, flow: Flow, positions: torch.Tensor, momenta: torch.Tensor, ratio: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents and the density of (x, p) that the displacement alone would keep, see `_latents`.

        It is that of the flow for a diffusion in the base, and for a random walk the image of all latents being
        equally probable.
        """
        z, logabsdet = _latents(flow, positions, momenta, ratio)
        if self.displacement == "random_walk":
            return z, logabsdet
        return z, flow.base_log_prob(z, ratio) + logabsdet

    def _tune(self, ratios: np.ndarray) -> None:
        """Take a step of Robbins and Monro for each proposal, given their log-ratios with shape=(n,)."""
        if self.is_tuned:
            return
        first = self.n_tuning - self.n_tuning_left + 1
        gains = np.arange(first, first + len(ratios)) ** -0.6
        excess = np.exp(np.minimum(ratios, 0.0)) - self.target_acceptance
        self.step_size = float(min(self.step_size * np.exp(gains @ excess), _LARGEST_STEP))
        self.n_tuning_left -= len(ratios)


def _latents(
    flow: Flow, positions: torch.Tensor, momenta: torch.Tensor, ratio: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents v with shape=(batch, n_latents), and log|dv / d(x, p)|, which is -inf outside the domain."""
    state, coordinates_logabsdet, outside = flow.state_of(positions, momenta)
    z, logabsdet = flow.state_forward(state, ratio)
    return z, torch.where(outside, -torch.inf, coordinates_logabsdet + logabsdet)


def _displaced(
    z: torch.Tensor, circular: torch.Tensor, step_size: float, displacement: str, ratio: float
) -> torch.Tensor:
    """Displace latents.

    Args:
        z: Latents with shape=(batch, n_latents).
        circular: Which are angles, with shape=(n_latents,).
        step_size: The width of the step.
        displacement: Which of the two kinds.
        ratio: T / T_train, the variance of the others' base.
    """
    noise = torch.randn(z.shape, dtype=z.dtype, generator=random_generator())
    scale = math.sqrt(ratio)
    if displacement == "random_walk":
        displaced = z + step_size * scale * noise
    else:
        rho = math.exp(-0.5 * step_size**2)
        displaced = rho * z + math.sqrt(-math.expm1(-(step_size**2))) * scale * noise
    return torch.where(circular, wrap(z + step_size * noise), displaced)
