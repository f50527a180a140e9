"""Settings of the benchmark of sampling methods: what is sampled, how, and for how long."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise

from openmm_bg.errors import InputError

TEMPERATURE = 300.0
"""The temperature [K] that is sampled."""

_LADDERS = ("ladder", "flow_ladder", "learned_ladder")


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark of sampling methods.

    All dynamics are Langevin dynamics with one time step, one friction and one mass of the hydrogens. The ladder of
    temperatures without a flow is that of the packaged reference; its replicas exchange with 40 % probability.

    In openmmtools, 250 steps between exchanges are 0.5 ps, and dynamics take 85 % of the time; shorter moves would
    spend it on openmmtools' bookkeeping, longer ones would exchange too rarely. With a flow, dynamics only have to
    relax what a proposal does not change, and 50 steps do. The batched ladders exchange every 50 steps, which costs
    them nothing.

    Args:
        ladder: Temperatures [K] of parallel tempering without a flow, rising from 300 K.
        flow_ladder: Temperatures [K] of replica exchange with moves by a flow.
        learned_ladder: The two temperatures [K] of learned replica exchange.
        timestep: Time step [ps].
        friction: Friction [1/ps].
        hydrogen_mass: Mass of hydrogens [Da], which does not change the distribution of positions.
        burn_in: Iterations that are thrown away before the others, as a part of these.
        md_frames: Frames of molecular dynamics at 300 K.
        md_interval: Steps between them.
        tempering_iterations: Iterations of parallel tempering in openmmtools.
        tempering_steps: Steps of each replica in an iteration, there and in learned replica exchange.
        n_ladders: Independent ladders of batched parallel tempering.
        batched_iterations: Its iterations.
        batched_steps: Steps of each replica in one of them.
        flow_iterations: Iterations of replica exchange with the independence move.
        multiple_try_iterations: Iterations of replica exchange with the multiple-try move.
        flow_steps: Steps of each replica in an iteration, between moves by a flow.
        n_proposals: Proposals of each call of the independence move, one after the other.
        n_candidates: Candidates of each try of the multiple-try move.
        learned_iterations: Iterations of learned replica exchange.
        flow_chain_calls: Calls of the independence move in a chain of nothing else; a frame each.
        multiple_try_chain_calls: Calls of the multiple-try move in a chain of nothing else; a frame each.
        n_tries: Tries of each of these.
        n_samples: Independent samples of the model.
        seed: Seed of everything.

    Raises:
        InputError: If a setting makes no sense.
    """

    ladder: tuple[float, ...] = (300.0, 378.0, 476.0, 600.0, 756.0, 952.0)
    flow_ladder: tuple[float, ...] = (300.0, 378.0, 476.0, 600.0)
    learned_ladder: tuple[float, ...] = (300.0, 600.0)
    timestep: float = 0.002
    friction: float = 2.0
    hydrogen_mass: float = 4.0
    burn_in: float = 0.1
    md_frames: int = 5000
    md_interval: int = 50
    tempering_iterations: int = 9000
    tempering_steps: int = 250
    n_ladders: int = 64
    batched_iterations: int = 3600
    batched_steps: int = 50
    flow_iterations: int = 500
    multiple_try_iterations: int = 400
    flow_steps: int = 50
    n_proposals: int = 16
    n_candidates: int = 64
    learned_iterations: int = 500
    flow_chain_calls: int = 2000
    multiple_try_chain_calls: int = 600
    n_tries: int = 4
    n_samples: int = 400_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in _LADDERS:
            rungs = getattr(self, name)
            if len(rungs) < 2 or rungs[0] != TEMPERATURE or any(high <= low for low, high in pairwise(rungs)):
                raise InputError(
                    f"{name} must be temperatures that rise from {TEMPERATURE:g} K, not {rungs}."
                )
        if len(self.learned_ladder) != 2:
            raise InputError(f"learned_ladder must be two temperatures, not {self.learned_ladder}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 10 if field.name in LENGTHS else 1
            if field.type == "int" and field.name != "seed" and value < least:
                raise InputError(f"{field.name} must be at least {least}, not {value}.")
            if field.type == "float" and field.name != "burn_in" and not value > 0:
                raise InputError(f"{field.name} must be positive, not {value}.")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, and is {self.seed}.")
        if not 0 <= self.burn_in <= 1:
            raise InputError(f"burn_in must be between 0 and 1, not {self.burn_in}.")

    @classmethod
    def quick(cls, seed: int = 0) -> BenchmarkSettings:
        """Return settings that show the way in about two minutes; the figures prove nothing."""
        return cls(
            md_frames=400,
            tempering_iterations=12,
            n_ladders=16,
            batched_iterations=150,
            flow_iterations=15,
            multiple_try_iterations=15,
            learned_iterations=15,
            flow_chain_calls=100,
            multiple_try_chain_calls=30,
            n_samples=8000,
            seed=seed,
        )

    def n_burn_in(self, n_iterations: int) -> int:
        """Return how many iterations are thrown away before a number of others."""
        return round(self.burn_in * n_iterations)


LENGTHS = (
    "md_frames",
    "tempering_iterations",
    "batched_iterations",
    "flow_iterations",
    "multiple_try_iterations",
    "learned_iterations",
    "flow_chain_calls",
    "multiple_try_chain_calls",
    "n_samples",
)
"""The settings that say for how long each method runs."""
