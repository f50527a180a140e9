"""The commands coarse-grain and backmap: whole runs, killed and continued ones, and what is refused."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from openmm_bg import cli
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.errors import InputError
from openmm_bg.io import load_samples, read_frames
from openmm_bg.report.commands import sample_command

SIZE = ("--steps", "30", "--layers", "2", "--hidden-features", "8", "--energy-features", "8")
SAMPLING = (
    "--round-samples",
    "64",
    "--walkers",
    "32",
    "--rungs",
    "2",
    "--rounds",
    "1",
    "--round-steps",
    "10",
)
BRIEF = ("--burn-in", "20", "--interval", "5")
SMALL = (*BRIEF, *SIZE, *SAMPLING, "--batch-size", "32", "--quiet")


@pytest.fixture(scope="module")
def coarse_model(finished_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("coarse") / "model"
    assert cli.run(["coarse-grain", str(finished_data), "-o", str(path), *SMALL]) == 0
    return path


def test_info_says_what_a_model_is(coarse_model, capsys):
    model = CoarseGrainedGenerator.load(coarse_model)
    assert cli.run(["info", str(coarse_model)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "beads 6 atoms: ACE1-C, ALA2-N, ALA2-CA, ALA2-C, NME3-N, NME3-C" in text
    assert "the beads fix 18 of 66" in text
    for part in (model.flow, model.energy):
        assert f"{sum(p.numel() for p in part.parameters()):,} parameters" in text
    assert f"{model.record['rounds'][-1]['effective_sample_size']:.1%}" in text
    assert model.record["date"] in text


def test_info_of_a_damaged_model(coarse_model, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(coarse_model, broken)
    networks = broken / "networks.safetensors"
    networks.write_bytes(networks.read_bytes()[:-10])
    assert cli.run(["info", str(broken)]) == 2
    assert "networks.safetensors" in capsys.readouterr().err


def test_a_model_knows_how_it_was_made(coarse_model):
    model = CoarseGrainedGenerator.load(coarse_model)
    assert repr(model) == "<CoarseGrainedGenerator of alanine_dipeptide: LinearMap to 6 beads, 600 K>"
    assert model.record["map"]["atoms"] == "name N CA C"
    # The caps' atoms have these names, too: acetyl C, N, CA, C of alanine, and N and C of methylamide.
    assert model.coarse_map.anchors.tolist() == [4, 6, 8, 14, 16, 18]
    rounds = model.record["rounds"]
    assert [one["round"] for one in rounds] == [0, 1]
    assert {line["name"] for line in rounds[0]["table"]} >= {
        "potential energy",
        "radius of gyration",
        "cos(phi)",
    }
    # Energies of the data with forces, of the samples of two rounds and as many of higher temperatures, and of the
    # flow's draws after 9 of 30 steps.
    draws = (30 - 9 + 10) * 32
    assert model.record["training"]["n_energy_evaluations"] == 400 + 2 * (64 + 64) + draws
    assert not (coarse_model / "checkpoint.safetensors").exists()
    assert (coarse_model / "log.csv").read_text().startswith("step,round,likelihood")


def test_samples_have_weights_and_walkers(run, coarse_model, tmp_path):
    result = run("backmap", coarse_model, "-o", tmp_path / "samples.h5", "-n", "96", "-q")
    assert result.code == 0
    assert "along the chains of 32 walkers" in result.out
    samples = load_samples(tmp_path / "samples.h5")
    assert (len(samples), samples.n_walkers, samples.normalized) == (96, 32, False)
    summary = json.loads((tmp_path / "samples.json").read_text())
    assert "free_energy_kT" not in summary
    frames = read_frames(tmp_path / "samples.h5")
    assert frames.n_walkers == 32
    direct = CoarseGrainedGenerator.load(coarse_model).sample(96, seed=0)
    np.testing.assert_allclose(samples.log_weights, direct.log_weights, atol=1e-8)
    # Readers of samples take them, with errors from the walkers.
    files = (tmp_path / "samples.h5", "-o", tmp_path / "plots")
    assert run("observables", *files, "--observable", "rg").code == 0


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_report_of_a_model_with_its_samples(run, coarse_model, tmp_path):
    assert run("backmap", coarse_model, "-o", tmp_path / "samples.h5", "-n", "96", "-q").code == 0
    result = run("report", tmp_path / "samples.h5", coarse_model, "-o", tmp_path / "report.html")
    assert result.code == 0, result.err
    page = (tmp_path / "report.html").read_text()
    headings = re.findall("<h2>([^<]*)</h2>", page)
    assert {"Coarse-grained model", "Weights", "Potential energies", "Provenance"} <= set(headings)
    header = json.loads((coarse_model / "model.json").read_text())
    last = header["record"]["rounds"][header["record"]["kept_round"]]
    for text in (
        f"{last['effective_sample_size']:.2%}",  # in the table of rounds
        f"{last['effective_sample_size']:.1%}",  # on top
        "ESS by the data",
        f"{last['data_effective_sample_size']:.2%}",
        "mean square of radius of gyration (nm²)",
        "cos(2 phi)",
    ):
        assert text in page
    # The observable that deviates most comes first.
    names = re.findall(r"<th[^>]*>(?:mean square of )?([^<(]*(?:\([^)]*\))?)[^<]*</th>", page)
    worst = max(last["table"], key=lambda line: abs(_deviation(line)))
    listed = [name.strip() for name in names if name.strip() in {line["name"] for line in last["table"]}]
    assert listed[0] == worst["name"]


def _deviation(line):
    return (line["weighted"] - line["reference"]) / np.hypot(
        line["weighted_stderr"], line["reference_stderr"]
    )


def test_report_of_a_training_under_way(run, coarse_model, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(coarse_model / "log.csv", begun)
    result = run("report", begun, "-o", tmp_path / "report.html")
    assert result.code == 0, result.err
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Coarse-grained model</h2>" in page
    assert "is not finished" in page


def test_beads_of_given_frames_are_kept(run, coarse_model, finished_data, tmp_path):
    given = ("--beads", finished_data, "-n", "40", "--tries", "2", "-q")
    result = run("backmap", coarse_model, "-o", tmp_path / "s.h5", *given)
    assert result.code == 0, result.err
    samples, frames = load_samples(tmp_path / "s.h5"), read_frames(finished_data)
    beads = CoarseGrainedGenerator.load(coarse_model).coarse_map.beads
    made = np.isfinite(samples.log_weights)  # in the place of others stands any configuration
    assert (len(samples), samples.n_walkers) == (40, 20)
    assert made.sum() > 20
    assert (beads(samples.positions) - beads(frames.positions[:40]))[made].abs().max() < 1e-5
    assert "along the chains of 20 walkers" in result.out
    assert "fewer than" not in result.out
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["record"]["beads"] == str(finished_data)
    command = sample_command(tmp_path / "s.h5", {**summary, **summary["record"]})
    assert command.split()[:5] == ["openmm-bg", "backmap", str(coarse_model), "--beads", str(finished_data)]
    assert "--tries 2" in command


@pytest.mark.parametrize(("options", "n"), [((), 400), (("-n", "59"), 40)])
def test_all_frames_are_taken_and_as_many_of_each_walker(
    run, coarse_model, finished_data, tmp_path, monkeypatch, options, n
):
    module = sys.modules["openmm_bg.cli.backmap"]  # by attributes, the name is that of the command
    monkeypatch.setattr(module, "_NUMBER", 100)  # of beads that are sampled
    given = ("--beads", finished_data, *options)
    assert run("backmap", coarse_model, "-o", tmp_path / "s.h5", *given, "-q").code == 0
    assert len(load_samples(tmp_path / "s.h5")) == n


@pytest.mark.parametrize(
    "options",
    [
        ("--map", "residues"),
        ("--map", "learned", "--beads", "5"),
        ("--noisy",),
        ("--noisy", "--map", "residues"),
        ("--flow", "autoregressive", "--reverse-weight", "0.5", "--own-start", "0.1"),
        ("--map", "residues", "--flow", "autoregressive"),
    ],
)
@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_other_maps(run, finished_data, tmp_path, options, monkeypatch):
    monkeypatch.setattr("openmm_bg.coarse_graining.choices._STEPS", 20)
    monkeypatch.setattr("openmm_bg.coarse_graining.choices._TURN_STEPS", 4)
    monkeypatch.setattr("openmm_bg.coarse_graining.choices._TURNS", 1)
    model = tmp_path / "model"
    small = [*SMALL, "--rounds", "0"]
    result = run("coarse-grain", finished_data, "-o", model, *small, *options)
    assert result.code == 0, result.err
    assert run("backmap", model, "-o", tmp_path / "samples.h5", "-n", "32", "-q").code == 0
    kind = json.loads((model / "model.json").read_text())["map"]["kind"]
    assert kind == ("NoisyMap" if "--noisy" in options else "LinearMap")
    result = run("info", model)
    assert result.code == 0, result.err
    text = " ".join(result.out.split())
    flow = CoarseGrainedGenerator.load(model).flow
    assert type(flow).__name__.lower().startswith("autoregressive" if "--flow" in options else "coupling")
    assert f"{sum(p.numel() for p in flow.parameters()):,} parameters {type(flow).__name__}: " in text
    assert len(text) < 4000  # no lists of atoms
    chosen = options[options.index("--map") + 1] if "--map" in options else "atoms"
    n_beads = {"residues": 3, "learned": 5}.get(chosen, 6)
    fixed = "no coordinate" if kind == "NoisyMap" else f"{3 * n_beads} of 66 coordinates"
    assert f"{kind} the beads fix {fixed} of the atoms" in text
    assert f"backmapped atoms {22 if kind == 'NoisyMap' else 22 - n_beads} " in text
    assert ("pieces" in text) == ("learned" in options)
    # Options that the map does not have are not named.
    assert ("atoms name N CA C" in text) == ("--map" not in options)
    assert ("n_beads" in text) == ("by_atom" in text) == ("learned" in options)
    result = run("report", tmp_path / "samples.h5", model, "-o", tmp_path / "report.html")
    assert result.code == 0, result.err
    assert f"<td>{kind}</td>" in (tmp_path / "report.html").read_text()


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_rounds_of_the_bead_potential_alone(run, finished_data, tmp_path):
    model = tmp_path / "model"
    rounds = ("--frozen-flow", "--round-tries", "2", "--round-learning-rate", "1e-3")
    assert run("coarse-grain", finished_data, "-o", model, *SMALL, *rounds).code == 0
    settings = CoarseGrainedGenerator.load(model).record["settings"]
    assert (settings["frozen_flow"], settings["round_tries"]) == (True, 2)
    with (model / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["likelihood"] == "nan" for row in rows] == [
        False,
        True,
    ]  # after the steps, and after the round
    assert rows[0]["held_out_likelihood"] != "nan"
    result = run("report", model, "-o", tmp_path / "report.html")
    assert result.code == 0, result.err
    page = (tmp_path / "report.html").read_text()
    assert "Held out:" in page
    assert ">nan<" not in page
    text = " ".join(run("info", model).out.split())
    assert "flow in rounds as it is" in text
    assert "Free energies of the atoms around given beads" in page
    assert "and the potential alone in rounds" in page
    assert "of the flow&#39;s own draws" in page or "of the flow's own draws" in page
    assert re.search(r"Observables of round [01] against the data", page)
    assert "draws of 2 tries" in page


def test_a_learned_map_is_not_learned_again(run, refused, finished_data, tmp_path, monkeypatch):
    monkeypatch.setattr("openmm_bg.coarse_graining.choices._STEPS", 4)
    monkeypatch.setattr("openmm_bg.coarse_graining.choices._TURNS", 0)
    model, command = tmp_path / "model", ["coarse-grain", finished_data, "-o", tmp_path / "model", *SMALL]
    learned = [*command, "--rounds", "0", "--map", "learned", "--beads", "5"]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("openmm_bg.coarse_graining.training._Trainer._train", interrupt)
        assert run(*learned).code == 130
    assert [path.name for path in model.iterdir()] == ["checkpoint.safetensors"]
    monkeypatch.setattr("openmm_bg.coarse_graining.choices.learn_map", lambda *_, **__: pytest.fail("learns"))
    message = refused(*learned[:-1], "4")
    assert "an interrupted training of another model or with other data or settings (n_beads)" in message
    result = run(*learned)
    assert result.code == 0, result.err
    assert not (model / "checkpoint.safetensors").exists()
    assert "holds a finished model" in refused(*learned)


def test_a_killed_training_is_continued_to_the_same_model(finished_data, coarse_model, tmp_path):
    """Killed after a checkpoint, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "openmm_bg.cli",
        "coarse-grain",
        str(finished_data),
        "-o",
        str(tmp_path / "m"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENMM_BG_THREADS": "1"}
    with subprocess.Popen([*command, *SMALL], env=environment) as process:
        while not (tmp_path / "m" / "checkpoint.safetensors").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    if not (tmp_path / "m" / "model.json").exists():
        assert cli.run([str(word) for word in [*command[3:], *SMALL]]) == 0
    one, other = (CoarseGrainedGenerator.load(path) for path in (coarse_model, tmp_path / "m"))
    for a, b in zip(one.flow.state_dict().values(), other.flow.state_dict().values(), strict=True):
        assert (a.double() - b.double()).abs().max() < 1e-5
    assert one.record["rounds"][1]["largest_deviation"] == pytest.approx(
        other.record["rounds"][1]["largest_deviation"], rel=1e-2
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--flow", "splines"),
            "There is no backmapping flow 'splines'; there are couplings, autoregressive",
        ),
        (("--flow", "autoregressive", "--noisy"), "with a noisy map choose couplings (--flow couplings)"),
        (("--reverse-weight", "-1"), "--reverse-weight must not be negative"),
        (("--own-start", "2"), "--own-start must be between 0 and 1"),
        (("--even-fraction", "-0.1"), "--even-fraction must be between 0 and 1"),
        (("--map", "beads"), "There is no map 'beads'; the maps are atoms, residues, learned"),
        (("--atoms", "name QQ"), "names 0 atoms of alanine_dipeptide; at least three are needed"),
        (("--atoms", "nonsense ("), "is no selection of atoms"),
        (("--map", "residues", "--atoms", "name CA"), "(--atoms) is for the map 'atoms' only"),
        (("--beads", "5"), "(--beads) is for the map 'learned' only"),
        (("--by-atom",), "(--by-atom) is for the map 'learned' only"),
        (("--map", "learned", "--beads", "30"), "more beads"),
        (("--map", "learned", "--beads", "2"), "at least three"),
        (("--steps", "0"), "--steps must be positive"),
        (("--ratio", "0.9"), "ratio of the temperatures must be above 1"),
    ],
)
def test_bad_options_are_refused(refused, finished_data, tmp_path, options, message):
    assert message in refused("coarse-grain", finished_data, "-o", tmp_path / "m", *SMALL, *options)


def test_bad_files_are_refused(refused, run, finished_data, coarse_model, finished_model, tmp_path):
    assert "no provenance.json" in refused("coarse-grain", tmp_path, "-o", tmp_path / "m")
    assert "holds a finished model" in refused("coarse-grain", finished_data, "-o", coarse_model, *SMALL)
    message = refused("backmap", finished_model, "-o", tmp_path / "s.h5")
    assert "a CoarseGrainedGenerator is needed here. Draw from it with openmm-bg sample" in message
    message = refused("sample", coarse_model, "-o", tmp_path / "s.h5")
    assert "a BoltzmannGenerator is needed here. Draw from it with openmm-bg backmap" in message
    assert "ends in .h5" in refused("backmap", coarse_model, "-o", tmp_path / "s.dcd")
    assert "at least 1" in refused("backmap", coarse_model, "-o", tmp_path / "s.h5", "-n", "0")
    given = ("backmap", coarse_model, "-o", tmp_path / "s.h5", "--beads", finished_data)
    assert "--interval is for sampled beads only" in refused(*given, "--interval", "5")
    assert "are of 20 walkers; take at least as many, not 10" in refused(*given, "-n", "10")
    assert "greater than or equal to 1" in refused(*given, "--tries", "0")
    sampled = ("backmap", coarse_model, "-o", tmp_path / "s.h5")
    assert "greater than or equal to 1" in refused(*sampled, "--interval", "0")


def test_more_samples_than_given_frames_are_none(run, coarse_model, finished_data, tmp_path):
    n = len(read_frames(finished_data))
    result = run(
        "backmap", coarse_model, "-o", tmp_path / "s.h5", "--beads", finished_data, "-n", str(n + 1), "-q"
    )
    assert result.code == 0, result.err
    assert f"has {n} frames, fewer than {n + 1}: one sample is drawn for each" in " ".join(result.out.split())
    assert len(load_samples(tmp_path / "s.h5")) == n


@pytest.mark.parametrize(
    ("output", "other"), [("trajectory.h5", "trajectory.h5"), ("provenance.h5", "provenance.json")]
)
def test_other_files_are_not_overwritten(refused, coarse_model, data, output, other):
    message = refused("backmap", coarse_model, "-o", data / output, "--beads", data, "-q")
    assert f"{other} is no file of samples, and would be overwritten; give another name." in message


def test_samples_are_overwritten_by_others(run, coarse_model, data, tmp_path):
    for n in (20, 40):
        given = ("--beads", data, "-n", n, "-q")
        assert run("backmap", coarse_model, "-o", tmp_path / "s.h5", *given).code == 0
    assert len(load_samples(tmp_path / "s.h5")) == 40


def test_what_is_left_of_samples_may_be_overwritten(run, coarse_model, data, tmp_path):
    """Of a truncated file, or of one that was deleted."""
    given = ("--beads", data, "-n", 20, "-q")
    path = tmp_path / "s.h5"
    assert run("backmap", coarse_model, "-o", path, *given).code == 0
    path.write_bytes(path.read_bytes()[:2000])
    assert run("backmap", coarse_model, "-o", path, *given).code == 0
    assert len(load_samples(path)) == 20
    path.unlink()
    assert run("backmap", coarse_model, "-o", path, *given).code == 0


def test_reading_says_what_is_wrong_with_a_file(run, coarse_model, data, tmp_path):
    """And nothing of overwriting it."""
    path = tmp_path / "s.h5"
    assert run("backmap", coarse_model, "-o", path, "--beads", data, "-n", 20, "-q").code == 0
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cannot be read as a trajectory; it may be truncated"):
        load_samples(path)
    path.unlink()
    with pytest.raises(InputError, match=r"There is no file .*s\.h5"):
        load_samples(path)
    with pytest.raises(InputError, match=r"has lost its weights: there is no file .*trajectory\.csv"):
        load_samples(data / "trajectory.h5")


def test_frames_without_a_topology_have_the_models(run, coarse_model, finished_data, tmp_path):
    import mdtraj

    trajectory = mdtraj.load(str(finished_data / "trajectory.h5"))[:30]
    trajectory.save_xtc(str(tmp_path / "frames.xtc"))
    result = run(
        "backmap",
        coarse_model,
        "-o",
        tmp_path / "s.h5",
        "--beads",
        tmp_path / "frames.xtc",
        "-q",
        "--tries",
        "2",
    )
    assert result.code == 0, result.err
    samples = load_samples(tmp_path / "s.h5")
    beads = CoarseGrainedGenerator.load(coarse_model).coarse_map.beads
    made = np.isfinite(samples.log_weights)
    assert made.sum() > 10
    assert (beads(samples.positions) - beads(trajectory.xyz))[made].abs().max() < 2e-3  # of the compression


@pytest.mark.parametrize(("k", "warns"), [(0.9, True), (0.5, False), ("Infinity", True)])
def test_beads_that_were_worthless_in_training_are_warned_of(
    run, coarse_model, finished_data, tmp_path, k, warns
):
    model = shutil.copytree(coarse_model, tmp_path / "model")
    header = json.loads((model / "model.json").read_text())
    header["record"]["rounds"][header["record"]["kept_round"]]["pareto_k"] = k
    (model / "model.json").write_text(json.dumps(header))
    result = run("backmap", model, "-o", tmp_path / "s.h5", "-n", "32", "-q")
    text = " ".join(result.out.split())
    assert ("so that their weights said nothing; give beads of a simulation (--beads)" in text) is warns
    given = run("backmap", model, "-o", tmp_path / "g.h5", "--beads", finished_data, "-n", "20", "-q")
    assert "said nothing" not in given.out


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_without_a_dispersion_nothing_is_drawn(run, finished_data, tmp_path):
    model = tmp_path / "model"
    small = [*SMALL, "--rounds", "0", "--dispersion-weight", "0"]
    assert run("coarse-grain", finished_data, "-o", model, *small).code == 0
    with (model / "log.csv").open() as file:
        assert {row["own_dispersion"] for row in csv.DictReader(file)} == {"nan"}
    assert run("report", model, "-o", tmp_path / "report.html").code == 0
    page = (tmp_path / "report.html").read_text()
    assert "draws of the flow itself did not count" in page
    assert "of the flow&#x27;s own draws" not in page
    assert "of the flow's own draws" not in page
    # Energies of the data, of the samples, and of as many of higher temperatures, and of no draw.
    record = CoarseGrainedGenerator.load(model).record
    assert record["training"]["n_energy_evaluations"] == 400 + 64 + 64


def test_damaged_models_are_refused(refused, coarse_model, tmp_path):
    broken = shutil.copytree(coarse_model, tmp_path / "model")
    content = (broken / "networks.safetensors").read_bytes()
    (broken / "networks.safetensors").write_bytes(content[: len(content) // 2])
    assert "is truncated or was changed" in refused("backmap", broken, "-o", tmp_path / "s.h5")


def test_frames_of_another_molecule_are_refused(refused, coarse_model, tmp_path):
    import mdtraj

    from openmm_bg import systems

    other = systems.load("chignolin")
    trajectory = mdtraj.Trajectory(other.positions[None], mdtraj.Topology.from_openmm(other.topology))
    trajectory.save_hdf5(str(tmp_path / "other.h5"))
    message = refused("backmap", coarse_model, "-o", tmp_path / "s.h5", "--beads", tmp_path / "other.h5")
    assert "has 175 atoms, but the model 22" in message


def test_frames_of_a_molecule_with_as_many_atoms_are_refused(refused, coarse_model, finished_data, tmp_path):
    import mdtraj

    trajectory = mdtraj.load(str(finished_data / "trajectory.h5"))[:5]
    trajectory.topology.atom(0).element = mdtraj.element.chlorine
    trajectory.save_hdf5(str(tmp_path / "other.h5"))
    message = refused("backmap", coarse_model, "-o", tmp_path / "s.h5", "--beads", tmp_path / "other.h5")
    assert "is of another molecule than the model" in message


def test_frames_with_weights_are_refused(run, refused, coarse_model, tmp_path):
    assert run("backmap", coarse_model, "-o", tmp_path / "samples.h5", "-n", "32", "-q").code == 0
    given = ("--beads", tmp_path / "samples.h5")
    message = refused("backmap", coarse_model, "-o", tmp_path / "s.h5", *given)
    assert "have weights, which their beads would lose; give frames of a simulation" in message


def test_beads_far_outside_the_training_range_are_warned_of(coarse_model, finished_data):
    from openmm_bg.errors import ReliabilityWarning

    model = CoarseGrainedGenerator.load(coarse_model)
    beads = model.coarse_map.beads(read_frames(finished_data).positions[:5])
    model.backmap(beads)  # no warning: warnings are errors
    beads[0] *= 1.5
    with pytest.warns(
        ReliabilityWarning, match=r"1 of 5 bead configurations are far outside .* log-weights is"
    ):
        found = model.backmap(beads)
    assert found.far.tolist() == [True, False, False, False, False]
