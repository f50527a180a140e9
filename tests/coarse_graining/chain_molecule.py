"""A small chain whose averages are known by quadrature: its bonds, angles and torsions are independent."""

import numpy as np
import openmm
import torch
from openmm import app
from scipy.integrate import quad

from openmm_bg.coarse_graining.maps import LinearMap, centroid_map, selection_map
from openmm_bg.systems import MolecularSystem
from openmm_bg.training.data import TrainingData
from openmm_bg.units import thermal_energy

T = 300.0
KT = thermal_energy(T)
BOND, ANGLE = (0.15, 40_000.0), (1.95, 300.0)
TORSIONS = ((1, 0.0, 2.0), (3, 0.0, 3.0), (2, 0.6, 1.5))  # periodicity, phase, k
"""Of each torsion: all three terms. The phase makes mirror images differ."""


def chain(n_atoms):
    """Return a chain of ``n_atoms`` carbon atoms."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("CHN", topology.addChain())
    atoms = [topology.addAtom(f"C{k}", app.Element.getBySymbol("C"), residue) for k in range(n_atoms)]
    bonds, angles, torsions = (
        openmm.HarmonicBondForce(),
        openmm.HarmonicAngleForce(),
        openmm.PeriodicTorsionForce(),
    )
    for k in range(n_atoms):
        system.addParticle(12.0)
        if k >= 1:
            topology.addBond(atoms[k - 1], atoms[k])
            bonds.addBond(k - 1, k, *BOND)
        if k >= 2:
            angles.addAngle(k - 2, k - 1, k, *ANGLE)
        if k >= 3:
            for periodicity, phase, height in TORSIONS:
                torsions.addTorsion(k - 3, k - 2, k - 1, k, periodicity, phase, height)
    for force in (bonds, angles, torsions):
        system.addForce(force)
    rng = np.random.default_rng(0)
    names = {f"torsion {k}": (k, k + 1, k + 2, k + 3) for k in range(n_atoms - 3)}
    return MolecularSystem("chain", system, topology, draw(n_atoms, 1, rng)[0], T, names)


def one_free_atom(kind):
    """Return a map of four atoms to three beads, by kind: one atom is free."""
    if kind == "selection":
        return selection_map(4, [1, 2, 3])
    if kind == "centroids":
        return centroid_map(4, [[0, 1], [2], [3]])
    return LinearMap([[0.4, 0.6, 0, 0], [0, 0.2, 0.8, 0], [0, 0, 0, 1]])


def whole_probability(flow, beads):
    """Return the integral of a backmapping flow's density over the place of the only free atom, on a grid.

    Of the atom's bond, angle and torsion; dx = r^2 dr dw dphi / |det M|^3, from the anchor of its tree.
    """
    flow.set_dtype(torch.float64)
    r = torch.linspace(0.09, 0.21, 60, dtype=torch.float64)
    w = (torch.arange(80, dtype=torch.float64) + 0.5) * 2 / 80 - 1
    phi = torch.linspace(-np.pi, np.pi, 37, dtype=torch.float64)[:-1]
    raw = torch.cartesian_prod(r**3 / 3, w, phi)
    there = beads.expand(len(raw), -1, -1)
    with torch.no_grad():
        log_p = flow.log_prob(flow.coordinates.place(there, raw), there)
    density = (log_p - flow.coordinates.log_jacobian()).exp().reshape(len(r), len(w), len(phi))
    cell = (r**2)[:, None, None] * float((r[1] - r[0]) * (w[1] - w[0]) * (phi[1] - phi[0]))
    return float((density * cell).sum())


def bond_law(r):
    return r**2 * np.exp(-0.5 * BOND[1] * (r - BOND[0]) ** 2 / KT)


def angle_law(theta):
    return np.sin(theta) * np.exp(-0.5 * ANGLE[1] * (theta - ANGLE[0]) ** 2 / KT)


def torsion_law(phi):
    return np.exp(-sum(k * (1 + np.cos(n * phi - phase)) for n, phase, k in TORSIONS) / KT)


def average(law, low, high, value):
    """Return the average of a function by quadrature."""
    return quad(lambda x: value(x) * law(x), low, high)[0] / quad(law, low, high)[0]


BOND_RANGE, ANGLE_RANGE, TORSION_RANGE = (0.1, 0.2), (1.2, 2.8), (-np.pi, np.pi)


def draw(n_atoms, n, rng):
    """Return independent configurations of the Boltzmann distribution, by tables of the one-dimensional laws."""

    def from_law(law, bounds, shape):
        grid = np.linspace(*bounds, 20_001)
        density = law(grid)
        cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
        return np.interp(rng.random(shape) * cumulative[-1], cumulative, grid)

    r = from_law(bond_law, BOND_RANGE, (n, n_atoms - 1))
    theta = from_law(angle_law, ANGLE_RANGE, (n, n_atoms - 2))
    phi = from_law(torsion_law, TORSION_RANGE, (n, n_atoms - 3))
    x = np.zeros((n, n_atoms, 3))
    x[:, 1, 2] = r[:, 0]
    x[:, 2, 2] = r[:, 0] - r[:, 1] * np.cos(theta[:, 0])
    x[:, 2, 0] = r[:, 1] * np.sin(theta[:, 0])
    for k in range(3, n_atoms):
        b, c = x[:, k - 2] - x[:, k - 3], x[:, k - 1] - x[:, k - 2]
        e1 = c / np.linalg.norm(c, axis=1, keepdims=True)
        normal = np.cross(b, e1)
        e3 = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        e2 = np.cross(e3, e1)
        w, s, p = -np.cos(theta[:, k - 2]), np.sin(theta[:, k - 2]), phi[:, k - 3]
        direction = w[:, None] * e1 + (s * np.cos(p))[:, None] * e2 + (s * np.sin(p))[:, None] * e3
        x[:, k] = x[:, k - 1] + r[:, k - 1, None] * direction
    return x


def energies(system, positions):
    """Return OpenMM's energies [kJ/mol] of a few configurations."""
    context = openmm.Context(
        system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    found = []
    for x in positions:
        context.setPositions(x)
        found.append(context.getState(energy=True).getPotentialEnergy()._value)
    return np.array(found)


def chain_data(n_atoms, n, seed=1):
    """Return independent configurations as training data."""
    from openmm_bg import TorchPotential

    system = chain(n_atoms)
    x = draw(n_atoms, n, np.random.default_rng(seed))
    energy = TorchPotential.from_system(system, dtype=torch.float64).energy(torch.from_numpy(x)).numpy()
    return TrainingData(system, x, energy, T, {"n_walkers": 1})
