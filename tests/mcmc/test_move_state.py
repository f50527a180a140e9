"""What a move is: its arguments, its state as openmmtools stores and copies it, and its statistics."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openmm import unit
from openmmtools import utils
from openmmtools.mcmc import LangevinDynamicsMove, MCMCMove, MetropolizedMove, SequenceMove, WeightedMove
from openmmtools.multistate import MultiStateReporter
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.errors import InputError
from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, MultipleTryMove

MOVES = [FlowMove, LatentMonteCarloMove, MultipleTryMove]
every_move = pytest.mark.parametrize("kind", MOVES)
MoveClass = type[FlowMove] | type[LatentMonteCarloMove] | type[MultipleTryMove]


def counters(move: Any) -> dict[str, Any]:
    """Statistics that a long run could have."""
    own = {"step_size": 0.12345678901234567, "n_tuning_left": 10**6}
    values = {"n_accepted": 10**9, "n_proposed": 10**10, "n_nonfinite": 10**8, **own}
    return {name: values[name] for name in move.statistics}


@every_move
def test_it_is_a_move_of_openmmtools_but_not_a_metropolized_one(
    oscillator_model: Path, kind: MoveClass
) -> None:
    assert issubclass(kind, MCMCMove)
    assert kind not in MetropolizedMove.__subclasses__()
    assert isinstance(kind(oscillator_model), kind)
    # openmmtools' own classes claim every object as their instance.
    assert not isinstance(3, kind)
    assert not isinstance(LangevinDynamicsMove(), kind)
    assert not isinstance(kind(oscillator_model), next(other for other in MOVES if other is not kind))


@every_move
@pytest.mark.parametrize("n_proposals", [0, -1, 2.0, "4", None])
def test_a_wrong_number_of_proposals_is_refused(
    oscillator_model: Path, kind: MoveClass, n_proposals: Any
) -> None:
    with pytest.raises(InputError, match="n_proposals must be a positive whole number"):
        kind(oscillator_model, n_proposals=n_proposals)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_candidates": 0}, "n_candidates must be a positive whole number, not 0"),
        ({"n_candidates": 2.0}, "n_candidates must be a positive whole number"),
        ({"rule": "greedy"}, "rule must be 'metropolis' or 'resampling', not 'greedy'"),
    ],
)
def test_wrong_settings_of_multiple_tries_are_refused(
    oscillator_model: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        MultipleTryMove(oscillator_model, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 0}, "step_size must be above 0 and at most 10, not 0"),
        ({"step_size": float("nan")}, "step_size must be above 0"),
        ({"step_size": 11.0}, "step_size must be above 0"),
        ({"step_size": "0.1"}, "step_size must be above 0"),
        ({"displacement": "jump"}, "displacement must be 'diffusion' or 'random_walk', not 'jump'"),
        ({"target_acceptance": 1.0}, "target_acceptance must be between 0 and 1"),
        ({"target_acceptance": None}, "target_acceptance must be between 0 and 1"),
        ({"n_tuning": -1}, "n_tuning must be a whole number"),
        ({"n_tuning": 10.0}, "n_tuning must be a whole number"),
        ({"timestep": 1.0}, "time step must be between 0 and 0.1 ps"),
    ],
)
def test_wrong_settings_of_a_latent_walk_are_refused(
    oscillator_model: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LatentMonteCarloMove(oscillator_model, **settings)


@every_move
def test_every_way_to_name_a_model_gives_the_absolute_path(
    oscillator_model: Path, kind: MoveClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_bg import BoltzmannGenerator

    monkeypatch.chdir(oscillator_model.parent)
    loaded = BoltzmannGenerator.load(oscillator_model)
    expected = str(oscillator_model.resolve())
    for model in (oscillator_model, str(oscillator_model), oscillator_model.name, loaded):
        assert kind(model).model == expected


@every_move
def test_a_generator_that_was_not_saved_is_refused(oscillator_model: Path, kind: MoveClass) -> None:
    from openmm_bg import BoltzmannGenerator

    generator = BoltzmannGenerator(BoltzmannGenerator.load(oscillator_model).flow)
    with pytest.raises(InputError, match=r"save it with generator\.save"):
        kind(generator)
    with pytest.raises(InputError, match="must be the path of a model directory"):
        kind(42)


@every_move
def test_statistics_are_plain_numbers_that_can_be_set(oscillator_model: Path, kind: MoveClass) -> None:
    move = kind(oscillator_model)
    assert np.isnan(move.acceptance_fraction)
    # Under MPI, openmmtools collects statistics from the ranks and sets them on all.
    expected = counters(move)
    move.statistics = {name: np.array([value])[0] for name, value in expected.items()}
    assert move.statistics == expected
    assert {type(value) for value in move.statistics.values()} <= {int, float}
    assert move.acceptance_fraction == 0.1
    assert pickle.loads(pickle.dumps(move.statistics)) == move.statistics


def moves(kind: MoveClass, model: Path) -> dict[str, Any]:
    return {
        "alone": kind(model, n_proposals=3),
        "sequence": SequenceMove([kind(model), LangevinDynamicsMove()]),
        "weighted": WeightedMove([(kind(model), 0.5), (LangevinDynamicsMove(), 0.5)]),
    }


@every_move
@pytest.mark.parametrize("place", ["alone", "sequence", "weighted"])
def test_serialization_is_pickle_equal_as_upstream_demands(
    oscillator_model: Path, kind: MoveClass, place: str
) -> None:
    move = moves(kind, oscillator_model)[place]
    original = pickle.dumps(move)
    restored = utils.deserialize(utils.serialize(move))
    assert pickle.dumps(restored) == original


@every_move
def test_the_state_in_storage_is_small_and_complete(
    oscillator_model: Path, tmp_path: Path, kind: MoveClass
) -> None:
    move = kind(oscillator_model, n_proposals=7, reassign_velocities=True)
    move.statistics = counters(move)
    reporter = MultiStateReporter(str(tmp_path / "moves.nc"), open_mode="w")
    reporter.write_mcmc_moves([move, SequenceMove([move, LangevinDynamicsMove()])])
    text = str(reporter._storage_analysis["mcmc_moves/move0"][0])
    assert len(text.encode()) < 1000
    alone, sequence = reporter.read_mcmc_moves()
    reporter.close()
    for restored in (alone, sequence.move_list[0]):
        assert type(restored) is kind
        assert restored.__getstate__() == move.__getstate__()


@every_move
def test_a_copy_shares_the_model_and_counts_on_its_own(
    oscillator_model: Path, oscillator: Any, kind: MoveClass
) -> None:
    move = kind(oscillator_model)
    duplicate = copy.deepcopy(move)
    assert duplicate.generator is move.generator
    assert {type(value) for value in vars(duplicate).values()} <= {str, int, float, bool, type(None)}
    before = move.statistics
    duplicate.apply(
        ThermodynamicState(oscillator.system, 298 * unit.kelvin), SamplerState(oscillator.positions)
    )
    assert duplicate.n_proposed == duplicate.n_proposals
    assert move.statistics == before


@every_move
def test_random_numbers_come_from_one_seeded_stream(
    oscillator_model: Path, oscillator: Any, kind: MoveClass
) -> None:
    state = ThermodynamicState(oscillator.system, 298 * unit.kelvin)

    def chain(seed: int | None) -> np.ndarray:
        mcmc.seed(seed)
        move, current = kind(oscillator_model), SamplerState(np.zeros((1, 3)) * unit.nanometer)
        move.apply(state, current)
        first = current.positions.value_in_unit(unit.nanometer).copy()
        # A copy goes on with new numbers: no seed travels with the state.
        copy.deepcopy(move).apply(state, current)
        return np.concatenate([first, current.positions.value_in_unit(unit.nanometer)])

    np.testing.assert_array_equal(chain(3), chain(3))
    assert not np.isclose(chain(3), chain(4)).any()
    assert not np.isclose(chain(None), chain(None)).any()
    assert not np.isclose(*chain(3)).any()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(FlowMove, "n_accepted"), (LatentMonteCarloMove, "n_tuning_left"), (MultipleTryMove, "rule")],
)
def test_a_stored_state_with_missing_entries_is_refused(
    oscillator_model: Path, kind: MoveClass, name: str
) -> None:
    stored = kind(oscillator_model).__getstate__()
    del stored[name]
    # openmmtools would swallow a KeyError and hand out a half-built move.
    with pytest.raises(InputError, match=f"{kind.__name__} lacks {name}"):
        kind.__new__(kind).__setstate__(stored)
