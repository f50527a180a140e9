"""A double well at two temperatures, settings of a short annealing, and what several tests ask of a run."""

import csv

import torch

from openmm_bg.annealing import AnnealingSettings
from openmm_bg.annealing.buffer import Labelled
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.transforms import CartesianCoordinates
from openmm_bg.units import thermal_energy

HOT, COLD = 4.0 * UNIT_TEMPERATURE, UNIT_TEMPERATURE
SMALL = AnnealingSettings(
    temperature=COLD,
    n_steps=300,
    batch_size=128,
    round_size=1600,
    n_temperatures=4,
    validation_interval=50,
    validation_samples=2000,
    learning_rate=3e-3,
    averaging=0.98,
)


def rows_of(directory):
    with (directory / "annealing.csv").open() as file:
        return list(csv.DictReader(file))


def right_well(toy, positions):
    return (positions[:, 0, 0] > toy.barrier).astype(float)


def labelled(toy, x, temperature):
    """Return configurations of the double well with exact labels."""
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components)
    features, _ = coordinates.forward(torch.as_tensor(toy.to_positions(x)))
    reduced = torch.as_tensor(toy.energy(x) / thermal_energy(temperature)).float()
    ones = torch.ones(len(x))
    log_z = toy.log_z(temperature) * ones
    return Labelled(features.float(), reduced, 0.0 * ones, log_z, ones * temperature / HOT, ones)
