"""Which features a coupling layer transforms."""

from __future__ import annotations

import torch


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
