"""Force matching finds the mean force of a map, known in closed form for a harmonic chain in one direction."""

import numpy as np
import torch
from chain_molecule import BOND, KT, T, chain_data

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining.bead_energy import BeadPotential
from openmm_bg.coarse_graining.force_matching import match_forces
from openmm_bg.coarse_graining.maps import selection_map


def test_force_along_a_bond_is_that_of_its_potential_of_mean_force():
    """Bonds are independent of everything else: the mean force along one is known, whatever the map leaves out."""
    data = chain_data(5, 4000)
    x = torch.from_numpy(data.positions)
    one = selection_map(5, [1, 2, 3])
    _, forces = TorchPotential.from_system(data.system).energy_and_forces(x)
    beads = one.beads(x)
    energy = match_forces(beads, one.bead_forces(forces.double()), T, n_steps=250, hidden_features=32)
    # Triangles with one bond stretched: rho has r^2 exp(-k (r - r0)^2 / 2 kT) dr in its measure r^2 dr.
    r = torch.linspace(0.14, 0.16, 9, dtype=torch.float64)
    theta = 1.95
    z = torch.zeros(len(r), 3, 3, dtype=torch.float64)
    z[:, 0, 0] = r
    z[:, 2, 0], z[:, 2, 1] = BOND[0] * np.cos(theta), BOND[0] * np.sin(theta)
    found = BeadPotential(energy).energy(z.float()).double().numpy() / KT
    exact = 0.5 * BOND[1] * (r.numpy() - BOND[0]) ** 2 / KT
    assert np.ptp(found - exact) < 0.35  # kT, of a range of 0.8 kT
    assert np.ptp(found + exact) > 1.0  # the negative control: forces of the other sign
