"""A bias on torsions, of its own for each configuration of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.checks import checked_potential, positive


class TorsionBias(Potential):
    """A potential with a bias on torsions, at centres of its own for each configuration of a batch.

    The bias is the sum over torsions of stiffness * (1 - cos(torsion - centre)), as of a force field's torsion with
    period 1: smooth on the full circle, and near a centre harmonic with the stiffness as force constant.

    Args:
        potential: The potential without bias.
        torsions: Four atom indices for each torsion, with shape=(n_torsions, 4).
        centres: Centres [rad] with shape=(batch, n_torsions); they can be set later, too.
        stiffness: Strength [kJ/mol].

    Attributes:
        potential: As given.
        centres: As given, in double precision.
        stiffness: As given.

    Raises:
        InputError: If the input is ill-formed.
    """

    def __init__(self, potential: Potential, torsions: Any, centres: Any, stiffness: float) -> None:
        super().__init__(checked_potential(potential).n_atoms)
        self.potential = potential
        self.torsions = np.asarray(torsions, dtype=np.int64).reshape(-1, 4)
        if not ((self.torsions >= 0) & (self.torsions < self.n_atoms)).all():
            raise InputError(f"A torsion names atoms that are not there: 0 to {self.n_atoms - 1} are.")
        self.centres = torch.as_tensor(centres, dtype=torch.float64).clone()
        if self.centres.ndim != 2 or self.centres.shape[1] != len(self.torsions):
            raise InputError(
                f"The centres must have the shape (batch, {len(self.torsions)}), not {tuple(self.centres.shape)}."
            )
        self.stiffness = positive("stiffness", stiffness)
        self._atoms = torch.from_numpy(self.torsions.reshape(-1))

    @property
    def description(self) -> str:
        """How the energies are computed, in a few words for a record."""
        return f"{self.potential.description}, with a bias"

    def torsion_angles(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the biased torsions [rad] with shape=(batch, n_torsions), in double precision."""
        return dihedrals(positions.double(), self.torsions)

    def bias(self, angles: torch.Tensor, centres: torch.Tensor | None = None) -> torch.Tensor:
        """Return the bias energy [kJ/mol] with shape=(batch,).

        Args:
            angles: Torsions [rad] with shape=(batch, n_torsions).
            centres: Centres [rad] of the same shape; those of the walkers if not given.
        """
        return self.stiffness * (
            1.0 - torch.cos(angles - (self.centres if centres is None else centres))
        ).sum(1)

    def _evaluate(
        self, positions: torch.Tensor, with_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if len(positions) != len(self.centres):
            raise InputError(
                f"There are {len(self.centres)} centres of the bias for {len(positions)} configurations."
            )
        self.centres = self.centres.to(positions.device)
        if not with_forces:
            energy = self.potential.energy(positions)
            return energy + self.bias(self.torsion_angles(positions)).to(energy), None
        energy, forces = self.potential.energy_and_forces(positions)
        atoms = self._atoms.to(positions.device)
        quadruples = positions.index_select(1, atoms).double().unflatten(1, (-1, 4))
        angles, gradients = _torsions_and_gradients(quadruples.permute(2, 3, 1, 0))
        slope = self.stiffness * torch.sin(angles - self.centres.T)
        bias_forces = (-slope * gradients).permute(3, 2, 0, 1).flatten(1, 2)
        return energy + self.bias(angles.T).to(energy), forces.index_add(1, atoms, bias_forces.to(forces))


def _torsions_and_gradients(atoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return torsions and their gradients by the positions of their atoms.

    Source: Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996), equation 27.

    Args:
        atoms: Positions [nm] with shape=(4, 3, n_torsions, batch): a layout in which everything is fast.

    Returns:
        Angles [rad] with shape=(n_torsions, batch), and gradients [rad/nm] with the shape of the positions, zero
        where three atoms in a row lie on a line.
    """
    b1, b2, b3 = atoms[1:].contiguous() - atoms[:-1]
    normal1, normal2 = torch.linalg.cross(b1, b2, dim=0), torch.linalg.cross(b2, b3, dim=0)
    squared = (b2 * b2).sum(0)
    length, tiny = squared.sqrt(), torch.finfo(atoms.dtype).tiny
    angles = torch.atan2(length * (b1 * normal2).sum(0), (normal1 * normal2).sum(0))
    first = -length / (normal1 * normal1).sum(0).clamp_min(tiny) * normal1
    last = length / (normal2 * normal2).sum(0).clamp_min(tiny) * normal2
    squared = squared.clamp_min(tiny)
    second = (b2 * b3).sum(0) / squared * last - (1.0 + (b1 * b2).sum(0) / squared) * first
    return angles, torch.stack([first, second, -(first + second + last), last])
