"""The interface of every potential: energies and forces of batches of configurations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from openmm_bg.errors import InputError
from openmm_bg.tensors import numbers_tensor


class Potential(ABC):
    """A potential energy of batches of configurations, differentiable by autograd.

    Positions have shape=(batch, n_atoms, 3) [nm], energies shape=(batch,) [kJ/mol] and forces
    shape=(batch, n_atoms, 3) [kJ/mol/nm]. A configuration whose energy is not finite (NaN positions
    included) gets the energy ``+inf`` and the force zero; the others are not affected. Where a finite energy has no
    gradient (atoms in the same place, say), the components of the force that are undefined are zero.

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
            InputError: If they are not floating-point numbers [nm] of this shape.
        """
        return _Energy.apply(self._as_batch(positions), self)

    def energy_and_forces(self, positions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies [kJ/mol] and forces [kJ/mol/nm], without an autograd graph.

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).

        Raises:
            InputError: If they are not floating-point numbers [nm] of this shape.
        """
        energy, forces = self._finite(self._as_batch(positions).detach(), with_forces=True)
        return energy, forces

    def _as_batch(self, positions: Any) -> torch.Tensor:
        positions = numbers_tensor(positions)
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
        if forces is not None and not torch.isfinite(forces.sum()):
            # Atoms in the same place, or in line: the energy may be finite where its gradient has no direction.
            forces = torch.where(torch.isfinite(forces), forces, 0.0)
        return energy, forces


class _Energy(torch.autograd.Function):
    """Joins a potential, which brings its own forces, to autograd."""

    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, potential: Potential) -> torch.Tensor:
        needs_forces = ctx.needs_input_grad[0]
        energy, forces = potential._finite(positions.detach(), with_forces=needs_forces)
        if needs_forces:
            ctx.save_for_backward(positions, forces)
        return energy

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        positions, forces = ctx.saved_tensors
        return _Gradient.apply(positions, forces, grad), None


class _Gradient(torch.autograd.Function):
    """The gradient of energies, which refuses to be differentiated again: it would silently be zero."""

    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, forces: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        # A sample with infinite energy has force zero; its incoming gradient may be NaN (0 * inf).
        weight = torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)
        return -forces * weight[:, None, None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> None:
        raise InputError(
            "A potential has no second derivatives by autograd; take finite differences of its forces."
        )
