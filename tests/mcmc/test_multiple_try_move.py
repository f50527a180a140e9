"""Multiple tries: the chain is that of its formula, and averages over all candidates are Boltzmann averages."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmtools import cache
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.errors import InputError
from openmm_bg.mcmc import FlowMove, MultipleTryMove, WasteRecycling
from openmm_bg.mcmc.randomness import choose
from openmm_bg.mcmc.target import Target
from openmm_bg.statistics import chain_mean
from openmm_bg.units import thermal_energy

TEMPERATURE = 310.0


@pytest.fixture
def state(oscillator: Any) -> ThermodynamicState:
    return ThermodynamicState(oscillator.system, TEMPERATURE * unit.kelvin)


@pytest.fixture
def stiffness(oscillator: Any) -> float:
    return oscillator.K.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)


@pytest.fixture(scope="module")
def precise() -> cache.ContextCache:
    return cache.ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))


def run(
    move: Any,
    state: ThermodynamicState,
    contexts: cache.ContextCache,
    n_calls: int,
    start: Any = ((0, 0, 0),),
) -> np.ndarray:
    """Return positions [nm] after each call with shape=(n_calls, 3)."""
    current = SamplerState(np.array(start, dtype=float) * unit.nanometer)
    chain = np.empty((n_calls, 3))
    for k in range(n_calls):
        move.apply(state, current, context_cache=contexts)
        chain[k] = current.positions.value_in_unit(unit.nanometer)[0]
    return chain


def log_weights(flow: Any, stiffness: float, x: torch.Tensor) -> np.ndarray:
    """Logarithms of w = exp(-u) / q of a flow without momenta."""
    u = 0.5 * stiffness * x.square().sum(dim=(1, 2)) / thermal_energy(TEMPERATURE)
    with torch.no_grad():
        return (-u - flow.log_prob(x, TEMPERATURE)).numpy()


@pytest.mark.parametrize("rule", ["metropolis", "resampling"])
def test_transition_probabilities_are_those_of_the_formula(
    oscillator_model: Path, stiffness: float, rule: str
) -> None:
    """For fixed candidates, each is chosen as often as Liu, Wong and Liang's or Andrieu's formula says."""
    move = MultipleTryMove(oscillator_model, n_candidates=3, rule=rule)
    log_w = np.array([0.3, -0.2, 1.1, -np.inf])  # of the current configuration and three candidates
    w = np.exp(log_w)
    if rule == "resampling":
        expected = w / w.sum()
    else:
        total = w[1:].sum()
        expected = w / total * np.minimum(1.0, total / (total - w + w[0]))
        expected[0] = 1.0 - expected[1:].sum()
    n = 6_000
    target = Target(move.generator.flow, TEMPERATURE, None)
    counts = np.bincount([move._choose(target, log_w) for _ in range(n)], minlength=4)
    assert counts[3] == 0
    error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(counts / n - expected) <= 4 * error).all()
    other = w / w.sum() if rule == "metropolis" else np.r_[0.0, w[1:] / w[1:].sum()]
    assert (np.abs(counts / n - other) > 4 * error).any()  # the test can tell


def test_a_single_candidate_is_the_flow_move(
    oscillator_models: dict[str, Path], state: ThermodynamicState, precise: cache.ContextCache
) -> None:
    """With one candidate the rule is Metropolis': the same numbers of accepted steps as `FlowMove`, by law."""
    accepted = []
    for kind in (FlowMove, MultipleTryMove):
        mcmc.seed(2)
        settings = {} if kind is FlowMove else {"n_candidates": 1}
        move = kind(oscillator_models["real_nvp"], n_proposals=2000, **settings)
        run(move, state, precise, 2)
        accepted.append(move.acceptance_fraction)
    assert abs(accepted[0] - accepted[1]) < 4 * np.sqrt(2 * accepted[0] * (1 - accepted[0]) / 4000)


def test_the_chance_to_stay_is_that_of_independent_weights(
    oscillator_models: dict[str, Path],
    state: ThermodynamicState,
    stiffness: float,
    precise: cache.ContextCache,
) -> None:
    """Of resampling in equilibrium, with weights of mean one: E_q[sum w^2 / sum w] / (N + 1)."""
    mcmc.seed(3)
    n = 4
    move = MultipleTryMove(oscillator_models["real_nvp"], n, rule="resampling")
    run(move, state, precise, 20)
    move.n_accepted = move.n_proposed = 0
    moved = []
    current = SamplerState(np.zeros((1, 3)) * unit.nanometer)
    for _ in range(800):
        before = move.n_accepted
        move.apply(state, current, context_cache=precise)
        moved.append(move.n_accepted - before)
    flow = move.generator.flow
    drawn, _ = flow.sample(5000 * (n + 1), TEMPERATURE, generator=torch.Generator().manual_seed(9))
    w = np.exp(log_weights(flow, stiffness, drawn))
    w = (w / w.mean()).reshape(-1, n + 1)
    each = (w**2).sum(1) / w.sum(1) / (n + 1)
    expected, error = each.mean(), each.std() / np.sqrt(len(each))
    stay, scatter = chain_mean(1.0 - np.array(moved))
    assert 0.15 < expected < 0.6
    assert abs(stay - expected) < 4 * np.hypot(error, scatter)


def test_recycled_averages_are_boltzmann_averages(
    oscillator_models: dict[str, Path],
    state: ThermodynamicState,
    stiffness: float,
    precise: cache.ContextCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """<x^2> = kT / K and P(x > 0) = 1/2, from theory; and they scatter less than the chain itself."""
    functions = {"x2": lambda x: x[:, 0, 0] ** 2, "right": lambda x: x[:, 0, 0] > 0}
    expected = {"x2": thermal_energy(TEMPERATURE) / stiffness, "right": 0.5}

    def recycle() -> tuple[WasteRecycling, np.ndarray]:
        mcmc.seed(4)
        move = MultipleTryMove(oscillator_models["real_nvp"], n_candidates=16)
        with WasteRecycling(functions) as recycled:
            chain = run(move, state, precise, 400)
        run(move, state, precise, 1)  # not recorded any more
        return recycled, chain

    recycled, chain = recycle()
    for name, exact in expected.items():
        assert len(recycled.series(name, TEMPERATURE)) == 400
        value, stderr = recycled.mean(name, TEMPERATURE * unit.kelvin)
        assert abs(value - exact) < 4 * stderr
        alone = chain_mean(functions[name](chain[:, None, :]))
        assert stderr < 0.7 * alone.stderr

    def without_density(
        self: Target, reduced: np.ndarray, momenta: Any, log_density: np.ndarray
    ) -> np.ndarray:
        return -reduced + 0.0 * log_density

    monkeypatch.setattr(Target, "log_weights", without_density)
    value, stderr = recycle()[0].mean("x2", TEMPERATURE)
    assert abs(value - expected["x2"]) > 8 * stderr


def test_recycling_does_not_mix_energy_functions(
    oscillator_model: Path, oscillator: Any, precise: cache.ContextCache
) -> None:
    """Two compound states at one temperature, a restraint on and off, have no average in common."""
    from openmmtools.states import CompoundThermodynamicState, GlobalParameterState

    class Pull(GlobalParameterState):
        pull = GlobalParameterState.GlobalParameter("pull", standard_value=0.0)

    system = copy.deepcopy(oscillator.system)
    force = openmm.CustomExternalForce("pull*x")
    force.addGlobalParameter("pull", 0.0)
    force.addParticle(0, [])
    system.addForce(force)
    move = MultipleTryMove(oscillator_model, n_candidates=4)

    def apply(pull: float) -> None:
        plain = ThermodynamicState(system, TEMPERATURE * unit.kelvin)
        compound = CompoundThermodynamicState(plain, [Pull(pull=pull)])
        move.apply(compound, SamplerState(np.zeros((1, 3)) * unit.nanometer), context_cache=precise)

    with WasteRecycling({"x": lambda x: x[:, 0, 0]}) as recycled:
        apply(0.0)
        apply(0.0)
        with pytest.raises(InputError, match="different energy functions"):
            apply(1.0)
    assert len(recycled.series("x", TEMPERATURE)) == 2


def test_recycling_says_what_it_lacks(
    oscillator_model: Path, state: ThermodynamicState, precise: cache.ContextCache
) -> None:
    with WasteRecycling({"x": lambda x: x[:, 0, 0]}) as recycled:
        with pytest.raises(
            InputError, match=r"No try was recorded at 310 K; the temperatures \[K\] are: none"
        ):
            recycled.mean("x", TEMPERATURE)
        run(FlowMove(oscillator_model), state, precise, 1)
        with pytest.raises(InputError, match="Is there a MultipleTryMove"):
            recycled.mean("x", TEMPERATURE)
        run(MultipleTryMove(oscillator_model), state, precise, 3)
    with pytest.raises(InputError, match="There is no 'y' among x"):
        recycled.mean("y", TEMPERATURE)
    assert recycled.series("x", TEMPERATURE).shape == (3,)


def test_a_recycled_function_must_have_a_value_for_each_configuration(
    oscillator_model: Path, state: ThermodynamicState, precise: cache.ContextCache
) -> None:
    one_number = WasteRecycling({"mean x": lambda x: x[:, 0, 0].mean()})
    with (
        one_number,
        pytest.raises(InputError, match=r"'mean x' must return one number for each .*shape=\(\)"),
    ):
        run(MultipleTryMove(oscillator_model), state, precise, 1)


def test_indices_are_drawn_in_proportion_to_weights() -> None:
    mcmc.seed(0)
    weights = np.array([1.0, 0.0, 3.0, 6.0])
    with np.errstate(divide="ignore"):
        drawn = np.array([choose(np.log(weights) - 1000.0) for _ in range(10_000)])
    fractions = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(fractions, weights / 10, atol=4 * np.sqrt(0.25 / len(drawn)))
