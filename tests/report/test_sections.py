"""What the sections of a report say: errors that are not too small, passes that are none, all sources."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from page_parser import Page

from openmm_bg.exchange import ExchangeRecord, run_parallel_tempering
from openmm_bg.report import figures, provenance, sections, write_report
from openmm_bg.report.gather import gather
from openmm_bg.report.svg import inline_svg
from openmm_bg.report.write import key_figures

pytestmark = pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")


@pytest.fixture(scope="module")
def short_runs(run, tmp_path_factory) -> Path:
    """A latent run that is still tuning, one of a single iteration, and a training under way."""
    folder = tmp_path_factory.mktemp("short")
    small = {"n_replicas": 2, "n_proposals": 4, "n_steps": 2, "platform": "Reference"}
    run_parallel_tempering(run.model, folder / "latent.nc", move="latent", n_iterations=3, **small)
    run_parallel_tempering(run.model, folder / "single.nc", n_iterations=1, **small)
    (folder / "training").mkdir()
    shutil.copy(run.model / "log.csv", folder / "training")
    return folder


def test_exchange_that_has_only_begun(short_runs):
    """It has no figures yet, but the rest of the page is there, and its file is named."""
    page = Page(write_report([short_runs], short_runs.parent / "short.html"))
    assert (
        "latent.nc has 0 finished iterations, only tuning so far: of the latent move's step size (3)"
        in page.text
    )
    assert "single.nc has 1 finished iteration; figures need two." in page.text
    assert "1 iterations" not in page.text
    for name in ("latent.nc", "single.nc", "training"):
        assert f"short0/{name}" in page.text or f"/{name}" in page.text
    # Of several runs the key figures say which.
    assert "single.nc: of 4 proposals; standard error at least" in page.text
    assert "latent.nc: in 3 iterations" in page.text
    assert page.text.count("# reconstructed") >= 2


def record(accepted, proposed) -> ExchangeRecord:
    n = len(accepted)
    rest = np.zeros(n)
    return ExchangeRecord(
        np.linspace(300, 600, n), np.zeros((2, n, 3, 3)), np.zeros((2, n)), np.zeros((2, n), dtype=int),
        rest[1:], np.array(accepted), np.array(proposed), rest, rest, {"n_proposals": 4}, rest[1:],
    )  # fmt: skip


def test_errors_of_acceptance_are_lower_bounds():
    found = figures.acceptance_errors(record([25, 0, 100, 0], [100, 100, 100, 0]))
    np.testing.assert_allclose(found[:3], [np.sqrt(0.25 * 0.75 / 100), 0.01, 0.01])
    assert np.isnan(found[3])


def test_scatter_of_a_curve_is_that_of_its_noise(rng):
    """About a straight line of any slope and a parabola of little curvature; first differences see the slope."""
    steps = np.arange(6.0)
    for slope, bend in ((0.0, 0.0), (50.0, 0.0), (3.0, 0.02)):
        curves = slope * steps + bend * steps**2 + rng.normal(scale=0.5, size=(4000, 6))
        found = np.array([provenance._scatter(list(curve)) for curve in curves])
        assert np.sqrt(np.mean(found**2)) == pytest.approx(0.5, rel=0.03)
    assert np.sqrt(np.mean(np.diff(curves) ** 2) / 2) > 1.5
    assert provenance._scatter([1.0, 2.0, 3.0]) is None
    assert provenance._scatter([np.nan, 1.0, 2.0, 3.0]) is None
    log = [{"ess": value, "held_out_nll": 1.0 - value, "kl": 0.0} for value in (0.1, 0.2, 0.3)]
    assert provenance._with_scatter(log, "ess") == "0.3"


def test_states_never_seen_do_not_count_as_agreement(run, monkeypatch):
    """They are vacuous only where they agree: never to have seen a frequent state is a disagreement."""
    never, missed = (
        {"value": 0.0, "stderr": stderr, "z": z, "agrees": agrees}
        for stderr, z, agrees in ((1.0, 0.0, True), (0.001, -50.0, False))
    )
    seen, always = ({**never, "value": value} for value in (0.1, 1.0))
    assert [sections.says_nothing("P(x)", one) for one in (never, missed, seen, always)] == [
        True,
        False,
        False,
        True,
    ]
    assert not sections.says_nothing("mean energy (kT)", never)
    reference = {"value": 0.1, "stderr": 0.01}
    rows = [
        ("P(beta/PPII)", never),
        ("P(alpha-R)", missed),
        ("P(phi > 0)", always),
        ("mean energy (kT)", seen),
    ]
    table = {name: {"reference": reference, "set": one} for name, one in rows}
    monkeypatch.setattr(sections, "comparison_tables", lambda contents: {300.0: table})
    contents = gather([run.data])
    (agreement,) = [one for one in key_figures(contents) if one.name == "agreement"]
    assert (agreement.value, agreement.warns) == ("1 of 2", True)
    assert "2 of states never seen left out" in agreement.meaning
    (shown,) = sections.comparison_section(contents).tables
    assert dict(row[::2] for row in shown.rows) == {
        "P(β/PPII)": "0.0 ± 1.0 (never seen)",
        "P(α-R)": "0.0000 ± 0.0010 (-50.0)",
        "P(φ > 0)": "1.0 ± 1.0 (always seen)",
        "mean energy (kT)": "0.1 ± 1.0 (+0.0)",
    }


def test_notation_and_basins(page):
    text = Page(page).text
    assert text.count("Basins are rectangles, those of alanine dipeptide whatever the residue") == 1
    for basin in ("β/PPII: φ 120° to 0°, ψ 15° to -120°", "α-R: φ 120° to 0°, ψ -120° to 15°"):
        assert basin in text
    assert "α-L/C7ax: φ 0° to 120°, ψ any" in text
    for name in ("P(φ > 0)", "P(β/PPII)", "P(α-R)", "P(α-L/C7ax)"):
        assert name in text
    for name in ("P(phi", "beta/PPII", "alpha"):
        assert name not in text


def test_all_sources_and_versions_are_listed(run, short_runs, tmp_path):
    summary = {"record": {"command": "job --all", "versions": {"openmm-bg": "0.0.0"}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    topology = run.model / "topology.pdb"
    contents = gather([run.folder, short_runs, tmp_path / "summary.json"], topology)
    files, versions = provenance.provenance_section(contents, run.folder).tables
    rows = {row[0]: row for row in files.rows}
    # Of the run, the short ones, those that are named, and the reference.
    assert len(rows) == len(files.rows) == 6 + 3 + 2 + 1
    for name in ("model", "data", "samples_300K.h5", "exchange.nc", "summary.json", "model/topology.pdb"):
        assert name in rows
    assert "reference, 300 K (in the package)" in rows
    for name in ("training", "latent.nc", "single.nc"):
        assert [row for row in rows if row.endswith(f"/{name}")]
    assert rows["data"][1:3] == ("openmm-bg simulate alanine_dipeptide -o data", "1")
    assert rows["model"][2] == "7"
    assert "# reconstructed" in next(row[1] for name, row in rows.items() if name.endswith("/single.nc"))
    (group,) = [row[0] for row in versions.rows if "model" in row[0].split("; ")]
    assert "data" in group.split("; ")
    assert [text for names, text in versions.rows if names.endswith("summary.json")][-1] == "openmm-bg 0.0.0"


def test_commands_of_a_run_are_those_of_files_beside_it(run, tmp_path):
    """A job's summary does not speak for files in other folders."""
    shutil.copy(run.exchange, tmp_path)
    contents = gather([run.folder, tmp_path / "exchange.nc"])
    inside, outside = (one.command for one in contents.exchanges)
    assert inside.startswith("train_600K")
    assert outside.startswith("openmm-bg exchange")


def test_key_figures_name_files_only_if_there_are_several(run):
    meanings = {one.name: one.meaning for one in key_figures(gather([run.folder]))}
    assert meanings["ESS at 300 K"].startswith("samples_300K, reweighted: ± ")
    assert meanings["round trips"] == "in 8 iterations"
    assert meanings["training"] == "ESS 60.0% of the model kept"
    (one,) = [one for one in key_figures(gather([run.cold_file])) if one.name == "ESS at 300 K"]
    assert one.meaning.startswith("± ")


def test_lines_have_the_colours_of_their_sets(run):
    contents = gather([run.folder])
    expected = {one.label: one.colour for one in contents.sets}
    pictures = [
        *sections.ramachandran_sections(contents)[0].pictures[len(contents.sets) :],
        *sections.energy_section(contents).pictures,
    ]
    n_lines = 0
    for picture in pictures:
        for line in picture.figure.axes[0].lines:
            assert to_hex(line.get_color()).upper() == expected[line.get_label().replace("\n", " ")]
            n_lines += 1
    assert n_lines == 3 * len(contents.sets)
    weights = sections.weight_section(contents).pictures[0].figure.axes[0]
    colours = {patch.get_label(): to_hex(patch.get_edgecolor()).upper() for patch in weights.patches}
    assert colours == {label: expected[label] for label in colours}


def test_surfaces_are_described_and_stay_light(run, page):
    contents = gather([run.data])
    picture = sections.ramachandran_sections(contents)[0].pictures[0]
    assert picture.description == "Free energy of φ and ψ of residue ALA2: data, 600 K"
    labels = [attributes["aria-label"] for tag, attributes in Page(page).elements if tag == "svg"]
    assert sum(label.startswith("Free energy of φ and ψ of residue ALA2: ") for label in labels) == 6
    assert len(set(labels)) == len(labels)
    drawing = inline_svg(picture.figure, "x", "")
    panel = re.search(r'id="x-patch_2">\s*<path[^>]*style="([^"]*)"', drawing)
    assert panel is not None
    assert panel[1] == "fill: #ffffff"
    assert re.search(r'id="x-patch_1">\s*<path[^>]*style="[^"]*opacity: 0', drawing)  # the figure's own
    assert "stroke: #111111" in drawing  # contour lines stay dark on it
    plain = inline_svg(figures.plot_acceptance(record([1, 1], [4, 4])), "y", "")
    assert re.search(r'id="y-patch_2">\s*<path[^>]*style="[^"]*opacity: 0', plain)


def test_numbers_keep_their_units(page):
    text = page.read_text()
    assert '<th scope="row">300.0\u00a0K</th>' in text
    assert "<dt>ESS at 300\u00a0K</dt>" in text
    assert re.search(r"standard error at least \d+\u00a0%", text)
    assert "no-repeat local" in text  # the shade of tables that scroll


def test_an_exchange_without_moves_by_the_flow_has_its_own_figure(run, monkeypatch):
    """Learned exchange, or dynamics alone: how often replicas were exchanged, and nothing that is not a number."""
    contents = gather([run.exchange])
    (exchange,) = contents.exchanges
    still = dataclasses.replace(
        exchange.run,
        flow_proposed=np.zeros_like(exchange.run.flow_proposed),
        flow_accepted=np.zeros_like(exchange.run.flow_accepted),
    )
    alone = dataclasses.replace(exchange, run=still)
    found = {one.name: one for one in key_figures(dataclasses.replace(contents, exchanges=[alone]))}
    assert "acceptance at 300 K" not in found
    figure = found["exchanges accepted at 300 K"]
    assert figure.value == f"{still.exchange_acceptance[0]:.1%}"
    assert "of the attempts with the next temperature" in figure.meaning
    assert not any("nan" in one.value + one.meaning for one in found.values())
