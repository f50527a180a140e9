"""``openmm-bg observables``: averages and free energies of distances, torsions, RMSD and the like."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_bg.cli import frame_files as options
from openmm_bg.cli.console import print_table, say
from openmm_bg.errors import InputError
from openmm_bg.statistics import with_error

if TYPE_CHECKING:
    import mdtraj

    from openmm_bg.observables import Observable, Series
    from openmm_bg.trajectories import Frames


def observables(
    files: options.Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to write.")],
    observable: Annotated[
        list[str] | None,
        typer.Option(
            help="What to average, e.g. rg, hbonds, rmsd:ca, phi:3, chi1:5, distance:ASP3-N,THR8-O; repeat it."
        ),
    ] = None,
    surface: Annotated[
        list[str] | None,
        typer.Option(help="Two of them with a comma between, for their free-energy surface; repeat it."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="For rmsd and contacts: a PDB file, a model's directory, or a system's name."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="A set's label; one for each file.")] = None,
    topology: options.Topology = None,
    temperature: options.Temperature = None,
    weights: options.Weights = True,
    bins: Annotated[int, typer.Option(help="Bins of each axis.")] = 60,
    maximum: Annotated[float, typer.Option(help="Free energy (kT) at the end of the axes.")] = 10.0,
) -> None:
    """Average observables and draw their free energies, of samples with their weights, of chains as they are.

    Kinds: phi, psi, omega, chi1 to chi4 (:RESIDUE), distance, angle, dihedral (:ATOM,ATOM,...), rg, rmsd
    (:backbone, :ca, :heavy, :all), contacts, hbonds (:wernet-nilsson, :baker-hubbard). Angles are in degrees.

    Writes means.csv, profiles.csv and profiles.png, a CSV and a PNG of each surface (.svg beside each PNG), and
    the values in every frame (values_LABEL.csv).

    Example: openmm-bg observables samples.h5 --observable rg --observable hbonds --surface phi,psi -o out
    """
    from openmm_bg.files import atomic_write_json, provenance
    from openmm_bg.io import read_frames
    from openmm_bg.observables import split_names
    from openmm_bg.observables.molecules import molecule_of

    pairs = [split_names(text) for text in surface or []]
    for names, text in zip(pairs, surface or [], strict=True):
        if len(names) != 2:
            raise InputError(f"A surface is of two observables, as in phi,psi; not {text!r}.")
    wanted = list(dict.fromkeys([*(observable or []), *(name for names in pairs for name in names)]))
    if not wanted:
        raise InputError("Say what to look at: --observable NAME, or --surface NAME,NAME.")
    if bins < 4 or not maximum > 0:
        raise InputError(
            f"A figure needs at least 4 bins and a positive --maximum, not {bins} and {maximum:g}."
        )
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; give the name of a directory.")
    molecule: object = None
    observed: dict[str, Observable] = {}
    data: list[dict[str, Series]] = []
    statements: list[tuple[str, str]] = []
    for path, own in zip(files, options.check_labels(files, label), strict=True):
        frames = read_frames(path, topology, temperature=temperature)
        if not observed:  # in the first file, which says what the atoms of all are
            molecule = molecule_of(frames.topology)
            observed = _find(wanted, frames.topology, reference)
        if molecule_of(frames.topology) != molecule:
            raise InputError(f"{path} and {files[0]} are of different molecules; look at each by itself.")
        data.append(_evaluate(frames, own, observed.values(), weights))
        statements.append((own or frames.label(weights), frames.convergence))
    _refuse_equal_labels([next(iter(by_name.values())).label for by_name in data])
    surfaces = {tuple(observed[name].name for name in names): names for names in pairs}
    caption = options.convergence_caption(statements)
    written = _write(data, surfaces, output, bins, maximum, caption)
    atomic_write_json(output / "provenance.json", provenance(files=[str(path) for path in files]))
    _print_means(data)
    say("Written: " + ", ".join(str(path) for path in written))


def _find(wanted: list[str], topology: mdtraj.Topology, reference: str | None) -> dict[str, Observable]:
    """Return the observables by the names that they are asked for with."""
    from openmm_bg.observables import load_reference_positions, observable

    native = None if reference is None else load_reference_positions(reference, topology)
    if native is None and any(name.startswith(("rmsd", "contacts")) for name in wanted):
        raise InputError("rmsd and contacts need --reference: a PDB file, a model's directory, or a system.")
    return {name: observable(name, topology, native) for name in wanted}


def _evaluate(
    frames: Frames, label: str | None, kinds: Iterable[Observable], weighted: bool
) -> dict[str, Series]:
    """Return the values by the observables' own names, so that each is there once."""
    from openmm_bg.observables import Series
    from openmm_bg.samples import warn_if_unreliable

    if len(frames) < 2:
        raise InputError(f"{frames.path} has a single frame; averages need at least two.")
    if weighted and frames.log_weights is not None:
        warn_if_unreliable(frames.log_weights)
    label = label or frames.label(weighted)
    by_name = {kind.name: kind for kind in kinds}
    return {name: Series.of_frames(kind, frames, label, weighted=weighted) for name, kind in by_name.items()}


def _write(
    data: list[dict[str, Series]],
    surfaces: dict[tuple[str, ...], list[str]],
    output: Path,
    bins: int,
    maximum: float,
    caption: str,
) -> list[Path]:
    """Write tables and figures; surfaces of two observables are called by the names that were asked for."""
    from openmm_bg.observables import bin_edges, profile, tables
    from openmm_bg.observables import surface as two_dimensional
    from openmm_bg.observables.figures import plot_profiles, plot_surfaces
    from openmm_bg.plotting import captioned, save_figure

    by_observable = {name: [by_name[name] for by_name in data] for name in data[0]}
    edges = {name: bin_edges(sets, bins) for name, sets in by_observable.items()}
    panels = [[(one, profile(one, edges[name])) for one in sets] for name, sets in by_observable.items()]
    written = [output / "means.csv", output / "profiles.csv"]
    tables.write_means([one for sets in by_observable.values() for one in sets], written[0])
    tables.write_profiles([one for panel in panels for one in panel], written[1])
    for by_name in data:
        series = list(by_name.values())
        written.append(output / f"values_{_file_name(series[0].label)}.csv")
        tables.write_values(series, written[-1])
    profiles = captioned(plot_profiles(panels, maximum=maximum), caption)
    written += save_figure(profiles, output / "profiles.png")
    for (x, y), names in surfaces.items():
        found = [
            (by_name[x], by_name[y], two_dimensional(by_name[x], by_name[y], (edges[x], edges[y])))
            for by_name in data
        ]
        path = output / f"surface_{'_'.join(map(_file_name, names))}.csv"
        tables.write_surfaces(found, path)
        written += [path, *save_figure(captioned(plot_surfaces(found, maximum=maximum), caption), path)]
    return written


def _print_means(data: list[dict[str, Series]]) -> None:
    from openmm_bg.observables.figures import axis_label, shown

    rows = []
    for name in data[0]:
        for by_name in data:
            one = by_name[name]
            value, stderr = (shown(number, one.observable) for number in one.mean())
            deviation = f"{shown(one.standard_deviation(), one.observable):.3g}"
            rows.append((axis_label(one.observable), one.label, with_error((value, stderr)), deviation))
    print_table(("observable", "set", "mean", "standard deviation"), rows)
    say("Standard errors of weighted samples by the delta method, of chains by their correlation times.")
    if any(one.observable.periodic for one in data[0].values()):
        say("Of torsions: the direction of the mean vector and the circular standard deviation.")


def _refuse_equal_labels(labels: list[str]) -> None:
    names = [_file_name(one) for one in labels]
    if len(set(names)) < len(names):
        raise InputError(f"Two files have the same label ({', '.join(labels)}); give others with --label.")


def _file_name(text: str) -> str:
    """Return a text as part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.") or "set"
