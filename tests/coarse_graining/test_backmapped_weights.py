"""Weights of backmapped configurations, those of beads far from the data and of higher temperatures included."""

import re
import warnings

import numpy as np
import pytest
import torch
from chain_molecule import T, chain_data

from openmm_bg import TorchPotential
from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.coarse_graining.training import _Trainer
from openmm_bg.errors import ReliabilityWarning
from openmm_bg.units import thermal_energy


@pytest.fixture(scope="module")
def data():
    return chain_data(5, 400)


def make_model(data):
    """A model that was never trained, in double precision."""
    coarse_map = selection_map(5, [1, 2, 3])
    x = torch.from_numpy(data.positions)
    beads = coarse_map.beads(x)
    coordinates = coarse_map.coordinates(data.system.positions, data.system.bonds).fit(x)
    invariants = BeadInvariants(3).fit(beads)
    flow = BackmappingFlow(coordinates, invariants, n_layers=2, hidden_features=8)
    energy = BeadEnergy(invariants, T, hidden_features=4).fit_prior(beads)
    flow.set_dtype(torch.float64)
    energy.set_dtype(torch.float64)
    potential = TorchPotential.from_system(data.system, dtype=torch.float64)
    return CoarseGrainedGenerator(
        coarse_map, energy, flow, start=beads[:64], potential=potential, system=data.system
    )


def test_weights_are_those_of_the_whole(data):
    """Also among configurations of different beads: energy by OpenMM's law, density of map, beads and flow."""
    model = make_model(data)
    beads = model.coarse_map.beads(torch.from_numpy(data.positions[:50]))
    found = model.backmap(beads, seed=3)
    inside = np.isfinite(found.log_weights)
    assert inside.sum() > 40
    reduced = model.potential.energy(torch.from_numpy(found.positions[inside])).numpy() / thermal_energy(T)
    density = model.log_density(found.positions[inside], beads[inside]).numpy()
    np.testing.assert_allclose(found.log_weights[inside], -reduced - density, atol=1e-6)
    assert np.ptp(model.energy(beads).detach().numpy()) > 1  # which counts


def test_beads_far_away_are_warned_of_with_their_weights(data):
    model = make_model(data)
    near = model.coarse_map.beads(torch.from_numpy(data.positions[:5]))
    far = 1.5 * near[:2]
    with pytest.warns(ReliabilityWarning, match="2 of 7 bead configurations are far") as caught:
        found = model.backmap(torch.cat([far, near]), seed=3)
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d", str(caught[0].message))]
    assert numbers == pytest.approx([found.log_weights[:2].max(), found.log_weights[2:].max()], abs=0.06)
    with pytest.warns(ReliabilityWarning, match=r"log-weights is -?[\d.]+\.$"):
        model.backmap(far, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.backmap(near, seed=3)


def test_dispersion_at_higher_temperatures(data, tmp_path, monkeypatch):
    """It knows of the bead energy, but for its constant, which no weight depends on."""
    model = make_model(data)
    trainer = _Trainer(data, model.coarse_map, tmp_path / "model", CoarseGrainingSettings(), None)
    samples = model.samples_of(data.positions[:100], seed=1)
    hot = torch.from_numpy(samples.beads)

    def found(samples, hot=hot):
        return trainer._hot_dispersion(trainer._hot_excess(model, hot, samples))

    before = found(samples)
    assert before > 1
    exact = model.energy.exact()
    monkeypatch.setattr(model.energy, "exact", lambda: lambda beads: exact(beads) + 50.0)
    shifted = model.samples_of(data.positions[:100], seed=1)
    assert found(shifted) == pytest.approx(before, rel=1e-6)
    # Of beads that the energy takes for rarer than they are, weights are larger than those of the samples.
    monkeypatch.setattr(model.energy, "exact", lambda: lambda beads: exact(beads) + 100.0)
    assert found(shifted) > before + 100
    assert np.isnan(found(samples, hot[:0]))
    # What the energy takes for more frequent than it is, the samples show themselves.
    monkeypatch.setattr(model.energy, "exact", lambda: lambda beads: exact(beads) - 100.0)
    assert found(shifted) < before
