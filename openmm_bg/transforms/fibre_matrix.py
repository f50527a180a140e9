"""A Z-matrix of the atoms that are not given: of the fibre over a coarse-grained configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.transforms.z_matrix import neighbour_lists

_STRAIGHT = math.cos(math.radians(5.0))
_CLOSE = 0.02  # nm


@dataclass(frozen=True, eq=False)
class FibreMatrix:
    """Which points define the bond, angle and torsion of each atom, where some points are given.

    Each bead has an anchor atom, from which a tree of other atoms grows along bonds; every atom is in one tree. To
    begin with the trees stand on the beads: each is moved, as it is, until its anchor is where the bead is. There
    the other atoms are placed one after the other along bonds. References are atoms; an anchor stands for its bead.

    At each centre the first atom has a torsion of its own, and its siblings have torsions relative to it.

    Args:
        anchors: The atom in whose place each bead is, with shape=(n_beads,).
        atoms: The other atoms in the order of placement, with shape=(n_atoms - n_beads,).
        bond: The point each is bonded to, by row, likewise.
        angle: The angle's third point, likewise.
        torsion: The torsion's fourth point, likewise.
        leader: The row from whose torsion the own one is measured, or -1.
        centres: The four neighbours of each centre with four bonds, with shape=(n_centres, 4).
    """

    anchors: np.ndarray
    atoms: np.ndarray
    bond: np.ndarray
    angle: np.ndarray
    torsion: np.ndarray
    leader: np.ndarray
    centres: np.ndarray

    @property
    def n_atoms(self) -> int:
        """The number of atoms."""
        return len(self.anchors) + len(self.atoms)

    @property
    def tree(self) -> np.ndarray:
        """The bead on which each atom's tree stands, with shape=(n_atoms,)."""
        found = np.empty(self.n_atoms, dtype=np.int64)
        found[self.anchors] = np.arange(len(self.anchors))
        for atom, parent in zip(self.atoms.tolist(), self.bond.tolist(), strict=True):
            found[atom] = found[parent]
        return found

    @classmethod
    def from_bonds(
        cls,
        positions: np.ndarray,
        bonds: np.ndarray,
        anchors: np.ndarray,
        masses: np.ndarray | None = None,
        *,
        beads: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> FibreMatrix:
        """Derive the matrix from the bonds of a molecule.

        Args:
            positions: A reference configuration [nm] with shape=(n_atoms, 3). Points that are nearly in line with
                others are no references.
            bonds: Pairs of atom indices with shape=(n_bonds, 2).
            anchors: The anchor of each bead, with shape=(n_beads,).
            masses: Masses [Da] with shape=(n_atoms,), to tell heavy branches; all equal if not given.
            beads: The positions [nm] of the beads in the reference with shape=(n_beads, 3); those of the anchors if
                not given.
            groups: The bead to whose tree each atom belongs if it can, with shape=(n_atoms,); -1 for those that
                belong to none. The rest goes to the anchor that is nearest along bonds.

        Raises:
            InputError: If there are fewer than three beads or as many as atoms, two have the same anchor, the
                molecule is not connected, or all points that could be references are in line.
        """
        points = np.array(positions, dtype=np.float64)
        anchors = np.asarray(anchors, dtype=np.int64)
        if len(anchors) < 3:
            raise InputError(
                f"A coarse-grained configuration needs at least three beads for an orientation, not {len(anchors)}."
            )
        if len(set(anchors.tolist())) < len(anchors):
            raise InputError("Two beads have the same anchor atom; choose different atoms.")
        if len(anchors) == len(points):
            raise InputError("Every atom is a bead, so that nothing is left to generate; choose fewer beads.")
        neighbours = neighbour_lists(len(points), bonds)
        own = np.full(len(points), -1) if groups is None else np.asarray(groups, dtype=np.int64)
        builder = _Builder(points, neighbours, anchors.tolist(), own.tolist())
        if beads is not None:
            builder.stand_on(np.asarray(beads, dtype=np.float64))
        rows = builder.rows(np.ones(len(points)) if masses is None else np.asarray(masses, dtype=np.float64))
        columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
        centres = np.array([near for near in neighbours if len(near) == 4], dtype=np.int64).reshape(-1, 4)
        return cls(anchors, *columns, centres)


class _Builder:
    """The state while atoms are placed."""

    def __init__(
        self, points: np.ndarray, neighbours: list[list[int]], anchors: list[int], groups: list[int]
    ) -> None:
        self.points, self.neighbours, self.anchors = points, neighbours, anchors
        self.placed = list(anchors)
        self.parent = dict.fromkeys(anchors, -1)
        self.tree = {anchor: bead for bead, anchor in enumerate(anchors)}
        self.order = list(anchors)
        self._grow(lambda atom, bead: groups[atom] == bead)
        self._grow(lambda atom, bead: True)

    def _grow(self, belongs: Callable[[int, int], bool]) -> None:
        """Let the trees take atoms in along bonds, nearest anchor first."""
        queue = list(self.order)
        for atom in queue:
            for other in self.neighbours[atom]:
                if other not in self.parent and belongs(other, self.tree[atom]):
                    self.parent[other], self.tree[other] = atom, self.tree[atom]
                    self.order.append(other)
                    queue.append(other)

    def stand_on(self, beads: np.ndarray) -> None:
        """Move each tree until its anchor is where its bead is."""
        tree = np.array([self.tree[atom] for atom in range(len(self.points))])
        self.points = self.points + (beads - self.points[self.anchors])[tree]

    def rows(self, masses: np.ndarray) -> list[tuple[int, int, int, int, int]]:
        """Place all atoms."""
        weight = masses.copy()
        for atom in reversed(self.order):
            if self.parent[atom] >= 0:
                weight[self.parent[atom]] += weight[atom]
        rows: list[tuple[int, int, int, int, int]] = []
        for centre in self.order:  # an atom's parent comes before it, so that it is placed by now
            children = [atom for atom in self.neighbours[centre] if self.parent[atom] == centre]
            children.sort(key=lambda atom: (-weight[atom], atom))
            if not children:
                continue
            axis = self._axis(centre, children)
            reference = self._reference(centre, axis)
            leader = -1
            for child in children:
                rows.append((child, centre, axis, reference, leader))
                leader = len(rows) - 1 if leader < 0 else leader
                self.placed.append(child)
        return rows

    def _axis(self, centre: int, children: list[int]) -> int:
        """Return the third point of the angles at a centre: a neighbour if there is one."""
        for point in self._candidates(centre, self._bonded(centre)):
            if point != centre and not any(self._in_line(child, centre, point) for child in children):
                return point
        raise InputError(
            f"No angle of the atoms bonded to atom {centre} is far from a straight line; choose other beads."
        )

    def _reference(self, centre: int, axis: int) -> int:
        """Return the fourth point of the torsions around an axis: a neighbour of the centre or of the axis."""
        for point in self._candidates(centre, self._bonded(centre) + self._bonded(axis)):
            if point not in (centre, axis) and not self._in_line(centre, axis, point):
                return point
        raise InputError(
            f"No point defines a torsion around the atoms {centre} and {axis}; choose beads that are not in line."
        )

    def _bonded(self, centre: int) -> list[int]:
        """Return the placed neighbours of an atom, its parent first."""
        found = [atom for atom in self.neighbours[centre] if atom in self.placed]
        return sorted(found, key=lambda atom: (atom != self.parent[centre], self.placed.index(atom)))

    def _candidates(self, centre: int, bonded: list[int]) -> list[int]:
        """Return points that could be references: bonded ones, then others by the bonds between."""
        distance, queue = {centre: 0}, [centre]
        for atom in queue:
            for other in self.neighbours[atom]:
                if other not in distance:
                    distance[other] = distance[atom] + 1
                    queue.append(other)
        others = [point for point in self.placed if point not in bonded]
        return bonded + sorted(others, key=lambda point: (distance[point], self.placed.index(point)))

    def _in_line(self, a: int, b: int, c: int) -> bool:
        """Tell whether three points are nearly in line, or two of them in nearly the same place."""
        u, v = self.points[a] - self.points[b], self.points[c] - self.points[b]
        lengths = np.linalg.norm(u), np.linalg.norm(v)
        return bool(min(lengths) < _CLOSE or abs(u @ v) > _STRAIGHT * lengths[0] * lengths[1])
