"""The bead energy: its forces and symmetries, the prior by hand, precision, and the unit of the potential."""

import itertools
import json

import numpy as np
import pytest
import torch
from bead_examples import chains, invariants, prior, prior_parts, randomised, rotation, spanning_tree
from openmm import unit

from openmm_bg.coarse_graining.bead_energy import BeadEnergy, BeadPotential
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.errors import InputError

T = 320.0
KT = (unit.MOLAR_GAS_CONSTANT_R * T * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)


def energy_of(data, **settings):
    """Return a bead energy whose prior is that of the data, and whose network is zero."""
    found = BeadInvariants(data.shape[1]).fit(data)
    settings = {"hidden_features": 16, "seed": 3} | settings
    return BeadEnergy(found, T, **settings).fit_prior(data)


def far_and_near(n_beads, n=60):
    """Return configurations inside and outside of the range of the data."""
    beads = chains(n, n_beads, seed=5)
    beads[::3] *= 1.6
    beads[1::3] *= 0.7
    return beads


@pytest.mark.parametrize("n_beads", [3, 5])
def test_forces_are_minus_the_gradient_of_the_energy(n_beads):
    """By central differences, of the prior outside of its range as well as of the network."""
    energy = randomised(energy_of(chains(200, n_beads)))
    potential, beads = BeadPotential(energy.exact()), far_and_near(n_beads, 6)
    forces = potential.energy_and_forces(beads)[1]
    for bead, axis in itertools.product(range(n_beads), range(3)):
        moved = []
        for step in (1e-5, -1e-5):
            there = beads.clone()
            there[:, bead, axis] += step
            moved.append(potential.energy_and_forces(there)[0])
        numerical = (moved[1] - moved[0]) / 2e-5
        scale = forces.abs().amax((1, 2))
        assert ((forces[:, bead, axis] - numerical).abs() < 1e-6 * scale).all()
    assert (forces.abs().amax((1, 2)) > 10.0).all()


@pytest.mark.parametrize("n_beads", [3, 5])
def test_forces_turn_with_the_beads(n_beads):
    """To 1e-5 of the largest, and much better in double precision; neither moves nor turns do work."""
    data = chains(200, n_beads)
    energy, beads = randomised(energy_of(data)), chains(50, n_beads, seed=1)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        potential = BeadPotential(energy if dtype == torch.float32 else energy.exact())
        x = beads.to(dtype)
        expected, forces = potential.energy_and_forces(x)
        scale = forces.abs().max()
        for seed in range(3):
            turn = rotation(seed).to(dtype)
            shift = torch.tensor([0.3, -0.2, 0.1], dtype=dtype)
            found, turned = potential.energy_and_forces(x @ turn.T + shift)
            assert (turned - forces @ turn.T).abs().max() < tolerance * scale
            assert (found - expected).abs().max() < tolerance * scale
            assert (turned - forces).abs().max() > 0.1 * scale  # control: they do turn
        assert forces.sum(1).abs().max() < tolerance * scale
        assert torch.linalg.cross(x, forces).sum(1).abs().max() < tolerance * scale


def test_only_the_network_tells_a_mirror_image():
    """Of data of both hands, in whose range mirror images are; three beads have no hand."""
    beads = chains(50, 5, seed=1)
    energy = energy_of(chains(400, 5, hands=(1, -1))).double()
    assert torch.equal(energy(-beads), energy(beads))
    randomised(energy)
    assert ((energy(-beads) - energy(beads)).abs() > 1e-3).all()
    three = randomised(energy_of(chains(200, 3)).double())
    assert torch.equal(three(-beads[:, :3]), three(beads[:, :3]))


def test_walls_keep_the_hand_of_the_data():
    data = chains(400, 5, spread=0.02)  # so narrow that all volumes have one sign
    energy = energy_of(data).double()
    np.testing.assert_array_equal(np.sign(invariants(data)[:, -2:]), np.ones((400, 2)))
    inside = chains(50, 5, seed=1, spread=0.02)
    assert (energy(-inside) > energy(inside) + 10.0).all()


@pytest.mark.parametrize("n_beads", [3, 4, 5])
@pytest.mark.parametrize("spread", [0.02, 0.08])
def test_prior_is_that_of_its_formula(n_beads, spread):
    """Against numpy, where springs, repulsion and walls all matter."""
    data, beads = chains(200, n_beads, spread=spread), far_and_near(n_beads)
    energy = energy_of(data).double()
    assert torch.equal(energy(beads), energy(beads.clone()))
    np.testing.assert_allclose(energy(beads).detach(), prior(data, beads), rtol=1e-9)
    springs, repulsion, walls = prior_parts(invariants(data), invariants(beads))
    assert springs.max() > 1
    assert walls.max() > 1
    # Springs alone hold three narrow beads: then nothing is left to repel.
    narrow = (invariants(data).std(0) < 0.1 * invariants(data).mean(0))[: n_beads * (n_beads - 1) // 2]
    assert (repulsion.max() > 1) == (not narrow.all())
    inside = chains(200, n_beads, spread=spread)
    assert not prior_parts(invariants(data), invariants(inside))[2].any()


def right_angles(*legs):
    """Return triangles with a right angle at bead 1, and these distances to the beads 0 and 2."""
    beads = torch.zeros(len(legs), 3, 3, dtype=torch.float64)
    beads[:, 0, 0], beads[:, 2, 1] = torch.tensor(legs, dtype=torch.float64).T
    return beads


def test_prior_of_right_angles_by_hand():
    """Of two configurations: their distances vary by 50, 33 and 4 percent, so that two springs join the beads."""
    data = np.array([[0.4, np.hypot(0.4, 0.5), 0.5], [0.6, np.hypot(0.6, 0.52), 0.52]])  # 01, 02, 12
    energy = energy_of(right_angles((0.4, 0.5), (0.6, 0.52))).double().requires_grad_(False)
    assert energy.stiff.tolist() == [0.0, 1.0, 1.0]
    assert energy.size.tolist() == pytest.approx([0.4, 0.0, 0.0], abs=1e-12)
    deviation = (data[1] - data[0]) / np.sqrt(2)
    for a, b in ((0.4, 0.5), (0.6, 0.52), (0.5, 0.51), (0.7, 0.53), (0.9, 0.51), (0.2, 0.48), (0.5, 0.6)):
        distances = np.array([a, np.hypot(a, b), b])
        springs = 0.5 * ((distances - data.mean(0)) / deviation) ** 2
        beyond = np.maximum(distances - data[1], data[0] - distances) / deviation - 1
        walls = np.sum(2 * np.maximum(beyond, 0.0) ** 2)
        expected = springs[1] + springs[2] + (0.4 / a) ** 12 + walls
        assert float(energy(right_angles((a, b)))) == pytest.approx(expected, rel=1e-9)
    # Each of two numbers is 1/sqrt(2) deviations from their mean: a quarter kT for each spring, and 1 of repulsion.
    assert float(energy(right_angles((0.4, 0.5)))) == pytest.approx(0.25 + 0.25 + 1.0, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_springs_join_all_beads_by_the_cheapest_tree(seed):
    """Of all trees, by brute force; other distances have springs if they vary by less than a tenth."""
    rng = np.random.default_rng(seed)
    data = chains(100, 5, seed, spread=0.0)
    scales = 10 ** rng.uniform(-3, -0.7, size=(5, 1))  # of each bead another
    data = data + torch.as_tensor(scales * rng.normal(size=(100, 5, 3)))
    energy, distances = energy_of(data), invariants(data)[:, :10]
    tree = spanning_tree(5, distances.std(0))
    narrow = distances.std(0, ddof=1) < 0.1 * distances.mean(0)
    expected = [float(narrow[k] or k in tree) for k in range(10)]
    assert energy.stiff.tolist() == expected
    np.testing.assert_allclose(
        energy.size, np.where(energy.stiff > 0, 0.0, distances.min(0)), rtol=1e-12, atol=0
    )
    assert sum(expected) >= 4


def test_energies_grow_without_limit():
    """So that exp(-energy) can be normalised: far apart as well as in one place."""
    energy = randomised(energy_of(chains(200, 4)).double())
    beads = chains(20, 4, seed=1)
    for factors in ((3.0, 10.0, 100.0), (0.5, 0.1, 0.01)):
        found = torch.stack([energy(factor * beads) for factor in factors])
        assert (found[0] > energy(beads)).all()
        assert (found[1:] > found[:-1] + 10.0).all()
    assert torch.isfinite(energy(0.0 * beads)).all()


def test_network_is_zero_at_the_start_and_follows_its_seed():
    data, beads = chains(200, 4), chains(20, 4, seed=1)
    state = torch.random.get_rng_state()
    energy, other = energy_of(data), energy_of(data, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not energy.network(energy.invariants(beads).float()).any()
    assert torch.equal(energy(beads), other(beads))
    first = [one.network[0].weight for one in (energy, energy_of(data), other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert [layer.out_features for layer in energy.network[::2]] == [16, 16, 1]
    assert len(energy_of(data, n_hidden=3).network[::2]) == 4


@pytest.mark.parametrize("n_beads", [3, 5])
def test_config_and_state_rebuild_the_energy(n_beads):
    energy, beads = randomised(energy_of(chains(200, n_beads), n_hidden=1)), far_and_near(n_beads)
    again = BeadEnergy.from_config(json.loads(json.dumps(energy.config())))
    assert not torch.equal(again(beads), energy(beads))
    again.load_state_dict(energy.state_dict())
    assert torch.equal(again(beads), energy(beads))
    assert torch.equal(again.exact()(beads), energy.exact()(beads))
    assert (again.temperature, again.n_beads) == (T, n_beads)
    assert again.config() == energy.config()


def test_twin_in_double_precision_agrees():
    """Within 1e-4 kT, and it follows changes of the network and of the prior."""
    data, beads = chains(200, 4), chains(50, 4, seed=1)
    energy = energy_of(data)
    for change in (
        lambda: None,
        lambda: randomised(energy),
        lambda: energy.fit_prior(0.9 * data),
        lambda: energy.invariants.fit(1.05 * data) and energy.fit_prior(data),
    ):
        change()
        twin = energy.exact()
        assert twin.dtype == torch.float64
        assert twin is energy.exact()
        assert twin.exact() is twin
        assert not any(parameter.requires_grad for parameter in twin.parameters())
        exact = twin(beads)
        assert exact.dtype == torch.float64
        assert energy(beads.float()).dtype == torch.float32
        assert (energy(beads.float()) - exact).abs().max() < 1e-4
    energy.set_dtype(torch.float64)
    assert energy.exact() is energy
    np.testing.assert_allclose(energy(beads).detach(), exact, rtol=1e-14)


def test_unit_of_the_potential_is_kilojoule_per_mole():
    """kT is the gas constant of OpenMM times the temperature."""
    energy, beads = randomised(energy_of(chains(200, 4)).double()), chains(20, 4, seed=1)
    potential = BeadPotential(energy)
    reduced = energy(beads.requires_grad_(True))
    (gradient,) = torch.autograd.grad(reduced.sum(), beads)
    found, forces = potential.energy_and_forces(beads)
    np.testing.assert_allclose(found, KT * reduced.detach(), rtol=1e-9)
    np.testing.assert_allclose(forces, -KT * gradient, rtol=1e-9, atol=1e-9)
    assert not found.requires_grad
    assert not forces.requires_grad
    assert potential.n_atoms == 4
    assert potential.n_evaluations == 20
    (by_autograd,) = torch.autograd.grad(potential.energy(beads).sum(), beads)
    assert torch.equal(by_autograd, -forces)
    with torch.no_grad():  # forces all the same
        assert torch.equal(potential.energy_and_forces(beads)[1], forces)
    with pytest.raises(InputError, match=r"shape \(batch, 4, 3\)"):
        potential.energy(beads[:, :3])


def test_parameters_have_no_gradients_of_sampling():
    energy = randomised(energy_of(chains(200, 4)))
    BeadPotential(energy).energy_and_forces(chains(5, 4))
    assert all(parameter.grad is None for parameter in energy.parameters())
    energy(chains(5, 4)).sum().backward()  # control: training has
    assert all(parameter.grad is not None for parameter in energy.network.parameters())


def test_temperatures_may_have_a_unit_and_networks_need_a_layer():
    found = BeadInvariants(3)
    assert BeadEnergy(found, 320 * unit.kelvin).temperature == T
    for bad in ({"hidden_features": 0}, {"n_hidden": 0}):
        with pytest.raises(InputError, match="at least one hidden layer and feature"):
            BeadEnergy(found, T, **bad)
    with pytest.raises(InputError, match="kelvin"):
        BeadEnergy(found, -T)
