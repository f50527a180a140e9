"""What judges the law of steerable flows and the balance of moves can say no; evaluations are counted right."""

import numpy as np
import pytest
import torch
from openmm import unit
from openmmtools.cache import ContextCache
from openmmtools.states import ThermodynamicState

from openmm_bg.flows import SplineFlow, TemperatureSteerableFlow
from openmm_bg.reproduction import detailed_balance as balance
from openmm_bg.reproduction.law import deviation_from_law, sample_p_values
from openmm_bg.reproduction.verification import CHECKS, Sources, failed
from openmm_bg.systems import load
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.transforms import InternalCoordinates


def bent(flow):
    """The flow with random weights: as it is made, it is a normal distribution."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return flow.double()


@pytest.fixture(scope="module")
def coordinates(md_positions):
    system = load("alanine_dipeptide")
    own = InternalCoordinates.from_reference(system.positions, system.bonds, system.masses)
    return own.fit(md_positions)


@pytest.mark.parametrize("coupling", ["spline", "affine"])
def test_steerable_flows_obey_the_law_and_others_do_not(coordinates, md_positions, coupling):
    size = {"n_layers": 4, "hidden_features": 16}
    steerable = bent(TemperatureSteerableFlow(coordinates, 600.0, n_momenta=6, coupling=coupling, **size))
    others = bent(SplineFlow(coordinates, 600.0, **size))
    assert deviation_from_law(steerable, md_positions[:50], 0.3, 0) < 1e-12
    assert deviation_from_law(others, md_positions[:50], 0.3, 0) > 1e-3
    found = sample_p_values(steerable, 0.5, 3000, 0)
    assert min(found["latents"], found["density"]) > 0.01
    assert sample_p_values(steerable, 0.5, 3000, 0, judged_at=0.75)["latents"] < 1e-6
    assert sample_p_values(steerable, 0.5, 3000, 0, judged_at=0.75)["density"] < 1e-6
    # Latents alone would not tell: a flow that changes volume sends its samples back to where they came from.
    found = sample_p_values(others, 0.5, 3000, 0)
    assert found["latents"] > 0.01
    assert found["density"] < 1e-6


@pytest.mark.parametrize("move", list(balance.MOVES))
def test_a_wrong_ratio_is_noticed(tmp_path_factory, move):
    test = balance.balance_tests()["double well"]
    model = balance.toy_model(tmp_path_factory.getbasetemp() / "balance", test, "tsf-affine")
    exact = balance.judge_balance(test, model, move, n=20, n_seeds=2)
    assert exact["moved"] > 0.3
    assert min(exact["pooled"].values()) > 1e-4
    assert exact["uniformity"].keys() == exact["pooled"].keys() == {
        "KS, x1", "chi-square, x1", "KS, x2", "chi-square, x2"
    }  # fmt: skip
    with balance.wrong_ratio(move):
        wrong = balance.judge_balance(test, model, move, n=210, n_seeds=2)
    assert min(wrong["pooled"].values()) < 1e-6


@pytest.mark.parametrize("name", list(balance.balance_tests()))
def test_exact_samples_pass_and_warmer_ones_fail(name):
    test = balance.balance_tests()[name]
    rng = np.random.default_rng(0)
    x = test.toy.sample(2000, UNIT_TEMPERATURE, rng)
    assert min(balance.p_values(test.uniforms(x)).values()) > 1e-3
    x = test.toy.sample(2000, 1.2 * UNIT_TEMPERATURE, rng)
    assert min(balance.p_values(test.uniforms(x)).values()) < 1e-4


@pytest.mark.parametrize("name", list(balance.balance_tests()))
def test_toys_serve_the_integrator_of_openmmtools(name):
    """Whose own variables must not collide with the forces' parameters."""
    state = ThermodynamicState(balance.balance_tests()[name].toy.molecule.system, 120 * unit.kelvin)
    ContextCache().get_context(state)


def test_results_that_are_missing_are_named(tmp_path):
    sources = Sources(tmp_path / "a", tmp_path / "b", tmp_path / "results", tmp_path / "work")
    for name in ("seed_000", "mixture", "alanine"):
        with pytest.raises(ValueError, match="is missing"):
            list(CHECKS[name](sources))


def test_goals_and_findings_do_not_fail():
    rows = [{"holds": False, "goal": True}, {"holds": False, "finding": True}, {"holds": True}]
    assert failed(rows) == []
    assert failed([*rows, {"holds": False}]) == [{"holds": False}]
