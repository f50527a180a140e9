"""The figures of a report, each small enough for the width of a phone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import Ramachandran
from openmm_bg.plotting import COLOURS, LEGEND, draw_torsions, styled_figure, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from openmm_bg.exchange import ExchangeRecord
    from openmm_bg.report.contents import ConfigurationSet

_SIZE = (3.7, 2.7)  # inches, without the legend
_NEGLIGIBLE = -12.0  # a logarithm of a weight over the mean weight
_MOST_REPLICAS = len(COLOURS)


def plot_marginals(data: Sequence[Ramachandran], angle: str, colours: Sequence[str]) -> Figure:
    """Draw the distributions of phi or psi with bands of one standard error.

    Args:
        data: What to show, a line each.
        angle: "phi" or "psi".
        colours: A colour for each line.
    """
    with _figure(len(data)) as (figure, ax):
        draw_torsions(ax, data, angle, colours=colours)
        ax.set_ylabel("density (1/degree)")
        _legend(figure, ax)
    return figure


def plot_weights(data: Sequence[ConfigurationSet], bins: int = 80) -> Figure:
    """Draw the distribution of the logarithm of the weights, of samples, relative to their mean.

    Args:
        data: Samples, a line each.
        bins: Bins of the axis, which leaves out the lowest 0.1 % of the draws, and those that weigh less than
            exp(-12) of the mean.
    """
    relative = []
    for one in data:
        log_weights = one.all_log_weights
        log_weights = log_weights - statistics.log_mean_weight(log_weights).value
        relative.append(log_weights[np.isfinite(log_weights)])
    low = max(_NEGLIGIBLE, min(np.quantile(values, 1e-3) for values in relative))
    high = max(values.max() for values in relative)
    edges = np.linspace(low, max(high, low + 1e-3), bins + 1)
    with _figure(len(data)) as (figure, ax):
        for one, values in zip(data, relative, strict=True):
            counts, _ = np.histogram(values, edges)
            density = counts / one.n_draws / (edges[1] - edges[0])
            ax.stairs(density, edges, color=one.colour, label=wrapped(one.label, LEGEND))
        ax.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("ln(weight / mean weight)")
        ax.set_ylabel("density of draws")
        _legend(figure, ax)
    return figure


def plot_weight_shares(data: Sequence[ConfigurationSet]) -> Figure:
    """Draw which share of the whole weight the largest weights have; equal weights give the dotted line.

    Args:
        data: Samples, a line each.
    """
    with _figure(len(data)) as (figure, ax):
        least = 1.0
        for one in data:
            weights = np.sort(statistics.normalized_weights(one.all_log_weights))[::-1]
            n = len(weights)
            least = min(least, 1.0 / n)
            rows = np.unique(np.geomspace(1, n, 300).astype(int)) - 1
            ax.plot(
                (rows + 1) / n,
                np.cumsum(weights)[rows],
                color=one.colour,
                linewidth=1.2,
                label=wrapped(one.label, LEGEND),
            )
        line = np.geomspace(least, 1, 200)
        ax.plot(line, line, color="black", linewidth=0.8, linestyle=":")
        ax.set_xscale("log")
        ax.set_xlim(least, 1.0)
        ax.set_ylim(0.0, 1.0)
        ax.set_xlabel("fraction of the draws, largest weights first")
        ax.set_ylabel("share of the weight")
        _legend(figure, ax)
    return figure


def plot_training(
    log: Sequence[dict[str, float]], columns: dict[str, str], label: str, *, logarithmic: bool = False
) -> Figure:
    """Draw columns of a training's log over the steps.

    Args:
        log: The rows.
        columns: The columns and what they are called.
        label: The vertical axis.
        logarithmic: Whether it is logarithmic.
    """
    with _figure(len(columns)) as (figure, ax):
        steps = np.array([row["step"] for row in log])
        for k, (name, called) in enumerate(columns.items()):
            values = np.array([row.get(name, np.nan) for row in log])
            shown = np.isfinite(values)
            style = {"marker": "o", "markersize": 3} if shown.sum() < 40 else {}
            ax.plot(
                steps[shown],
                values[shown],
                color=COLOURS[k % len(COLOURS)],
                linewidth=1.2,
                label=called,
                **style,
            )
        if logarithmic:
            ax.set_yscale("log")
        ax.set_xlim(left=0)
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        _legend(figure, ax)
    return figure


def plot_acceptance(run: ExchangeRecord) -> Figure:
    """Draw the acceptance of the flow's proposals and of exchanges between neighbouring temperatures."""
    temperatures = run.temperatures
    between = (temperatures[1:] + temperatures[:-1]) / 2
    with _figure(2) as (figure, ax):
        proposals = run.flow_acceptance
        ax.errorbar(
            temperatures,
            proposals,
            acceptance_errors(run),
            color=COLOURS[0],
            marker="o",
            markersize=4,
            label="proposals of the flow",
        )
        ax.errorbar(
            between,
            run.exchange_acceptance,
            run.exchange_acceptance_stderr,
            color=COLOURS[1],
            marker="s",
            markersize=4,
            linestyle="none",
            label="exchanges of neighbours",
        )
        ax.set_ylim(0.0, 1.0)
        ax.set_xlabel("temperature (K)")
        ax.set_ylabel("accepted fraction")
        _legend(figure, ax)
    return figure


def acceptance_errors(run: ExchangeRecord) -> np.ndarray:
    """Return what the standard errors of the flow's acceptance are at least, with shape=(n_states,).

    They are those of independent proposals (binomial; 1/n if none or all were accepted). A Metropolis chain is
    not independent of itself: where its weight is high, it refuses many in a row. Its counts in each iteration,
    which would tell, are not stored.
    """
    p, n = run.flow_acceptance, np.where(run.flow_proposed > 0, run.flow_proposed, np.nan)
    return np.where(p * (1 - p) > 0, np.sqrt(p * (1 - p) / n), 1 / n)


def plot_replicas(run: ExchangeRecord) -> Figure:
    """Draw the temperatures that replicas visit, of the first seven replicas at most."""
    states = np.argsort(run.replicas, axis=1)
    n_replicas = states.shape[1]
    rows = np.unique(np.linspace(0, len(states) - 1, min(len(states), 1000)).astype(int))
    with _figure(1) as (figure, ax):
        for k in range(min(n_replicas, _MOST_REPLICAS)):
            # Side by side within a state, so that no line hides another.
            shift = (k - (n_replicas - 1) / 2) / n_replicas * 0.6
            ax.plot(rows + 1, states[rows, k] + shift, "|", color=COLOURS[k], markersize=5, rasterized=True)
        ax.set_yticks(range(n_replicas), [f"{t:.0f}" for t in run.temperatures])
        ax.set_ylim(-0.6, n_replicas - 0.4)
        ax.set_xlim(1, max(2, len(states)))
        ax.set_xlabel("iteration")
        ax.set_ylabel("temperature (K)")
    return figure


@contextmanager
def _figure(n_lines: int) -> Iterator[tuple[Figure, Any]]:
    """Give a figure of one panel in the package's style, with room for a legend below."""
    with styled_figure((_SIZE[0], _SIZE[1] + 0.2 * n_lines)) as figure:
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
        yield figure, ax


def _legend(figure: Figure, ax: Any) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1)
