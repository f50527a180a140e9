"""Saving samples; reading samples, trajectories and exchange runs, with errors that say what is wrong."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_path, json_text, provenance
from openmm_bg.samples import Samples
from openmm_bg.trajectories import Frames, check_frames, existing_file, read_trajectory

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem

_APPLICATION = "weighted samples of openmm_bg"
_COLUMNS = ("log_q", "reduced_energy", "log_weight", "potential_energy")


def samples_path(path: str | Path) -> Path:
    """Return the path for a samples file if samples can be written there.

    Raises:
        InputError: If it does not end in .h5, is a folder, or something else than samples would be overwritten.
    """
    path = _with_its_ending(path)
    files = (path.with_suffix(suffix) for suffix in (".h5", ".json", ".csv"))
    there = [file for file in files if file.exists()]
    if there and not _were_samples(path):
        raise InputError(f"{there[0]} is no file of samples, and would be overwritten; give another name.")
    return path


def _with_its_ending(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".h5":
        raise InputError(f"Samples are saved in a file that ends in .h5, not {path.name!r}.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file.")
    return path


def _were_samples(path: Path) -> bool:
    """Tell whether a file, or what is left beside it, is of samples."""
    try:
        return bool(_read_summary(path.with_suffix(".json")))
    except (OSError, ValueError):
        pass
    try:
        return are_samples(path)
    except InputError:
        return False


def save_samples(samples: Samples, path: str | Path) -> dict[str, Any]:
    """Save samples, their log-densities and weights, and how they were made.

    Three files are written, each complete or not at all: `path` (mdtraj HDF5: the draws inside the target's
    domain, in single precision), a CSV table with a row for each of its frames, and a JSON summary with the
    number of all draws. Draws outside the domain are only counted. Of samples along chains they are kept as frames
    without weight, in the place of which another configuration stands: frame i is of walker i % n_walkers.

    Args:
        samples: The samples; they must know their system.
        path: The HDF5 file, ending in .h5; the others have the extensions .csv and .json.

    Returns:
        The JSON summary.

    Raises:
        InputError: If the name is wrong, or there is no topology or no draw inside the domain.
    """
    import mdtraj

    path = samples_path(path)
    summary = _summary(samples)
    if samples.n_walkers > 1:
        samples = _filled(samples)
    trajectory = samples.to_mdtraj()
    frames = samples.in_domain
    table = np.stack([samples.log_q, samples.reduced_energy, samples.log_weights, samples.energies], axis=1)
    with ExitStack() as stack:
        # Renamed in the opposite order: the summary, which vouches for the others, comes last.
        names = [stack.enter_context(atomic_path(path.with_suffix(s))) for s in (".json", ".csv", ".h5")]
        with mdtraj.formats.HDF5TrajectoryFile(str(names[2]), "w") as file:
            file.topology = trajectory.topology
            file.application = _APPLICATION  # so that they are never taken for an unweighted trajectory
            file.write(
                trajectory.xyz,
                potentialEnergy=samples.energies[frames].astype(np.float32),
                temperature=np.full(len(trajectory), samples.temperature, dtype=np.float32),
            )
        header = ",".join(_COLUMNS)
        np.savetxt(names[1], table[frames], fmt="%.17g", delimiter=",", header=header, comments="")
        names[0].write_text(json_text(summary))
    return summary


def load_samples(path: str | Path, system: MolecularSystem | None = None) -> Samples:
    """Read samples that `save_samples` wrote.

    Positions come back in single precision, densities and energies in double. Draws outside the domain come
    back at the end, with NaN positions, so that means and effective sample sizes are those of all draws.

    Args:
        path: The HDF5 file.
        system: The molecule, for exporting and saving again.

    Raises:
        InputError: If one of the three files is missing or damaged, or they do not belong together.
    """
    path = _with_its_ending(path)
    frames = read_trajectory(path)
    summary, table = _read_tables(path)
    if len(table) != len(frames):
        raise InputError(
            f"{path} has {len(frames)} frames but its CSV table {len(table)} rows; sample again."
        )
    n_outside = int(summary["n_draws"]) - len(table)
    if n_outside < 0:
        raise InputError(
            f"The JSON summary of {path} counts fewer draws than there are frames; sample again."
        )
    outside = np.full((n_outside, *frames.positions.shape[1:]), np.nan)
    return Samples(
        positions=np.concatenate([frames.positions, outside]),
        log_q=np.concatenate([table[:, 0], np.full(n_outside, np.nan)]),
        reduced_energy=np.concatenate([table[:, 1], np.full(n_outside, np.inf)]),
        temperature=summary["temperature"],
        system=system,
        record=summary.get("record", {}),
        n_walkers=summary.get("n_walkers", 1),
        normalized=summary.get("normalized", True),
    )


def read_frames(
    path: str | Path,
    topology: str | Path | None = None,
    *,
    temperature: float | None = None,
) -> Frames:
    """Read configurations from a trajectory, from samples with their weights, or from a replica exchange run.

    Args:
        path: A trajectory, a samples file (beside its .csv and .json), a simulation's directory, or an exchange
            run (.nc). Of an exchange run with latent moves the iterations that tuned their step size are left out.
        topology: A file with the topology, for formats without one. An exchange run finds its model's.
        temperature: Which temperature [K] of an exchange run; the lowest if not given.

    Raises:
        InputError: If a file is missing or cannot be used.
    """
    path = Path(path)
    path = existing_file(path / "trajectory.h5" if (path / "trajectory.h5").is_file() else path)
    if path.suffix == ".h5" and are_samples(path):
        frames = read_trajectory(path)
        samples = load_samples(path)
        inside = slice(0, len(frames))  # draws outside have no configuration; weights are relative anyway
        return replace(
            frames,
            potential_energy=samples.energies[inside],
            temperature=samples.temperature,
            log_weights=samples.log_weights[inside],
            n_walkers=samples.n_walkers,
        )
    if path.suffix == ".nc" and is_exchange(path):
        return _read_exchange(path, topology, temperature)
    return read_trajectory(path, topology)


def _read_exchange(path: Path, topology: str | Path | None, temperature: float | None) -> Frames:
    import mdtraj

    from openmm_bg.exchange import read_exchange

    run = read_exchange(path)
    if topology is None:
        topology = Path(run.settings["model"]) / "topology.pdb"
        if not topology.is_file():
            raise InputError(f"{path} was made with a model that is gone; give its topology with --topology.")
    state = 0 if temperature is None else int(np.abs(run.temperatures - temperature).argmin())
    if temperature is not None and abs(run.temperatures[state] - temperature) > 0.5:
        known = ", ".join(f"{t:.1f}" for t in run.temperatures)
        raise InputError(f"{path} has no replica at {temperature:g} K, but at {known} K.")
    if run.n_iterations == 0:
        raise InputError(f"{path} has no finished iteration yet.")
    if run.n_tuning == run.n_iterations:
        raise InputError(
            f"{path} has only iterations that tuned the latent move's step size; run more of them."
        )
    exact = slice(run.n_tuning, None)
    positions = run.positions[exact, state].astype(np.float64)
    molecule = mdtraj.load_topology(str(existing_file(topology)))
    check_frames(path, positions, molecule.n_atoms)
    return Frames(
        path,
        positions,
        molecule,
        run.potential_energy[exact, state],
        temperature=float(run.temperatures[state]),
    )


def are_samples(path: Path) -> bool:
    """Tell whether an HDF5 file holds samples, by the mark that `save_samples` leaves inside.

    Raises:
        InputError: If it cannot be read; or if it has the summary of samples beside it but not their mark, lest its
            draws are taken for equally weighted.
    """
    import mdtraj

    try:
        with mdtraj.formats.HDF5TrajectoryFile(str(path)) as file:
            marked = file.application == _APPLICATION
    except Exception as error:  # the reader raises many kinds
        raise InputError(f"{path} cannot be read as an HDF5 trajectory; it may be truncated.") from error
    if marked:
        return True
    summary = path.with_suffix(".json")
    try:
        _read_summary(summary)
    except (OSError, ValueError):  # no summary of samples: a trajectory
        return False
    raise InputError(
        f"{path} is not marked as samples although {summary.name} is their summary; sample again."
    )


def is_exchange(path: Path) -> bool:
    """Tell whether a netCDF file was written by openmmtools.

    Raises:
        InputError: If it cannot be read.
    """
    import netCDF4

    try:
        with netCDF4.Dataset(path, "r") as dataset:
            return "metadata" in dataset.groups or getattr(dataset, "Conventions", "") == "ReplicaExchange"
    except (OSError, RuntimeError) as error:  # the reader raises both
        raise InputError(
            f"{path} cannot be read as a netCDF file; it may be damaged or truncated."
        ) from error


def _filled(samples: Samples) -> Samples:
    """Return samples with a configuration in the place of each draw outside the domain, still without a weight."""
    inside = samples.in_domain
    if not inside.any():
        return samples
    anything = samples.positions[int(np.argmax(inside))]
    return replace(
        samples,
        positions=np.where(inside[:, None, None], samples.positions, anything),
        reduced_energy=np.where(inside, samples.reduced_energy, np.inf),
    )


def _summary(samples: Samples) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "temperature": samples.temperature,
        "n_draws": len(samples),
        "n_frames": len(samples) if samples.n_walkers > 1 else int(samples.in_domain.sum()),
        "n_out_of_domain": samples.n_out_of_domain,
        "n_nonfinite": samples.n_nonfinite,
        "n_walkers": samples.n_walkers,
        "normalized": samples.normalized,
    }
    if np.isfinite(samples.log_weights).any():
        summary |= {
            "ess": samples.ess(),
            "ess_clipped_1e-4": samples.ess(clip=1e-4),
            "pareto_k": samples.pareto_k(),
        }
        if samples.normalized:
            log_z = statistics.log_mean_weight(samples.log_weights)
            summary |= {"free_energy_kT": -log_z.value, "free_energy_kT_stderr": log_z.stderr}
    record = samples.record or provenance()
    return {**summary, "record": record}


def _read_tables(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    csv, summary = path.with_suffix(".csv"), path.with_suffix(".json")
    for file in (csv, summary):
        if not file.is_file():
            raise InputError(f"{path} has lost its weights: there is no file {file}; sample again.")
    try:
        content = _read_summary(summary)
    except ValueError as error:
        raise InputError(f"{summary} is not the summary of a samples file; sample again.") from error
    try:
        with csv.open() as file:
            header = file.readline().strip()
            table = np.loadtxt(file, delimiter=",", ndmin=2)
    except ValueError as error:
        raise InputError(f"{csv} is damaged; sample again.") from error
    if header != ",".join(_COLUMNS) or table.shape[1:] != (len(_COLUMNS),):
        raise InputError(f"{csv} does not have the columns {', '.join(_COLUMNS)}; sample again.")
    return content, table


def _read_summary(path: Path) -> dict[str, Any]:
    """Return the summary of samples, or raise a ValueError if the file holds something else."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("record", {}), dict):
        raise ValueError("It holds no record.")
    if not isinstance(content.get("n_draws"), int) or not isinstance(
        content.get("temperature"), (int, float)
    ):
        raise ValueError("Entries are missing.")
    return content
