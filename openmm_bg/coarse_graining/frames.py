"""Configurations as the training of a coarse-grained model sees them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.maps import CoarseGrainedMap
from openmm_bg.coarse_graining.noisy_map import NoisyMap


class Frames(NamedTuple):
    """Configurations with their beads, in the network's precision.

    Attributes:
        features: Of the backmapping flow, with shape=(n, n_features).
        beads: Bead configurations [nm] with shape=(n, n_beads, 3).
        context: What the flow sees of them, with a row for each.
        forces: Forces on the beads over kT [1/nm] whose mean is the gradient of log rho, with the shape of beads;
            NaN where unknown.
        constant: What no network changes of log(rho p_inv / r) + U / kT: the features' log-determinant,
            -log r(z | x) and the reduced energy; with shape=(n,), float64.
    """

    features: torch.Tensor
    beads: torch.Tensor
    context: torch.Tensor
    forces: torch.Tensor
    constant: torch.Tensor

    def at(self, indices: torch.Tensor) -> Frames:
        """Return some of the frames."""
        return Frames(*(tensor[indices] for tensor in self))

    @classmethod
    def joined(cls, parts: list[Frames]) -> Frames:
        """Return all frames of several sets."""
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def make_frames(
    coarse_map: CoarseGrainedMap,
    flow: BackmappingFlow,
    positions: torch.Tensor,
    reduced_energies: torch.Tensor,
    *,
    beads: torch.Tensor | None = None,
    reduced_forces: torch.Tensor | None = None,
    generator: torch.Generator,
) -> tuple[Frames, np.ndarray]:
    """Compute what training needs of configurations.

    Args:
        coarse_map: The map.
        flow: The backmapping flow, for its coordinates and its context.
        positions: Configurations [nm] with shape=(n, n_atoms, 3), float64.
        reduced_energies: Energies in kT with shape=(n,), float64.
        beads: Their bead configurations; drawn from the map if not given.
        reduced_forces: Forces on the atoms over kT [1/nm] with the shape of positions. A noisy map does not need
            them: the mean of the gradient of log r(z | x) is that of log rho.
        generator: Source of the map's randomness.

    Returns:
        The frames inside the domain, and their indices.
    """
    beads = coarse_map.draw(positions, generator) if beads is None else beads
    features, logabsdet = flow.features(positions)
    if isinstance(coarse_map, NoisyMap):
        forces = _score(coarse_map, beads, positions)
    elif reduced_forces is not None:
        forces = coarse_map.bead_forces(reduced_forces)
    else:
        forces = torch.full_like(beads, torch.nan)
    constant = logabsdet - coarse_map.log_prob(beads, positions) + reduced_energies.double()
    inside = torch.isfinite(constant) & torch.isfinite(beads).all(dim=(1, 2))
    dtype = flow.dtype
    frames = Frames(
        features.to(dtype), beads.to(dtype), flow.context(beads).to(dtype), forces.to(dtype), constant
    )
    kept = torch.nonzero(inside).flatten()
    return frames.at(kept), kept.numpy()


def _score(coarse_map: NoisyMap, beads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the gradient of log r(z | x) by the beads."""
    with torch.enable_grad():
        beads = beads.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(coarse_map.log_prob(beads, positions).sum(), beads)
    return gradient
