"""Coarse-grained maps: where the beads of a configuration are.

Three kinds of maps, and the measure of each. The density of a configuration x, modulo its place and orientation, is
rho(z) p_inv(x | z) in each of them, and its weight in the Boltzmann distribution follows:

=============================  ==================================  ==========================================
map                            fibre over a bead configuration z   weight
=============================  ==================================  ==========================================
selection: beads are atoms     3 N - 3 n coordinates, unit         exp(-U/kT) / (rho p_inv)
                               Jacobian
averages: z = P x              3 N - 3 n coordinates, Jacobian     exp(-U/kT) / (rho p_inv)
                               ``|det M|^-3``
noisy: z is drawn from         all 3 N - 6 coordinates, unit       exp(-U/kT) r(z | x) / (rho p_inv)
r(z | x)                       Jacobian
=============================  ==================================  ==========================================

N is the number of atoms and n that of beads. p_inv is always a density of atoms' Cartesian positions: the Jacobian
of averages is part of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from openmm_bg.errors import InputError
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms import Coordinates, FibreCoordinates

_LARGE = 0.5  # of the largest weight: enough for an anchor


class CoarseGrainedMap(ABC):
    """Where the beads of configurations are.

    Attributes:
        n_atoms: The number of atoms.
        n_beads: The number of beads.
        weights: The weights P of a linear map, whose beads are P x, with shape=(n_beads, n_atoms); each bead's
            sum to one. Of a noisy map, those of its centre.
    """

    n_atoms: int
    n_beads: int
    weights: torch.Tensor

    def beads(self, positions: Any) -> torch.Tensor:
        """Return the beads P x [nm] with shape=(batch, n_beads, 3).

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).

        Raises:
            InputError: If the shape is of another molecule.
        """
        positions = self._of_all_atoms(positions, "positions")
        return torch.einsum("ba,nax->nbx", self.weights.to(positions), positions)

    def bead_forces(self, forces: Any) -> torch.Tensor:
        r"""Return forces on the beads [kJ/mol/nm] with shape=(batch, n_beads, 3), whose mean is the mean force.

        These are :math:`(P P^T)^{-1} P F`.

        Args:
            forces: Forces on the atoms [kJ/mol/nm] with shape=(batch, n_atoms, 3).

        Raises:
            InputError: If the shape is of another molecule.
        """
        forces = self._of_all_atoms(forces, "forces")
        projection = torch.linalg.solve(self.weights @ self.weights.T, self.weights)
        return torch.einsum("ba,nax->nbx", projection.to(forces), forces)

    def _of_all_atoms(self, vectors: Any, name: str) -> torch.Tensor:
        vectors = positions_tensor(vectors)
        if vectors.ndim != 3 or vectors.shape[1:] != (self.n_atoms, 3):
            raise InputError(
                f"The map is of {self.n_atoms} atoms; the {name} have the shape {tuple(vectors.shape)}, "
                f"not (batch, {self.n_atoms}, 3)."
            )
        return vectors

    @abstractmethod
    def draw(self, positions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return bead configurations [nm] of given configurations, with shape=(batch, n_beads, 3)."""

    @abstractmethod
    def log_prob(self, beads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return log r(z | x) with shape=(batch,); zero of a map without noise, whose fibre says the same."""

    @abstractmethod
    def coordinates(self, positions: Any, bonds: Any, masses: Any = None) -> Coordinates:
        """Return coordinates of what the map leaves free, not fitted yet.

        Args:
            positions: The reference configuration [nm] with shape=(n_atoms, 3).
            bonds: Pairs of atom indices with shape=(n_bonds, 2).
            masses: Masses [Da] with shape=(n_atoms,).

        Raises:
            InputError: If the map does not fit the molecule.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the map, as JSON."""


class LinearMap(CoarseGrainedMap):
    """Beads that are averages of atoms; single atoms are a special case.

    Args:
        weights: The weights P with shape=(n_beads, n_atoms); each bead's sum to one.
        anchors: The atom of each bead from which the atoms around it are placed (`FibreCoordinates`), with
            shape=(n_beads,). If not given, `coordinates` chooses the atom that is nearest to its bead in the
            reference, among those that have at least half of the largest weight. The closest pairs come first, and
            no atom is the anchor of two beads; if that leaves a bead without one, the sum of all distances counts.

    Raises:
        InputError: If the weights are no averages, there are more beads than atoms, or an anchor has no weight.
    """

    def __init__(self, weights: Any, anchors: Any = None) -> None:
        self.weights = torch.as_tensor(_numbers(weights).copy())
        if self.weights.ndim != 2:
            raise InputError(
                f"The weights of a map must have the shape (n_beads, n_atoms), not {tuple(self.weights.shape)}."
            )
        self.n_beads, self.n_atoms = self.weights.shape
        _check_size(self.n_beads, self.n_atoms)
        if not torch.isfinite(self.weights).all() or (self.weights.sum(1) - 1.0).abs().max() > 1e-9:
            raise InputError("The weights of each bead must be finite and sum to one.")
        if torch.linalg.matrix_rank(self.weights) < self.n_beads:
            raise InputError(
                "A bead is an average of others, or the same as another, and says nothing of its own; leave it out."
            )
        self.anchors = None if anchors is None else _indices(anchors)
        if self.anchors is None:
            return
        _check_atoms(self.anchors, self.n_atoms, self.n_beads)
        for bead, atom in enumerate(self.anchors.tolist()):
            if self.weights[bead, atom] == 0:
                raise InputError(f"Bead {bead} has the anchor atom {atom}, which has no weight in it.")

    def draw(self, positions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the beads; nothing is random."""
        return self.beads(positions)

    def log_prob(self, beads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return zeros with shape=(batch,)."""
        return torch.zeros(len(positions), dtype=torch.float64)

    def coordinates(self, positions: Any, bonds: Any, masses: Any = None) -> FibreCoordinates:
        """Return coordinates of the other atoms, whose fibre is the beads' own."""
        reference = positions_tensor(positions)
        anchors = self.anchors
        if anchors is None:
            anchors = self._nearest(self.beads(reference[None])[0], reference)
        return FibreCoordinates.from_reference(reference, bonds, self.weights, anchors, masses)

    def _nearest(self, beads: torch.Tensor, positions: torch.Tensor) -> np.ndarray:
        """Choose an anchor of each bead, the closest pairs first; no atom is that of two beads."""
        distances = (beads[:, None] - positions).norm(dim=2)
        if not torch.isfinite(distances).all():
            raise InputError("The reference configuration has positions that are not finite.")
        large = self.weights >= _LARGE * self.weights.max(1, keepdim=True).values
        left = torch.where(large, distances, torch.inf).numpy()
        anchors = np.full(self.n_beads, -1)
        while np.isfinite(left).any():
            bead, atom = np.unravel_index(left.argmin(), left.shape)
            anchors[bead] = atom
            left[bead], left[:, atom] = np.inf, np.inf
        if (anchors >= 0).all():
            return anchors
        # Others took the last large atom of a bead: as few small ones as can be, and the smallest sum of distances.
        far = 1.0 + self.n_beads * distances.max()
        costs = torch.where(self.weights > 0, torch.where(large, distances, distances + far), torch.inf)
        try:
            return linear_sum_assignment(costs.numpy())[1]
        except ValueError as error:
            raise InputError(
                "The beads have too few atoms for an anchor each: some are averages of the same few atoms. "
                "Choose other beads."
            ) from error

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the map, as JSON."""
        return {
            "kind": "LinearMap",
            "weights": self.weights.tolist(),
            "anchors": None if self.anchors is None else self.anchors.tolist(),
        }


def selection_map(n_atoms: int, atoms: Sequence[int]) -> LinearMap:
    """Return the map whose beads are atoms.

    Args:
        n_atoms: The number of atoms of the molecule.
        atoms: The atoms.

    Raises:
        InputError: If one is not there, or is named twice, or there are none or more than the molecule has.
    """
    _check_size(len(atoms), n_atoms)
    indices = _indices(atoms)
    _check_atoms(indices, n_atoms, len(atoms))
    return LinearMap(np.eye(n_atoms)[indices], indices)


def centroid_map(n_atoms: int, groups: Sequence[Sequence[int]], masses: Any = None) -> LinearMap:
    """Return the map whose beads are the centres of groups of atoms.

    Args:
        n_atoms: The number of atoms of the molecule.
        groups: The atoms of each bead; an atom is in one group at most.
        masses: Masses [Da] with shape=(n_atoms,): centres of mass; geometric centres if not given.

    Raises:
        InputError: If a group is empty, an atom is not there or in two groups, or there are more beads than atoms.
    """
    _check_size(len(groups), n_atoms)
    if not all(np.ndim(group) == 1 for group in groups):
        raise InputError("Give a list of atoms for each bead.")
    if empty := [k for k, group in enumerate(groups) if not len(group)]:
        raise InputError(f"Bead {empty[0]} has no atoms; give each bead at least one.")
    members = np.concatenate([_indices(group) for group in groups])
    _check_atoms(members, n_atoms, len(members))
    masses = _masses(masses, n_atoms)
    weights = np.zeros((len(groups), n_atoms))
    for row, group in zip(weights, groups, strict=True):
        row[list(group)] = masses[list(group)] / masses[list(group)].sum()
    return LinearMap(weights)


def assignment_map(assignment: Any, masses: Any = None) -> LinearMap:
    """Return the map of a soft assignment of atoms to beads.

    A bead is the average of all atoms, each as much as it is assigned to the bead.

    Args:
        assignment: How much of each atom belongs to each bead, with shape=(n_atoms, n_beads); rows sum to one.
        masses: Masses [Da] with shape=(n_atoms,), by which atoms count; all equal if not given.

    Raises:
        InputError: If rows do not sum to one, a bead has no atoms, or there are more beads than atoms.
    """
    assignment = _numbers(assignment)
    rows = assignment.sum(1) if assignment.ndim == 2 and assignment.size else np.zeros(1)
    if np.abs(rows - 1.0).max() > 1e-6 or assignment.min() < 0:
        raise InputError("An assignment must have a row for each atom, of parts that sum to one.")
    _check_size(assignment.shape[1], assignment.shape[0])
    parts = assignment.T * _masses(masses, len(assignment))
    if (parts.sum(1) <= 1e-6).any():
        raise InputError(
            f"Bead {int(parts.sum(1).argmin())} has no atoms: the assignment does not cover its beads."
        )
    return LinearMap(parts / parts.sum(1, keepdims=True))


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            "The weights of a map must be numbers, a row for each bead and as many in each."
        ) from error


def _indices(atoms: Any) -> np.ndarray:
    try:
        values = np.asarray(atoms, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Atoms must be whole numbers, not {atoms!r}.") from error
    if not np.array_equal(values, np.rint(values)):
        raise InputError(f"Atoms must be whole numbers, not {values.tolist()}.")
    return values.astype(np.int64)


def _masses(masses: Any, n_atoms: int) -> np.ndarray:
    masses = np.ones(n_atoms) if masses is None else np.asarray(masses, dtype=np.float64)
    if masses.shape != (n_atoms,) or not (masses > 0).all() or not np.isfinite(masses).all():
        raise InputError(f"The masses must be {n_atoms} positive numbers, one for each atom.")
    return masses


def _check_size(n_beads: int, n_atoms: int) -> None:
    if n_beads > n_atoms:
        raise InputError(
            f"There are more beads ({n_beads}) than atoms ({n_atoms}); a map must leave something out."
        )
    if n_beads < 3:
        raise InputError(f"A map needs at least three beads, and this has {n_beads}.")


def _check_atoms(atoms: np.ndarray, n_atoms: int, n_expected: int) -> None:
    if atoms.shape != (n_expected,):
        raise InputError(
            f"There must be one anchor atom for each of the {n_expected} beads, not {atoms.shape}."
        )
    if atoms.min() < 0 or atoms.max() >= n_atoms:
        wrong = int(atoms[(atoms < 0) | (atoms >= n_atoms)][0])
        raise InputError(
            f"The map names the atom {wrong}, but the molecule has the atoms 0 to {n_atoms - 1}."
        )
    values, counts = np.unique(atoms, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"The map names the atom {int(values[counts > 1][0])} twice; each can be in one bead only."
        )
