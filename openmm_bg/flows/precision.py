"""Networks that draw in single precision and have a twin in double precision for densities."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import nn


class ExactTwin(nn.Module):
    """A module whose network may be in single precision, with a twin in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self._twin: tuple[Any, Self] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network."""
        return next(parameter for parameter in self.parameters()).dtype

    def exact(self) -> Self:
        """Return the module in float64: itself, or a twin that is renewed whenever a parameter has changed."""
        if self.dtype == torch.float64:
            return self
        # Sums as well as versions: fused optimisers change parameters without a new version.
        parameters = list(self.parameters())
        sums = torch.stack([p.detach().double().sum() for p in parameters]).tolist()
        version = tuple(p._version for p in parameters), tuple(sums)
        if self._twin is None or self._twin[0] != version:
            self._twin = None
            self._twin = (version, copy.deepcopy(self).double().requires_grad_(False))
        return self._twin[1]

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_twin": None}
