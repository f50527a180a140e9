"""Weights of backmapped configurations, those of beads far from the data and of higher temperatures included."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from chain_molecule import BOND_RANGE, TORSION_RANGE, T, average, bond_law, chain_data, torsion_law

from openmm_bg import TorchPotential, statistics
from openmm_bg.coarse_graining import generator, rounds, training
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.coarse_graining.noisy_map import NoisyMap
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.errors import InputError, ModelFileError, ReliabilityWarning
from openmm_bg.geometry import dihedrals, distances
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
    flow = CouplingBackmapping(coordinates, invariants, n_layers=2, hidden_features=8)
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


def free_atoms(positions):
    """Return cosines and sines of the torsions, and the bonds, of the two atoms that three beads leave free."""
    torsions = dihedrals(positions, np.array([[0, 1, 2, 3], [1, 2, 3, 4]]))
    bonds = distances(positions, np.array([[0, 1], [3, 4]]))
    return np.concatenate([np.cos(torsions), np.sin(torsions), np.cos(2 * torsions), bonds], axis=1)


def test_the_mean_weight_of_several_tries_is_exact(data):
    """Of one bead configuration, whose free atoms have the laws of quadrature."""
    model = make_model(data)
    beads = model.coarse_map.beads(torch.from_numpy(data.positions[:1])).repeat(20_000, 1, 1)
    found = model.backmap(beads, seed=4, n_tries=4)
    inside = np.isfinite(found.log_weights)
    functions = (np.cos, np.sin, lambda p: np.cos(2 * p))
    exact = [average(torsion_law, *TORSION_RANGE, f) for f in functions for _ in range(2)]
    exact += 2 * [average(bond_law, *BOND_RANGE, lambda r: r)]

    def largest(log_weights):
        values = free_atoms(np.where(inside[:, None, None], found.positions, data.positions[0]))
        estimates = [statistics.weighted_mean(column, log_weights) for column in values.T]
        return max(abs(e.value - x) / e.stderr for e, x in zip(estimates, exact, strict=True))

    assert largest(found.log_weights) < 3.5
    # The negative controls: the weight of the chosen one alone, and none.
    log_rho = -model.energy.exact()(beads).detach().numpy()
    alone = np.where(inside, -found.reduced_energy - log_rho - found.log_p, -np.inf)
    assert largest(alone) > 5
    assert largest(np.where(inside, 0.0, -np.inf)) > 5
    # The better of several are chosen, and their weights differ less.
    one = model.backmap(beads[:5000], seed=4)
    assert np.median(found.reduced_energy) < np.median(one.reduced_energy) - 0.5
    ess = [statistics.effective_sample_size(w) for w in (found.log_weights, one.log_weights)]
    assert ess[0] > 1.5 * ess[1]


def test_one_try_is_what_it_was_and_none_is_refused(data):
    model = make_model(data)
    beads = model.coarse_map.beads(torch.from_numpy(data.positions[:20]))
    one, same = model.backmap(beads, seed=5), model.backmap(beads, seed=5, n_tries=1)
    np.testing.assert_array_equal(one.log_weights, same.log_weights)
    for call in (lambda: model.backmap(beads, n_tries=0), lambda: model.sample(10, n_tries=-1)):
        with pytest.raises(InputError, match="number of tries must be a whole number of at least 1"):
            call()


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
    trainer = training._Trainer(data, model.coarse_map, tmp_path / "model", CoarseGrainingSettings(), None)
    samples = model.samples_of(data.positions[:100], seed=1)
    hot = torch.from_numpy(samples.beads)

    def found(samples, hot=hot):
        log_weights = trainer._new_log_weights(model, hot)
        return rounds.hot_dispersion(rounds.excess_over(log_weights, samples))

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


def test_many_configurations_are_made_in_chunks(data, monkeypatch):
    model = make_model(data)
    beads = model.coarse_map.beads(torch.from_numpy(data.positions[:50]))
    sizes, whole = [], model._backmapped

    def counted(beads, generator, n_tries):
        sizes.append(len(beads))
        return whole(beads, generator, n_tries)

    monkeypatch.setattr(model, "_backmapped", counted)
    monkeypatch.setattr(generator, "_CHUNK", 20)
    found = model.backmap(beads, seed=3)
    assert sizes == [20, 20, 10]
    assert [len(column) for column in found] == [50] * 5
    inside = np.isfinite(found.log_weights)
    density = model.log_density(found.positions[inside], beads[inside]).numpy()
    expected = -found.reduced_energy[inside] - density
    np.testing.assert_allclose(found.log_weights[inside], expected, atol=1e-6)


def test_a_flow_of_another_map_is_refused(data):
    model = make_model(data)
    with pytest.raises(InputError, match="flow is of another map"):
        CoarseGrainedGenerator(
            selection_map(5, [0, 2, 4]), model.energy, model.flow, start=model.start, system=data.system
        )
    with pytest.raises(InputError, match="flow is of another map"):
        CoarseGrainedGenerator(NoisyMap(model.coarse_map), model.energy, model.flow, start=model.start)


@pytest.mark.parametrize(
    "damage",
    [
        lambda header: header.pop("sampling"),
        lambda header: header["sampling"].update(n_jumps=3),
        lambda header: header["map"].pop("weights"),
        lambda header: header.pop("system"),
    ],
)
def test_a_damaged_header_is_refused(data, tmp_path, damage):
    make_model(data).save(tmp_path / "model")
    CoarseGrainedGenerator.load(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    header = json.loads(path.read_text())
    damage(header)
    path.write_text(json.dumps(header))
    with pytest.raises(ModelFileError):
        CoarseGrainedGenerator.load(tmp_path / "model")


def test_what_cannot_be_drawn_is_refused(data):
    model = make_model(data)
    with pytest.raises(InputError, match="no bead configuration"):
        model.backmap(np.zeros((0, 3, 3)))
    with pytest.raises(InputError, match="whole number"):
        model.sample(2.5)
    with pytest.raises(InputError, match=r"These are 3 beads, for `backmap`; .* configurations of 5 atoms"):
        model.samples_of(np.zeros((4, 3, 3)))
    with pytest.raises(InputError, match="model has 3 beads"):
        model.log_density(data.positions[:2], torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match="at least 2 walkers"):
        BeadSamplingSettings(n_walkers=1)
