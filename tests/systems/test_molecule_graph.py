"""Fragments, rings and chiral centres, from bonds alone."""

import itertools

import networkx
import numpy as np
import pytest

from openmm_bg.systems import build_peptide
from openmm_bg.systems.molecule_graph import chiral_centres, fragments, rings

NAPHTHALENE = [*itertools.pairwise([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (9, 0), (4, 9)]
CUBE = [(a, a ^ bit) for a in range(8) for bit in (1, 2, 4) if a < a ^ bit]


def is_ring(ring, bonds):
    pairs = {frozenset(bond) for bond in bonds}
    around = zip(ring, [*ring[1:], ring[0]], strict=True)
    return len(set(ring)) == len(ring) >= 3 and all(frozenset(pair) in pairs for pair in around)


@pytest.mark.parametrize(
    ("n_atoms", "bonds", "sizes"),
    [
        (4, [(0, 1), (1, 2), (2, 3)], []),
        (3, [(0, 1), (1, 2), (2, 0)], [3]),
        (10, NAPHTHALENE, [6, 6]),
        (8, CUBE, [4] * 5),  # six faces, of which the sixth is the sum of the others
        (7, [*itertools.pairwise(range(6)), (5, 0), (0, 6), (6, 3)], [5, 5]),  # norbornane
        (8, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5), (5, 3), (5, 6), (6, 7)], [3, 3]),
        (0, [], []),
    ],
)
def test_rings(n_atoms, bonds, sizes):
    found = rings(n_atoms, np.array(bonds).reshape(-1, 2))
    assert [len(ring) for ring in found] == sizes
    assert all(is_ring(ring, bonds) for ring in found)


def test_rings_are_a_minimum_cycle_basis():
    rng = np.random.default_rng(0)
    for _ in range(30):
        graph = networkx.gnm_random_graph(12, int(rng.integers(10, 20)), seed=int(rng.integers(1000)))
        bonds = list(graph.edges)
        found = rings(12, np.array(bonds))
        expected = networkx.minimum_cycle_basis(graph)
        assert sorted(map(len, found)) == sorted(map(len, expected))
        assert all(is_ring(ring, bonds) for ring in found)


def test_fragments():
    assert fragments(6, np.array([(4, 0), (5, 1), (1, 3)])) == [[0, 4], [1, 3, 5], [2]]
    assert fragments(0, np.zeros((0, 2))) == []


@pytest.mark.parametrize(
    ("sequence", "names"),
    [("G", []), ("A", ["CA"]), ("I", ["CA", "CB"]), ("T", ["CA", "CB"]), ("P", ["CA"]), ("V", ["CA"])],
)
def test_chiral_centres_of_amino_acids(sequence, names):
    topology, _ = build_peptide(sequence)
    atoms = list(topology.atoms())
    bonds = np.array([(bond[0].index, bond[1].index) for bond in topology.bonds()])
    found = chiral_centres([atom.element.symbol for atom in atoms], bonds)
    assert [atoms[k].name for k in found] == names


def test_chiral_centre_whose_neighbours_differ_far_away():
    # Methylethylpropylmethane: the chains tell each other apart at their ends only.
    bonds = np.array([(0, 1), (0, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7)])
    assert chiral_centres(["C"] * 7 + ["H"], bonds) == [0]
    assert chiral_centres(["C"] * 7 + ["C"], bonds) == []  # two methyls
