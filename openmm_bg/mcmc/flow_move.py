"""An openmmtools move that proposes whole configurations from a trained flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.mcmc.proposal_move import ProposalMove, refuse_outside
from openmm_bg.mcmc.randomness import log_uniform, random_generator
from openmm_bg.mcmc.target import Target, log_density_where_finite

if TYPE_CHECKING:
    import os

    from openmm_bg.generator import BoltzmannGenerator


class FlowMove(ProposalMove):
    r"""Independence Metropolis-Hastings with a Boltzmann generator's flow as the proposal density.

    In each call ``n_proposals`` configurations y are drawn from the flow q at the host's temperature
    and offered one after the other to the current configuration x, with the acceptance probability
    (Hastings 1970)

    .. math:: \min\{1, \exp[-u(y) + u(x) - \log q(y) + \log q(x)]\}

    where u is the reduced potential of the host's thermodynamic state, whatever its system is. All
    densities come from the same ``flow.joint_log_prob`` and all energies from one batch. A proposal takes
    over the position of the current configuration's seed atom and its orientation, so that the chain
    is exact for Cartesian positions, restraints in the lab frame included. Since the frame stays, and
    a flow may miss what it was not trained on, use the move in a `SequenceMove` with dynamics.

    A flow with auxiliary momenta p (`TemperatureSteerableFlow`) has a joint density q(x, p), and the target is
    exp(-u(x)) a(p). Each call first draws momenta for the current configuration from a, which is a Gibbs step;
    the proposals come with momenta from the flow, q(x) in the formula becomes q(x, p) / a(p), accepted momenta
    stay with their configuration for the rest of the call, and are then forgotten. The chain is exact for
    positions, since the target's are independent of its momenta.

    After an acceptance all velocities are drawn from the Maxwell-Boltzmann distribution. Random
    numbers come from `openmm_bg.mcmc.seed`'s stream.

    Args:
        model: The directory of a saved model, or a generator that was saved to or loaded from one.
        n_proposals: Proposals in each call.
        reassign_velocities: Draw new velocities in every call, not only after an acceptance. In a
            replica-exchange run of short dynamics this keeps the exchanges exact, since openmmtools
            hands velocities to another temperature as they are.
        timestep: The time step [ps] of a leap-frog integrator that continues from the new velocities, as
            openmmtools' `LangevinDynamicsMove` does. It keeps velocities half a step behind the positions;
            velocities drawn for the positions' own time would set stiff bonds ringing (in alanine dipeptide
            at 1 fs, by 2 kT within 10 fs), which biases short runs; see `new_velocities`. It costs three more
            evaluations of forces. Leave it out before moves that keep both at the
            same time, e.g. `HMCMove`, `GHMCMove`, `LangevinSplittingDynamicsMove`.

    Attributes:
        n_accepted: Proposals accepted so far.
        n_proposed: Proposals made so far.
        n_nonfinite: Proposals rejected so far since they had no finite energy or density.

    Raises:
        ModelFileError: If there is no model, or it is damaged.
        InputError: If another argument cannot be used.
    """

    def __init__(
        self,
        model: str | os.PathLike | BoltzmannGenerator,
        n_proposals: int = 16,
        reassign_velocities: bool = False,
        timestep: Any = None,
    ) -> None:
        """Load the model, unless this process has it already."""
        super().__init__(model, n_proposals, reassign_velocities, timestep)

    def _steps(self, target: Target, start: torch.Tensor) -> torch.Tensor:
        """Draw all proposals at once, and offer them in turn."""
        positions, log_weights = draw_candidates(self, target, start, self.n_proposals)
        thresholds = log_uniform(len(log_weights))
        n_accepted = chosen = 0
        for k in range(1, len(log_weights)):
            if thresholds[k] <= target.log_ratios(log_weights[k], log_weights[chosen]):
                n_accepted, chosen = n_accepted + 1, k
        self._count(log_weights[1:], n_accepted)
        return positions[chosen] if n_accepted else start


def draw_candidates(
    move: ProposalMove, target: Target, start: torch.Tensor, n: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Draw configurations from the flow, in the frame of the current one.

    Args:
        move: The move that does.
        target: What it has to keep.
        start: The current configuration [nm] with shape=(n_atoms, 3), float64.
        n: How many configurations to draw.

    Returns:
        The current configuration and after it those drawn [nm] with shape=(n + 1, n_atoms, 3), and the
        logarithms of their weights, the target over the flow's density, with shape=(n + 1,).

    Raises:
        InputError: If the current configuration has no density.
    """
    flow, temperature = target.flow, target.temperature
    own_momenta = target.sample_momenta(1)
    own_log_q = log_density_where_finite(
        lambda x, p: flow.joint_log_prob(x, p, temperature), start[None], own_momenta
    )
    refuse_outside(move.model, own_log_q[0])
    drawn, drawn_momenta, log_q = flow.joint_sample(n, temperature, generator=random_generator(), frame=start)
    positions = torch.cat([start[None], drawn])
    momenta = torch.cat([own_momenta, drawn_momenta])
    # A configuration from which the move could not come back must not be taken, were it by rounding alone.
    outside = log_density_where_finite(
        lambda x, p: torch.where(flow.in_domain(x), 0.0, -torch.inf), drawn, drawn_momenta
    )
    log_q = np.concatenate([own_log_q, log_q.numpy() + outside])
    return positions, target.log_weights(target.reduced_energies(positions), momenta, log_q)
