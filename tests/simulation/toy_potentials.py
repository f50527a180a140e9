"""Potentials with averages known from theory."""

import torch

from openmm_bg.potentials.base import Potential

K = 40_000.0  # kJ/mol/nm^2


class Harmonic(Potential):
    """Independent particles on springs."""

    def _evaluate(self, positions, with_forces):
        return 0.5 * K * positions.square().sum((1, 2)), -K * positions


class DoubleWell(Potential):
    """A barrier along x: U = 20 ((x / 0.1)^2 - 1)^2 + 4 (x / 0.1), and springs along y and z."""

    def _evaluate(self, positions, with_forces):
        x = positions[:, 0, 0] / 0.1
        rest = positions[:, 0, 1:]
        energy = 20.0 * (x.square() - 1).square() + 4.0 * x + 0.5 * K * rest.square().sum(1)
        force = torch.empty_like(positions)
        force[:, 0, 0] = -(80.0 * x * (x.square() - 1) + 4.0) / 0.1
        force[:, 0, 1:] = -K * rest
        return energy, force


class Box(Potential):
    """No force, and no finite energy outside of a cube with edges of 0.2 nm."""

    def _evaluate(self, positions, with_forces):
        outside = (positions.abs() > 0.1).any(-1).any(-1)
        return torch.where(outside, torch.inf, positions.new_zeros(())), torch.zeros_like(positions)


def generator(seed=0):
    """A seeded source of randomness."""
    return torch.Generator().manual_seed(seed)
