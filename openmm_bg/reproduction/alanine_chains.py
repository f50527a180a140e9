"""Chains at 300 K for seed 001, figure 3 C and G: with moves by the flow in openmmtools, and without a flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_bg.analysis import Ramachandran, torsion_angles
from openmm_bg.comparison import Ensemble
from openmm_bg.exchange import run_parallel_tempering
from openmm_bg.files import atomic_write_bytes
from openmm_bg.potentials import TorchPotential
from openmm_bg.reproduction.alanine_dipeptide import COLD, HOT
from openmm_bg.reproduction.arrays import arrays_bytes
from openmm_bg.simulation import LangevinDynamics, ParallelTempering
from openmm_bg.statistics import round_trips
from openmm_bg.systems import load

_INTERVAL = 50  # steps of the dynamics without a flow between exchanges
_LADDERS = 4


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain at 300 K, what equilibrates it left out.

    Attributes:
        name: What made it.
        phi: Angles [rad] with shape=(n,), walkers interleaved.
        psi: Angles [rad] with shape=(n,).
        energy: Potential energies [kJ/mol] with shape=(n,).
        n_walkers: Independent chains.
        figures: Acceptance, exchanges, round trips and energy evaluations.
    """

    name: str
    phi: np.ndarray
    psi: np.ndarray
    energy: np.ndarray
    n_walkers: int
    figures: dict[str, Any]

    def ensemble(self) -> Ensemble:
        """Return what is compared with the reference."""
        torsions = Ramachandran(self.name, self.phi, self.psi, n_walkers=self.n_walkers)
        return Ensemble(torsions, self.energy, COLD)


def exchange_chain(
    name: str,
    model: Path,
    storage: Path,
    *,
    move: str,
    n_replicas: int,
    n_iterations: int,
    n_proposals: int,
    n_steps: int,
    seed: int,
    progress: bool = False,
) -> Chain:
    """Run, or go on with, parallel tempering in openmmtools from 300 to 600 K; see `run_parallel_tempering`."""
    run = run_parallel_tempering(
        model,
        storage,
        temperature_min=COLD,
        temperature_max=HOT,
        n_replicas=n_replicas,
        n_iterations=n_iterations,
        move=move,
        n_proposals=n_proposals,
        n_steps=n_steps,
        platform="CPU",
        seed=seed,
        progress=progress,
    )
    first = run.n_tuning + max(10, n_iterations // 50)
    system = load("alanine_dipeptide")
    angles = torsion_angles(run.positions[first:, 0].astype(np.float64), system.torsions)
    figures = {
        "temperatures": run.temperatures.tolist(),
        "iterations": run.n_iterations,
        "left_out": first,
        "acceptance": run.flow_acceptance.tolist(),
        "step_sizes": run.step_sizes.tolist(),
        "exchange_acceptance": run.exchange_acceptance.tolist(),
        "round_trips": run.round_trips,
        "energy_evaluations": run.energy_evaluations,
    }
    return Chain(name, angles["phi"], angles["psi"], run.potential_energy[first:, 0], 1, figures)


def plain_chain(
    path: Path, n_evaluations: int, n_replicas: int, seed: int, *, progress: bool = False
) -> Chain:
    """Run batched parallel tempering without a flow, with a given number of energy evaluations in all.

    Four independent ladders share the evaluations; the first tenth of each equilibrates.

    Args:
        path: Where the chain is kept; read if it is there.
        n_evaluations: Energy evaluations of all ladders and temperatures.
        n_replicas: Temperatures of a ladder, from 300 to 600 K.
        seed: Seed.
        progress: Show a progress bar.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, arrays_bytes(_plain(n_evaluations, n_replicas, seed, progress)))
    with np.load(path) as arrays:
        phi, psi, energy = arrays["phi"], arrays["psi"], arrays["energy"]
        figures = {
            "iterations": int(arrays["n_iterations"]),
            "ladders": _LADDERS,
            "exchange_acceptance": arrays["exchange_acceptance"].tolist(),
            "round_trips": int(arrays["round_trips"]),
            "energy_evaluations": int(arrays["n_evaluations"]),
        }
    return Chain("parallel tempering without a flow", phi, psi, energy, _LADDERS, figures)


def _plain(n_evaluations: int, n_replicas: int, seed: int, progress: bool) -> dict[str, Any]:
    from rich.progress import track

    system = load("alanine_dipeptide")
    potential = TorchPotential.from_system(system, dtype=torch.float32)
    rungs = np.repeat(np.geomspace(COLD, HOT, n_replicas), _LADDERS)
    start = np.repeat(system.positions[None], len(rungs), axis=0)
    masses = np.where(system.masses < 1.5, 4.0, system.masses)  # heavier hydrogens allow 2 fs
    dynamics = LangevinDynamics(
        potential,
        start,
        masses,
        rungs,
        timestep=0.002,
        friction=2.0,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float32,
    )
    ladders = ParallelTempering(dynamics, n_ladders=_LADDERS)
    n_iterations = n_evaluations // (len(rungs) * _INTERVAL)
    kept: dict[str, list[np.ndarray]] = {"positions": [], "energy": [], "replicas": []}
    for _ in track(range(n_iterations), "parallel tempering", disable=not progress, transient=True):
        ladders.step(_INTERVAL)
        kept["positions"].append(ladders.positions[:_LADDERS].numpy().copy())
        kept["energy"].append(ladders.energy[:_LADDERS].double().numpy().copy())
        kept["replicas"].append(ladders.replicas.copy())
    first = n_iterations // 10
    angles = torsion_angles(np.concatenate(kept["positions"][first:]).astype(np.float64), system.torsions)
    replicas = np.stack(kept["replicas"])
    return {
        "phi": angles["phi"],
        "psi": angles["psi"],
        "energy": np.concatenate(kept["energy"][first:]),
        "round_trips": np.array(sum(round_trips(replicas[:, :, k]) for k in range(_LADDERS))),
        "exchange_acceptance": ladders.n_accepted / ladders.n_proposed,
        "n_iterations": np.array(n_iterations),
        "n_evaluations": np.array(potential.n_evaluations),
    }
