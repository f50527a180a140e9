"""Figures of observables: free energies along one, and of two. Angles are shown in degrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.observables.series import FreeEnergyProfile, FreeEnergySurface, Series
from openmm_bg.plotting import (
    COLOURS,
    LEGEND,
    add_colour_bar,
    are_reliable,
    draw_surface,
    styled_figure,
    surface_levels,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from openmm_bg.observables.names import Observable

_PANEL = 30  # characters along a panel of a surface


def axis_label(observable: Observable) -> str:
    """Return an observable's label with its unit, as it is shown."""
    unit = shown_unit(observable)
    return observable.label + (f" ({unit})" if unit else "")


def shown_unit(observable: Observable) -> str:
    """Return the unit that values are shown in: degrees for angles."""
    return "degrees" if observable.unit == "rad" else observable.unit


def shown(values: np.ndarray | float, observable: Observable) -> np.ndarray | float:
    """Return values [the observable's unit] in the unit that they are shown in."""
    return np.degrees(values) if observable.unit == "rad" else values


def plot_profiles(
    data: Sequence[Sequence[tuple[Series, FreeEnergyProfile]]], *, maximum: float = 10.0
) -> Figure:
    """Draw free energies along observables, a panel each, with bands of one standard error.

    Args:
        data: For each panel the series of one observable and their profiles, a line each.
        maximum: The free energy [kT] at the top of the panels.

    Raises:
        InputError: If there is nothing to draw.
    """
    if not data or not data[0]:
        raise InputError("There is nothing to draw.")
    n_columns = min(len(data), 3)
    n_rows = -(-len(data) // n_columns)
    n_lines = max(len(panel) for panel in data)
    with styled_figure((2.9 * n_columns + 0.5, 2.5 * n_rows + 0.25 * n_lines)) as figure:
        # So that the last tick's label of a panel does not touch the first of the next one.
        figure.get_layout_engine().set(wspace=0.06)
        axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
        for ax, panel in zip(axes.flat, data, strict=False):
            for k, (series, found) in enumerate(panel):
                _draw_profile(ax, series, found, COLOURS[k % len(COLOURS)])
            kind = panel[0][0].observable
            if kind.periodic:
                ax.set_xlim(-180, 180)
                ax.set_xticks(np.arange(-180, 181, 90))
            elif kind.is_count:
                ax.xaxis.get_major_locator().set_params(integer=True)
            ax.set_xlabel(wrapped(axis_label(kind)))
            ax.set_ylim(0.0, maximum)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in axes.flat[len(data) :]:
            ax.set_visible(False)
        for row in axes:
            row[0].set_ylabel("free energy (kT)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1)
    return figure


def plot_surfaces(
    data: Sequence[tuple[Series, Series, FreeEnergySurface]], *, maximum: float = 10.0
) -> Figure:
    """Draw free-energy surfaces of two observables side by side, with one colour bar (see `draw_surface`).

    Args:
        data: For each panel the series of both observables and their surface, all on the same bins.
        maximum: Free energy [kT] at which the colours end.

    Raises:
        InputError: If there is nothing to draw, or the largest free energy is not positive.
    """
    if not data:
        raise InputError("There is nothing to draw.")
    levels = surface_levels(maximum)
    n = len(data)
    n_columns = min(n, 3)
    n_rows = -(-n // n_columns)
    with styled_figure((2.6 * n_columns + 1.3, 2.5 * n_rows + 0.5)) as figure:
        axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        for ax, (x, y, found) in zip(axes.flat, data, strict=False):
            kinds = x.observable, y.observable
            image = draw_surface(
                ax,
                tuple(shown(edges, kind) for edges, kind in zip(found.edges, kinds, strict=True)),
                found.density,
                np.nan_to_num(found.free_energy_stderr) * found.density,
                levels,
                periodic=tuple(kind.periodic for kind in kinds),
                counts=tuple(kind.is_count for kind in kinds),
                contours=are_reliable(x.log_weights),
            )
            for kind, axis in zip(kinds, (ax.xaxis, ax.yaxis), strict=True):
                if kind.periodic:
                    axis.set_ticks(np.arange(-180, 181, 90))
                elif kind.is_count:
                    axis.get_major_locator().set_params(integer=True)
            ax.set_title(wrapped(x.label), pad=5)
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(wrapped(axis_label(x.observable), _PANEL))
        for ax in axes.flat[n:]:
            ax.set_visible(False)
        for row in axes:
            row[0].set_ylabel(wrapped(axis_label(data[0][1].observable), _PANEL))
        add_colour_bar(figure, image, axes, levels)
    return figure


def _draw_profile(ax: Axes, series: Series, found: FreeEnergyProfile, colour: str) -> None:
    seen = np.isfinite(found.free_energy)
    energy = np.where(seen, found.free_energy, np.nan)
    error = np.where(seen, found.free_energy_stderr, np.nan)
    label = wrapped(series.label, LEGEND)
    if series.observable.is_count:
        x = shown(found.centres, series.observable)
        ax.errorbar(x, energy, error, color=colour, marker="o", markersize=4, linestyle=":", label=label)
        return
    # Steps, so that a bin without neighbours is seen, too.
    edges = shown(found.edges, series.observable)
    ax.stairs(
        energy + error, edges, baseline=energy - error, fill=True, color=colour, alpha=0.25, linewidth=0
    )
    ax.stairs(energy, edges, baseline=None, color=colour, linewidth=1.2, label=label)
