"""The coarse-grained move keeps the Boltzmann distribution, in openmmtools too, and refuses other models."""

import copy
import pickle

import numpy as np
import openmm
import pytest
import torch
from chain_molecule import ANGLE, BOND, T, chain, chain_data
from openmm import unit
from openmmtools.cache import ContextCache
from openmmtools.mcmc import LangevinDynamicsMove, SequenceMove
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import CoarseGrainedMove, FlowMove, TorchPotential, mcmc
from openmm_bg.coarse_graining.autoregressive_backmapping import TURNING, AutoregressiveBackmapping
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.maps import centroid_map, selection_map
from openmm_bg.coarse_graining.noisy_map import NoisyMap
from openmm_bg.errors import InputError, ModelFileError, ReliabilityWarning
from openmm_bg.geometry import angles, dihedrals, distances
from openmm_bg.mcmc.target import Target
from openmm_bg.units import thermal_energy

MAPS = {
    "selection": lambda: selection_map(5, [1, 2, 3]),
    "centroids": lambda: centroid_map(5, [[0, 1], [2], [3, 4]]),
    "noisy": lambda: NoisyMap(selection_map(5, [0, 2, 4]), bond_width=0.3, angle_width=0.5),
    "rotors": lambda: selection_map(5, [1, 2, 3]),  # with an autoregressive flow
}
N_STARTS = 3000


@pytest.fixture(scope="module")
def data():
    return chain_data(5, 4000)


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """Models that were never trained: a prior that is wrong on purpose, and a flow with random weights."""
    x, found = torch.from_numpy(data.positions), {}
    for name, make in MAPS.items():
        one = make()
        beads = one.draw(x, torch.Generator().manual_seed(0))
        invariants = BeadInvariants(3).fit(beads)
        coordinates = one.coordinates(data.system.positions, data.system.bonds)
        if name == "rotors":
            coordinates.fit_turning(x, TURNING)
            flow = AutoregressiveBackmapping.from_data(
                coordinates, invariants, x, data.system.masses, hidden_features=8
            )
        else:
            flow = CouplingBackmapping(coordinates.fit(x), invariants, n_layers=1, hidden_features=8)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for parameter in flow.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        energy = BeadEnergy(invariants, T, hidden_features=8, n_hidden=1).fit_prior(beads)
        energy.stiff *= 0.3  # softer than the truth, so that leaving out rho shows
        model = CoarseGrainedGenerator(
            one,
            energy,
            flow,
            start=beads[:10],
            potential=TorchPotential.from_system(data.system),
            system=data.system,
            sampling=BeadSamplingSettings(n_leapfrog=5, timestep=0.012),
        )
        found[name] = model.save(tmp_path_factory.mktemp(name) / "model")
    return found


def observables(x):
    """Return values of configurations, in which a wrong ratio would show, with shape=(n, n_values)."""
    r = distances(x, np.array([[k, k + 1] for k in range(4)]))
    theta = angles(x, np.array([[k, k + 1, k + 2] for k in range(3)]))
    phi = dihedrals(x, np.array([[0, 1, 2, 3], [1, 2, 3, 4]]))
    bonds, bends = r - BOND[0], theta - ANGLE[0]
    return np.concatenate(
        [bonds, bonds**2, bends, bends**2, np.cos(phi), np.sin(phi), np.cos(2 * phi)], axis=1
    )


def changes(move, starts, n_calls=1):
    """Return the changes of observables from exact configurations through a few calls, in standard errors."""
    potential = TorchPotential.from_system(chain(5), dtype=torch.float64)

    def reduced(x):
        return (potential.energy(x) / thermal_energy(T)).numpy()

    target = Target(move.generator.flow, T, reduced)
    ends = torch.from_numpy(starts)
    for _ in range(n_calls):
        ends, _ = move.chains(target, ends)
    difference = observables(ends.numpy()) - observables(starts)
    return difference.mean(0) / (difference.std(0, ddof=1) / np.sqrt(len(difference)))


@pytest.mark.parametrize("name", MAPS)
def test_the_boltzmann_distribution_is_kept(models, data, name):
    """From independent exact configurations, which stay distributed as they are."""
    mcmc.seed(5)
    move = CoarseGrainedMove(models[name], n_proposals=12)
    z = changes(move, data.positions[:N_STARTS])
    assert np.abs(z).max() < 3.7
    assert 0.02 < move.acceptance_fraction < 0.9


@pytest.mark.parametrize("factor", ["rho", "p_inv", "r"])
def test_a_ratio_with_one_factor_left_out_does_not_keep_it(models, data, factor, monkeypatch):
    """The negative controls."""
    mcmc.seed(5)
    model = models["noisy" if factor == "r" else "selection"]
    move = CoarseGrainedMove(model, n_proposals=12)
    whole = CoarseGrainedGenerator.log_density

    def broken(self, positions, beads):
        found = whole(self, positions, beads)
        with torch.no_grad():
            parts = {
                "rho": -self.energy.exact()(beads.double()),
                "p_inv": self.flow.log_prob(positions, beads),
                "r": -self.coarse_map.log_prob(beads, positions),
            }
        return found - torch.nan_to_num(parts[factor])

    monkeypatch.setattr(CoarseGrainedGenerator, "log_density", broken)
    assert np.abs(changes(move, data.positions[:N_STARTS])).max() > 5


def test_in_openmmtools(models, data):
    """In a sequence with dynamics; the state is small, and survives copies and pickling."""
    mcmc.seed(2)
    state = ThermodynamicState(data.system.system, T * unit.kelvin)
    sampler = SamplerState(data.positions[0] * unit.nanometer)
    cache = ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))
    move = CoarseGrainedMove(models["selection"], n_proposals=5, timestep=0.001)
    dynamics = LangevinDynamicsMove(timestep=1.0 * unit.femtosecond, n_steps=5)
    both = SequenceMove([move, dynamics], context_cache=cache)
    before = sampler.positions
    for _ in range(6):
        both.apply(state, sampler, context_cache=cache)
    assert move.n_proposed == 30
    assert move.n_accepted > 0
    assert not np.allclose(before._value, sampler.positions._value)
    stored = pickle.dumps(move.__getstate__())
    assert len(stored) < 1000
    again = copy.deepcopy(move)
    assert again.statistics == move.statistics
    assert (again.n_trajectories, again.n_proposals) == (2, 5)
    again.apply(state, sampler, context_cache=cache)


def test_another_temperature_than_the_models_warns(models, data):
    state = ThermodynamicState(data.system.system, 2 * T * unit.kelvin)
    with pytest.warns(ReliabilityWarning, match=f"was made for {T:g} K and is used at {2 * T:g} K"):
        CoarseGrainedMove(models["noisy"]).apply(state, SamplerState(data.positions[0] * unit.nanometer))


def test_the_same_seed_gives_the_same_chain(models, data):
    ends = []
    for _ in range(2):
        mcmc.seed(9)
        move = CoarseGrainedMove(models["centroids"], n_proposals=8)
        potential = TorchPotential.from_system(data.system, dtype=torch.float64)
        target = Target(
            move.generator.flow, T, lambda x, p=potential: (p.energy(x) / thermal_energy(T)).numpy()
        )
        ends.append(move.steps(target, torch.from_numpy(data.positions[1])))
    assert torch.equal(*ends)


def test_other_models_and_arguments_are_refused(models, data, tmp_path):
    with pytest.raises(ModelFileError, match="is a BoltzmannGenerator; a CoarseGrainedGenerator is needed"):
        CoarseGrainedMove("alanine_dipeptide")
    with pytest.raises(ModelFileError, match="is a CoarseGrainedGenerator; a BoltzmannGenerator is needed"):
        FlowMove(models["selection"])
    with pytest.raises(InputError, match="n_trajectories must be a positive whole number, not 0"):
        CoarseGrainedMove(models["selection"], n_trajectories=0)
    other = chain(4)
    state = ThermodynamicState(other.system, T * unit.kelvin)
    with pytest.raises(InputError, match="has 5 atoms, but the system of the thermodynamic state has 4"):
        CoarseGrainedMove(models["selection"]).apply(state, SamplerState(other.positions * unit.nanometer))
