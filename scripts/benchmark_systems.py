"""Systems of the benchmark: alanine dipeptide, and capped poly-alanine of any length in implicit solvent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import numpy as np
import torch

from openmm_bg import TorchPotential, systems
from openmm_bg.geometry import dihedrals
from openmm_bg.simulation import LangevinDynamics, minimize
from openmm_bg.systems import MolecularSystem

SIZES = (12, 22, 42, 82, 172, 252, 502)  # atoms of ACE-(ALA)n-NME: 12 + 10 n
SYSTEMS = (
    "alanine-vacuum",
    "alanine-obc1",
    "alanine-gbsaobc",
    *(f"peptide-{n}" for n in SIZES),
    "peptide-172-gbsaobc",
)


def peptide(n_atoms: int, solvent: str = "obc1") -> MolecularSystem:
    """Build ACE-(ALA)n-NME as an alpha helix, with 12 + 10 n atoms, in amber99sb and implicit solvent.

    A helix repeats one rigid motion: the one that takes the first peptide group of alanine dipeptide to the second.

    Args:
        n_atoms: The number of atoms.
        solvent: "obc1" (a CustomGBForce) or "gbsaobc" (OBC2 as GBSAOBCForce).
    """
    from openmm import app

    n_alanine, rest = divmod(n_atoms - 12, 10)
    if rest or n_alanine < 0:
        raise ValueError(f"ACE-(ALA)n-NME has 12 + 10 n atoms, not {n_atoms}.")
    dipeptide = systems.load("alanine_dipeptide")
    x = np.array(dipeptide.positions)
    _set_torsion(x, (4, 6, 8, 14), np.radians(-60.0), moving=range(9, 22))
    _set_torsion(x, (6, 8, 14, 16), np.radians(-45.0), moving=range(15, 22))
    rotation, shift = _rigid_motion(x[[4, 5, 6, 7, 8]], x[[14, 15, 16, 17, 18]])
    acetyl, alanine, methylamide = dipeptide.topology.residues()
    middle, end = [x[6:16]], x[16:]
    for _ in range(n_alanine - 1):
        middle.append(middle[-1] @ rotation.T + shift)
        end = end @ rotation.T + shift
    if n_alanine == 0:
        middle, end = [], (end - shift) @ rotation
    topology = _chain([acetyl, *[alanine] * n_alanine, methylamide])
    files = {"obc1": "implicit/obc1.xml", "gbsaobc": "amber99_obc.xml"}
    system = app.ForceField("amber99sb.xml", files[solvent]).createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
    )
    return MolecularSystem(f"peptide-{n_atoms}", system, topology, np.concatenate([x[:6], *middle, end]))


def load_system(name: str) -> MolecularSystem:
    """Build one of `SYSTEMS`."""
    from openmm import app

    kind, *rest = name.split("-")
    if kind == "peptide":
        return peptide(int(rest[0]), rest[1] if rest[1:] else "obc1")
    dipeptide = systems.load("alanine_dipeptide")
    if rest == ["obc1"]:
        return dipeptide
    data = resources.files("openmm_bg.systems") / "data" / "alanine_dipeptide.prmtop"
    solvent = {"vacuum": None, "gbsaobc": app.OBC2}[rest[0]]
    with resources.as_file(data) as path:
        system = app.AmberPrmtopFile(str(path)).createSystem(
            nonbondedMethod=app.NoCutoff, constraints=None, implicitSolvent=solvent
        )
    return MolecularSystem(name, system, dipeptide.topology, dipeptide.positions)


def thermal_positions(molecule: MolecularSystem, n: int = 128, seed: int = 0) -> np.ndarray:
    """Return configurations [nm] of short dynamics at 300 K with shape=(n, n_atoms, 3)."""
    walkers = 32
    potential = TorchPotential.from_system(molecule, dtype=torch.float32)
    start = minimize(potential, molecule.positions[None], tolerance=50.0, max_iterations=500).positions
    dynamics = LangevinDynamics(
        potential,
        start.expand(walkers, -1, -1),
        molecule.masses,
        300.0,
        friction=10.0,
        generator=torch.Generator().manual_seed(seed),
    )
    dynamics.step(200)
    frames = []
    for _ in range(-(-n // walkers)):
        dynamics.step(50)
        frames.append(dynamics.positions.clone())
    return torch.cat(frames)[:n].double().numpy()


def _set_torsion(x: np.ndarray, atoms: Sequence[int], angle: float, moving: Iterable[int]) -> None:
    turn = angle - float(dihedrals(x[None], np.array([atoms]))[0, 0])
    origin = x[atoms[2]]
    axis = (origin - x[atoms[1]]) / np.linalg.norm(origin - x[atoms[1]])
    cross = np.cross(np.eye(3), -axis)  # v @ cross = axis x v
    rotation = np.eye(3) + np.sin(turn) * cross.T + (1 - np.cos(turn)) * (cross @ cross).T
    moving = list(moving)
    x[moving] = (x[moving] - origin) @ rotation.T + origin


def _rigid_motion(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return R and t such that a @ R.T + t is closest to b (Kabsch, Acta Cryst. A 32, 922 (1976))."""
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u @ sign @ vt).T
    return rotation, b.mean(0) - rotation @ a.mean(0)


def _chain(residues: Sequence[Any]) -> Any:
    """Return a topology of copies of residues, joined by peptide bonds."""
    from openmm import app

    topology = app.Topology()
    chain = topology.addChain()
    carbonyl = None
    for residue in residues:
        new = topology.addResidue(residue.name, chain)
        atoms = {atom: topology.addAtom(atom.name, atom.element, new) for atom in residue.atoms()}
        for first, second in residue.internal_bonds():
            topology.addBond(atoms[first], atoms[second])
        by_name = {atom.name: atom for atom in new.atoms()}
        if carbonyl is not None:
            topology.addBond(carbonyl, by_name["N"])
        carbonyl = by_name.get("C")
    return topology
