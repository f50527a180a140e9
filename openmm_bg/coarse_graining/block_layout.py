"""In which order an autoregressive backmapping flow places atoms, and which features belong to which block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from openmm_bg.transforms import FibreCoordinates
from openmm_bg.transforms.placement import Placement
from openmm_bg.transforms.rotor_blocks import RotorBlock


@dataclass(frozen=True)
class Wave:
    """Blocks that are drawn at once: all that wait for no other, or one that does.

    Args:
        blocks: Which ones.
        turns: Whether it is one that turns.
        head: The first of their torsions, counted over all blocks.
        stiff: Their stiff coordinates, counted likewise.
        columns: The features that are drawn: the stiff ones, then the torsion.
        arrangement: Where in these the bonds, angles and torsions of the rows are.
        given: The columns of points that they stand on.
    """

    blocks: slice
    turns: bool
    head: int
    stiff: slice
    columns: torch.Tensor
    arrangement: torch.Tensor
    given: torch.Tensor


class BlockLayout:
    """The order in which points are placed, and where the coordinates of blocks are among the features."""

    def __init__(self, coordinates: FibreCoordinates, blocks: list[RotorBlock]) -> None:
        matrix = coordinates.matrix
        n, n_given = len(matrix.atoms), len(matrix.anchors)
        self._n_given = n_given
        self.references = coordinates.placement.references.cpu().numpy()
        rows = [row for block in blocks for row in block.rows]
        if sorted(rows) != list(range(n)) or not all(block.rows for block in blocks):
            raise ValueError("The blocks are not of all atoms, each of which is in one of them.")
        placed = np.concatenate([np.arange(n_given), n_given + np.array(rows, dtype=np.int64)])
        self.column_of = placed.argsort()
        self.placed = torch.as_tensor(placed)
        features = [_features_of(np.array(block.rows), n) for block in blocks]
        torsion = [2 * n + block.rows[0] for block in blocks if block.turns]
        stiff = [
            own[own != 2 * n + block.rows[0]] if block.turns else own
            for block, own in zip(blocks, features, strict=True)
        ]
        self.torsions = torch.tensor(torsion, dtype=torch.int64)
        self.stiff = torch.as_tensor(np.concatenate(stiff))
        self.sizes = [len(own) for own in stiff]
        self.waves: list[Wave] = []
        self.placements: list[Placement] = []
        n_free = next((k for k, block in enumerate(blocks) if block.waits), len(blocks))
        starts = [0, *range(n_free, len(blocks))] if n_free else list(range(len(blocks)))
        ends = [*starts[1:], len(blocks)]
        before = np.concatenate([[0], np.cumsum(self.sizes)])
        heads = np.concatenate([[0], np.cumsum([block.turns for block in blocks])])
        for start, end in zip(starts, ends, strict=True):
            turns = blocks[start].turns
            own_rows = np.array([row for block in blocks[start:end] for row in block.rows])
            columns = np.concatenate([*stiff[start:end], [torsion[heads[start]]] if turns else []]).astype(
                np.int64
            )
            place = {column: k for k, column in enumerate(columns.tolist())}
            given, placement = self._placement(own_rows, matrix.leader, n_given)
            self.placements.append(placement)
            self.waves.append(
                Wave(
                    blocks=slice(start, end),
                    turns=turns,
                    head=int(heads[start]),
                    stiff=slice(int(before[start]), int(before[end])),
                    columns=torch.as_tensor(columns),
                    arrangement=torch.tensor([place[c] for c in _features_of(own_rows, n).tolist()]),
                    given=torch.as_tensor(given),
                )
            )

    def check(self, environments: Sequence[Sequence[int]]) -> None:
        """Check that blocks see given points and those that are placed before them.

        Args:
            environments: The points that each block sees.

        Raises:
            ValueError: If not.
        """
        if len(environments) != self.waves[-1].blocks.stop:
            raise ValueError("There are not as many environments as blocks.")
        n_placed = self._n_given
        for wave in self.waves:
            for points in environments[wave.blocks]:
                if self.column_of[list(points)].max() >= n_placed:
                    raise ValueError("A block sees points that are placed after it.")
            n_placed += len(wave.columns) // 3

    def _placement(self, rows: np.ndarray, leader: np.ndarray, n_given: int) -> tuple[np.ndarray, Placement]:
        """Return the columns of points that rows stand on, and how they are placed from these."""
        references = self.references[:, rows]
        own = {n_given + row: k for k, row in enumerate(rows.tolist())}
        outside = sorted({p for p in references.ravel().tolist() if p not in own})
        number = {p: k for k, p in enumerate(outside)} | {p: len(outside) + k for p, k in own.items()}
        renumbered = np.array([[number[p] for p in line] for line in references.tolist()])
        leaders = np.array([own[n_given + row] if row >= 0 else -1 for row in leader[rows].tolist()])
        return self.column_of[outside], Placement(len(outside), *renumbered, leaders)


def _features_of(rows: np.ndarray, n: int) -> np.ndarray:
    """Return the features of rows: bonds, angles, torsions."""
    return np.concatenate([rows, n + rows, 2 * n + rows])


def reach(coordinates: FibreCoordinates, block: RotorBlock) -> list[int]:
    """Return the points that move with a block: its own, and if it waits, all that is bonded to them later."""
    n_given = len(coordinates.matrix.anchors)
    moved = {n_given + row for row in block.rows}
    if block.waits:
        for row, point in enumerate(coordinates.placement.references[0].tolist()):
            if point in moved:
                moved.add(n_given + row)
    return sorted(moved)
