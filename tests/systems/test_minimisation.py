"""Minimised energies with flat restraints."""

import numpy as np
import openmm
import pytest

from openmm_bg.geometry import dihedrals
from openmm_bg.systems.minimisation import minimise

PHI = (4, 6, 8, 14)


@pytest.fixture(scope="module")
def start(alanine):
    return alanine.positions + 0.01 * np.random.default_rng(1).standard_normal((22, 3))


def phi_of(positions):
    return float(dihedrals(positions, np.array([PHI]))[0])


def test_a_free_minimum(alanine, start, reference_energies_and_forces):
    before = openmm.XmlSerializer.serialize(alanine.system)
    positions, energy = minimise(alanine.system, start, tolerance=2.0)
    assert openmm.XmlSerializer.serialize(alanine.system) == before
    energies, forces = reference_energies_and_forces(alanine.system, np.stack([start, positions]))
    assert energy == pytest.approx(energies[1], abs=1e-8)
    assert energies[1] < energies[0] - 50
    assert np.sqrt(np.mean(forces[1] ** 2)) < 2.0
    again, _ = minimise(alanine.system, start, tolerance=2.0)
    np.testing.assert_array_equal(again, positions)


@pytest.mark.parametrize("angle", [-3.0, 3.3, 2.0])
def test_a_restraint_holds_at_its_wall_and_has_no_energy_of_its_own(
    alanine, start, reference_energies_and_forces, angle
):
    """Also across the seam at 180 degrees, and for an angle that is given beyond it."""
    width = 0.2
    positions, energy = minimise(alanine.system, start, {PHI: angle}, width=width)
    turned = (phi_of(positions) - angle + np.pi) % (2 * np.pi) - np.pi
    assert abs(turned) < width + 0.02
    assert energy == pytest.approx(
        reference_energies_and_forces(alanine.system, positions[None])[0][0], abs=1e-8
    )


def test_a_restraint_is_zero_within_its_width(alanine, start):
    free, energy = minimise(alanine.system, start)
    restrained, same = minimise(alanine.system, free, {PHI: phi_of(free) + 0.15}, width=0.2)
    unrestrained, other = minimise(alanine.system, free)
    np.testing.assert_allclose(restrained, unrestrained, atol=1e-6)
    assert same == pytest.approx(other, abs=1e-6)
    assert same <= energy + 1e-6


@pytest.mark.parametrize(("angle", "moves"), [(-3.1, False), (3.1, False), (3.2, False), (2.9, True)])
def test_the_distance_of_two_angles_is_the_shorter_way_round(angle, moves):
    """Four free particles with a dihedral of 3.1: nothing moves them but the restraint."""
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    turn = np.array([np.cos(3.1), np.sin(3.1), 1.0])
    positions = np.array([[1.0, 0.0, -1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0], turn - [0.0, 0.0, 1.0]])
    atoms = (0, 1, 2, 3)
    assert abs(dihedrals(positions, np.array([atoms]))[0]) == pytest.approx(3.1)
    angle *= np.sign(dihedrals(positions, np.array([atoms]))[0])
    moved, _ = minimise(system, positions, {atoms: angle}, width=0.15)
    assert bool(np.abs(moved - positions).max() > 1e-3) == moves
