"""Parallel tempering in openmmtools, with a move by a flow before the dynamics of every replica."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.exchange.preparation import (
    choose_platform,
    prepare,
    relaxed_positions,
    silence_openmmtools,
    start_positions,
)
from openmm_bg.exchange.record import ExchangeRecord, open_storage, read_exchange, read_settings
from openmm_bg.units import kelvin, picoseconds

if TYPE_CHECKING:
    import os

    from openmmtools.multistate import ParallelTemperingSampler

    from openmm_bg.generator import BoltzmannGenerator

MOVES = ("flow", "latent", "multiple-try")
"""How the flow can move the replicas."""


def run_parallel_tempering(
    model: str | os.PathLike,
    storage: str | os.PathLike,
    *,
    start: str | os.PathLike | None = None,
    temperature_min: Any = 300.0,
    temperature_max: Any = 600.0,
    n_replicas: int = 4,
    n_iterations: int = 1000,
    move: str = "flow",
    n_proposals: int | None = None,
    n_candidates: int | None = None,
    n_steps: int = 100,
    timestep: Any = 0.0005,
    collision_rate: float = 1.0,
    checkpoint_interval: int = 10,
    platform: str | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> ExchangeRecord:
    """Run parallel tempering with flow moves, or go on with a run that was stopped or killed.

    If ``storage`` exists, its run is continued from its last checkpoint until it has ``n_iterations``
    iterations; the temperatures and the model must be the same as then.

    Args:
        model: The directory of a saved model.
        storage: The netCDF file to write; a checkpoint file appears beside it.
        start: A PDB file of the same molecule to start from; the model's reference if not given.
        temperature_min: The lowest temperature [K].
        temperature_max: The highest temperature [K]; those between are spaced geometrically.
        n_replicas: The number of temperatures.
        n_iterations: Iterations of exchange, move by the flow and dynamics.
        move: "flow": `FlowMove`; "latent": `LatentMonteCarloMove`, whose step size is tuned first: leave out the
            iterations in which it is (`ExchangeRecord.n_tuning`); "multiple-try": `MultipleTryMove`.
        n_proposals: Proposals of each move by the flow; with multiple tries, tries.
        n_candidates: Candidates of each try; the other moves have none.
        n_steps: Steps of Langevin dynamics in each iteration.
        timestep: Time step [ps].
        collision_rate: Collision rate [1/ps].
        checkpoint_interval: Iterations between two checkpoints.
        platform: OpenMM's platform for the dynamics ("CPU" with one thread); None times those there are
            and takes the fastest, which may differ from run to run.
        seed: Same seed, same run, if the platform is given ("Reference", "CPU"); None takes a seed from
            the operating system. It also seeds numpy's global generator, which openmmtools uses.
        progress: Show a progress bar.

    Returns:
        The whole run, earlier parts included.

    Raises:
        InputError: If an argument cannot be used, or ``storage`` holds another run.
    """
    path = Path(storage)
    if n_iterations < 1:
        raise InputError(f"n_iterations must be at least 1, not {n_iterations}.")
    settings = {
        "temperature_min": temperature_min,
        "temperature_max": temperature_max,
        "n_replicas": n_replicas,
        "move": move,
        **_proposals(move, n_proposals, n_candidates),
    }
    marker = _creation_marker(path)
    if marker.exists():  # killed before its first iteration: nothing to keep
        for leftover in (path, path.with_name(f"{path.stem}_checkpoint{path.suffix}"), marker):
            leftover.unlink(missing_ok=True)
    if path.exists():
        if _stored(path, model=model, **settings)[1] >= n_iterations:
            return read_exchange(path)
        sampler = resume_sampler(path, seed=seed)
    else:
        sampler = create_sampler(
            model,
            path,
            start=start,
            n_steps=n_steps,
            timestep=timestep,
            collision_rate=collision_rate,
            checkpoint_interval=checkpoint_interval,
            platform=platform,
            seed=seed,
            **settings,
        )
    try:
        missing = n_iterations - sampler.iteration
        if missing > 0:
            # Assigning, not extend(), once: every assignment is written to the storage.
            sampler.number_of_iterations = n_iterations
            for _ in _tracked(missing, progress):
                sampler.run(1)
    finally:
        sampler._reporter.close()
    return read_exchange(path)


def create_sampler(
    model: str | os.PathLike,
    storage: str | os.PathLike,
    *,
    start: str | os.PathLike | None = None,
    temperature_min: Any = 300.0,
    temperature_max: Any = 600.0,
    n_replicas: int = 4,
    move: str = "flow",
    n_proposals: int | None = None,
    n_candidates: int | None = None,
    n_steps: int = 100,
    timestep: Any = 0.0005,
    collision_rate: float = 1.0,
    checkpoint_interval: int = 10,
    platform: str | None = None,
    seed: int | None = None,
) -> ParallelTemperingSampler:
    """Create an openmmtools sampler for a model's system, starting from its reference configuration.

    For the arguments see `run_parallel_tempering`. Every iteration's positions go to ``storage``.

    Raises:
        InputError: If an argument cannot be used; nothing is written then.
    """
    if move not in MOVES:
        raise InputError(f"There is no move {move!r}; the moves are: {', '.join(MOVES)}.")
    temperatures = _temperatures(temperature_min, temperature_max, n_replicas)
    numbers = _proposals(move, n_proposals, n_candidates)
    for name, value in {"n_steps": n_steps, "checkpoint_interval": checkpoint_interval, **numbers}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}.")
    step = picoseconds(timestep)
    if not (math.isfinite(step) and 0 < step <= 0.004):
        raise InputError(f"The time step must be between 0 and 0.004 ps, not {step:g} ps.")
    generator, path, model_hash = _load(model)
    storage = _storage_path(storage)
    chosen = choose_platform(generator.system, platform)

    silence_openmmtools()
    from openmm import unit
    from openmmtools.mcmc import LangevinDynamicsMove, SequenceMove
    from openmmtools.multistate import MultiStateReporter, ParallelTemperingSampler
    from openmmtools.states import SamplerState, ThermodynamicState

    dynamics = LangevinDynamicsMove(
        timestep=step * unit.picosecond,
        collision_rate=collision_rate / unit.picosecond,
        n_steps=int(n_steps),
    )
    flow_move = _flow_move(move, path, numbers, step)
    sampler = ParallelTemperingSampler(
        mcmc_moves=SequenceMove([flow_move, dynamics]),
        number_of_iterations=1,
        online_analysis_interval=None,
    )
    reporter = MultiStateReporter(
        str(storage),
        checkpoint_interval=int(checkpoint_interval),
        analysis_particle_indices=tuple(range(generator.system.n_atoms)),
        velocity_interval=0,
    )
    settings = {
        "model": path,
        "model_hash": model_hash,
        "temperatures": [float(t) for t in temperatures],
        "move": move,
        "n_candidates": None,
        **numbers,
        "n_tuning": getattr(flow_move, "n_tuning", 0),
        "n_steps": int(n_steps),
        "timestep": step,
        "collision_rate": float(collision_rate),
        "platform": chosen[0],
        "platform_properties": chosen[1],
        "seed": None if seed is None else int(seed),
    }
    state = ThermodynamicState(generator.system.system, temperatures[0] * unit.kelvin)
    reference = generator.system.positions
    first = reference if start is None else start_positions(generator, start)
    relaxed = relaxed_positions(generator.system, first, *chosen)
    marker = _creation_marker(storage)
    marker.touch()
    with contextlib.redirect_stdout(io.StringIO()):  # the list of papers to cite
        sampler.create(
            state,
            SamplerState(relaxed * unit.nanometer),
            reporter,
            temperatures=list(temperatures * unit.kelvin),
            n_temperatures=len(temperatures),
            metadata={"openmm_bg": json.dumps(settings)},
        )
    prepare(sampler, settings, seed)
    marker.unlink()
    return sampler


def resume_sampler(storage: str | os.PathLike, *, seed: int | None = None) -> ParallelTemperingSampler:
    """Restore a sampler from its storage, at its last checkpoint.

    Args:
        storage: The netCDF file.
        seed: Seeds the random numbers from here on.

    Raises:
        InputError: If the storage is damaged or was not written by this module.
        ModelFileError: If the model is missing or was changed since.
    """
    path = Path(storage)
    settings, _ = _stored(path)
    _load(settings["model"], settings["model_hash"])

    silence_openmmtools()
    from openmmtools.multistate import MultiStateReporter, ParallelTemperingSampler

    reporter = MultiStateReporter(str(path), velocity_interval=0)
    if not reporter.storage_exists():
        raise InputError(f"The checkpoint file of {path} is missing; put it back beside it.")
    with contextlib.redirect_stdout(io.StringIO()):
        sampler = ParallelTemperingSampler.from_storage(reporter)
    prepare(sampler, settings, seed)
    return sampler


def _stored(
    path: Path,
    *,
    model: Any = None,
    temperature_min: Any = None,
    temperature_max: Any = None,
    n_replicas: int | None = None,
    move: str | None = None,
    n_proposals: int | None = None,
    n_candidates: int | None = None,
) -> tuple[dict[str, Any], int]:
    """Return the settings of a stored run and its last iteration; refuse a run with other settings."""
    with open_storage(path) as dataset:
        settings = read_settings(dataset, path)
        last_iteration = int(dataset["last_iteration"][0])
    temperatures = settings["temperatures"]
    pairs = {
        "model": (None if model is None else _resolve(model), settings["model"]),
        "model_hash": (None if model is None else _current_hash(model), settings["model_hash"]),
        "temperature_min": (None if temperature_min is None else kelvin(temperature_min), temperatures[0]),
        "temperature_max": (None if temperature_max is None else kelvin(temperature_max), temperatures[-1]),
        "n_replicas": (n_replicas, len(temperatures)),
        "move": (move, settings.get("move", "flow")),
        "n_proposals": (n_proposals, settings["n_proposals"]),
        "n_candidates": (n_candidates, settings.get("n_candidates")),
    }
    for name, (wanted, stored) in pairs.items():
        if wanted is not None and wanted != stored:
            raise InputError(
                f"{path} holds a run with {name}={stored}, not {wanted}; continue it with its own settings "
                "or give another file name."
            )
    return settings, last_iteration


def _proposals(move: str, n_proposals: int | None, n_candidates: int | None) -> dict[str, int]:
    """Return how many proposals, and candidates of each, a move makes: the defaults where None is given."""
    if move != "multiple-try":
        if n_candidates is not None:
            raise InputError(f"Candidates go with the move 'multiple-try', not with {move!r}.")
        return {"n_proposals": 16 if n_proposals is None else int(n_proposals)}
    return {
        "n_proposals": 1 if n_proposals is None else int(n_proposals),
        "n_candidates": 64 if n_candidates is None else int(n_candidates),
    }


def _flow_move(move: str, path: str, numbers: dict[str, int], timestep: float) -> Any:
    from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, MultipleTryMove

    kind = {"flow": FlowMove, "latent": LatentMonteCarloMove, "multiple-try": MultipleTryMove}[move]
    return kind(path, **numbers, reassign_velocities=True, timestep=timestep)


def _temperatures(lowest: Any, highest: Any, count: int) -> np.ndarray:
    lowest, highest = kelvin(lowest), kelvin(highest)
    if count < 2:
        raise InputError(f"Replica exchange needs at least 2 replicas, not {count}.")
    if lowest >= highest:
        raise InputError(f"The lowest temperature ({lowest:g} K) must be below the highest ({highest:g} K).")
    temperatures = np.geomspace(lowest, highest, count)
    temperatures[[0, -1]] = lowest, highest
    return temperatures


def _creation_marker(path: Path) -> Path:
    """Return the file that exists while a run is being created."""
    return path.with_name(f".{path.name}.creating")


def _current_hash(model: Any) -> str:
    from openmm_bg.mcmc import registry

    return registry.current_hash(_resolve(model))


def _resolve(model: Any) -> str:
    from openmm_bg.mcmc import registry

    return registry.resolve(model)


def _load(model: Any, model_hash: str | None = None) -> tuple[BoltzmannGenerator, str, str]:
    silence_openmmtools()  # before openmm_bg.mcmc imports openmmtools
    from openmm_bg.mcmc import registry

    path = registry.resolve(model)
    model_hash = model_hash or registry.current_hash(path)
    generator = registry.load(path, model_hash)
    if generator.system is None:
        raise InputError(
            f"The model {path} was saved without its molecular system; save it with one: "
            "BoltzmannGenerator(flow, potential, system=system)."
        )
    return generator, path, model_hash


def _storage_path(storage: Any) -> Path:
    path = Path(storage)
    if path.exists():
        raise InputError(f"{path} exists already; resume it or give another file name.")
    if not path.parent.is_dir():
        raise InputError(f"There is no directory {path.parent} to write {path.name} to.")
    return path


def _tracked(count: int, progress: bool) -> Iterator[int]:
    if not progress:
        return iter(range(count))
    from rich.progress import track

    return iter(track(range(count), description="parallel tempering"))
