"""Seed 002: the drawing of its figures that no other figure of the package has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.observables.figures import axis_label, shown, shown_unit
from openmm_bg.observables.series import FreeEnergyProfile, Series
from openmm_bg.plotting import COLOURS, captioned, draw_band, save_figure, styled_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GREY, _BONDS = "#bbbbbb", "#888888"


class Folder:
    """A directory of figures that have one caption.

    Args:
        path: The directory.
        caption: What stands above each figure.

    Attributes:
        names: The figures that were written, without extensions.
    """

    def __init__(self, path: Path, caption: str) -> None:
        self.path, self.caption = path, caption
        self.names: list[str] = []

    def save(self, figure: Figure, name: str, before: str = "") -> Path:
        """Write a figure as PNG and SVG.

        Args:
            figure: The figure.
            name: Its name without an extension.
            before: What stands before the caption.

        Returns:
            The path that a table of its curves has.
        """
        save_figure(captioned(figure, before + self.caption), self.path / f"{name}.png")
        self.names.append(name)
        return self.path / f"{name}.csv"


def heaviest_beads(weights: np.ndarray) -> np.ndarray:
    """Return the bead in which each atom weighs most with shape=(n_atoms,), and -1 for atoms in none.

    Args:
        weights: The weights of a map with shape=(n_beads, n_atoms).
    """
    weights = np.asarray(weights)
    return np.where(weights.max(axis=0) > 1e-6, weights.argmax(axis=0), -1)


def flat(positions: np.ndarray) -> np.ndarray:
    """Return the two axes along which positions [nm] with shape=(n, 3) extend most, with shape=(3, 2)."""
    centred = positions - positions.mean(axis=0)
    return np.linalg.svd(centred, full_matrices=False)[2][:2].T


def plot_map(positions: np.ndarray, bonds: np.ndarray, weights: np.ndarray) -> Figure:
    """Draw a coarse-grained map in the plane in which the molecule extends most.

    Lines are bonds. Dots are atoms, in the colour of the bead in which they weigh most, and grey if that is none.
    Circles are beads.

    Args:
        positions: The reference configuration [nm] with shape=(n_atoms, 3).
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
        weights: The weights of the map with shape=(n_beads, n_atoms).

    Raises:
        InputError: If the map is of another number of atoms.
    """
    weights = np.asarray(weights)
    if weights.shape[1:] != (len(positions),):
        raise InputError(f"The map is of {weights.shape[1]} atoms, the configuration of {len(positions)}.")
    centred = positions - positions.mean(axis=0)
    plane = centred @ flat(positions)
    beads = weights @ plane
    colours = COLOURS[:-1]
    extent = np.ptp(plane, axis=0)
    width = 3.2 + 3.0 * min(extent[0], 1.5)
    size = 60.0 / max(1.0, len(positions) / 25) ** 0.6
    with styled_figure((width, max(2.0, width * extent[1] / extent[0]))) as figure:
        ax = figure.subplots()
        for i, j in np.asarray(bonds):
            ax.plot(*plane[[i, j]].T, color=_BONDS, linewidth=1.0, zorder=1)
        own = heaviest_beads(weights)
        shades = [_GREY if bead < 0 else colours[bead % len(colours)] for bead in own]
        ax.scatter(*plane.T, s=size / 3, c=shades, linewidths=0, zorder=2)
        edges = [colours[bead % len(colours)] for bead in range(len(beads))]
        ax.scatter(*beads.T, s=3 * size, facecolors="none", edgecolors=edges, linewidths=1.5, zorder=3)
        ax.set_aspect("equal")
        ax.margins(0.08)
        ax.axis("off")
    return figure


def plot_densities(
    panels: Sequence[Sequence[tuple[Series, FreeEnergyProfile]]], n_columns: int = 4
) -> Figure:
    """Draw densities of observables, a panel each, with bands of one standard error.

    Args:
        panels: For each panel the series of one observable and their profiles, a line each; the last panel's labels
            are those of the legend.
        n_columns: Panels in a row.

    Raises:
        InputError: If there is nothing to draw.
    """
    if not panels or not panels[0]:
        raise InputError("There is nothing to draw.")
    n_columns = min(n_columns, len(panels))
    n_rows = -(-len(panels) // n_columns)
    n_lines = len(panels[0])
    width = 3.7 if n_columns == 1 else 2.3 * n_columns + 0.4
    with styled_figure((width, (2.7 if n_rows == 1 else 1.9 * n_rows) + 0.2 * n_lines)) as figure:
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for k, (ax, panel) in enumerate(zip(axes.flat, panels, strict=False)):
            kind = panel[0][0].observable
            for (series, found), colour in zip(panel, COLOURS, strict=False):
                per_unit = float(shown(1.0, kind))
                x = shown(found.centres, kind)
                draw_band(
                    ax, x, found.density / per_unit, found.density_stderr / per_unit, series.label, colour
                )
            edges = shown(panel[0][1].edges, kind)
            ax.set_xlim(edges[0], edges[-1])
            if kind.periodic:
                ax.set_xticks(np.arange(-180, 181, 90))
            ax.set_ylim(bottom=0.0)
            ax.set_xlabel(axis_label(kind))
            if k % n_columns == 0:
                unit = {"degrees": "1/degree", "kJ/mol": "mol/kJ"}.get(shown_unit(kind), "")
                ax.set_ylabel("density" + (f" ({unit})" if unit else ""))
            ax.spines[["top", "right"]].set_visible(False)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        handles, labels = axes.flat[len(panels) - 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if n_columns == 1 else n_lines)
    return figure
