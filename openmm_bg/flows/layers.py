"""Stacks of coupling layers, and which features each of them transforms."""

from __future__ import annotations

import math

import torch
from nflows.transforms import Transform

from openmm_bg.transforms.affine import AffineCoupling
from openmm_bg.transforms.couplings import CircularShift, SplineCoupling


def coupling_masks(circular: torch.Tensor, n_layers: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Return random halves of the features and their complements; angles and other features are halved apart.

    Args:
        circular: Which features are angles, with shape=(n_features,).
        n_layers: How many masks.
        generator: Source of randomness.
    """
    masks: list[torch.Tensor] = []
    size = len(circular)
    while len(masks) < n_layers:
        mask = torch.zeros(size, dtype=torch.bool)
        for kind in (circular, ~circular):
            members = torch.nonzero(kind).flatten()
            members = members[torch.randperm(len(members), generator=generator)]
            # Which half gets the odd member alternates at random, so that none is favoured.
            half = (len(members) + int(torch.randint(2, (1,), generator=generator))) // 2
            mask[members[:half]] = True
        masks += [mask, ~mask]
    masks = masks[:n_layers]
    return [mask for mask in masks if mask.any()] or [torch.ones(size, dtype=torch.bool)]


def spline_layers(
    circular: torch.Tensor,
    n_layers: int,
    *,
    n_bins: int,
    bound: float,
    hidden_features: int,
    n_blocks: int,
    generator: torch.Generator,
    n_context: int = 0,
) -> list[Transform]:
    """Return spline couplings, a rotation of the angles before each; for the arguments see `SplineCoupling`.

    Initial weights come from torch's global generator, masks and rotations from ``generator``.
    """
    layers: list[Transform] = []
    for mask in coupling_masks(circular, n_layers, generator):
        shift = (torch.rand(int(circular.sum()), generator=generator) * 2.0 - 1.0) * math.pi
        layers.append(CircularShift(circular, shift))
        layers.append(
            SplineCoupling(
                mask,
                circular,
                n_bins=n_bins,
                bound=bound,
                hidden_features=hidden_features,
                n_blocks=n_blocks,
                n_context=n_context,
            )
        )
    return layers


def affine_layers(
    circular: torch.Tensor,
    n_layers: int,
    *,
    volume_preserving: bool,
    hidden_features: int,
    n_hidden: int,
    generator: torch.Generator,
) -> list[Transform]:
    """Return affine couplings; for the arguments see `AffineCoupling`.

    Initial weights come from torch's global generator, masks from ``generator``.
    """
    return [
        AffineCoupling(
            mask,
            circular,
            volume_preserving=volume_preserving,
            hidden_features=hidden_features,
            n_hidden=n_hidden,
        )
        for mask in coupling_masks(circular, n_layers, generator)
    ]
