"""Force matching: a bead energy whose forces are the mean forces of the atoms."""

from __future__ import annotations

import math
from typing import Any

import torch

from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.units import kelvin, thermal_energy


def match_forces(
    beads: torch.Tensor,
    forces: torch.Tensor,
    temperature: Any,
    *,
    n_steps: int = 500,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
    **settings: int,
) -> BeadEnergy:
    """Fit a bead energy to forces on the beads, by least squares.

    Args:
        beads: Bead configurations [nm] with shape=(n, n_beads, 3).
        forces: Forces on the beads [kJ/mol/nm] with the same shape, as of `CoarseGrainedMap.bead_forces`.
        temperature: Temperature [K].
        n_steps: Steps of Adam.
        batch_size: Configurations in a step.
        learning_rate: The step size at the start; it falls along a cosine to zero.
        seed: Seed of the network and of the order of the configurations.
        settings: Further settings of `BeadEnergy`.

    Raises:
        InputError: If there are fewer than two configurations, or one is not finite.
    """
    invariants = BeadInvariants(beads.shape[1]).fit(beads)
    energy = BeadEnergy(invariants, temperature, seed=seed, **settings).fit_prior(beads)
    energy.set_dtype(torch.float32)
    reduced = (forces / thermal_energy(kelvin(temperature))).float()
    beads = beads.float()
    optimiser = torch.optim.Adam(energy.network.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for step in range(n_steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * learning_rate * (1.0 + math.cos(math.pi * step / n_steps))
        chosen = torch.randint(len(beads), (batch_size,), generator=generator)
        x = beads[chosen].requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
        loss = (gradient + reduced[chosen]).square().mean() / reduced.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return energy.eval()
