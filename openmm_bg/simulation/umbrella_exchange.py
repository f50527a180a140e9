"""Exchange between the windows of umbrella sampling."""

from __future__ import annotations

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.simulation.checks import whole_number
from openmm_bg.simulation.langevin import LangevinDynamics
from openmm_bg.simulation.torsion_bias import TorsionBias
from openmm_bg.units import BOLTZMANN_CONSTANT


class UmbrellaExchange:
    """Dynamics of walkers in windows of one torsion; neighbouring windows of each ladder exchange their walkers.

    Walker ``k * n_ladders + ladder`` begins in window k. Walkers keep positions and velocities when they exchange:
    it is the bias that changes hands, accepted by Metropolis with the change of both biases together.

    Source: Sugita, Kitao and Okamoto, J. Chem. Phys. 113, 6042 (2000).

    Args:
        dynamics: Walkers on a `TorsionBias` with one torsion, centred at the windows in which they begin.
        n_ladders: The number of ladders.

    Attributes:
        dynamics: As given.
        n_ladders: As given.
        n_windows: The number of windows.
        walkers: Which walker is in each window, with shape=(n_windows, n_ladders).
        n_proposed: Exchanges tried between each window and the next on the circle, with shape=(n_windows,).
        n_accepted: How many of them were accepted, with shape=(n_windows,).

    Raises:
        InputError: If there is no such bias, or the walkers do not make up ladders of an even number of windows.
    """

    def __init__(self, dynamics: LangevinDynamics, *, n_ladders: int) -> None:
        bias = dynamics.potential
        if not (isinstance(bias, TorsionBias) and len(bias.torsions) == 1):
            raise InputError("Exchange between windows needs dynamics on a TorsionBias with one torsion.")
        n_ladders = whole_number("number of ladders", n_ladders, least=1)
        if len(dynamics.positions) % (2 * n_ladders):
            raise InputError(
                f"{len(dynamics.positions)} walkers do not make {n_ladders} ladders of an even number of windows."
            )
        self.dynamics, self.n_ladders = dynamics, n_ladders
        self.n_windows = len(dynamics.positions) // n_ladders
        self.walkers = np.arange(len(dynamics.positions)).reshape(self.n_windows, n_ladders)
        self.n_proposed = np.zeros(self.n_windows, dtype=np.int64)
        self.n_accepted = np.zeros(self.n_windows, dtype=np.int64)
        self._lowest_window = 0

    @property
    def windows(self) -> np.ndarray:
        """The window of each walker with shape=(n_walkers,)."""
        windows = np.empty(self.walkers.size, dtype=np.int64)
        windows[self.walkers.reshape(-1)] = np.repeat(np.arange(self.n_windows), self.n_ladders)
        return windows

    def step(self, n_steps: int) -> None:
        """Advance all walkers, then try exchanges between neighbouring windows (every other pair in turn).

        Args:
            n_steps: Steps of the dynamics.
        """
        self.dynamics.step(n_steps)
        lower = np.arange(self._lowest_window, self.n_windows, 2)
        upper = (lower + 1) % self.n_windows
        below, above = self.walkers[lower], self.walkers[upper]
        i, j = torch.from_numpy(below.reshape(-1)), torch.from_numpy(above.reshape(-1))
        accepted = self._accepts(i, j)
        centres = self.dynamics.potential.centres.clone()
        centres[i[accepted]], centres[j[accepted]] = centres[j[accepted]], centres[i[accepted]]
        self.dynamics.potential.centres = centres
        self.dynamics.set_positions(self.dynamics.positions)  # for the forces of the new bias
        accepted = accepted.numpy().reshape(below.shape)
        self.walkers[lower] = np.where(accepted, above, below)
        self.walkers[upper] = np.where(accepted, below, above)
        self.n_proposed[lower] += self.n_ladders
        self.n_accepted[lower] += accepted.sum(1)
        self._lowest_window = 1 - self._lowest_window

    def _accepts(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        potential, kt = self.dynamics.potential, BOLTZMANN_CONSTANT * self.dynamics.temperature
        angles, centres = potential.torsion_angles(self.dynamics.positions), potential.centres
        change = potential.bias(angles[i], centres[j]) + potential.bias(angles[j], centres[i])
        change -= potential.bias(angles[i], centres[i]) + potential.bias(angles[j], centres[j])
        uniform = torch.rand(len(i), generator=self.dynamics.generator, dtype=torch.float64)
        return uniform.log() < -change / kt[i]

    def state(self) -> dict[str, np.ndarray]:
        """Return everything needed to continue bit by bit, as arrays that later steps do not change."""
        return {
            **self.dynamics.state(),
            "centres": self.dynamics.potential.centres.numpy().copy(),
            "walkers": self.walkers.copy(),
            "exchanges_proposed": self.n_proposed.copy(),
            "exchanges_accepted": self.n_accepted.copy(),
            "lowest_window": np.array(self._lowest_window),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        self.dynamics.restore(state)
        self.dynamics.potential.centres = torch.from_numpy(np.array(state["centres"]))
        self.walkers = np.array(state["walkers"])
        self.n_proposed = np.array(state["exchanges_proposed"])
        self.n_accepted = np.array(state["exchanges_accepted"])
        self._lowest_window = int(state["lowest_window"])
