"""Chignolin, a peptide of ten residues that folds to a hairpin, in implicit solvent."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.force_fields import implicit_solvent_system
from openmm_bg.systems.minimisation import minimise
from openmm_bg.systems.molecular_system import MolecularSystem
from openmm_bg.systems.peptide import Caps, build_peptide
from openmm_bg.systems.torsions import backbone_torsions

if TYPE_CHECKING:
    from openmm import app

CONFORMATIONS = ("native", "extended")
"""The conformations that `chignolin` knows."""

_DEFAULT_CAPS = ("ACE", "NME")
_FREE = 20.0  # [degrees] how far the native backbone may go from the deposited one


class Residue(NamedTuple):
    """The torsions of a residue [degrees]."""

    phi: float
    psi: float
    omega: float
    chi: tuple[float, ...] = ()


# Computed from the coordinates of 5AWL (crystal; Honda et al., J. Am. Chem. Soc. 130 (2008) 15327) and of the first
# model of 1UAO (NMR; Honda et al., Structure 12 (2004) 1507). These are not capped: the first phi, the last psi
# and the last omega are those of a strand.
NATIVE: Mapping[str, tuple[Residue, ...]] = {
    "YYDPETGTWY": (
        Residue(-120.0, 150.4, 169.4, (-46.0, 96.2)),
        Residue(-93.3, 138.4, 178.6, (-67.3, 99.5)),
        Residue(-75.6, 133.6, -174.3, (-174.8, -77.3)),
        Residue(-71.8, -20.9, 179.4),
        Residue(-91.9, -40.8, -172.9, (-78.1, -66.9, 151.5)),
        Residue(-106.3, -17.1, -179.4, (63.1,)),
        Residue(70.4, 17.0, -178.6),
        Residue(-104.0, 153.3, -177.9, (55.8,)),
        Residue(-80.6, 133.2, 174.3, (-175.2, -98.1)),
        Residue(-136.8, 130.0, 180.0, (68.6, 95.2)),
    ),
    "GYDPETGTWG": (
        Residue(-120.0, -176.7, 180.0),
        Residue(-84.8, 97.9, 179.7, (-179.9, 86.6)),
        Residue(-71.7, 115.2, -179.9, (-175.1, 57.5)),
        Residue(-76.0, -12.8, 179.5),
        Residue(-60.3, -39.4, 179.6, (-156.1, -107.0, 27.5)),
        Residue(-107.0, -22.5, 179.6, (74.8,)),
        Residue(90.8, 34.1, 179.9),
        Residue(-160.7, 165.4, 179.8, (15.5,)),
        Residue(-69.2, 107.1, -179.9, (-36.4, 94.6)),
        Residue(-49.5, 130.0, 180.0),
    ),
}
"""The sequences of chignolin, CLN025 first, with the torsions of their deposited structures."""


def chignolin(
    sequence: str = "YYDPETGTWY",
    caps: Caps = _DEFAULT_CAPS,
    *,
    forcefield: str = "amber99sb",
    solvent: str = "obc1",
    conformation: str = "native",
    from_sequence: bool = False,
) -> MolecularSystem:
    """Build chignolin in implicit solvent at 350 K, without cutoff and constraints.

    By default this is ACE-YYDPETGTWY-NME (CLN025, 175 atoms) with AMBER ff99SB and the solvent OBC1. Mind that
    OpenMM's `GBSAOBCForce`, and with it files such as ``amber99_obc.xml``, is another solvent, OBC2.

    The reference positions are minimised. With the caps, force field and solvent of the default they come with
    the package, otherwise the minimisation takes seconds. For the native conformation it starts from the backbone
    and side-chain torsions of the deposited structures 5AWL and 1UAO, and a restraint that is zero within 20
    degrees keeps the backbone there. It has nothing to do for YYDPETGTWY in the default force field, whereas
    GYDPETGTWG, without it, would turn the peptide group after Tyr2 by about 50 degrees.

    Simulations can start from both conformations: ``starts`` has them by name. The one that was not asked for is
    not minimised in another force field or with other caps; `openmm_bg.simulation.simulate` does so where needed.

    Args:
        sequence: "YYDPETGTWY" (CLN025) or "GYDPETGTWG" (the first chignolin).
        caps: The caps in front and at the end, as in `build_peptide`; None for charged termini.
        forcefield: One of `openmm_bg.systems.force_fields.FORCE_FIELDS`.
        solvent: "obc1" or "obc2", in any case.
        conformation: "native" or "extended".
        from_sequence: Start from the sequence, not from the structure that comes with the package.

    Returns:
        The system with the torsions phi and psi of each residue.

    Raises:
        InputError: If one of the names is unknown.
    """
    if sequence not in tuple(NATIVE):  # not all that may be given can be hashed
        raise InputError(
            f"The sequences of chignolin are {' and '.join(NATIVE)}, not {sequence!r}; "
            "build_peptide makes peptides of any sequence."
        )
    if conformation not in CONFORMATIONS:
        raise InputError(
            f"There is no conformation {conformation!r} of chignolin; there are: {', '.join(CONFORMATIONS)}."
        )
    solvent = solvent.lower() if isinstance(solvent, str) else solvent
    shipped = not from_sequence and isinstance(caps, tuple | list) and tuple(caps) == _DEFAULT_CAPS
    structures = {
        name: _shipped(sequence, name) if shipped else _built(sequence, caps, name) for name in CONFORMATIONS
    }
    topology, positions = structures[conformation]
    system = implicit_solvent_system(topology, forcefield, solvent)
    if not shipped or (forcefield, solvent) != ("amber99sb", "obc1"):
        restraints = native_torsions(sequence, topology) if conformation == "native" else {}
        positions, _ = minimise(system, positions, restraints, width=np.radians(_FREE))
    return MolecularSystem(
        name="chignolin" if sequence == "YYDPETGTWY" else f"chignolin_{sequence}",
        system=system,
        topology=topology,
        positions=positions,
        temperature=350.0,
        torsions=backbone_torsions(topology),
        starts={name: found for name, (_, found) in structures.items()} | {conformation: positions},
    )


def native_torsions(sequence: str, topology: app.Topology) -> dict[tuple[int, int, int, int], float]:
    """Return the backbone torsions of the deposited structure [rad], by the indices of four atoms.

    Args:
        sequence: One of `NATIVE`.
        topology: Its topology, with the residues' numbers in the sequence as ids.
    """
    atoms = {(int(atom.residue.id), atom.name): atom.index for atom in topology.atoms()}
    residues, last = NATIVE[sequence], len(sequence)
    torsions = {}
    for k, native in enumerate(residues, start=1):
        before, own, after = ([atoms.get((n, name)) for name in ("N", "CA", "C")] for n in (k - 1, k, k + 1))
        if k > 1:
            torsions[before[2], *own] = native.phi
        if k < last:
            torsions[*own, after[0]] = native.psi
            torsions[*own[1:], *after[:2]] = native.omega
    return {indices: float(np.radians(angle)) for indices, angle in torsions.items()}


def _built(sequence: str, caps: Caps, conformation: str) -> tuple[app.Topology, np.ndarray]:
    """Return topology and positions [nm] from standard bonds, angles and the conformation's torsions."""
    if conformation == "extended":
        return build_peptide(sequence, caps)
    phi, psi, omega, chi = zip(*NATIVE[sequence], strict=True)
    return build_peptide(
        sequence,
        caps,
        phi=np.radians(phi),
        psi=np.radians(psi),
        omega=np.radians(omega),
        chi=[np.radians(angles) for angles in chi],
    )


def _shipped(sequence: str, conformation: str) -> tuple[app.Topology, np.ndarray]:
    """Return topology and positions [nm] of a file that comes with the package (``scripts/make_chignolin.py``)."""
    from openmm import app, unit

    name = f"chignolin_{sequence}_{conformation}.pdb"
    with (resources.files("openmm_bg.systems") / "data" / name).open() as file:
        pdb = app.PDBFile(file)
    return pdb.topology, pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
