"""The check of a translated force against OpenMM's Reference platform."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.potentials.tables import DiscreteTable
from openmm_bg.potentials.terms import Term
from openmm_bg.potentials.translation.common import WAY_OUT, label

if TYPE_CHECKING:
    import openmm

ENERGY_TOLERANCE = 1e-6  # relative
FORCE_TOLERANCE = 1e-5
_SMALLEST_SCALE = 1.0  # [kJ/mol, kJ/mol/nm]; below it, the tolerances are absolute
_LENGTH = 0.01  # [nm]; a force over this length tells how large an energy is that happens to be zero
_LARGEST = 1e100  # one side may overflow where the other just does not
_SHIFTS = (1e-14, -1e-14, 3e-14)  # relative, by which the effect of rounding is found
_ROUNDING = 1e4  # how much more than the effect of these shifts may be due to rounding

# Spacings [nm] of lattices, and whether the origin is their first corner (1), their centre (0) or their last
# corner (-1): crowded ones, and ones that reach beyond a cutoff. The later ones are tried where the energy is
# undefined on the first.
_LATTICES = [(0.12, 1), (0.2, 0), (0.35, -1), (0.5, 0), (0.9, 1), (1.5, -1)]
_MORE_LATTICES = [(4.0, 1), (0.7, 0), (0.3, 1), (20.0, 0), (0.06, 1), (0.25, 1), (0.25, -1)]


@np.errstate(all="ignore")  # where atoms crowd, squares of forces overflow
def verify(n_atoms: int, force: openmm.Force, terms: list[Term]) -> None:
    """Compare terms with the force that they came from, on random configurations.

    Energies must agree to 1e-6 and forces to 1e-5 of their size, or to what rounding explains: near a
    singularity or a jump, OpenMM's own value changes as much when the last digits of the positions do.

    Raises:
        InputError: If OpenMM itself does not accept the force.
        TranslationError: If they disagree, or nowhere have finite energies to be compared.
    """
    import openmm

    from openmm_bg.potentials.torch_potential import TorchPotential, TranslationError

    try:
        reference = _Reference(n_atoms, force)
    except openmm.OpenMMException as error:
        raise InputError(f"OpenMM does not accept {label(force)}: {error}; mend the force.") from error
    potential = TorchPotential(n_atoms, [term.copy() for term in terms], mode="eager")
    may_be_undefined = any(
        isinstance(table, DiscreteTable) for term in terms for table in term.tables.values()
    )
    n_compared, n_wanted = 0, _n_configurations(n_atoms)
    for positions in _configurations(n_atoms):
        found = reference(positions)
        if found is None:
            continue
        expected, expected_forces = found
        energy, forces = (tensor[0].numpy() for tensor in potential.energy_and_forces(positions[None]))
        if not math.isfinite(energy) and (
            not abs(expected) < _LARGEST or may_be_undefined  # some solvents are where atoms crowd
        ):
            continue
        problem = _disagreement(reference, positions, expected, expected_forces, float(energy), forces)
        if problem:
            raise TranslationError(
                f"The translation of {label(force)} disagrees with OpenMM by {problem}; {WAY_OUT}, "
                "and please report this."
            )
        n_compared += math.isfinite(expected)
        if n_compared == n_wanted:
            return
    if n_compared < min(2, n_wanted):
        raise TranslationError(
            f"The translation of {label(force)} could not be compared with OpenMM, as its energy is not finite "
            f"where atoms are placed at random; {WAY_OUT}."
        )


class _Reference:
    """One force's energies and forces on the Reference platform."""

    def __init__(self, n_atoms: int, force: openmm.Force) -> None:
        import openmm

        alone = openmm.System()
        for _ in range(n_atoms):
            alone.addParticle(1.0)
        alone.addForce(copy.deepcopy(force))
        platform = openmm.Platform.getPlatformByName("Reference")
        self._context = openmm.Context(alone, openmm.VerletIntegrator(0.001), platform)

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray] | None:
        """Return the energy and the forces, or None where OpenMM cannot evaluate them."""
        import openmm
        from openmm import unit

        self._context.setPositions(positions)
        try:
            state = self._context.getState(energy=True, forces=True)
        except openmm.OpenMMException:  # e.g. an argument outside of a discrete table
            return None
        return (
            state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
            state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer),
        )


def _disagreement(
    reference: _Reference,
    positions: np.ndarray,
    expected: float,
    expected_forces: np.ndarray,
    energy: float,
    forces: np.ndarray,
) -> str | None:
    """Say by how much one configuration disagrees, or return None if it does not."""
    if not math.isfinite(expected):
        return None if not math.isfinite(energy) else f"{energy:.3g} kJ/mol instead of {expected}"
    size = float(np.linalg.norm(expected_forces))
    comparable = math.isfinite(size)  # OpenMM's own forces are undefined at a straight angle, for instance
    energy_error, force_error = abs(energy - expected), float(np.linalg.norm(forces - expected_forces))
    energy_scale = max(abs(expected), _LENGTH * size if comparable else 0.0, _SMALLEST_SCALE)
    energy_allowed = ENERGY_TOLERANCE * energy_scale
    force_allowed = FORCE_TOLERANCE * max(size, _SMALLEST_SCALE)
    energy_agrees = energy_error <= energy_allowed
    force_agrees = not comparable or force_error <= force_allowed
    if energy_agrees and force_agrees:
        return None
    energy_spread = force_spread = 0.0
    for shift in _SHIFTS:
        moved = reference(positions * (1.0 + shift))
        if moved is None or not math.isfinite(moved[0]) or not np.isfinite(moved[1]).all():
            return None  # on the edge of where it is defined
        energy_spread = max(energy_spread, abs(moved[0] - expected))
        force_spread = max(force_spread, float(np.linalg.norm(moved[1] - expected_forces)))
    if energy_error <= energy_allowed + _ROUNDING * energy_spread and (
        not comparable or force_error <= force_allowed + _ROUNDING * force_spread
    ):
        return None
    return f"{energy_error:.3g} kJ/mol in energy and {force_error:.3g} kJ/mol/nm in force"


def _n_configurations(n_atoms: int) -> int:
    """How many configurations are compared: fewer of those that take long, and say more."""
    sizes = {100: len(_LATTICES), 600: 3, 1500: 2}
    return next((count for size, count in sizes.items() if n_atoms <= size), 1)


def _configurations(n_atoms: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(20)
    lattices = _LATTICES
    if n_atoms > 100:  # the crowded, and thereby the most often undefined, last
        lattices = [_LATTICES[k] for k in (2, 1, 3, 4, 5, 0)]
    for spacing, corner in [*lattices, *_MORE_LATTICES]:
        yield _jittered_lattice(n_atoms, spacing, corner, generator)


def _jittered_lattice(
    n_atoms: int, spacing: float, corner: int, generator: np.random.Generator
) -> np.ndarray:
    """Return positions [nm] on a cubic lattice in random order, displaced by up to a fifth of its spacing."""
    side = max(2, math.ceil(n_atoms ** (1 / 3)))  # one atom does not always stay at the origin
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)
    sites = grid[generator.permutation(len(grid))[:n_atoms]]
    origin = corner * (sites + 0.3) if corner else sites - 0.5 * (side - 1)
    return spacing * (origin + generator.uniform(-0.2, 0.2, size=(n_atoms, 3)))
