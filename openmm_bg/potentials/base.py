"""The interface of every potential: energies and forces of batches of configurations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.units import nanometers


class Potential(ABC):
    """A potential energy of batches of configurations, differentiable by autograd.

    Positions have shape=(batch, n_atoms, 3) [nm], energies shape=(batch,) [kJ/mol] and forces
    shape=(batch, n_atoms, 3) [kJ/mol/nm]. A configuration whose energy is not finite (NaN positions
    included) gets the energy ``+inf`` and the force zero; the others are not affected.

    Attributes:
        n_atoms: The number of atoms.
        n_evaluations: Configurations evaluated so far, with or without forces.
        n_nonfinite: How many of them had no finite energy.
    """

    def __init__(self, n_atoms: int) -> None:
        self.n_atoms = n_atoms
        self.n_evaluations = 0
        self.n_nonfinite = 0

    @property
    def description(self) -> str:
        """How the energies are computed, in a few words for a record."""
        return type(self).__name__

    @abstractmethod
    def _evaluate(
        self, positions: torch.Tensor, with_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return raw energies and, if asked for, forces of detached positions, on any device and dtype."""

    def energy(self, positions: Any) -> torch.Tensor:
        """Return the potential energy [kJ/mol] with shape=(batch,); its gradient is minus the force.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).

        Raises:
            InputError: If the shape is wrong.
        """
        return _Energy.apply(self._as_batch(positions), self)

    def energy_and_forces(self, positions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies [kJ/mol] and forces [kJ/mol/nm], without an autograd graph.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).

        Raises:
            InputError: If the shape is wrong.
        """
        energy, forces = self._finite(self._as_batch(positions).detach(), with_forces=True)
        return energy, forces

    def _as_batch(self, positions: Any) -> torch.Tensor:
        positions = nanometers(positions)
        if not isinstance(positions, torch.Tensor):
            # A copy: torch warns of read-only arrays, and would round lists to float32.
            positions = torch.from_numpy(np.array(positions))
        if positions.ndim != 3 or positions.shape[1:] != (self.n_atoms, 3):
            raise InputError(
                f"Positions must have the shape (batch, {self.n_atoms}, 3), not {tuple(positions.shape)}."
            )
        if not positions.is_floating_point():
            raise InputError(f"Positions must be floating-point numbers, not {positions.dtype}.")
        return positions

    def _finite(self, positions: torch.Tensor, with_forces: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        energy, forces = self._evaluate(positions, with_forces)
        bad = ~torch.isfinite(energy)
        self.n_evaluations += len(energy)
        if bad.any():
            self.n_nonfinite += int(bad.sum())
            energy = torch.where(bad, torch.inf, energy)
            if forces is not None:
                forces = torch.where(bad[:, None, None], 0.0, forces)
        return energy, forces


class _Energy(torch.autograd.Function):
    """Joins a potential, which brings its own forces, to autograd."""

    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, potential: Potential) -> torch.Tensor:
        needs_forces = ctx.needs_input_grad[0]
        energy, forces = potential._finite(positions.detach(), with_forces=needs_forces)
        if needs_forces:
            ctx.save_for_backward(forces)
        return energy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (forces,) = ctx.saved_tensors
        # A sample with infinite energy has force zero; its incoming gradient may be NaN (0 * inf).
        weight = torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)
        return -forces * weight[:, None, None], None
