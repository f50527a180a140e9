"""Chirality, contacts and side chains of configurations, on chignolin moved by hand."""

import mdtraj
import numpy as np
import pytest
import torch

from openmm_bg import TorchPotential, systems
from openmm_bg.coarse_graining.choices import selected_atoms
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.noisy_map import NoisyMap
from openmm_bg.errors import InputError
from openmm_bg.geometry import angles, dihedrals, distances
from openmm_bg.reproduction.backmapping_quality import (
    chiral_centres,
    chirality,
    closest_heavy_atoms,
    quality,
    side_chain_torsions,
    side_chain_variation,
    with_median_geometry,
)
from openmm_bg.transforms.fibre_coordinates import FibreCoordinates


@pytest.fixture(scope="module")
def chignolin():
    return systems.load("chignolin")


@pytest.fixture(scope="module")
def topology(chignolin):
    return mdtraj.Topology.from_openmm(chignolin.topology)


def index(topology, name):
    residue, atom = name.split("-")
    return next(a.index for a in topology.atoms if str(a.residue) == residue and a.name == atom)


def test_chiral_centres_are_those_of_amino_acids(chignolin, topology):
    centres = chiral_centres(chignolin.bonds, topology)
    names = [str(topology.atom(int(atom))) for atom in centres[:, 0]]
    expected = [
        *(
            f"{residue}-CA"
            for residue in map(str, topology.residues)
            if residue[:3] not in ("ACE", "NME", "GLY")
        ),
        *(f"{residue}-CB" for residue in map(str, topology.residues) if residue.startswith("THR")),
    ]
    assert sorted(names) == sorted(expected)


def test_a_mirror_image_and_one_wrong_centre_are_noticed(chignolin, topology):
    native, bonds = chignolin.positions, chignolin.bonds
    extended = chignolin.starts["extended"]
    swapped = np.array(native)
    ha, cb = (index(topology, f"ASP3-{name}") for name in ("HA", "CB"))
    swapped[[ha, cb]] = swapped[[cb, ha]]

    found = chirality(np.stack([native, extended, -native, swapped]), native, bonds, topology)
    assert found.tolist() == [True, True, False, False]


def test_contacts(chignolin, topology):
    x = np.array(chignolin.positions)
    assert closest_heavy_atoms(x[None], chignolin.bonds, topology)[0] > 0.2
    near = x.copy()
    near[index(topology, "TYR2-OH")] = x[index(topology, "TRP9-CA")] + [0.0, 0.0, 0.12]
    assert closest_heavy_atoms(near[None], chignolin.bonds, topology)[0] == pytest.approx(0.12, abs=1e-3)
    hydrogen = x.copy()
    hydrogen[index(topology, "TYR2-HH")] = x[index(topology, "TRP9-CA")] + [0.0, 0.0, 0.01]
    assert closest_heavy_atoms(hydrogen[None], chignolin.bonds, topology)[0] > 0.2


def test_side_chains(topology):
    names = side_chain_torsions(topology)
    assert {"chi1 of TYR2", "chi2 of TRP9", "chi1 of THR6", "chi2 of GLU5"} <= set(names)
    assert not any("PRO" in name or "GLY" in name or "chi2 of THR" in name for name in names)


def test_total_variation_of_known_laws():
    """Four atoms whose torsion is uniform on the circle, against one that is uniform on its half."""
    rng = np.random.default_rng(0)

    def torsions(angles):
        x = np.zeros((len(angles), 4, 3))
        x[:, 0], x[:, 2] = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
        x[:, 3] = np.stack([np.cos(angles), -np.sin(angles), np.ones_like(angles)], axis=1)
        return x

    whole, half = rng.uniform(-np.pi, np.pi, 40_000), rng.uniform(0, np.pi, 40_000)
    assert np.allclose(np.abs(dihedrals(torsions(whole), [[0, 1, 2, 3]])[:, 0]), np.abs(whole))
    found = side_chain_variation(torsions(whole), torsions(half), {"chi": (0, 1, 2, 3)})
    assert found["chi"] == pytest.approx(0.5, abs=0.02)
    again = side_chain_variation(torsions(whole[::2]), torsions(whole[1::2]), {"chi": (0, 1, 2, 3)})
    assert again["chi"] < 0.03


def test_median_geometry_keeps_beads_and_torsions(chignolin):
    atoms = selected_atoms(chignolin, "name N CA C")
    coarse_map = selection_map(chignolin.n_atoms, atoms)
    native = chignolin.positions
    coordinates = FibreCoordinates.from_reference(
        native, chignolin.bonds, coarse_map.weights, coarse_map.anchors, chignolin.masses
    )
    rng = np.random.default_rng(1)
    shaken = native + 0.003 * rng.normal(size=(5, *native.shape))
    shaken[3] = np.nan
    found = with_median_geometry(coordinates, coarse_map, shaken, native[None])
    assert np.isnan(found[3]).all()
    rest = [0, 1, 2, 4]
    beads = [coarse_map.beads(torch.tensor(x[rest])).numpy() for x in (found, shaken)]
    np.testing.assert_allclose(*beads, atol=1e-9)
    matrix = coordinates.matrix
    bonds = np.stack([matrix.atoms, matrix.bond], axis=1)
    bends = np.column_stack([bonds, matrix.angle])
    own = matrix.leader < 0
    turns = np.column_stack([bends, matrix.torsion])[own]
    for measure, which in ((distances, bonds), (angles, bends)):
        expected = np.broadcast_to(measure(native[None], which), (4, len(which)))
        np.testing.assert_allclose(measure(found[rest], which), expected, atol=1e-9)
        assert np.abs(measure(shaken[rest], which) - expected).max() > 1e-3
    # Torsions are measured from other torsions' atoms, some of which have moved: those at beads alone are kept.
    at_beads = np.isin(turns[:, 1:], atoms).all(axis=1)
    assert at_beads.sum() > 20
    difference = dihedrals(found[rest], turns[at_beads]) - dihedrals(shaken[rest], turns[at_beads])
    assert np.abs(np.sin(difference)).max() < 1e-9
    noisy = NoisyMap(coarse_map).coordinates(native, chignolin.bonds, chignolin.masses)
    with pytest.raises(InputError, match="without noise"):
        with_median_geometry(noisy, coarse_map, shaken, native[None])


def test_quality_counts_what_could_not_be_made(chignolin):
    x = np.stack([chignolin.positions, -chignolin.positions, np.full_like(chignolin.positions, np.nan)])
    potential = TorchPotential.from_system(chignolin)
    energy = potential.energy(torch.tensor(x[:1])).numpy()
    energies = np.array([energy[0], energy[0] + 50.0, np.inf])
    reference = np.repeat(chignolin.positions[None], 4, axis=0)
    found = quality(chignolin, x, energies, reference, energy[0] + np.array([-10.0, 0.0, 0.0, 10.0]))
    assert (found.n, found.n_outside, found.n_wrong_chirality) == (3, 1, 1)
    assert found.free_of_contacts == pytest.approx(2 / 3)
    assert found.energy_shift == pytest.approx(50.0 / np.std([-10, 0, 0, 10], ddof=1))
    assert max(found.side_chains.values()) <= 1.0
