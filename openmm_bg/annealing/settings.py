"""Settings of temperature annealing."""

from __future__ import annotations

from dataclasses import dataclass

from openmm_bg.errors import InputError
from openmm_bg.training.settings import require_fractions, require_positive
from openmm_bg.units import kelvin


@dataclass(frozen=True)
class AnnealingSettings:
    """Settings of temperature annealing.

    The run alternates between drawing a round of samples from the flow itself, whose energies are computed once,
    and optimiser steps on the samples of the latest rounds. The loss of a sample is Huber's function of
    log q(x) + u(x) + log Z, the deviation of its log-weight from the mean: it is zero where the flow is exact,
    whatever distribution the sample comes from. A part of each batch is resampled by importance weight, so that
    regions where the flow's density is too low count as they do in the target.

    Args:
        temperature: The lowest temperature [K] that the flow is to serve.
        conditioned: Whether the flow serves all temperatures from there to that of its training, as its networks
            learn to see the temperature; otherwise it is given up to the lowest one alone.
        n_steps: Optimiser steps.
        batch_size: Samples in a step.
        round_size: Samples drawn in a round.
        reuse: In how many batches of its first round a sample is used, on average.
        buffer_rounds: The latest rounds that batches are taken from.
        n_temperatures: Temperatures of a round: the lowest reached, and random ones up to that of training.
        lowest_share: The share of a round at the lowest temperature.
        resampled_share: The share of a batch that is resampled by importance weight.
        weight_clip: The part of a round at a temperature, its largest weights, that is clipped before that
            resampling to the next one; at least one weight, unless this is 0.
        ais_distributions: Intermediate distributions of annealed importance sampling, which moves the samples of a
            round towards where the flow's density is too low (five energies for each); none if 0.
        data_share: The share of a batch that are frames of molecular dynamics, if there are any; 0: use none.
        cooled_share: The share of a batch that are samples of any temperature taken as members of the lowest one,
            since their energies are known there, too. They are drawn from those that are typical there, rare
            states more often, see `Rarity`. The other shares are of the rest of the batch.
        rung_ess: The lowest effective sample size, as a fraction, at which a lower temperature is taken in.
        learning_rate: Adam's step size at the start; it falls along a cosine to a hundredth.
        huber: Deviations [kT] beyond which the loss grows only linearly.
        energy_margin: Energies this many kT above the typical ones grow only logarithmically *in the loss*.
        max_gradient_norm: Gradients are scaled down to this norm.
        averaging: Decay of the exponential moving average of the parameters, which is the result.
        validation_interval: Steps between validations and checkpoints; they are made at the end of rounds.
        validation_samples: Samples of the flow in a validation, at each of three temperatures.
        collapse_ess: If the effective sample size falls below this part of the best so far, the best flow is put
            back and the step size halved.
        covered: If the part of the target's samples with a fair density, see `Coverage`, falls below this part of
            the best so far, the best flow is put back likewise.
        seed: Seed of the run.

    Raises:
        InputError: If a setting makes no sense.
    """

    temperature: float = 300.0
    conditioned: bool = True
    n_steps: int = 10_000
    batch_size: int = 512
    round_size: int = 8192
    reuse: float = 4.0
    buffer_rounds: int = 8
    n_temperatures: int = 8
    lowest_share: float = 0.5
    resampled_share: float = 0.5
    weight_clip: float = 1e-4
    ais_distributions: int = 0
    data_share: float = 0.1
    cooled_share: float = 0.2
    rung_ess: float = 0.2
    learning_rate: float = 1e-3
    huber: float = 3.0
    energy_margin: float = 100.0
    max_gradient_norm: float = 20.0
    averaging: float = 0.998
    validation_interval: int = 500
    validation_samples: int = 5000
    collapse_ess: float = 0.3
    covered: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        kelvin(self.temperature)
        whole = ("n_steps", "batch_size", "round_size", "buffer_rounds", "n_temperatures")
        whole += ("validation_interval", "validation_samples")
        require_positive(
            self, (*whole, "reuse", "learning_rate", "huber", "energy_margin", "max_gradient_norm")
        )
        for name in (*whole, "ais_distributions"):
            if getattr(self, name) != int(getattr(self, name)):
                raise InputError(f"{name} must be a whole number, not {getattr(self, name)}.")
        fractions = ("lowest_share", "resampled_share", "weight_clip", "data_share", "cooled_share")
        require_fractions(self, (*fractions, "rung_ess", "averaging", "collapse_ess", "covered"))
        if self.ais_distributions < 0:
            raise InputError(f"ais_distributions must not be negative, and is {self.ais_distributions}.")
        if self.conditioned and self.n_temperatures < 2:
            raise InputError("n_temperatures must be at least 2, or the flow for a single temperature.")
        if not 0 < self.lowest_share < 1:
            raise InputError(f"lowest_share must be above 0 and below 1, not {self.lowest_share}.")
        if self.resampled_share + self.data_share > 1:
            raise InputError("resampled_share and data_share must not add up to more than 1.")
        if self.round_size < 100 * self.n_temperatures:
            raise InputError(
                f"A round of {self.round_size} samples is too small for {self.n_temperatures} temperatures; "
                "it needs 100 of each."
            )

    @property
    def steps_per_round(self) -> int:
        """Optimiser steps between two rounds of samples."""
        return max(1, round(self.reuse * self.round_size / self.batch_size))
