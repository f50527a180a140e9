"""Seed 001, figure 3, with the figures that judge it: eight panels, and effective sample sizes by temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.analysis import Ramachandran, free_energy_surface
from openmm_bg.comparison import Ensemble
from openmm_bg.plotting import COLOURS, styled_figure
from openmm_bg.reproduction.alanine_dipeptide import FLOWS, HOT, LABELS
from openmm_bg.systems import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#444444"
_ELEMENTS = {"H": ("#f2f2f2", 40), "C": ("#555555", 130), "N": (COLOURS[0], 130), "O": (COLOURS[1], 130)}


def plot_figure_3(
    flow: dict[float, Ensemble], truth: dict[float, Ensemble], chains: Sequence[Ensemble]
) -> Figure:
    """Draw panels A to H as the seed has them: above at 600 K, below at 300 K.

    Args:
        flow: Unweighted samples of the TSF at both temperatures [K].
        truth: Simulations without a flow at both.
        chains: Chains at 300 K with moves by the TSF, for panel G.
    """
    hot, cold = max(flow), min(flow)
    with styled_figure((11.2, 5.6)) as figure:
        axes = figure.subplots(2, 4)
        for row, temperature in zip(axes, (hot, cold), strict=True):
            for ax, ensembles in ((row[0], flow), (row[1], truth)):
                torsions = ensembles[temperature].ramachandran
                image = _surface(ax, torsions)
                ax.set_title(f"{torsions.label}, {temperature:g} K")
        _phi(axes[0, 2], [flow[hot].ramachandran, truth[hot].ramachandran], f"{hot:g} K")
        lines = [flow[cold].ramachandran, *(chain.ramachandran for chain in chains)]
        _phi(axes[1, 2], [*lines, truth[cold].ramachandran], f"{cold:g} K")
        _molecule(axes[0, 3])
        _energies(axes[1, 3], flow, truth)
        for letter, ax in zip("ABCDEFGH", axes.flat, strict=True):
            ax.text(-0.02, 1.04, letter, transform=ax.transAxes, ha="right", weight="bold", fontsize=11)
        figure.colorbar(image, ax=axes[:, 1], label="free energy (kT)", fraction=0.05, extend="max")
    return figure


def figure_3_csv(
    flow: dict[float, Ensemble], truth: dict[float, Ensemble], chains: Sequence[Ensemble], bins: int = 72
) -> str:
    """Return the curves of panels C, G and H as a table; the arguments are those of `plot_figure_3`."""
    rows = []
    named = [(t, ensemble) for ensembles in (flow, truth) for t, ensemble in ensembles.items()]
    for temperature, ensemble in [*named, *((min(flow), chain) for chain in chains)]:
        label = ensemble.ramachandran.label
        for x, density, error in zip(*ensemble.ramachandran.marginal("phi", bins), strict=True):
            values = (np.degrees(x), np.radians(density), np.radians(error))
            rows.append((label, temperature, "phi (degrees)", *values))
        heights, edges = np.histogram(ensemble.potential_energy, 60, density=True)
        rows += [
            (label, temperature, "energy (kJ/mol)", x, height, np.nan)
            for x, height in zip(0.5 * (edges[1:] + edges[:-1]), heights, strict=True)
        ]
    lines = ["ensemble,temperature,quantity,value,density,stderr"]
    lines += [f'"{row[0]}",{row[1]:g},{row[2]},' + ",".join(f"{v:.6g}" for v in row[3:]) for row in rows]
    return "\n".join(lines) + "\n"


def _surface(ax: Axes, torsions: Ramachandran, bins: int = 90, maximum: float = 10.0) -> Any:
    density = torsions.density(bins)
    surface = np.where(density > 0, free_energy_surface(density), np.nan)
    edges = np.linspace(-180, 180, bins + 1)
    image = ax.pcolormesh(edges, edges, surface.T, cmap="viridis", vmin=0.0, vmax=maximum, rasterized=True)
    ax.set(xlabel="φ (degrees)", ylabel="ψ (degrees)", aspect="equal")
    ax.set_xticks(np.arange(-180, 181, 90))
    ax.set_yticks(np.arange(-180, 181, 90))
    return image


def _phi(ax: Axes, torsions: Sequence[Ramachandran], title: str, bins: int = 72) -> None:
    for k, one in enumerate(torsions):
        centres, density, error = one.marginal("phi", bins)
        x, y, dy = np.degrees(centres), np.radians(density), np.radians(error)
        last = k == len(torsions) - 1
        colour = "black" if last else COLOURS[k]
        ax.plot(x, y, color=colour, lw=1.0, ls="--" if last else "-", label=one.label)
        ax.fill_between(x, np.maximum(y - dy, 1e-9), y + dy, color=colour, alpha=0.25, lw=0)
    # Room for the legend above the lines.
    ax.set(yscale="log", ylim=(1e-6, 3.0), xlabel="φ (degrees)", ylabel="density (1/degree)", title=title)
    ax.set_xticks(np.arange(-180, 181, 90))
    ax.legend(fontsize=7, loc="upper right")


def _energies(ax: Axes, flow: dict[float, Ensemble], truth: dict[float, Ensemble]) -> None:
    for k, temperature in enumerate(sorted(flow)):
        low = min(np.quantile(e[temperature].potential_energy, 0.0005) for e in (flow, truth))
        high = np.quantile(truth[temperature].potential_energy, 0.9995) + 20.0
        edges = np.linspace(low, high, 80)
        for ensembles, style in ((flow, "-"), (truth, "--")):
            label = ensembles[temperature].ramachandran.label
            energy = ensembles[temperature].potential_energy
            heights = np.histogram(energy, edges)[0] / len(energy) / np.diff(edges)
            colour = "black" if style == "--" else COLOURS[k]
            ax.stairs(heights, edges, color=colour, ls=style, label=f"{label}, {temperature:g} K")
    ax.set(xlabel="potential energy (kJ/mol)", ylabel="density (mol/kJ)", title="energies")
    ax.set_ylim(0.0, 1.4 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize=7, loc="upper right")


def _molecule(ax: Axes) -> None:
    """Draw the molecule flat: the two directions along which it extends most."""
    system = load("alanine_dipeptide")
    centred = system.positions - system.positions.mean(0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    for i, j in system.bonds:
        ax.plot(*plane[[i, j]].T, color=_GREY, lw=2.0, zorder=1)
    for (x, y), atom in zip(plane, system.topology.atoms(), strict=True):
        colour, size = _ELEMENTS[atom.element.symbol]
        ax.scatter(x, y, s=size, color=colour, edgecolors=_GREY, zorder=2)
    for name, atoms in system.torsions.items():
        middle = plane[list(atoms[1:3])].mean(0)
        ax.annotate({"phi": "φ", "psi": "ψ"}[name], middle, xytext=(4, 4), textcoords="offset points")
    ax.set_aspect("equal")
    ax.margins(0.12)
    ax.axis("off")
    ax.set_title("alanine dipeptide")


def plot_effective_sizes(table: Sequence[dict[str, Any]]) -> Figure:
    """Draw effective sample sizes against temperature.

    Args:
        table: What `effective_sizes` returned.
    """
    with styled_figure((5.4, 3.6)) as figure:
        ax = figure.subplots()
        for k, flow in enumerate(FLOWS):
            for way, style in (("scaled", "-o"), ("plain", "--s")):
                rows = [row for row in table if row["flow"] == flow and row["way"] == way]
                if way == "plain":
                    rows += [row for row in table if row["flow"] == flow and row["temperature"] == HOT]
                rows.sort(key=lambda row: row["temperature"])
                ax.plot(
                    [row["temperature"] for row in rows],
                    [max(row["ess"], 1e-6) for row in rows],
                    style,
                    color=COLOURS[k],
                    ms=3.5,
                    lw=1.0,
                    alpha=1.0 if way == "scaled" else 0.6,
                    label=LABELS[flow] if way == "scaled" else None,
                )
        ax.plot([], [], "-o", color=_GREY, ms=3.5, lw=1.0, label="sampled there")
        ax.plot([], [], "--s", color=_GREY, ms=3.5, lw=1.0, label="reweighted from 600 K")
        ax.set(yscale="log", xlabel="temperature (K)", ylabel="effective sample size (of 1)", ylim=(1e-5, 1))
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure
