"""The loss of a bead energy alone: forces on the beads, and free energies of the atoms around them."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch

from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.frames import Frames
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.joint_loss import dispersion
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.errors import ReliabilityWarning

_NO_PLACE = 60.0  # kT above the data: beads whose atoms clash; by how much more does not matter
_IMPOSSIBLE = 1e9  # kT, in the place of infinite free energies
_STEPS = 30

DATA, OWN = "free_energy_dispersion", "own_free_energy_dispersion"
"""The figures of a batch: of beads of the data, and of those that the bead energy has drawn."""

NO_FIGURES = {DATA: math.nan, OWN: math.nan}
"""What stands in their place before there are any."""


class BeadPool(NamedTuple):
    """Bead configurations, and what the flow's configurations of each say of its free energy.

    Attributes:
        beads: Bead configurations [nm] with shape=(n, n_beads, 3).
        free_energies: F(z) = -log mean(exp(-U/kT) r(z | x) / p_inv(x | z)) over several tries with shape=(n,), up
            to a constant, float64.
        n_data: How many of them, the first, are of the data.
    """

    beads: torch.Tensor
    free_energies: torch.Tensor
    n_data: int

    def joined(self, other: BeadPool) -> BeadPool:
        """Return this pool with further configurations, none of which are of the data."""
        beads = torch.cat([self.beads, other.beads.to(self.beads)])
        return BeadPool(beads, torch.cat([self.free_energies, other.free_energies]), self.n_data)


def bead_pool(
    model: CoarseGrainedGenerator, beads: torch.Tensor, log_weights: np.ndarray, *, of_data: bool = False
) -> BeadPool:
    """Return bead configurations with the free energies that log-weights mean.

    Args:
        model: The model that has given the weights.
        beads: Bead configurations [nm] with shape=(n, n_beads, 3).
        log_weights: Of their atoms, as in `Backmapped`, with shape=(n,).
        of_data: Whether the beads are those of the data.
    """
    with torch.no_grad():
        energies = model.energy.exact()(beads.double())
    found = energies - torch.from_numpy(log_weights)
    found = found.nan_to_num(posinf=_IMPOSSIBLE).clamp_max(_IMPOSSIBLE)
    return BeadPool(beads.to(model.energy.dtype), found, len(beads) if of_data else 0)


def pool_of_data(model: CoarseGrainedGenerator, beads: torch.Tensor, *, n_tries: int, seed: int) -> BeadPool:
    """Return bead configurations of the data with their free energies.

    Args:
        model: The model, whose flow puts atoms around them.
        beads: Bead configurations [nm] with shape=(n, n_beads, 3).
        n_tries: Configurations of the atoms around each.
        seed: Same seed, same configurations.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReliabilityWarning)
        found = model.backmap(beads, seed=seed, n_tries=n_tries)
    return bead_pool(model, beads, found.log_weights, of_data=True)


class FreeEnergyLoss:
    """Force matching, and the regression of the free energies of a pool of bead configurations.

    With the flow as it is, weights are as even as they can be if the bead energy is the free energy F(z) of the
    atoms around given beads, of which the flow gives an estimate. Each is made once, so that steps cost no energies
    of atoms.

    Args:
        energy: The bead energy.
        frames: The data that are trained on, with forces.
        settings: The settings.
    """

    def __init__(self, energy: BeadEnergy, frames: Frames, settings: CoarseGrainingSettings) -> None:
        self.energy, self.frames, self.settings = energy, frames, settings
        self._force_scale = float(frames.forces.square().mean())

    def __call__(
        self, pool: BeadPool, generator: torch.Generator
    ) -> tuple[list[torch.Tensor], dict[str, float]]:
        """Return the loss of a batch, as the only one of a list, and its parts.

        Args:
            pool: The pool, with configurations of the data.
            generator: Source of randomness.
        """
        settings, size = self.settings, self.settings.batch_size
        chosen = torch.randint(len(self.frames.beads), (size,), generator=generator)
        force_error = self._force_error(chosen)
        first, end = 0, pool.n_data
        halves = [self._free_energies(pool, first, end, generator)]
        if len(pool.beads) > end:
            halves.append(self._free_energies(pool, end, len(pool.beads), generator))
        bound = settings.dispersion_range
        # Not the mean: noise has a tail of clashes, of which the dispersion of the other half sees a part only.
        center = location(halves[0][0] - halves[0][1], bound)
        highest = highest_free_energy(pool)
        spreads = []
        for wanted, found in halves:
            unlikely = (wanted >= highest) & (found + center > highest)  # as it should be
            spreads.append(dispersion(torch.where(unlikely, 0.0, wanted - found - center), bound))
        loss = settings.force_weight * force_error
        loss = loss + 0.5 * settings.dispersion_weight * (spreads[0] + spreads[-1])
        found = {"force_error": force_error, DATA: spreads[0], OWN: spreads[-1]}
        figures = dict.fromkeys(("likelihood", "dispersion", "own_dispersion"), math.nan)
        return [loss], figures | {name: float(value.detach()) for name, value in found.items()}

    def _force_error(self, chosen: torch.Tensor) -> torch.Tensor:
        beads = self.frames.beads[chosen].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.energy(beads).sum(), beads, create_graph=True)
        return (gradient + self.frames.forces[chosen]).square().mean() / self._force_scale

    def _free_energies(
        self, pool: BeadPool, first: int, end: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return free energies of some of the pool, none above the highest, and the bead energies."""
        chosen = torch.randint(first, end, (self.settings.batch_size,), generator=generator)
        found = self.energy(pool.beads[chosen])
        return pool.free_energies[chosen].clamp_max(highest_free_energy(pool)).to(found), found


def highest_free_energy(pool: BeadPool) -> float:
    """Return the free energy [kT] above which beads count as alike: their atoms clash."""
    return float(pool.free_energies[: pool.n_data].median()) + _NO_PLACE


def location(deviations: torch.Tensor, bound: float) -> torch.Tensor:
    """Return the constant around which the dispersion of deviations [kT] is least, with its gradient.

    So a constant that is added to all deviations, as that of the bead energy, changes no dispersion around it.

    Args:
        deviations: With shape=(n,).
        bound: As of `dispersion`.
    """
    with torch.no_grad():
        center = deviations.median()
        for _ in range(_STEPS):  # means with smaller weights for those beyond the bound
            away = deviations - center
            center = center + away.clamp(-bound, bound).sum() / (bound / away.abs()).clamp_max(1.0).sum()
        inside = (deviations - center).abs() <= bound
        if not inside.any():
            return deviations.mean()
    return center + (deviations[inside] - deviations[inside].detach()).mean()
