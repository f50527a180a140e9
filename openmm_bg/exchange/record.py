"""Reading what a parallel tempering run has stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.statistics import chain_mean, round_trips
from openmm_bg.units import thermal_energy

VELOCITIES = 3
"""Evaluations of forces for new velocities of a leap-frog integrator (`new_velocities`)."""


@dataclass(frozen=True)
class ExchangeRecord:
    """A parallel tempering run, sorted by thermodynamic state; the starting configurations left out.

    Attributes:
        temperatures: The states' temperatures [K] with shape=(n_states,).
        positions: Configurations [nm] with shape=(n_iterations, n_states, n_atoms, 3), float32: each
            state's trajectory, whichever replica visited it.
        potential_energy: Their energies [kJ/mol] with shape=(n_iterations, n_states).
        replicas: The replica in each state with shape=(n_iterations, n_states).
        exchange_acceptance: Accepted over proposed exchanges of neighbouring temperatures with
            shape=(n_states - 1,), NaN where none was proposed.
        flow_accepted: Accepted proposals of the move with a flow, with shape=(n_states,); 0 without one.
        flow_proposed: Its proposals with shape=(n_states,).
        flow_nonfinite: Its proposals without a finite energy or density with shape=(n_states,).
        step_sizes: The latent move's step sizes with shape=(n_states,); NaN for other moves.
        settings: What the run was made with.
        exchange_acceptance_stderr: Standard errors of the exchange acceptances, from their scatter over the
            iterations; NaN where unknown.
        mapped_exchanges: How many exchanges were proposed through the map of the flow.
        accepted_maps: How many of them were accepted.
    """

    temperatures: np.ndarray
    positions: np.ndarray
    potential_energy: np.ndarray
    replicas: np.ndarray
    exchange_acceptance: np.ndarray
    flow_accepted: np.ndarray
    flow_proposed: np.ndarray
    flow_nonfinite: np.ndarray
    step_sizes: np.ndarray
    settings: dict[str, Any]
    exchange_acceptance_stderr: np.ndarray | None = None
    mapped_exchanges: int = 0
    accepted_maps: int = 0

    @property
    def n_iterations(self) -> int:
        """The number of iterations."""
        return len(self.positions)

    @property
    def flow_acceptance(self) -> np.ndarray:
        """Accepted over made flow proposals with shape=(n_states,), NaN where there were none."""
        with np.errstate(invalid="ignore"):
            return self.flow_accepted / np.where(self.flow_proposed > 0, self.flow_proposed, np.nan)

    @property
    def n_tuning(self) -> int:
        """How many iterations, the first ones, tuned the step size of latent moves; these are not exact."""
        if not self.settings.get("n_tuning", 0):
            return 0
        return min(self.n_iterations, -(-self.settings["n_tuning"] // self.settings["n_proposals"]))

    @property
    def energy_evaluations(self) -> int:
        """Energy evaluations of dynamics, moves and exchanges; those of prefetched proposals are expected ones."""
        n_applied = self.n_iterations * len(self.temperatures)
        n_proposals = self.settings["n_proposals"]
        if self.settings.get("move") == "latent":
            each = [_prefetched(n_proposals, fraction) for fraction in self.flow_acceptance]
            moves = self.n_iterations * float(np.sum(each))
        elif n_proposals:
            n_candidates = self.settings.get("n_candidates") or 1
            moves = n_applied * (n_proposals * n_candidates + 1)  # and the current configuration
        else:
            moves = 0.0
        # One at the end of each move, that of dynamics and that by the flow, and one for the exchange.
        ends = 3 + VELOCITIES if n_proposals else 2
        # Through the map, two replicas before and after, and the new velocities of both.
        maps = 4 * self.mapped_exchanges + 2 * VELOCITIES * self.accepted_maps
        return round(n_applied * (self.settings["n_steps"] + ends) + moves + maps)

    @property
    def round_trips(self) -> int:
        """How often a replica went from the lowest to the highest temperature and back."""
        return round_trips(self.replicas)

    def torsions(self, torsions: Mapping[str, tuple[int, int, int, int]]) -> dict[str, np.ndarray]:
        """Return torsion angles [rad] by name, each with shape=(n_iterations, n_states).

        Args:
            torsions: Four atom indices for each name, as in ``MolecularSystem.torsions``.
        """
        if not torsions:
            return {}
        quadruples = np.array(list(torsions.values()))
        angles = dihedrals(self.positions.astype(np.float64), quadruples)
        return {name: angles[..., k] for k, name in enumerate(torsions)}


def _prefetched(n_proposals: int, acceptance: float) -> float:
    """Return how many energies a latent move evaluates in a call, by expectation.

    Batches are offered up to their first acceptance; each also has the current configuration.
    """
    acceptance = min(max(float(np.nan_to_num(acceptance)), 1e-3), 1.0)
    expected = np.zeros(n_proposals + 1)
    for left in range(1, n_proposals + 1):
        size = min(math.ceil(2.0 / acceptance), left)
        offers = np.arange(1, size + 1)
        ends = acceptance * (1.0 - acceptance) ** (offers - 1)  # with the acceptance of this offer
        ends[-1] += (1.0 - acceptance) ** size  # or of none
        expected[left] = size + 1 + ends @ expected[left - offers]
    return float(expected[-1])


def read_exchange(storage: str | Path) -> ExchangeRecord:
    """Read a run that `run_parallel_tempering` stored, finished or killed; the model is not needed.

    The flow move's counters include iterations that were run again after a kill.

    Args:
        storage: The run's netCDF file.

    Raises:
        InputError: If the file does not hold such a run.
    """
    with open_storage(storage) as dataset:
        settings = read_settings(dataset, storage)
        last = int(dataset["last_iteration"][0])
        iterations = slice(1, last + 1)
        # states[k, r] is the state of replica r; the inverse permutation is the replica of each state.
        states = np.asarray(dataset["states"][iterations])
        replicas = np.argsort(states, axis=1)
        positions = np.asarray(dataset["positions"][iterations])
        positions = np.take_along_axis(positions, replicas[:, :, None, None], axis=1)
        reduced = np.asarray(dataset["energies"][iterations])  # (iteration, replica, state)
        reduced = np.take_along_axis(reduced, replicas[:, None, :], axis=1)[:, 0, :]
        temperatures = np.array(settings["temperatures"], dtype=np.float64)
        accepted, proposed = (_neighbours(dataset[name][iterations]) for name in ("accepted", "proposed"))
        # Each is counted both ways.
        n_maps, n_accepted = (
            int(np.asarray(dataset[name][iterations]).sum()) // 2 for name in ("proposed", "accepted")
        )
        learned = settings.get("sampler") == "learned"
        try:
            moves = _read_moves(dataset)
        except RuntimeError as error:
            if not is_damage(error):
                raise
            raise InputError(
                f"{storage} is damaged ({error}), as by a kill in the middle of writing; give another file."
            ) from error
        statistics = [_flow_statistics(move) for move in moves]
    with np.errstate(invalid="ignore", divide="ignore"):
        exchange_acceptance = accepted.sum(axis=0) / proposed.sum(axis=0)
    return ExchangeRecord(
        temperatures=temperatures,
        positions=positions,
        potential_energy=reduced * np.array([thermal_energy(t) for t in temperatures]),
        replicas=replicas,
        exchange_acceptance=exchange_acceptance,
        flow_accepted=np.array([found["n_accepted"] for found in statistics]),
        flow_proposed=np.array([found["n_proposed"] for found in statistics]),
        flow_nonfinite=np.array([found["n_nonfinite"] for found in statistics]),
        step_sizes=np.array([found["step_size"] for found in statistics]),
        settings=settings,
        exchange_acceptance_stderr=_ratio_errors(accepted, proposed),
        mapped_exchanges=n_maps if learned else 0,
        accepted_maps=n_accepted if learned else 0,
    )


def _neighbours(counts: Any) -> np.ndarray:
    """Return the counts of neighbouring states, with shape=(n_iterations, n_states - 1)."""
    lower = np.arange(np.shape(counts)[1] - 1)
    return np.asarray(counts)[:, lower, lower + 1].astype(np.float64)


def _ratio_errors(accepted: np.ndarray, proposed: np.ndarray) -> np.ndarray:
    """Return the standard errors of ratios of sums over iterations, which are correlated; NaN where unknown."""
    errors = np.full(accepted.shape[1], np.nan)
    for k, (one, all_) in enumerate(zip(accepted.T, proposed.T, strict=True)):
        if len(one) > 1 and all_.sum() > 0:
            errors[k] = chain_mean(one - one.sum() / all_.sum() * all_).stderr / all_.mean()
    return errors


def is_damage(error: RuntimeError) -> bool:
    """Tell whether an error is that of reading a damaged netCDF file."""
    return str(error).startswith("NetCDF:")


def open_storage(storage: str | Path) -> Any:
    """Open a run's netCDF file for reading.

    Raises:
        InputError: If there is no such file, or it is damaged.
    """
    import netCDF4

    path = Path(storage)
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        return netCDF4.Dataset(path, "r")
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_damage(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read as a netCDF file ({reason}): another process may be "
            "writing it, and if not, delete it together with its checkpoint file and start again."
        ) from error


def read_settings(dataset: Any, storage: str | Path) -> dict[str, Any]:
    """Return what a run was made with.

    Raises:
        InputError: If the file was not written by `run_parallel_tempering`.
    """
    try:
        stored = dataset["metadata/openmm_bg"][:].tobytes().decode()
        if not {"states", "positions", "energies"} <= dataset.variables.keys():
            raise IndexError("The run was stopped before its first iteration.")
    except (KeyError, IndexError) as error:
        raise InputError(
            f"{storage} holds no parallel tempering run of openmm-bg exchange; give another file. (Runs of a "
            "script of your own are read by openmmtools' MultiStateReporter.)"
        ) from error
    return json.loads(yaml.safe_load(stored))


def _read_moves(dataset: Any) -> list[Any]:
    """Return the moves' states as openmmtools stored them, without building moves from them."""

    class Loader(yaml.SafeLoader):
        """Reads quantities as None: only counters are wanted."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    variables = dataset["mcmc_moves"].variables
    count = len(variables)
    return [yaml.load(str(variables[f"move{k}"][0]), Loader=Loader) for k in range(count)]


def _flow_statistics(move: Any) -> dict[str, Any]:
    """Find the state of the move with a flow in a nested move and return its counters."""
    found = _find_flow_move(move)
    counters = {name: int(found.get(name, 0)) for name in ("n_accepted", "n_proposed", "n_nonfinite")}
    return {**counters, "step_size": float(found.get("step_size", np.nan))}


def _find_flow_move(move: Any) -> dict[str, Any]:
    if isinstance(move, dict):
        if "model_hash" in move:  # only moves of this package have one
            return move
        return next((found for child in move.values() if (found := _find_flow_move(child))), {})
    if isinstance(move, list):
        return next((found for child in move if (found := _find_flow_move(child))), {})
    return {}
