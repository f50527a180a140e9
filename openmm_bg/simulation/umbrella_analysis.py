"""What umbrella sampling says of the system without bias: weights by MBAR, with errors from independent ladders."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.simulation.checks import whole_number
from openmm_bg.simulation.umbrella import FRAMES, window_centres
from openmm_bg.statistics import Estimate
from openmm_bg.units import thermal_energy

_MOST_GROUPS = 32  # of ladders: more would make the error no better known, and cost memory
_CHUNK = 20_000  # frames worked on at once
_NEWTON_STEPS = 50  # at most; it takes three or four
_LOGGERS = ("pymbar", "pymbar.timeseries", "pymbar.mbar_solvers")


@dataclass(frozen=True, eq=False)
class UmbrellaFrames:
    """What `umbrella_sampling` wrote.

    Attributes:
        torsions: Torsions [rad] by name, each with shape=(n_frames, n_walkers).
        potential_energy: Energies without bias [kJ/mol] with shape=(n_frames, n_walkers).
        windows: The window of each walker in each frame, with the same shape.
        record: How they were made.
    """

    torsions: Mapping[str, np.ndarray]
    potential_energy: np.ndarray
    windows: np.ndarray
    record: dict[str, Any]


def load_umbrella(directory: str | Path) -> UmbrellaFrames:
    """Read the output directory of `umbrella_sampling`.

    Raises:
        InputError: If it is none, or the run there is not finished.
    """
    path = Path(directory) / FRAMES
    if not path.is_file():
        hint = "; the run there is not finished" if (path.parent / "in_progress").exists() else ""
        raise InputError(f"{directory} is no output of umbrella sampling{hint}.")
    record = json.loads((path.parent / "provenance.json").read_text())
    with np.load(path) as arrays:
        torsions = {name: arrays[name].astype(np.float64) for name in record["torsions"]}
        return UmbrellaFrames(
            torsions, arrays["potential_energy"].astype(np.float64), arrays["window"].astype(np.int64), record
        )


class UmbrellaEnsemble:
    """Frames of umbrella sampling with the weights that they have without bias.

    The weights are those of MBAR. Standard errors are a jackknife over groups of whole ladders, which never met:
    MBAR is solved again without each group. They need no assumption about the correlation between frames, but
    ladders that are all stuck in the same way do not show it.

    Source: Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008), equation 11; Efron and Stein, Ann.
    Statist. 9, 586 (1981), for the jackknife.

    Args:
        frames: The frames.
        n_groups: Groups of ladders for the errors; each ladder for itself, but at most 32, if not given.

    Attributes:
        torsions: Torsions [rad] by name, each with shape=(n,): all frames of all walkers.
        potential_energy: Energies without bias [kJ/mol] with shape=(n,).
        weights: Weights that sum to one, with shape=(n,).
        free_energies: Of the windows [kT] relative to the first, with shape=(n_windows,).
        temperature: The temperature [K].

    Raises:
        InputError: If there are less than two groups, or more than ladders.
    """

    def __init__(self, frames: UmbrellaFrames, n_groups: int | None = None) -> None:
        settings = frames.record["settings"]
        n_ladders, n_windows = settings["n_ladders"], settings["n_windows"]
        n_groups = min(n_ladders, _MOST_GROUPS) if n_groups is None else n_groups
        if not 2 <= whole_number("number of groups", n_groups, least=0) <= n_ladders:
            raise InputError(
                f"Errors need at least 2 groups, and no more than the {n_ladders} ladders, not {n_groups}."
            )
        self.temperature = float(settings["temperature"])
        self.torsions = {name: angles.reshape(-1) for name, angles in frames.torsions.items()}
        self.potential_energy = frames.potential_energy.reshape(-1)
        strength = settings["stiffness"] / thermal_energy(self.temperature)
        angle, window = self.torsions[settings["torsion"]], frames.windows.reshape(-1)
        bias = strength * (1.0 - np.cos(angle - window_centres(n_windows)[:, None]))
        ladder = np.broadcast_to(np.arange(frames.windows.shape[1]) % n_ladders, frames.windows.shape)
        group = ladder.reshape(-1) % n_groups
        count = np.bincount(window, minlength=n_windows)
        self.free_energies = _window_free_energies(bias, count)
        self.weights = _weights(bias, count, self.free_energies)
        self._replicates = np.zeros((n_groups, len(angle)), dtype=np.float32)
        for k, row in enumerate(self._replicates):
            kept = group != k
            count = np.bincount(window[kept], minlength=n_windows)
            part = np.ascontiguousarray(bias[:, kept])
            row[kept] = _weights(part, count, _improved(part, count, self.free_energies))

    @property
    def n_groups(self) -> int:
        """Groups of ladders that the errors come from."""
        return len(self._replicates)

    @property
    def n_effective(self) -> float:
        """How many frames without bias the weights are worth, 1 / sum(w^2), correlations left aside."""
        return float(1.0 / (self.weights**2).sum())

    def mean(self, values: np.ndarray) -> Estimate:
        """Return the average of a property without bias, and its standard error.

        Args:
            values: The property of each frame with shape=(n,).
        """
        values = np.asarray(values, dtype=np.float64)
        return Estimate(float(self.weights @ values), float(_jackknife_error(self._replicates @ values)))

    def population(self, mask: np.ndarray) -> Estimate:
        """Return the probability of a state without bias, and its standard error.

        A state that was never seen, or always, gets the standard error 1/n_effective instead of zero.

        Args:
            mask: Whether each frame is in the state, with shape=(n,).
        """
        estimate = self.mean(np.asarray(mask, dtype=bool))
        if 0.0 < estimate.value < 1.0 - 1e-12:
            return estimate
        return estimate._replace(stderr=1.0 / self.n_effective)

    def fractions(self, cells: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each cell without bias, and its standard error, each with shape=(n_cells,).

        Args:
            cells: The cell of each frame with shape=(n,), from 0 to n_cells - 1.
            n_cells: The number of cells.
        """
        fraction = np.bincount(cells, weights=self.weights, minlength=n_cells)
        parts = [np.bincount(cells, weights=row, minlength=n_cells) for row in self._replicates]
        return fraction, _jackknife_error(np.array(parts))

    def free_energy(self, torsion: str, bins: int = 72) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the free energy along a torsion.

        Args:
            torsion: Its name.
            bins: Bins of [-pi, pi).

        Returns:
            Bin centres [rad], the free energy [kT], zero at the minimum and +inf where nothing was seen, and its
            standard error by the delta method, each with shape=(bins,).
        """
        fraction, stderr = self.fractions(torsion_cells(self.torsions[torsion], bins), bins)
        with np.errstate(divide="ignore", invalid="ignore"):
            profile, error = -np.log(fraction), stderr / fraction
        centres = -np.pi + 2.0 * np.pi * (np.arange(bins) + 0.5) / bins
        return centres, profile - profile.min(), np.where(fraction > 0, error, np.inf)


def torsion_cells(angles: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each angle [rad] among equal bins of [-pi, pi)."""
    return np.floor((angles + np.pi) / (2.0 * np.pi) * bins).astype(np.int64) % bins


def _window_free_energies(bias: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Solve MBAR with pymbar.

    Args:
        bias: The reduced bias of each window on each frame with shape=(n_windows, n).
        count: The frames of each window with shape=(n_windows,).

    Returns:
        Free energies [kT] with shape=(n_windows,).
    """
    with _quiet_pymbar():
        from pymbar import MBAR

        # Any seed keeps pymbar from seeding numpy's global generator anew.
        return np.array(MBAR(bias, count, solver_protocol=({"method": "adaptive"},), rseed=0).f_k)


def _improved(bias: np.ndarray, count: np.ndarray, free_energies: np.ndarray) -> np.ndarray:
    """Solve MBAR from the solution of nearly the same frames, by Newton's method: 20 times as fast as anew."""
    for _ in range(_NEWTON_STEPS):
        residual, hessian = count.astype(np.float64), np.zeros((len(count), len(count)))
        for part in _chunks(bias):
            shares, _ = _shares(part, count, free_energies)
            residual -= shares.sum(axis=1)
            hessian += np.diag(shares.sum(axis=1)) - shares @ shares.T
        step = np.linalg.lstsq(hessian, residual, rcond=None)[0]  # singular: a constant is free
        free_energies = free_energies + step - step[0]
        if np.abs(step - step[0]).max() < 1e-8:
            break
    return free_energies


def _weights(bias: np.ndarray, count: np.ndarray, free_energies: np.ndarray) -> np.ndarray:
    """Return the weights of frames without bias, which sum to one, with shape=(n,)."""
    log_weights = -np.concatenate([_shares(part, count, free_energies)[1] for part in _chunks(bias)])
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def _shares(bias: np.ndarray, count: np.ndarray, free_energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how likely each frame is from each window, and the log-density of all windows together."""
    exponents = (np.log(count) + free_energies)[:, None] - bias
    highest = exponents.max(axis=0)
    shares = np.exp(exponents - highest)
    total = shares.sum(axis=0)
    return shares / total, highest + np.log(total)


def _chunks(bias: np.ndarray) -> Iterator[np.ndarray]:
    for k in range(0, bias.shape[1], _CHUNK):
        yield bias[:, k : k + _CHUNK]


def _jackknife_error(replicates: np.ndarray) -> np.ndarray:
    """Return the standard error of an estimate from its values without each group, with shape=(n_groups, ...)."""
    n_groups = len(replicates)
    return np.sqrt((n_groups - 1) * np.var(replicates, axis=0))


@contextmanager
def _quiet_pymbar() -> Iterator[None]:
    """Import and use pymbar without the advertisements that it logs."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
