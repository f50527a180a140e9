"""The commands report and info, and training with TensorBoard's files."""

from __future__ import annotations

import re
import shutil
import sys

from cli_helpers import TRAIN

from openmm_bg.model_files import model_hash


def test_report_of_a_working_directory(run, model, data, tmp_path):
    assert run("sample", model, "-T", "600", "-n", "300", "-q", "-o", tmp_path / "samples.h5").code == 0
    result = run("report", tmp_path, "--title", "My molecule")
    assert (result.code, result.err) == (0, "")
    assert result.out.split() == ["Written:", str(tmp_path / "report.html")]
    text = (tmp_path / "report.html").read_text()
    assert "<h1>My molecule</h1>" in text
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == ["Ramachandran plots", "Potential energies", "Weights", "Training", "Provenance"]
    result = run("report", tmp_path / "samples.h5", model, "-o", tmp_path / "pages" / "some.html")
    assert result.code == 0
    assert (tmp_path / "pages" / "some.html").is_file()


def test_report_of_what_cannot_be_used(refused, model, tmp_path):
    assert "There is no file or directory" in refused("report", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds nothing to report" in refused("report", tmp_path / "empty")
    assert "ends in .html" in refused("report", model, "-o", tmp_path / "report.pdf")
    assert "is a folder" in refused("report", model, "-o", tmp_path / "empty")
    (tmp_path / "samples.h5").write_bytes(b"nothing")
    (tmp_path / "samples.json").write_text("{}")
    assert "cannot be read" in refused("report", tmp_path / "samples.h5")
    shutil.copy(model / "flow.safetensors", model / "potential.safetensors")
    assert "potential.safetensors of the model" in refused("report", model)


def test_info_says_what_a_model_is(run, model):
    result = run("info", model)
    assert (result.code, result.err) == (0, "")
    for pattern in (
        r"kind +SplineFlow +n_layers 2",
        r"parameters +[\d,]+",
        r"molecule +alanine_dipeptide +ACE-ALA-NME",
        r"Z-matrix +22 atoms +21 bonds, 20 angles, 19 torsions",
        r"circular torsions +\d+ +",
        r"temperatures +300 to 800 K",
        r"data +400 frames +of 20 walkers at 600 K",
        r"energy evaluations +[\d,]+",
        r"validation ESS +[\d.]+% +of 100 samples",
        r"files +4 intact",
    ):
        assert re.search(pattern, result.out), pattern
    assert model_hash(model)[:40] in result.out


def test_info_of_what_is_no_model(refused, data, model, tmp_path):
    assert "There is no model in" in refused("info", data)
    assert "There is no model in" in refused("info", tmp_path / "none")
    (model / "topology.pdb").unlink()
    assert "lacks its file topology.pdb" in refused("info", model)


def test_training_writes_event_files(run, refused, data, tmp_path, monkeypatch):
    command = ("train", data, "-o", tmp_path / "logged", "--steps", "4", *TRAIN, "--tensorboard")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        assert "needs the package tensorboard: pip install" in refused(*command)
    assert run(*command).code == 0
    names = [path.name for path in (tmp_path / "logged").iterdir()]
    assert sum(name.startswith("events.out.tfevents") for name in names) == 1
    assert {"log.csv", "model.json"} <= set(names)
