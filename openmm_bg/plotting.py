"""Figures: Ramachandran free-energy surfaces, torsion histograms and energy histograms.

Figures are made without pyplot: no global state is changed, no window opens. Angles are shown in degrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import Ramachandran, free_energy_surface
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_path, atomic_write_text
from openmm_bg.histograms import weighted_quantiles

if TYPE_CHECKING:
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

_NAMES = {"phi": "φ", "psi": "ψ"}


def plot_ramachandran(
    data: Sequence[Ramachandran],
    *,
    bins: int = 90,
    maximum: float = 10.0,
    title: str | None = None,
) -> Figure:
    """Draw Ramachandran free-energy surfaces side by side, with contours and one colour bar.

    The colours are histograms smoothed over neighbouring bins, white where nothing was seen; the contour
    lines, 2 kT apart (1 kT if `maximum` is at most 6), are of a wider smoothing, for the eye.

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
    if not maximum > 0:
        raise InputError(f"The largest free energy of the colours must be positive, not {maximum:g}.")
    n = len(data)
    n_columns = n if n <= 4 else 3 if n in (5, 6, 9) else 4
    n_rows = -(-n // n_columns)
    step = 1.0 if maximum <= 6 else 2.0
    levels = np.arange(0.0, maximum + 1e-9, step)
    size = (2.45 * n_columns + 1.15, 2.45 * n_rows + 0.45 + 0.3 * bool(title))
    with styled_figure(size, layout="compressed") as figure:
        axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        figure.get_layout_engine().set(wspace=0.04, hspace=0.04, h_pad=0.07)
        edges = np.linspace(-180.0, 180.0, bins + 1)
        # Bin centres, continued periodically so that the lines reach the edges.
        centres = -180.0 + (np.arange(-1, bins + 1) + 0.5) * 360.0 / bins
        for ax, one in zip(axes.flat, data, strict=False):
            surface, smooth = smoothed_surfaces(one.density(bins))
            image = ax.pcolormesh(
                edges, edges, surface.T, cmap="viridis", vmin=0.0, vmax=maximum, rasterized=True
            )
            # Above the free energies at the rim of what was seen, lines would only trace single samples.
            lines = levels[(levels > 0) & (levels < free_energy_at_rim(surface))]
            if len(lines):
                smooth = np.pad(smooth, 1, mode="wrap").T
                ax.contour(centres, centres, smooth, levels=lines, colors="black", linewidths=0.5, alpha=0.8)
            ax.set_title(one.label, pad=5)
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
        bar = figure.colorbar(image, ax=axes, aspect=20 * n_rows, pad=0.02, ticks=levels, extend="max")
        bar.set_label("free energy (kT)")
        bar.outline.set_linewidth(0.8)
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
            for k, one in enumerate(data):
                degrees, density, stderr = _in_degrees(one, angle, bins)
                colour = COLOURS[k % len(COLOURS)]
                low, high = np.maximum(density - stderr, 0.0), density + stderr
                ax.fill_between(degrees, low, high, color=colour, alpha=0.25, linewidth=0)
                ax.plot(degrees, density, color=colour, linewidth=1.2, label=one.label)
            _degrees(ax.set_xlim, ax.set_xticks)
            ax.set_ylim(bottom=0.0)
            ax.set_xlabel(f"{_NAMES[angle]} (degrees)")
            ax.set_ylabel("density (1/degree)" if angle == "phi" else "")
            ax.spines[["top", "right"]].set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(data), 3))
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def plot_energies(
    data: Sequence[tuple[str, np.ndarray, np.ndarray | None]],
    *,
    bins: int = 100,
    title: str | None = None,
) -> Figure:
    """Draw potential-energy histograms.

    Args:
        data: For each line a label, energies [kJ/mol] and log-weights (None for a chain), with shape=(n,).
        bins: Bins of the energy axis, which spans what has weight but for 0.02 % at either end.
        title: A title.

    Raises:
        InputError: If there is nothing to draw.
    """
    _check(data, bins)
    sets = []
    for label, energy, log_weights in data:
        energy = np.asarray(energy, dtype=np.float64)
        weights = np.full(len(energy), 1.0 / len(energy))
        if log_weights is not None:
            weights = statistics.normalized_weights(log_weights)
        keep = weights > 0
        sets.append((label, energy[keep], weights[keep]))
    spans = [weighted_quantiles(energy, weights, (2e-4, 1 - 2e-4)) for _, energy, weights in sets]
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    edges = np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)
    with styled_figure((3.6, 2.75 + 0.3 * bool(title))) as figure:
        ax = figure.subplots()
        for k, (label, energy, weights) in enumerate(sets):
            fraction, _ = np.histogram(energy, edges, weights=weights)
            ax.stairs(fraction / np.diff(edges), edges, color=COLOURS[k % len(COLOURS)], label=label)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("potential energy (kJ/mol)")
        ax.set_ylabel("density (mol/kJ)")
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(len(data), 2))
        if title:
            figure.suptitle(title, fontsize=11)
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


def smoothed_surfaces(
    density: np.ndarray, periodic: tuple[bool, bool] = (True, True)
) -> tuple[np.ndarray, np.ndarray]:
    """Return free-energy surfaces [kT] for colours (NaN where nothing was seen) and for contour lines.

    Args:
        density: A probability density with shape=(n_x, n_y).
        periodic: Whether each axis is a full circle.
    """
    from scipy.ndimage import gaussian_filter

    modes = ["wrap" if wraps else "reflect" for wraps in periodic]
    # One bin wide: a wider kernel paints a halo of invented free energies around what was seen.
    local = gaussian_filter(density, 0.8, radius=1, mode=modes)
    surface = np.where(local > 0, free_energy_surface(local), np.nan)
    smooth = free_energy_surface(gaussian_filter(density, 1.6, radius=5, mode=modes))
    return surface, np.where(np.isfinite(smooth), smooth, 1e3)


def free_energy_at_rim(surface: np.ndarray) -> float:
    """Return a low quantile of the free energies beside bins where nothing was seen; +inf without any."""
    unseen = np.isnan(surface)
    beside = np.any([np.roll(unseen, shift, axis) for shift in (-1, 1) for axis in (0, 1)], axis=0)
    rim = surface[beside & ~unseen]
    return float(np.quantile(rim, 0.25)) if len(rim) else np.inf


def _check(data: Sequence[Any], bins: int) -> None:
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
