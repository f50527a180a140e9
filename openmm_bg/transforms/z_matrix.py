"""A Z-matrix for any connected molecule, derived from its bonds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_bg.errors import InputError


@dataclass(frozen=True, eq=False)
class ZMatrix:
    """Which atoms define each atom's bond, angle and torsion.

    The first three rows are the seed atoms: the first has no coordinates, the second a bond, the third
    a bond and an angle. Every other atom i is bonded to ``bond[i]``, has an angle with ``angle[i]`` and a
    torsion with ``torsion[i]``. All references come earlier in the order, and all are along bonds.

    A branch's first atom has a proper torsion; its siblings have torsions *relative to it*: then a
    methyl group has one free angle instead of three coupled ones.

    The bonds used make a tree. In a ring two arms grow from where the tree enters it, and the bond where
    they meet is left out: its length, and the angles at its ends, follow from the other coordinates.

    Args:
        atoms: The atoms in the order of placement, with shape=(n_atoms,).
        bond: The atom each is bonded to, by row, with shape=(n_atoms,); -1 where there is none.
        angle: The angle's third atom, likewise.
        torsion: The torsion's fourth atom, likewise.
        sibling: The atom (not row) relative to which the torsion is measured, or -1: an absolute torsion.
            For children of the second seed atom it is the third seed atom, whose own torsion is zero.
        centres: The four neighbours of each centre with four bonds, with shape=(n_centres, 4). The sign of the
            volume that they span is the centre's handedness: chirality, and the labels of equal neighbours.
    """

    atoms: np.ndarray
    bond: np.ndarray
    angle: np.ndarray
    torsion: np.ndarray
    sibling: np.ndarray
    centres: np.ndarray

    @property
    def n_atoms(self) -> int:
        """The number of atoms."""
        return len(self.atoms)

    def levels(self) -> list[np.ndarray]:
        """Group the rows after the seed by when they can be placed: rows of a level depend on earlier ones."""
        depth = {int(atom): 0 for atom in self.atoms[:3]}
        rows: dict[int, list[int]] = {}
        for row in range(3, self.n_atoms):
            references = (self.bond[row], self.angle[row], self.torsion[row])
            level = 1 + max(depth[int(atom)] for atom in references)
            depth[int(self.atoms[row])] = level
            rows.setdefault(level, []).append(row)
        return [np.array(rows[level]) for level in sorted(rows)]

    @classmethod
    def from_bonds(cls, n_atoms: int, bonds: np.ndarray, masses: np.ndarray | None = None) -> ZMatrix:
        """Derive a Z-matrix from the bonds of a molecule.

        The seed is at one end of the longest chain of heavy atoms; the tree grows from there along the
        bonds, and at a branch the largest subtree (by mass) has the proper torsion.

        Args:
            n_atoms: The number of atoms.
            bonds: Pairs of atom indices with shape=(n_bonds, 2).
            masses: Masses [Da] with shape=(n_atoms,), to tell heavy branches; all equal if not given.

        Raises:
            InputError: If the molecule has fewer than three atoms or is not connected.
        """
        if n_atoms < 3:
            raise InputError(
                f"Internal coordinates need at least three atoms, and there are {n_atoms}; "
                "use Cartesian coordinates."
            )
        neighbours = neighbour_lists(n_atoms, bonds)
        masses = np.ones(n_atoms) if masses is None else np.asarray(masses, dtype=np.float64)
        seed = _seed(neighbours, masses)
        parent, order = _grow(neighbours, seed)
        weight = masses.copy()
        for atom in reversed(order):
            if parent[atom] >= 0:
                weight[parent[atom]] += weight[atom]
        return _assemble(neighbours, parent, seed, weight)


def neighbour_lists(n_atoms: int, bonds: np.ndarray) -> list[list[int]]:
    """Return the atoms that each atom is bonded to.

    Args:
        n_atoms: The number of atoms.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).

    Raises:
        InputError: If a bond makes no sense, or the molecule is not connected.
    """
    bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    pairs = {(min(a, b), max(a, b)) for a, b in bonds.tolist()}
    if any(a == b or a < 0 or b >= n_atoms for a, b in pairs):
        raise InputError("The topology has a bond from an atom to itself or to an atom that does not exist.")
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for a, b in sorted(pairs):
        neighbours[a].append(b)
        neighbours[b].append(a)
    reached, stack = {0}, [0]
    while stack:
        for atom in neighbours[stack.pop()]:
            if atom not in reached:
                reached.add(atom)
                stack.append(atom)
    if len(reached) < n_atoms:
        missing = min(set(range(n_atoms)) - reached)
        raise InputError(
            f"The molecule is not connected: no chain of bonds leads from atom 0 to atom {missing}; "
            "check the topology's bonds, and give one molecule at a time."
        )
    return neighbours


def _distances(
    neighbours: list[list[int]], start: int, allowed: np.ndarray
) -> tuple[dict[int, int], dict[int, int]]:
    distance, previous, queue = {start: 0}, {start: -1}, [start]
    for atom in queue:
        for other in neighbours[atom]:
            if other not in distance and allowed[other]:
                distance[other], previous[other] = distance[atom] + 1, atom
                queue.append(other)
    return distance, previous


def _seed(neighbours: list[list[int]], masses: np.ndarray) -> tuple[int, int, int]:
    """Return the first three atoms of the longest chain, among the heavy atoms where they are enough."""
    heavy = masses > 1.5 * masses.min()
    for allowed in (heavy, np.ones_like(heavy)):
        candidates = np.flatnonzero(allowed)
        if len(candidates) < 3:
            continue
        distance, _ = _distances(neighbours, int(candidates[0]), allowed)
        end = min(distance, key=lambda atom: (-distance[atom], atom))
        distance, previous = _distances(neighbours, end, allowed)
        other = min(distance, key=lambda atom: (-distance[atom], atom))
        if distance[other] < 2:
            continue
        chain = [other]
        while previous[chain[-1]] >= 0:
            chain.append(previous[chain[-1]])
        chain = min(chain, chain[::-1])  # the end with the lower index
        return chain[0], chain[1], chain[2]
    # All atoms are bonded to each other.
    middle = max(range(len(neighbours)), key=lambda atom: len(neighbours[atom]))
    return neighbours[middle][0], middle, neighbours[middle][1]


def _grow(neighbours: list[list[int]], seed: tuple[int, int, int]) -> tuple[list[int], list[int]]:
    """Return each atom's parent in the tree that grows from the seed, and the atoms, parents first."""
    parent, order = [-1] * len(neighbours), list(seed)
    parent[seed[1]], parent[seed[2]] = seed[0], seed[1]
    seen = set(seed)
    for atom in order:
        for other in neighbours[atom]:
            if other not in seen:
                seen.add(other)
                parent[other] = atom
                order.append(other)
    return parent, order


def _assemble(
    neighbours: list[list[int]], parent: list[int], seed: tuple[int, int, int], weight: np.ndarray
) -> ZMatrix:
    first, second, third = seed
    rows = [(first, -1, -1, -1, -1), (second, first, -1, -1, -1), (third, second, first, -1, -1)]
    queue = [first, second, third]
    for centre in queue:
        children = [atom for atom in neighbours[centre] if parent[atom] == centre and atom not in seed]
        children.sort(key=lambda atom: (-weight[atom], atom))
        # The axis runs from `axis` to the centre, and `reference` is the fourth atom of the proper torsion.
        if centre == first:
            axis, reference, leader = second, third, -1
        elif centre == second:
            axis, reference, leader = first, third, third
        else:
            axis = parent[centre]
            leader = -1
            reference = parent[axis] if parent[axis] >= 0 else (third if centre != third else -1)
            if axis == first:  # a branch at the first seed atom
                reference = second
        for child in children:
            # Siblings share the leader's torsion reference: their absolute torsion is the sum.
            rows.append((child, centre, axis, reference, leader))
            if leader < 0:
                leader = child
            queue.append(child)
    centres = np.array([near for near in neighbours if len(near) == 4], dtype=np.int64).reshape(-1, 4)
    return ZMatrix(*(np.array(column) for column in zip(*rows, strict=True)), centres)
