"""Which atoms are placed together: each rotor with what turns with it, and what given points hold in place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_bg.transforms.fibre_matrix import FibreMatrix


@dataclass(frozen=True)
class RotorBlock:
    """Rows of a `FibreMatrix` whose atoms are drawn at once.

    Args:
        rows: The rows, in the order of placement. The references of the first define the block's frame.
        turns: Whether the torsion of the first row turns, and the others' atoms with it.
        waits: Whether the first row needs points of other blocks; all others of its rows need those, the given
            points and the block's own.
    """

    rows: tuple[int, ...]
    turns: bool
    waits: bool


def rotor_blocks(matrix: FibreMatrix, turning: np.ndarray, heavy: np.ndarray) -> list[RotorBlock]:
    """Divide the rows of a matrix into blocks, in an order in which they can be placed.

    Those that wait for no other come first; then blocks with heavy atoms, along the chain of beads, and hydrogens
    alone last: these fit in wherever they are, while heavy atoms have to get by each other.

    Args:
        matrix: Which points define each atom.
        turning: Which rows have a torsion that turns, with shape=(n_rows,); only rows without a leader can.
        heavy: Which atoms are not hydrogens, with shape=(n_atoms,).
    """
    n_given, n_rows = len(matrix.anchors), len(matrix.atoms)
    point = np.empty(matrix.n_atoms, dtype=np.int64)
    point[np.concatenate([matrix.anchors, matrix.atoms])] = np.arange(matrix.n_atoms)
    references = [
        [int(point[column[row]]) for column in (matrix.bond, matrix.angle, matrix.torsion)]
        for row in range(n_rows)
    ]
    blocks = _members(references, matrix.leader.tolist(), np.asarray(turning).tolist(), n_given)
    found = []
    for rows in blocks:
        first = rows[0]
        waits = any(p >= n_given for p in references[first])
        found.append(RotorBlock(tuple(rows), bool(turning[first]), waits or bool(turning[first])))
    tree = matrix.tree[matrix.atoms]

    def priority(block: RotorBlock) -> tuple[bool, bool, int, int]:
        has_heavy = bool(heavy[matrix.atoms[list(block.rows)]].any())
        return block.waits, not has_heavy, int(tree[block.rows[0]]), block.rows[0]

    placed, ordered = set(range(n_given)), []
    while found:
        ready = [block for block in found if placed.issuperset(references[block.rows[0]])]
        chosen = min(ready, key=priority)
        found.remove(chosen)
        ordered.append(chosen)
        placed.update(n_given + row for row in chosen.rows)
    return ordered


def _members(
    references: list[list[int]], leader: list[int], turning: list[bool], n_given: int
) -> list[list[int]]:
    """Return the rows of each block. A block begins before those that need its points."""
    block: list[int] = []
    members: list[list[int]] = []
    of_given: dict[int, int] = {}  # the block of what given points hold in place, by the bonded one

    def known(point: int, own: int) -> bool:
        """Tell whether a block can use a point without waiting for more than its first row does."""
        return point < n_given or block[point - n_given] == own or point in references[members[own][0]]

    for row, (own, (bonded, angle, torsion)) in enumerate(zip(leader, references, strict=True)):
        if own >= 0:
            joined = block[own]
        else:
            centre = of_given.get(bonded, -1) if bonded < n_given else block[bonded - n_given]
            fits = centre >= 0 and all(known(point, centre) for point in (bonded, angle, torsion))
            joined = centre if fits and not turning[row] else len(members)
        if joined == len(members):
            members.append([])
            if bonded < n_given and not turning[row]:
                of_given.setdefault(bonded, joined)
        members[joined].append(row)
        block.append(joined)
    return members
