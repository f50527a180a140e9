"""Molecules and maps whose fibre coordinates are tested."""

import functools

import numpy as np
import openmm
import torch
from molecule_examples import FORCE_FIELD
from openmm import app, unit
from torch.autograd.functional import jacobian

from openmm_bg.coarse_graining.maps import assignment_map, centroid_map, selection_map
from openmm_bg.systems import MolecularSystem, build_peptide, load
from openmm_bg.systems.minimisation import minimise

MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
TRIPLES = {"ACE": [0, 2, 3], "CB": [11, 12, 13], "NME": [19, 20, 21]}  # alanine dipeptide's methyl hydrogens
BEADS = [4, 8, 16, 10]  # C, CA, N and CB of alanine dipeptide, not in the atoms' order


@functools.cache
def molecule(name):
    if name != "rings":
        return load(name)
    topology, positions = build_peptide("PW")
    system = app.ForceField(*FORCE_FIELD).createSystem(topology, nonbondedMethod=app.NoCutoff)
    return MolecularSystem("PW", system, topology, minimise(system, positions)[0])


@functools.cache
def thermal(name, n=40):
    """Configurations of Langevin dynamics at 300 K."""
    one = molecule(name)
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 10 / unit.picosecond, 0.0005)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(one.system, integrator, platform, {"Threads": "1"})
    context.setPositions(one.positions)
    context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    integrator.step(100)
    frames = []
    for _ in range(n if one.n_atoms < 100 else n // 8):
        integrator.step(10)
        state = context.getState(positions=True)
        frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    return torch.as_tensor(np.array(frames))


def atoms_named(one, name):
    return [atom.index for atom in one.topology.atoms() if atom.name == name]


def by_residue(one):
    """Return the backbone and the rest of each residue."""
    groups = []
    for residue in one.topology.residues():
        backbone = [a.index for a in residue.atoms() if a.name in ("N", "H", "CA", "HA", "C", "O")]
        groups += [backbone, [a.index for a in residue.atoms() if a.index not in backbone]]
    return [group for group in groups if group]


def groups_of(one):
    return centroid_map(one.n_atoms, by_residue(one), one.masses)


def soft(one, n_beads, seed):
    """A random assignment in which no atom belongs to one bead only."""
    logits = 3.0 * np.random.default_rng(seed).normal(size=(one.n_atoms, n_beads))
    parts = np.exp(logits)
    return assignment_map(parts / parts.sum(1, keepdims=True), one.masses)


MAPS = {
    "dipeptide, atoms": ("alanine_dipeptide", lambda one: selection_map(22, BEADS)),
    "dipeptide, three atoms": ("alanine_dipeptide", lambda one: selection_map(22, [15, 1, 7])),
    "dipeptide, all but one": ("alanine_dipeptide", lambda one: selection_map(22, range(1, 22))),
    "dipeptide, groups": ("alanine_dipeptide", groups_of),
    "dipeptide, soft": ("alanine_dipeptide", lambda one: soft(one, 5, 0)),
    "dipeptide, softer": ("alanine_dipeptide", lambda one: soft(one, 3, 1)),
    "rings, atoms": (
        "rings",
        lambda one: selection_map(one.n_atoms, [*atoms_named(one, "CA"), *atoms_named(one, "CH3")]),
    ),
    "rings, groups": ("rings", groups_of),
    "rings, soft": ("rings", lambda one: soft(one, 6, 2)),
    "chignolin, atoms": ("chignolin", lambda one: selection_map(one.n_atoms, atoms_named(one, "CA"))),
    "chignolin, groups": ("chignolin", groups_of),
    "chignolin, soft": ("chignolin", lambda one: soft(one, 10, 3)),
}
LINEAR = [name for name in MAPS if "atoms" not in name and "all but" not in name]
SMALL = [name for name in MAPS if "chignolin" not in name]


@functools.cache
def example(name):
    """A map, fitted coordinates, the same before the fit, and thermal configurations; do not change them."""
    name, make = MAPS[name]
    one, x = molecule(name), thermal(name)
    bead_map = make(one)
    plain, fitted = (bead_map.coordinates(one.positions, one.bonds, one.masses) for _ in range(2))
    return bead_map, fitted.fit(x), plain, x


def dipeptide(bead_map=None):
    one = molecule("alanine_dipeptide")
    return (bead_map or selection_map(22, BEADS)).coordinates(one.positions, one.bonds, one.masses)


def everything_forward(coordinates, x):
    """The full Jacobian, with shape=(3N, 3N), of beads and features by positions."""

    def function(flat):
        positions = flat.reshape(1, -1, 3)
        beads = torch.einsum("ba,nax->nbx", coordinates.weights, positions)
        return torch.cat([beads.reshape(-1), coordinates.forward(positions)[0][0]])

    return jacobian(function, x.reshape(-1), vectorize=True)


def everything_inverse(coordinates, beads, features):
    """The full Jacobian, with shape=(3N, 3N), of positions by beads and features."""

    def function(flat):
        given = flat[: beads.numel()].reshape(1, -1, 3)
        return coordinates.inverse(flat[None, beads.numel() :], given)[0].reshape(-1)

    return jacobian(function, torch.cat([beads.reshape(-1), features]), vectorize=True)


def log_det(matrix):
    assert matrix.shape[0] == matrix.shape[1]
    return float(torch.linalg.slogdet(matrix)[1])


def turn(seed=0):
    """A rotation and a translation [nm]."""
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    return torch.as_tensor(rotation), torch.as_tensor(generator.normal(size=3))


def trees(matrix):
    """The bead on which each atom stands, by following bonds back to an anchor."""
    parent = dict(zip(matrix.atoms.tolist(), matrix.bond.tolist(), strict=True))
    anchors = matrix.anchors.tolist()

    def root(atom):
        return anchors.index(atom) if atom in anchors else root(parent[atom])

    return np.array([root(atom) for atom in range(matrix.n_atoms)])


def standing(bead_map, matrix, x):
    """Configurations whose trees are moved until the anchors are at the beads."""
    shift = bead_map.beads(x) - x[:, matrix.anchors]
    return x + shift[:, trees(matrix)]
