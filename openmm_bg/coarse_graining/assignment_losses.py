r"""The losses of a learned assignment of atoms to beads.

The loss is

.. math:: L = L_r + \lambda (L_{link} + L_{ent} + L_{assign} + \lambda_{mf} L_{mf}),

with lambda = 0.1 and lambda lambda_mf = 1e-4, lengths in Angstrom and forces in kcal/mol/Angstrom.

An assignment A has shape=(n_atoms, n_beads) and rows that sum to one; the weights of the map are P, with
shape=(n_beads, n_atoms), those of a bead sum to one. The source has one matrix for both, a softmax over the
*atoms*, whose columns sum to one: its entropy is that of each bead's atoms, and its L_assign forbids that
several beads use the same atom. Here these two are the same functions with the roles of atoms and beads
exchanged.

Source: Chennakesavalu, Toomer and Rotskoff, arXiv 2210.07882, and its public code.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path


def reconstruction_loss(decoded: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    r"""Return L_r, how far decoded seed atoms are from where they were.

    .. math:: L_r = \langle \sum_i | \tilde x_i - x_i | \rangle

    with both without their centres, as in the source; distances are not squared.

    Args:
        decoded: The decoder's positions of the seed atoms with shape=(batch, n_seeds, 3).
        seeds: Their positions, in the same unit.

    Returns:
        The loss in that unit with shape=().
    """
    difference = decoded - seeds
    difference = difference - difference.mean(1, keepdim=True)
    return torch.linalg.vector_norm(difference, dim=-1).sum(1).mean()


def link_loss(assignment: torch.Tensor, bonds: torch.Tensor, bond_counts: torch.Tensor) -> torch.Tensor:
    r"""Return L_link, how far apart the atoms of a bead are, and how many bonds are cut.

    .. math:: L_{link} = \frac{1}{N} \sum_{ij} D_{ij} (A A^T)_{ij} + \sum_{(i, j) \in bonds} (1 - (A A^T)_{ij})

    In a molecule without rings a decided assignment to n beads cuts n - 1 bonds or more, and just as many
    when every bead is connected. The source has :math:`\| D \circ A A^T \|_F` instead, with distances through
    space, over all the configurations of a batch. With rows that sum to one such squares would pay for
    undecided atoms, and atoms that merely touch would become one bead.

    Args:
        assignment: The assignment A with shape=(n_atoms, n_beads).
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
        bond_counts: The bonds D between atoms with shape=(n_atoms, n_atoms), see `bond_counts`.

    Returns:
        The loss with shape=().
    """
    together = assignment @ assignment.T
    cut = 1.0 - together[bonds[:, 0], bonds[:, 1]]
    return (bond_counts * together).sum() / len(assignment) + cut.sum()


def entropy_loss(assignment: torch.Tensor) -> torch.Tensor:
    r"""Return L_ent, how undecided the assignment is.

    .. math:: L_{ent} = - \frac{1}{N} \sum_{ib} A_{ib} \log A_{ib}

    Args:
        assignment: The assignment A with shape=(n_atoms, n_beads).

    Returns:
        The mean entropy of the rows, from 0 to log(n_beads), with shape=().
    """
    return torch.special.entr(assignment).sum(1).mean()


def assignment_loss(assignment: torch.Tensor) -> torch.Tensor:
    r"""Return L_assign, how much beads lack of an atom of their own.

    .. math:: L_{assign} = \sum_b \max(0, 1 - (A^T A)_{bb})

    (The source has :math:`\sum_i \max(0, (P P^T)_{ii} - 1)`, with P of shape=(n_atoms, n_beads): no atom counts for
    more than one bead. With rows that sum to one none can, but a bead could have no atoms.)

    Args:
        assignment: The rows of the assignment for those atoms of which every bead must have one, with
            shape=(n_some_atoms, n_beads).

    Returns:
        The loss, from 0 to n_beads, with shape=().
    """
    return torch.relu(1.0 - assignment.square().sum(0)).sum()


def projected_forces(weights: torch.Tensor, forces: torch.Tensor) -> torch.Tensor:
    r"""Return the forces on the beads, :math:`(P P^T)^{-1} P F`.

    Args:
        weights: The weights P of the map with shape=(n_beads, n_atoms).
        forces: Forces F on the atoms with shape=(batch, n_atoms, 3).

    Returns:
        Forces in the same unit with shape=(batch, n_beads, 3).
    """
    return torch.linalg.solve(weights @ weights.T, weights) @ forces


def force_loss(
    weights: torch.Tensor, forces: torch.Tensor, bead_forces: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Return L_mf, how far projected forces are from those of the coarse-grained potential.

    .. math:: L_{mf} = \langle \| (P P^T)^{-1} P F + \nabla \hat U(z) \|^2 \rangle,

    summed over beads and components. Without a potential, the mean square of the projected forces alone. The source
    keeps the inverse out of the gradient; here it is in it, so that this is the gradient of the loss.

    Args:
        weights: The weights P of the map with shape=(n_beads, n_atoms).
        forces: Forces F on the atoms with shape=(batch, n_atoms, 3).
        bead_forces: Those of the potential on the beads, in the same unit, with shape=(batch, n_beads, 3).

    Returns:
        The loss in the unit's square with shape=().
    """
    difference = projected_forces(weights, forces)
    if bead_forces is not None:
        difference = difference - bead_forces
    return difference.square().sum((1, 2)).mean()


def bond_counts(n_atoms: int, bonds: np.ndarray) -> np.ndarray:
    """Return how many bonds the shortest path between two atoms has.

    Args:
        n_atoms: The number of atoms.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).

    Returns:
        Numbers with shape=(n_atoms, n_atoms). Between atoms that no path joins, two more than the largest
        other one.
    """
    graph = coo_array((np.ones(len(bonds)), bonds.T), shape=(n_atoms, n_atoms)).tocsr()
    counts = shortest_path(graph, directed=False, unweighted=True)
    joined = np.isfinite(counts)
    return np.where(joined, counts, counts[joined].max() + 2.0)
