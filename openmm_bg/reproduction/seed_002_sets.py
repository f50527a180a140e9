"""Seed 002: the sets of configurations that its figures compare, and what they are compared in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from openmm_bg.analysis import Ramachandran, torsion_angles
from openmm_bg.coarse_graining.generator import CoarseGrainedGenerator
from openmm_bg.coarse_graining.maps import CoarseGrainedMap
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_bytes
from openmm_bg.geometry import dihedrals, distances
from openmm_bg.histograms import weighted_quantiles
from openmm_bg.model_files import model_hash
from openmm_bg.observables.functions import radius_of_gyration
from openmm_bg.observables.names import Observable
from openmm_bg.observables.series import (
    FreeEnergyProfile,
    FreeEnergySurface,
    Series,
    bin_edges,
    profile,
    surface,
)
from openmm_bg.reproduction.arrays import arrays_bytes
from openmm_bg.reproduction.backmapping_quality import BINS, side_chain_torsions
from openmm_bg.samples import UNRELIABLE_PARETO_K, Samples
from openmm_bg.training.data import TrainingData

if TYPE_CHECKING:
    import mdtraj

REFERENCE, PLAIN, WEIGHTED = "molecular dynamics", "model without weights", "model with weights"
LAG = 20
"""The lag time of the slow components in frames; less if a walker has fewer than a hundred."""

GIVEN = 8000
"""Configurations of the reference, at most, whose beads are backmapped."""

_CENTRAL = (1e-3, 0.999)  # the part of the weight that an axis of energies spans
_MANY_SIGMA = 15.0
_KEY = "made from"  # in the file of torsions: how many configurations, and the model's hash


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Configurations of atoms or of beads.

    Attributes:
        label: What they are.
        positions: Configurations [nm] with shape=(n, n_points, 3).
        energies: Potential energies [kJ/mol] of the atoms with shape=(n,).
        log_weights: Log-weights with shape=(n,), or None for a chain.
        n_walkers: Frame i is of walker i % n_walkers.
    """

    label: str
    positions: np.ndarray
    energies: np.ndarray
    log_weights: np.ndarray | None = None
    n_walkers: int = 1

    def series(self, kind: Observable) -> Series:
        """Return the values of an observable."""
        return Series(kind, kind(self.positions), self.label, self.log_weights, self.n_walkers)

    def ramachandran(self, torsions: Mapping[str, Sequence[int]], names: tuple[str, str]) -> Ramachandran:
        """Return two torsions of a residue, given the atoms of each torsion by name."""
        angles = torsion_angles(self.positions, {name: torsions[name] for name in names})
        phi, psi = (angles[name] for name in names)
        return Ramachandran(self.label, phi, psi, self.log_weights, self.n_walkers)

    def beads(self, coarse_map: CoarseGrainedMap) -> FrameSet:
        """Return the beads of the configurations; of a noisy map, its centres."""
        return replace(self, positions=coarse_map.beads(self.positions).numpy())


def frame_sets(samples: Samples, data: TrainingData) -> list[FrameSet]:
    """Return what all figures compare: molecular dynamics, and samples without and with weights.

    Draws that have no weight, being outside the domain, are left out of the samples without weights.

    Args:
        samples: Samples of a coarse-grained model.
        data: The reference.
    """
    usable = np.isfinite(samples.log_weights)
    positions = np.where(usable[:, None, None], samples.positions, data.positions[0])
    kept, n_walkers = equal_chains(usable, samples.n_walkers)
    k = samples.pareto_k()
    note = f", unreliable: Pareto k {k:.2f}" if k > UNRELIABLE_PARETO_K else ""
    return [
        FrameSet(REFERENCE, data.positions, data.energies, None, int(data.record["n_walkers"])),
        FrameSet(PLAIN, samples.positions[kept], samples.energies[kept], None, n_walkers),
        FrameSet(WEIGHTED + note, positions, samples.energies, samples.log_weights, samples.n_walkers),
    ]


def equal_chains(usable: np.ndarray, n_walkers: int) -> tuple[np.ndarray, int]:
    """Return frames that make chains of one length, interleaved, and how many chains there are.

    Chains that lost frames are shorter; their length and number are such that the most frames are kept.

    Args:
        usable: Which frames can be used, with shape=(n,); frame i is of walker i % n_walkers.
        n_walkers: The number of walkers.
    """
    chains = [np.flatnonzero(usable[k::n_walkers]) * n_walkers + k for k in range(n_walkers)]
    chains.sort(key=len, reverse=True)
    number = 1 + int(np.argmax([(k + 1) * len(chain) for k, chain in enumerate(chains)]))
    length = len(chains[number - 1])
    return np.stack([chain[:length] for chain in chains[:number]], axis=1).ravel(), number


def surfaces_of(
    sets: Sequence[FrameSet], kinds: tuple[Observable, Observable], bins: int = 60
) -> list[tuple[Series, Series, FreeEnergySurface]]:
    """Return the surfaces of two observables in all sets, on the same bins."""
    pairs = [(one.series(kinds[0]), one.series(kinds[1])) for one in sets]
    edges = tuple(bin_edges(list(column), bins) for column in zip(*pairs, strict=True))
    return [(x, y, surface(x, y, edges)) for x, y in pairs]


def profiles_of(
    sets: Sequence[FrameSet], kind: Observable, bins: int = 60
) -> list[tuple[Series, FreeEnergyProfile]]:
    """Return the profiles of an observable in all sets, on the same bins."""
    series = [one.series(kind) for one in sets]
    edges = bin_edges(series, bins)
    return [(one, profile(one, edges)) for one in series]


def energy_profiles(sets: Sequence[FrameSet], bins: int = 60) -> list[tuple[Series, FreeEnergyProfile]]:
    """Return the distributions of the potential energy.

    The axis shows the sets of `frame_sets` but for a thousandth at either end, and of the samples without weights,
    whose energies have no upper bound, at most what is below the reference's median and 15 of its standard
    deviations. A set's label says which part of its weight is above the axis.

    Args:
        sets: The sets of `frame_sets`.
        bins: The number of bins.
    """

    def values(positions: np.ndarray) -> np.ndarray:
        raise InputError("Energies are taken from the sets, not computed.")

    kind = Observable("potential energy", "potential energy", "kJ/mol", values, sets[0].positions.shape[1])
    series = [Series(kind, s.energies, s.label, s.log_weights, s.n_walkers) for s in sets]
    reference = series[0].values
    highest = np.median(reference) + _MANY_SIGMA * reference.std()
    spans = []
    for one in series:
        seen = one.weights > 0
        spans.append(weighted_quantiles(one.values[seen], one.weights[seen], _CENTRAL))
    spans[1][1] = min(spans[1][1], highest)
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    edges = np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)
    return [_below(one, edges) for one in series]


def _below(series: Series, edges: np.ndarray) -> tuple[Series, FreeEnergyProfile]:
    above = float(series.weights[series.values > edges[-1]].sum())
    if above > 0.005:
        series = replace(series, label=f"{series.label} ({100 * above:.1f} % above the axis)")
    if series.weights[series.cells(edges) >= 0].sum() > 0:
        return series, profile(series, edges)
    nothing = np.zeros(len(edges) - 1)
    return series, FreeEnergyProfile(edges, nothing, nothing, nothing + np.inf, nothing + np.nan)


def bead_torsions(
    coarse_map: CoarseGrainedMap, torsions: Mapping[str, Sequence[int]]
) -> tuple[Observable, Observable]:
    """Return phi and psi as torsions of beads that are atoms.

    Args:
        coarse_map: The map.
        torsions: The atoms of "phi" and "psi".

    Raises:
        InputError: If an atom of them is no bead.
    """
    bead_of = {int(row.argmax()): bead for bead, row in enumerate(coarse_map.weights) if row.max() > 1 - 1e-9}
    return tuple(_bead_torsion(name, torsions[name], bead_of, coarse_map.n_beads) for name in ("phi", "psi"))


def _bead_torsion(name: str, atoms: Sequence[int], bead_of: dict[int, int], n_beads: int) -> Observable:
    if missing := [atom for atom in atoms if atom not in bead_of]:
        raise InputError(f"Atom {missing[0]} of the torsion {name} is no bead of the map.")
    four = np.array([[bead_of[atom] for atom in atoms]])
    label = f"{ {'phi': 'φ', 'psi': 'ψ'}[name] } of the beads"
    return Observable(name, label, "rad", lambda z: dihedrals(z, four)[:, 0], n_beads, periodic=True)


def bead_extents(n_beads: int) -> tuple[Observable, Observable]:
    """Return the radius of gyration of beads, each counting alike, and the distance of the first and the last."""
    ends = np.array([[0, n_beads - 1]])
    return (
        Observable(
            "rg",
            "radius of gyration of the beads",
            "nm",
            lambda z: radius_of_gyration(z, np.ones(n_beads)),
            n_beads,
        ),
        Observable("ends", "distance of the end beads", "nm", lambda z: distances(z, ends)[:, 0], n_beads),
    )


class SlowComponents(NamedTuple):
    """Slow linear combinations of features.

    Attributes:
        project: Takes features with shape=(n, n_features) to the first two with shape=(n, 2).
        lag: The lag time in frames.
        autocorrelations: Of these components at the lag time, in the data that they were fitted to.
    """

    project: Callable[[np.ndarray], np.ndarray]
    lag: int
    autocorrelations: list[float]


def check_deeptime() -> type[Any]:
    """Return deeptime's TICA.

    Raises:
        InputError: If deeptime is not installed.
    """
    try:
        from deeptime.decomposition import TICA
    except ImportError as error:
        raise InputError(
            'The slow components of chignolin need deeptime; install it with pip install "openmm-bg[tica]".'
        ) from error
    return TICA


def slow_components(features: np.ndarray, n_walkers: int, lag: int = LAG) -> SlowComponents:
    """Find the slow components of trajectories (tICA).

    Rungs of replica exchange are trajectories at one temperature, interrupted by exchanges: slow components are
    directions there, and say nothing of rates.

    Args:
        features: Features with shape=(n, n_features); frame i is of walker i % n_walkers.
        n_walkers: The number of walkers, each of which is a trajectory.
        lag: The lag time in frames; at most a fifth of a trajectory is used.

    Raises:
        InputError: If deeptime is not installed, or there are fewer than two components.
    """
    lag = max(1, min(lag, len(features) // n_walkers // 5))
    trajectories = [np.ascontiguousarray(features[k::n_walkers]) for k in range(n_walkers)]
    model = check_deeptime()(lagtime=lag, dim=2).fit(trajectories).fetch_model()
    if model.transform(features[:1]).shape[1] < 2:
        raise InputError("The frames have fewer than two independent features; simulate for longer.")
    return SlowComponents(model.transform, lag, [float(value) for value in model.singular_values[:2]])


def slow_observables(
    reference: FrameSet, topology: mdtraj.Topology, native: np.ndarray
) -> tuple[tuple[Observable, Observable], SlowComponents]:
    """Return the two slowest combinations of distances of C-alpha atoms, positive in the native structure.

    Args:
        reference: Molecular dynamics, to whose walkers they are fitted.
        topology: The topology.
        native: The native structure [nm] with shape=(n_atoms, 3).

    Raises:
        InputError: If deeptime is not installed, or there are fewer than three C-alpha atoms.
    """
    alphas = topology.select("name CA")
    if len(alphas) < 3:
        raise InputError(f"The molecule has {len(alphas)} C-alpha atoms; slow components need three.")
    pairs = np.array(list(combinations(alphas, 2)))
    found = slow_components(distances(reference.positions, pairs), reference.n_walkers)
    signs = np.where(found.project(distances(native[None], pairs))[0] < 0, -1.0, 1.0)

    def component(k: int) -> Observable:
        def values(x: np.ndarray) -> np.ndarray:
            return signs[k] * found.project(distances(x, pairs))[:, k]

        return Observable(f"tIC {k + 1}", f"slow component {k + 1}", "", values, topology.n_atoms)

    return (component(0), component(1)), found


def side_chain_profiles(
    model: CoarseGrainedGenerator, data: TrainingData, path: Path, n_given: int = GIVEN, n_tries: int = 1
) -> list[list[tuple[Series, FreeEnergyProfile]]]:
    """Return chi1 and chi2 of the reference, and of configurations backmapped from its beads.

    Args:
        model: The model, which must be saved.
        data: The reference.
        path: An ``.npz`` file that keeps the torsions of the backmapped configurations. It is read if it is of the
            same model and of as many configurations.
        n_given: Configurations of the reference, at most, whose beads are given.
        n_tries: Of how many configurations of the same beads each is chosen.

    Returns:
        For each torsion a pair of series and profiles, on bins of ten degrees.
    """
    import mdtraj

    torsions = side_chain_torsions(mdtraj.Topology.from_openmm(data.system.topology))
    n_walkers = int(data.record["n_walkers"])
    by_time = data.positions.reshape(-1, n_walkers, *data.positions.shape[1:])
    chosen = np.linspace(0, len(by_time) - 1, max(1, min(len(by_time), n_given // n_walkers)))
    given = by_time[np.unique(chosen.astype(np.int64))].reshape(-1, *data.positions.shape[1:])
    key = f"{len(given)} configurations of {n_tries} tries, model {model_hash(model.path)}"
    if not _has_key(path, key):
        drawn = model.samples_of(given, seed=1, n_tries=n_tries)
        angles = torsion_angles(np.where(drawn.in_domain[:, None, None], drawn.positions, np.nan), torsions)
        atomic_write_bytes(path, arrays_bytes({**angles, _KEY: key}))
    expected = torsion_angles(given, torsions)
    edges = np.linspace(-np.pi, np.pi, BINS + 1)
    panels = []
    with np.load(path) as drawn_angles:
        for name, atoms in torsions.items():
            kind = _torsion(name, atoms, data.system.n_atoms)
            values = drawn_angles[name]
            kept, n_chains = equal_chains(np.isfinite(values), n_walkers)
            both = (
                Series(kind, expected[name], REFERENCE, None, n_walkers),
                Series(kind, values[kept], "backmapped from its beads", None, n_chains),
            )
            panels.append([(one, profile(one, edges)) for one in both])
    return panels


def _has_key(path: Path, key: str) -> bool:
    """Tell whether an ``.npz`` file is there and has a key."""
    if not path.exists():
        return False
    with np.load(path) as kept:
        return _KEY in kept and str(kept[_KEY]) == key


def _torsion(name: str, atoms: Sequence[int], n_atoms: int) -> Observable:
    four = np.array([tuple(atoms)])
    return Observable(name, name, "rad", lambda x: dihedrals(x, four)[:, 0], n_atoms, periodic=True)
