"""Settings of a training run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from openmm_bg.errors import InputError

# The settings of each kind of flow, beside those that all have.
_FLOW_SETTINGS = {
    "spline": ("n_bins", "bound", "n_blocks", "conditioned"),
    "realnvp": ("n_hidden",),
    "tsf": ("n_momenta", "n_bins", "bound", "n_blocks"),
    "tsf-affine": ("n_momenta", "n_hidden"),
}


def require_positive(settings: Any, names: Iterable[str]) -> None:
    """Refuse settings of these names that are not positive, finite numbers.

    Raises:
        InputError: If one is.
    """
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise InputError(f"{name} must be positive and finite, not {getattr(settings, name)}.")


def require_fractions(settings: Any, names: Iterable[str]) -> None:
    """Refuse settings of these names that are not between 0 and 1.

    Raises:
        InputError: If one is.
    """
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise InputError(f"{name} must be between 0 and 1, not {getattr(settings, name)}.")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the flow and of its training.

    The loss is (1 - w) J_ML + w J_KL + v J_LD: maximum likelihood, reverse KL, and the log-dispersion of the
    data's energies. The weight w is zero in the first part of the run and then rises linearly to `kl_weight`
    (Dibak et al. 2021; Noe et al. 2019); v rises to `dispersion_weight` in the first tenth.

    Args:
        n_steps: Optimiser steps.
        batch_size: Frames in a step of maximum likelihood.
        kl_batch_size: Samples of the flow in a step of reverse KL.
        learning_rate: Adam's step size at the start; it falls along a cosine to a fiftieth.
        kl_weight: The final weight of the reverse KL, from 0 to 1.
        dispersion_weight: The weight of the log-dispersion; it costs no energy evaluations.
        dispersion_ratio: In part of the steps the dispersion is that at a lower temperature T, with T / T_train
            drawn from this to 1: with its base scaled, the flow then learns to be right there too, from the same
            configurations and energies of the training temperature.
        cold_fraction: The fraction of the steps in which it is.
        kl_start: Fraction of the run at which its weight starts to rise.
        kl_full: Fraction of the run at which it is reached.
        energy_margin: Energies this many kT above the highest of the data grow only logarithmically in
            the reverse KL loss.
        max_gradient_norm: Gradients are scaled down to this norm.
        averaging: Decay of the exponential moving average of the parameters, which is the result.
        validation_fraction: The fraction of the frames, the last of the trajectory, that are held out.
        validation_interval: Steps between validations and checkpoints.
        validation_samples: Samples of the flow in a validation.
        patience: Stop after this many validations without a better result; never if 0.
        flow: The kind of flow: "spline", "realnvp", "tsf" (temperature-steerable, of spline layers) or "tsf-affine"
            (of affine layers, as first published).
        n_layers: Coupling layers of the flow.
        hidden_features: Width of its conditioners.
        n_bins: Bins of its splines.
        bound: Its splines act within this many standard deviations.
        n_blocks: Residual blocks of the conditioners of splines.
        n_hidden: Hidden layers of the conditioners of affine layers.
        conditioned: Whether the conditioners of a spline flow see the temperature, see `SplineFlow`.
        n_momenta: Auxiliary momenta of a temperature-steerable flow; as many as features if not given.
        seed: Seed of the flow and of the training.

    Raises:
        InputError: If a setting makes no sense.
    """

    n_steps: int = 7000
    batch_size: int = 256
    kl_batch_size: int = 256
    learning_rate: float = 1e-3
    kl_weight: float = 0.2
    dispersion_weight: float = 1.0
    dispersion_ratio: float = 0.5
    cold_fraction: float = 0.5
    kl_start: float = 0.7
    kl_full: float = 0.8
    energy_margin: float = 100.0
    max_gradient_norm: float = 20.0
    averaging: float = 0.998
    validation_fraction: float = 0.1
    validation_interval: int = 250
    validation_samples: int = 5000
    patience: int = 0
    flow: str = "spline"
    n_layers: int = 8
    hidden_features: int = 128
    n_bins: int = 8
    bound: float = 6.0
    n_blocks: int = 1
    n_hidden: int = 3
    conditioned: bool = False
    n_momenta: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.flow not in _FLOW_SETTINGS:
            raise InputError(f"There is no flow {self.flow!r}; the flows are {', '.join(_FLOW_SETTINGS)}.")
        positive = ("n_steps", "batch_size", "kl_batch_size", "learning_rate", "max_gradient_norm", "bound")
        positive += ("validation_interval", "validation_samples", "n_layers", "hidden_features", "n_blocks")
        positive += ("n_hidden",)
        require_positive(self, positive)
        require_fractions(self, ("kl_weight", "kl_start", "kl_full", "cold_fraction", "averaging"))
        if not self.dispersion_weight >= 0:
            raise InputError(f"dispersion_weight must not be negative, and is {self.dispersion_weight}.")
        if not 0 < self.dispersion_ratio <= 1:
            raise InputError(f"dispersion_ratio must be above 0 and at most 1, not {self.dispersion_ratio}.")
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction must be between 0 and 1, not {self.validation_fraction}.")
        if self.kl_full < self.kl_start:
            raise InputError(f"kl_full ({self.kl_full}) must not be before kl_start ({self.kl_start}).")
        if self.n_momenta is not None and self.n_momenta < 1:
            raise InputError(f"n_momenta must be at least 1, not {self.n_momenta}.")
        if not 2 <= self.n_bins <= 512:
            raise InputError(f"n_bins must be between 2 and 512, not {self.n_bins}.")

    def kl_weight_at(self, fraction: float) -> float:
        """Return the weight of the reverse KL when a fraction of the run is done."""
        if fraction < self.kl_start:
            return 0.0
        if fraction >= self.kl_full:
            return self.kl_weight
        return self.kl_weight * (fraction - self.kl_start) / (self.kl_full - self.kl_start)

    def dispersion_weight_at(self, fraction: float) -> float:
        """Return the weight of the log-dispersion when a fraction of the run is done."""
        return self.dispersion_weight * min(1.0, fraction / 0.1)

    def flow_settings(self) -> dict[str, float | int | None]:
        """Return the settings of the flow."""
        names = ("n_layers", "hidden_features", "seed", *_FLOW_SETTINGS[self.flow])
        return {name: getattr(self, name) for name in names}
