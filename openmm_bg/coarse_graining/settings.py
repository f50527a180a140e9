"""Settings of the training of a coarse-grained model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
from openmm_bg.errors import InputError
from openmm_bg.training.settings import require_fractions, require_positive

FLOWS = ("couplings", "autoregressive")
"""The kinds of backmapping flows."""

MOST_TRIES = 2048
"""The largest number of configurations of the same beads of which one is chosen."""


@dataclass(frozen=True)
class CoarseGrainingSettings:
    """Settings of the networks, of their training, and of the rounds that close the loop.

    The backmapping flow and the bead energy are trained together. The loss is

        -<log p_inv(x | z)> + a <|f(z) - F|^2> / <|F|^2> + v D + b R

    maximum likelihood, force matching, and the dispersion D: Huber's function of log(rho p_inv / r) + U / kT
    around its mean, which is constant if and only if all weights are equal. D is taken over the data and, after a
    first part of the steps, over configurations that the flow has just drawn: they are never seen twice, so that
    nothing can be learned by heart. A part of the frames may be chosen evenly over the bead configurations
    (`FrameChoice`), so that rare ones are learned, too. R is the reverse divergence of the flow, the mean of
    log(p_inv / r) + U / kT of these draws: the forces on their atoms push them apart where they clash. Then come
    rounds: bead configurations are sampled from the bead energy as it is, the weights and observables of their
    backmapping are recorded, and in the round's steps half of the flow's draws begin from them, from as many of
    the ladder's higher temperatures, and from those of the data whose weights are far above the others': what the
    bead energy takes for rarer than it is would else never be drawn, and no weight of samples would tell.

    Args:
        n_steps: Optimiser steps on the data alone.
        batch_size: Frames in a step.
        even_fraction: The part of the frames in a step that is chosen evenly over the bead configurations.
        learning_rate: Adam's step size at the start; it falls along a cosine to a fiftieth.
        force_weight: The weight a of force matching.
        dispersion_weight: The weight v of the dispersion; it rises in the first tenth.
        reverse_weight: The weight b of the reverse divergence; it counts after its gradient was limited.
        own_start: The fraction of the steps after which the flow's own draws count; they cost one energy each
            (none are drawn if neither the dispersion nor the reverse divergence has a weight).
        dispersion_range: Deviations of more than this many kT count linearly.
        averaging: Decay of the exponential moving average of the parameters, which is the result.
        max_gradient_norm: Gradients are scaled down to this norm; that of the reverse divergence by itself.
        validation_fraction: The fraction of the frames, the last of the trajectory, that are held out.
        n_rounds: The most rounds.
        round_samples: Samples that the model draws in each round.
        round_steps: Optimiser steps in each round.
        round_learning_rate: The step size at the start of a round; it falls along a cosine.
        round_tries: Of how many configurations of the same beads each sample of a round is chosen.
        frozen_flow: Rounds train the bead energy alone, by force matching and by the free energy of the atoms
            around given beads (`FreeEnergyLoss`). What the flow makes of beads is drawn once, and the beads of all
            rounds are kept, so that rounds cost far less: for molecules whose bead energy has much to learn.
        tolerance: Rounds end when the effective sample size (the geometric mean of the samples' and the data's)
            grows by less than this part of itself, and the largest deviation of the observables falls by less
            than one standard error; and Pareto k is below 0.7, without which these figures say nothing. With a
            flow that stays as it is, four rounds in a row must be so.
        flow: The kind of backmapping flow: "couplings" (`CouplingBackmapping`) or "autoregressive"
            (`AutoregressiveBackmapping`), which is for maps without noise.
        n_layers: Coupling layers.
        n_bins: Bins of the flow's splines.
        hidden_features: Width of its networks.
        n_blocks: Residual blocks of the conditioners of a flow of couplings.
        energy_features: Width of the bead energy's network.
        energy_layers: Hidden layers of the bead energy's network.
        sampling: How bead configurations are sampled.
        seed: Seed of the networks and of the training.

    Raises:
        InputError: If a setting makes no sense.
    """

    n_steps: int = 4000
    batch_size: int = 512
    even_fraction: float = 0.0
    learning_rate: float = 1e-3
    force_weight: float = 10.0
    dispersion_weight: float = 1.0
    reverse_weight: float = 0.0
    own_start: float = 0.3
    dispersion_range: float = 3.0
    averaging: float = 0.998
    max_gradient_norm: float = 20.0
    validation_fraction: float = 0.1
    n_rounds: int = 4
    round_samples: int = 20_480
    round_steps: int = 1000
    round_learning_rate: float = 2e-4
    round_tries: int = 1
    frozen_flow: bool = False
    tolerance: float = 0.05
    flow: str = "couplings"
    n_layers: int = 8
    n_bins: int = 8
    hidden_features: int = 128
    n_blocks: int = 1
    energy_features: int = 64
    energy_layers: int = 2
    sampling: BeadSamplingSettings = field(default_factory=BeadSamplingSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        positive = ("n_steps", "batch_size", "learning_rate", "dispersion_range", "max_gradient_norm")
        positive += ("round_samples", "round_steps", "round_learning_rate", "n_layers", "hidden_features")
        positive += ("round_tries", "n_blocks", "energy_features", "energy_layers")
        require_positive(self, positive)
        require_fractions(self, ("averaging", "tolerance", "own_start", "even_fraction"))
        for name in ("force_weight", "dispersion_weight", "reverse_weight", "n_rounds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must not be negative or infinite, and is {getattr(self, name)}.")
        if self.flow not in FLOWS:
            raise InputError(f"There is no backmapping flow {self.flow!r}; there are {', '.join(FLOWS)}.")
        check_tries(self.round_tries)
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction must be between 0 and 1, not {self.validation_fraction}.")
        if not 2 <= self.n_bins <= 512:
            raise InputError(f"n_bins must be between 2 and 512, not {self.n_bins}.")

    def flow_settings(self) -> dict[str, int]:
        """Return the settings of the backmapping flow."""
        names = ("n_layers", "n_bins", "hidden_features", "seed")
        if self.flow == "couplings":
            names += ("n_blocks",)
        return {name: getattr(self, name) for name in names}

    def energy_settings(self) -> dict[str, int]:
        """Return the settings of the bead energy."""
        return {
            "hidden_features": self.energy_features,
            "n_hidden": self.energy_layers,
            "seed": self.seed,
        }


def check_tries(n_tries: int) -> None:
    """Check of how many configurations of the same beads one is to be chosen.

    Raises:
        InputError: If that is no whole number, or too many or too few.
    """
    if n_tries < 1 or n_tries != int(n_tries):
        raise InputError(f"The number of tries must be a whole number of at least 1, not {n_tries}.")
    if n_tries > MOST_TRIES:
        raise InputError(f"The number of tries must be at most {MOST_TRIES}, not {n_tries}.")
