"""The two basins whose sampling is judged: who is inside, and when a trajectory has really crossed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_bg.analysis import BASINS, PHI_POSITIVE, Basin, Ramachandran
from openmm_bg.errors import InputError
from openmm_bg.reference import load_reference, load_umbrella_reference
from openmm_bg.statistics import Estimate

_CIRCLE = (-180.0, 180.0)
_LEFT = (120.0, 0.0)  # phi [degrees]


@dataclass(frozen=True)
class Indicator:
    """A state of alanine dipeptide, and what changes its population slowly.

    A trajectory that comes near an edge of a state may go back and forth over it. It has crossed only when it comes
    from one core to the other (milestones of Faradjian and Elber, 2004).

    Args:
        name: A short name, for columns.
        label: What it is the probability of.
        inside: The state.
        slow: The part of it, or of the rest, into which every entry is a crossing.
        cores: The core of the rest, and that of the slow part.
    """

    name: str
    label: str
    inside: Basin
    slow: str
    cores: tuple[Basin, Basin]

    def cores_of(self, phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
        """Return the core in which configurations are, 0 or 1, or -1 between them; angles in rad."""
        found = np.full(np.shape(phi), -1, dtype=np.int8)
        for number, core in enumerate(self.cores):
            found[core.contains(phi, psi)] = number
        return found


# A quarter of P(phi > 0) is the beta basin that reaches across phi = 180 degrees, within picoseconds and without
# any barrier. Only what comes to alpha-L or C7ax has crossed.
PHI = Indicator(
    "phi",
    "phi > 0",
    PHI_POSITIVE,
    "alpha-L/C7ax",
    (Basin((-165.0, -40.0), _CIRCLE), Basin((30.0, 90.0), _CIRCLE)),
)
PSI = Indicator(
    "psi",
    "beta/PPII",
    BASINS["beta/PPII"],
    "alpha-R",
    (Basin(_LEFT, (110.0, 180.0)), Basin(_LEFT, (-70.0, -20.0))),
)
INDICATORS = (PHI, PSI)
"""The states that are judged: phi > 0, and beta/PPII against alpha."""


@dataclass(frozen=True)
class Population:
    """What is known of an indicator from simulations without any flow.

    Args:
        probability: The probability of the state.
        slow: The probability of its slow part.
    """

    probability: Estimate
    slow: float

    @property
    def variance(self) -> float:
        """The variance of the indicator in one independent configuration."""
        return self.probability.value * (1.0 - self.probability.value)


def reference_populations(name: str, temperature: float) -> tuple[dict[str, Population], str]:
    """Return the populations by the indicators' names, and what they are from.

    Umbrella sampling is taken where the package has it, since it knows rare states best, and parallel tempering
    otherwise.

    Raises:
        InputError: If the package has neither.
    """
    try:
        known, source = load_umbrella_reference(name, temperature).populations, "umbrella sampling"
    except InputError:
        torsions: Ramachandran = load_reference(name, temperature).ramachandran
        known = {f"P({basin})": estimate for basin, estimate in torsions.populations().items()}
        known["P(phi > 0)"], source = torsions.p_phi_positive(), "parallel tempering"
    return {
        i.name: Population(known[f"P({i.label})"], known[f"P({i.slow})"].value) for i in INDICATORS
    }, source


def last_cores(cores: np.ndarray) -> np.ndarray:
    """Return the core in which each trajectory was last; before it came to any, the one that it came to first.

    Args:
        cores: What `Indicator.cores_of` returned, with shape=(n_frames, ...), time first.
    """
    flat = cores.reshape(len(cores), -1)
    known = flat >= 0
    frames = np.where(known, np.arange(len(flat))[:, None], -1)
    last = np.maximum.accumulate(frames, axis=0)
    last = np.where(last >= 0, last, known.argmax(axis=0))
    return np.take_along_axis(flat, last, axis=0).reshape(cores.shape)


def count_crossings(cores: np.ndarray) -> int:
    """Count how often trajectories went from one core to the other.

    Args:
        cores: What `Indicator.cores_of` returned, with shape=(n_frames, n_trajectories).
    """
    return int((np.diff(last_cores(cores), axis=0) != 0).sum())


def count_entries(cores: np.ndarray, replicas: np.ndarray) -> int:
    """Count independent arrivals in the second core at the lowest temperature.

    Exchanges bring one and the same replica back again and again. So each replica is followed through all
    temperatures; its stay in the second core, from one crossing to the next, counts once if it was at the lowest
    temperature meanwhile. A trajectory without exchanges is its own replica.

    Args:
        cores: What `Indicator.cores_of` returned, with shape=(n_frames, n_states, n_ladders), the lowest
            temperature first.
        replicas: The replica in each state, with the same shape.
    """
    where = np.argsort(replicas, axis=1)  # the state of each replica
    inside = last_cores(np.take_along_axis(cores, where, axis=1)) == 1
    arrives = inside & np.concatenate([np.ones_like(inside[:1]), ~inside[:-1]])
    stays = np.cumsum(arrives, axis=0)  # the number of each stay
    counted = np.where(inside & (where == 0), stays, 0).reshape(len(cores), -1)
    return sum(len(np.unique(column[column > 0])) for column in counted.T)
