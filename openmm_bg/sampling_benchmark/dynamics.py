"""Methods without a flow and without openmmtools: OpenMM's dynamics, and batched parallel tempering."""

from __future__ import annotations

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.sampling_benchmark.job import Job
from openmm_bg.sampling_benchmark.settings import TEMPERATURE
from openmm_bg.sampling_benchmark.trace import Stopwatch, Trace
from openmm_bg.units import kelvin


def molecular_dynamics(job: Job) -> Trace:
    """Run Langevin dynamics at 300 K with OpenMM.

    Raises:
        InputError: If the energy becomes non-finite.
    """
    import openmm

    name, properties = job.platform
    settings, stopwatch = job.settings, Stopwatch()
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, settings.friction, settings.timestep)
    integrator.setRandomNumberSeed(settings.seed + 1)  # 0 would mean "any"
    platform = openmm.Platform.getPlatformByName(name)
    context = openmm.Context(job.openmm_system(), integrator, platform, properties)
    context.setPositions(job.system.positions)
    context.setVelocitiesToTemperature(TEMPERATURE, settings.seed + 1)
    n_burn_in = settings.n_burn_in(settings.md_frames) * settings.md_interval
    frames = []
    try:
        integrator.step(n_burn_in)
        burn_in = stopwatch.lap(n_burn_in)
        for size in job.track(settings.md_frames, "molecular dynamics"):
            for _ in range(size):
                integrator.step(settings.md_interval)
                frames.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    except openmm.OpenMMException as error:
        raise InputError(f"The dynamics failed ({error}); use a shorter time step.") from error
    production = stopwatch.lap(settings.md_frames * settings.md_interval)
    phi, psi = job.angles(np.stack(frames)[:, None, None])
    return Trace(phi, psi, burn_in, production, figures={"platform": name, "properties": properties})


def batched_tempering(job: Job) -> Trace:
    """Run many ladders of parallel tempering at once on the batched potential."""
    from openmm_bg.potentials import TorchPotential
    from openmm_bg.simulation import LangevinDynamics, ParallelTempering

    settings, stopwatch = job.settings, Stopwatch()
    n_ladders, n_states = settings.n_ladders, len(settings.ladder)
    temperatures = np.repeat([kelvin(t) for t in settings.ladder], n_ladders)
    potential = TorchPotential.from_system(job.system, dtype=torch.float32)
    dynamics = LangevinDynamics(
        potential,
        np.repeat(job.system.positions[None], len(temperatures), axis=0),
        job.masses,
        temperatures,
        timestep=settings.timestep,
        friction=settings.friction,
        generator=torch.Generator().manual_seed(settings.seed),
        dtype=torch.float32,
    )
    ladders = ParallelTempering(dynamics, n_ladders=n_ladders)
    for _ in range(settings.n_burn_in(settings.batched_iterations)):
        ladders.step(settings.batched_steps)
    spent = potential.n_evaluations
    burn_in = stopwatch.lap(spent)
    angles, replicas = [], []
    for size in job.track(settings.batched_iterations, "batched parallel tempering"):
        for _ in range(size):
            ladders.step(settings.batched_steps)
            angles.append(job.angles(ladders.positions.numpy()))
            replicas.append(ladders.replicas.astype(np.int16))
    production = stopwatch.lap(potential.n_evaluations - spent)
    phi, psi = (np.stack(column).reshape(-1, n_states, n_ladders) for column in zip(*angles, strict=True))
    figures = {
        "energies_from": potential.description,
        "exchange_acceptance": ladders.n_accepted / np.maximum(ladders.n_proposed, 1),
        "n_restarts": ladders.n_restarts,
    }
    return Trace(phi, psi, burn_in, production, replicas=np.stack(replicas), figures=figures)
