"""Coordinates of the atoms of a molecule whose coarse-grained configuration is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms.fibre_matrix import FibreMatrix
from openmm_bg.transforms.handedness import has_handedness, spanned_volumes
from openmm_bg.transforms.placement import Placement
from openmm_bg.transforms.standardised import StandardisedCoordinates, wrap


class FibreCoordinates(StandardisedCoordinates):
    r"""Bonds, angles and torsions of what a linear coarse-grained map z = P x leaves free, standardised by data.

    Each bead b has an anchor atom, from which a tree of other atoms grows along bonds. All bonds within a tree are
    coordinates: the trees are placed with their anchors at the beads, which gives every atom i the vector
    :math:`d_i` from the anchor of its tree, t(i). The anchors then solve

    .. math:: M x_A = z - P d, \qquad M_{bc} = \sum_{i: t(i) = c} P_{bi}

    and :math:`x_i = x_{A, t(i)} + d_i`. In the coordinates (r^3/3, -cos theta, phi) the volume element of d is one,
    and dx = dz dd / \|det M\|^3. So the density of beads, times the density of these features, times the
    exponential of `forward`'s log-determinant is a density of all positions, modulo place and orientation of the
    molecule. M is the identity, and that factor is one, if beads are atoms, or averages of connected groups of them
    that have no atom in common.

    Features are ordered: bonds, angles, torsions, n_atoms - n_beads of each.

    *Domain.* As of `InternalCoordinates`: impossible bonds and angles and another handedness are outside.

    Args:
        matrix: Which points define each atom.
        weights: The map's weights P with shape=(n_beads, n_atoms).
        handedness: That of each of the matrix's ``centres``, 1 or -1, with shape=(n_centres,); 0 admits both, as
            for all if not given.

    Raises:
        InputError: If the anchors do not follow from the beads.
    """

    def __init__(self, matrix: FibreMatrix, weights: Any, handedness: np.ndarray | None = None) -> None:
        n = len(matrix.atoms)
        super().__init__(n, n, n)
        self.matrix = matrix
        self.n_atoms = matrix.n_atoms
        weights = torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (len(matrix.anchors), self.n_atoms):
            raise InputError(
                f"The weights of a map with {len(matrix.anchors)} beads and {self.n_atoms} atoms do not have the "
                f"shape {tuple(weights.shape)}."
            )
        point_of = np.empty(self.n_atoms, dtype=np.int64)
        point_of[np.concatenate([matrix.anchors, matrix.atoms])] = np.arange(self.n_atoms)
        references = (point_of[column] for column in (matrix.bond, matrix.angle, matrix.torsion))
        self.placement = Placement(len(matrix.anchors), *references, matrix.leader)
        self.register_buffer("_point_of", torch.as_tensor(point_of), persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        tree = torch.as_tensor(matrix.tree)
        self.register_buffer("_tree", tree, persistent=False)
        shares = torch.zeros(len(weights), len(weights), dtype=torch.float64).index_add(1, tree, weights)
        self.register_buffer("_shares", shares, persistent=False)
        if handedness is None:
            handedness = np.zeros(len(matrix.centres))
        self.register_buffer("handedness", torch.as_tensor(np.asarray(handedness), dtype=torch.float64))
        self._check_anchors()

    def _check_anchors(self) -> None:
        if not torch.isfinite(self._shares).all() or torch.linalg.cond(self._shares) > 1e6:
            raise InputError(
                "The positions of the anchor atoms do not follow from those of the beads; give each bead an anchor "
                "among atoms that have a large weight in it, and little in the others."
            )

    @classmethod
    def from_reference(
        cls,
        positions: Any,
        bonds: np.ndarray,
        weights: Any,
        anchors: np.ndarray,
        masses: np.ndarray | None = None,
    ) -> FibreCoordinates:
        """Derive the coordinates of a molecule from its bonds.

        Args:
            positions: The reference configuration [nm] with shape=(n_atoms, 3); it sets the chirality.
            bonds: Pairs of atom indices with shape=(n_bonds, 2).
            weights: The map's weights with shape=(n_beads, n_atoms).
            anchors: The anchor atom of each bead with shape=(n_beads,).
            masses: Masses [Da] with shape=(n_atoms,).

        Raises:
            InputError: As of `FibreMatrix.from_bonds`, if the anchors do not follow from the beads, or if the
                arguments are not of one molecule.
        """
        positions = positions_tensor(positions)
        weights = torch.as_tensor(weights, dtype=torch.float64)
        anchors = np.asarray(anchors, dtype=np.int64)
        n_atoms = weights.shape[-1]
        if positions.shape != (n_atoms, 3) or weights.shape != (len(anchors), n_atoms):
            raise InputError(
                f"Weights with the shape {tuple(weights.shape)} and {len(anchors)} anchors do not fit a reference "
                f"configuration with the shape {tuple(positions.shape)}; both must be of the same atoms."
            )
        if not torch.isfinite(positions).all():
            raise InputError("The reference configuration has positions that are not finite.")
        if len(anchors) and (anchors.min() < 0 or anchors.max() >= n_atoms):
            raise InputError(f"The anchors must be atoms from 0 to {n_atoms - 1}, not {anchors.tolist()}.")
        beads = (weights @ positions).numpy()
        matrix = FibreMatrix.from_bonds(
            positions.numpy(), bonds, anchors, masses, beads=beads, groups=_groups(weights)
        )
        signs = torch.sign(spanned_volumes(positions[None], matrix.centres))[0]
        return cls(matrix, weights, signs.numpy())

    def fit(self, positions: Any, *, circular: bool = True) -> FibreCoordinates:
        """Learn centres, scales and which torsions are circular from configurations.

        Args:
            positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
            circular: As of `InternalCoordinates.fit`.

        Returns:
            Itself.

        Raises:
            InputError: If there are fewer than two, or one is not finite, of another molecule, or has another
                chirality than the reference.
        """
        self.fit_raw(self._checked_raw(positions), circular=circular)
        return self

    def fit_turning(self, positions: Any, spread: float) -> FibreCoordinates:
        """Learn centres from configurations, whose features are deviations, and which torsions turn.

        Args:
            positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
            spread: Torsions without a leader turn, and are circular features, if they deviate by more than this
                from their centre [rad], as a root mean square.

        Returns:
            Itself.

        Raises:
            InputError: As of `fit`.
        """
        raw = self._checked_raw(positions)
        torsions = raw[:, -self._sizes[2] :]
        middle = torch.atan2(torsions.sin().mean(0), torsions.cos().mean(0))
        turning = wrap(torsions - middle).square().mean(0).sqrt() > spread
        self.fit_deviations(raw, turning & (torch.as_tensor(self.matrix.leader) < 0))
        return self

    def _checked_raw(self, positions: Any) -> torch.Tensor:
        """Return raw coordinates of configurations that are all in the domain."""
        positions = positions_tensor(positions)
        if positions.ndim != 3 or positions.shape[1:] != (self.n_atoms, 3) or len(positions) < 2:
            raise InputError(
                f"Fitting needs at least two configurations of {self.n_atoms} atoms; "
                f"the positions have the shape {tuple(positions.shape)}."
            )
        raw = self.raw(positions)
        if wrong := int((~self._in_class(raw, positions)).sum()):
            raise InputError(
                f"{wrong} of {len(raw)} configurations are not finite, or have another chirality or hydrogen "
                "labelling than the reference; give a reference of the same molecule, or remove them."
            )
        return raw

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map positions (batch, n_atoms, 3) [nm] to features; log-determinant -inf outside the domain."""
        raw = self.raw(inputs)
        logabsdet = self.log_jacobian().to(raw) - self.log_scale.to(raw)
        return self.features_of(raw), torch.where(self._in_class(raw, inputs), logabsdet, -torch.inf)

    def inverse(
        self, inputs: torch.Tensor, context: Any = None, *, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to positions (batch, n_atoms, 3) [nm].

        Args:
            inputs: Features with shape=(batch, n_features).
            context: The beads' positions [nm] with shape=(batch, n_beads, 3).
            frame: Not used: the beads have a place and an orientation.
        """
        bonds, angles, torsions, valid = self.raw_of(inputs)
        positions = self.place(context.to(inputs), torch.cat([bonds, angles, torsions], dim=1))
        valid = valid & has_handedness(positions, self.matrix.centres, self.handedness)
        valid = valid & torch.isfinite(positions).all(dim=(1, 2))  # beads in line give no directions
        positions = torch.where(valid[:, None, None], positions, torch.nan)
        logabsdet = self.log_scale.to(inputs) - self.log_jacobian().to(inputs)
        return positions, logabsdet.expand(len(inputs))

    def raw(self, positions: torch.Tensor) -> torch.Tensor:
        """Return r^3/3, -cos theta and phi of configurations with shape=(batch, n_features).

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
        """
        beads = torch.einsum("ba,nax->nbx", self.weights.to(positions), positions)
        moved = positions + (beads - positions[:, self.matrix.anchors])[:, self._tree]
        points = torch.cat([beads, moved[:, self.matrix.atoms]], dim=1)
        return torch.cat(self.placement.measure(points), dim=1)

    def place(self, beads: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """Return configurations [nm] with shape=(batch, n_atoms, 3), the inverse of `raw`.

        Args:
            beads: The beads' positions [nm] with shape=(batch, n_beads, 3).
            raw: r^3/3, -cos theta and phi with shape=(batch, n_features).
        """
        vectors = self.standing(beads, raw)[:, self._point_of] - beads[:, self._tree]
        rest = beads - torch.einsum("ba,nax->nbx", self.weights.to(beads), vectors)
        anchors = torch.einsum("bc,ncx->nbx", torch.linalg.inv(self._shares).to(beads), rest)
        return anchors[:, self._tree] + vectors

    def standing(self, beads: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """Return the points of `placement` [nm]: the beads, and the atoms of the trees that stand on them.

        Args:
            beads: The beads' positions [nm] with shape=(batch, n_beads, 3).
            raw: r^3/3, -cos theta and phi with shape=(batch, n_features).
        """
        bonds, angles, torsions = raw.split(self._sizes, dim=1)
        return self.placement.place(beads, (3.0 * bonds) ** (1.0 / 3.0), angles, torsions)

    def log_jacobian(self) -> torch.Tensor:
        """Return 3 log |det M|."""
        return 3.0 * torch.linalg.slogdet(self._shares).logabsdet

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the transform, as JSON; its buffers are saved apart."""
        columns = ("anchors", "atoms", "bond", "angle", "torsion", "leader", "centres")
        return {
            "kind": "FibreCoordinates",
            "matrix": {column: getattr(self.matrix, column).tolist() for column in columns},
            "weights": self.weights.tolist(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FibreCoordinates:
        """Rebuild the transform; its buffers are to be loaded afterwards."""
        columns = {name: np.array(column, dtype=np.int64) for name, column in config["matrix"].items()}
        columns["centres"] = columns["centres"].reshape(-1, 4)  # there may be none
        return cls(FibreMatrix(**columns), config["weights"])

    def _in_class(self, raw: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return torch.isfinite(raw).all(1) & has_handedness(positions, self.matrix.centres, self.handedness)


def _groups(weights: torch.Tensor) -> np.ndarray:
    """Return the bead in which each atom weighs most, with shape=(n_atoms,); -1 for atoms that are in none."""
    largest, bead = weights.max(0)
    return torch.where(largest > 0, bead, -1).numpy()
