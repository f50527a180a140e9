"""What the tests of molecules with rings share: thermal configurations, volumes, and checks of a Z-matrix."""

import numpy as np
import torch
from torch.autograd.functional import jacobian

from openmm_bg.potentials import TorchPotential
from openmm_bg.simulation import LangevinDynamics


def thermal(molecule, n=100, *, temperature=300.0, potential=None, start=None, n_steps=800, n_frames=1):
    """Configurations of Langevin dynamics.

    By default each is of a walker of its own, 0.4 ps from the molecule's positions.

    Args:
        molecule: The molecular system.
        n: The number of configurations.
        temperature: The temperature [K].
        potential: Its potential in double precision, to use again.
        start: Where to start [nm] with shape=(n // n_frames, n_atoms, 3).
        n_steps: Steps of 0.5 fs before the first frame.
        n_frames: Frames of each walker, 25 fs apart.

    Returns:
        Positions [nm] with shape=(n, n_atoms, 3).
    """
    if start is None:
        start = np.repeat(molecule.positions[None], n // n_frames, axis=0)
    dynamics = LangevinDynamics(
        potential or TorchPotential.from_system(molecule, dtype=torch.float64),
        start,
        molecule.masses,
        temperature,
        timestep=0.0005,
        friction=5.0,
        generator=torch.Generator().manual_seed(0),
    )
    frames = []
    for k in range(n_frames):
        dynamics.step(50 if k else n_steps)
        frames.append(dynamics.positions.double().clone())
    return torch.cat(frames)


def round_trip(coordinates, x):
    """Return features, log-determinants, and the largest difference [nm] of positions that come back."""
    features, logabsdet = coordinates.forward(x)
    back = torch.cat([coordinates.inverse(z[None], frame=one)[0] for z, one in zip(features, x, strict=True)])
    return features, logabsdet, float((back - x).abs().max())


def log_volume(coordinates, x):
    """log|det| of the map from coordinates, translation and rotation to Cartesian positions."""
    z_matrix = coordinates.z_matrix
    first = int(z_matrix.atoms[0])
    features = coordinates.forward(x[None])[0][0]

    def cartesian(parameters):
        a, b, c = parameters[3:6]
        zero = torch.zeros_like(a)
        generator = torch.stack(
            [torch.stack([zero, -c, b]), torch.stack([c, zero, -a]), torch.stack([-b, a, zero])]
        )
        placed = coordinates.inverse(parameters[6:][None], frame=x)[0][0]
        turned = (placed - x[first]) @ torch.matrix_exp(generator).T
        return (turned + x[first] + parameters[:3]).reshape(-1)

    start = torch.cat([torch.zeros(6, dtype=torch.float64), features])
    return float(torch.linalg.slogdet(jacobian(cartesian, start, vectorize=True))[1])


def check_z_matrix(z_matrix, bonds, n_rings):
    pairs = {frozenset(pair) for pair in np.asarray(bonds).tolist()}
    assert sorted(z_matrix.atoms.tolist()) == list(range(z_matrix.n_atoms))
    assert len(pairs) - z_matrix.n_atoms + 1 == n_rings
    place = {int(atom): row for row, atom in enumerate(z_matrix.atoms)}
    for row in range(1, z_matrix.n_atoms):
        atom, bond = int(z_matrix.atoms[row]), int(z_matrix.bond[row])
        assert frozenset((atom, bond)) in pairs
        references = [bond]
        if row > 1:
            angle = int(z_matrix.angle[row])
            assert frozenset((bond, angle)) in pairs
            references.append(angle)
        if row > 2:
            torsion = int(z_matrix.torsion[row])
            assert frozenset((angle, torsion)) in pairs or frozenset((bond, torsion)) in pairs
            references.append(torsion)
        assert len({atom, *references}) == len(references) + 1
        assert all(place[other] < row for other in references)
