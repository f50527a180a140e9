"""Batched parallel tempering: many independent ladders of temperatures at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.simulation.langevin import LangevinDynamics


class ParallelTempering(LangevinDynamics):
    """Langevin dynamics in which neighbouring temperatures of each ladder exchange configurations.

    Walker ``rung * n_ladders + ladder`` stays at the temperature of its rung. Ladders never exchange with
    each other, so that their averages are independent.

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_rungs * n_ladders, n_atoms, 3).
        masses: Masses [Da] with shape=(n_atoms,).
        temperature: Temperatures [K] with shape=(n_rungs * n_ladders,).
        n_ladders: The number of ladders.
        options: As of `LangevinDynamics`.
    """

    def __init__(
        self,
        potential: Any,
        positions: Any,
        masses: np.ndarray,
        temperature: Any,
        *,
        n_ladders: int,
        **options: Any,
    ) -> None:
        super().__init__(potential, positions, masses, temperature, **options)
        self.n_ladders = n_ladders
        self.n_rungs = len(self.positions) // n_ladders
        self.n_proposed = np.zeros(self.n_rungs - 1, dtype=np.int64)
        self.n_accepted = np.zeros(self.n_rungs - 1, dtype=np.int64)
        self._lowest_rung = 0

    def step(self, n_steps: int) -> None:
        """Advance all walkers, then try exchanges between neighbouring rungs (every other pair in turn)."""
        super().step(n_steps)
        for rung in range(self._lowest_rung, self.n_rungs - 1, 2):
            lower = rung * self.n_ladders + torch.arange(self.n_ladders)
            accepted = self.exchange(torch.stack([lower, lower + self.n_ladders], dim=1))
            self.n_proposed[rung] += len(accepted)
            self.n_accepted[rung] += int(accepted.sum())
        self._lowest_rung = 1 - self._lowest_rung

    def state(self) -> dict[str, np.ndarray]:
        """Return everything needed to continue, as arrays."""
        own = {"n_proposed": self.n_proposed, "n_accepted": self.n_accepted}
        return {**super().state(), **own, "lowest_rung": np.array(self._lowest_rung)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        super().restore(state)
        self.n_proposed, self.n_accepted = state["n_proposed"].copy(), state["n_accepted"].copy()
        self._lowest_rung = int(state["lowest_rung"])
