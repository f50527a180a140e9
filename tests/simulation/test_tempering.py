"""Exchange between walkers, and parallel tempering, on systems with known averages."""

import math

import numpy as np
import pytest
import torch
from toy_potentials import DoubleWell, Harmonic, K, generator

from openmm_bg.errors import InputError
from openmm_bg.simulation import HybridMonteCarlo, LangevinDynamics, ParallelTempering, VelocityVerlet
from openmm_bg.units import thermal_energy

KINDS = {
    "langevin": (LangevinDynamics, {"timestep": 0.002, "friction": 10.0}, 20),
    "hmc": (HybridMonteCarlo, {"timestep": 0.004, "n_leapfrog": 10}, 2),
}


def _walkers(potential, positions, temperature, kind="langevin", seed=0):
    cls, options, _ = KINDS[kind]
    masses = np.resize([12.0, 4.0], np.shape(positions)[1])
    return cls(
        potential, positions, masses, temperature, generator=generator(seed), dtype=torch.float64, **options
    )


def _left_well(temperature):
    grid = np.linspace(-3, 3, 20_001)
    density = np.exp(-(20.0 * (grid**2 - 1) ** 2 + 4.0 * grid) / thermal_energy(temperature))
    return density[grid < 0].sum() / density.sum()


def _start(n_walkers):
    start = np.zeros((n_walkers, 1, 3))
    start[:, 0, 0] = 0.1  # all in the upper well
    return start


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_tempering_has_the_exact_populations(kind):
    """Populations of the wells against numerical integration, at every rung."""
    temperatures, n_ladders, n_steps = [300.0, 500.0, 900.0], 128, KINDS[kind][2]
    walkers = _walkers(DoubleWell(1), _start(3 * n_ladders), np.repeat(temperatures, n_ladders), kind, seed=3)
    sampler = ParallelTempering(walkers, n_ladders=n_ladders)
    for _ in range(150):
        sampler.step(n_steps)
    left = []
    for _ in range(300):
        sampler.step(n_steps)
        left.append((sampler.positions[:, 0, 0] < 0).numpy())
    for rung, temperature in enumerate(temperatures):
        # Ladders are independent: the error is the scatter of their means.
        means = np.array(left)[:, rung * n_ladders : (rung + 1) * n_ladders].mean(0)
        stderr = means.std(ddof=1) / math.sqrt(n_ladders)
        assert abs(means.mean() - _left_well(temperature)) < 3.5 * stderr
        assert stderr < 0.03
    assert (sampler.n_accepted / sampler.n_proposed > 0.2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_exchange_the_same_steps_do_not_reach_equilibrium(kind):
    """The negative control of the test above."""
    alone, means = _walkers(DoubleWell(1), _start(128), 300.0, kind, seed=3), np.zeros(128)
    for _ in range(300):
        alone.step(KINDS[kind][2])
        means += (alone.positions[:, 0, 0] < 0).numpy() / 300
    assert abs(means.mean() - _left_well(300.0)) > 3.5 * means.std(ddof=1) / math.sqrt(128)


def test_exchange_is_accepted_as_often_as_it_should_be():
    """The acceptance is min(1, exp((beta_i - beta_j)(U_i - U_j))), seen from its frequency."""
    positions = torch.zeros(40_000, 2, 3, dtype=torch.float64)
    positions[:20_000, 0, 0], positions[20_000:, 0, 0] = 0.005, 0.015
    walkers = _walkers(Harmonic(2), positions, torch.tensor([300.0, 600.0]).repeat_interleave(20_000))
    pairs = torch.stack([torch.arange(20_000), torch.arange(20_000, 40_000)], 1)
    accepted = walkers.exchange(pairs).double().mean()
    difference = 0.5 * K * (0.005**2 - 0.015**2)
    expected = math.exp((1 / thermal_energy(300) - 1 / thermal_energy(600)) * difference)
    assert 0.1 < expected < 0.9
    assert abs(float(accepted) - expected) < 3.5 * math.sqrt(expected * (1 - expected) / 20_000)


@pytest.mark.parametrize(("drawn_at", "balanced"), [((300.0, 600.0), True), ((330.0, 600.0), False)])
def test_exchange_keeps_detailed_balance_and_the_distributions(drawn_at, balanced):
    """From exact samples: as many pairs become ordered by energy as disordered. Wrong ones must fail."""
    n = 50_000
    sigma = torch.tensor([math.sqrt(thermal_energy(t) / K) for t in drawn_at], dtype=torch.float64)
    noise = torch.randn(2 * n, 1, 3, generator=generator(7), dtype=torch.float64)
    positions = noise * sigma.repeat_interleave(n)[:, None, None]
    walkers = _walkers(Harmonic(1), positions, np.repeat([300.0, 600.0], n))
    ordered = walkers.energy[:n] < walkers.energy[n:]
    accepted = walkers.exchange(torch.stack([torch.arange(n), torch.arange(n, 2 * n)], 1))
    there, back = int((accepted & ordered).sum()), int((accepted & ~ordered).sum())
    assert min(there, back) > 5_000
    assert (abs(there - back) < 3.5 * math.sqrt(there + back)) is balanced
    energies = walkers.energy.double().view(2, n)
    for energy, temperature in zip(energies, (300.0, 600.0), strict=True):
        z = (energy.mean() / thermal_energy(temperature) - 1.5) / math.sqrt(1.5 / n)
        assert abs(z) < 3.5 or not balanced


def test_exchange_swaps_everything_and_rescales_velocities():
    positions = 0.01 * torch.randn(4, 2, 3, generator=generator(1), dtype=torch.float64)
    walkers = _walkers(Harmonic(2), positions, [300.0, 300.0, 600.0, 600.0])
    before = {
        name: getattr(walkers, name).clone() for name in ("positions", "velocities", "energy", "forces")
    }
    assert walkers.exchange(torch.tensor([[1, 0]])).tolist() == [True]  # equal temperatures: always
    order = [1, 0, 2, 3]
    for name, old in before.items():
        assert torch.equal(getattr(walkers, name), old[order])
    walkers.energy = torch.tensor([9.0, 1.0, 0.0, 0.0], dtype=torch.float64)  # up to the hotter: always
    old = walkers.velocities.clone()
    assert walkers.exchange(torch.tensor([[0, 3]])).tolist() == [True]
    assert torch.allclose(walkers.velocities[0], old[3] / math.sqrt(2.0), rtol=1e-14)
    assert torch.allclose(walkers.velocities[3], old[0] * math.sqrt(2.0), rtol=1e-14)
    assert walkers.energy.tolist() == [0.0, 1.0, 0.0, 9.0]
    assert walkers.temperature.tolist() == [300.0, 300.0, 600.0, 600.0]


def test_exchange_does_not_depend_on_the_order_within_a_pair():
    positions = 0.01 * torch.randn(200, 2, 3, generator=generator(1), dtype=torch.float64)
    one, two = (_walkers(Harmonic(2), positions, np.repeat([300.0, 400.0], 100)) for _ in range(2))
    pairs = torch.stack([torch.arange(100), torch.arange(100, 200)], 1)
    accepted = one.exchange(pairs)
    assert 5 < int(accepted.sum()) < 95
    assert torch.equal(accepted, two.exchange(pairs.flip(1)))
    assert torch.equal(one.positions, two.positions)
    assert torch.equal(one.velocities, two.velocities)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 1, 2]], r"shape \(n_pairs, 2\), not \(1, 3\)"),
        ([[0.0, 1.0]], "must be integers"),
        ([[0, 4]], "not there: they are 0 to 3"),
        ([[-1, 2]], "not there"),
        ([[0, 1], [1, 2]], "one pair only"),
        ([[2, 2]], "one pair only"),
        ([[True, False]], "must be integers"),
        ([[0, 1], [2]], "must be integers"),
    ],
)
def test_bad_pairs(pairs, message):
    with pytest.raises(InputError, match=message):
        _walkers(Harmonic(2), np.zeros((4, 2, 3)), 300.0).exchange(pairs)


@pytest.mark.parametrize(
    "pairs", [[], np.zeros((0, 2), dtype=np.int64), torch.zeros(0, 2, dtype=torch.int64)]
)
def test_no_pairs(pairs):
    walkers = _walkers(Harmonic(2), np.zeros((4, 2, 3)), 300.0)
    state = walkers.state()
    accepted = walkers.exchange(pairs)
    assert (accepted.shape, accepted.dtype) == ((0,), torch.bool)
    assert all(np.array_equal(state[name], value) for name, value in walkers.state().items())


def test_unsigned_pairs_are_no_masks():
    positions = 0.01 * torch.randn(4, 2, 3, generator=generator(1), dtype=torch.float64)
    walkers = _walkers(Harmonic(2), positions, 300.0)
    assert walkers.exchange(torch.tensor([[1, 0]], dtype=torch.uint8)).tolist() == [True]
    assert torch.equal(walkers.positions, positions[[1, 0, 2, 3]])


@pytest.mark.parametrize("name", ["exchanges_proposed", "exchanges_accepted", "replicas", "lowest_rung"])
def test_incomplete_and_wrong_states(name):
    sampler = ParallelTempering(_walkers(Harmonic(2), np.zeros((4, 2, 3)), 300.0), n_ladders=2)
    state = sampler.state()
    names = "exchanges_proposed, exchanges_accepted, replicas, lowest_rung"
    message = f"no state of ladders of 2 temperatures: {names} are"
    with pytest.raises(InputError, match=message):
        sampler.restore({key: value for key, value in state.items() if key != name})
    with pytest.raises(InputError, match=message):
        sampler.restore({**state, name: np.zeros(7)})


@pytest.mark.parametrize(
    ("n_walkers", "n_ladders", "message"),
    [
        (5, 2, "do not make"),
        (4, 4, "do not make"),
        (4, 0, "number of ladders must be at least 1, not 0"),
        (4, 2.0, "number of ladders must be a whole number, not 2.0"),
    ],
)
def test_bad_ladders(n_walkers, n_ladders, message):
    with pytest.raises(InputError, match=message):
        ParallelTempering(_walkers(Harmonic(2), np.zeros((n_walkers, 2, 3)), 300.0), n_ladders=n_ladders)


def test_constant_energy_cannot_be_tempered():
    walkers = VelocityVerlet(Harmonic(1), np.zeros((4, 1, 3)), [12.0], velocities=np.zeros((4, 1, 3)))
    with pytest.raises(InputError, match="not VelocityVerlet"):
        ParallelTempering(walkers, n_ladders=2)


def test_replicas_are_followed_through_exchanges():
    """Frozen walkers at known places tell which replica is where; every swap is seen."""
    n_rungs, n_ladders = 4, 50
    start = torch.arange(n_rungs, dtype=torch.float64).repeat_interleave(n_ladders)
    positions = 1e-4 * (1 + start[:, None, None].expand(-1, 2, 3))
    walkers = _walkers(Harmonic(2), positions, np.repeat([300.0, 310.0, 320.0, 330.0], n_ladders))
    ladders = ParallelTempering(walkers, n_ladders=n_ladders)
    for _ in range(20):
        ladders.step(0)
    found = (ladders.positions[:, 0, 0].numpy() / 1e-4 - 1).round().astype(int).reshape(n_rungs, n_ladders)
    assert np.array_equal(ladders.replicas, found)
    assert not np.array_equal(found, np.sort(found, axis=0))
