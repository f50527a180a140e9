"""Replica exchange in openmmtools: parallel tempering as it is, with moves by a flow, and through a flow's map."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.exchange.record import VELOCITIES
from openmm_bg.sampling_benchmark.basins import INDICATORS
from openmm_bg.sampling_benchmark.job import Job
from openmm_bg.sampling_benchmark.settings import TEMPERATURE
from openmm_bg.sampling_benchmark.trace import Stopwatch, Trace

_EXTRA = (
    2  # energies of a replica in an iteration besides its moves': after the dynamics, and for the exchange
)
_MAPPED = 2  # energies of a replica in a learned exchange: before and after the map


def parallel_tempering(job: Job) -> Trace:
    """Run parallel tempering as openmmtools has it, without a flow."""
    settings = job.settings

    def sampler(n_iterations: int) -> Any:
        from openmmtools.multistate import ParallelTemperingSampler

        # A replica keeps its velocities in an exchange, although they are of another temperature.
        move = _dynamics(job, settings.tempering_steps, reassign_velocities=True)
        return ParallelTemperingSampler(**_options(move, n_iterations))

    return _run(job, sampler, settings.ladder, settings.tempering_iterations, settings.tempering_steps)


def flow_exchange(job: Job) -> Trace:
    """Run replica exchange in which the independence move comes before the dynamics."""
    settings = job.settings

    def sampler(n_iterations: int) -> Any:
        from openmm_bg.mcmc import FlowMove

        move = FlowMove(job.model, settings.n_proposals, reassign_velocities=True, timestep=settings.timestep)
        return _with_flow(job, move, n_iterations)

    n_evaluations = (
        settings.flow_steps + settings.n_proposals + 2 + VELOCITIES
    )  # the current one, before and after
    return _run(job, sampler, settings.flow_ladder, settings.flow_iterations, n_evaluations)


def multiple_try_exchange(job: Job) -> Trace:
    """Run replica exchange in which the multiple-try move comes before the dynamics."""
    settings = job.settings

    def sampler(n_iterations: int) -> Any:
        from openmm_bg.mcmc import MultipleTryMove

        move = MultipleTryMove(
            job.model, settings.n_candidates, reassign_velocities=True, timestep=settings.timestep
        )
        return _with_flow(job, move, n_iterations)

    n_evaluations = settings.flow_steps + settings.n_candidates + 2 + VELOCITIES
    n_iterations = settings.multiple_try_iterations
    return _run(job, sampler, settings.flow_ladder, n_iterations, n_evaluations, recycle=True)


def learned_exchange(job: Job) -> Trace:
    """Run replica exchange of two temperatures through the flow's map."""
    settings = job.settings

    def sampler(n_iterations: int) -> Any:
        from openmm_bg.exchange import LearnedReplicaExchangeSampler

        move = _dynamics(job, settings.tempering_steps)
        return LearnedReplicaExchangeSampler(
            job.model, timestep=settings.timestep, **_options(move, n_iterations)
        )

    n_evaluations = settings.tempering_steps + _MAPPED + VELOCITIES  # these if it is accepted
    return _run(job, sampler, settings.learned_ladder, settings.learned_iterations, n_evaluations)


def recorded_functions(job: Job) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what is averaged over candidates, by the indicators' names: functions of positions [nm]."""

    def function(indicator: Any) -> Callable[[np.ndarray], np.ndarray]:
        return lambda positions: indicator.inside.contains(*job.angles(positions))

    return {indicator.name: function(indicator) for indicator in INDICATORS}


def _run(
    job: Job,
    make_sampler: Callable[[int], Any],
    temperatures: Sequence[float],
    n_iterations: int,
    n_evaluations: int,
    *,
    recycle: bool = False,
) -> Trace:
    """Run a sampler.

    Args:
        job: The job.
        make_sampler: Makes the sampler for a number of iterations.
        temperatures: Temperatures [K], rising.
        n_iterations: Iterations after the burn-in.
        n_evaluations: Energy evaluations of a replica's moves in an iteration.
        recycle: Average over the candidates of multiple tries.
    """
    from openmm_bg.exchange import read_exchange, silence_openmmtools

    silence_openmmtools()
    import openmmtools.multistate  # noqa: F401 (importing it takes seconds, which are no cost of the method)

    platform, n_burn_in, stopwatch = job.platform, job.settings.n_burn_in(n_iterations), Stopwatch()
    n_evaluations = len(temperatures) * (n_evaluations + _EXTRA)
    with _empty_folder(job.output / ".exchange.partial") as folder:
        storage = folder / "exchange.nc"
        sampler = make_sampler(n_burn_in + n_iterations)
        _create(job, sampler, storage, temperatures)
        if n_burn_in:
            sampler.run(n_burn_in)
        burn_in = stopwatch.lap(n_burn_in * n_evaluations)
        with _recorder(job, recycle) as recorder:
            for size in job.track(n_iterations, "replica exchange in openmmtools"):
                sampler.run(size)
        production = stopwatch.lap(n_iterations * n_evaluations)
        sampler._reporter.close()
        record = read_exchange(storage)
    phi, psi = job.angles(record.positions[n_burn_in:, :, None])
    figures = {
        "platform": platform.name,
        "properties": platform.properties,
        "temperatures": record.temperatures,
        "exchange_acceptance": record.exchange_acceptance,
        "acceptance": record.flow_acceptance,
    }
    replicas = record.replicas[n_burn_in:, :, None].astype(np.int16)
    recycled = {}
    if recorder is not None:
        recycled = {indicator.name: recorder.series(indicator.name, TEMPERATURE) for indicator in INDICATORS}
    return Trace(phi, psi, burn_in, production, replicas=replicas, recycled=recycled, figures=figures)


@contextlib.contextmanager
def _empty_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder, which is removed afterwards, and so is what a killed process has left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _recorder(job: Job, recycle: bool) -> Any:
    if not recycle:
        return contextlib.nullcontext()
    from openmm_bg.mcmc import WasteRecycling

    return WasteRecycling(recorded_functions(job))


def _options(move: Any, n_iterations: int) -> dict[str, Any]:
    return {
        "mcmc_moves": move,
        "number_of_iterations": n_iterations,
        "online_analysis_interval": None,
    }


def _dynamics(job: Job, n_steps: int, *, reassign_velocities: bool = False) -> Any:
    from openmm import unit
    from openmmtools.mcmc import LangevinDynamicsMove

    return LangevinDynamicsMove(
        timestep=job.settings.timestep * unit.picosecond,
        collision_rate=job.settings.friction / unit.picosecond,
        n_steps=n_steps,
        reassign_velocities=reassign_velocities,
    )


def _with_flow(job: Job, move: Any, n_iterations: int) -> Any:
    from openmmtools.mcmc import SequenceMove
    from openmmtools.multistate import ParallelTemperingSampler

    moves = SequenceMove([move, _dynamics(job, job.settings.flow_steps)])
    return ParallelTemperingSampler(**_options(moves, n_iterations))


def _create(job: Job, sampler: Any, storage: Path, temperatures: Sequence[float]) -> None:
    """Create a sampler's storage, with what `read_exchange` wants to find there, and seed it."""
    from openmm import unit
    from openmmtools.multistate import MultiStateReporter
    from openmmtools.states import SamplerState, ThermodynamicState

    from openmm_bg.exchange.preparation import prepare

    settings = {
        "temperatures": list(temperatures),
        "n_proposals": 1,
        "timestep": job.settings.timestep,
        "collision_rate": job.settings.friction,
        "platform": job.platform.name,
        "platform_properties": job.platform.properties,
    }
    reporter = MultiStateReporter(
        str(storage),
        checkpoint_interval=sampler.number_of_iterations,  # it is not continued
        analysis_particle_indices=tuple(range(job.system.n_atoms)),
        velocity_interval=0,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # the list of papers to cite
        sampler.create(
            ThermodynamicState(job.openmm_system(), temperatures[0] * unit.kelvin),
            SamplerState(job.system.positions * unit.nanometer),
            reporter,
            temperatures=list(temperatures) * unit.kelvin,
            n_temperatures=len(temperatures),
            metadata={"openmm_bg": json.dumps(settings)},
        )
    prepare(sampler, settings, job.settings.seed)
