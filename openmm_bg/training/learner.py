"""A flow that learns: its optimiser, its moving average, and the best that it has been."""

from __future__ import annotations

import copy
import math
from typing import Protocol

import torch

from openmm_bg.flows import Flow
from openmm_bg.training.checkpoint import Tensors, part, prefixed


class LearningSettings(Protocol):
    """Settings that trainings of all kinds have."""

    @property
    def n_steps(self) -> int:
        """Optimiser steps in all."""

    @property
    def learning_rate(self) -> float:
        """The step size after the warm-up."""

    @property
    def max_gradient_norm(self) -> float:
        """Gradients are scaled down to this norm."""

    @property
    def averaging(self) -> float:
        """Decay of the exponential moving average of the parameters."""


class Learner:
    """Adam with a warm-up, a step size that falls along a cosine, bounded gradients, and an average of parameters.

    Args:
        flow: The flow, whose parameters are changed.
        settings: The settings.
        last_rate: The part of the step size that is left at the end.
        warm_up: Steps of the warm-up, at most a tenth of all.

    Attributes:
        flow: The flow.
        average: The flow with averaged parameters.
        best: The parameters of the average that was kept last, or None.
        n_skipped: Steps that were left out since their gradient was not finite.
    """

    def __init__(
        self,
        flow: Flow,
        settings: LearningSettings,
        *,
        last_rate: float,
        warm_up: int,
    ) -> None:
        self.flow, self.average = flow, copy.deepcopy(flow).requires_grad_(False)
        self._optimizer = torch.optim.Adam(flow.parameters(), lr=settings.learning_rate, fused=True)
        self._settings, self._last_rate = settings, last_rate
        self._warm_up = max(1, min(warm_up, settings.n_steps // 10))
        self.best: Tensors | None = None
        self.n_skipped = 0

    def update(self, loss: torch.Tensor, step: int, rate_factor: float = 1.0) -> None:
        """Take an optimiser step, and move the average.

        Args:
            loss: The loss.
            step: Steps before this one.
            rate_factor: A further factor of the step size.
        """
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self._settings.n_steps))
        falling = self._last_rate + (1.0 - self._last_rate) * cosine
        for group in self._optimizer.param_groups:
            warm = min(1.0, (step + 1) / self._warm_up)
            group["lr"] = self._settings.learning_rate * rate_factor * warm * falling
        self._optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self._settings.max_gradient_norm)
        if torch.isfinite(norm):
            self._optimizer.step()
        else:  # left out, and counted
            self.n_skipped += 1
        decay = min(self._settings.averaging, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.flow.parameters()), 1.0 - decay)

    def keep(self) -> None:
        """Keep the average as the best so far."""
        self.best = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}

    def put_back(self) -> None:
        """Go on from the best, with an optimiser that has forgotten everything."""
        self.flow.load_state_dict(self.best)
        self.average.load_state_dict(self.best)
        self._optimizer.state.clear()

    def result(self) -> Flow:
        """Return the best average."""
        self.average.load_state_dict(self.best)
        return self.average

    def state(self) -> Tensors:
        """Return parameters and the optimiser's state as tensors."""
        tensors = prefixed("flow.", self.flow.state_dict()) | prefixed("average.", self.average.state_dict())
        state = self._optimizer.state_dict()["state"]
        adam = {f"{i}.{name}": torch.as_tensor(x) for i, one in state.items() for name, x in one.items()}
        return tensors | prefixed("best.", self.best) | prefixed("adam.", adam)

    def restore(self, tensors: Tensors) -> None:
        """Continue with what `state` returned; other tensors are passed over."""
        self.flow.load_state_dict(part(tensors, "flow."))
        self.average.load_state_dict(part(tensors, "average."))
        self.best = part(tensors, "best.") or None
        adam = self._optimizer.state_dict()
        adam["state"] = {}
        for name, tensor in part(tensors, "adam.").items():
            index, key = name.split(".", 1)
            adam["state"].setdefault(int(index), {})[key] = tensor
        self._optimizer.load_state_dict(adam)
