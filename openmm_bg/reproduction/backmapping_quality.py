"""How good backmapped configurations are before any weights: chirality, contacts, side chains, energies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from openmm_bg.coarse_graining.maps import LinearMap
from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.observables.torsions import named_torsions, residue_label
from openmm_bg.transforms.fibre_coordinates import FibreCoordinates

if TYPE_CHECKING:
    import mdtraj

    from openmm_bg.systems import MolecularSystem
    from openmm_bg.transforms import Coordinates

CLOSE = 0.15
"""Heavy atoms that are not bonded and nearer than this [nm] are in the same place."""

BINS = 36


@dataclass(frozen=True)
class Quality:
    """What configurations are like, compared with those of a reference of the same beads.

    Attributes:
        n: The number of configurations.
        n_outside: Those that the flow could not make, with impossible bonds or another chirality.
        n_wrong_chirality: The others in which a centre with four different neighbours is the mirror image.
        free_of_contacts: The part of all without two heavy atoms that are not bonded and nearer than `CLOSE`.
        median_energy: The median potential energy [kJ/mol].
        reference_median: That of the reference.
        reference_deviation: The standard deviation of the reference's energies [kJ/mol].
        side_chains: The total variation between histograms of each chi1 and chi2 and those of the reference.
    """

    n: int
    n_outside: int
    n_wrong_chirality: int
    free_of_contacts: float
    median_energy: float
    reference_median: float
    reference_deviation: float
    side_chains: dict[str, float]

    @property
    def energy_shift(self) -> float:
        """How far the median energy is from the reference's, in standard deviations of the reference."""
        return (self.median_energy - self.reference_median) / self.reference_deviation


def quality(
    system: MolecularSystem,
    positions: np.ndarray,
    energies: np.ndarray,
    reference: np.ndarray,
    reference_energies: np.ndarray,
) -> Quality:
    """Compare configurations with a reference.

    Args:
        system: The molecule.
        positions: Configurations [nm] with shape=(n, n_atoms, 3); NaN where there is none.
        energies: Their potential energies [kJ/mol] with shape=(n,); infinite where there is no configuration.
        reference: Configurations of molecular dynamics [nm], likewise.
        reference_energies: Their potential energies [kJ/mol].
    """
    import mdtraj

    topology = mdtraj.Topology.from_openmm(system.topology)
    made = np.isfinite(positions).all(axis=(1, 2))
    usable = positions[made]
    handed = chirality(usable, system.positions, np.asarray(system.bonds), topology)
    apart = closest_heavy_atoms(usable, np.asarray(system.bonds), topology) >= CLOSE
    return Quality(
        n=len(positions),
        n_outside=int((~made).sum()),
        n_wrong_chirality=int((~handed).sum()),
        free_of_contacts=float(apart.sum() / len(positions)),
        median_energy=float(np.median(np.where(made, energies, np.inf))),
        reference_median=float(np.median(reference_energies)),
        reference_deviation=float(np.std(reference_energies, ddof=1)),
        side_chains=side_chain_variation(usable, reference, side_chain_torsions(topology)),
    )


def chiral_centres(bonds: np.ndarray, topology: mdtraj.Topology) -> np.ndarray:
    """Return atoms with four neighbours that differ, and these, with shape=(n, 5).

    Neighbours differ if their elements do, or what is bonded to them: enough for amino acids, whose centres are the
    alpha carbons but glycine's, and the beta carbons of threonine and isoleucine.

    Args:
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
        topology: The topology.
    """
    neighbours: dict[int, list[int]] = {}
    for a, b in np.asarray(bonds).tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    symbol = [atom.element.symbol for atom in topology.atoms]

    def kind(atom: int, centre: int, depth: int) -> tuple:
        """Describe a branch of the molecule, seen from a centre, to some depth."""
        others = [other for other in neighbours[atom] if other != centre] if depth else []
        return symbol[atom], tuple(sorted(kind(other, atom, depth - 1) for other in others))

    rows = [
        (atom, *sorted(near))
        for atom, near in neighbours.items()
        if len(near) == 4 and len({kind(other, atom, 3) for other in near}) == 4
    ]
    return np.array(sorted(rows), dtype=np.int64).reshape(-1, 5)


def chirality(
    positions: np.ndarray, native: np.ndarray, bonds: np.ndarray, topology: mdtraj.Topology
) -> np.ndarray:
    """Tell which configurations have the chirality of a reference at all centres, with shape=(n,).

    Args:
        positions: Configurations [nm] with shape=(n, n_atoms, 3).
        native: The reference [nm] with shape=(n_atoms, 3).
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
        topology: The topology.
    """
    centres = chiral_centres(bonds, topology)
    ours, theirs = (_volumes(np.asarray(x, dtype=np.float64), centres) for x in (positions, native[None]))
    return (np.sign(ours) == np.sign(theirs)).all(axis=1)


def _volumes(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the volumes that three bonds of each centre span."""
    middle, first, second, third, _ = (x[:, column] for column in centres.T)
    return (np.cross(first - middle, second - middle) * (third - middle)).sum(-1)


def closest_heavy_atoms(positions: np.ndarray, bonds: np.ndarray, topology: mdtraj.Topology) -> np.ndarray:
    """Return the smallest distance [nm] of two heavy atoms that are not bonded, with shape=(n,).

    Args:
        positions: Configurations [nm] with shape=(n, n_atoms, 3).
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
        topology: The topology.
    """
    bonded = {frozenset(bond) for bond in np.asarray(bonds).tolist()}
    heavy = [atom.index for atom in topology.atoms if atom.element.symbol != "H"]
    pairs = np.array([pair for pair in combinations(heavy, 2) if frozenset(pair) not in bonded])
    found = np.empty(len(positions))
    for k, x in enumerate(positions):
        found[k] = np.sqrt(((x[pairs[:, 0]] - x[pairs[:, 1]]) ** 2).sum(axis=1).min())
    return found


def side_chain_torsions(topology: mdtraj.Topology) -> dict[str, tuple[int, ...]]:
    """Return the atoms of each chi1 and chi2, by names such as "chi1 of TYR2"; proline's ring has none."""
    return {
        f"{kind} of {residue_label(residue)}": atoms
        for kind in ("chi1", "chi2")
        for residue, atoms in named_torsions(topology, kind).items()
        if residue.name != "PRO"
    }


def side_chain_variation(
    positions: np.ndarray, reference: np.ndarray, torsions: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Return the total variation between histograms of torsions, in bins of ten degrees.

    Args:
        positions: Configurations [nm] with shape=(n, n_atoms, 3).
        reference: Those of the reference, likewise.
        torsions: Four atoms by name.
    """
    if not torsions:
        return {}
    atoms = np.array(list(torsions.values()))
    fractions = []
    for x in (positions, reference):
        angles = np.asarray(dihedrals(x, atoms))
        cells = np.floor((angles + np.pi) / (2 * np.pi) * BINS).astype(np.int64) % BINS
        fractions.append([np.bincount(column, minlength=BINS) / max(len(x), 1) for column in cells.T])
    distances = 0.5 * np.abs(np.array(fractions[0]) - np.array(fractions[1])).sum(axis=1)
    return {name: float(distance) for name, distance in zip(torsions, distances, strict=True)}


def with_median_geometry(
    coordinates: Coordinates,
    coarse_map: LinearMap,
    positions: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """Return configurations with the same beads and torsions, but bonds and angles at the reference's medians.

    So did the published backmapping, whose network drew torsions alone.

    Args:
        coordinates: The coordinates of what the map leaves free.
        coarse_map: The map.
        positions: Configurations [nm] with shape=(n, n_atoms, 3); NaN where there is none.
        reference: Configurations of molecular dynamics [nm], for the medians.

    Raises:
        InputError: If the map is a noisy one, whose beads do not fix atoms.
    """
    if not isinstance(coordinates, FibreCoordinates):
        raise InputError("Only a map without noise has coordinates of its fibre.")
    n = 2 * len(coordinates.matrix.atoms)
    x, typical = (torch.tensor(np.array(one), dtype=torch.float64) for one in (positions, reference))
    made = torch.isfinite(x).all(dim=2).all(dim=1)
    median = coordinates.raw(typical)[:, :n].median(0).values
    raw = coordinates.raw(x[made])
    raw[:, :n] = median
    changed = torch.full_like(x, torch.nan)
    changed[made] = coordinates.place(coarse_map.beads(x[made]), raw)
    return changed.numpy()
