"""The pieces of a small run, whose figures are known."""

from __future__ import annotations

import csv
from pathlib import Path

import mdtraj
import numpy as np

from openmm_bg.files import json_text, provenance
from openmm_bg.io import save_samples
from openmm_bg.samples import Samples
from openmm_bg.units import thermal_energy

RUN_COMMAND = "train_600K_sample_300K.py --output run"
LOG = [
    {
        "step": 100 * k,
        "seconds": 30.0 * k,
        "energy_evaluations": 5000 * k,
        "kl_weight": 0.0,
        "loss_ml": 90.0 - k,
        "loss_dispersion": 4.0 / k,
        "loss_kl": float("nan"),
        "held_out_nll": 91.0 - k + 0.3 * (k == 3),
        "kl": 200.0 - k + 0.6 * (k == 3),
        "ess": 0.1 * k + 0.03 * (k == 3),
        "batch_ess": float("nan"),
        "skipped_steps": 0,
        "outside_domain": 0,
    }
    for k in range(1, 7)
]


def write_log(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(LOG[0]))
        writer.writeheader()
        writer.writerows(LOG)


def make_model(path: Path, system, positions: np.ndarray) -> Path:
    """Save a flow that was never trained, with the record of a training."""
    from openmm_bg.flows import SplineFlow
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.potentials import TorchPotential
    from openmm_bg.transforms import InternalCoordinates

    coordinates = InternalCoordinates.from_reference(system.positions, system.bonds, system.masses)
    flow = SplineFlow(coordinates.fit(positions), 600.0, n_layers=2, hidden_features=8)
    settings = {
        "n_steps": 600,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "validation_samples": 5000,
        "seed": 7,
    }
    record = provenance(
        seed=7,
        command=RUN_COMMAND,
        settings=settings,
        training={"seconds": 180.0, "n_energy_evaluations": 30000, "energies_from": "somewhere", "log": LOG},
    )
    BoltzmannGenerator(flow, TorchPotential.from_system(system), system=system, record=record).save(path)
    write_log(path / "log.csv")
    return path


def make_samples(path: Path, system, configurations, temperature: float, width: float, **record) -> Samples:
    """Save configurations of dynamics with log-normal weights of a given width, and five draws outside."""
    n = len(configurations.positions)
    rng = np.random.default_rng(int(temperature))
    reduced = configurations.energies / thermal_energy(temperature)
    outside = np.full((5, *configurations.positions.shape[1:]), np.nan)
    samples = Samples(
        np.concatenate([configurations.positions, outside]),
        np.append(-reduced - width * rng.standard_normal(n), np.full(5, np.nan)),
        np.append(reduced, np.full(5, np.inf)),
        temperature,
        system,
        {"seed": 3, "batch_size": 100, **record},
    )
    save_samples(samples, path)
    return samples


def make_simulation(path: Path, system, configurations) -> Path:
    """Write a trajectory of four interleaved walkers, as a simulation would."""
    path.mkdir()
    order = np.arange(len(configurations.positions)).reshape(4, -1).T.ravel()
    with mdtraj.formats.HDF5TrajectoryFile(str(path / "trajectory.h5"), "w") as file:
        file.topology = mdtraj.Topology.from_openmm(system.topology)
        file.write(
            configurations.positions[order].astype(np.float32),
            potentialEnergy=configurations.energies[order].astype(np.float32),
            temperature=np.full(len(order), 600.0, dtype=np.float32),
        )
    record = provenance(
        seed=1,
        command="openmm-bg simulate alanine_dipeptide -o data",
        name=system.name,
        n_walkers=4,
        temperature=600.0,
        system_hash=system.system_hash,
    )
    (path / "provenance.json").write_text(json_text(record))
    return path
