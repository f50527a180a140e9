"""The distribution that the moves keep: that of the host, and of the flow's auxiliary momenta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from openmm_bg.mcmc.randomness import random_generator

if TYPE_CHECKING:
    from openmm_bg.flows import Flow


@dataclass(frozen=True)
class Target:
    """The distribution exp(-u(x)) a(p) of positions x and the flow's auxiliary momenta p.

    Here u is the reduced potential of the host, and a the normal density of the momenta at its temperature. A flow
    without momenta has arrays of no columns for them, and log a = 0.

    Args:
        flow: The flow, in double precision.
        temperature: The host's temperature [K].
        reduced_energies: Returns u with shape=(batch,), +inf where it is not finite, of configurations [nm]
            with shape=(batch, n_atoms, 3) in float64; NaN is allowed.
        energy_function: Returns a name of the host's energy function that no other one has.
    """

    flow: Flow
    temperature: float
    reduced_energies: Callable[[torch.Tensor], np.ndarray]
    energy_function: Callable[[], str] = str

    def sample_momenta(self, n: int) -> torch.Tensor:
        """Draw momenta with shape=(n, n_momenta); they do not depend on positions."""
        return self.flow.sample_momenta(n, self.temperature, generator=random_generator())

    def log_weights(self, reduced: np.ndarray, momenta: torch.Tensor, log_density: np.ndarray) -> np.ndarray:
        """Return the log of the target over another density, up to a constant; -inf where the weight is zero.

        Args:
            reduced: Reduced energies with shape=(batch,), or (1,) for one configuration with several momenta.
            momenta: Momenta with shape=(batch, n_momenta).
            log_density: Logarithms of the other density with shape=(batch,).

        Returns:
            Log-weights with shape=(batch,); -inf also where the other density is zero, so that it could not have
            proposed this.
        """
        log_momenta = self.flow.momenta_log_prob(momenta, self.temperature).numpy()
        with np.errstate(invalid="ignore"):
            log_weights = -reduced + log_momenta - log_density
        return np.where(np.isfinite(reduced) & np.isfinite(log_density), log_weights, -np.inf)

    @staticmethod
    def log_ratios(proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Return differences of log-weights, which are accepted with probability min(1, exp(difference)).

        Where the proposal has no weight the result is -inf, even if the current configuration has none either.
        """
        with np.errstate(invalid="ignore"):
            return np.where(np.isneginf(proposed), -np.inf, proposed - current)


def log_density_where_finite(
    log_density: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    positions: torch.Tensor,
    momenta: torch.Tensor,
) -> np.ndarray:
    """Evaluate a log-density with shape=(batch,); what is not finite is outside the domain and gets -inf."""
    finite = torch.isfinite(positions).all(dim=(1, 2)) & torch.isfinite(momenta).all(dim=1)
    result = torch.full((len(positions),), -torch.inf, dtype=torch.float64)
    if finite.any():
        result[finite] = log_density(positions[finite], momenta[finite]).to(torch.float64)
    return result.numpy()
