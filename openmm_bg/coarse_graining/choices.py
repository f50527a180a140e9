"""The coarse-grained maps that can be asked for by name."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_bg.coarse_graining.bead_energy import BeadPotential
from openmm_bg.coarse_graining.force_matching import match_forces
from openmm_bg.coarse_graining.learned_map import MapSettings, learn_map
from openmm_bg.coarse_graining.maps import CoarseGrainedMap, LinearMap, centroid_map, selection_map
from openmm_bg.coarse_graining.noisy_map import NoisyMap
from openmm_bg.errors import InputError, ReliabilityWarning

if TYPE_CHECKING:
    from openmm_bg.potentials.base import Potential
    from openmm_bg.systems import MolecularSystem
    from openmm_bg.training.data import TrainingData

KINDS = ("atoms", "residues", "learned")
BACKBONE = "name N CA C"
"""The atoms that are beads if nothing else is said."""

# Of each option that only one kind of map has: what it is, and the kind.
_OWN = {
    "atoms": ("A selection of atoms (--atoms)", "atoms"),
    "n_beads": ("A number of beads (--beads)", "learned"),
    "by_atom": ("A kind for every atom (--by-atom)", "learned"),
}
_LEARNING_FRAMES = 1280
# After the first learning, the map and a bead energy are learned in turns.
_STEPS, _TURNS, _TURN_STEPS, _TURN_RATE = 600, 2, 60, 1e-4


@dataclass(frozen=True)
class MapChoice:
    """Which map a model gets.

    Args:
        kind: "atoms": beads are atoms; "residues": beads are the residues' centres of mass; "learned": beads
            are the centres of mass of groups of atoms that a network has found.
        atoms: Which atoms, in mdtraj's selection language; `BACKBONE` if not given.
        n_beads: The number of beads of a learned map; 6 if not given.
        by_atom: Whether every atom is of a kind of its own for the network of a learned map
            (`MapSettings.by_atom`).
        noisy: Whether the beads are drawn around those of the map (`NoisyMap`).
        seed: Seed of a learned map.

    Raises:
        InputError: If there is no such kind, or it does not have an option that is given.
    """

    kind: str = "atoms"
    atoms: str | None = None
    n_beads: int | None = None
    by_atom: bool = False
    noisy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the kind, and that it has the options that are given."""
        if self.kind not in KINDS:
            raise InputError(f"There is no map {self.kind!r}; the maps are {', '.join(KINDS)}.")
        for name, (what, kind) in _OWN.items():
            given = getattr(self, name)
            if kind != self.kind and given is not None and given is not False:
                raise InputError(f"{what} is for the map {kind!r} only, not for {self.kind!r}; leave it out.")

    def used(self) -> dict[str, Any]:
        """Return the options that the kind has, by name, as JSON; defaults are filled in."""
        found: dict[str, Any] = {"kind": self.kind, "noisy": self.noisy}
        if self.kind == "atoms":
            found["atoms"] = BACKBONE if self.atoms is None else self.atoms
        elif self.kind == "learned":
            found["n_beads"] = MapSettings.n_beads if self.n_beads is None else self.n_beads
            found |= {"by_atom": self.by_atom, "seed": self.seed}
        return found


def choose_map(
    choice: MapChoice, data: TrainingData, potential: Potential, *, progress: bool = False
) -> tuple[CoarseGrainedMap, dict[str, Any]]:
    """Return a map of a molecule, and how it was made.

    Args:
        choice: Which one.
        data: Configurations, from which a learned map is learned.
        potential: The molecule's potential, for forces.
        progress: Show a progress bar.

    Raises:
        InputError: If the selection is ill-formed or has fewer than three atoms, or the molecule too few residues.

    Warns:
        ReliabilityWarning: If a bead of a learned map is of several pieces that no bond joins.
    """
    system, record = data.system, choice.used()
    if choice.kind == "atoms":
        found: CoarseGrainedMap = selection_map(system.n_atoms, selected_atoms(system, record["atoms"]))
    elif choice.kind == "residues":
        found = residue_map(system)
    else:
        found, learned = _learned_map(record, data, potential, progress)
        record |= learned
        _warn_of_pieces(record["pieces"], choice.by_atom)
    return (NoisyMap(found) if choice.noisy else found), record


def selected_atoms(system: MolecularSystem, selection: str) -> list[int]:
    """Return the atoms that a selection in mdtraj's language names.

    Raises:
        InputError: If it is ill-formed, or names fewer than three atoms.
    """
    import mdtraj

    try:
        atoms = mdtraj.Topology.from_openmm(system.topology).select(selection).tolist()
    except Exception as error:  # the parser raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{selection!r} is no selection of atoms ({reason}); an example is 'name CA'."
        ) from error
    if len(atoms) < 3:
        raise InputError(
            f"The selection {selection!r} names {len(atoms)} atoms of {system.name}; at least three are needed."
        )
    return atoms


def residue_map(system: MolecularSystem) -> LinearMap:
    """Return the map whose beads are the centres of mass of residues.

    Raises:
        InputError: If there are fewer than three.
    """
    groups = [[atom.index for atom in residue.atoms()] for residue in system.topology.residues()]
    if len(groups) < 3:
        raise InputError(f"{system.name} has {len(groups)} residues; a map needs at least three beads.")
    return centroid_map(system.n_atoms, groups, system.masses)


def _learned_map(
    chosen: dict[str, Any], data: TrainingData, potential: Potential, progress: bool
) -> tuple[LinearMap, dict[str, Any]]:
    frames = np.linspace(0, len(data.positions) - 1, min(_LEARNING_FRAMES, len(data.positions))).astype(int)
    positions = torch.as_tensor(np.asarray(data.positions[frames], dtype=np.float64))
    _, forces = potential.energy_and_forces(positions)
    system, seed = data.system, chosen["seed"]
    settings = MapSettings(n_beads=chosen["n_beads"], n_steps=_STEPS, by_atom=chosen["by_atom"], seed=seed)
    molecule = (positions, forces, system.bonds, system.masses)
    learned = learn_map(*molecule, settings, progress=progress)
    brief = dataclasses.replace(settings, n_steps=_TURN_STEPS, learning_rate=_TURN_RATE)
    for _ in range(_TURNS):
        energy = match_forces(
            learned.map.beads(positions), learned.map.bead_forces(forces), data.temperature, seed=seed
        )
        found = BeadPotential(energy)
        learned = learn_map(
            *molecule, brief, bead_forces=lambda z, p=found: p.energy_and_forces(z)[1], start=learned
        )
    return learned.map, learned.record


def _warn_of_pieces(pieces: list[int], by_atom: bool) -> None:
    split = [str(bead) for bead, number in enumerate(pieces) if number > 1]
    if not split:
        return
    ways = "another --seed or another number of --beads"
    warnings.warn(
        f"{len(split)} of the {len(pieces)} beads of the learned map ({', '.join(split)}, counted from 0) are of "
        "several pieces that no bond joins, so that they are nowhere in the molecule; learn it with "
        f"{ways if by_atom else '--by-atom, ' + ways}.",
        ReliabilityWarning,
        stacklevel=3,
    )
