"""The torsions of a peptide: what was asked for, checked, or those of an extended chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.residue_templates import RESIDUE_NAMES, amino_acid

Torsions = dict[str, float]
"""The torsions [degrees] of a residue: phi, psi, omega, chi1, chi2, ..."""

EXTENDED = {"phi": -120.0, "psi": 140.0, "omega": 180.0}
"""The backbone torsions [degrees] of an extended chain; phi of proline is -71 degrees."""

_PROLINE_PHI = -71.0
_PROLINE_RANGE = (-110.0, -35.0)  # outside of it, the ring would bend the bonds of its N out of their plane


def residue_torsions(
    sequence: str, phi: Any, psi: Any, omega: Any, chi: Sequence[Any] | None
) -> list[Torsions]:
    """Return the torsions of each residue; for the arguments see `build_peptide`.

    Raises:
        InputError: If their number is wrong, one is not finite, or a phi does not go with the ring of proline.
    """
    backbone = {
        name: _backbone(sequence, name, angles)
        for name, angles in (("phi", phi), ("psi", psi), ("omega", omega))
    }
    return [
        {name: float(angles[k]) for name, angles in backbone.items()} | side_chain
        for k, side_chain in enumerate(_side_chains(sequence, chi))
    ]


def _backbone(sequence: str, name: str, angles: Any) -> np.ndarray:
    """Return the torsions phi, psi or omega [degrees] with shape=(n_residues,)."""
    proline = np.array([letter == "P" for letter in sequence])
    if angles is None:
        return np.where(proline & (name == "phi"), _PROLINE_PHI, EXTENDED[name])
    values = _degrees(angles, name)
    if values.shape not in ((), (len(sequence),)):
        raise InputError(
            f"{name} must be one number or {len(sequence)} numbers, one for each residue, "
            f"but has the shape {values.shape}."
        )
    values = np.broadcast_to(values, (len(sequence),))
    if name == "phi":
        low, high = _PROLINE_RANGE
        outside = proline & ~((low <= _wrapped(values)) & (_wrapped(values) <= high))
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            raise InputError(
                f"The ring of proline {k + 1} needs a phi from {low:g} to {high:g} degrees, not {values[k]:g}."
            )
    return values


def _side_chains(sequence: str, chi: Sequence[Any] | None) -> list[Torsions]:
    """Return the torsions chi1, chi2, ... [degrees] of each residue by their names."""
    if chi is None:
        chi = [None] * len(sequence)
    one_each = f"chi must have one entry for each of the {len(sequence)} residues"
    try:
        chi = list(chi)
    except TypeError as error:
        raise InputError(f"{one_each}, not {chi!r}.") from error
    if len(chi) != len(sequence):
        raise InputError(f"{one_each}, not {len(chi)}.")
    torsions = []
    for k, (letter, angles) in enumerate(zip(sequence, chi, strict=True)):
        default = amino_acid(letter).chi
        values = np.array(default) if angles is None else _degrees(angles, "chi")
        if values.shape != (len(default),):
            raise InputError(
                f"{RESIDUE_NAMES[letter]} {k + 1} has {len(default)} side-chain torsions, "
                f"but chi of the shape {values.shape} was given."
            )
        torsions.append({f"chi{number}": float(value) for number, value in enumerate(values, start=1)})
    return torsions


def _degrees(angles: Any, name: str) -> np.ndarray:
    """Return angles [degrees] of a quantity, of plain numbers [rad], or of a list that may hold both."""
    try:
        values = np.degrees(np.asarray(_radians(angles), dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers, not {angles!r}.") from error
    if not np.isfinite(values).all():
        raise InputError(f"{name} must be finite numbers.")
    return values


def _radians(angles: Any) -> Any:
    if isinstance(angles, list | tuple):
        return [_radians(angle) for angle in angles]
    if hasattr(angles, "value_in_unit"):
        from openmm import unit

        return angles.value_in_unit(unit.radian)
    return angles


def _wrapped(angles: np.ndarray) -> np.ndarray:
    return (angles + 180.0) % 360.0 - 180.0
