"""Files of small molecules: those that openmmtools installs, and ethanol as CHARMM would write it."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from openmm_bg import systems

DATA = Path(find_spec("openmmtools").origin).parent / "data"
TOLUENE = DATA / "benzene-toluene-implicit"  # solvent.prmtop is toluene, complex.prmtop benzene and toluene
FORCE_FIELD = ("amber14-all.xml", "implicit/obc2.xml")

# Name, type, charge [e], mass [Da] and position [angstrom].
_ETHANOL = [
    ("C1", "CT3", -0.27, 12.011, (-1.1879, -0.3829, 0.0)),
    ("C2", "CT2", 0.05, 12.011, (0.0, 0.5526, 0.0)),
    ("O1", "OH1", -0.65, 15.999, (1.1867, -0.2472, 0.0)),
    ("H1", "HA", 0.09, 1.008, (-2.1131, 0.1900, 0.0)),
    ("H2", "HA", 0.09, 1.008, (-1.1503, -1.0106, 0.8854)),
    ("H3", "HA", 0.09, 1.008, (-1.1503, -1.0106, -0.8854)),
    ("H4", "HB", 0.09, 1.008, (-0.0227, 1.1812, 0.8852)),
    ("H5", "HB", 0.09, 1.008, (-0.0227, 1.1812, -0.8852)),
    ("HO", "HO", 0.42, 1.008, (1.9227, 0.3850, 0.0)),
]
_BONDS = [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)]
_PARAMETERS = """* made up for tests
*

ATOMS
MASS 1 CT3 12.011
MASS 2 CT2 12.011
MASS 3 OH1 15.999
MASS 4 HA 1.008
MASS 5 HB 1.008
MASS 6 HO 1.008

BONDS
CT3 CT2 222.5 1.528
CT2 OH1 428.0 1.420
CT3 HA 322.0 1.111
CT2 HB 309.0 1.111
OH1 HO 545.0 0.960

ANGLES
CT3 CT2 OH1 75.7 110.1
CT3 CT2 HB 34.6 110.1 22.53 2.179
OH1 CT2 HB 45.9 108.9
HB CT2 HB 35.5 109.0 5.4 1.802
CT2 CT3 HA 34.6 110.1 22.53 2.179
HA CT3 HA 35.5 108.4 5.4 1.802
CT2 OH1 HO 50.0 106.0

DIHEDRALS
X CT3 CT2 X 0.16 3 0.0
X CT2 OH1 X 0.18 3 0.0

NONBONDED NBXMOD 5 E14FAC 1.0
CT3 0.0 -0.078 2.040
CT2 0.0 -0.056 2.010
OH1 0.0 -0.1521 1.770
HA 0.0 -0.024 1.340
HB 0.0 -0.028 1.340
HO 0.0 -0.046 0.2245

END
"""
ETHANOL_POSITIONS = 0.1 * np.array([atom[4] for atom in _ETHANOL])  # [nm]


def write_ethanol(folder: Path) -> dict[str, Path]:
    """Write ethanol's PSF, parameters, PDB and CRD files; return them by these extensions."""
    paths = {suffix: folder / f"ethanol.{suffix}" for suffix in ("psf", "prm", "pdb", "crd")}
    paths["prm"].write_text(_PARAMETERS)
    paths["psf"].write_text(_psf())
    pdb, crd = [], ["* ETHANOL", "*", f"{len(_ETHANOL):5d}"]
    for k, (name, _, _, _, (x, y, z)) in enumerate(_ETHANOL, start=1):
        pdb.append(
            f"HETATM{k:5d} {name:<4} ETO A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {name[0]:>2}"
        )
        crd.append(f"{k:5d}{1:5d} ETO  {name:<4}{x:10.5f}{y:10.5f}{z:10.5f} MAIN 1      0.00000")
    paths["pdb"].write_text("\n".join([*pdb, "END", ""]))
    paths["crd"].write_text("\n".join([*crd, ""]))
    return paths


def write_acetonitrile(folder: Path) -> tuple[Path, Path]:
    """Write H3C-C-N, which is straight, as a system of springs and a PDB file; return both paths."""
    positions = np.array(
        [(0, 0, 0), (1.46, 0, 0), (2.62, 0, 0), (-0.37, 1.03, 0), (-0.37, -0.51, 0.89), (-0.37, -0.51, -0.89)]
    )
    topology, system, springs = app.Topology(), openmm.System(), openmm.HarmonicBondForce()
    residue = topology.addResidue("ACN", topology.addChain())
    elements = [app.Element.getBySymbol(symbol) for symbol in "CCNHHH"]
    names = ("C1", "C2", "N1", "H1", "H2", "H3")
    atoms = [topology.addAtom(*named, residue) for named in zip(names, elements, strict=True)]
    for element in elements:
        system.addParticle(element.mass)
    for a, b in ((0, 1), (1, 2), (0, 3), (0, 4), (0, 5)):
        topology.addBond(atoms[a], atoms[b])
        springs.addBond(a, b, 0.1 * float(np.linalg.norm(positions[a] - positions[b])), 3e5)
    system.addForce(springs)
    xml, pdb = folder / "acetonitrile.xml", folder / "acetonitrile.pdb"
    xml.write_text(openmm.XmlSerializer.serialize(system))
    pdb.write_text(pdb_of(topology, 0.1 * positions))
    return xml, pdb


def alanine_pdb() -> str:
    """Return alanine dipeptide as the text of a PDB file."""
    return systems.load("alanine_dipeptide").topology_pdb()


def pdb_of(topology: app.Topology, positions: np.ndarray) -> str:
    """Return a topology and positions [nm] as the text of a PDB file."""
    text = io.StringIO()
    app.PDBFile.writeFile(topology, positions * unit.nanometer, text)
    return text.getvalue()


def _psf() -> str:
    neighbours = {k: [b if a == k else a for a, b in _BONDS if k in (a, b)] for k in range(len(_ETHANOL))}
    angles = [(i, k, j) for k, near in neighbours.items() for i in near for j in near if i < j]
    torsions = [
        (i, a, b, j) for a, b in _BONDS for i in neighbours[a] for j in neighbours[b] if i != b and j != a
    ]
    atoms = [
        f"{k:8d} MAIN 1    ETO  {name:<4} {kind:<4} {charge:10.6f} {mass:13.4f}           0"
        for k, (name, kind, charge, mass, _) in enumerate(_ETHANOL, start=1)
    ]
    sections = [("PSF", []), (f"{1:8d} !NTITLE", [" REMARKS ethanol"]), (f"{len(atoms):8d} !NATOM", atoms)]
    for groups, title in (
        (_BONDS, "NBOND: bonds"),
        (angles, "NTHETA: angles"),
        (torsions, "NPHI: dihedrals"),
    ):
        lines = ["".join(f"{atom + 1:8d}" for atom in group) for group in groups]
        sections.append((f"{len(groups):8d} !{title}", lines))
    for title in ("NIMPHI: impropers", "NDON: donors", "NACC: acceptors", "NNB"):
        sections.append((f"{0:8d} !{title}", []))
    return "\n\n".join("\n".join([head, *lines]) for head, lines in sections) + "\n\n"
