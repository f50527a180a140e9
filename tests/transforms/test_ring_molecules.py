"""Whole molecules with rings, or several chains: their internal coordinates, and their energies against OpenMM."""

import functools

import numpy as np
import openmm
import pytest
import torch
from coordinate_checks import check_z_matrix, log_volume, round_trip, thermal
from molecule_examples import FORCE_FIELD, pdb_of
from ring_examples import biphenyl, cyclic_peptide, disulfide, toluene

from openmm_bg.geometry import dihedrals
from openmm_bg.potentials import TorchPotential
from openmm_bg.systems import chignolin
from openmm_bg.systems.molecule_files import read_pdb_molecule
from openmm_bg.transforms import InternalCoordinates

GAS_CONSTANT = 8.31446261815324e-3  # [kJ/mol/K]
MIRROR = torch.tensor([1.0, 1.0, -1.0])
MOLECULES = {
    "toluene": toluene,
    "biphenyl": biphenyl,
    "disulfide": disulfide,
    "cyclo-(Gly)4": lambda: cyclic_peptide("GLY"),
    "cyclo-(Ala)4": lambda: cyclic_peptide("ALA"),
}
N_RINGS = {"toluene": 1, "biphenyl": 2, "disulfide": 0, "cyclo-(Gly)4": 1, "cyclo-(Ala)4": 1}
SEQUENCES = ("YYDPETGTWY", "GYDPETGTWG")
FORCE_FIELDS = {"amber99sb": "obc1", "amber14": "obc2", "amber03": "obc1"}  # each with a solvent


@functools.cache
def example(name):
    """A molecule, its potential, and 100 thermal configurations."""
    molecule = MOLECULES[name]()
    potential = TorchPotential.from_system(molecule, dtype=torch.float64)
    return molecule, potential, thermal(molecule, potential=potential)


@functools.cache
def native(sequence):
    """Chignolin in its default force field, its potential, and 100 thermal configurations of ten walkers."""
    molecule = chignolin(sequence)
    potential = TorchPotential.from_system(molecule, dtype=torch.float64)
    return molecule, potential, thermal(molecule, potential=potential, n_frames=10)


def coordinates_of(molecule):
    return InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)


def indices(molecule):
    """Return the atoms' indices by residue number and name."""
    residues = enumerate(molecule.topology.residues(), start=1)
    return {(k, atom.name): atom.index for k, residue in residues for atom in residue.atoms()}


def exchanged(x, pairs):
    """Return configurations with the labels of some pairs of atoms exchanged."""
    first, second = (list(atoms) for atoms in zip(*pairs, strict=True))
    swapped = x.clone()
    swapped[:, first + second] = x[:, second + first]
    return swapped


def check_thermal(molecule, potential, x):
    """Each of 3N - 6 vibrations has an energy of kT/2 on average; springs that are not harmonic differ a little."""
    assert x.shape == (100, molecule.n_atoms, 3)
    lowest = float(potential.energy(torch.tensor(molecule.positions[None]))[0])
    expected = 0.5 * GAS_CONSTANT * 300.0 * (3 * molecule.n_atoms - 6)
    assert 0.8 < (float(potential.energy(x).mean()) - lowest) / expected < 1.15


def check_coordinates(molecule, x, n_rings):
    coordinates = coordinates_of(molecule)
    check_z_matrix(coordinates.z_matrix, molecule.bonds, n_rings)
    for fitted in (coordinates, coordinates_of(molecule).fit(x)):
        _, logabsdet, error = round_trip(fitted, x)
        assert torch.isfinite(logabsdet).all()
        assert error < 1e-9
    return coordinates


def check_energies(molecule, potential, x, reference):
    """Errors are in units of max(|U|, 100 kJ/mol), and of the norm of the forces."""
    energies, forces = reference(molecule.system, x.numpy())
    for mode in ("fused", "eager"):
        found, found_forces = (values.numpy() for values in potential.to(mode=mode).energy_and_forces(x))
        assert (np.abs(found - energies) <= 1e-10 * np.maximum(np.abs(energies), 100.0)).all()
        error = np.linalg.norm(found_forces - forces, axis=(1, 2))
        assert (error <= 1e-10 * np.linalg.norm(forces, axis=(1, 2))).all()


@pytest.mark.parametrize("name", MOLECULES)
def test_coordinates(name):
    molecule, potential, x = example(name)
    check_thermal(molecule, potential, x)
    coordinates = check_coordinates(molecule, x, N_RINGS[name])
    assert abs(log_volume(coordinates, x[0])) < 1e-9


@pytest.mark.parametrize("name", MOLECULES)
def test_energies_and_forces(name, reference_energies_and_forces):
    check_energies(*example(name), reference_energies_and_forces)


@pytest.mark.parametrize("name", [name for name in MOLECULES if name != "biphenyl"])
def test_mirror_images_are_told_apart(name):
    molecule, _, x = example(name)
    assert torch.isneginf(coordinates_of(molecule).forward(x * MIRROR)[1]).all()


@pytest.mark.parametrize(
    ("name", "hydrogens", "inside"),
    [
        ("toluene", [("C7", "H7", "H8", "H9")], True),
        ("cyclo-(Gly)4", [(k, "HA2", "HA3") for k in range(1, 5)], True),
        ("cyclo-(Gly)4", [(k, "HA2", "HA3") for k in range(1, 4)], False),  # one is left
        ("cyclo-(Ala)4", [(k, "HB2", "HB3") for k in range(1, 5)], False),  # of D-alanine
    ],
)
def test_mirror_images_with_other_hydrogen_labels(name, hydrogens, inside):
    molecule, _, x = example(name)
    if name == "toluene":
        pairs = [methyl_hydrogens(molecule)[:2]]
    else:
        atoms = indices(molecule)
        pairs = [(atoms[k, one], atoms[k, other]) for k, one, other in hydrogens]
    logabsdet = coordinates_of(molecule).forward(exchanged(x * MIRROR, pairs))[1]
    assert (torch.isfinite(logabsdet) == inside).all()
