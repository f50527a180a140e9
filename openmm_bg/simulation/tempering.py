"""Batched parallel tempering: many independent ladders of temperatures at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.checks import whole_number
from openmm_bg.simulation.walkers import ThermalWalkers


class ParallelTempering:
    """Dynamics in which neighbouring temperatures of each ladder exchange configurations.

    Walker ``rung * n_ladders + ladder`` stays at the temperature of its rung. Ladders never exchange with
    each other, so that their averages are independent.

    Source: Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999).

    Args:
        dynamics: What moves the n_rungs * n_ladders walkers: `LangevinDynamics` or `HybridMonteCarlo`.
        n_ladders: The number of ladders.

    Attributes:
        dynamics: As given; its walkers can be read and set there.
        n_ladders: As given.
        n_rungs: The number of temperatures of each ladder.
        n_proposed: Exchanges tried between each rung and the next, with shape=(n_rungs - 1,).
        n_accepted: How many of them were accepted, with shape=(n_rungs - 1,).
        replicas: Which replica is at each rung, with shape=(n_rungs, n_ladders); replicas are numbered by the rung
            at which they began.

    Raises:
        InputError: If the walkers do not make up whole ladders of at least two rungs.
    """

    def __init__(self, dynamics: ThermalWalkers, *, n_ladders: int) -> None:
        if not isinstance(dynamics, ThermalWalkers):
            raise InputError(
                "Parallel tempering needs LangevinDynamics or HybridMonteCarlo, "
                f"not {type(dynamics).__name__}."
            )
        n_walkers = len(dynamics.positions)
        n_ladders = whole_number("number of ladders", n_ladders, least=1)
        if n_walkers % n_ladders or n_walkers < 2 * n_ladders:
            raise InputError(
                f"{n_walkers} walkers do not make {n_ladders} ladders of at least 2 temperatures each."
            )
        self.dynamics, self.n_ladders = dynamics, n_ladders
        self.n_rungs = n_walkers // n_ladders
        self.n_proposed = np.zeros(self.n_rungs - 1, dtype=np.int64)
        self.n_accepted = np.zeros(self.n_rungs - 1, dtype=np.int64)
        self.replicas = np.repeat(np.arange(self.n_rungs)[:, None], n_ladders, axis=1)
        self._lowest_rung = 0

    @property
    def potential(self) -> Potential:
        """The potential."""
        return self.dynamics.potential

    @property
    def positions(self) -> torch.Tensor:
        """Positions [nm] with shape=(n_rungs * n_ladders, n_atoms, 3)."""
        return self.dynamics.positions

    @property
    def energy(self) -> torch.Tensor:
        """Potential energies [kJ/mol] with shape=(n_rungs * n_ladders,)."""
        return self.dynamics.energy

    @property
    def n_restarts(self) -> int:
        """How often walkers were put back to their last good frame, all together."""
        return self.dynamics.n_restarts

    def set_temperature(self, temperature: Any) -> None:
        """Set the temperature [K]: one, or one for each walker. Velocities are not rescaled."""
        self.dynamics.set_temperature(temperature)

    def step(self, n_steps: int) -> None:
        """Advance all walkers, then try exchanges between neighbouring rungs (every other pair in turn).

        Args:
            n_steps: Steps of the dynamics.

        Raises:
            InputError: If it is negative or not a whole number.
        """
        self.dynamics.step(n_steps)
        lower = np.arange(self._lowest_rung, self.n_rungs - 1, 2)
        walkers = lower[:, None] * self.n_ladders + np.arange(self.n_ladders)
        if len(lower):
            pairs = torch.from_numpy(np.stack([walkers, walkers + self.n_ladders], axis=-1).reshape(-1, 2))
            accepted = self.dynamics.exchange(pairs).cpu().numpy().reshape(walkers.shape)
            self.n_proposed[lower] += self.n_ladders
            self.n_accepted[lower] += accepted.sum(1)
            below, above = self.replicas[lower], self.replicas[lower + 1]
            self.replicas[lower] = np.where(accepted, above, below)
            self.replicas[lower + 1] = np.where(accepted, below, above)
        self._lowest_rung = 1 - self._lowest_rung

    def state(self) -> dict[str, np.ndarray]:
        """Return everything needed to continue bit by bit, as arrays that later steps do not change."""
        return {
            **self.dynamics.state(),
            "exchanges_proposed": self.n_proposed.copy(),
            "exchanges_accepted": self.n_accepted.copy(),
            "replicas": self.replicas.copy(),
            "lowest_rung": np.array(self._lowest_rung),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned.

        Raises:
            InputError: If it is not the state of such ladders.
        """
        shapes = {"exchanges_proposed": self.n_proposed.shape, "exchanges_accepted": self.n_proposed.shape}
        shapes |= {"replicas": self.replicas.shape, "lowest_rung": ()}
        if any(name not in state or np.shape(state[name]) != shape for name, shape in shapes.items()):
            raise InputError(
                f"This is no state of ladders of {self.n_rungs} temperatures: {', '.join(shapes)} are needed."
            )
        self.dynamics.restore(state)
        self.n_proposed = np.array(state["exchanges_proposed"])
        self.n_accepted = np.array(state["exchanges_accepted"])
        self.replicas = np.array(state["replicas"])
        self._lowest_rung = int(state["lowest_rung"])
