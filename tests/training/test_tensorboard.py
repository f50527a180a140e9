"""TensorBoard's event files say what log.csv says, also after an interruption."""

import csv
import sys
import warnings

import pytest

from openmm_bg.errors import InputError
from openmm_bg.training import TrainingData, TrainingSettings, train
from openmm_bg.training.tensorboard import TensorBoardLog

ROWS = [
    {"step": step, "seconds": 2.0 * step, "ess": 0.01 * step, "loss_kl": float("nan"), "kl_weight": 0.0}
    for step in (10, 20, 30)
]


def scalars(directory, tag):
    """Read a directory as TensorBoard does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard's dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(directory))
        found.Reload()
    if tag not in found.Tags()["scalars"]:
        return []
    return [(event.step, event.value, event.wall_time) for event in found.Scalars(tag)]


def test_rows_are_written_once(tmp_path):
    log = TensorBoardLog(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for n in (1, 2, 3):
        log.write(ROWS[:n])
    log.close()
    found = scalars(tmp_path, "validation/ess")
    assert [step for step, _, _ in found] == [10, 20, 30]
    assert [value for _, value, _ in found] == pytest.approx([0.1, 0.2, 0.3])
    assert scalars(tmp_path, "loss/reverse_kl") == []  # it was never finite


def test_a_continued_run_replaces_what_it_had_written(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.write(ROWS[:2])  # and then it is killed
    changed = [{**row, "ess": 0.5 + row["ess"]} for row in ROWS]
    again = TensorBoardLog(tmp_path)
    again.write(changed)
    again.close()
    found = scalars(tmp_path, "validation/ess")
    assert [(step, round(value, 6)) for step, value, _ in found] == [(10, 0.6), (20, 0.7), (30, 0.8)]
    times = [time for _, _, time in found]
    assert times[2] - times[0] == pytest.approx(40.0, abs=0.01)  # as the training took


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_training_logs_to_tensorboard(alanine, md_configurations, tmp_path):
    data = TrainingData(
        alanine, md_configurations.positions, md_configurations.energies, 600.0, {"n_walkers": 4}
    )
    settings = TrainingSettings(
        n_steps=20,
        validation_interval=10,
        validation_samples=50,
        n_layers=2,
        hidden_features=8,
        kl_weight=0.0,
    )
    train(data, tmp_path / "model", settings, tensorboard=True)
    with (tmp_path / "model" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    for column, tag in (("held_out_nll", "validation/held_out_nll"), ("loss_ml", "loss/maximum_likelihood")):
        found = scalars(tmp_path / "model", tag)
        assert [step for step, _, _ in found] == [int(row["step"]) for row in rows] == [10, 20]
        assert [value for _, value, _ in found] == pytest.approx([float(row[column]) for row in rows])
    assert (tmp_path / "model" / "model.json").is_file()


def test_without_tensorboard_there_is_one_clear_sentence(alanine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'openmm-bg\[tensorboard\]'"):
        train(None, tmp_path / "model", tensorboard=True)
    assert not (tmp_path / "model").exists()
