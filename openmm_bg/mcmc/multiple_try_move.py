"""An openmmtools move that chooses among many configurations from a flow at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from scipy.special import logsumexp, softmax

from openmm_bg.errors import InputError
from openmm_bg.mcmc import waste_recycling
from openmm_bg.mcmc.flow_move import draw_candidates
from openmm_bg.mcmc.proposal_move import ProposalMove
from openmm_bg.mcmc.randomness import choose, log_uniform
from openmm_bg.mcmc.target import Target

if TYPE_CHECKING:
    import os

    from openmm_bg.generator import BoltzmannGenerator

RULES = ("metropolis", "resampling")


class MultipleTryMove(ProposalMove):
    r"""Independence moves that choose among many candidates, whose energies are evaluated as one batch.

    A try draws N candidates :math:`y_1 \dots y_N` from the flow at the host's temperature. With the weights
    :math:`w(x) = \exp[-u(x) - \log q(x)]` of `FlowMove`, and the current configuration x, it is exact for any N by
    either ``rule``:

    - ``"metropolis"``, the multiple-try Metropolis independence sampler (Liu, Liang and Wong 2000): y is chosen
      among the candidates with probabilities in proportion to their weights, and accepted with the probability

      .. math:: \min\Bigl\{1, \frac{\sum_k w(y_k)}{\sum_k w(y_k) - w(y) + w(x)}\Bigr\}

    - ``"resampling"``, iterated sampling-importance-resampling (Andrieu, Lee and Vihola 2018): y is chosen among
      the candidates and x, with probabilities in proportion to their weights.

    Off the diagonal the first one's transition probabilities are the larger ones, always; by Peskun's theorem its
    averages have the smaller variance. For N = 1 they are Metropolis' and Barker's rule.

    The batch is the point: on the batched potential a hundred candidates cost little more than one, and a flow
    whose effective sample size is a percent still gives a fresh configuration most of the time. Candidates that
    were not chosen need not be wasted, see `WasteRecycling`.

    Frame, auxiliary momenta and velocities are treated as in `FlowMove`; use the move in a `SequenceMove` with
    dynamics. Random numbers come from `openmm_bg.mcmc.seed`'s stream.

    Source: Liu, Liang and Wong, JASA 95, 121 (2000), section 5; Andrieu, Lee and Vihola, Bernoulli 24, 842 (2018).

    Args:
        model: The directory of a saved model, or a generator that was saved to or loaded from one.
        n_candidates: Candidates of a try.
        n_proposals: Tries in each call, one after the other.
        rule: How the next configuration is chosen, ``"metropolis"`` or ``"resampling"``.
        reassign_velocities: Draw new velocities in every call, see `FlowMove`.
        timestep: The time step [ps] of a leap-frog integrator that continues, see `FlowMove`.

    Attributes:
        n_accepted: Tries so far that changed the configuration.
        n_proposed: Tries so far.
        n_nonfinite: Candidates so far that had no finite energy or density.

    Raises:
        ModelFileError: If there is no model, or it is damaged.
        InputError: If another argument cannot be used.
    """

    _SETTINGS: ClassVar = ("n_candidates", "rule", *ProposalMove._SETTINGS)

    def __init__(
        self,
        model: str | os.PathLike | BoltzmannGenerator,
        n_candidates: int = 64,
        n_proposals: int = 1,
        rule: Literal["metropolis", "resampling"] = "metropolis",
        reassign_velocities: bool = False,
        timestep: Any = None,
    ) -> None:
        """Load the model, unless this process has it already."""
        super().__init__(model, n_proposals, reassign_velocities, timestep)
        if not isinstance(n_candidates, int | np.integer) or n_candidates < 1:
            raise InputError(f"n_candidates must be a positive whole number, not {n_candidates!r}.")
        if rule not in RULES:
            raise InputError(f"rule must be {' or '.join(map(repr, RULES))}, not {rule!r}.")
        self.n_candidates = int(n_candidates)
        self.rule = rule

    def _steps(self, target: Target, start: torch.Tensor) -> torch.Tensor:
        """Draw the candidates of all tries at once, and make one try after the other."""
        positions, log_weights = draw_candidates(self, target, start, self.n_proposals * self.n_candidates)
        n_accepted = current = 0
        for first in range(1, len(log_weights), self.n_candidates):
            members = np.r_[current, first : first + self.n_candidates]
            log_w = log_weights[members]
            if waste_recycling.is_wanted() and np.isfinite(log_w).any():
                waste_recycling.record(
                    target.temperature, positions[members], softmax(log_w), target.energy_function()
                )
            chosen = members[self._choose(target, log_w)]
            n_accepted, current = n_accepted + int(chosen != current), chosen
        self.n_proposed += self.n_proposals
        self.n_accepted += n_accepted
        self.n_nonfinite += int(np.isneginf(log_weights[1:]).sum())
        return positions[current] if current else start

    def _choose(self, target: Target, log_w: np.ndarray) -> int:
        """Return which of some configurations is next, given their log-weights; the first is the current one."""
        if not np.isfinite(log_w[1:]).any():
            return 0
        if self.rule == "resampling":
            return choose(log_w)
        chosen = 1 + choose(log_w[1:])
        others = np.delete(log_w, chosen)
        backward = logsumexp(others) if np.isfinite(others).any() else -np.inf
        return chosen if log_uniform(1) <= target.log_ratios(logsumexp(log_w[1:]), backward) else 0
