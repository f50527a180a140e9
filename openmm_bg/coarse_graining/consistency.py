"""Weak thermodynamic consistency: averages of a set of observables, from the model and from molecular dynamics.

Source: the criterion of seed 002 (Rotskoff 2023; arXiv 2210.07882): a coarse-grained model and its backmapping are
consistent if all observables of a set have the averages of the all-atom Boltzmann distribution.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.files import atomic_write_text
from openmm_bg.geometry import dihedrals
from openmm_bg.histograms import chain_error
from openmm_bg.statistics import Estimate

if TYPE_CHECKING:
    from openmm_bg.samples import Samples
    from openmm_bg.systems import MolecularSystem
    from openmm_bg.training.data import TrainingData

_MANY_ATOMS = 12
_APART, _CONTACT = 4, 0.45  # bonds, nm
_CHUNK = 1000


@dataclass(frozen=True)
class ConsistencyLine:
    """One moment of one observable.

    Attributes:
        name: The observable.
        unit: Its unit.
        moment: 1 for its mean, 2 for the mean of its square.
        weighted: Of the model with weights.
        weighted_stderr: Standard error.
        unweighted: Of the model without weights.
        unweighted_stderr: Standard error.
        reference: Of molecular dynamics.
        reference_stderr: Standard error.
    """

    name: str
    unit: str
    moment: int
    weighted: float
    weighted_stderr: float
    unweighted: float
    unweighted_stderr: float
    reference: float
    reference_stderr: float

    @property
    def deviation(self) -> float:
        """Of the weighted model from the reference, in combined standard errors."""
        return statistics.z_score(
            (self.weighted, self.weighted_stderr), (self.reference, self.reference_stderr)
        )

    @property
    def unweighted_deviation(self) -> float:
        """Of the model without weights from the reference, in combined standard errors."""
        return statistics.z_score(
            (self.unweighted, self.unweighted_stderr), (self.reference, self.reference_stderr)
        )


def observables_of(
    system: MolecularSystem, positions: np.ndarray, energies: np.ndarray
) -> dict[str, tuple[str, np.ndarray]]:
    """Return the observables of configurations.

    These are the potential energy, the radius of gyration, the number of contacts (pairs of heavy atoms, at least
    four bonds apart and within 0.45 nm), distances of all pairs of heavy atoms (of C-alpha atoms if there are more
    than 12 heavy atoms and at least three C-alpha atoms), and cosine and sine of each torsion and of its double.

    Args:
        system: The molecule.
        positions: Configurations [nm] with shape=(n, n_atoms, 3).
        energies: Potential energies [kJ/mol] with shape=(n,).

    Returns:
        Unit and values with shape=(n,) by name.
    """
    atoms = list(system.topology.atoms())
    chosen = _distance_atoms(system)
    pairs = list(combinations(chosen, 2))
    names = [f"d({_name(atoms[i])}, {_name(atoms[j])})" for i, j in pairs]
    found: dict[str, tuple[str, np.ndarray]] = {"potential energy": ("kJ/mol", np.asarray(energies))}
    far = _pairs_apart(system)
    parts = [
        _geometry(positions[k : k + _CHUNK], np.array(pairs), far, system)
        for k in range(0, len(positions), _CHUNK)
    ]
    gyration, contacts, distances, angles = (np.concatenate(column) for column in zip(*parts, strict=True))
    found["radius of gyration"] = ("nm", gyration)
    if len(far):
        found["contacts"] = ("pairs", contacts)
    found |= {name: ("nm", distances[:, k]) for k, name in enumerate(names)}
    for k, name in enumerate(system.torsions):
        for multiple in (1, 2):
            label = name if multiple == 1 else f"2 {name}"
            found[f"cos({label})"] = ("", np.cos(multiple * angles[:, k]))
            found[f"sin({label})"] = ("", np.sin(multiple * angles[:, k]))
    return found


def consistency_table(samples: Samples, data: TrainingData) -> list[ConsistencyLine]:
    """Compare the first two moments of observables of samples, with and without weights, with those of data.

    Args:
        samples: Samples of a coarse-grained model.
        data: Molecular dynamics, whose frame i is of walker i % n_walkers.
    """
    reference = observables_of(data.system, data.positions, data.energies)
    usable = np.isfinite(samples.log_weights)
    positions = np.where(usable[:, None, None], samples.positions, data.positions[0])
    found = observables_of(data.system, positions, np.where(usable, samples.energies, 0.0))
    return compare_moments(
        found, samples.log_weights, reference, samples.n_walkers, int(data.record.get("n_walkers", 1))
    )


def compare_moments(
    found: Mapping[str, tuple[str, np.ndarray]],
    log_weights: np.ndarray,
    reference: Mapping[str, tuple[str, np.ndarray]],
    n_walkers: int,
    reference_walkers: int,
) -> list[ConsistencyLine]:
    """Return the table of moments.

    Torsions' observables have no second moment of their own: that of cos(phi) is in cos(2 phi).

    Args:
        found: Unit and values of the model by observable.
        log_weights: Log-weights with shape=(n,); -inf where there is no configuration.
        reference: Unit and values of molecular dynamics by observable.
        n_walkers: Walkers of the model's chains.
        reference_walkers: Walkers of the reference.
    """
    plain = np.where(np.isfinite(log_weights), 0.0, -np.inf)
    lines = []
    for name, (unit, values) in found.items():
        for moment in (1, 2) if unit else (1,):
            weighted = statistics.weighted_mean(values**moment, log_weights, n_walkers)
            unweighted = statistics.weighted_mean(values**moment, plain, n_walkers)
            expected = _chain_mean(reference[name][1] ** moment, reference_walkers)
            lines.append(ConsistencyLine(name, unit, moment, *weighted, *unweighted, *expected))
    return lines


def largest_deviation(table: Sequence[ConsistencyLine]) -> float:
    """Return the largest deviation of the weighted model from the reference, in combined standard errors."""
    return max(abs(line.deviation) for line in table)


def write_table(table: Sequence[ConsistencyLine], path: str | Path) -> None:
    """Write the table as CSV, a row for each moment, with the deviations in combined standard errors."""
    text = io.StringIO()
    names = [field.name for field in fields(ConsistencyLine)]
    writer = csv.DictWriter(text, [*names, "deviation", "unweighted_deviation"], lineterminator="\n")
    writer.writeheader()
    for line in table:
        deviations = {"deviation": line.deviation, "unweighted_deviation": line.unweighted_deviation}
        numbers = asdict(line) | deviations
        writer.writerow({key: f"{x:.6g}" if isinstance(x, float) else x for key, x in numbers.items()})
    atomic_write_text(path, text.getvalue())


def _pairs_apart(system: MolecularSystem) -> np.ndarray:
    """Return pairs of heavy atoms that are at least four bonds apart, with shape=(n_pairs, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import shortest_path

    atoms = list(system.topology.atoms())
    heavy = [atom.index for atom in atoms if atom.element.symbol != "H"]
    first, second = np.asarray(system.bonds).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(atoms),) * 2)
    apart = shortest_path(graph.tocsr(), directed=False, unweighted=True)
    pairs = [(i, j) for i, j in combinations(heavy, 2) if apart[i, j] >= _APART]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _distance_atoms(system: MolecularSystem) -> list[int]:
    atoms = list(system.topology.atoms())
    heavy = [atom.index for atom in atoms if atom.element.symbol != "H"]
    alphas = [atom.index for atom in atoms if atom.name == "CA"]
    return alphas if len(heavy) > _MANY_ATOMS and len(alphas) >= 3 else heavy


def _geometry(
    positions: np.ndarray, pairs: np.ndarray, far: np.ndarray, system: MolecularSystem
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return radii of gyration, numbers of contacts, distances and torsions of configurations."""
    x = np.asarray(positions, dtype=np.float64)
    masses = np.asarray(system.masses) / np.sum(system.masses)
    centred = x - np.einsum("a,nax->nx", masses, x)[:, None]
    gyration = np.sqrt(np.einsum("a,nax,nax->n", masses, centred, centred))
    distances = np.linalg.norm(x[:, pairs[:, 0]] - x[:, pairs[:, 1]], axis=-1)
    torsions = np.array([tuple(atoms) for atoms in system.torsions.values()]).reshape(-1, 4)
    angles = dihedrals(x, torsions) if len(torsions) else np.empty((len(x), 0))
    contacts = (np.linalg.norm(x[:, far[:, 0]] - x[:, far[:, 1]], axis=-1) < _CONTACT).sum(axis=1)
    return gyration, contacts.astype(np.float64), distances, angles


def _chain_mean(values: np.ndarray, n_walkers: int) -> Estimate:
    """Return the mean of a chain with its standard error."""
    stderr = chain_error(lambda part: values[part].mean(), len(values), n_walkers)
    return Estimate(float(values.mean()), float(stderr))


def _name(atom: Any) -> str:
    return f"{atom.residue.name}{atom.residue.id}-{atom.name}"
