"""Exchange through the map of a flow: the map and its determinant, exactness, storage and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openmm import unit
from openmmtools.mcmc import LangevinDynamicsMove
from openmmtools.multistate import MultiStateReporter
from openmmtools.states import SamplerState, ThermodynamicState
from scipy import stats
from torch.autograd.functional import jacobian

from openmm_bg import mcmc
from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.exchange import LearnedReplicaExchangeSampler
from openmm_bg.mcmc.target import Target
from openmm_bg.reproduction.detailed_balance import balance_tests, toy_model
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.units import thermal_energy

COLD, HOT = 1.0, 1.95  # temperatures of the toy


@pytest.fixture(scope="module")
def wells() -> Any:
    return balance_tests()["double well"]


@pytest.fixture(scope="module")
def models(wells: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("toys")
    return {flow: toy_model(folder, wells, flow) for flow in ("spline", "tsf")}


def create(
    model: Path, toy: Any, storage: Path, temperatures: tuple[float, ...] = (COLD, HOT), **settings: Any
) -> LearnedReplicaExchangeSampler:
    move = LangevinDynamicsMove(timestep=1.0 * unit.femtosecond, n_steps=2)
    sampler = LearnedReplicaExchangeSampler(
        model, mcmc_moves=move, number_of_iterations=2, online_analysis_interval=None, **settings
    )
    degrees = [t * UNIT_TEMPERATURE for t in temperatures]
    start = toy.to_positions(toy.sample(1, UNIT_TEMPERATURE, np.random.default_rng(0)))[0]
    sampler.create(
        ThermodynamicState(toy.molecule.system, degrees[0] * unit.kelvin),
        SamplerState(start * unit.nanometer),
        MultiStateReporter(str(storage), checkpoint_interval=1, velocity_interval=0),
        temperatures=degrees * unit.kelvin,
        n_temperatures=len(degrees),
    )
    return sampler


@pytest.mark.parametrize("flow", ["spline", "conditioned", "steerable"])
def test_the_determinant_of_the_map_is_the_ratio_of_densities(
    oscillator_models: dict[str, Path], flow: str
) -> None:
    """By automatic differentiation; and the map back is the inverse."""
    from openmm_bg import BoltzmannGenerator

    q = BoltzmannGenerator.load(oscillator_models[flow], dtype=torch.float64).flow
    generator = torch.Generator().manual_seed(0)
    positions, momenta, _ = q.joint_sample(5, 300.0, generator=generator)
    for x, p in zip(positions, momenta, strict=True):

        def mapped(joint: torch.Tensor) -> torch.Tensor:
            features, _ = q.coordinates.forward(joint[:3].reshape(1, 1, 3))
            z, _ = q.state_forward(torch.cat([features, joint[None, 3:]], dim=1), 300.0 / 298.0)
            z = torch.where(q.circular, z, (450.0 / 300.0) ** 0.5 * z)
            features, momenta = q.parted(q.state_inverse(z, 450.0 / 298.0)[0])
            return torch.cat([q.coordinates.inverse(features)[0].reshape(-1), momenta.reshape(-1)])

        joint = torch.cat([x.reshape(-1), p])
        y, y_momenta, logabsdet = q.transport(x[None], p[None], 300.0, 450.0, frame=x)
        torch.testing.assert_close(torch.cat([y.reshape(-1), y_momenta.reshape(-1)]), mapped(joint))
        expected = torch.linalg.slogdet(jacobian(mapped, joint))[1]
        densities = q.joint_log_prob(x[None], p[None], 300.0) - q.joint_log_prob(y, y_momenta, 450.0)
        for found in (logabsdet, densities):
            assert float(found[0]) == pytest.approx(float(expected), abs=1e-8)
        back = q.transport(y, y_momenta, 450.0, 300.0, frame=x)[0]
        assert (back[0] - x).abs().max() < 1e-9


def test_a_molecule_keeps_its_place_and_leaves_its_domain_as_nan(alanine_model: Path, alanine: Any) -> None:
    from openmm_bg import BoltzmannGenerator

    flow = BoltzmannGenerator.load(alanine_model, dtype=torch.float64).flow
    x = torch.tensor(alanine.positions) + torch.tensor([1.0, 2.0, 3.0])
    none = x.new_zeros(2, 0)
    y, _, logabsdet = flow.transport(torch.stack([x, -x]), none, 600.0, 300.0, frame=x)
    seed = int(flow.coordinates.z_matrix.atoms[0])
    torch.testing.assert_close(y[0, seed], x[seed])
    assert 1e-4 < (y[0] - x).abs().max() < 0.2
    assert torch.isnan(y[1]).all()
    old, new = torch.tensor([600.0, 310.1], dtype=torch.float64), torch.tensor([300.0, 457.3]).double()
    frames = torch.stack([x, -2.0 * x])
    both, _, _ = flow.transport(torch.stack([x, y[0]]), none, old, new, frame=frames)
    for k, one in enumerate((x, y[0])):
        alone, _, _ = flow.transport(one[None], none[:1], float(old[k]), float(new[k]), frame=frames[k])
        torch.testing.assert_close(both[k], alone[0], rtol=0, atol=1e-12)
    densities = flow.joint_log_prob(x[None], none[:1], 600.0) - flow.joint_log_prob(y[:1], none[:1], 300.0)
    torch.testing.assert_close(logabsdet, torch.cat([densities, densities.new_tensor([-torch.inf])]))


def test_a_start_outside_the_domain_is_refused(alanine_model: Path, alanine: Any, tmp_path: Path) -> None:
    sampler = LearnedReplicaExchangeSampler(
        alanine_model, mcmc_moves=LangevinDynamicsMove(n_steps=1), number_of_iterations=1
    )
    mirrored = SamplerState(-np.array(alanine.positions) * unit.nanometer)
    sampler.create(
        ThermodynamicState(alanine.system, 300 * unit.kelvin),
        mirrored,
        MultiStateReporter(str(tmp_path / "run.nc"), velocity_interval=0),
        temperatures=[300, 600] * unit.kelvin,
        n_temperatures=2,
    )
    with pytest.raises(InputError, match="lies outside the domain of the model"):
        sampler._mix_replicas()
    sampler._reporter.close()


def exchanged(
    sampler: LearnedReplicaExchangeSampler, toy: Any, n: int, seed: int
) -> tuple[dict[float, np.ndarray], float]:
    """Exchange n pairs of exact samples; return the ends by temperature, and the fraction accepted."""
    mcmc.seed(seed)
    rng = np.random.default_rng(seed)
    starts = {
        t: toy.to_positions(
            toy.sample(n, t * UNIT_TEMPERATURE, rng),
            rng.normal(size=(n, len(toy.fill_components))) * np.sqrt(t),
        )
        for t in (COLD, HOT)
    }
    ends: dict[float, list] = {COLD: [], HOT: []}
    accepted = 0
    for k in range(n):
        for replica, t in enumerate((COLD, HOT)):
            sampler._sampler_states[replica].positions = starts[t][k] * unit.nanometer
        sampler._replica_thermodynamic_states = np.array([0, 1])
        states = sampler._mix_replicas()
        accepted += sampler._n_accepted_matrix[0, 1]
        assert sampler._n_proposed_matrix[0, 1] == sampler._n_proposed_matrix[1, 0] == 1
        for replica, state in enumerate(states):
            positions = sampler._sampler_states[replica].positions.value_in_unit(unit.nanometer)
            ends[(COLD, HOT)[state]].append(positions)
    return {t: toy.from_positions(np.array(x)) for t, x in ends.items()}, accepted / n


def p_values(toy: Any, ends: dict[float, np.ndarray]) -> list[float]:
    found = []
    for t, x in ends.items():
        for u in (toy.marginal_cdf(x[:, 0], t * UNIT_TEMPERATURE), stats.norm.cdf(x[:, 1] / np.sqrt(t))):
            found.append(float(stats.kstest(u, "uniform").pvalue))
    return found


@pytest.mark.parametrize("flow", ["spline", "tsf"])
def test_exact_samples_stay_exact(
    models: dict[str, Path], wells: Any, flow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = create(models[flow], wells.toy, tmp_path / "run.nc")
    ends, acceptance = exchanged(sampler, wells.toy, 250, seed=1)
    assert 0.2 < acceptance < 0.98
    assert min(p_values(wells.toy, ends)) > 1e-3

    def backwards(proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        return current - proposed

    monkeypatch.setattr(Target, "log_ratios", staticmethod(backwards))
    ends, _ = exchanged(sampler, wells.toy, 250, seed=1)
    assert min(p_values(wells.toy, ends)) < 1e-6
    sampler._reporter.close()


@pytest.mark.parametrize("flow", ["spline", "tsf"])
def test_the_gain_of_each_of_several_maps(
    models: dict[str, Path], wells: Any, flow: str, tmp_path: Path
) -> None:
    """Mapped at once, against the formula with the flow's densities at both ends, one by one."""
    toy, temperatures = wells.toy, (1.0, 1.2, 1.4, 1.7, 1.95)
    sampler = create(models[flow], toy, tmp_path / "run.nc", temperatures)
    rng = np.random.default_rng(3)
    starts = toy.to_positions(
        toy.sample(5, UNIT_TEMPERATURE, rng), rng.normal(size=(5, len(toy.fill_components)))
    )
    for replica, positions in enumerate(starts):
        sampler._sampler_states[replica].positions = positions * unit.nanometer
    q = sampler.generator.flow
    moves = [(0, 0, 3), (3, 3, 0), (2, 4, 1), (4, 1, 4)]
    mcmc.seed(7)
    ends = sampler._map(moves)
    mcmc.seed(7)
    drawn = [sampler._target(old).sample_momenta(1) for _, old, _ in moves]
    for (replica, old, new), end, momenta in zip(moves, ends, drawn, strict=True):
        here, there = (t * UNIT_TEMPERATURE for t in (temperatures[old], temperatures[new]))
        x = torch.tensor(starts[replica])
        y, end_momenta, _ = q.transport(x[None], momenta, here, there, frame=x)
        np.testing.assert_allclose(end.positions, y[0].numpy(), rtol=0, atol=1e-12)
        log_target = []
        for positions, p, kelvins in ((y, end_momenta, there), (x[None], momenta, here)):
            context, _ = sampler.energy_context_cache.get_context(
                ThermodynamicState(toy.molecule.system, kelvins * unit.kelvin)
            )
            context.setPositions(positions[0].numpy())
            energy = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            log_momenta = stats.norm.logpdf(p.numpy(), scale=np.sqrt(kelvins / q.temperature)).sum()
            log_q = float(q.joint_log_prob(positions, p, kelvins)[0])
            log_target.append(-energy / thermal_energy(kelvins) + log_momenta - log_q)
        assert end.gain == pytest.approx(log_target[0] - log_target[1], abs=1e-5)
        assert end.energy == pytest.approx(
            float(there * sampler._target(new).reduced_energies(y)[0]), rel=1e-9
        )
    assert np.ptp([end.gain for end in ends]) > 0.1
    sampler._reporter.close()


def test_several_pairs_keep_their_own_ends(
    models: dict[str, Path], wells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every accepted pair swaps its states, and each replica gets the positions mapped for it, and no other."""
    sampler = create(models["spline"], wells.toy, tmp_path / "run.nc", (1.0, 1.2, 1.4, 1.7))
    known: dict[int, np.ndarray] = {}
    map_all = LearnedReplicaExchangeSampler._map

    def remembered(self: LearnedReplicaExchangeSampler, moves: Any) -> Any:
        ends = map_all(self, moves)
        known.update({replica: end.positions for (replica, _, _), end in zip(moves, ends, strict=True)})
        return ends

    monkeypatch.setattr(LearnedReplicaExchangeSampler, "_map", remembered)
    mcmc.seed(0)
    n_both = 0
    for _ in range(40):
        before = np.array(sampler._replica_thermodynamic_states)
        old = [s.positions.value_in_unit(unit.nanometer).copy() for s in sampler._sampler_states]
        states = sampler._mix_replicas()
        moved = states != before
        n_both += moved.all()
        assert sampler._n_proposed_matrix.sum() == 4
        assert sampler._n_accepted_matrix.sum() == moved.sum()
        for replica in range(4):
            now = sampler._sampler_states[replica].positions.value_in_unit(unit.nanometer)
            np.testing.assert_array_equal(now, known[replica] if moved[replica] else old[replica])
        sampler._replica_thermodynamic_states = states
    assert n_both > 0
    sampler._reporter.close()


def test_it_runs_stores_and_resumes(
    models: dict[str, Path], wells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "run.nc"
    sampler = create(models["spline"], wells.toy, storage, (1.0, 1.4, 1.95), timestep=0.001)
    sampler.run()
    energies = np.array(sampler._energy_thermodynamic_states)
    sampler._reporter.close()
    resumed = LearnedReplicaExchangeSampler.from_storage(
        MultiStateReporter(str(storage), velocity_interval=0)
    )
    assert (resumed._model, resumed._timestep) == (str(models["spline"]), 0.001)
    np.testing.assert_allclose(resumed._energy_thermodynamic_states, energies)
    resumed.extend(3)
    assert resumed.iteration == 5
    resumed._reporter.close()
    monkeypatch.setattr(mcmc.registry, "_models", {})
    (models["spline"] / "model.json").rename(models["spline"] / "away.json")
    try:
        with pytest.raises(ModelFileError):
            LearnedReplicaExchangeSampler.from_storage(MultiStateReporter(str(storage), velocity_interval=0))
    finally:
        (models["spline"] / "away.json").rename(models["spline"] / "model.json")


def test_a_replica_that_was_mapped_has_new_energies_and_velocities(
    models: dict[str, Path], wells: Any, tmp_path: Path
) -> None:
    toy, sampler = wells.toy, create(models["spline"], wells.toy, tmp_path / "run.nc")
    sampler._compute_energies()
    mcmc.seed(0)
    for _ in range(50):
        before = [s.positions.value_in_unit(unit.nanometer).copy() for s in sampler._sampler_states]
        sampler._replica_thermodynamic_states = np.array([0, 1])
        states = sampler._mix_replicas()
        if states[0] == 1:
            break
    assert list(states) == [1, 0]
    assert np.abs(sampler._sampler_states[0].positions.value_in_unit(unit.nanometer) - before[0]).max() > 1e-6
    for replica in (0, 1):
        state = sampler._sampler_states[replica]
        for k, t in enumerate((COLD, HOT)):
            context, _ = sampler.energy_context_cache.get_context(sampler._thermodynamic_states[k])
            state.apply_to_context(context, ignore_velocities=True)
            exact = sampler._thermodynamic_states[k].reduced_potential(context)
            assert sampler._energy_thermodynamic_states[replica, k] == pytest.approx(exact, rel=1e-5), t
        assert state.velocities is not None
    assert toy.molecule.n_atoms == len(state.velocities)
    sampler._reporter.close()


def test_pairs_of_each_scheme(models: dict[str, Path], wells: Any, tmp_path: Path) -> None:
    sampler = create(models["spline"], wells.toy, tmp_path / "run.nc", (1.0, 1.2, 1.4, 1.7, 1.95))
    states = np.array([3, 0, 4, 2, 1])
    mcmc.seed(0)
    seen = set()
    for _ in range(200):
        pairs = sampler._pairs(states)
        assert len(pairs) == 2
        assert len({replica for pair in pairs for replica in pair}) == 4
        seen |= {frozenset(pair) for pair in pairs}
    assert len(seen) == 10
    sampler.replica_mixing_scheme = "swap-neighbors"
    found = {tuple(tuple(sorted(states[[i, j]])) for i, j in sampler._pairs(states)) for _ in range(50)}
    assert found == {((0, 1), (2, 3)), ((1, 2), (3, 4))}
    sampler.replica_mixing_scheme = None
    assert sampler._pairs(states) == []
    sampler._reporter.close()


def test_bad_arguments(alanine_model: Path, wells: Any, models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a model"):
        LearnedReplicaExchangeSampler()
    with pytest.raises(ModelFileError):
        LearnedReplicaExchangeSampler(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"time step must be between 0 and 0\.1 ps, not 0\.5 ps"):
        LearnedReplicaExchangeSampler(alanine_model, timestep=0.5)
    with pytest.raises(InputError, match="atoms"):
        create(alanine_model, wells.toy, tmp_path / "run.nc")
