"""What the tests of translated forces share: systems of one force, and agreement with OpenMM."""

import numpy as np
import openmm
import torch

from openmm_bg.potentials import TorchPotential

REFERENCE = "Reference"
SHIFTS = (1e-14, -1e-14, 3e-14)


def system_of(*forces, n_atoms):
    system = openmm.System()
    for _ in range(n_atoms):
        system.addParticle(1.0)
    for force in forces:
        system.addForce(force)
    return system


class Reference:
    """One Context of the Reference platform."""

    def __init__(self, system):
        platform = openmm.Platform.getPlatformByName(REFERENCE)
        self.context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)

    def __call__(self, positions):
        """Return energies with shape=(batch,) and forces with shape=(batch, n_atoms, 3)."""
        energies, forces = [], []
        for x in positions:
            self.context.setPositions(x)
            state = self.context.getState(energy=True, forces=True)
            energies.append(state.getPotentialEnergy()._value)
            forces.append(state.getForces(asNumpy=True)._value)
        return np.array(energies), np.array(forces)


def errors(found, expected):
    """Return the errors of energies and forces, in units of max(|U|, 100 kJ/mol) and of the forces' norm."""
    energy, forces = (np.asarray(values.double()) for values in found)
    energy_error = np.abs(energy - expected[0]) / np.maximum(np.abs(expected[0]), 100.0)
    size = np.linalg.norm(expected[1], axis=(1, 2))
    return energy_error, np.linalg.norm(forces - expected[1], axis=(1, 2)) / np.maximum(size, 1e-6)


@np.errstate(all="ignore")
def assert_agrees(potential, reference, positions, least=1):
    """Compare where both are defined; allow what the last digits of the positions change in OpenMM's values.

    The energy of either may be undefined only where that of the other is, or nearly overflows.
    """
    expected, expected_forces = reference(positions)
    energy, forces = (np.asarray(v) for v in potential.energy_and_forces(torch.as_tensor(positions)))
    spread, force_spread = np.zeros(len(positions)), np.zeros(len(positions))
    for shift in SHIFTS:
        moved, moved_forces = reference(positions * (1.0 + shift))
        spread = np.fmax(spread, np.abs(moved - expected))
        force_spread = np.fmax(force_spread, np.linalg.norm(moved_forces - expected_forces, axis=(1, 2)))
    usable = np.isfinite(energy) & np.isfinite(expected)
    edge = ~np.isfinite(spread) | (np.abs(expected) > 1e100) | (np.abs(energy) > 1e100)
    assert (usable | edge | (~np.isfinite(energy) & ~np.isfinite(expected))).all(), (energy, expected)
    allowed = 1e-9 * (1.0 + np.abs(expected)) + 1e4 * spread
    assert (np.abs(energy - expected) <= allowed)[usable].all(), (energy, expected)
    size = np.linalg.norm(expected_forces, axis=(1, 2))
    smooth = usable & np.isfinite(size) & (force_spread <= 1e-9 * (1.0 + size))
    error = np.linalg.norm(forces - expected_forces, axis=(1, 2))
    assert (error <= 1e-7 * (1.0 + size))[smooth].all(), (error, size)
    assert usable.sum() >= least


def saved_and_loaded(potential, path):
    potential.save(path)
    return TorchPotential.load(path, mode=potential.mode)
