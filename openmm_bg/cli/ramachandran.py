"""``openmm-bg ramachandran``: free-energy surfaces, histograms and basin populations, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_bg.cli import frame_files as options
from openmm_bg.cli.console import print_table, say
from openmm_bg.errors import InputError
from openmm_bg.statistics import with_error

if TYPE_CHECKING:
    from openmm_bg.analysis import Ramachandran
    from openmm_bg.trajectories import Frames


def ramachandran(
    files: options.Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="The figure (.png; .svg beside it).")],
    label: Annotated[list[str] | None, typer.Option(help="A panel's label; one for each file.")] = None,
    title: Annotated[str | None, typer.Option(help="A title above the panels.")] = None,
    topology: options.Topology = None,
    temperature: options.Temperature = None,
    residue: Annotated[str | None, typer.Option(help='Which residue, e.g. "2 (ALA)", if several.')] = None,
    weights: options.Weights = True,
    bins: Annotated[int, typer.Option(help="Bins of each angle in the surface.")] = 90,
    maximum: Annotated[float, typer.Option(help="Free energy (kT) at the end of the colours.")] = 10.0,
) -> None:
    """Draw Ramachandran free-energy surfaces in kT, side by side, and compare them.

    Writes OUTPUT as PNG and SVG, and beside it the phi and psi histograms with errors as a figure and as a
    table (OUTPUT_torsions.png, .svg, .csv). Prints the basins' populations, and distances to the first file.

    Example: openmm-bg ramachandran data samples.h5 --label "MD, 600 K" --label "flow, 300 K" -o plot.png
    """
    from openmm_bg import plotting
    from openmm_bg.io import read_frames

    if output.suffix.lower() not in {".png", ".svg"}:
        raise InputError(f"A figure is written to a file that ends in .png or .svg, not {output.name!r}.")
    labels = options.check_labels(files, label)
    data: list[Ramachandran] = []
    statements: list[tuple[str, str]] = []
    for path, own in zip(files, labels, strict=True):
        frames = read_frames(path, topology, temperature=temperature)
        data.append(_ramachandran(frames, path, own, residue, weights))
        statements.append((data[-1].label, frames.convergence))
    caption = options.convergence_caption(statements)
    if caption and title:
        caption, title = f"{title}. {caption}", None
    torsions = output.with_name(f"{output.stem}_torsions.png")
    surfaces = plotting.plot_ramachandran(data, bins=bins, maximum=maximum, title=title)
    histograms = plotting.plot_torsions(data, title=title)
    written = [
        path
        for figure, target in ((surfaces, output), (histograms, torsions))
        for path in plotting.save_figure(plotting.captioned(figure, caption), target)
    ]
    written.append(plotting.write_torsions_csv(data, torsions.with_suffix(".csv")))
    _print_populations(data)
    if len(data) > 1:
        _print_distances(data)
    say("Written: " + ", ".join(str(path) for path in written))


def _ramachandran(
    frames: Frames, path: Path, label: str | None, residue: str | None, weighted: bool
) -> Ramachandran:
    from openmm_bg.analysis import Ramachandran, torsion_angles, torsion_pairs
    from openmm_bg.samples import warn_if_unreliable
    from openmm_bg.systems.torsions import backbone_torsions

    if len(frames) < 2:
        raise InputError(f"{path} has a single frame; a free energy needs at least two.")
    torsions = backbone_torsions(frames.topology.to_openmm())
    pairs = torsion_pairs(torsions)
    if not pairs:
        raise InputError(f"{path} has no residue with both backbone torsions phi and psi.")
    if list(pairs) == [""]:  # the only one has no name, but may be asked for by it
        only = frames.topology.atom(torsions["phi"][1]).residue
        pairs = {f"{only.resSeq} ({only.name})": pairs[""]}
    if residue is None and len(pairs) > 1:
        raise InputError(f"{path} has several residues; choose one with --residue: {', '.join(pairs)}.")
    chosen = next(iter(pairs)) if residue is None else residue
    if chosen not in pairs:
        raise InputError(f"{path} has no residue {chosen!r}; it has: {', '.join(pairs)}.")
    names = pairs[chosen]
    angles = torsion_angles(frames.positions, {name: torsions[name] for name in names})
    log_weights = frames.log_weights if weighted else None
    if log_weights is not None:
        warn_if_unreliable(log_weights)
    label = label or frames.label(weighted)
    return Ramachandran(label, angles[names[0]], angles[names[1]], log_weights, frames.n_walkers)


def _print_populations(data: list[Ramachandran]) -> None:
    from openmm_bg.analysis import BASINS, PHI_POSITIVE

    basins = {**BASINS, "phi > 0": PHI_POSITIVE}
    rows = [(one.label, *(with_error(one.population(basin)) for basin in basins.values())) for one in data]
    print_table(("populations", *basins), rows)
    say("Standard errors of weighted samples by the delta method, of chains by their correlation times.")


def _print_distances(data: list[Ramachandran]) -> None:
    from openmm_bg.analysis import kl_divergence, total_variation, total_variation_floor

    first = data[0]
    rows = [
        (
            one.label,
            f"{kl_divergence(first, one):.3g}",
            f"{total_variation(first, one):.3f}",
            f"{total_variation_floor(first, one):.3f}",
        )
        for one in data[1:]
    ]
    print_table((f"distance to {first.label}", "KL", "total variation", "of which noise"), rows)
    say("KL on 100 x 100 bins, total variation on 50 x 50; noise: what two sets of one law would have.")
