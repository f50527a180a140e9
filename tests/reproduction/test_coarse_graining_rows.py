"""Judging a coarse-grained model: surfaces that agree, and surfaces that do not."""

import numpy as np
import pytest

from openmm_bg.analysis import Ramachandran
from openmm_bg.reproduction.coarse_graining import model_commands, surface_agreement


def law(seed, n=400_000, width=1.0, log_weights=None):
    rng = np.random.default_rng(seed)
    phi, psi = width * rng.normal(size=(2, n))
    phi, psi = np.clip(phi, -np.pi, np.pi), np.clip(psi, -np.pi, np.pi)
    return Ramachandran(
        "law", phi, psi, log_weights=log_weights, n_walkers=1 if log_weights is not None else 40
    )


def test_two_sets_of_one_law_agree():
    share, n_bins = surface_agreement(law(1, log_weights=np.zeros(400_000)), law(2))
    assert share > 0.97  # errors of up to 0.1 kT against a bound of 0.3 kT
    assert n_bins > 100


def test_another_law_does_not_agree():
    share, _ = surface_agreement(law(1, width=1.3, log_weights=np.zeros(400_000)), law(2))
    assert share < 0.8


def test_weights_bring_it_back():
    wide = law(1, width=1.3)
    log_weights = -0.5 * (wide.phi**2 + wide.psi**2) * (1 - 1 / 1.3**2)
    weighted = Ramachandran("law", wide.phi, wide.psi, log_weights=log_weights)
    assert surface_agreement(weighted, law(2))[0] > 0.95


@pytest.mark.parametrize("label", ["selection map", "learned map"])
def test_commands_are_those_of_the_command_line(label, tmp_path):
    train, sample = model_commands(tmp_path, label).values()
    assert (train[0], sample[0]) == ("coarse-grain", "backmap")
    assert sample[1] == train[3]
