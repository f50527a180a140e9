"""Parallel tempering in openmmtools, with moves by a flow, or with exchanges through its map."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_bg.errors import InputError
from openmm_bg.exchange.choices import Choices, check_dynamics, check_step, make_choices
from openmm_bg.exchange.preparation import (
    choose_platform,
    draw_velocities,
    prepare,
    relaxed_positions,
    silence_openmmtools,
    start_positions,
)
from openmm_bg.exchange.record import ExchangeRecord, is_damage, read_exchange
from openmm_bg.exchange.storage import (
    creation_marker,
    load_model,
    new_storage,
    remove_unfinished,
    stored_run,
)
from openmm_bg.simulation.checks import positive, with_hydrogen_mass

if TYPE_CHECKING:
    import os

    import openmm
    from openmmtools.mcmc import LangevinDynamicsMove
    from openmmtools.multistate import ParallelTemperingSampler

    from openmm_bg.systems import MolecularSystem


def run_parallel_tempering(
    model: str | os.PathLike,
    storage: str | os.PathLike,
    *,
    start: str | os.PathLike | None = None,
    temperature_min: Any = 300.0,
    temperature_max: Any = 600.0,
    n_replicas: int | None = None,
    n_iterations: int = 1000,
    sampler: str = "parallel-tempering",
    move: str | None = None,
    n_proposals: int | None = None,
    n_candidates: int | None = None,
    n_steps: int = 100,
    timestep: Any = 0.0005,
    collision_rate: float = 1.0,
    hydrogen_mass: float | None = None,
    dynamics: str = "openmm",
    checkpoint_interval: int = 10,
    platform: str | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> ExchangeRecord:
    """Run parallel tempering with flow moves, or go on with a run that was stopped or killed.

    If ``storage`` exists, its run is continued from its last checkpoint until it has ``n_iterations``
    iterations; the model, the temperatures, the moves and the dynamics must be the same as then.

    Args:
        model: The directory of a saved model.
        storage: The netCDF file to write; a checkpoint file appears beside it.
        start: A PDB file of the same molecule to start from; the model's reference if not given.
        temperature_min: The lowest temperature [K].
        temperature_max: The highest temperature [K]; those between are spaced geometrically.
        n_replicas: The number of temperatures: 4, or 2 with the learned sampler, if not given.
        n_iterations: Iterations of exchange, move by the flow and dynamics.
        sampler: "parallel-tempering": neighbours exchange their configurations; "learned": they map them by the
            flow first (`LearnedReplicaExchangeSampler`), so that two temperatures suffice.
        move: "flow": `FlowMove`; "latent": `LatentMonteCarloMove`, whose step size is tuned first: leave out the
            iterations in which it is (`ExchangeRecord.n_tuning`); "multiple-try": `MultipleTryMove`; "none":
            dynamics alone, with the learned sampler. If not given, "none" with it and "flow" otherwise.
        n_proposals: Proposals of each move by the flow: 16 if not given; with multiple tries, tries: 1.
        n_candidates: Candidates of each try: 64 if not given; the other moves have none.
        n_steps: Steps of Langevin dynamics in each iteration.
        timestep: Time step [ps].
        collision_rate: Collision rate [1/ps].
        hydrogen_mass: Hydrogens get this mass [Da], e.g. 4 for steps of 0.002 ps, which does not change the
            distribution of the positions. The system's own masses if not given.
        dynamics: "openmm": openmmtools' `LangevinDynamicsMove`; "fused": `FusedLangevinMove`, several times faster
            for a small molecule on a CPU whose solvent is a CustomGBForce.
        checkpoint_interval: Iterations between two checkpoints.
        platform: OpenMM's platform for dynamics and stored energies ("CPU" with one thread); None times those
            there are and takes the fastest, which may differ from run to run.
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
    chosen = {
        "temperature_min": temperature_min,
        "temperature_max": temperature_max,
        "n_replicas": n_replicas,
        "sampler": sampler,
        "move": move,
        "n_proposals": n_proposals,
        "n_candidates": n_candidates,
    }
    choices = make_choices(**chosen)
    dynamics = check_dynamics(dynamics)
    _refuse_several_processes()
    remove_unfinished(path)
    if path.exists():
        stepping = {
            "n_steps": int(n_steps),
            "timestep": check_step(timestep),
            "collision_rate": float(collision_rate),
            "hydrogen_mass": _mass(hydrogen_mass),
            "dynamics": dynamics,
        }
        if stored_run(path, model, choices, **stepping)[1] >= n_iterations:
            return read_exchange(path)
        running = resume_sampler(path, seed=seed)
    else:
        running = create_sampler(
            model,
            path,
            start=start,
            n_steps=n_steps,
            timestep=timestep,
            collision_rate=collision_rate,
            hydrogen_mass=hydrogen_mass,
            dynamics=dynamics,
            checkpoint_interval=checkpoint_interval,
            platform=platform,
            seed=seed,
            **chosen,
        )
    try:
        missing = n_iterations - running.iteration
        if missing > 0:
            # Assigning, not extend(), once: every assignment is written to the storage.
            running.number_of_iterations = n_iterations
            for _ in _tracked(missing, progress):
                running.run(1)
    finally:
        running._reporter.close()
    return read_exchange(path)


def create_sampler(
    model: str | os.PathLike,
    storage: str | os.PathLike,
    *,
    start: str | os.PathLike | None = None,
    temperature_min: Any = 300.0,
    temperature_max: Any = 600.0,
    n_replicas: int | None = None,
    sampler: str = "parallel-tempering",
    move: str | None = None,
    n_proposals: int | None = None,
    n_candidates: int | None = None,
    n_steps: int = 100,
    timestep: Any = 0.0005,
    collision_rate: float = 1.0,
    hydrogen_mass: float | None = None,
    dynamics: str = "openmm",
    checkpoint_interval: int = 10,
    platform: str | None = None,
    seed: int | None = None,
) -> ParallelTemperingSampler:
    """Create an openmmtools sampler for a model's system, starting from its reference configuration.

    For the arguments see `run_parallel_tempering`. Every iteration's positions go to ``storage``.

    Raises:
        InputError: If an argument cannot be used; nothing is written then.
    """
    _refuse_several_processes()
    choices = make_choices(
        temperature_min=temperature_min,
        temperature_max=temperature_max,
        n_replicas=n_replicas,
        sampler=sampler,
        move=move,
        n_proposals=n_proposals,
        n_candidates=n_candidates,
    )
    for name, value in {"n_steps": n_steps, "checkpoint_interval": checkpoint_interval}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}.")
    step, mass, dynamics = check_step(timestep), _mass(hydrogen_mass), check_dynamics(dynamics)
    generator, path, model_hash = load_model(model)
    storage = new_storage(storage)
    chosen = choose_platform(generator.system, platform)

    silence_openmmtools()
    from openmm import unit
    from openmmtools.mcmc import SequenceMove
    from openmmtools.multistate import MultiStateReporter
    from openmmtools.states import SamplerState, ThermodynamicState

    langevin = _langevin_move(dynamics)(
        timestep=step * unit.picosecond,
        collision_rate=collision_rate / unit.picosecond,
        n_steps=int(n_steps),
    )
    flow_move = _flow_move(choices, path, step)
    options = {
        "mcmc_moves": langevin if flow_move is None else SequenceMove([flow_move, langevin]),
        "number_of_iterations": 1,
        "online_analysis_interval": None,
    }
    if choices.sampler == "learned":
        options |= {"model": path, "model_hash": model_hash, "timestep": step}
        options["replica_mixing_scheme"] = "swap-neighbors"
    created = _sampler_class(choices.sampler)(**options)
    reporter = MultiStateReporter(
        str(storage),
        checkpoint_interval=int(checkpoint_interval),
        analysis_particle_indices=tuple(range(generator.system.n_atoms)),
        velocity_interval=0,
    )
    settings = {
        "model": path,
        "model_hash": model_hash,
        **choices.settings(),
        "n_tuning": getattr(flow_move, "n_tuning", 0),
        "n_steps": int(n_steps),
        "timestep": step,
        "collision_rate": float(collision_rate),
        "hydrogen_mass": mass,
        "dynamics": dynamics,
        "platform": chosen[0],
        "platform_properties": chosen[1],
        "seed": None if seed is None else int(seed),
    }
    heavy = _with_hydrogen_mass(generator.system, mass)
    state = ThermodynamicState(heavy, choices.temperatures[0] * unit.kelvin)
    reference = generator.system.positions
    first = reference if start is None else start_positions(generator, start)
    relaxed = relaxed_positions(generator.system, first, *chosen)
    marker = creation_marker(storage)
    marker.touch()
    with contextlib.redirect_stdout(io.StringIO()):  # the list of papers to cite
        created.create(
            state,
            SamplerState(relaxed * unit.nanometer),
            reporter,
            temperatures=[t * unit.kelvin for t in choices.temperatures],
            n_temperatures=len(choices.temperatures),
            metadata={"openmm_bg": json.dumps(settings)},
        )
    prepare(created, settings, seed)
    if flow_move is None:
        draw_velocities(created)
    marker.unlink()
    return created


def resume_sampler(storage: str | os.PathLike, *, seed: int | None = None) -> ParallelTemperingSampler:
    """Restore a sampler from its storage, at its last checkpoint.

    Args:
        storage: The netCDF file.
        seed: Seeds the random numbers from here on.

    Raises:
        InputError: If the storage is damaged or was not written by this module.
        ModelFileError: If the model is missing or was changed since.
    """
    _refuse_several_processes()
    path = Path(storage)
    settings, _ = stored_run(path)
    load_model(settings["model"], settings["model_hash"])

    silence_openmmtools()
    from openmmtools.multistate import MultiStateReporter

    reporter = MultiStateReporter(str(path), velocity_interval=0)
    if not reporter.storage_exists():
        raise InputError(f"The checkpoint file of {path} is missing; put it back beside it.")
    kind = _sampler_class(settings.get("sampler", "parallel-tempering"))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            sampler = kind.from_storage(reporter)
    except (
        OSError,
        RuntimeError,
    ) as error:  # from netCDF4; openmmtools' OSError if a checkpoint is of another run
        if isinstance(error, RuntimeError) and not is_damage(error):
            raise
        raise InputError(
            f"{path} or its checkpoint file is damaged or of another run ({error}); put the right ones back, or "
            "delete both and start again."
        ) from error
    prepare(sampler, settings, seed)
    if sampler.iteration == 0 and settings.get("move") == "none":
        draw_velocities(sampler)
    return sampler


def _mass(hydrogen_mass: float | None) -> float | None:
    return None if hydrogen_mass is None else positive("hydrogen mass", hydrogen_mass)


def _with_hydrogen_mass(system: MolecularSystem, hydrogen_mass: float | None) -> openmm.System:
    """Return the OpenMM system, a copy with other masses if these are wanted."""
    if hydrogen_mass is None:
        return system.system
    changed = copy.deepcopy(system.system)
    for index, mass in enumerate(with_hydrogen_mass(system.masses, hydrogen_mass)):
        changed.setParticleMass(index, float(mass))
    return changed


def _flow_move(choices: Choices, path: str, timestep: float) -> Any:
    """Return the move by the flow; None if there is none."""
    from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, MultipleTryMove

    if choices.move == "none":
        return None
    kind = {"flow": FlowMove, "latent": LatentMonteCarloMove, "multiple-try": MultipleTryMove}[choices.move]
    numbers = {"n_proposals": choices.n_proposals}
    if choices.n_candidates is not None:
        numbers["n_candidates"] = choices.n_candidates
    return kind(path, **numbers, reassign_velocities=True, timestep=timestep)


def _langevin_move(dynamics: str) -> type[LangevinDynamicsMove]:
    if dynamics == "fused":
        from openmm_bg.mcmc import FusedLangevinMove

        return FusedLangevinMove
    from openmmtools.mcmc import LangevinDynamicsMove

    return LangevinDynamicsMove


def _sampler_class(name: str) -> type[ParallelTemperingSampler]:
    if name == "learned":
        from openmm_bg.exchange.learned import LearnedReplicaExchangeSampler

        return LearnedReplicaExchangeSampler
    from openmmtools.multistate import ParallelTemperingSampler

    return ParallelTemperingSampler


def _refuse_several_processes() -> None:
    silence_openmmtools()  # before openmm_bg.mcmc imports openmmtools
    from openmm_bg.mcmc.mpi import refuse_several_processes

    refuse_several_processes()


def _tracked(count: int, progress: bool) -> Iterator[int]:
    if not progress:
        return iter(range(count))
    from rich.progress import track

    return iter(track(range(count), description="replica exchange"))
