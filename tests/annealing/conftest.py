"""A generator that knows the double well at the high temperature, and one that was annealed to the low one."""

import dataclasses

import numpy as np
import pytest
from annealing_helpers import COLD, HOT, SMALL

from openmm_bg import BoltzmannGenerator
from openmm_bg.annealing import anneal
from openmm_bg.systems import double_well
from openmm_bg.training import TrainingData, TrainingSettings, train
from openmm_bg.transforms import CartesianCoordinates


@pytest.fixture(scope="session")
def toy():
    return double_well()


@pytest.fixture(scope="session")
def data(toy):
    x = toy.sample(4000, HOT, np.random.default_rng(0))
    return TrainingData(toy.molecule, toy.to_positions(x), toy.energy(x), HOT, {"seed": 0})


@pytest.fixture(scope="session")
def hot(toy, data, tmp_path_factory):
    """A generator that knows the double well at the high temperature."""
    settings = TrainingSettings(
        n_steps=300,
        validation_interval=100,
        validation_samples=1000,
        n_layers=4,
        hidden_features=32,
        learning_rate=5e-3,
        kl_weight=0.0,
        averaging=0.98,
    )
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components).fit(data.positions)
    directory = tmp_path_factory.mktemp("hot") / "model"
    trained = train(data, directory, settings, coordinates=coordinates)
    wide = BoltzmannGenerator(
        trained.flow,
        trained.potential,
        system=trained.system,
        record=trained.record,
        temperature_range=(COLD, HOT),
    )
    wide.path = trained.path
    return wide


@pytest.fixture(scope="session")
def cold(hot, tmp_path_factory):
    settings = dataclasses.replace(SMALL, n_steps=600)
    return anneal(hot, tmp_path_factory.mktemp("cold") / "model", settings)
