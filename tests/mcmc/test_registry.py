"""Models are loaded once, and a model that is gone or changed is an error openmmtools does not swallow."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
from openmmtools import utils

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.mcmc import FlowMove, registry


@pytest.fixture
def model(oscillator_model: Path, tmp_path: Path) -> Path:
    """A copy of the oscillator's model that may be damaged."""
    return Path(shutil.copytree(oscillator_model, tmp_path / "model"))


@pytest.fixture
def other_model(model: Path, tmp_path: Path) -> Path:
    """A model of the same system with other parameters."""
    import torch

    from openmm_bg import BoltzmannGenerator

    generator = BoltzmannGenerator.load(model)
    with torch.no_grad():
        next(generator.flow.parameters()).add_(0.5)
    path = tmp_path / "other"
    BoltzmannGenerator(generator.flow).save(path)
    return path


def test_a_model_is_loaded_once_for_all_moves(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmm_bg import BoltzmannGenerator

    loads = []
    load = BoltzmannGenerator.load

    def counting_load(*args: Any, **kwargs: Any) -> Any:
        loads.append(args)
        return load(*args, **kwargs)

    monkeypatch.setattr(BoltzmannGenerator, "load", counting_load)
    first = FlowMove(model)
    second = FlowMove(str(model), n_proposals=2)
    restored = utils.deserialize(utils.serialize(copy.deepcopy(first)))
    assert first.generator is second.generator is restored.generator
    assert len(loads) == 1


def test_a_run_goes_on_with_the_model_it_has_loaded(model: Path) -> None:
    move = FlowMove(model)
    shutil.rmtree(model)
    assert copy.deepcopy(move).generator is move.generator


def _remove(model: Path, other: Path) -> None:
    shutil.rmtree(model)


def _remove_header(model: Path, other: Path) -> None:
    (model / "model.json").unlink()


def _replace(model: Path, other: Path) -> None:
    shutil.rmtree(model)
    shutil.copytree(other, model)


def _truncate(model: Path, other: Path) -> None:
    weights = model / "flow.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


@pytest.mark.parametrize("damage", [_remove, _remove_header, _replace])
def test_restoring_a_move_without_its_model_fails(model: Path, other_model: Path, damage: Any) -> None:
    stored = utils.serialize(FlowMove(model))
    damage(model, other_model)
    registry.clear()  # as in the process that resumes a run
    with pytest.raises(ModelFileError) as caught:
        utils.deserialize(stored)
    # openmmtools turns these two into a warning and a half-built move.
    assert not isinstance(caught.value, KeyError | AttributeError)
    assert str(model) in str(caught.value)
    # mpiplus rebuilds exceptions from their message.
    assert str(type(caught.value)(str(caught.value))) == str(caught.value)


def test_a_truncated_model_is_refused(model: Path, other_model: Path) -> None:
    _truncate(model, other_model)
    with pytest.raises(ModelFileError):
        FlowMove(model)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model directory"):
        FlowMove(tmp_path / "nowhere")
    with pytest.raises(ModelFileError):
        FlowMove(tmp_path)
    with pytest.raises(InputError, match="path of a model directory"):
        FlowMove(None)
