"""Tables of observables as CSV. Angles are in degrees."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from openmm_bg.files import atomic_path, atomic_write_text
from openmm_bg.observables.figures import shown, shown_unit
from openmm_bg.observables.series import FreeEnergyProfile, FreeEnergySurface, Series


def write_means(data: Iterable[Series], path: Path) -> None:
    """Write averages: set, observable, unit, mean, stderr, standard deviation, frames."""
    rows = []
    for one in data:
        kind = one.observable
        mean, stderr = (shown(value, kind) for value in one.mean())
        deviation = shown(one.standard_deviation(), kind)
        numbers = [f"{value:.8g}" for value in (mean, stderr, deviation)]
        rows.append([one.label, kind.name, shown_unit(kind), *numbers, len(one.values)])
    header = ["set", "observable", "unit", "mean", "stderr", "standard_deviation", "frames"]
    atomic_write_text(path, _csv([header, *rows]))


def write_values(data: Sequence[Series], path: Path) -> None:
    """Write the values of observables in one set of frames: frame, log-weight (0 in a chain), and a column each."""
    first = data[0]
    log_weights = np.zeros(len(first.values)) if first.log_weights is None else first.log_weights
    columns = [np.arange(len(first.values)), log_weights, *(shown(s.values, s.observable) for s in data)]
    header = _csv([["frame", "log_weight", *(_column(s) for s in data)]]).rstrip("\n")
    with atomic_path(path) as temporary:
        np.savetxt(
            temporary,
            np.stack(columns, axis=1),
            fmt=["%d", "%.10g", *["%.7g"] * len(data)],
            delimiter=",",
            header=header,
            comments="",
        )


def write_profiles(data: Iterable[tuple[Series, FreeEnergyProfile]], path: Path) -> None:
    """Write free energies along observables: a row for each set, observable and bin; free energies in kT."""
    rows = []
    for series, found in data:
        kind = series.observable
        to_shown = shown(1.0, kind)
        for k, centre in enumerate(found.centres):
            numbers = (
                shown(centre, kind),
                found.density[k] / to_shown,
                found.density_stderr[k] / to_shown,
                found.free_energy[k],
                found.free_energy_stderr[k],
            )
            rows.append([series.label, kind.name, shown_unit(kind), *(f"{number:.8g}" for number in numbers)])
    header = ["set", "observable", "unit", "centre", "density", "density_stderr", "free_energy_kT"]
    atomic_write_text(path, _csv([[*header, "free_energy_kT_stderr"], *rows]))


def write_surfaces(data: Iterable[tuple[Series, Series, FreeEnergySurface]], path: Path) -> None:
    """Write surfaces of two observables: a row for each set and bin; free energies in kT."""
    rows, header = [], []
    for x, y, found in data:
        header = ["set", _column(x), _column(y), "density", "free_energy_kT", "free_energy_kT_stderr"]
        centres = [
            shown((e[1:] + e[:-1]) / 2, one.observable) for e, one in zip(found.edges, (x, y), strict=True)
        ]
        density = found.density / (shown(1.0, x.observable) * shown(1.0, y.observable))
        for i, j in np.ndindex(density.shape):
            numbers = (centres[0][i], centres[1][j], density[i, j], found.free_energy[i, j])
            rows.append([x.label, *(f"{v:.8g}" for v in (*numbers, found.free_energy_stderr[i, j]))])
    atomic_write_text(path, _csv([header, *rows]))


def _column(series: Series) -> str:
    unit = shown_unit(series.observable)
    return series.observable.name + (f" ({unit})" if unit else "")


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
