"""Figures show the right numbers in the right places, and change nothing else."""

from __future__ import annotations

import csv
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from openmm_bg import plotting
from openmm_bg.analysis import Ramachandran
from openmm_bg.errors import InputError


def spots(label: str = "two spots", weighted: bool = False, n: int = 4000) -> Ramachandran:
    """90 % around (-100, 150) and 10 % around (60, 40), in degrees; by weights if asked for."""
    rng = np.random.default_rng(0)
    share = 0.5 if weighted else 0.9
    first = rng.random(n) < share
    centres = np.where(first[:, None], [-100.0, 150.0], [60.0, 40.0])
    phi, psi = np.radians(centres + rng.normal(scale=8.0, size=(n, 2))).T
    return Ramachandran(label, phi, psi, np.where(first, np.log(9.0), 0.0) if weighted else None)


@pytest.mark.parametrize("weighted", [False, True])
def test_surface_has_its_minima_where_the_samples_are(weighted):
    figure = plotting.plot_ramachandran([spots(weighted=weighted)], bins=36)
    ax = figure.axes[0]
    mesh = next(c for c in ax.collections if isinstance(c, matplotlib.collections.QuadMesh))
    surface = np.ma.filled(mesh.get_array().reshape(36, 36), np.nan)  # rows are psi, columns phi
    row, column = np.unravel_index(np.nanargmin(surface), surface.shape)
    centres = np.arange(-175, 180, 10)
    assert abs(centres[column] + 100) <= 5
    assert abs(centres[row] - 150) <= 5
    right = surface[:, centres > 0]
    row, column = np.unravel_index(np.nanargmin(right), right.shape)
    assert abs(centres[centres > 0][column] - 60) <= 5
    assert abs(centres[row] - 40) <= 5
    # A tenth and nine tenths of the same shape: log(9) = 2.2 kT apart.
    assert np.nanmin(right) == pytest.approx(np.log(9), abs=0.25)
    assert np.isnan(surface[centres == -95, centres == 65]).all()


def test_axes_are_in_degrees_with_greek_letters():
    figure = plotting.plot_ramachandran([spots(), spots("other")], title="title")
    for ax in figure.axes[:2]:
        assert ax.get_xlabel() == "φ (degrees)"
        assert ax.get_xlim() == ax.get_ylim() == (-180.0, 180.0)
        np.testing.assert_array_equal(ax.get_xticks(), [-180, -90, 0, 90, 180])
        np.testing.assert_array_equal(ax.get_yticks(), [-180, -90, 0, 90, 180])
    assert figure.axes[0].get_ylabel() == "ψ (degrees)"
    assert [ax.get_title() for ax in figure.axes[:2]] == ["two spots", "other"]
    assert figure.axes[2].get_ylabel() == "free energy (kT)"
    assert len(figure.axes) == 3  # one colour bar for both


@pytest.mark.parametrize("n", [1, 3, 5])
def test_both_formats_are_written_and_reproducible(tmp_path, n):
    data = [spots(f"set {k}", n=500) for k in range(n)]
    contents = []
    for name in ("first.png", "second.svg"):
        png, svg = plotting.save_figure(plotting.plot_ramachandran(data, bins=30), tmp_path / name, dpi=60)
        assert (png.name, svg.name) == (name[:-4] + ".png", name[:-4] + ".svg")
        assert png.read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(svg)
        contents.append((png.read_bytes(), svg.read_bytes()))
    assert contents[0] == contents[1]
    assert len(list(tmp_path.iterdir())) == 4


def test_torsion_and_energy_figures(tmp_path):
    figure = plotting.plot_torsions([spots(), spots("weighted", weighted=True)], bins=36, title="title")
    phi, psi = figure.axes
    assert (phi.get_xlabel(), psi.get_xlabel()) == ("φ (degrees)", "ψ (degrees)")
    for line in (*phi.lines, *psi.lines):
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1.0, abs=0.01)
    plotting.save_figure(figure, tmp_path / "torsions.png", dpi=60)
    rng = np.random.default_rng(1)
    energies = rng.normal(-50, 20, size=2000)
    weighted = np.append(energies, np.inf), np.append(np.zeros(2000), -np.inf)
    figure = plotting.plot_energies([("chain", energies, None, 4), ("samples", *weighted, 1)], title="title")
    low, high = figure.axes[0].get_xlim()
    assert -150 < low < -100 < 0 < high < 50
    plotting.save_figure(figure, tmp_path / "energies.png", dpi=60)
    plotting.save_figure(
        plotting.plot_energies([("one value", np.ones(3), None, 1)]), tmp_path / "x.png", dpi=60
    )


def test_energies_have_bands_and_the_colours_that_are_given():
    rng = np.random.default_rng(1)
    data = [(label, rng.normal(size=400), None, 1) for label in ("a", "b")]
    figure = plotting.plot_energies(data, colours=["#123456", "#654321"])
    ax = figure.axes[0]
    assert [line.get_color() for line in ax.lines] == ["#123456", "#654321"]
    assert len(ax.collections) == 2
    for line in ax.lines:
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1.0, abs=0.02)


def contours(ax) -> np.ndarray:
    """Return the points of the contour lines, in degrees."""
    sets = [one for one in ax.collections if isinstance(one, matplotlib.contour.ContourSet)]
    points = [path.vertices for one in sets for path in one.get_paths()]
    return np.concatenate(points) if points else np.empty((0, 2))


def two_spots(n_heavy: int) -> Ramachandran:
    """Weighted draws: 90 % of the weight around (-100, 150), the rest in few or all draws around (60, 40)."""
    rng = np.random.default_rng(0)
    degrees = np.repeat([[-100.0, 150.0], [60.0, 40.0]], [3000, 300], axis=0) + rng.normal(0, 12, (3300, 2))
    angles = (np.radians(degrees) + np.pi) % (2 * np.pi) - np.pi
    second = np.where(np.arange(300) < n_heavy, 0.1 / n_heavy, 1e-7)
    return Ramachandran("two spots", *angles.T, np.log(np.append(np.full(3000, 0.9 / 3000), second)))


@pytest.mark.parametrize(("n_heavy", "surrounded"), [(3, False), (300, True)])
def test_contour_lines_do_not_trace_single_draws(n_heavy, surrounded):
    one, edges = two_spots(n_heavy), np.linspace(-180, 180, 61)
    with plotting.styled_figure((3, 3)) as figure:
        ax = figure.subplots()
        levels = plotting.surface_levels(10.0)
        plotting.draw_surface(ax, (edges, edges), one.density(60), one.density_stderr(60), levels)
    points = contours(ax)
    assert (np.abs(points - [-100, 150]).max(axis=1) < 40).any()
    assert (np.abs(points - [60, 40]).max(axis=1) < 60).any() == surrounded


def test_weights_that_cannot_be_trusted_have_no_contour_lines():
    rng = np.random.default_rng(0)
    angles = rng.normal(scale=0.3, size=(2, 4000))
    for width, drawn in ((0.5, True), (6.0, False)):
        log_weights = width * rng.standard_normal(4000)
        assert plotting.are_reliable(log_weights) == drawn
        figure = plotting.plot_ramachandran([Ramachandran("x", *angles, log_weights)])
        assert (len(contours(figure.axes[0])) > 0) == drawn


def test_contour_lines_are_continued_over_the_seam():
    rng = np.random.default_rng(0)
    angles = (rng.normal(np.pi, 0.4, size=(2, 20_000)) + np.pi) % (2 * np.pi) - np.pi
    ax = plotting.plot_ramachandran([Ramachandran("x", *angles)]).axes[0]
    points = contours(ax)
    for axis in (0, 1):
        assert points[:, axis].min() < -180.0
        assert points[:, axis].max() > 180.0
    assert ax.get_xlim() == ax.get_ylim() == (-180.0, 180.0)


def test_counts_are_not_smoothed():
    """Of 0, 1 and 3 bonds with 60, 30 and 10 %: nothing is seen at 2, and the differences are log 2 and log 6."""
    rng = np.random.default_rng(0)
    share = np.array([0.6, 0.3, 0.0, 0.1])
    edges = np.linspace(-4, 4, 25), np.arange(-0.5, 4.0)
    column = np.histogram(rng.normal(size=100_000), edges[0])[0]
    density = np.outer(column / column.sum(), share)
    with plotting.styled_figure((3, 3)) as figure:
        ax = figure.subplots()
        levels = plotting.surface_levels(10.0)
        options = {"periodic": (False, False), "counts": (False, True)}
        image = plotting.draw_surface(ax, edges, density, 0.01 * density, levels, **options)
    surface = np.ma.filled(image.get_array().reshape(4, 24), np.nan)
    assert np.isnan(surface[2]).all()
    seen = np.isfinite(surface[0])
    np.testing.assert_allclose((surface[1] - surface[0])[seen], np.log(2), rtol=1e-6)
    np.testing.assert_allclose((surface[3] - surface[0])[seen], np.log(6), rtol=1e-6)
    assert len(contours(ax)) == 0


def test_levels_end_at_the_maximum():
    assert plotting.surface_levels(10.0).tolist() == [0, 2, 4, 6, 8, 10]
    assert plotting.surface_levels(5.0).tolist() == [0, 1, 2, 3, 4, 5]
    assert plotting.surface_levels(7.0).tolist() == [0, 2, 4, 6, 7]


def test_torsions_csv(tmp_path):
    data = [spots('a "quoted", label'), spots("b", weighted=True)]
    path = plotting.write_torsions_csv(data, tmp_path / "torsions.csv", bins=36)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "angle", "degrees", "a 'quoted', label density", "a 'quoted', label stderr", "b density", "b stderr",
    ]  # fmt: skip
    for name, one in zip(("a 'quoted', label", "b"), data, strict=True):
        for angle in ("phi", "psi"):
            mine = [row for row in rows if row["angle"] == angle]
            assert [float(row["degrees"]) for row in mine] == list(np.arange(-175.0, 180.0, 10.0))
            density = np.array([float(row[f"{name} density"]) for row in mine])
            assert density.sum() * 10 == pytest.approx(1.0, abs=1e-6)
            stderr = np.array([float(row[f"{name} stderr"]) for row in mine])
            np.testing.assert_allclose(stderr, np.radians(one.marginal(angle, 36)[2]), rtol=1e-6)


def test_no_global_state_is_changed(tmp_path):
    before = dict(matplotlib.rcParams)
    plotting.save_figure(plotting.plot_torsions([spots()]), tmp_path / "x.png", dpi=60)
    assert dict(matplotlib.rcParams) == before
    program = (
        "import sys, numpy as np\n"
        "from openmm_bg import plotting\n"
        "from openmm_bg.analysis import Ramachandran\n"
        "assert 'matplotlib' not in sys.modules\n"
        "one = Ramachandran('x', np.zeros(9), np.linspace(-3, 3, 9))\n"
        "plotting.save_figure(plotting.plot_ramachandran([one], bins=20), sys.argv[1], dpi=50)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "y.png")], check=True)


def test_nothing_to_draw_is_refused():
    for draw in (plotting.plot_ramachandran, plotting.plot_torsions, plotting.plot_energies):
        with pytest.raises(InputError, match="nothing to draw"):
            draw([])
    with pytest.raises(InputError, match="at least 4 bins"):
        plotting.plot_ramachandran([spots()], bins=3)
    with pytest.raises(InputError, match="must be positive"):
        plotting.plot_ramachandran([spots()], maximum=0.0)
