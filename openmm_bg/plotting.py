"""Figures: Ramachandran free-energy surfaces, torsion histograms and energy histograms.

Figures are made without pyplot: no global state is changed, no window opens. Angles are shown in degrees.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import Ramachandran, free_energy_surface
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_path, atomic_write_text
from openmm_bg.histograms import cell_fractions, weighted_quantiles
from openmm_bg.samples import UNRELIABLE_PARETO_K

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

STYLE = {
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "openmm_bg",  # the same figure gives the same file
    "xtick.direction": "out",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}
"""The settings of matplotlib that figures are drawn and saved with."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that everybody can tell apart (Okabe and Ito)."""

LEGEND = 46
"""Characters of a label that fit into a legend below one panel."""

_INCH = 15  # characters of a caption

CONTOURS = "#111111"
"""The colour of contour lines: not quite black, which becomes that of the text on pages."""

_NAMES = {"phi": "φ", "psi": "ψ"}
_LEFT_OUT = 2e-4  # of the weight, at either end of an axis of energies
_MOST_ERROR = 0.5  # of a density over itself, for contour lines


def plot_ramachandran(
    data: Sequence[Ramachandran],
    *,
    bins: int = 90,
    maximum: float = 10.0,
    title: str | None = None,
) -> Figure:
    """Draw Ramachandran free-energy surfaces side by side, with contours and one colour bar (see `draw_surface`).

    Args:
        data: What to show, a panel each.
        bins: Bins of each angle.
        maximum: Free energy [kT] at which the colours end; what lies above keeps the last colour.
        title: A title above all panels.

    Returns:
        The figure; `save_figure` writes it.

    Raises:
        InputError: If there is nothing to draw, or a setting makes no sense.
    """
    _check(data, bins)
    n = len(data)
    n_columns = n if n <= 4 else 3 if n in (5, 6, 9) else 4
    n_rows = -(-n // n_columns)
    levels = surface_levels(maximum)
    size = (2.45 * n_columns + 1.15, 2.45 * n_rows + 0.45 + 0.3 * bool(title))
    with styled_figure(size, layout="compressed") as figure:
        axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        figure.get_layout_engine().set(wspace=0.04, hspace=0.04, h_pad=0.07)
        edges = np.linspace(-180.0, 180.0, bins + 1)
        for ax, one in zip(axes.flat, data, strict=False):
            image = draw_surface(
                ax,
                (edges, edges),
                one.density(bins),
                one.density_stderr(bins),
                levels,
                contours=are_reliable(one.log_weights),
            )
            ax.set_title(wrapped(one.label), pad=5)
            _degrees(ax.set_xlim, ax.set_xticks)
            _degrees(ax.set_ylim, ax.set_yticks)
            ax.set_aspect("equal")
        for ax in axes.flat[n:]:
            ax.set_visible(False)
        for column in range(n_columns):
            lowest = axes[(n - 1 - column) // n_columns, column]
            lowest.set_xlabel("φ (degrees)")
            lowest.tick_params(labelbottom=True)
        for row in axes:
            row[0].set_ylabel("ψ (degrees)", labelpad=1)
        add_colour_bar(figure, image, axes, levels)
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def plot_torsions(data: Sequence[Ramachandran], *, bins: int = 72, title: str | None = None) -> Figure:
    """Draw the distributions of phi and psi with bands of one standard error.

    Args:
        data: What to show, a line each.
        bins: Bins of each angle.
        title: A title above both panels.

    Raises:
        InputError: If there is nothing to draw.
    """
    _check(data, bins)
    n_rows = -(-len(data) // 3)
    with styled_figure((6.6, 2.7 + 0.2 * n_rows + 0.3 * bool(title))) as figure:
        for ax, angle in zip(figure.subplots(1, 2), _NAMES, strict=True):
            draw_torsions(ax, data, angle, bins=bins)
            ax.set_ylabel("density (1/degree)" if angle == "phi" else "")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(data), 3))
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def draw_torsions(
    ax: Axes,
    data: Sequence[Ramachandran],
    angle: str,
    *,
    bins: int = 72,
    colours: Sequence[str] | None = None,
) -> None:
    """Draw the distributions of one torsion with bands of one standard error, into given axes.

    Args:
        ax: The axes.
        data: What to show, a line each.
        angle: "phi" or "psi".
        bins: Bins of the circle.
        colours: A colour for each line.
    """
    for one, colour in zip(data, colours or _colours(len(data)), strict=True):
        degrees, density, stderr = _in_degrees(one, angle, bins)
        draw_band(ax, degrees, density, stderr, one.label, colour)
    _degrees(ax.set_xlim, ax.set_xticks)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel(f"{_NAMES[angle]} (degrees)")
    ax.spines[["top", "right"]].set_visible(False)


def plot_energies(
    data: Sequence[tuple[str, np.ndarray, np.ndarray | None, int]],
    *,
    colours: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw potential-energy histograms with bands of one standard error.

    The axis spans what has weight but for 0.02 % at either end; the bins suit the smallest of the sets.

    Args:
        data: For each line a label, energies [kJ/mol] and log-weights (None for a chain) with shape=(n,), and the
            number of walkers.
        colours: A colour for each line.
        title: A title.

    Raises:
        InputError: If there is nothing to draw.
    """
    _check(data)
    bins = int(np.clip(2 * min(len(energy) for _, energy, _, _ in data) ** (1 / 3), 30, 80))  # Rice's rule
    spans = []
    for _, energy, log_weights, _ in data:
        weights = np.full(len(energy), 1.0 / len(energy))
        if log_weights is not None:
            weights = statistics.normalized_weights(log_weights)
        keep = weights > 0
        spans.append(weighted_quantiles(energy[keep], weights[keep], (_LEFT_OUT, 1 - _LEFT_OUT)))
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    edges = np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    with styled_figure((3.7, 2.7 + 0.2 * len(data) + 0.3 * bool(title))) as figure:
        ax = figure.subplots()
        for one, colour in zip(data, colours or _colours(len(data)), strict=True):
            label, energy, log_weights, n_walkers = one
            cells = np.searchsorted(edges, energy, side="right") - 1
            cells = np.where((cells >= 0) & (cells < bins), cells, -1)
            fraction, stderr = cell_fractions(cells, bins, log_weights, n_walkers)
            draw_band(ax, centres, fraction / width, stderr / width, label, colour)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("potential energy (kJ/mol)")
        ax.set_ylabel("density (mol/kJ)")
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=1)
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def draw_band(ax: Axes, x: np.ndarray, y: np.ndarray, stderr: np.ndarray, label: str, colour: str) -> None:
    """Draw a density, which is not negative, with a band of one standard error."""
    low, high = np.maximum(y - stderr, 0.0), y + stderr
    ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(x, y, color=colour, linewidth=1.2, label=wrapped(label, LEGEND))


def draw_surface(
    ax: Axes,
    edges: tuple[np.ndarray, np.ndarray],
    density: np.ndarray,
    stderr: np.ndarray,
    levels: np.ndarray,
    *,
    periodic: tuple[bool, bool] = (True, True),
    counts: tuple[bool, bool] = (False, False),
    contours: bool = True,
) -> QuadMesh:
    """Draw the free energy of two observables into given axes.

    The colours are a histogram smoothed over neighbouring bins, white where nothing was seen; the contour lines
    are of a wider smoothing, for the eye. They end where its standard error is more than half of the density, as
    they would only trace single draws there. Nothing is smoothed along counts, between which there is nothing.

    Args:
        ax: The axes.
        edges: Edges of the bins of either observable, as they are shown.
        density: Its probability density in any unit with shape=(n_x, n_y).
        stderr: The standard error of the density in each bin.
        levels: Free energies [kT] of the lines; the colours end at the last. From `surface_levels`.
        periodic: Whether each axis is a full circle.
        counts: Whether each axis counts something.
        contours: Whether to draw lines at all; they need `are_reliable` weights.

    Returns:
        The colours, for `add_colour_bar`.
    """
    modes: list[str | None] = ["wrap" if wraps else "reflect" for wraps in periodic]
    modes = [None if is_count else mode for mode, is_count in zip(modes, counts, strict=True)]
    # One bin wide: a wider kernel paints a halo of invented free energies around what was seen.
    local = _smoothed(density, _gaussian(0.8, 1), modes)
    colours = np.where(local > 0, free_energy_surface(local), np.nan)
    image = ax.pcolormesh(*edges, colours.T, cmap="viridis", vmin=0.0, vmax=levels[-1], rasterized=True)
    if not contours or any(counts):
        return image
    kernel = _gaussian(1.6, 5)
    wide = _smoothed(density, kernel, modes)
    # Bins are all but independent of each other, so their variances add up.
    error = np.sqrt(_smoothed(stderr**2, kernel**2, modes))
    known = np.isfinite(colours) & (error <= _MOST_ERROR * wide)
    if not known.any():
        return image
    energy = np.where(known, free_energy_surface(wide), np.nan)
    centres = [(e[1:] + e[:-1]) / 2 for e in edges]
    for axis, wraps in enumerate(periodic):
        if wraps:  # continued, so that the lines reach the edges
            width = edges[axis][1] - edges[axis][0]
            centres[axis] = np.array([centres[axis][0] - width, *centres[axis], centres[axis][-1] + width])
            energy = np.pad(energy, [(1, 1) if k == axis else (0, 0) for k in range(2)], mode="wrap")
    lines = [level for level in levels[1:] if np.nanmin(energy) < level < np.nanmax(energy)]
    if lines:
        energy = np.ma.masked_invalid(energy.T)
        ax.contour(*centres, energy, levels=lines, colors=CONTOURS, linewidths=0.5, alpha=0.8)
        ax.set_xlim(edges[0][0], edges[0][-1])
        ax.set_ylim(edges[1][0], edges[1][-1])
    return image


def surface_levels(maximum: float) -> np.ndarray:
    """Return free energies [kT] from 0 to a maximum, 2 apart (1 if it is at most 6).

    Raises:
        InputError: If the maximum is not positive.
    """
    if not maximum > 0:
        raise InputError(f"The largest free energy of the colours must be positive, not {maximum:g}.")
    step = 1.0 if maximum <= 6 else 2.0
    return np.append(np.arange(0.0, maximum - 1e-9, step), maximum)


def add_colour_bar(figure: Figure, image: QuadMesh, axes: np.ndarray, levels: np.ndarray) -> None:
    """Add the colour bar of surfaces, beside their axes with shape=(n_rows, n_columns)."""
    bar = figure.colorbar(image, ax=axes, aspect=20 * len(axes), pad=0.02, ticks=levels, extend="max")
    bar.set_label("free energy (kT)")
    bar.outline.set_linewidth(0.8)


def are_reliable(log_weights: np.ndarray | None) -> bool:
    """Tell whether averages with these log-weights can be trusted; without any (None) they can."""
    return log_weights is None or statistics.pareto_k(log_weights) <= UNRELIABLE_PARETO_K


def wrapped(text: str, width: int = 34) -> str:
    """Break a text into lines of that many characters; the default fits under a panel."""
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def captioned(figure: Figure, caption: str) -> Figure:
    """Put a caption above a figure, which gets higher by its lines, and return the figure.

    Args:
        figure: The figure; a caption takes the place of its title.
        caption: The caption; a figure without one is left as it is.
    """
    if caption:
        text = wrapped(caption, int(_INCH * figure.get_figwidth()))
        figure.set_figheight(figure.get_figheight() + 0.14 * (text.count("\n") + 1) + 0.1)
        figure.suptitle(text, fontsize=8)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 300) -> tuple[Path, Path]:
    """Write a figure as PNG and as SVG, each complete or not at all.

    Args:
        figure: The figure.
        path: Where to; the extensions .png and .svg replace its own.
        dpi: Dots per inch of the PNG, and of surfaces within the SVG.

    Returns:
        The paths of the PNG and the SVG.
    """
    import matplotlib

    paths = Path(path).with_suffix(".png"), Path(path).with_suffix(".svg")
    with matplotlib.rc_context(STYLE):
        for target, metadata in zip(paths, ({}, {"Date": None}), strict=True):
            with atomic_path(target) as temporary:
                figure.savefig(temporary, dpi=dpi, metadata=metadata)
    return paths


def write_torsions_csv(data: Sequence[Ramachandran], path: str | Path, *, bins: int = 72) -> Path:
    """Write the distributions of phi and psi with their standard errors as a table.

    Columns: the angle ("phi" or "psi"), the bin's centre [degrees], and for each set its density [1/degree]
    and the density's standard error.

    Raises:
        InputError: If there is nothing to write.
    """
    _check(data, bins)
    names = [
        f'"{one.label.replace(chr(34), chr(39))} {kind}"' for one in data for kind in ("density", "stderr")
    ]
    lines = [",".join(["angle", "degrees", *names])]
    for angle in _NAMES:
        sets = [_in_degrees(one, angle, bins) for one in data]
        for k in range(bins):
            values = [f"{column[k]:.8g}" for _, density, stderr in sets for column in (density, stderr)]
            lines.append(",".join([angle, f"{sets[0][0][k]:g}", *values]))
    atomic_write_text(path, "\n".join(lines) + "\n")
    return Path(path)


@contextmanager
def styled_figure(size: tuple[float, float], layout: str = "constrained") -> Iterator[Figure]:
    """Give a figure in the package's style, which needs no window; draw while the context lasts.

    Args:
        size: Width and height [inches].
        layout: Matplotlib's layout engine.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def _gaussian(sigma: float, radius: int) -> np.ndarray:
    """Return a Gaussian kernel [bins] that sums to one, with shape=(2 radius + 1,)."""
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return kernel / kernel.sum()


def _smoothed(values: np.ndarray, kernel: np.ndarray, modes: Sequence[str | None]) -> np.ndarray:
    """Smooth along each axis, continued at its ends as the mode says; not along one whose mode is None."""
    from scipy.ndimage import correlate1d

    for axis, mode in enumerate(modes):
        if mode is not None:
            values = correlate1d(values, kernel, axis=axis, mode=mode)
    return values


def _colours(n: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(n)]


def _check(data: Sequence[Any], bins: int = 4) -> None:
    if not data:
        raise InputError("There is nothing to draw.")
    if bins < 4:
        raise InputError(f"A histogram needs at least 4 bins, not {bins}.")


def _degrees(set_limits: Any, set_ticks: Any) -> None:
    set_limits(-180.0, 180.0)
    set_ticks(np.arange(-180, 181, 90))


def _in_degrees(one: Ramachandran, angle: str, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centres, density, stderr = one.marginal(angle, bins)
    return np.degrees(centres), np.radians(density), np.radians(stderr)
