"""An openmmtools move through a coarse-grained model: beads first, then atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from openmm_bg.coarse_graining.bead_energy import BeadPotential
from openmm_bg.coarse_graining.bead_sampling import BEAD_MASS
from openmm_bg.coarse_graining.noisy_map import NoisyMap
from openmm_bg.errors import InputError
from openmm_bg.mcmc.proposal_move import ProposalMove, refuse_outside
from openmm_bg.mcmc.randomness import log_uniform, random_generator
from openmm_bg.mcmc.target import Target
from openmm_bg.models import COARSE_GRAINED
from openmm_bg.simulation import HybridMonteCarlo

if TYPE_CHECKING:
    import os

    from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator


class _States(NamedTuple):
    """Configurations of independent chains, their beads, and the logarithms of the target and of rho p_inv / r."""

    positions: torch.Tensor
    beads: torch.Tensor
    log_target: torch.Tensor
    log_density: torch.Tensor

    @property
    def log_weights(self) -> torch.Tensor:
        """The logarithms of the target over the density; -inf where the target is zero."""
        difference = self.log_target - torch.nan_to_num(self.log_density, neginf=0.0)
        return torch.where(torch.isfinite(self.log_density), difference, -torch.inf)

    def where(self, accepted: torch.Tensor, other: _States) -> _States:
        """Return these states where they are accepted, and the other ones elsewhere."""
        return _States(
            *(
                torch.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(self, other, strict=True)
            )
        )


class CoarseGrainedMove(ProposalMove):
    r"""Metropolis-Hastings with new beads from a kernel that keeps rho, and new atoms from the backmapping flow.

    The beads z of the current configuration x go through ``n_trajectories`` of hybrid Monte Carlo with the
    bead energy, a kernel that is reversible for rho, and atoms x' are drawn from p_inv(x' | z'). This is
    accepted with the probability

    .. math:: \min\{1, \frac{\pi(x') \, \rho(z) \, p_{inv}(x | z)}{\pi(x) \, \rho(z') \, p_{inv}(x' | z')}\}

    where pi is the Boltzmann distribution of the host's thermodynamic state. The beads of a noisy map are
    first drawn from r(z | x), and the ratio gets the factor r(z' | x') / r(z | x). In contrast to `FlowMove`
    the proposal is not independent of the current configuration: bead energies that are only locally right do
    no harm.

    After an acceptance all velocities are drawn from the Maxwell-Boltzmann distribution. Random numbers come from
    `openmm_bg.mcmc.seed`'s stream.

    Args:
        model: The directory of a saved `CoarseGrainedGenerator`, or one that was saved to or loaded from there.
        n_proposals: Proposals in each call, one after the other.
        n_trajectories: Trajectories of hybrid Monte Carlo before each proposal.
        reassign_velocities: As of `FlowMove`.
        timestep: As of `FlowMove`.

    Attributes:
        n_accepted: Proposals accepted so far.
        n_proposed: Proposals made so far.
        n_nonfinite: Proposals rejected so far since they had no finite energy or density.

    Raises:
        ModelFileError: If there is no model, it is damaged, or it is not coarse-grained.
        InputError: If another argument cannot be used.
    """

    _MODEL: ClassVar[str] = COARSE_GRAINED
    _SETTINGS: ClassVar[tuple[str, ...]] = (
        "n_proposals",
        "n_trajectories",
        "reassign_velocities",
        "timestep",
    )

    def __init__(
        self,
        model: str | os.PathLike | CoarseGrainedGenerator,
        n_proposals: int = 4,
        n_trajectories: int = 2,
        reassign_velocities: bool = False,
        timestep: Any = None,
    ) -> None:
        """Load the model, unless this process has it already."""
        if not isinstance(n_trajectories, int | np.integer) or n_trajectories < 1:
            raise InputError(f"n_trajectories must be a positive whole number, not {n_trajectories!r}.")
        self.n_trajectories = int(n_trajectories)
        super().__init__(model, n_proposals, reassign_velocities, timestep)

    def _steps(self, target: Target, start: torch.Tensor) -> torch.Tensor:
        """Propose one configuration after the other."""
        ends, n_accepted = self.chains(target, start[None])
        return ends[0] if n_accepted else start

    def chains(self, target: Target, starts: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Make the steps of independent chains at once.

        Args:
            target: What the steps have to keep.
            starts: Configurations [nm] with shape=(n_chains, n_atoms, 3), float64.

        Returns:
            Their ends with the same shape, and how many proposals were accepted.

        Raises:
            InputError: If a start is outside the model's domain.
        """
        current = self._states(target, starts, self.generator.coarse_map.draw(starts, random_generator()))
        refuse_outside(self.model, float(current.log_density.min()))
        log_weights, n_all = [], 0
        for k in range(self.n_proposals):
            if k and isinstance(
                self.generator.coarse_map, NoisyMap
            ):  # its beads are drawn for every proposal
                beads = self.generator.coarse_map.draw(current.positions, random_generator())
                log_density = self.generator.log_density(current.positions, beads)
                current = current._replace(beads=beads, log_density=log_density)
            proposed = self._propose(target, current)
            log_weights.append(proposed.log_weights.numpy())
            log_ratios = target.log_ratios(log_weights[-1], current.log_weights.numpy())
            accepted = log_uniform(len(starts)) <= log_ratios
            current = proposed.where(torch.from_numpy(accepted), current)
            n_all += int(accepted.sum())
        self._count(np.concatenate(log_weights), n_all)
        return current.positions, n_all

    def _propose(self, target: Target, current: _States) -> _States:
        """Return new beads with new atoms; the target is zero where there is no configuration."""
        model, generator = self.generator, random_generator()
        walkers = HybridMonteCarlo(
            BeadPotential(model.energy),
            current.beads,
            [BEAD_MASS] * model.energy.n_beads,
            model.temperature,
            n_leapfrog=model.sampling.n_leapfrog,
            timestep=model.sampling.timestep,
            generator=generator,
        )
        walkers.step(self.n_trajectories)
        positions, _ = model.flow.sample(walkers.positions, generator=generator, frame=current.positions)
        return self._states(target, positions, walkers.positions)

    def _states(self, target: Target, positions: torch.Tensor, beads: torch.Tensor) -> _States:
        inside = torch.isfinite(positions).all(dim=(1, 2))
        log_density = torch.full((len(positions),), -torch.inf, dtype=torch.float64)
        if inside.any():
            log_density[inside] = self.generator.log_density(positions[inside], beads[inside])
        reduced = torch.from_numpy(np.asarray(target.reduced_energies(positions), dtype=np.float64))
        log_target = torch.where(torch.isfinite(reduced), -reduced, -torch.inf)
        return _States(positions, beads, log_target, log_density)
