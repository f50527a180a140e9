"""Blocks of atoms that are placed together: of chignolin, with its rings, and of alanine dipeptide."""

import mdtraj
import numpy as np
import pytest

from openmm_bg import systems
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.transforms.rotor_blocks import rotor_blocks


@pytest.fixture(scope="module", params=["alanine_dipeptide", "chignolin"])
def molecule(request):
    system = systems.load(request.param)
    topology = mdtraj.Topology.from_openmm(system.topology)
    bead_map = selection_map(system.n_atoms, topology.select("name N CA C"))
    matrix = bead_map.coordinates(system.positions, system.bonds, system.masses).matrix
    return topology, matrix, system.masses > 2.0


def references(matrix, row):
    return {int(column[row]) for column in (matrix.bond, matrix.angle, matrix.torsion)}


@pytest.mark.parametrize("seed", range(5))
def test_every_block_can_be_placed_in_its_turn(molecule, seed):
    _, matrix, heavy = molecule
    turning = (np.random.default_rng(seed).random(len(matrix.atoms)) < 0.5) & (matrix.leader < 0)
    blocks = rotor_blocks(matrix, turning, heavy)
    assert sorted(row for block in blocks for row in block.rows) == list(range(len(matrix.atoms)))
    given = set(matrix.anchors.tolist())
    placed = set(given)
    for block in blocks:
        own = {int(matrix.atoms[row]) for row in block.rows}
        first = references(matrix, block.rows[0])
        assert first <= placed
        for row in block.rows[1:]:
            assert references(matrix, row) <= given | own | first
            assert matrix.leader[row] in block.rows or not turning[row]
        assert block.turns == turning[block.rows[0]]
        assert block.waits == (block.turns or not first <= given)
        placed |= own
    # What waits for nothing is first, so that it can be drawn at once.
    waits = [block.waits for block in blocks]
    assert waits == sorted(waits)


def test_heavy_rotors_of_side_chains_come_before_hydrogens_alone(molecule):
    topology, matrix, heavy = molecule
    turning = np.zeros(len(matrix.atoms), dtype=bool)
    names = {"CG", "OG1", "CD1", "HG1", "HH", "HB1", "CD", "OD1", "OE1"}
    for row, atom in enumerate(matrix.atoms.tolist()):
        turning[row] = matrix.leader[row] < 0 and topology.atom(atom).name in names
    blocks = [block for block in rotor_blocks(matrix, turning, heavy) if block.turns]
    assert blocks
    has_heavy = [bool(heavy[matrix.atoms[list(block.rows)]].any()) for block in blocks]
    assert has_heavy == sorted(has_heavy, reverse=True)


def test_a_ring_turns_as_a_whole():
    """The ring of tyrosine with its hydroxyl oxygen is one block, and the hydroxyl's hydrogen another."""
    system = systems.load("chignolin")
    topology = mdtraj.Topology.from_openmm(system.topology)
    bead_map = selection_map(system.n_atoms, topology.select("name N CA C"))
    matrix = bead_map.coordinates(system.positions, system.bonds, system.masses).matrix
    turning = np.array(
        [topology.atom(atom).name in {"CG", "CD1", "HH"} for atom in matrix.atoms.tolist()]
    ) & (matrix.leader < 0)
    blocks = rotor_blocks(matrix, turning, system.masses > 2.0)
    found = [{str(topology.atom(int(matrix.atoms[row]))) for row in block.rows} for block in blocks]
    ring = {"CD1", "CD2", "CE1", "CE2", "CZ", "OH", "HD1", "HD2", "HE1", "HE2"}
    name = next(str(residue) for residue in topology.residues if residue.name == "TYR")
    assert {f"{name}-{atom}" for atom in ring} in found
    assert {f"{name}-HH"} in found
    assert {f"{name}-{atom}" for atom in ("CG", "HB2", "HB3")} in found
