"""Internal coordinates in which the volume element is flat.

In the coordinates (r^3/3, -cos theta, phi) of every atom, the map to Cartesian coordinates - together
with the position of the first atom and the rotation of the molecule - has Jacobian one: each atom is placed in
spherical coordinates around its bonded atom, whose volume element is r^2 sin(theta) dr dtheta dphi. Densities of
these coordinates are therefore densities of positions "modulo the frame", and temperature steering stays exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.tensors import positions_tensor
from openmm_bg.transforms.handedness import has_handedness, spanned_volumes
from openmm_bg.transforms.placement import Placement, cubic_length, direction_product, sine_of, unit
from openmm_bg.transforms.standardised import StandardisedCoordinates
from openmm_bg.transforms.z_matrix import ZMatrix

_NEARLY_STRAIGHT = -math.cos(math.radians(175.0))


class InternalCoordinates(StandardisedCoordinates):
    """Bonds, angles and torsions of a Z-matrix, standardised by data.

    Features are ordered: bonds (n_atoms - 1), angles (n_atoms - 2), torsions (n_atoms - 3), each in the
    Z-matrix's order. Torsions that the data spread over more than half a circle are circular features; the
    other coordinates are centred and whitened by the inverse square root of their covariance (the symmetric
    one, so that each feature stays close to its own coordinate).

    *Domain.* Features with r^3/3 <= 0, |cos theta| >= 1, a narrow torsion more than pi from its centre, or another
    handedness than the reference's at a centre with four bonds (another chirality, or swapped hydrogen labels)
    are outside: ``inverse`` returns NaN and ``forward`` a log-determinant of -inf. Nothing else is fixed: what
    turning about bonds can do, such as ring flips or a carboxylate's half turn, is inside.

    Args:
        z_matrix: The Z-matrix.
        handedness: That of each of the Z-matrix's ``centres``, 1 or -1, with shape=(n_centres,); 0 admits both,
            as for all if not given.
    """

    def __init__(self, z_matrix: ZMatrix, handedness: np.ndarray | None = None) -> None:
        n = z_matrix.n_atoms
        super().__init__(n - 1, n - 2, n - 3)
        self.n_atoms = n
        self.z_matrix = z_matrix
        row_of = np.empty(n, dtype=np.int64)
        row_of[z_matrix.atoms] = np.arange(n)
        references = (row_of[column[3:]] for column in (z_matrix.bond, z_matrix.angle, z_matrix.torsion))
        # Children of the second seed atom follow the third, whose torsion is zero by definition: no leader.
        leader = np.array([row_of[a] - 3 if a >= 0 else -1 for a in z_matrix.sibling[3:]], dtype=np.int64)
        self.placement = Placement(3, *references, leader)
        self.register_buffer("_row_of", torch.as_tensor(row_of), persistent=False)
        if handedness is None:
            handedness = np.zeros(len(z_matrix.centres))
        self.register_buffer("handedness", torch.as_tensor(np.asarray(handedness), dtype=torch.float64))

    @classmethod
    def from_reference(
        cls, positions: Any, bonds: np.ndarray, masses: np.ndarray | None = None
    ) -> InternalCoordinates:
        """Derive the coordinates of a molecule from its bonds.

        Args:
            positions: The reference configuration [nm] with shape=(n_atoms, 3); it sets the chirality.
            bonds: Pairs of atom indices with shape=(n_bonds, 2).
            masses: Masses [Da] with shape=(n_atoms,).

        Raises:
            InputError: If the molecule is not connected, or has a straight bond angle that a torsion
                would need.
        """
        positions = positions_tensor(positions)
        z_matrix = ZMatrix.from_bonds(len(positions), bonds, masses)
        coordinates = cls(z_matrix)
        coordinates._refuse_straight_angles(coordinates._raw(positions[None])[0])
        coordinates.handedness = torch.sign(spanned_volumes(positions[None], z_matrix.centres))[0]
        return coordinates

    def _refuse_straight_angles(self, raw: torch.Tensor) -> None:
        n = self.n_atoms
        for k in torch.nonzero(raw[n - 1 : 2 * n - 3].abs() > _NEARLY_STRAIGHT).flatten().tolist():
            row = k + 2
            atoms = [
                int(self.z_matrix.atoms[row]),
                int(self.z_matrix.bond[row]),
                int(self.z_matrix.angle[row]),
            ]
            raise InputError(
                f"The atoms {atoms} are nearly in a straight line, so torsions around them are undefined; "
                "linear groups are not supported."
            )

    def fit(self, positions: Any, *, circular: bool = True) -> InternalCoordinates:
        """Learn centres, scales and which torsions are circular from configurations.

        Args:
            positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
            circular: Whether torsions that the data spread over more than half a circle are circular features. If
                not, each is cut open where the data leave the largest gap.

        Returns:
            Itself.

        Raises:
            InputError: If positions are not finite or have another chirality than the reference.
        """
        positions = positions_tensor(positions)
        if positions.ndim != 3 or positions.shape[1:] != (self.n_atoms, 3) or len(positions) < 2:
            raise InputError(
                f"Fitting needs at least two configurations of {self.n_atoms} atoms; "
                f"the positions have the shape {tuple(positions.shape)}."
            )
        if not torch.isfinite(positions).all():
            frames = int((~torch.isfinite(positions)).any(-1).any(-1).sum())
            raise InputError(
                f"The positions contain NaN or infinite values in {frames} frame(s); remove them."
            )
        raw = self._raw(positions)
        if wrong := int((~self._in_class(raw, positions)).sum()):
            raise InputError(
                f"{wrong} of {len(raw)} configurations have another chirality or hydrogen labelling than the "
                "reference; give a reference of the same molecule, or remove them."
            )
        self.fit_raw(raw, circular=circular)
        return self

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map positions (batch, n_atoms, 3) [nm] to features; log-determinant -inf outside the domain."""
        raw = self._raw(inputs)
        return self.features_of(raw), torch.where(
            self._in_class(raw, inputs), -self.log_scale.to(raw), -torch.inf
        )

    def inverse(
        self, inputs: torch.Tensor, context: Any = None, *, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to positions (batch, n_atoms, 3) [nm], in a standard frame unless one is given.

        The standard frame has the first seed atom at the origin, the second on the z axis and the third
        in the xz half-plane with positive x.
        """
        bonds, angles, torsions, valid = self.raw_of(inputs)
        r = (3.0 * bonds) ** (1.0 / 3.0)
        seed = self._seed(r, angles, frame)
        positions = self.placement.place(seed, r[:, 2:], angles[:, 1:], torsions)[:, self._row_of]
        valid = valid & has_handedness(positions, self.z_matrix.centres, self.handedness)
        positions = torch.where(valid[:, None, None], positions, torch.nan)
        return positions, self.log_scale.to(inputs).expand(len(inputs))

    def in_domain(self, positions: torch.Tensor) -> torch.Tensor:
        """Tell which configurations have the reference's chirality and labels, with shape=(batch,)."""
        return self._in_class(self._raw(positions), positions)

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the transform, as JSON; its buffers are saved apart."""
        z = self.z_matrix
        columns = ("atoms", "bond", "angle", "torsion", "sibling", "centres")
        return {"kind": "InternalCoordinates", "z_matrix": {c: getattr(z, c).tolist() for c in columns}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> InternalCoordinates:
        """Rebuild the transform; its buffers are to be loaded afterwards."""
        columns = {name: np.array(column) for name, column in config["z_matrix"].items()}
        columns["centres"] = columns["centres"].astype(np.int64).reshape(-1, 4)  # there may be none
        return cls(ZMatrix(**columns))

    def _in_class(self, raw: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return torch.isfinite(raw).all(1) & has_handedness(positions, self.z_matrix.centres, self.handedness)

    def _raw(self, x: torch.Tensor) -> torch.Tensor:
        """Return r^3/3, -cos theta and torsions (siblings relative, wrapped) with shape=(batch, 3n - 6)."""
        points = x[:, self.z_matrix.atoms]
        bonds, angles, torsions = self.placement.measure(points)
        to_first, to_second = points[:, 0:2] - points[:, 1:3], points[:, 0:1] - points[:, 1:2]
        first_angle = direction_product(to_first[:, 1:], to_second)
        return torch.cat([cubic_length(to_first), bonds, first_angle, angles, torsions], dim=1)

    def _seed(self, r: torch.Tensor, w: torch.Tensor, frame: torch.Tensor | None) -> torch.Tensor:
        """Return the first three atoms with shape=(batch, 3, 3), from bond lengths and -cos theta."""
        if frame is None:
            origin = r.new_zeros(3)
            ex, ez = r.new_tensor([1.0, 0.0, 0.0]), r.new_tensor([0.0, 0.0, 1.0])
        else:
            first, second, third = self.z_matrix.atoms[:3].tolist()
            frame = frame.to(r)
            origin = frame[..., first, :]
            ez = unit(frame[..., second, :] - origin)
            side = frame[..., third, :] - frame[..., second, :]
            ex = unit(side - (side * ez).sum(-1, keepdim=True) * ez)
        s = sine_of(w)
        a = origin.expand(len(r), 3)
        b = a + r[:, 0:1] * ez
        c = b + r[:, 1:2] * (w[:, 0:1] * ez + s[:, 0:1] * ex)
        return torch.stack([a, b, c], dim=1)
