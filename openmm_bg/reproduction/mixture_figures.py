"""Figure 2 of seed 001: marginal densities, and negative log-likelihoods at many temperatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.plotting import COLOURS, styled_figure
from openmm_bg.reproduction.mixture_equilibrium import ladder
from openmm_bg.reproduction.mixture_flows import FIXED, evaluated
from openmm_bg.reproduction.mixture_results import LABELS, Curves
from openmm_bg.systems.double_well_mixture import DoubleWellMixture
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {
    "tsf-affine": (COLOURS[0], "-"),
    "realnvp": (COLOURS[1], "--"),
    FIXED: (COLOURS[4], ":"),
    "tsf": (COLOURS[2], "-."),
}


def plot_figure_2(
    marginals: dict[str, Any], systems: list[tuple[DoubleWellMixture, Curves]], n_seeds: int
) -> Figure:
    """Draw panels A to C: densities above; likelihoods below, with what they lack to the best possible.

    Args:
        marginals: What `mixture_results.marginals` returned.
        systems: The systems of panels B and C, with their curves.
        n_seeds: How many trainings the bands are of.
    """
    from matplotlib.patches import Patch

    with styled_figure((7.4, 7.6)) as figure:
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.0, 2.6))
        _plot_marginals(upper, marginals)
        axes = lower.subplots(2, len(systems), sharex=True, squeeze=False)
        for letter, column, (toy, curves) in zip("BC", axes.T, systems, strict=False):
            _plot_likelihoods(column[0], toy, curves)
            _plot_excess(column[1], curves)
            column[0].set_title(f"{toy.dimension} dimensions")
            column[0].text(-0.1, 1.04, letter, transform=column[0].transAxes, weight="bold", fontsize=11)
        axes[0, 0].set_ylabel("NLL (nats)")
        axes[1, 0].set_ylabel("NLL less entropy (nats)")
        handles, _ = axes[0, 0].get_legend_handles_labels()
        for ax in axes[1]:
            ax.set_xlabel("temperature (trained at T = 1)")
        bands = "one standard error" if n_seeds > 1 else "that of samples only: one training"
        handles.append(Patch(color="0.8", label=bands))
        lower.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _plot_marginals(figure: Any, marginals: dict[str, Any]) -> None:
    axes = figure.subplots(1, len(marginals["edges"]))
    for k, ax in enumerate(axes):
        edges = marginals["edges"][k]
        ax.stairs(marginals["exact"][k], edges, fill=True, color="#cccccc", label="exact")
        ax.stairs(marginals["tempered"][k], edges, color="black", lw=0.8, label="parallel tempering")
        ax.stairs(marginals["unweighted"][k], edges, color=COLOURS[0], lw=1.2, label="TSF as published")
        ax.stairs(
            marginals["weighted"][k], edges, color=COLOURS[1], lw=0.8, ls="--", label="the same, weighted"
        )
        ax.set(xlabel=f"$x_{k + 1}$ (nm)", yticks=[], xlim=(-2.9, 2.9), xticks=(-2, 0, 2))
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_ylabel("density")
    axes[0].text(-0.1, 1.04, "A", transform=axes[0].transAxes, weight="bold", fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)


def _plot_likelihoods(ax: Axes, toy: DoubleWellMixture, curves: Curves) -> None:
    temperatures = ladder()[evaluated()]
    entropy = np.array([toy.entropy(t * UNIT_TEMPERATURE) for t in temperatures])
    highest = 0.0
    for name, values in curves.items():
        mean, error = _band(values)
        _line(ax, name, temperatures, entropy + mean, error)
        if name != FIXED:  # which may be far above all others
            highest = max(highest, float((entropy + mean).max()))
    ax.plot(temperatures, entropy, color="black", lw=1.0, label="exact entropy: the least possible")
    low = float(entropy.min())
    ax.set(xscale="log", ylim=(low - 0.05 * (highest - low), highest + 0.1 * (highest - low)))
    _finish(ax)


def _plot_excess(ax: Axes, curves: Curves) -> None:
    for name, values in curves.items():
        _line(ax, name, ladder()[evaluated()], *_band(values))
    ax.set(xscale="log", yscale="log")
    _finish(ax)


def _line(ax: Axes, name: str, x: np.ndarray, y: np.ndarray, error: np.ndarray) -> None:
    colour, style = _STYLES[name]
    ax.plot(x, y, color=colour, ls=style, lw=1.3, label=LABELS[name])
    ax.fill_between(x, y - error, y + error, color=colour, alpha=0.25, lw=0)


def _finish(ax: Axes) -> None:
    ax.axvline(1.0, color="grey", lw=0.8, ls=(0, (4, 3)), zorder=0)
    ax.set_xlim(0.1, 10.0)
    ax.set_xticks([0.1, 1.0, 10.0], ["0.1", "1", "10"])
    ax.spines[["top", "right"]].set_visible(False)


def _band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard errors of a curve, over trainings and over samples."""
    by_seed, by_walker = values.mean(axis=2), values.mean(axis=0)
    error = by_walker.std(axis=1, ddof=1) / np.sqrt(by_walker.shape[1])
    if len(by_seed) > 1:
        error = np.hypot(error, by_seed.std(axis=0, ddof=1) / np.sqrt(len(by_seed)))
    return by_seed.mean(axis=0), error
