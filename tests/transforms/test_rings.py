"""Internal coordinates of molecules with rings: amino acids with caps, cages, cyclic chains."""

import numpy as np
import pytest
import torch
from coordinate_checks import check_z_matrix, log_volume, round_trip, thermal

from openmm_bg.geometry import dihedrals
from openmm_bg.systems import MolecularSystem, build_peptide
from openmm_bg.systems.force_fields import implicit_solvent_system
from openmm_bg.transforms import InternalCoordinates, ZMatrix

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
WITH_RINGS = {"F": 1, "H": 1, "P": 1, "W": 2, "Y": 1}


def capped(residue):
    topology, positions = build_peptide(residue)
    system = implicit_solvent_system(topology, "amber99sb", "obc1")
    return MolecularSystem(residue, system, topology, positions)


@pytest.mark.parametrize("residue", AMINO_ACIDS)
def test_every_amino_acid(residue):
    molecule = capped(residue)
    x = thermal(molecule)
    coordinates = InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)
    check_z_matrix(coordinates.z_matrix, molecule.bonds, WITH_RINGS.get(residue, 0))
    coordinates.fit(x)
    _, logabsdet, error = round_trip(coordinates, x)
    assert torch.isfinite(logabsdet).all()
    assert error < 1e-9
    plain = InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)
    assert abs(log_volume(plain, x[0])) < 1e-9
    # The mirror image has the same distances, but is another molecule - unless nothing is chiral.
    mirrored = x * torch.tensor([1.0, 1.0, -1.0])
    assert torch.isneginf(coordinates.forward(mirrored)[1]).all()


def test_chirality_is_told_at_every_centre():
    """Isoleucine has two: turning one over (swapping a hydrogen with a branch) is noticed."""
    molecule = capped("I")
    coordinates = InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)
    x = torch.tensor(molecule.positions)
    assert torch.isfinite(coordinates.forward(x[None])[1]).all()
    names = {atom.name: atom.index for atom in molecule.topology.atoms() if atom.residue.name == "ILE"}
    for centre, pair in (("CA", ("HA", "CB")), ("CB", ("HB", "CG2")), ("CG1", ("HG12", "HG13"))):
        swapped = x.clone()
        a, b = (names[name] for name in pair)
        middle = x[names[centre]]
        for one, other in ((a, b), (b, a)):
            direction = x[other] - middle
            swapped[one] = middle + direction / direction.norm() * (x[one] - middle).norm()
        assert torch.isneginf(coordinates.forward(swapped[None])[1]).all(), centre


def test_a_flip_of_an_aromatic_ring_is_inside():
    """Half a turn about its axis exchanges labels; rotations about bonds are never forbidden."""
    molecule = capped("F")
    coordinates = InternalCoordinates.from_reference(molecule.positions, molecule.bonds, molecule.masses)
    names = {atom.name: atom.index for atom in molecule.topology.atoms() if atom.residue.name == "PHE"}
    x = np.array(molecule.positions)
    axis = x[names["CG"]] - x[names["CB"]]
    axis /= np.linalg.norm(axis)
    ring = [names[name] for name in names if name[1:2] in ("D", "E", "Z")]
    relative = x[ring] - x[names["CG"]]
    x[ring] = x[names["CG"]] + 2 * np.outer(relative @ axis, axis) - relative
    chi2 = [[names[name] for name in ("CA", "CB", "CG", "CD1")]]
    turn = dihedrals(x[None], chi2) - dihedrals(molecule.positions[None], chi2)
    assert np.cos(float(turn[0, 0])) == pytest.approx(-1.0, abs=1e-6)
    assert torch.isfinite(coordinates.forward(torch.as_tensor(x)[None])[1]).all()


CUBE = [(i, i ^ bit) for i in range(8) for bit in (1, 2, 4) if i < i ^ bit]
ADAMANTANE = [(0, 4), (0, 5), (0, 6), (1, 4), (1, 7), (1, 8), (2, 5), (2, 7), (2, 9), (3, 6), (3, 8), (3, 9)]
GRAPHS = {
    "triangle": (3, [(0, 1), (1, 2), (0, 2)]),
    "square": (4, [(0, 1), (1, 2), (2, 3), (3, 0)]),
    "spiro": (5, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 2)]),
    "norbornane": (7, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 6), (6, 3)]),
    "naphthalene": (10, [(k, (k + 1) % 10) for k in range(10)] + [(0, 5)]),
    "cubane": (16, CUBE + [(k, 8 + k) for k in range(8)]),
    "adamantane": (
        26,
        ADAMANTANE + [(k, 10 + k) for k in range(4)] + [(4 + k // 2, 14 + k) for k in range(12)],
    ),
    "macrocycle": (12, [(k, (k + 1) % 12) for k in range(12)]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_rings_of_every_kind(name):
    """Any positions will do: fused, bridged and spiro rings, and chains that close."""
    n_atoms, bonds = GRAPHS[name]
    x = 0.15 * torch.as_tensor(np.random.default_rng(0).normal(size=(20, n_atoms, 3)))
    z_matrix = ZMatrix.from_bonds(n_atoms, np.array(bonds))
    check_z_matrix(z_matrix, bonds, len(bonds) - n_atoms + 1)
    coordinates = InternalCoordinates(z_matrix)
    features, _ = coordinates.forward(x)
    for one, z in zip(x, features, strict=True):
        assert (coordinates.inverse(z[None], frame=one)[0][0] - one).abs().max() < 1e-9
    assert abs(log_volume(coordinates, x[0])) < 1e-8


def test_handedness_that_only_ring_bonds_show():
    """In a cube with one hydrogen at each corner, some corners have two bonds that close rings."""
    bonds = GRAPHS["cubane"][1]
    corners = np.array([[k & 1, k >> 1 & 1, k >> 2 & 1] for k in range(8)], dtype=float) - 0.5
    x = np.concatenate([0.157 * corners, (0.157 + 2 * 0.11 / np.sqrt(3)) * corners])
    x += 0.003 * np.random.default_rng(0).normal(size=x.shape)
    coordinates = InternalCoordinates.from_reference(x, np.array(bonds))
    assert len(coordinates.z_matrix.centres) == 8
    assert torch.isfinite(coordinates.forward(torch.as_tensor(x)[None])[1]).all()
    for corner in range(8):
        inside_out = np.array(x)
        inside_out[8 + corner] = 2 * x[corner] - x[8 + corner]  # the hydrogen into the cage
        assert torch.isneginf(coordinates.forward(torch.as_tensor(inside_out)[None])[1]).all()
    mirrored = torch.as_tensor(x * [1.0, 1.0, -1.0])
    assert torch.isneginf(coordinates.forward(mirrored[None])[1]).all()
    # What the flow proposes is checked too.
    features = coordinates.forward(torch.as_tensor(x)[None])[0]
    assert torch.isfinite(coordinates.inverse(features)[0]).all()
    rebuilt = InternalCoordinates.from_config(coordinates.config())
    rebuilt.load_state_dict(coordinates.state_dict())
    assert torch.equal(rebuilt.handedness, coordinates.handedness)
    assert torch.isneginf(rebuilt.forward(mirrored[None])[1]).all()
