"""The latent walk: its determinants and steps, prefetching, and the tuning of its step size."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import LangevinDynamicsMove, SequenceMove
from openmmtools.multistate import MultiStateReporter, ReplicaExchangeSampler
from openmmtools.states import SamplerState, ThermodynamicState
from scipy import stats

from openmm_bg import BoltzmannGenerator, mcmc
from openmm_bg.exchange.record import _prefetched
from openmm_bg.flows import SplineFlow
from openmm_bg.geometry import wrap
from openmm_bg.mcmc import LatentMonteCarloMove, host, proposal_move, registry
from openmm_bg.mcmc import latent_monte_carlo_move as module
from openmm_bg.mcmc.randomness import random_generator
from openmm_bg.mcmc.target import Target
from openmm_bg.transforms import InternalCoordinates, ZMatrix
from openmm_bg.units import thermal_energy

KINDS = ["spline", "real_nvp", "steerable"]


@pytest.fixture
def state(oscillator: Any) -> ThermodynamicState:
    return ThermodynamicState(oscillator.system, 298 * unit.kelvin)


def at_rest(n_atoms: int = 1) -> SamplerState:
    return SamplerState(np.zeros((n_atoms, 3)) * unit.nanometer)


# Determinants and steps


@pytest.mark.parametrize("kind", KINDS)
def test_the_determinant_is_that_of_the_map_to_latents(
    oscillator_models: dict[str, Path], kind: str, rng: np.random.Generator
) -> None:
    """Against autograd, and against the densities: log|dv / d(x, p)| = log q(x, p) - log N(v)."""
    flow = LatentMonteCarloMove(oscillator_models[kind]).generator.flow
    positions = torch.tensor(rng.normal(0, 0.03, (5, 1, 3)))
    momenta = torch.tensor(rng.normal(size=(5, flow.n_momenta)))
    with torch.no_grad():
        z, logabsdet = module._latents(flow, positions, momenta)

    def from_latents(v: torch.Tensor) -> torch.Tensor:
        features, momenta = flow.parted(flow.state_inverse(v[None])[0])
        return torch.cat([flow.coordinates.inverse(features)[0].flatten(), momenta.flatten()])

    jacobians = torch.stack([torch.autograd.functional.jacobian(from_latents, v) for v in z])
    torch.testing.assert_close(logabsdet, -torch.linalg.slogdet(jacobians)[1], rtol=0, atol=1e-9)
    for temperature in (250.0, 350.0):
        densities = flow.joint_log_prob(positions, momenta, temperature)
        densities = densities - flow.base_log_prob(z, flow.ratio(temperature))
        torch.testing.assert_close(logabsdet, densities, rtol=0, atol=1e-9)
    assert kind == "steerable" or logabsdet.std() > 0.01  # it preserves volume, the others do not


@pytest.mark.parametrize("displacement", ["diffusion", "random_walk"])
@pytest.mark.parametrize("kind", ["spline", "conditioned", "real_nvp"])
def test_proposals_are_displaced_latents_with_the_full_ratio(
    oscillator_models: dict[str, Path], oscillator: Any, kind: str, displacement: Any
) -> None:
    move = LatentMonteCarloMove(oscillator_models[kind], step_size=0.7, displacement=displacement)
    flow, temperature = move.generator.flow, 340.0
    state = ThermodynamicState(oscillator.system, temperature * unit.kelvin)
    target = Target(flow, temperature, lambda x: host.reduced_energies(state, x, cache.ContextCache()))
    current = torch.tensor([[0.01, -0.02, 0.005]], dtype=torch.float64)
    no_momenta = torch.zeros(6, 0, dtype=torch.float64)

    mcmc.seed(4)
    with torch.no_grad():
        proposals, proposed, own = move._propose(target, current, 6)
        z, _ = module._latents(flow, current[None], no_momenta[:1], temperature / 298.0)
        z_proposed, _ = module._latents(flow, proposals, no_momenta, temperature / 298.0)
    noise = torch.randn(6, 3, dtype=torch.float64, generator=random_generator().manual_seed(4))
    # There and back again: the latents are those that were displaced.
    noise = math.sqrt(temperature / 298.0) * noise
    kept = math.exp(-(0.7**2) / 2)
    expected = z + 0.7 * noise if displacement == "random_walk" else kept * z + (1 - kept**2) ** 0.5 * noise
    torch.testing.assert_close(z_proposed, expected, rtol=0, atol=1e-9)

    stiffness = oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    candidates = torch.cat([current[None], proposals])
    u = 0.5 * stiffness * candidates.square().sum((1, 2)) / thermal_energy(temperature)
    # With log|d(x, p) / dv| = log N(v) - log q(x, p).
    ratio = flow.ratio(temperature)
    log_jacobian = flow.base_log_prob(torch.cat([z, z_proposed]), ratio) - flow.log_prob(
        candidates, temperature
    )
    log_weights = -u + log_jacobian
    if displacement == "diffusion":  # the ratio of the probabilities to step back and to step forth
        variance = ratio * (1 - kept**2)
        forth = -0.5 * (z_proposed - kept * z).square().sum(1) / variance
        back = -0.5 * (z - kept * z_proposed).square().sum(1) / variance
        log_weights = log_weights + torch.cat([torch.zeros(1), back - forth])
    np.testing.assert_allclose(proposed - own, log_weights[1:] - log_weights[0], rtol=1e-6)


def test_proposals_of_a_molecule_are_displaced_latents(tmp_path: Path, rng: np.random.Generator) -> None:
    """Four atoms in a row with a free torsion, whose latent is an angle; turned and shifted in space."""
    n = 200
    raw = torch.tensor(np.hstack([rng.normal(0.001, 1e-4, (n, 3)), rng.normal(0.3, 0.05, (n, 2))]))
    raw = torch.cat([raw, torch.tensor(rng.uniform(-math.pi, math.pi, (n, 1)))], dim=1)
    bonds, masses = np.array([[0, 1], [1, 2], [2, 3]]), np.full(4, 12.0)
    start = InternalCoordinates(ZMatrix.from_bonds(4, bonds, masses)).inverse(raw[:1])[0][0]
    coordinates = InternalCoordinates.from_reference(start, bonds, masses)
    coordinates.fit(coordinates.inverse(raw)[0])
    flow = SplineFlow(coordinates, 300.0, n_layers=2, hidden_features=8)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    move = LatentMonteCarloMove(BoltzmannGenerator(flow).save(tmp_path / "model"), step_size=1.0)
    flow = move.generator.flow
    assert int(flow.circular.sum()) == 1

    current = start.flip(1) * torch.tensor([1.0, 1.0, -1.0]) + 2.0
    mcmc.seed(4)
    with torch.no_grad():
        proposals, _, _ = move._propose(Target(flow, 400.0, lambda x: np.zeros(len(x))), current, 50)
        z, _ = module._latents(flow, current[None], torch.zeros(1, 0), 4.0 / 3.0)
        z_proposed, _ = module._latents(flow, proposals, torch.zeros(50, 0), 4.0 / 3.0)
        mcmc.seed(4)
        expected = module._displaced(z.expand(50, -1), flow.circular, 1.0, "diffusion", 4.0 / 3.0)
    inside = torch.isfinite(proposals).all(dim=(1, 2))
    assert inside.sum() > 25
    difference = (z_proposed - expected)[inside]
    difference[:, flow.circular] = wrap(difference[:, flow.circular])
    assert difference.abs().max() < 1e-8


def test_steps_of_angles_are_wrapped_and_do_not_depend_on_temperature() -> None:
    z = torch.tensor([[3.1, 3.1, -3.1]], dtype=torch.float64).expand(20000, 3)
    circular = torch.tensor([True, False, True])
    mcmc.seed(2)
    displaced = module._displaced(z, circular, 0.5, "random_walk", 4.0)
    assert displaced[:, circular].abs().max() <= math.pi
    assert displaced[:, 1].max() > 4
    step = displaced - z
    step[:, circular] = wrap(step[:, circular])
    expected = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)
    # A standard deviation of n numbers has a relative standard error of sqrt(1 / 2n).
    assert ((step.std(0) / expected - 1).abs() < 4 / math.sqrt(2 * len(z))).all()
    assert (step.mean(0).abs() < 4 * expected / math.sqrt(len(z))).all()


@pytest.mark.parametrize("step_size", [0.3, 10.0])
def test_a_diffusion_keeps_the_base(step_size: float) -> None:
    """Normal latents of variance 2 and uniform angles; a wide step forgets where it came from."""
    n, ratio = 20000, 2.0
    mcmc.seed(3)
    z = torch.randn(n, 2, dtype=torch.float64, generator=random_generator()) * math.sqrt(ratio)
    z[:, 1] = math.pi * (2 * torch.rand(n, dtype=torch.float64, generator=random_generator()) - 1)
    displaced = module._displaced(z, torch.tensor([False, True]), step_size, "diffusion", ratio)
    assert stats.kstest(displaced[:, 0] / math.sqrt(ratio), "norm").pvalue > 0.01
    assert stats.kstest(displaced[:, 1] / (2 * math.pi) + 0.5, "uniform").pvalue > 0.01
    walked = module._displaced(z, torch.tensor([False, True]), 1.0, "random_walk", ratio)
    assert stats.kstest(walked[:, 0] / math.sqrt(ratio), "norm").pvalue < 1e-4  # the control
    # Both kinds of latents lose their memory as quickly.
    kept = math.exp(-(step_size**2) / 2)
    normal = (displaced[:, 0] * z[:, 0]).mean() / ratio
    circle = torch.cos(displaced[:, 1] - z[:, 1]).mean()
    assert abs(normal - kept) < 4 * math.sqrt(2 / n)
    assert abs(circle - kept) < 4 * math.sqrt(0.5 / n)


# Prefetching


def test_offers_up_to_the_first_acceptance_count_and_the_rest_is_thrown_away(
    oscillator_model: Path, state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = LatentMonteCarloMove(oscillator_model, n_proposals=8, n_tuning=0)
    log_weights = {  # what happens to the proposals of each batch
        4: [-np.inf, -1e9, 0.0, -np.inf],  # two rejected, the third accepted, and one that is never seen
        3: [0.0, 0.0, 0.0],  # the first accepted
        2: [-1e9, -np.inf],  # none accepted
    }
    sizes, starts, remaining = [4, 3, 2, 2], [], []

    def batch_size(self: LatentMonteCarloMove, left: int) -> int:
        remaining.append(left)
        return sizes[len(remaining) - 1]

    def propose(self: Any, target: Any, current: torch.Tensor, n: int) -> tuple[Any, np.ndarray, np.ndarray]:
        starts.append(float(current[0, 0]))
        offset = 10.0 * len(starts) + torch.arange(n, dtype=torch.float64)
        return offset[:, None, None].expand(n, 1, 3), np.array(log_weights[n]), np.zeros(n)

    monkeypatch.setattr(LatentMonteCarloMove, "_batch_size", batch_size)
    monkeypatch.setattr(LatentMonteCarloMove, "_propose", propose)
    current = at_rest()
    move.apply(state, current)
    assert starts == [0.0, 12.0, 20.0, 20.0]
    assert remaining == [8, 5, 4, 2]
    assert current.positions[0, 0].value_in_unit(unit.nanometer) == pytest.approx(20.0)
    assert (move.n_proposed, move.n_accepted, move.n_nonfinite) == (8, 2, 3)


def test_batches_are_twice_as_long_as_the_wait_for_an_acceptance(oscillator_model: Path) -> None:
    move = LatentMonteCarloMove(oscillator_model, n_tuning=100)
    assert move._batch_size(1000) == 8
    move.statistics = move.statistics | {"n_accepted": 9999, "n_proposed": 99996}
    assert move._batch_size(1000) == 20
    assert move._batch_size(5) == 5
    move.statistics = move.statistics | {"n_accepted": 0, "n_tuning_left": 7}
    assert move._batch_size(1000) == 7  # tuning ends after its last proposal
    move.statistics = move.statistics | {"n_tuning_left": 0}
    assert move._batch_size(1000) == 256


def test_the_expected_number_of_energies_is_that_of_prefetching(
    oscillator_models: dict[str, Path], state: ThermodynamicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's record knows only how many proposals were offered and accepted."""
    move = LatentMonteCarloMove(
        oscillator_models["spline"], n_proposals=6, step_size=1.5, displacement="random_walk", n_tuning=0
    )
    counted, exact = [], proposal_move.reduced_energies

    def count(state: ThermodynamicState, positions: torch.Tensor, contexts: cache.ContextCache) -> np.ndarray:
        counted.append(len(positions))
        return exact(state, positions, contexts)

    monkeypatch.setattr(proposal_move, "reduced_energies", count)
    current = at_rest()
    for _ in range(200):
        move.apply(state, current)
    assert 0.15 < move.acceptance_fraction < 0.6
    assert sum(counted) / 200 == pytest.approx(_prefetched(6, move.acceptance_fraction), rel=0.05)
    assert _prefetched(4, 0.0) == pytest.approx(5, abs=0.02)  # one batch
    assert _prefetched(4, 1.0) == 3 + 3 + 3 + 2  # batches of two, of which one is offered; the last is one


# Tuning


@pytest.mark.parametrize(("kind", "step_size"), [("spline", 5.0), ("steerable", 0.01)])
def test_tuning_reaches_its_target_and_ends(
    oscillator_models: dict[str, Path], state: ThermodynamicState, kind: str, step_size: float
) -> None:
    move = LatentMonteCarloMove(
        oscillator_models[kind],
        n_proposals=30,
        step_size=step_size,
        displacement="random_walk",
        target_acceptance=0.4,
        n_tuning=320,
    )
    current = at_rest()
    for _ in range(10):
        move.apply(state, current)
    assert not move.is_tuned
    assert move.n_tuning_left == 20
    move.apply(state, current)
    assert move.is_tuned  # in the middle of the call
    tuned, before = move.step_size, move.statistics
    for _ in range(15):
        move.apply(state, current)
    assert move.step_size == tuned
    accepted = (move.n_accepted - before["n_accepted"]) / (move.n_proposed - before["n_proposed"])
    # 450 proposals, somewhat correlated: two standard errors are 0.05; the step size itself is as uncertain.
    assert accepted == pytest.approx(0.4, abs=0.1)


def test_without_tuning_the_step_size_stays(oscillator_model: Path, state: ThermodynamicState) -> None:
    move = LatentMonteCarloMove(oscillator_model, step_size=0.3, n_tuning=0)
    assert move.is_tuned
    move.apply(state, at_rest())
    assert move.step_size == 0.3


def test_the_step_size_never_leaves_its_bound(oscillator_model: Path, state: ThermodynamicState) -> None:
    move = LatentMonteCarloMove(oscillator_model, step_size=9.9)
    move._tune(np.zeros(50))  # all accepted
    assert move.step_size == 10.0


def test_each_temperature_tunes_for_itself_and_goes_on_after_a_restart(
    oscillator_models: dict[str, Path], oscillator: Any, tmp_path: Path
) -> None:
    """A replica-exchange run that is stored, resumed by another process and extended."""
    states = [ThermodynamicState(oscillator.system, t * unit.kelvin) for t in (260.0, 340.0)]
    move = LatentMonteCarloMove(oscillator_models["steerable"], n_proposals=6, n_tuning=33)
    dynamics = LangevinDynamicsMove(n_steps=2)
    storage = str(tmp_path / "run.nc")
    sampler = ReplicaExchangeSampler(
        mcmc_moves=SequenceMove([move, dynamics]), number_of_iterations=4, online_analysis_interval=None
    )
    sampler.create(states, at_rest(), MultiStateReporter(storage, checkpoint_interval=1))
    sampler.run()
    stored = [sequence.move_list[0].statistics for sequence in sampler.mcmc_moves]
    assert [found["n_tuning_left"] for found in stored] == [9, 9]
    assert stored[0]["step_size"] != stored[1]["step_size"]
    assert move.statistics["n_proposed"] == 0  # the states have copies
    del sampler

    registry.clear()
    resumed = ReplicaExchangeSampler.from_storage(MultiStateReporter(storage, checkpoint_interval=1))
    moves = [sequence.move_list[0] for sequence in resumed.mcmc_moves]
    assert [own.statistics for own in moves] == stored
    resumed.extend(2)
    moves = [sequence.move_list[0] for sequence in resumed.mcmc_moves]
    assert [(own.n_tuning_left, own.n_proposed) for own in moves] == [(0, 36), (0, 36)]
    frozen = [own.step_size for own in moves]
    assert frozen[0] != stored[0]["step_size"]
    resumed.extend(2)
    assert [sequence.move_list[0].step_size for sequence in resumed.mcmc_moves] == frozen
