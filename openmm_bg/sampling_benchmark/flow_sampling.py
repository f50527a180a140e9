"""Methods of the flow alone, at 300 K: chains of its moves, and independent samples with weights."""

from __future__ import annotations

import numpy as np
import torch

from openmm_bg import statistics
from openmm_bg.sampling_benchmark.basins import INDICATORS
from openmm_bg.sampling_benchmark.job import Job
from openmm_bg.sampling_benchmark.replica_exchange import recorded_functions
from openmm_bg.sampling_benchmark.settings import TEMPERATURE
from openmm_bg.sampling_benchmark.trace import Stopwatch, Trace
from openmm_bg.units import thermal_energy

_PORTION = 16_384  # samples between two signs of life


def flow_chain(job: Job) -> Trace:
    """Run a Markov chain of the independence move and nothing else."""
    from openmm_bg.exchange import silence_openmmtools

    silence_openmmtools()
    from openmm_bg.mcmc import FlowMove

    stopwatch = Stopwatch()
    move = FlowMove(job.model, job.settings.n_proposals)
    return _chain(job, move, job.settings.flow_chain_calls, job.settings.n_proposals, stopwatch)


def multiple_try_chain(job: Job) -> Trace:
    """Run a Markov chain of the multiple-try move and nothing else."""
    from openmm_bg.exchange import silence_openmmtools

    silence_openmmtools()
    from openmm_bg.mcmc import MultipleTryMove

    settings, stopwatch = job.settings, Stopwatch()
    move = MultipleTryMove(job.model, settings.n_candidates, settings.n_tries)
    n_drawn = settings.n_candidates * settings.n_tries
    return _chain(job, move, settings.multiple_try_chain_calls, n_drawn, stopwatch)


def independent_samples(job: Job) -> Trace:
    """Draw independent samples with weights."""
    from openmm_bg.generator import BoltzmannGenerator

    settings, stopwatch = job.settings, Stopwatch()
    generator = BoltzmannGenerator.load(job.model)
    n_first = 128  # the first batch compiles and allocates
    generator.sample(n_first, TEMPERATURE, seed=settings.seed)
    burn_in = stopwatch.lap(n_first)
    phi, psi, log_weights = [], [], []
    for seed, first in enumerate(range(0, settings.n_samples, _PORTION), start=settings.seed + 1):
        size = min(_PORTION, settings.n_samples - first)
        samples = generator.sample(size, TEMPERATURE, seed=seed, progress=job.progress)
        angles = job.angles(samples.positions)
        phi.append(angles[0])
        psi.append(angles[1])
        log_weights.append(samples.log_weights)
    production = stopwatch.lap(settings.n_samples)
    figures = {
        "ess": statistics.effective_sample_size(np.concatenate(log_weights)),
        "energies_from": samples.record["energies_from"],
    }
    return Trace(
        np.concatenate(phi)[:, None, None],
        np.concatenate(psi)[:, None, None],
        burn_in,
        production,
        log_weights=np.concatenate(log_weights),
        figures=figures,
    )


def _chain(job: Job, move: object, n_calls: int, n_drawn: int, stopwatch: Stopwatch) -> Trace:
    """Run a chain of one move outside openmmtools, with energies from the batched potential."""
    from openmm_bg import mcmc
    from openmm_bg.mcmc.target import Target
    from openmm_bg.potentials import TorchPotential

    mcmc.seed(job.settings.seed)
    potential = TorchPotential.from_system(job.system, dtype=torch.float64)
    kt = thermal_energy(TEMPERATURE)
    target = Target(move.generator.flow, TEMPERATURE, lambda x: _reduced(potential.energy(x), kt))
    current = torch.tensor(np.asarray(job.system.positions), dtype=torch.float64)
    n_burn_in = max(1, job.settings.n_burn_in(n_calls))
    for _ in range(n_burn_in):
        current = move.steps(target, current)
    burn_in = stopwatch.lap(n_burn_in * (n_drawn + 1))
    before = {**move.statistics}
    frames = []
    with mcmc.WasteRecycling(recorded_functions(job)) as recorder:
        for size in job.track(n_calls, "chain of flow moves"):
            for _ in range(size):
                current = move.steps(target, current)
                frames.append(current.numpy())
    production = stopwatch.lap(n_calls * (n_drawn + 1))
    phi, psi = job.angles(np.stack(frames)[:, None, None])
    recycled = {}
    if hasattr(move, "n_candidates"):
        recycled = {indicator.name: recorder.series(indicator.name, TEMPERATURE) for indicator in INDICATORS}
    made = {name: value - before[name] for name, value in move.statistics.items()}
    figures = {"acceptance": made["n_accepted"] / made["n_proposed"], "energies_from": potential.description}
    return Trace(phi, psi, burn_in, production, recycled=recycled, figures=figures)


def _reduced(energy: torch.Tensor, kt: float) -> np.ndarray:
    """Return energies [kJ/mol] in kT, +inf where they are not finite."""
    reduced = energy.detach().double().cpu().numpy() / kt
    return np.where(np.isfinite(reduced), reduced, np.inf)
