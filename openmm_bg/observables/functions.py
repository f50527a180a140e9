"""Functions of configurations: RMSD, radius of gyration, native contacts, hydrogen bonds.

Positions are in nm with shape=(n_frames, n_atoms, 3), results have shape=(n_frames,). Topologies are mdtraj's.
Torsions, angles and distances are in `openmm_bg.geometry`; `openmm_bg.observables.torsions` finds the torsions.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from openmm_bg import geometry
from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import mdtraj

HYDROGEN_BOND_CRITERIA = ("wernet-nilsson", "baker-hubbard")
RMSD_ATOMS = {
    "backbone": "backbone and not (resname NME and name C)",  # which is the cap's methyl carbon
    "ca": "name CA",
    "heavy": "element != H",
    "all": "all",
}
"""The selections of atoms for an RMSD, in mdtraj's language."""

_CONTACT_CUTOFF, _CONTACT_BETA, _CONTACT_LAMBDA = 0.45, 50.0, 1.8
_BAKER_HUBBARD_DISTANCE, _BAKER_HUBBARD_ANGLE = 0.25, np.radians(120.0)


def rmsd(positions: np.ndarray, reference: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Return the root-mean-square deviation [nm] from a reference after the best superposition.

    Superposed and measured on the same atoms, each counting alike, without reflections (mdtraj).

    Args:
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
        reference: The reference [nm] with shape=(n_atoms, 3).
        atoms: Indices of the atoms with shape=(n,).
    """
    import mdtraj

    # Centred in double precision first: mdtraj works in single.
    parts = [np.asarray(x, dtype=np.float64)[..., atoms, :] for x in (positions, reference[None])]
    centred = [x - x.mean(axis=1, keepdims=True) for x in parts]
    frames, native = (mdtraj.Trajectory(x.astype(np.float32), None) for x in centred)
    return mdtraj.rmsd(frames, native).astype(np.float64)


def radius_of_gyration(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return the mass-weighted radius of gyration [nm] about the centre of mass.

    Written out here because mdtraj's takes the distances from the centre of geometry.

    Args:
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
        masses: Masses in any unit with shape=(n_atoms,).
    """
    weights = masses / masses.sum()
    centre = np.einsum("i,nij->nj", weights, positions)
    squares = ((positions - centre[:, None]) ** 2).sum(axis=2)
    return np.sqrt(squares @ weights)


def native_contact_pairs(reference: np.ndarray, topology: mdtraj.Topology) -> np.ndarray:
    """Return the pairs of heavy atoms that are in contact in the reference, with shape=(n, 2).

    Their residues are more than three apart in the sequence, and their distance is below 0.45 nm.

    Args:
        reference: The reference [nm] with shape=(n_atoms, 3).
        topology: The topology.
    """
    heavy = [atom.index for atom in topology.atoms if atom.element.symbol != "H"]
    residue = [atom.residue.index for atom in topology.atoms]
    pairs = np.array([(a, b) for a, b in combinations(heavy, 2) if abs(residue[a] - residue[b]) > 3])
    if len(pairs) == 0:
        return np.empty((0, 2), dtype=np.int64)
    return pairs[geometry.distances(np.asarray(reference), pairs) < _CONTACT_CUTOFF]


def native_contacts(positions: np.ndarray, reference: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the fraction of native contacts, between 0 and 1.

    The mean over the pairs of 1 / (1 + exp(beta (r - lambda r0))), beta = 50 / nm, lambda = 1.8, r0 being the
    distance in the reference.

    Args:
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
        reference: The reference [nm] with shape=(n_atoms, 3).
        pairs: The contacts, from `native_contact_pairs`.

    Source: Best, Hummer and Eaton, PNAS 110 (2013) 17874, equation 1.
    """
    from scipy.special import expit

    allowed = _CONTACT_LAMBDA * geometry.distances(np.asarray(reference), pairs)
    return expit(-_CONTACT_BETA * (geometry.distances(positions, pairs) - allowed)).mean(axis=1)


def check_hydrogen_bonds(topology: mdtraj.Topology, criterion: str) -> None:
    """Refuse what hydrogen bonds cannot be counted with.

    Raises:
        InputError: If there is no such criterion, or the topology has no bonds.
    """
    if criterion not in HYDROGEN_BOND_CRITERIA:
        raise InputError(
            f"There is no criterion {criterion!r} for hydrogen bonds; use {' or '.join(HYDROGEN_BOND_CRITERIA)}."
        )
    if topology.n_bonds == 0:
        raise InputError("Hydrogen bonds need a topology with bonds; give a PDB file with CONECT records.")


def hydrogen_bonds(
    positions: np.ndarray, topology: mdtraj.Topology, criterion: str = "wernet-nilsson"
) -> np.ndarray:
    """Return the number of hydrogen bonds of each configuration; donors N-H and O-H, acceptors N and O.

    - "wernet-nilsson": donor to acceptor below 0.33 nm - 0.000044 nm theta^2, theta [degrees] being the angle
      between acceptor, donor and hydrogen, which is below 45 degrees (Science 304 (2004) 995).
    - "baker-hubbard": hydrogen to acceptor below 0.25 nm, the angle at the hydrogen above 120 degrees
      (Prog. Biophys. Mol. Biol. 44 (1984) 97).

    Args:
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
        topology: The topology, with bonds.
        criterion: One of the two.

    Raises:
        InputError: If the criterion is another, or the topology has no bonds.
    """
    import mdtraj

    check_hydrogen_bonds(topology, criterion)
    frames = mdtraj.Trajectory(np.asarray(positions, dtype=np.float32), topology)
    if criterion == "wernet-nilsson":
        return np.array([len(found) for found in mdtraj.wernet_nilsson(frames, periodic=False)], dtype=float)
    # mdtraj counts over a trajectory: first those that are ever there, then which of them in which frame.
    triplets = mdtraj.baker_hubbard(frames, freq=0.0, periodic=False)
    if len(triplets) == 0:
        return np.zeros(len(positions))
    near = geometry.distances(positions, triplets[:, 1:]) < _BAKER_HUBBARD_DISTANCE
    return (near & (geometry.angles(positions, triplets) > _BAKER_HUBBARD_ANGLE)).sum(axis=1).astype(float)
