"""What a report says is what the files hold, and the page needs nothing else."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from matplotlib.figure import Figure
from page_parser import Page
from run_pieces import LOG, make_samples

from openmm_bg import statistics, systems
from openmm_bg.analysis import torsion_angles
from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.io import save_samples
from openmm_bg.report import write_report
from openmm_bg.report.gather import gather
from openmm_bg.report.model_summary import summarize_model, training_log
from openmm_bg.report.svg import inline_svg
from openmm_bg.samples import Samples
from openmm_bg.statistics import with_error

pytestmark = pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")


@pytest.fixture(scope="module")
def parsed(page):
    return Page(page)


def test_all_sections_and_figures_are_there(page, parsed):
    headings = re.findall(r"<h2>(.*?)</h2>", page.read_text())
    assert headings == [
        "Against the reference", "Ramachandran plots", "Potential energies", "Weights",
        "Replica exchange", "Training", "Cost", "Provenance",
    ]  # fmt: skip
    # Six sets (the reference included), phi and psi at two temperatures, energies at two, two of weights, three
    # of the exchange, four of the training.
    assert (
        parsed.count("svg") == parsed.count("figure") == parsed.count("figcaption") == 6 + 4 + 2 + 2 + 3 + 4
    )
    for tag, attributes in parsed.elements:
        if tag == "svg":
            assert attributes["aria-label"]
            assert float(attributes["width"]) > 100 < float(attributes["height"])


def test_the_page_is_self_contained(page, parsed):
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "iframe", "object", "embed", "img", "base", "form"}
    for tag, attributes in parsed.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href"):
                assert re.match(r"#|data:", value), (tag, value)
    content = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page.read_text())
    assert "://" not in content
    assert "@import" not in content
    ids = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    references = re.findall(r'(?:href="|url\()#([^")]+)', content)
    assert references
    assert set(references) <= set(ids)


def test_numbers_are_those_of_the_files(run, parsed):
    for samples, label in ((run.cold, "samples_300K, reweighted"), (run.hot, "samples_600K, reweighted")):
        ess = statistics.effective_sample_size_estimate(samples.log_weights)
        assert f"{label}: ESS {with_error((100 * ess.value, 100 * ess.stderr))} %" in parsed.text
        assert ess.value == pytest.approx(samples.ess())
        assert f"Pareto k {samples.pareto_k():.2f}" in parsed.text
        mean = samples.expectation(samples.energies)
        assert f"{label}: {with_error(mean)} kJ/mol" in parsed.text
        inside = samples.in_domain
        angles = torsion_angles(samples.positions[inside].astype(np.float32), run.system.torsions)
        mask = np.zeros(len(samples), dtype=bool)
        mask[inside] = (angles["phi"] > 0) & (angles["phi"] < np.pi)
        assert f"{label}: {with_error(samples.population(mask))}" in parsed.text
    assert "5 / 0" in parsed.text  # draws outside the domain
    # The log rises by 0.1 a validation, but for one that is off by 0.03: second differences 1, -2 and 1 times that.
    assert "0.600 ± 0.015 of the model kept" in parsed.text
    assert "1,234,567" in parsed.text
    for command in ("train_600K_sample_300K.py --output run", "openmm-bg simulate alanine_dipeptide -o data"):
        assert command in parsed.text


def test_acceptance_is_that_of_the_run(run, parsed):
    from openmm_bg.exchange import read_exchange

    found = read_exchange(run.exchange)
    for k, temperature in enumerate((300, 600)):
        p, n = found.flow_acceptance[k], found.flow_proposed[k]
        assert n == 8 * 4
        least = np.sqrt(p * (1 - p) / n) if 0 < p < 1 else 1 / n
        text = with_error((p, least)).replace(" ± ", ", standard error at least ")
        assert parsed.text.count(text) >= 2, temperature  # in the figure's caption and in the table
    assert "a Metropolis chain, which may refuse many in a row, has larger ones" in parsed.text
    assert with_error((found.exchange_acceptance[0], found.exchange_acceptance_stderr[0])) in parsed.text


def test_the_reference_is_compared_only_with_its_own_energy_function(run, parsed, tmp_path):
    assert "reference, 300 K" in parsed.text
    data = shutil.copytree(run.data, tmp_path / "data")
    record = json.loads((data / "provenance.json").read_text())
    (data / "provenance.json").write_text(json.dumps({**record, "system_hash": "0" * 64}))
    contents = gather([data, run.folder / "samples_300K.h5"])
    assert [one.kind for one in contents.sets] == ["samples", "simulation"]
    contents = gather([run.data, run.folder / "samples_300K.h5"])
    assert [one.kind for one in contents.sets] == ["samples", "reference", "simulation"]


@pytest.mark.parametrize(
    ("names", "headings"),
    [
        (["model"], ["Training", "Provenance"]),
        (["samples_600K.h5"], ["Ramachandran plots", "Potential energies", "Weights", "Provenance"]),
        (["data"], ["Ramachandran plots", "Potential energies", "Provenance"]),
        (["exchange.nc"], ["Ramachandran plots", "Potential energies", "Replica exchange", "Provenance"]),
    ],
)
def test_any_part_of_a_run_has_a_report(run, tmp_path, names, headings):
    page = write_report([run.folder / name for name in names], tmp_path / "part.html")
    Page(page)
    assert re.findall(r"<h2>(.*?)</h2>", page.read_text()) == headings


def test_page_goes_beside_what_it_is_about_and_can_be_made_again(run, tmp_path):
    folder = Path(shutil.copytree(run.data, tmp_path / "here"))
    assert write_report([folder]) == folder / "report.html"
    first = (folder / "report.html").read_text()
    assert write_report([folder]) == folder / "report.html"

    def without_date(text):
        return re.sub(r"Made by openmm_bg on [^.]*", "", text)

    assert without_date((folder / "report.html").read_text()) == without_date(first)
    assert write_report([folder / "trajectory.h5"], None) == folder / "report.html"
    assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_run_that_was_moved_finds_its_topology(run, tmp_path):
    moved = Path(shutil.copytree(run.folder, tmp_path / "moved"))
    run.model.rename(run.model.with_name("gone"))
    try:
        contents = gather([moved])
        assert {one.label for one in contents.sets if one.kind == "exchange"} == {
            "exchange, 300 K", "exchange, 600 K",
        }  # fmt: skip
        assert gather([moved / "exchange.nc"]).sets  # the model is beside it
        alone = shutil.copy(moved / "exchange.nc", tmp_path)
        with pytest.raises(InputError, match="model that is gone"):
            gather([alone])
        assert gather([alone], moved / "model" / "topology.pdb").sets
    finally:
        run.model.with_name("gone").rename(run.model)


def test_unreliable_weights_are_announced(run, tmp_path, alanine, md_configurations):
    make_samples(tmp_path / "wild.h5", alanine, md_configurations, 300.0, 6.0)
    parsed = Page(write_report([tmp_path / "wild.h5"]))
    assert "a few of its draws own the weights" in parsed.text
    assert any(attributes.get("class") == "warns" for _, attributes in parsed.elements)


def test_commands_are_rebuilt_where_none_was_recorded(run):
    samples, exchange = gather([run.folder / "samples_300K.h5"]), gather([run.exchange])
    assert samples.sets[0].command == (
        f"openmm-bg sample {run.model} --temperature 300 --number 1005 --seed 3 --batch-size 100 "
        "--output samples_300K.h5  # reconstructed"
    )
    (command,) = {one.command for one in exchange.sets}
    assert command == (
        f"openmm-bg exchange {run.model} --temperature-min 300 --temperature-max 600 --replicas 2 --iterations 8 "
        "--sampler parallel-tempering --move flow --proposals 4 --steps 2 --timestep 0.0005 --collision-rate 1 "
        "--dynamics openmm --platform Reference --output exchange.nc  # reconstructed"
    )
    import typer

    from openmm_bg import cli

    group = typer.main.get_command(cli.app)
    for text in (samples.sets[0].command, command):
        _, name, *arguments = text.removesuffix("# reconstructed").split()
        group.commands[name].make_context(name, arguments)  # raises if it does not parse


def test_texts_are_escaped(run, tmp_path):
    path = write_report([run.data], tmp_path / "x.html", title='<script>alert("1")</script>')
    assert "<script>" not in path.read_text()
    assert html.escape('<script>alert("1")</script>', quote=False).replace('"', "&#34;") in path.read_text()


def test_sets_of_the_same_name_get_different_labels(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for suffix in (".h5", ".csv", ".json"):
            shutil.copy(run.folder / f"samples_300K{suffix}", tmp_path / name)
    contents = gather([tmp_path / name / "samples_300K.h5" for name in ("a", "b")])
    labels = [one.label for one in contents.sets]
    assert labels == ["a/samples_300K, reweighted", "b/samples_300K, reweighted"]
    assert [next(iter(one.ramachandran.values())).label for one in contents.sets] == labels


def test_training_under_way(run, tmp_path):
    (tmp_path / "model").mkdir()
    shutil.copy(run.model / "log.csv", tmp_path / "model")
    parsed = Page(write_report([tmp_path / "model"]))
    assert "The training in model is not finished" in parsed.text
    assert parsed.count("svg") == 4
    (tmp_path / "model" / "log.csv").write_text("step,ess\n1,many\n")
    with pytest.raises(InputError, match="is not the log of a training"):
        write_report([tmp_path / "model"])


def test_molecule_without_backbone(tmp_path):
    top = mdtraj.Topology()
    residue = top.add_residue("MOL", top.add_chain())
    for name in ("C1", "C2", "C3", "C4"):
        top.add_atom(name, mdtraj.element.carbon, residue)
    rng = np.random.default_rng(0)
    with mdtraj.formats.HDF5TrajectoryFile(str(tmp_path / "chain.h5"), "w") as file:
        file.topology = top
        energies, temperatures = rng.normal(size=100), np.full(100, 250.0)
        file.write(
            rng.normal(size=(100, 4, 3)).astype(np.float32),
            potentialEnergy=energies.astype(np.float32),
            temperature=temperatures.astype(np.float32),
        )
    text = write_report([tmp_path / "chain.h5"]).read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Potential energies", "Provenance"]
    assert "Potential energy at 250 K" in text


def test_molecule_with_several_residues(tmp_path):
    chignolin = systems.load("chignolin")
    rng = np.random.default_rng(0)
    positions = chignolin.positions + rng.normal(scale=0.005, size=(60, chignolin.n_atoms, 3))
    samples = Samples(positions, rng.normal(size=60), rng.normal(size=60), 350.0, chignolin)
    save_samples(samples, tmp_path / "chignolin.h5")
    path = write_report([tmp_path / "chignolin.h5"])
    assert path.read_text().count("<h2>Residue ") == 10
    ids = re.findall(r'<section id="([^"]*)"', path.read_text())
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "There is no file or directory"),
        (lambda folder: folder, "holds nothing to report"),
        (lambda folder: folder / "notes.txt", "holds nothing to report"),
        (lambda folder: folder / "summary.json", "is not JSON"),
    ],
)
def test_what_cannot_be_reported(tmp_path, make, message):
    (tmp_path / "notes.txt").write_text("notes")
    path = make(tmp_path)
    if path.name == "summary.json":
        path.write_text("{")
    with pytest.raises(InputError, match=message):
        write_report([path])
    assert not (tmp_path / "report.html").exists()


def test_different_molecules_and_wrong_names_are_refused(run, tmp_path):
    native = Path(systems.__file__).parent / "data" / "chignolin_YYDPETGTWY_native.pdb"
    twice = mdtraj.load([str(native)] * 2)
    twice.save(str(tmp_path / "native.pdb"))
    with pytest.raises(InputError, match="are of different molecules"):
        write_report([run.data, tmp_path / "native.pdb"], tmp_path / "x.html")
    with pytest.raises(InputError, match="has a single frame"):
        write_report([native], tmp_path / "x.html")
    with pytest.raises(InputError, match=r"ends in \.html, not 'x.pdf'"):
        write_report([run.data], tmp_path / "x.pdf")
    with pytest.raises(InputError, match="at least one"):
        write_report([])


def test_model_summary(run, tmp_path):
    facts = {fact.name: fact for group in summarize_model(run.model).values() for fact in group}
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.model_files import model_hash

    generator = BoltzmannGenerator.load(run.model)
    assert facts["parameters"].value == f"{sum(p.numel() for p in generator.flow.parameters()):,}"
    assert facts["kind"].value == "SplineFlow"
    assert facts["molecule"].meaning == "ACE-ALA-NME"
    assert facts["atoms"].value == "22"
    assert facts["model hash"].value == model_hash(run.model)
    assert facts["system hash"].value == generator.system_hash
    assert facts["validation ESS"].value == "60.0%"
    assert facts["temperatures"].value == "300 to 800 K"
    assert "seed 7" in facts["command"].meaning
    circular = generator.flow.coordinates.circular.sum()
    assert facts["circular torsions"].value == str(int(circular))
    assert "phi (ALA2-N–ALA2-CA)" in facts["circular torsions"].meaning
    assert [row["ess"] for row in training_log(run.model)] == [row["ess"] for row in LOG]
    broken = Path(shutil.copytree(run.model, tmp_path / "broken"))
    (broken / "flow.safetensors").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="truncated or was changed"):
        summarize_model(broken)
    header = json.loads((run.model / "model.json").read_text())
    for name in ("flow.safetensors", "potential.safetensors"):
        shutil.copy(run.model / name, broken)
    del header["flow"]["settings"]
    (broken / "model.json").write_text(json.dumps(header))
    with pytest.raises(ModelFileError, match="not as this version writes it"):
        summarize_model(broken)


def test_svg_follows_the_colours_of_the_page():
    figure = Figure(figsize=(2, 1))
    ax = figure.subplots()
    ax.plot([0, 1], color="black")
    ax.pcolormesh(np.arange(4).reshape(2, 2))
    ax.set_title("title")
    one, two = (inline_svg(figure, name, 'a "b" <c>') for name in ("one", "two"))
    assert "currentColor" in one
    assert "#000000" not in one
    assert 'width="192" height="96"' in one
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in one
    assert "data:image/png" in one  # surfaces are pictures
    ids = [set(re.findall(r'\bid="([^"]*)"', drawing)) for drawing in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
