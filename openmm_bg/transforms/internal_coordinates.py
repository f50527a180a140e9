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
from openmm_bg.transforms.base import Coordinates
from openmm_bg.transforms.z_matrix import ZMatrix

_NEARLY_STRAIGHT = -math.cos(math.radians(175.0))


class InternalCoordinates(Coordinates):
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
        super().__init__()
        self.z_matrix = z_matrix
        self.n_atoms = n = z_matrix.n_atoms
        row_of = np.empty(n, dtype=np.int64)
        row_of[z_matrix.atoms] = np.arange(n)
        torsion_of = row_of - 3  # index among the torsions, by atom
        leader = np.array([torsion_of[a] if a >= 0 else -1 for a in z_matrix.sibling[3:]], dtype=np.int64)
        self._index("_leader", np.where(leader >= 0, leader, 0))
        # Children of the second seed atom follow the third, whose torsion is zero by definition.
        self._index("_has_leader", leader >= 0)
        levels = z_matrix.levels()
        placed = np.concatenate([np.arange(3), *levels])
        place = np.argsort(placed)[row_of]  # by atom: the rows are placed level by level
        self._index("_place_of_atom", place)
        self._n_levels = len(levels)
        for k, rows in enumerate(levels):
            references = [place[column[rows]] for column in (z_matrix.bond, z_matrix.angle, z_matrix.torsion)]
            self._index(f"_rows_{k}", rows)
            self._index(f"_references_{k}", np.stack(references))
        size = 3 * n - 6
        if handedness is None:
            handedness = np.zeros(len(z_matrix.centres))
        self.register_buffer("handedness", torch.as_tensor(np.asarray(handedness), dtype=torch.float64))
        self.register_buffer("circular", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("center", torch.zeros(size, dtype=torch.float64))
        # Whitening of the coordinates that are not circular; the identity on circular ones.
        self.register_buffer("whiten", torch.eye(size, dtype=torch.float64))
        self.register_buffer("unwhiten", torch.eye(size, dtype=torch.float64))
        self.register_buffer("log_scale", torch.zeros((), dtype=torch.float64))

    def _index(self, name: str, values: np.ndarray) -> None:
        """Keep indices that follow the module's device and are not saved."""
        self.register_buffer(name, torch.as_tensor(values), persistent=False)

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
        coordinates.handedness = torch.sign(coordinates._volumes(positions[None]))[0]
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
        split = 2 * self.n_atoms - 3
        center = raw.mean(0)
        is_circular = torch.zeros_like(self.circular)
        for k in range(split, raw.shape[1]):
            torsion = raw[:, k]
            gap, middle = _largest_gap(torsion)
            is_circular[k] = circular and gap < math.pi
            center[k] = 0.0 if is_circular[k] else _wrap(middle + math.pi)
            if not is_circular[k]:
                center[k] += _wrap(torsion - center[k]).mean()
        self.center, self.circular = center, is_circular
        self._whiten(self._offset(raw)[:, ~is_circular])
        return self

    def _offset(self, raw: torch.Tensor) -> torch.Tensor:
        offset, split = raw - self.center.to(raw), 2 * self.n_atoms - 3
        return torch.cat([offset[:, :split], _wrap(offset[:, split:])], dim=1)

    def _whiten(self, offset: torch.Tensor) -> None:
        covariance = torch.cov(offset.T).reshape(offset.shape[1], -1)
        deviation = covariance.diagonal().sqrt().clamp_min(1e-6)
        # The correlation matrix is better conditioned; few frames may make it singular.
        values, vectors = torch.linalg.eigh(covariance / deviation[:, None] / deviation)
        values = values.clamp_min(1e-4)
        linear = torch.nonzero(~self.circular).flatten()
        block = (linear[:, None], linear)
        self.whiten, self.unwhiten = (
            torch.eye(len(self.center)).double(),
            torch.eye(len(self.center)).double(),
        )
        self.whiten[block] = (vectors / values.sqrt()) @ vectors.T / deviation
        self.unwhiten[block] = deviation[:, None] * ((vectors * values.sqrt()) @ vectors.T)
        self.log_scale = deviation.log().sum() + 0.5 * values.log().sum()

    def forward(self, inputs: torch.Tensor, context: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map positions (batch, n_atoms, 3) [nm] to features; log-determinant -inf outside the domain."""
        raw = self._raw(inputs)
        features = self._offset(raw) @ self.whiten.to(raw).T
        return features, torch.where(self._in_class(raw, inputs), -self.log_scale.to(raw), -torch.inf)

    def inverse(
        self, inputs: torch.Tensor, context: Any = None, *, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to positions (batch, n_atoms, 3) [nm], in a standard frame unless one is given.

        The standard frame has the first seed atom at the origin, the second on the z axis and the third
        in the xz half-plane with positive x.
        """
        n = self.n_atoms
        offset = inputs @ self.unwhiten.to(inputs).T
        raw = offset + self.center.to(inputs)
        bonds, angles, torsions = raw.split([n - 1, n - 2, n - 3], dim=1)
        narrow = ~self.circular[2 * n - 3 :]
        valid = (bonds > 0).all(1) & (angles.abs() < 1).all(1)
        valid = valid & ((offset[:, 2 * n - 3 :].abs() < math.pi) | ~narrow).all(1)
        # The rows outside are computed with harmless values, so that no NaN reaches the others' gradients.
        bonds = torch.where(valid[:, None], bonds, 1e-3)
        angles = torch.where(valid[:, None], angles, 0.0)
        positions = self._place((3.0 * bonds) ** (1.0 / 3.0), angles, torsions, frame)
        valid = valid & self._has_handedness(positions)
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
        return torch.isfinite(raw).all(1) & self._has_handedness(positions)

    def _volumes(self, positions: torch.Tensor) -> torch.Tensor:
        """Return six times the volumes that the centres' neighbours span, with shape=(batch, n_centres)."""
        a, b, c, d = positions[:, self.z_matrix.centres.T].unbind(1)
        return (torch.linalg.cross(b - a, c - a, dim=-1) * (d - a)).sum(-1)

    def _has_handedness(self, positions: torch.Tensor) -> torch.Tensor:
        signs = self.handedness.to(positions)
        return ((self._volumes(positions) * signs > 0) | (signs == 0)).all(1)

    def _raw(self, x: torch.Tensor) -> torch.Tensor:
        """Return r^3/3, -cos theta and torsions (siblings relative, wrapped) with shape=(batch, 3n - 6)."""
        z = self.z_matrix
        atom = x[:, z.atoms[1:]]
        to_bond = x[:, z.bond[1:]] - atom
        r2 = to_bond.square().sum(-1)
        bonds = r2 * r2.sqrt() / 3.0
        to_angle = x[:, z.angle[2:]] - x[:, z.bond[2:]]
        # Unit vectors along atom -> bond and bond -> angle: their product is -cos(theta).
        angles = (to_bond[:, 1:] * to_angle).sum(-1) / (r2[:, 1:] * to_angle.square().sum(-1)).sqrt()
        b1 = -to_bond[:, 2:]  # from the bonded atom to the atom
        b2 = to_angle[:, 1:]
        b3 = x[:, z.torsion[3:]] - x[:, z.angle[3:]]
        m, n = torch.linalg.cross(-b1, b2, dim=-1), torch.linalg.cross(b2, b3, dim=-1)
        sine = (torch.linalg.cross(m, n, dim=-1) * b2).sum(-1) / b2.square().sum(-1).sqrt()
        torsions = torch.atan2(sine, (m * n).sum(-1))
        leader = torch.where(self._has_leader, torsions[:, self._leader], 0.0)
        return torch.cat([bonds, angles, _wrap(torsions - leader)], dim=1)

    def _place(
        self, r: torch.Tensor, w: torch.Tensor, torsions: torch.Tensor, frame: torch.Tensor | None
    ) -> torch.Tensor:
        """Build positions, level by level, from bond lengths, -cos theta and torsions."""
        torsions = torsions + torch.where(self._has_leader, torsions[:, self._leader], 0.0)
        first, second, third = self.z_matrix.atoms[:3].tolist()
        if frame is None:
            origin = r.new_zeros(3)
            ex, ez = r.new_tensor([1.0, 0.0, 0.0]), r.new_tensor([0.0, 0.0, 1.0])
        else:
            frame = frame.to(r)
            origin = frame[..., first, :]
            ez = _unit(frame[..., second, :] - origin)
            side = frame[..., third, :] - frame[..., second, :]
            ex = _unit(side - (side * ez).sum(-1, keepdim=True) * ez)
        s = _sine(w)
        a = origin.expand(len(r), 3)
        b = a + r[:, 0:1] * ez
        c = b + r[:, 1:2] * (w[:, 0:1] * ez + s[:, 0:1] * ex)
        placed = torch.stack([a, b, c], dim=1)
        for k in range(self._n_levels):
            rows = getattr(self, f"_rows_{k}")
            bond, angle, torsion = getattr(self, f"_references_{k}")
            centre, axis = placed[:, bond], placed[:, angle]
            e1 = _unit(centre - axis)
            e3 = _unit(torch.linalg.cross(axis - placed[:, torsion], e1, dim=-1))
            e2 = torch.linalg.cross(e3, e1, dim=-1)
            phi, sine = torsions[:, rows - 3], s[:, rows - 2]
            direction = (
                w[:, rows - 2, None] * e1
                + (sine * phi.cos())[..., None] * e2
                + (sine * phi.sin())[..., None] * e3
            )
            placed = torch.cat([placed, centre + r[:, rows - 1, None] * direction], dim=1)
        return placed[:, self._place_of_atom]


def _wrap(angle: torch.Tensor) -> torch.Tensor:
    """Wrap angles to [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi


def _unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.square().sum(-1, keepdim=True).sqrt()


def _sine(w: torch.Tensor) -> torch.Tensor:
    return ((1.0 - w) * (1.0 + w)).sqrt()


def _largest_gap(angles: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the widest empty arc among angles, and its middle."""
    ordered = angles.sort().values
    gaps = torch.cat([ordered[1:] - ordered[:-1], ordered[:1] + 2.0 * math.pi - ordered[-1:]])
    k = int(gaps.argmax())
    return float(gaps[k]), ordered[k] + 0.5 * gaps[k]
