"""The figure of the benchmark: effective samples against the time that was spent, training included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.plotting import COLOURS, LEGEND, save_figure, styled_figure, wrapped
from openmm_bg.sampling_benchmark.basins import INDICATORS

_DASHES = {"measured": "-", "bound": ":"}
_DECADES = 1.0  # that the lines go on beyond the longest run
_TITLES = {"phi": "φ > 0", "psi": "β/PPII against α"}


def plot_effective_samples(rows: list[dict[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """Draw effective samples against wall time, both on logarithmic axes, and write the figure.

    A line begins where a method has its first effective sample; with a flow, after the model was made. Marks show
    what was run; beyond and before them the rate is that of the run. Dotted lines are upper limits. Of a method
    that has averaged over its candidates only these averages are drawn.

    Args:
        rows: What `results.method_rows` returned.
        path: Where to; the extensions .png and .svg replace its own.

    Returns:
        The paths of the PNG and the SVG.
    """
    recycled = {row["method"] for row in rows if row["recycled"]}
    rows = [row for row in rows if row["recycled"] or row["method"] not in recycled]
    last = 10.0 ** (np.ceil(np.log10(max(_offset(row) + row["seconds"] for row in rows))) + _DECADES)
    with styled_figure((7.2, 3.3 + 0.2 * (len(rows) // 2 + 1))) as figure:
        for ax, indicator in zip(figure.subplots(1, 2, sharex=True), INDICATORS, strict=True):
            for k, row in enumerate(rows):
                style = {
                    "color": COLOURS[k % len(COLOURS)],
                    "marker": "os"[k // len(COLOURS) % 2],
                    "markersize": 4,
                }
                _draw(ax, row, indicator.name, last, style)
                ax.plot([], [], label=wrapped(row["label"], LEGEND), **style)
            ax.plot([], [], ":", color="#000000", label="upper limit")
            ax.set(xscale="log", yscale="log", ylim=(1.0, None))
            ax.set_title(_TITLES[indicator.name])
            ax.set_xlabel("wall time, model included (s)")
            ax.spines[["top", "right"]].set_visible(False)
        figure.axes[0].set_ylabel("effective samples")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return save_figure(figure, path, dpi=200)


def _offset(row: dict[str, Any]) -> float:
    """Return the time [s] before a method's first frame."""
    return row["model_seconds"] + row["burn_in_seconds"]


def _draw(ax: Any, row: dict[str, Any], name: str, last: float, style: dict[str, Any]) -> None:
    """Draw a method, if its number of samples is known."""
    rate, offset = row[f"{name}_per_second"], _offset(row)
    if not (np.isfinite(rate) and rate > 0):
        return
    spent = np.geomspace(1.0 / rate, max(last - offset, 2.0 / rate), 200)
    dashes = _DASHES[row[f"{name}_status"]]
    ax.plot(offset + spent, rate * spent, dashes, color=style["color"], linewidth=1.2)
    ax.plot([offset + row["seconds"]], [rate * row["seconds"]], linestyle="none", **style)
