"""How good a round of a coarse-grained training is, and what the next one needs."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.coarse_graining.free_energy_loss import BeadPool, highest_free_energy
from openmm_bg.coarse_graining.joint_loss import dispersion
from openmm_bg.errors import ReliabilityWarning
from openmm_bg.samples import UNRELIABLE_PARETO_K

if TYPE_CHECKING:
    from openmm_bg.samples import Samples

_HUBER = 3.0  # kT, beyond which missing weights count linearly when rounds are judged
_MISSED = 5.0  # log-weights so far above the median of the data's are of beads that are drawn too rarely
_REPEATS = 32  # how often beads that are drawn too rarely stand in the pool, at most
_NOT_DRAWN = 0.1  # of the samples' effective sample size; if the data's is less, much of them is not drawn
_CLASHING = 0.1  # the part of the data whose atoms may clash in all tries


def hot_beads(frames: list[torch.Tensor], n: int, seed: int) -> torch.Tensor:
    """Return some bead configurations of the ladder's higher temperatures; none if there are no such.

    They cross barriers, and so find what the model takes for rarer than it is: it would never be drawn at the
    model's temperature, and no weight would tell.
    """
    beads = torch.cat(frames)
    return beads[torch.randperm(len(beads), generator=torch.Generator().manual_seed(seed))[:n]]


def excess_over(log_weights: np.ndarray, samples: Samples) -> np.ndarray:
    """Return log-weights less the median of the samples', with their shape."""
    usable = np.isfinite(samples.log_weights)
    if not usable.any():
        return np.zeros(len(log_weights))
    return log_weights - np.median(samples.log_weights[usable])


def hot_dispersion(excess: np.ndarray) -> float:
    """Return the dispersion of weights that are too large: the samples show those that are too small."""
    if not len(excess):
        return math.nan
    missing = torch.from_numpy(-excess).clamp_max(0.0)
    return float(dispersion(missing, _HUBER))


def missed(beads: torch.Tensor, log_weights: np.ndarray, n_most: int, seed: int) -> torch.Tensor:
    """Return bead configurations of the data that the model draws far too rarely, at random and each several times.

    Args:
        beads: Bead configurations of the data with shape=(n, n_beads, 3).
        log_weights: The model's log-weights of the data with shape=(n,).
        n_most: How many there are at most.
        seed: Seed of the choice.
    """
    found = beads[torch.from_numpy(log_weights > np.median(log_weights) + _MISSED)]
    if not len(found):
        return found
    generator = torch.Generator().manual_seed(seed)
    return found[torch.randint(len(found), (min(n_most, _REPEATS * len(found)),), generator=generator)]


def data_ess(log_weights: np.ndarray, samples: Samples) -> float:
    """Return the effective sample size over the number of samples, as the data see it.

    That is the mean weight of the samples over that of the data, which are distributed as samples should be: so it
    is small, too, if the model does not draw what the data have, when the samples' own weights do not tell. Weights
    are at most those of all samples together: what has more is never drawn, and how much more does not matter.

    Args:
        log_weights: The model's log-weights of data that it has not been trained on with shape=(n_frames,).
        samples: The samples, with at least one weight.
    """
    n = len(samples.log_weights)
    excess = log_weights - (np.logaddexp.reduce(samples.log_weights) - math.log(n))
    return min(1.0, float(1.0 / np.exp(np.minimum(excess, math.log(n))).mean()))


def middle_range(log_weights: np.ndarray) -> float:
    """Return the range of the middle half of log-weights; infinite if a quarter of them is."""
    low, high = np.quantile(log_weights, (0.25, 0.75), method="lower")
    return float(high - low) if math.isfinite(low) else math.inf


def warn_of_clashes(pool: BeadPool, n_tries: int) -> None:
    """Warn if the flow finds no place for the atoms around many beads of the data: rounds take these for rare."""
    clashing = float((pool.free_energies >= highest_free_energy(pool)).double().mean())
    if clashing > _CLASHING:
        warnings.warn(
            f"Around {clashing:.0%} of the data's beads all configurations of the flow ({n_tries} each) clash, so "
            "that rounds take these for rarer than they are. Take more (--round-tries), or train longer (--steps).",
            ReliabilityWarning,
            stacklevel=2,
        )


def warn_of_missed(kept: dict[str, Any]) -> None:
    """Warn if the data have what the model of a round draws far too rarely, although its weights look well."""
    ess, of_data = figure(kept, "effective_sample_size"), data_figure(kept)
    if is_trusted(kept) and of_data < _NOT_DRAWN * ess:
        warnings.warn(
            "The model draws some of what the data have far too rarely: by the data's weights the effective sample "
            f"size is {of_data:.2%}, and not {ess:.2%} as by those of its samples, which cannot tell. Train longer "
            "(--steps), with rare configurations more often (--even-fraction 0.5), or in more rounds of the bead "
            "potential alone (--frozen-flow --rounds 20 --round-tries 16).",
            ReliabilityWarning,
            stacklevel=3,
        )


def data_figure(one: dict[str, Any]) -> float:
    """Return the effective sample size of a round as the data see it; 1 if it was not looked at."""
    return float(one.get("data_effective_sample_size", 1.0))


def figure(one: dict[str, Any], name: str) -> float:
    """Return a figure of a round; infinite ones are words in a checkpoint."""
    return float(one[name])


def is_trusted(one: dict[str, Any]) -> bool:
    """Tell whether the weights of a round's samples can be trusted."""
    return figure(one, "pareto_k") < UNRELIABLE_PARETO_K


def round_merit(one: dict[str, Any]) -> tuple[bool, float]:
    """Return by what the best round is kept: whether its weights can be trusted, and what samples are worth.

    That is the mean of the logarithms of the two effective sample sizes, the samples' and the data's. The smaller
    one would not do: a few frames far from all samples (those with a cis peptide bond) can keep that of
    the data where it is, whatever else gets better. That of weights that cannot be trusted says nothing; the range
    of the middle half of their logarithms does. The dispersion at higher temperatures does not count: it does not
    tell how much weight at the model's is missing.
    """
    if not is_trusted(one):
        return False, -figure(one, "log_weight_range")
    both = figure(one, "effective_sample_size") * data_figure(one)
    return True, 0.5 * math.log(max(both, 1e-12))


def is_better(one: dict[str, Any], before: dict[str, Any], tolerance: float) -> bool:
    """Tell whether a round is better than one before, or might be, as weights cannot be trusted."""
    (trusted_before, merit_before), (trusted, merit) = round_merit(before), round_merit(one)
    change = figure(one, "largest_deviation") - figure(before, "largest_deviation")
    return not (trusted_before and trusted) or merit >= merit_before + tolerance or change <= -1.0
