"""``openmm-bg anneal``: a run, its record, continuing, and what it refuses."""

import csv
import json

import pytest
from cli_helpers import snapshot

from openmm_bg import BoltzmannGenerator
from openmm_bg.annealing.annealer import Annealer

OPTIONS = ["--steps", "40", "--batch-size", "64", "--round-size", "800", "--temperatures", "3", "--quiet"]
OPTIONS += ["--validation-interval", "20", "--validation-samples", "200", "--rung-ess", "0"]


@pytest.mark.parametrize("options", [(), ("--single",), ("--ais-distributions", "1")])
@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_a_run(run, model, data, tmp_path, options):
    output = tmp_path / "annealed"
    result = run("anneal", model, "-o", output, "-T", "400", "--data", data, *OPTIONS, *options)
    assert result.code == 0, result.err
    for words in ("ESS at 400 K", "poorest region", "energy evaluations", "rungs"):
        assert words in result.out
    generator = BoltzmannGenerator.load(output)
    assert generator.flow.conditioned == (options != ("--single",))
    assert generator.temperature_range[0] == 400.0
    counts = generator.energy_evaluations
    before = BoltzmannGenerator.load(model).energy_evaluations
    assert (counts["simulation"], counts["training"]) == (before["simulation"], before["training"])
    with (output / "annealing.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 40]
    assert int(rows[-1]["energy_evaluations"]) == counts["annealing"]
    text = run("info", output)
    assert text.code == 0
    assert "validation ESS at 400 K" in text.out
    assert run("sample", output, "-n", 200, "-T", 450, "-o", tmp_path / "samples.h5", "-q").code == 0


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_ctrl_c_leaves_a_run_that_the_same_command_continues(run, model, tmp_path, monkeypatch):
    command = ["anneal", model, "-T", "400", *OPTIONS[2:], "--steps", "40", "--reuse", "1.6"]
    step = Annealer._one_step

    def interrupted(self):
        if self.step == 25:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Annealer, "_one_step", interrupted)
    result = run(*command, "-o", tmp_path / "broken")
    assert result.code == 130
    assert "the same command continues" in result.err
    monkeypatch.undo()
    assert run(*command, "-o", tmp_path / "broken").code == 0
    assert run(*command, "-o", tmp_path / "whole").code == 0
    logs = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("whole", "broken")]
    assert logs[0]["sha256"]["flow.safetensors"] == logs[1]["sha256"]["flow.safetensors"]


def test_bad_input(refused, model, data, tmp_path):
    output = tmp_path / "annealed"
    assert "Annealing goes down" in refused("anneal", model, "-o", output, "-T", "600")
    assert "Annealing goes down" in refused("anneal", model, "-o", output, "-T", "700")
    assert "at least 2" in refused("anneal", model, "-o", output, "--temperatures", "1")
    assert "--lowest-share" in refused("anneal", model, "-o", output, "--lowest-share", "1")
    assert "no model in" in refused("anneal", data, "-o", output)
    assert "holds a finished model" in refused("anneal", model, "-o", model)
    assert "is no output of openmm-bg simulate" in refused("anneal", model, "-o", output, "--data", model)
    (model / "flow.safetensors").write_bytes(b"half")
    before = snapshot(tmp_path)
    assert "truncated" in refused("anneal", model, "-o", output)
    assert snapshot(tmp_path) == before
