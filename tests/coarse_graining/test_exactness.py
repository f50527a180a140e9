"""Weighted averages are exact and densities normalised, on a molecule that is known by quadrature."""

import dataclasses

import numpy as np
import pytest
import torch
from chain_molecule import (
    ANGLE_RANGE,
    BOND_RANGE,
    TORSION_RANGE,
    T,
    angle_law,
    average,
    bond_law,
    chain,
    chain_data,
    energies,
    one_free_atom,
    torsion_law,
    whole_probability,
)
from safetensors import safe_open
from scipy.integrate import quad

from openmm_bg import TorchPotential, statistics
from openmm_bg.coarse_graining.bead_sampling import BeadSamplingSettings
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.maps import assignment_map, centroid_map, selection_map
from openmm_bg.coarse_graining.noisy_map import NoisyMap
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.coarse_graining.training import train_coarse_grained
from openmm_bg.errors import InputError
from openmm_bg.geometry import angles, dihedrals, distances

SOFT = np.array([[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.2, 0.8], [0.0, 0.0, 1.0]])
MAPS = {
    "selection": lambda: selection_map(5, [1, 2, 3]),
    "centroids": lambda: centroid_map(5, [[0, 1], [2], [3, 4]]),
    "assignment": lambda: assignment_map(SOFT),
    "noisy": lambda: NoisyMap(selection_map(5, [0, 2, 4]), bond_width=0.1, angle_width=0.2),
}
AUTOREGRESSIVE = {"flow": "autoregressive", "reverse_weight": 0.2}
MODELS = {name: (name, {}) for name in MAPS} | {
    "selection, autoregressive": ("selection", AUTOREGRESSIVE),
    "assignment, autoregressive": ("assignment", AUTOREGRESSIVE),
}
SETTINGS = CoarseGrainingSettings(
    n_steps=200,
    batch_size=256,
    n_rounds=0,
    round_samples=640,
    n_layers=4,
    hidden_features=32,
    energy_features=32,
    sampling=BeadSamplingSettings(n_walkers=640, n_rungs=1, interval=5, burn_in=50, n_leapfrog=6),
    learning_rate=3e-3,
    averaging=0.98,
)


def observables(x):
    """Return values by name, and their averages by quadrature."""
    r = distances(x, np.array([[k, k + 1] for k in range(4)]))
    theta = angles(x, np.array([[k, k + 1, k + 2] for k in range(3)]))
    phi = dihedrals(x, np.array([[0, 1, 2, 3], [1, 2, 3, 4]]))
    exact = {
        "bond": average(bond_law, *BOND_RANGE, lambda r: r),
        "bond^2": average(bond_law, *BOND_RANGE, lambda r: r**2),
        "angle": average(angle_law, *ANGLE_RANGE, lambda t: t),
        "angle^2": average(angle_law, *ANGLE_RANGE, lambda t: t**2),
        "1 + cos phi / 2": average(torsion_law, *TORSION_RANGE, lambda p: 1 + 0.5 * np.cos(p)),
        "1 + sin phi / 2": average(torsion_law, *TORSION_RANGE, lambda p: 1 + 0.5 * np.sin(p)),
        "1 + cos 2 phi / 2": average(torsion_law, *TORSION_RANGE, lambda p: 1 + 0.5 * np.cos(2 * p)),
    }
    found = {}
    for k in range(4):
        found[f"bond {k}"], found[f"bond^2 {k}"] = r[:, k], r[:, k] ** 2
    for k in range(3):
        found[f"angle {k}"], found[f"angle^2 {k}"] = theta[:, k], theta[:, k] ** 2
    for k in range(2):
        found[f"1 + cos phi / 2 {k}"] = 1 + 0.5 * np.cos(phi[:, k])
        found[f"1 + sin phi / 2 {k}"] = 1 + 0.5 * np.sin(phi[:, k])
        found[f"1 + cos 2 phi / 2 {k}"] = 1 + 0.5 * np.cos(2 * phi[:, k])
    return found, {name: exact[name.rsplit(" ", 1)[0]] for name in found}


def deviations(samples, log_weights):
    """Return how far averages are from quadrature, in standard errors, and relative standard errors."""
    usable = np.isfinite(log_weights)
    x = np.where(usable[:, None, None], samples.positions, samples.positions[usable][0])
    found, exact = observables(x)
    z, relative = {}, {}
    for name, values in found.items():
        estimate = statistics.weighted_mean(values, log_weights, samples.n_walkers)
        z[name] = (estimate.value - exact[name]) / estimate.stderr
        relative[name] = estimate.stderr / exact[name]
    return z, relative


@pytest.fixture(scope="module")
def data():
    return chain_data(5, 6000)


@pytest.fixture(scope="module", params=MODELS)
def model(request, data, tmp_path_factory):
    torch.manual_seed(0)
    name, changes = MODELS[request.param]
    settings = dataclasses.replace(SETTINGS, **changes)
    return train_coarse_grained(data, MAPS[name](), tmp_path_factory.mktemp(name) / "model", settings)


@pytest.fixture(scope="module")
def samples(model):
    return model.sample(640 * 30, seed=1)


def test_the_molecule_is_what_quadrature_takes_it_for(data):
    """The drawn configurations have OpenMM's energy, and the averages of quadrature."""
    few = data.positions[:20]
    assert np.allclose(energies(data.system, few), data.energies[:20], rtol=1e-9)
    found, exact = observables(data.positions)
    z = [(v.mean() - exact[name]) / (v.std(ddof=1) / np.sqrt(len(v))) for name, v in found.items()]
    assert np.abs(z).max() < 3.5


def test_weighted_averages_are_exact(samples):
    z, relative = deviations(samples, samples.log_weights)
    assert max(map(abs, z.values())) < 3.5, z
    assert max(relative.values()) < 0.01, relative
    assert samples.pareto_k() < 0.7


def test_a_weight_with_one_factor_left_out_fails(model, samples):
    """The negative controls. That of the noise r is below: without it, z no longer belongs to x."""
    parts = factors(model, samples)
    inside = np.isfinite(samples.log_weights)
    np.testing.assert_allclose(sum(parts.values())[inside], samples.log_weights[inside], atol=1e-8)
    for name in ("rho", "p_inv"):
        without = sum(factor for other, factor in parts.items() if other != name)
        z, _ = deviations(samples, np.where(inside, without, -np.inf))
        assert max(map(abs, z.values())) > 5, name


def factors(model, samples):
    """Return the factors of the weights, by name, as logarithms; anything where there is no configuration."""
    beads = torch.from_numpy(samples.beads)
    positions = torch.from_numpy(
        np.where(samples.in_domain[:, None, None], samples.positions, samples.positions[0])
    )
    log_rho = -model.energy.exact()(beads).detach().numpy()
    log_p = model.flow.log_prob(positions, beads).numpy()
    log_r = model.coarse_map.log_prob(beads, positions).numpy()
    return {"Boltzmann": -samples.reduced_energy, "rho": -log_rho, "p_inv": -log_p, "r": log_r}


def noise_deviations(model, samples, log_weights):
    """Return how far the moments of log(r^3) of bead distances are from those of the noise, in standard errors."""
    pairs, z = np.array([[0, 1], [1, 2]]), []
    positions = np.where(samples.in_domain[:, None, None], samples.positions, samples.positions[0])
    own = model.coarse_map.beads(torch.from_numpy(positions)).numpy()
    offset = 3 * np.log(distances(samples.beads, pairs) / distances(own, pairs))
    for k in range(2):
        for power, exact in ((1, 0.0), (2, model.coarse_map.widths["bond_width"] ** 2)):
            estimate = statistics.weighted_mean(offset[:, k] ** power, log_weights, samples.n_walkers)
            z.append((estimate.value - exact) / estimate.stderr)
    return np.array(z)


def test_beads_are_kept_or_have_the_law_of_the_noise(model, samples):
    inside = np.isfinite(samples.log_weights)
    if isinstance(model.coarse_map, NoisyMap):
        assert np.abs(noise_deviations(model, samples, samples.log_weights)).max() < 3.5
        parts = factors(model, samples)
        without = np.where(inside, samples.log_weights - parts["r"], -np.inf)
        assert np.abs(noise_deviations(model, samples, without)).max() > 3.5  # the negative control
    else:
        beads = model.coarse_map.beads(torch.from_numpy(samples.positions[inside])).numpy()
        assert np.abs(beads - samples.beads[inside]).max() < 1e-6


def test_density_of_a_configuration_is_that_it_was_drawn_with(model, samples):
    inside = np.flatnonzero(samples.in_domain)[:500]
    beads = torch.from_numpy(samples.beads[inside])
    found = model.log_density(samples.positions[inside], beads).numpy()
    np.testing.assert_allclose(found, samples.log_q[inside], atol=1e-6)


def test_densities_of_a_saved_model_are_the_same(model, samples, tmp_path):
    """Identity matrices, which an autoregressive flow's coordinates have, are not written."""
    path = model.save(tmp_path / "model")
    inside = np.flatnonzero(samples.in_domain)[:50]
    beads = torch.from_numpy(samples.beads[inside])
    again = CoarseGrainedGenerator.load(path)
    found = again.log_density(samples.positions[inside], beads)
    assert torch.equal(found, model.log_density(samples.positions[inside], beads))
    with safe_open(path / "networks.safetensors", "numpy") as file:
        written = set(file.keys())
    whitened = isinstance(model.flow, CouplingBackmapping)
    assert {"flow.coordinates.whiten" in written, "flow.coordinates.unwhiten" in written} == {whitened}


def test_absolute_free_energies_are_refused(samples):
    with pytest.raises(InputError, match="not normalised"):
        samples.free_energy()
    right = dihedrals(np.nan_to_num(samples.positions), np.array([[0, 1, 2, 3]]))[:, 0] > 0
    found = samples.free_energy_difference(right, ~right)
    share = quad(torsion_law, 0.0, np.pi)[0] / quad(torsion_law, -np.pi, np.pi)[0]
    assert abs(found.value - np.log(share / (1 - share))) < 3.5 * found.stderr


@pytest.mark.parametrize("name", ["selection", "centroids", "shared atoms"])
def test_backmapping_density_is_normalised(name):
    """Four atoms and three beads: one atom is free, and its density integrates to one over its place."""
    data, bead_map = chain_data(4, 2000), one_free_atom(name)
    x = torch.from_numpy(data.positions)
    coordinates = bead_map.coordinates(data.system.positions, data.system.bonds).fit(x)
    flow = CouplingBackmapping(
        coordinates, BeadInvariants(3).fit(bead_map.beads(x)), n_layers=3, hidden_features=16
    )
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    assert (float(coordinates.log_jacobian()) < -0.5) == (name == "shared atoms")
    assert whole_probability(flow, bead_map.beads(x[:1])) == pytest.approx(1.0, abs=0.01)


def test_whole_density_of_a_noisy_map_is_normalised(data):
    """Of all atoms, by importance sampling from the molecule's own law."""
    system = chain(5)
    x = torch.from_numpy(data.positions)
    noisy = MAPS["noisy"]()
    coordinates = noisy.coordinates(system.positions, system.bonds).fit(x)
    beads = noisy.draw(x, torch.Generator().manual_seed(0))
    flow = CouplingBackmapping(coordinates, BeadInvariants(3).fit(beads), n_layers=2, hidden_features=16)
    flow.set_dtype(torch.float64)
    with torch.no_grad():
        flow.transform._transforms[0].network.final_layer.bias.normal_(
            0.0, 0.1, generator=torch.Generator().manual_seed(1)
        )
    one = beads[:1]
    drawn, log_p = flow.sample(one.expand(20_000, -1, -1), generator=torch.Generator().manual_seed(2))
    found = flow.log_prob(drawn, one.expand(20_000, -1, -1))
    inside = torch.isfinite(drawn).all(dim=(1, 2))
    np.testing.assert_allclose(found[inside], log_p[inside], atol=1e-8)
    # E_p[pi / p] is the integral of pi, which OpenMM's energy and quadrature give.
    bond = quad(bond_law, *BOND_RANGE)[0]
    angle, torsion = quad(angle_law, *ANGLE_RANGE)[0], quad(torsion_law, *TORSION_RANGE)[0]
    log_z = 4 * np.log(bond) + 3 * np.log(angle) + 2 * np.log(torsion)
    reduced = TorchPotential.from_system(system, dtype=torch.float64).energy(drawn) / (8.314462618e-3 * T)
    log_w = torch.where(inside, -reduced - log_p, -torch.inf)
    estimate = statistics.log_mean_weight(log_w.numpy())
    assert abs(estimate.value - log_z) < 3.5 * estimate.stderr
    assert estimate.stderr < 0.1
