"""Which files a report takes in, what belongs together, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.model_files import read_header
from openmm_bg.report import write_report
from openmm_bg.report.gather import gather
from openmm_bg.report.search import distinct
from openmm_bg.report.sections import comparison_section, comparison_tables

pytestmark = pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")


def copy_samples(run, folder: Path, name: str = "samples_300K") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".h5", ".csv", ".json"):
        shutil.copy(run.folder / f"samples_300K{suffix}", folder / f"{name}{suffix}")
    return folder / f"{name}.h5"


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def other_molecule(tmp_path) -> Path:
    """A trajectory of chignolin."""
    chignolin = systems.load("chignolin")
    path = tmp_path / "chignolin.h5"
    mdtraj.Trajectory([chignolin.positions] * 2, mdtraj.Topology.from_openmm(chignolin.topology)).save(
        str(path)
    )
    return path


def test_samples_are_known_by_their_mark(run, tmp_path):
    """Not by a JSON file beside them; and those without it are refused, whether named or found."""
    path = copy_samples(run, tmp_path / "old")
    mdtraj.load(str(path)).save(str(path))  # mdtraj drops the mark
    for named in (path, path.parent):
        with pytest.raises(InputError, match=r"samples_300K.h5 is not marked as samples .* sample again"):
            gather([named])
    plain = Path(shutil.copy(run.data / "trajectory.h5", tmp_path / "plain.h5"))
    for text in ("{}", "[]", '{"n_draws": 3}', '{"record": "x"}', "{"):
        plain.with_suffix(".json").write_text(text)
        (one,) = gather([plain]).sets
        assert (one.kind, one.log_weights) == ("simulation", None)


def test_every_file_counts_once(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.folder)
    (tmp_path / "link").symlink_to(run.folder)
    ways = [
        run.folder,
        "samples_300K.h5",
        run.folder / "samples_300K.h5",
        "data",
        "data/trajectory.h5",
        "model",
    ]
    once, often = gather([run.folder]), gather([*ways, tmp_path / "link" / "exchange.nc"])
    assert [one.label for one in often.sets] == [one.label for one in once.sets]
    assert [len(often.models), len(often.exchanges)] == [1, 1]


def test_labels_are_lengthened_until_they_differ(run, tmp_path):
    paths = [copy_samples(run, tmp_path / one / "same") for one in ("x", "y")]
    paths += [copy_samples(run, tmp_path / "z")]
    assert [one.label for one in gather(paths).sets] == [
        "x/same/samples_300K, reweighted", "y/same/samples_300K, reweighted", "z/samples_300K, reweighted",
    ]  # fmt: skip
    # A simulation goes by the name of its directory; in the end numbers help.
    assert distinct(["data", "data"], [Path("/a/data/trajectory.h5"), Path("/b/data")]) == [
        "a/data",
        "b/data",
    ]
    assert distinct(["t", "t", "u"], [Path("/t.dcd"), Path("/t.xtc"), None]) == ["t", "t (2)", "u"]


def test_models_of_the_same_name_have_sections_of_their_own(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "model").mkdir(parents=True)
        shutil.copy(run.model / "log.csv", tmp_path / name / "model")
    (tmp_path / "a-model").mkdir()  # whose identifier would be that of a/model
    shutil.copy(run.model / "log.csv", tmp_path / "a-model")
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model", tmp_path / "a-model"]
    text = write_report(folders, tmp_path / "x.html").read_text()
    for name in ("a/model", "b/model", "a-model"):
        assert f"<h2>Training of {name}</h2>" in text
        assert f"{name}: ESS" in text  # key figures say of which
    ids = [part.split('"')[0] for part in text.split('<section id="')[1:]]
    assert len(ids) == len(set(ids)) == 4
    assert all(f'href="#{name}"' in text for name in ids)


def test_a_set_has_its_colour_everywhere(run):
    sets = gather([run.folder]).sets
    colours = {}
    for one in sets:
        colours.setdefault(one.path if one.kind == "exchange" else one.label, set()).add(one.colour)
    assert all(len(found) == 1 for found in colours.values())  # that of an exchange at all temperatures
    assert len({one.colour for one in sets}) == len(colours) == 5


def test_molecules_that_differ_are_refused(run, other_molecule, tmp_path):
    for first in (run.data, run.model, run.exchange):
        with pytest.raises(InputError, match=r"are of different molecules; make a report of each"):
            gather([first, other_molecule])
    # The same molecule with its residues numbered otherwise is the same.
    renumbered = mdtraj.load(str(run.data / "trajectory.h5"))
    for residue in renumbered.topology.residues:
        residue.resSeq += 10
    renumbered.save(str(tmp_path / "renumbered.h5"))
    contents = gather([run.data, tmp_path / "renumbered.h5"])
    assert len(contents.residues) == 1
    angles = [one.ramachandran[""].phi for one in contents.sets if one.kind == "simulation"]
    np.testing.assert_allclose(*angles, atol=1e-4)


def test_only_the_same_energy_function_is_compared(run, tmp_path):
    """Data and samples of another one, and samples of a model that is nowhere."""
    copy_samples(run, tmp_path)
    (tmp_path / "none").mkdir()
    unknown = copy_samples(run, tmp_path / "none", "unknown")
    record = json.loads(unknown.with_suffix(".json").read_text())["record"]
    change(unknown.with_suffix(".json"), record={**record, "model_hash": "0" * 64})
    contents = gather([run.model, tmp_path / "samples_300K.h5", unknown])
    own = read_header(run.model)["system_hash"]
    assert {one.label: one.system_hash for one in contents.sets} == {
        "samples_300K, reweighted": own, "unknown, 300 K, reweighted": None, "reference, 300 K": own,
    }  # fmt: skip
    (table,) = comparison_tables(contents).values()
    assert list(table["P(phi > 0)"]) == ["reference", "samples_300K, reweighted"]
    (warning,) = comparison_section(contents).warnings
    assert "Not compared at 300 K: unknown, 300 K, reweighted." in warning


def test_different_energy_functions_are_announced(run, tmp_path):
    data = Path(shutil.copytree(run.data, tmp_path / "data"))
    change(data / "provenance.json", system_hash="f" * 64)
    assert len(gather([data, run.folder / "samples_600K.h5"]).energy_functions) == 2
    text = write_report([data, run.model], tmp_path / "x.html").read_text().replace("\u00a0", " ")
    assert "is of 2 different energy functions (force fields)" in text
    assert "Of ffffffff: data, 600 K." in text
    assert (
        "different energy functions"
        not in write_report([run.data, run.model], tmp_path / "y.html").read_text()
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", '{"wall_seconds": 5}', "is not the summary of a run"),
        ("summary.json", '{"record": "x"}', "is not the summary of a run"),
        ("summary.json", '{"n_energy_evaluations_by_stage": {"a": "b"}}', "is not the summary of a run"),
        ("summary.json", '{"n_energy_evaluations": []}', "is not the summary of a run"),
        ("summary.json", "[]", "holds no record"),
        ("model/log.csv", "a,b\n1,2\n", "is not the log of a training"),
        ("model/log.csv", "step\nmany\n", "is not the log of a training"),
        ("data/provenance.json", "[]", "holds no record"),
        ("samples.h5", "nothing", "cannot be read as an HDF5 trajectory"),
        ("exchange.nc", "nothing", "cannot be read as a netCDF file"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(run, tmp_path, name, text, message):
    (tmp_path / "model").mkdir()
    shutil.copy(run.model / "log.csv", tmp_path / "model")
    if name.startswith("data"):
        shutil.copytree(run.data, tmp_path / "data")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        write_report([tmp_path])


def test_records_of_other_kinds_do_no_harm(run, tmp_path):
    data = Path(shutil.copytree(run.data, tmp_path / "data"))
    change(data / "provenance.json", versions="many", date=7, seed=[1], command=None, name=None)
    write_report([data], tmp_path / "x.html")


def test_netcdf_files_of_others(run, tmp_path):
    """AMBER's is passed over beside a run, and a trajectory where it is named."""
    shutil.copytree(run.model, tmp_path / "model")
    frames = mdtraj.load(str(run.data / "trajectory.h5"))
    frames.save_netcdf(str(tmp_path / "amber.nc"))
    assert gather([tmp_path]).sets == []
    (one,) = gather([tmp_path / "amber.nc"], run.model / "topology.pdb").sets
    assert (one.kind, one.n_draws) == ("simulation", len(frames))
    with pytest.raises(InputError, match="give one with --topology"):
        gather([tmp_path / "amber.nc"])
    shutil.copy(run.exchange, tmp_path)
    assert len(gather([tmp_path]).exchanges) == 1
