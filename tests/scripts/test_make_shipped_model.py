"""scripts/make_shipped_model.py: what of a model's record goes into the package."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("make_shipped_model")


def test_commands_are_without_places(script):
    record = {
        "command": "/a/b/__main__.py train /c/data -o x/model",
        "data": {"command": "openmm-bg simulate -o /c/data"},
    }
    found = script.without_places(record)
    assert found["command"] == "openmm-bg train data -o model"
    assert found["data"]["command"] == "openmm-bg simulate -o data"
    assert script.without_places({"rounds": [{"round": 0}]}) == {"rounds": [{"round": 0}]}


@pytest.mark.parametrize("kept", [0, 2])
def test_of_rounds_the_table_of_the_kept_one_stays(script, kept):
    rounds = [{"round": k, "pareto_k": 0.1 * k, "table": [{"name": "rg"}]} for k in range(3)]
    found = script.with_one_table({"rounds": rounds, "kept_round": kept, "seed": 1})
    assert [one["round"] for one in found["rounds"] if "table" in one] == [kept]
    assert [one["pareto_k"] for one in found["rounds"]] == [one["pareto_k"] for one in rounds]
    assert found["seed"] == 1
    assert all("table" in one for one in rounds)
    assert script.with_one_table({"seed": 1}) == {"seed": 1}
