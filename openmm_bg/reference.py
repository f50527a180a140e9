"""Reference data that come with the package: simulations without any flow, to compare with."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.analysis import BASINS, PHI_POSITIVE, TV_BINS, Basin, Ramachandran, torsion_angles
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_bytes, atomic_write_json
from openmm_bg.simulation.umbrella_analysis import UmbrellaEnsemble, load_umbrella, torsion_cells
from openmm_bg.statistics import Estimate, block_mean
from openmm_bg.training.data import load_data
from openmm_bg.units import thermal_energy

_ANGLE_UNIT = np.pi / 2**15  # [rad]: angles are kept as 16-bit integers
_STATES: dict[str, Basin] = {
    "P(phi > 0)": PHI_POSITIVE,
    **{f"P({name})": basin for name, basin in BASINS.items()},
}
_MEAN_ENERGY = "mean energy (kT)"


@dataclass(frozen=True, eq=False)
class Reference:
    """A long simulation at one temperature.

    Attributes:
        ramachandran: Its backbone torsions.
        potential_energy: Its potential energies [kJ/mol] with shape=(n_frames,).
        temperature: Its temperature [K].
        record: How it was made.
    """

    ramachandran: Ramachandran
    potential_energy: np.ndarray
    temperature: float
    record: dict[str, Any]


@dataclass(frozen=True, eq=False)
class UmbrellaReference:
    """Umbrella sampling in phi at one temperature, with the bias taken away.

    Standard errors come from the scatter of independent ladders of windows.

    Attributes:
        populations: Probabilities: ``"P(phi > 0)"``, and ``"P(alpha-R)"`` and so on of the basins.
        mean_energy: The mean potential energy [kT].
        density: The probability density [1/rad^2] on 50 x 50 bins of [-pi, pi)^2, with shape=(50, 50): phi, psi.
        density_stderr: Its standard errors, with the same shape.
        phi: Bin centres [rad] of the free energy, with shape=(72,).
        free_energy: The free energy [kT] along phi, zero at the minimum, with shape=(72,).
        free_energy_stderr: Its standard errors, with the same shape.
        ramachandran: Some frames with their weights, for plots; errors computed from them alone would leave out
            that frames of a ladder are correlated.
        potential_energy: Potential energies [kJ/mol] of these frames.
        temperature: The temperature [K].
        record: How it was made.
    """

    populations: dict[str, Estimate]
    mean_energy: Estimate
    density: np.ndarray
    density_stderr: np.ndarray
    phi: np.ndarray
    free_energy: np.ndarray
    free_energy_stderr: np.ndarray
    ramachandran: Ramachandran
    potential_energy: np.ndarray
    temperature: float
    record: dict[str, Any]

    def p_phi_positive(self) -> Estimate:
        """Return the probability of phi > 0 and its standard error."""
        return self.populations["P(phi > 0)"]


def load_reference(name: str, temperature: float) -> Reference:
    """Load the reference of a system at a temperature [K].

    Raises:
        InputError: If the package has none.
    """
    arrays, record = _packaged(_stem(name, temperature), f"reference for {name} at {temperature:g} K")
    phi, psi = (arrays[angle].astype(np.float64) * _ANGLE_UNIT for angle in ("phi", "psi"))
    energy = arrays["potential_energy"].astype(np.float64)
    label = f"reference, {temperature:g} K"
    return Reference(
        Ramachandran(label, phi, psi, n_walkers=record["n_walkers"]), energy, temperature, record
    )


def load_umbrella_reference(name: str, temperature: float) -> UmbrellaReference:
    """Load the second reference of a system at a temperature [K]: umbrella sampling in phi.

    Raises:
        InputError: If the package has none.
    """
    what = f"reference by umbrella sampling for {name} at {temperature:g} K"
    arrays, record = _packaged(_umbrella_stem(name, temperature), what)
    doubles = {name: array.astype(np.float64) for name, array in arrays.items()}
    phi, psi = (doubles[f"sample_{angle}"] * _ANGLE_UNIT for angle in ("phi", "psi"))
    estimates = {name: Estimate(**entry) for name, entry in record["estimates"].items()}
    return UmbrellaReference(
        populations={name: estimates[name] for name in _STATES},
        mean_energy=estimates[_MEAN_ENERGY],
        density=doubles["density"],
        density_stderr=doubles["density_stderr"],
        phi=doubles["phi"],
        free_energy=doubles["free_energy"],
        free_energy_stderr=doubles["free_energy_stderr"],
        ramachandran=Ramachandran(
            f"umbrella sampling, {temperature:g} K", phi, psi, log_weights=doubles["sample_log_weight"]
        ),
        potential_energy=doubles["sample_potential_energy"],
        temperature=temperature,
        record=record,
    )


def make_reference(
    simulation: str | Path, folder: str | Path, *, discard: float = 0.1, thin: int = 4
) -> Path:
    """Condense a simulation with one phi and psi to a small reference file.

    Its record also has the populations of all frames that were not discarded, with errors from the scatter of the
    walkers: few frames of a rare state are left after thinning.

    Args:
        simulation: The output directory of a simulation.
        folder: Where to write ``NAME_TEMPERATURE.npz`` and ``.json``.
        discard: The first part of every walker that is left out.
        thin: Every how many frames of each walker one is kept.

    Returns:
        The data file.

    Raises:
        InputError: If the simulation cannot be read, or has no phi and psi.
    """
    data = load_data(simulation)
    _check_torsions(data.system.name, data.system.torsions)
    n_walkers = int(data.record["n_walkers"])
    first = int(discard * (len(data.positions) // n_walkers)) * n_walkers
    torsions = torsion_angles(data.positions[first:], data.system.torsions)
    phi, psi = (torsions[name].reshape(-1, n_walkers) for name in ("phi", "psi"))
    estimates = {}
    if n_walkers > 1:
        estimates = {name: block_mean(s.contains(phi, psi).T, n_blocks=1) for name, s in _STATES.items()}
    arrays = {
        "phi": _as_integers(phi[::thin].reshape(-1)),
        "psi": _as_integers(psi[::thin].reshape(-1)),
        "potential_energy": data.energies[first:]
        .reshape(-1, n_walkers)[::thin]
        .reshape(-1)
        .astype(np.float32),
    }
    record = {**data.record, "discard": discard, "thin": thin, "n_walkers": n_walkers}
    record |= {"n_frames": len(arrays["phi"]), "estimates": _as_entries(estimates)}
    return _write(Path(folder) / f"{_stem(data.system.name, data.temperature)}.npz", arrays, record)


def make_umbrella_reference(directory: str | Path, folder: str | Path, *, n_sample: int = 20_000) -> Path:
    """Condense umbrella sampling of phi to a small reference file.

    Args:
        directory: The output directory of `umbrella_sampling`.
        folder: Where to write ``NAME_TEMPERATURE_umbrella.npz`` and ``.json``.
        n_sample: About how many frames to keep with their weights; figures and histograms are of all frames. Of
            torsions whose names begin with "omega", peptide bonds, the record counts the frames that are cis.

    Returns:
        The data file.

    Raises:
        InputError: If the directory cannot be read, or has no phi and psi.
    """
    frames = load_umbrella(directory)
    _check_torsions(frames.record["name"], frames.torsions)
    ensemble = UmbrellaEnsemble(frames)
    phi, psi = ensemble.torsions["phi"], ensemble.torsions["psi"]
    estimates = {name: ensemble.population(state.contains(phi, psi)) for name, state in _STATES.items()}
    estimates[_MEAN_ENERGY] = ensemble.mean(ensemble.potential_energy / thermal_energy(ensemble.temperature))
    cells = torsion_cells(phi, TV_BINS) * TV_BINS + torsion_cells(psi, TV_BINS)
    fraction, stderr = (values.reshape(TV_BINS, TV_BINS) for values in ensemble.fractions(cells, TV_BINS**2))
    centres, free_energy, free_energy_stderr = ensemble.free_energy("phi")
    # Whole rows of the run: every window and ladder is left with as many frames.
    n_rows = len(frames.windows)
    rows = np.arange(n_rows)[:: max(1, round(frames.windows.size / n_sample))]
    kept = (rows[:, None] * frames.windows.shape[1] + np.arange(frames.windows.shape[1])).reshape(-1)
    area = (2 * np.pi / TV_BINS) ** 2
    arrays = {
        "density": (fraction / area).astype(np.float32),
        "density_stderr": (stderr / area).astype(np.float32),
        "phi": centres,
        "free_energy": free_energy,
        "free_energy_stderr": free_energy_stderr,
        "sample_phi": _as_integers(phi[kept]),
        "sample_psi": _as_integers(psi[kept]),
        "sample_potential_energy": ensemble.potential_energy[kept].astype(np.float32),
        "sample_log_weight": np.log(ensemble.weights[kept]).astype(np.float32),
    }
    # Not a population: a peptide bond that never turns says nothing of how often it is cis.
    cis = {
        name: int((np.cos(angles) > 0).sum())
        for name, angles in ensemble.torsions.items()
        if name.startswith("omega")
    }
    record = {
        **frames.record,
        "estimates": _as_entries(estimates),
        "n_cis_frames": cis,
        "n_error_groups": ensemble.n_groups,
        "n_effective": ensemble.n_effective,
        "window_free_energies_kT": ensemble.free_energies,
        "n_sample": len(kept),
    }
    stem = _umbrella_stem(frames.record["name"], ensemble.temperature)
    return _write(Path(folder) / f"{stem}.npz", arrays, record)


def _packaged(stem: str, what: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    folder = resources.files("openmm_bg.systems") / "data"
    if not (folder / f"{stem}.npz").is_file():
        raise InputError(f"There is no {what} in the package.")
    record = json.loads((folder / f"{stem}.json").read_text())
    with np.load(io.BytesIO((folder / f"{stem}.npz").read_bytes())) as arrays:
        return dict(arrays), record


def _write(path: Path, arrays: Mapping[str, np.ndarray], record: dict[str, Any]) -> Path:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    for name in ("bonds", "torsions"):
        record.pop(name, None)
    atomic_write_json(path.with_suffix(".json"), record)
    atomic_write_bytes(path, content.getvalue())
    return path


def _check_torsions(name: str, torsions: Iterable[str]) -> None:
    if not {"phi", "psi"} <= set(torsions):
        raise InputError(f"{name} has no single phi and psi to make a reference of.")


def _as_entries(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: estimate._asdict() for name, estimate in estimates.items()}


def _stem(name: str, temperature: float) -> str:
    return f"{name}_{temperature:g}K"


def _umbrella_stem(name: str, temperature: float) -> str:
    return f"{_stem(name, temperature)}_umbrella"


def _as_integers(angles: np.ndarray) -> np.ndarray:
    return (np.round(angles / _ANGLE_UNIT).astype(np.int64) % 2**16).astype(np.uint16).view(np.int16)
