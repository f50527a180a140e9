"""Runs of our own with the learned sampler: seeds, velocities, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmm_bg.exchange import create_sampler, resume_sampler, run_parallel_tempering
from openmm_bg.units import BOLTZMANN_CONSTANT

SETTINGS = {
    "sampler": "learned",
    "temperature_min": 400.0,
    "n_steps": 5,
    "checkpoint_interval": 2,
    "platform": "CPU",
}


def kinetic_temperatures(sampler: Any, masses: np.ndarray) -> list[float]:
    """Return m v^2 / 3Nk [K] of each replica."""
    found = []
    for replica in sampler._sampler_states:
        velocities = replica.velocities._value
        kinetic = (masses[:, None] * velocities**2).sum()
        found.append(float(kinetic / (3 * len(masses) * BOLTZMANN_CONSTANT)))
    return found


def test_the_same_seed_gives_the_same_run(alanine_model: Path, tmp_path: Path) -> None:
    """Without a move by the flow, so that the first velocities count."""
    records = [
        run_parallel_tempering(alanine_model, tmp_path / f"{name}.nc", n_iterations=4, seed=seed, **SETTINGS)
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    np.testing.assert_array_equal(records[0].positions, records[1].positions)
    np.testing.assert_array_equal(records[0].replicas, records[1].replicas)
    assert not np.isclose(records[0].positions, records[2].positions).all()
    np.testing.assert_array_equal(records[0].temperatures, [400.0, 600.0])


def test_velocities_are_there_before_the_first_iteration(
    alanine_model: Path, alanine: Any, tmp_path: Path
) -> None:
    """openmmtools restores those of a run that had none as zeros, and of a new run takes what a Context has."""
    created = create_sampler(alanine_model, tmp_path / "run.nc", seed=1, **SETTINGS)
    first = [replica.velocities._value.copy() for replica in created._sampler_states]
    assert not np.isclose(*first).all()
    created._reporter.close()
    resumed = resume_sampler(tmp_path / "run.nc", seed=1)
    assert resumed.iteration == 0
    for sampler in (created, resumed):
        # 66 components: standard deviation of 0.17 of the temperature.
        assert kinetic_temperatures(sampler, alanine.masses) == pytest.approx([400.0, 600.0], rel=0.7)
    resumed.number_of_iterations = 3
    resumed.run(3)
    before = [replica.velocities._value.copy() for replica in resumed._sampler_states]
    resumed._reporter.close()
    later = resume_sampler(tmp_path / "run.nc", seed=1)
    assert later.iteration == 2  # the checkpoint
    assert min(kinetic_temperatures(later, alanine.masses)) > 100.0
    for one, other in zip(before, [r.velocities._value for r in later._sampler_states], strict=True):
        assert not np.isclose(one, other).all()
    later._reporter.close()
