"""What a molecule's bonds say: which atoms hang together, which rings there are, which centres are chiral."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Neighbours = list[list[int]]
"""The atoms that each atom is bonded to."""


def neighbours_of(n_atoms: int, bonds: np.ndarray) -> Neighbours:
    """Return the atoms that each atom is bonded to, in rising order.

    Args:
        n_atoms: The number of atoms.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
    """
    found: list[set[int]] = [set() for _ in range(n_atoms)]
    for a, b in np.asarray(bonds, dtype=np.int64).reshape(-1, 2).tolist():
        found[a].add(b)
        found[b].add(a)
    return [sorted(atoms) for atoms in found]


def fragments(n_atoms: int, bonds: np.ndarray) -> list[list[int]]:
    """Return the sets of atoms that bonds join, each in rising order, by their first atoms.

    Args:
        n_atoms: The number of atoms.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
    """
    neighbours, seen, found = neighbours_of(n_atoms, bonds), set(), []
    for start in range(n_atoms):
        if start not in seen:
            fragment = list(_shortest_path_tree(neighbours, start))
            seen.update(fragment)
            found.append(sorted(fragment))
    return found


def rings(n_atoms: int, bonds: np.ndarray) -> list[list[int]]:
    """Return the smallest rings, as many as there are bonds to cut until none is left.

    They are a minimum basis of all cycles (Horton, SIAM J. Comput. 16 (1987) 358): two for naphthalene, and for a
    cyclic chain or a disulfide the large one that it closes.

    Args:
        n_atoms: The number of atoms.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).

    Returns:
        The atoms of each ring in order around it; the smallest rings come first.
    """
    neighbours = _without_leaves(neighbours_of(n_atoms, bonds))
    pairs = [(a, b) for a in range(n_atoms) for b in neighbours[a] if a < b]
    edges = {pair: k for k, pair in enumerate(pairs)}
    candidates: dict[frozenset[int], list[int]] = {}
    for start in range(n_atoms):
        previous = _shortest_path_tree(neighbours, start) if neighbours[start] else {}
        for a, b in edges:
            if a in previous and previous[a] != b and previous[b] != a:
                left, right = _path(previous, a), _path(previous, b)
                if set(left) & set(right) == {start}:
                    candidates.setdefault(frozenset(left + right), left + right[-2::-1])
    found, basis = [], {}
    for ring in sorted(candidates.values(), key=len):
        around = zip(ring, [*ring[1:], ring[0]], strict=True)
        vector = sum(1 << edges[min(pair), max(pair)] for pair in around)
        while vector and vector.bit_length() in basis:
            vector ^= basis[vector.bit_length()]
        if vector:
            basis[vector.bit_length()] = vector
            found.append(ring)
    return found


def chiral_centres(elements: Sequence[str], bonds: np.ndarray) -> list[int]:
    """Return the atoms with four bonds to neighbours of four kinds, as far as bonds and elements tell.

    Two atoms are of one kind if no number of steps along the bonds tells them apart (Morgan, J. Chem. Doc. 5
    (1965) 107). Centres that differ in the handedness of their neighbours only are not found.

    Args:
        elements: The elements' symbols.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
    """
    neighbours = neighbours_of(len(elements), bonds)
    kinds = _numbered(elements)
    while True:
        finer = _numbered([(kinds[k], *sorted(kinds[n] for n in near)) for k, near in enumerate(neighbours)])
        if max(finer, default=0) == max(kinds, default=0):
            return [k for k, near in enumerate(neighbours) if len({kinds[n] for n in near}) == len(near) == 4]
        kinds = finer


def _numbered(labels: Sequence[object]) -> list[int]:
    numbers = {label: k for k, label in enumerate(sorted(set(labels)))}
    return [numbers[label] for label in labels]


def _without_leaves(neighbours: Neighbours) -> Neighbours:
    """Remove what hangs on rings: atoms of one neighbour, until there are none."""
    left = [set(near) for near in neighbours]
    todo = [k for k, near in enumerate(left) if len(near) == 1]
    for k in todo:
        for other in left[k]:
            left[other].discard(k)
            if len(left[other]) == 1:
                todo.append(other)
        left[k] = set()
    return [sorted(near) for near in left]


def _shortest_path_tree(neighbours: Neighbours, start: int) -> dict[int, int]:
    """Return the atom before each atom on a shortest path from a start, whose own is -1."""
    previous, queue = {start: -1}, [start]
    for atom in queue:
        for other in neighbours[atom]:
            if other not in previous:
                previous[other] = atom
                queue.append(other)
    return previous


def _path(previous: dict[int, int], end: int) -> list[int]:
    """Return the atoms from an end back to the start of its tree."""
    path = [end]
    while previous[path[-1]] >= 0:
        path.append(previous[path[-1]])
    return path
