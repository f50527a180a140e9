"""A backmapping flow that places one rotor after the other, each by what is around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nflows.transforms import CompositeTransform
from torch import nn

from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.block_layout import BlockLayout, Wave, reach
from openmm_bg.coarse_graining.block_networks import HARMONICS, BlockNetworks
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.local_environment import AxialProfiles, LocalEnvironments, nearest
from openmm_bg.flows.layers import spline_layers
from openmm_bg.transforms import FibreCoordinates
from openmm_bg.transforms.circular_density import circular_density
from openmm_bg.transforms.placement import Placement
from openmm_bg.transforms.rotor_blocks import RotorBlock, rotor_blocks
from openmm_bg.transforms.splines import coupling_splines
from openmm_bg.transforms.standardised import whitening

TURNING = 0.25  # rad, beyond which a torsion's deviation makes it a rotor's
_SEEN = 48  # points around a block
_FRAMES = 1000  # of the data, in which points are near or not
_HEAVY = 2.0  # Da
_LARGEST_LOG_SCALE = 4.0


class AutoregressiveBackmapping(BackmappingFlow):
    """A backmapping flow over blocks of atoms, each of which sees the beads and the blocks before it.

    A block is a rotor and what turns with it, up to the next rotor (`rotor_blocks`). First its torsion is drawn
    from a density around the circle, then its other coordinates, which are stiff: whitened, centred, scaled and
    bent by splines. The networks of a block see where the nearest of the beads and of the atoms that are already
    placed are, in a frame of the block's own (`LocalEnvironments`); that of the torsion sees how crowded it is
    around the axis (`AxialProfiles`), that of the stiff coordinates the torsion. So side chains get by each other
    without having to learn where others are from their torsions. Blocks that wait for no other are drawn at once;
    coupling layers make them depend on each other. The density of a configuration takes one pass; a draw takes one
    after the other.

    Args:
        coordinates: Coordinates of the fibre, with `FibreCoordinates.fit_turning`.
        invariants: The fitted invariants of the beads, which tell those that are far from the data.
        blocks: The blocks: their rows, whether they turn, and whether they wait for others.
        environments: The points that each block sees; points are numbered as those of the coordinates' placement.
        n_layers: Coupling layers of what waits for no other block.
        n_bins: Bins of the splines of stiff coordinates.
        n_points: Points of the circle where the density of a torsion is given.
        bound: The stiff coordinates' splines act within this many standard deviations.
        hidden_features: Width of the networks.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If the blocks are not of all atoms, or one sees points that are placed after it.
    """

    def __init__(
        self,
        coordinates: FibreCoordinates,
        invariants: BeadInvariants,
        *,
        blocks: Sequence[Sequence[Any]],
        environments: Sequence[Sequence[int]],
        n_layers: int = 4,
        n_bins: int = 8,
        n_points: int = 36,
        bound: float = 6.0,
        hidden_features: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(coordinates, invariants)
        self._settings = {
            "blocks": [list(block) for block in blocks],
            "environments": [list(points) for points in environments],
            "n_layers": n_layers,
            "n_bins": n_bins,
            "n_points": n_points,
            "bound": bound,
            "hidden_features": hidden_features,
            "seed": seed,
        }
        self.blocks = [RotorBlock(tuple(rows), turns, waits) for rows, turns, waits in blocks]
        self._bound = float(bound)
        layout = BlockLayout(coordinates, self.blocks)
        layout.check(environments)
        self._waves, self._placements = layout.waves, nn.ModuleList(layout.placements)
        for name in ("placed", "torsions", "stiff"):
            self.register_buffer(f"_{name}", getattr(layout, name), persistent=False)
        self._sizes = layout.sizes
        turning = [k for k, block in enumerate(self.blocks) if block.turns]
        self.register_buffer("_turning", torch.tensor(turning, dtype=torch.int64), persistent=False)
        column = layout.column_of
        frames = [[int(column[p]) for p in layout.references[:, block.rows[0]]] for block in self.blocks]
        seen = [[int(column[p]) for p in points] for points in environments]
        self.environments = LocalEnvironments(torch.tensor(frames), torch.tensor(seen))
        of_turning = (torch.tensor(rows, dtype=torch.int64)[turning] for rows in (frames, seen))
        self.profiles = AxialProfiles(*of_turning)
        for name in ("whiten", "unwhiten"):
            blank = torch.cat([torch.eye(size, dtype=torch.float64).flatten() for size in self._sizes])
            self.register_buffer(f"_{name}", blank)
        self.register_buffer("_log_scale", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_crowding", torch.zeros(len(turning), self.profiles.n_features, n_points))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.networks = BlockNetworks(
                self.environments.n_features,
                self.profiles.n_features,
                self.profiles.n_circles,
                hidden_features,
                n_bins,
                n_points,
                self._sizes,
                turning,
            )
            n_first = sum(
                size for size, block in zip(self._sizes, self.blocks, strict=True) if not block.waits
            )
            self.register_buffer("_first", self._stiff[:n_first], persistent=False)
            couplings = []
            if n_first > 1:
                couplings = spline_layers(
                    torch.zeros(n_first, dtype=torch.bool),
                    n_layers,
                    n_bins=n_bins,
                    bound=bound,
                    hidden_features=hidden_features,
                    n_blocks=1,
                    generator=torch.Generator().manual_seed(seed),
                    n_context=invariants.n_invariants,
                )
            self.couplings = CompositeTransform(couplings)

    @classmethod
    def from_data(
        cls,
        coordinates: FibreCoordinates,
        invariants: BeadInvariants,
        positions: torch.Tensor,
        masses: Any,
        **settings: Any,
    ) -> AutoregressiveBackmapping:
        """Choose blocks and what they see, and whiten stiff coordinates, by data.

        Args:
            coordinates: Coordinates with `FibreCoordinates.fit_turning`.
            invariants: The fitted invariants of the beads.
            positions: Configurations [nm] with shape=(n_frames, n_atoms, 3), float64.
            masses: Masses [Da] with shape=(n_atoms,).
            **settings: The constructor's other arguments.
        """
        matrix, n = coordinates.matrix, len(coordinates.matrix.atoms)
        turning = coordinates.circular[2 * n :].cpu().numpy()
        blocks = rotor_blocks(matrix, turning, np.asarray(masses) > _HEAVY)
        chosen = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))[:_FRAMES]
        raw = torch.cat([coordinates.raw(chunk) for chunk in positions.split(2048)])
        beads = torch.einsum("ba,nax->nbx", coordinates.weights, positions)
        points = coordinates.standing(beads[chosen], raw[chosen])
        flow = cls(
            coordinates,
            invariants,
            blocks=[(list(block.rows), block.turns, block.waits) for block in blocks],
            environments=_environments(coordinates, blocks, points),
            **settings,
        )
        flow._fit(raw, beads)
        return flow

    def _fit(self, raw: torch.Tensor, beads: torch.Tensor) -> None:
        """Learn the means and deviations of what blocks see, and the covariances of stiff coordinates."""
        points = [
            self.coordinates.standing(*pair)[:, self._placed]
            for pair in zip(beads.split(2048), raw.split(2048), strict=True)
        ]
        points = torch.cat(points)
        self.environments.fit(points)
        if len(self._turning):
            chosen = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(1))[:_FRAMES]]
            phases = self.profiles.fit_circles(chosen, *self._reach())
            self.profiles.fit(points)
            self._crowding = self._crowding_at_points(phases).float()
        offsets = self.coordinates.features_of(raw)
        whiten, unwhiten, log_scale = [], [], torch.zeros_like(self._log_scale)
        for stiff in offsets[:, self._stiff].split(self._sizes, dim=1):
            there, back, scale = whitening(stiff)
            whiten.append(there.T.flatten())
            unwhiten.append(back.T.flatten())
            log_scale = log_scale + scale
        self._whiten = torch.cat(whiten)
        self._unwhiten = torch.cat(unwhiten)
        self._log_scale = log_scale

    def _crowding_at_points(self, phases: torch.Tensor) -> torch.Tensor:
        """Return what gives how crowded it is for rotors at the points where densities are given."""
        n_points = self._crowding.shape[-1]
        grid = -math.pi + 2.0 * math.pi * torch.arange(n_points, dtype=torch.float64) / n_points
        return self.profiles.crowding(phases, grid + self.coordinates.center[self._torsions, None])

    def _reach(self) -> tuple[list[list[int]], list[int]]:
        """Return the columns of the points that move with each rotor, and those of the first."""
        n_given, column = len(self.coordinates.matrix.anchors), self._placed.argsort().tolist()
        turning = [block for block in self.blocks if block.turns]
        moved = [[column[p] for p in reach(self.coordinates, block)] for block in turning]
        return moved, [column[n_given + block.rows[0]] for block in turning]

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the networks; coordinates and densities stay in float64."""
        self.networks.to(dtype)
        self.couplings.to(dtype)

    def context(self, beads: torch.Tensor) -> torch.Tensor:
        """Return the beads themselves, in the precision in which atoms are to be placed."""
        return beads

    def to_latents(self, features: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents with the shape of features, and log-determinants with shape=(batch,)."""
        raw = torch.cat(_possible(features + self.coordinates.center.to(features)), dim=1)
        points = self.coordinates.standing(context.to(features), raw)[:, self._placed]
        hidden = self.networks.trunk(self.environments(points).to(self.dtype))
        turned = features[:, self._torsions].to(self.dtype)
        latents = turned.new_zeros(features.shape)
        log_det = -self._log_scale.to(latents)
        if len(self._turning):
            logits = self._logits(points, hidden[self._turning], slice(None))
            found, logabsdet = circular_density(turned.t(), logits)
            latents, log_det = latents.index_copy(1, self._torsions, found.t()), log_det + logabsdet
        hidden = self.networks.turned(hidden, self._all_harmonics(turned))
        found, logabsdet = self._stiff_splines(
            self._mixed(features[:, self._stiff], self._whiten, slice(None)),
            hidden,
            slice(None),
            inverse=False,
        )
        latents, log_det = latents.index_copy(1, self._stiff, found), log_det + logabsdet
        first, logabsdet = self.couplings(latents[:, self._first], self._invariants(context))
        return latents.index_copy(1, self._first, first), log_det + logabsdet

    def to_features(self, latents: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features with the shape of latents, and log-determinants with shape=(batch,)."""
        first, log_det = self.couplings.inverse(latents[:, self._first], self._invariants(context))
        latents, log_det = latents.index_copy(1, self._first, first), log_det + self._log_scale.to(latents)
        points = context
        columns, values = [], []
        for wave, placement in zip(self._waves, self._placements, strict=True):
            hidden = self.networks.trunk(self.environments(points, wave.blocks).to(self.dtype), wave.blocks)
            harmonics = hidden.new_zeros(len(hidden), len(latents), 2 * HARMONICS)
            drawn = []
            if wave.turns:
                column = self._torsions[wave.head]
                heads = slice(wave.head, wave.head + 1)
                logits = self._logits(points, hidden, heads)
                torsion, logabsdet = circular_density(latents[None, :, column], logits, inverse=True)
                log_det, harmonics = log_det + logabsdet, _harmonics(torsion)
                drawn.append(torsion.t())
            hidden = self.networks.turned(hidden, harmonics, wave.blocks)
            found, logabsdet = self._stiff_splines(
                latents[:, self._stiff[wave.stiff]], hidden, wave.blocks, inverse=True
            )
            log_det = log_det + logabsdet
            drawn.insert(0, self._mixed(found.to(points), self._unwhiten, wave.blocks))
            offsets = torch.cat([one.to(points) for one in drawn], dim=1)
            columns.append(wave.columns)
            values.append(offsets)
            points = torch.cat([points, self._placed_atoms(points, offsets, wave, placement)], dim=1)
        order = torch.cat(columns).argsort()
        return torch.cat(values, dim=1)[:, order].to(self.dtype), log_det

    def _invariants(self, beads: torch.Tensor) -> torch.Tensor:
        """Return what the coupling layers see of beads."""
        return self.invariants(beads).to(self.dtype)

    def _placed_atoms(
        self, points: torch.Tensor, offsets: torch.Tensor, wave: Wave, placement: Placement
    ) -> torch.Tensor:
        """Return the atoms of a wave [nm] with shape=(batch, n_rows, 3)."""
        ordered = wave.columns[wave.arrangement]
        raw = offsets[:, wave.arrangement] + self.coordinates.center[ordered].to(offsets)
        bonds, angles, torsions = _possible(raw)
        placed = placement.place(points[:, wave.given], (3.0 * bonds) ** (1.0 / 3.0), angles, torsions)
        return placed[:, len(wave.given) :]

    def _logits(self, points: torch.Tensor, hidden: torch.Tensor, heads: slice) -> torch.Tensor:
        """Return the logits of torsions' densities with shape=(n_torsions, n_points, batch)."""
        raw = self.profiles.raw(points, heads)
        seen = self.profiles.standardised(raw, heads).to(self.dtype)
        return self.networks.torsions(hidden, seen, raw.to(self.dtype), self._crowding[heads], heads)

    def _all_harmonics(self, torsions: torch.Tensor) -> torch.Tensor:
        """Return what networks see of all blocks' torsions, with shape=(n_blocks, batch, 6); zeros of others."""
        shape = len(self.blocks), len(torsions), 2 * HARMONICS
        return torsions.new_zeros(shape).index_copy(0, self._turning, _harmonics(torsions.t()))

    def _mixed(self, stiff: torch.Tensor, matrices: torch.Tensor, blocks: slice) -> torch.Tensor:
        """Multiply the stiff coordinates of each block by its matrix."""
        sizes = self._sizes[blocks]
        squares = [size * size for size in self._sizes]
        own = matrices.to(stiff).split(squares)[blocks]
        parts = zip(stiff.split(sizes, dim=1), own, sizes, strict=True)
        return torch.cat([part @ matrix.view(size, size) for part, matrix, size in parts], dim=1)

    def _stiff_splines(
        self, stiff: torch.Tensor, hidden: torch.Tensor, blocks: slice, *, inverse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply what networks say of whitened coordinates with shape=(batch, n), or the inverse of it."""
        raw = torch.cat(
            [
                self.networks.stiff(one, k)
                for one, k in zip(hidden, range(len(self.blocks))[blocks], strict=True)
            ]
        )
        shift, log_scale = raw[:, 0], _LARGEST_LOG_SCALE * (raw[:, 1] / _LARGEST_LOG_SCALE).tanh()
        x = stiff.to(raw).t()
        bounds = x.new_full((len(x),), self._bound)
        if inverse:
            x, logabsdet = coupling_splines(x, raw[:, 2:], 0, bounds, True)
            return (x * log_scale.exp() + shift).t(), logabsdet + log_scale.sum(0)
        x, logabsdet = coupling_splines((x - shift) * (-log_scale).exp(), raw[:, 2:], 0, bounds)
        return x.t(), logabsdet - log_scale.sum(0)


def _environments(
    coordinates: FibreCoordinates, blocks: list[RotorBlock], points: torch.Tensor
) -> list[list[int]]:
    """Return what each block sees: the nearest points that are placed before it.

    Near to all that turns with a block, even if it is placed later. Where there are fewer points than for others,
    the origin of the block's frame is there several times, which says nothing.
    """
    n_given = len(coordinates.matrix.anchors)
    known = list(range(n_given))
    waiting: list[int] = []
    found = []
    for block in blocks:
        if block.waits:
            known, waiting = known + waiting, []
        found.append(nearest(points, reach(coordinates, block), known, _SEEN))
        waiting += [n_given + row for row in block.rows]
    size, origins = max(len(near) for near in found), coordinates.placement.references[0].tolist()
    return [
        near + [origins[block.rows[0]]] * (size - len(near))
        for near, block in zip(found, blocks, strict=True)
    ]


def _possible(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return bonds, angles and torsions, the nearest possible ones: impossible ones are refused in the end."""
    bonds, angles, torsions = raw.chunk(3, dim=1)
    return bonds.clamp_min(1e-6), angles.clamp(-0.999999, 0.999999), torsions


def _harmonics(torsions: torch.Tensor) -> torch.Tensor:
    """Return cosines and sines of multiples of torsions with shape=(n, batch), as shape=(n, batch, 6)."""
    return torch.stack(
        [function(k * torsions) for k in range(1, HARMONICS + 1) for function in (torch.cos, torch.sin)],
        dim=-1,
    )
