"""Molecules with rings and several chains: biphenyl, a disulfide between two chains, cyclic peptides."""

from __future__ import annotations

import functools
import io

import numpy as np
from molecule_examples import FORCE_FIELD, TOLUENE
from openmm import app

from openmm_bg.systems import MolecularSystem, build_peptide
from openmm_bg.systems.minimisation import minimise
from openmm_bg.systems.molecule_files import read_amber_molecule
from openmm_bg.systems.torsions import backbone_torsions

# GAFF 1.8 (Wang et al., J. Comput. Chem. 25 (2004) 1157; gaff.dat of March 2015), in its units: kcal/mol, angstrom
# and degrees; energies of springs without a factor of 1/2. "X" is any type.
GAFF_BONDS = {
    ("ca", "ca"): (461.1, 1.3984),
    ("ca", "cp"): (450.2, 1.4058),
    ("ca", "ha"): (345.8, 1.0860),
    ("cp", "cp"): (351.4, 1.4854),
}
GAFF_ANGLES = {
    ("ca", "ca", "ca"): (66.62, 120.02),
    ("ca", "ca", "cp"): (66.26, 120.69),
    ("ca", "ca", "ha"): (48.18, 119.88),
    ("cp", "ca", "ha"): (47.98, 119.86),
    ("ca", "cp", "ca"): (66.72, 118.38),
    ("ca", "cp", "cp"): (64.05, 121.11),
}
# The barrier of all the torsions about a bond, and how many they are; with two minima, where they are planar.
GAFF_TORSIONS = {("ca", "ca"): (14.5, 4), ("ca", "cp"): (14.5, 4), ("cp", "cp"): (4.0, 4)}
GAFF_IMPROPER = 1.1  # for X-X-ca-ha; also what parmchk takes for the cp, which the file does not list
GAFF_RADII = {"ca": (1.9080, 0.0860), "cp": (1.9080, 0.0860), "ha": (1.4590, 0.0150)}
CHARGE = 0.115  # [e], of each C-H as in OPLS-AA; GAFF's charges are fitted for each molecule


def toluene() -> MolecularSystem:
    """Toluene as openmmtools installs it, in vacuum."""
    return read_amber_molecule(TOLUENE / "solvent.prmtop", TOLUENE / "solvent.inpcrd").molecule()


@functools.cache
def biphenyl() -> MolecularSystem:
    """Biphenyl with GAFF in OBC2; the ring of C1 to C6 in a plane, that of C7 to C12 turned by 40 degrees."""
    names = [f"C{k}" for k in range(1, 13)] + [f"H{k}" for k in range(1, 13) if k not in (1, 7)]
    bonds = [(f"C{k}", f"C{k + 1 if k % 6 else k - 5}") for k in range(1, 13)] + [("C1", "C7")]
    bonds += [(f"C{name[1:]}", name) for name in names if name[0] == "H"]
    positions = []
    for name in names:
        number, radius = int(name[1:]), 0.14 if name[0] == "C" else 0.249
        second = number > 6
        angle, turn = np.radians(60 * ((number - 1) % 6)), np.radians(40) * second
        along, across = 0.2145 - radius * np.cos(angle), radius * np.sin(angle)  # from the middle of C1-C7
        along = along if second else -along
        positions.append((along, across * np.cos(turn), across * np.sin(turn)))
    topology = app.Topology()
    residue = topology.addResidue("BPH", topology.addChain())
    atoms = {
        name: topology.addAtom(name, app.Element.getBySymbol(name[0]), residue, id=str(k))
        for k, name in enumerate(names, start=1)
    }
    for first, second in bonds:
        topology.addBond(atoms[first], atoms[second])
    return _minimised("biphenyl", topology, np.array(positions), io.StringIO(_gaff(names, bonds)))


@functools.cache
def disulfide() -> MolecularSystem:
    """Two capped cysteines, each a chain of its own, with a bond between their sulphur atoms."""
    cysteine, x = build_peptide("C")
    index = {atom.name: atom.index for atom in cysteine.atoms() if atom.residue.name == "CYS"}
    sulphur, beta = x[index["SG"]], x[index["CB"]]
    # The other sulphur atom is where the hydrogen was, and its chain the image of this one under half a turn.
    along = (x[index["HG"]] - sulphur) / np.linalg.norm(x[index["HG"]] - sulphur)
    across = (beta - sulphur) - ((beta - sulphur) @ along) * along
    across /= np.linalg.norm(across)
    axis = (across + np.cross(along, across)) / np.sqrt(2.0)  # the torsion of C-S-S-C is twice 45 degrees
    middle = sulphur + 0.102 * along
    half_turn = middle + 2.0 * np.outer((x - middle) @ axis, axis) - (x - middle)
    topology, bridge, positions = app.Topology(), [], []
    for chain_id, placed in (("A", x), ("B", half_turn)):
        chain, atoms = topology.addChain(chain_id), {}
        for residue in cysteine.residues():
            own = topology.addResidue(residue.name, chain, residue.id)
            for atom in residue.atoms():
                if atom.index != index["HG"]:
                    atoms[atom] = topology.addAtom(atom.name, atom.element, own)
                    positions.append(placed[atom.index])
                if atom.index == index["SG"]:
                    bridge.append(atoms[atom])
        for first, second in cysteine.bonds():
            if first in atoms and second in atoms:
                topology.addBond(atoms[first], atoms[second])
    topology.addBond(*bridge)
    return _minimised("disulfide", topology, np.array(positions), *FORCE_FIELD[:1])


@functools.cache
def cyclic_peptide(residue_name: str, size: int = 4) -> MolecularSystem:
    """A ring of GLY, or of L-ALA: the backbone starts on a circle, the branches point out of it and up and down."""
    branches = {"GLY": ("HA2", "HA3"), "ALA": ("HA", "CB")}[residue_name]
    topology, positions, ends = app.Topology(), [], []
    chain, backbone = topology.addChain("A"), ("N", "CA", "C")
    radius = 0.143 / (2.0 * np.sin(np.pi / (3 * size)))
    for k in range(size):
        residue, atoms = topology.addResidue(residue_name, chain, str(k + 1)), {}

        def place(name, bonded, x, residue=residue, atoms=atoms):
            atoms[name] = topology.addAtom(name, app.Element.getBySymbol(name[0]), residue), x
            positions.append(x)
            if bonded:
                topology.addBond(atoms[bonded][0], atoms[name][0])

        outward = {}
        for j, name in enumerate(backbone):
            angle = 2.0 * np.pi * (3 * k + j) / (3 * size)
            outward[name] = np.array([np.cos(angle), np.sin(angle), 0.0])
            place(name, backbone[j - 1] if j else None, radius * outward[name])
        place("H", "N", atoms["N"][1] + 0.101 * outward["N"])
        place("O", "C", atoms["C"][1] + 0.123 * outward["C"])
        for name, side in zip(branches, (1.0, -1.0), strict=True):
            direction = np.array([0.0, 0.0, side]) + 0.6 * outward["CA"]
            length = 0.109 if name[0] == "H" else 0.153
            place(name, "CA", atoms["CA"][1] + length * direction / np.linalg.norm(direction))
        if residue_name == "ALA":
            beta, down = atoms["CB"][1], np.array([0.0, 0.0, -1.0])
            for j in range(3):
                angle = 2.0 * np.pi * j / 3
                side = np.cos(angle) * outward["CA"] + np.sin(angle) * np.cross(down, outward["CA"])
                place(f"HB{j + 1}", "CB", beta + 0.109 * (0.33 * down + 0.94 * side))
        ends.append((atoms["N"][0], atoms["C"][0]))
    for k in range(size):
        topology.addBond(ends[k - 1][1], ends[k][0])
    # A plane ring is a saddle point: a little noise leads away from it.
    noise = 0.005 * np.random.default_rng(0).normal(size=(len(positions), 3))
    return _minimised(f"cyclo-{residue_name}{size}", topology, np.array(positions) + noise, FORCE_FIELD[0])


@functools.cache
def cyclopropane() -> MolecularSystem:
    """Cyclopropane with GAFF, in vacuum and without charges; the angles of its small ring strain it."""
    corners = np.array([(np.cos(a), np.sin(a), 0.0) for a in 2 * np.pi * np.arange(3) / 3])
    tilt = np.radians(57.5)
    hydrogens = [np.cos(tilt) * u + s * np.sin(tilt) * np.array([0, 0, 1]) for u in corners for s in (1, -1)]
    carbons = 0.151 / np.sqrt(3) * corners
    positions = np.concatenate([carbons, np.repeat(carbons, 2, axis=0) + 0.1085 * np.array(hydrogens)])
    names = ["C1", "C2", "C3", *(f"H{k}" for k in range(1, 7))]
    bonds = [("C1", "C2"), ("C2", "C3"), ("C3", "C1"), *((f"C{k // 2 + 1}", f"H{k + 1}") for k in range(6))]
    topology = app.Topology()
    residue = topology.addResidue("CPR", topology.addChain())
    atoms = {n: topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in names}
    for a, b in bonds:
        topology.addBond(atoms[a], atoms[b])
    system = app.ForceField(io.StringIO(_cyclopropane_force_field(names, bonds))).createSystem(topology)
    return MolecularSystem("cyclopropane", system, topology, positions)


def _cyclopropane_force_field(names: list[str], bonds: list[tuple[str, str]]) -> str:
    """Return a force field of the types cx and hc, in OpenMM's units."""
    bond, angle = 2 * 418.4, 2 * 4.184
    atoms = [f'<Atom name="{n}" type="{n[0]}"/>' for n in names]
    atoms += [f'<Bond atomName1="{a}" atomName2="{b}"/>' for a, b in bonds]
    types = [("C", 12.011), ("H", 1.008)]
    springs = [("C", "C", 0.1508, 310.0), ("C", "H", 0.1087, 345.0)]
    bends = [("C", "C", "C", 60.0, 65.0), ("C", "C", "H", 117.7, 37.5), ("H", "C", "H", 114.3, 38.5)]
    lines = [
        "<ForceField><AtomTypes>",
        *(f'<Type name="{t}" class="{t}" element="{t}" mass="{m}"/>' for t, m in types),
        '</AtomTypes><Residues><Residue name="CPR">',
        *atoms,
        "</Residue></Residues><HarmonicBondForce>",
        *(f'<Bond class1="{a}" class2="{b}" length="{r}" k="{k * bond}"/>' for a, b, r, k in springs),
        "</HarmonicBondForce><HarmonicAngleForce>",
        *(
            f'<Angle class1="{a}" class2="{b}" class3="{c}" angle="{np.radians(t)}" k="{k * angle}"/>'
            for a, b, c, t, k in bends
        ),
        "</HarmonicAngleForce><PeriodicTorsionForce>",
        '<Proper class1="" class2="C" class3="C" class4="" periodicity1="3" phase1="0" k1="0.65"/>',
        "</PeriodicTorsionForce></ForceField>",
    ]
    return "\n".join(lines)


def _minimised(
    name: str, topology: app.Topology, positions: np.ndarray, *parameters: object
) -> MolecularSystem:
    """Return a molecule with a force field in OBC2, at a minimum of its energy."""
    system = app.ForceField(*parameters, FORCE_FIELD[1]).createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
    )
    positions, _ = minimise(system, positions)
    return MolecularSystem(name, system, topology, positions, torsions=backbone_torsions(topology))


def _gaff(names: list[str], bonds: list[tuple[str, str]]) -> str:
    """Return OpenMM's force field of biphenyl, in kJ/mol, nm and rad."""
    joule, types = 4.184, {name: "cp" if name in ("C1", "C7") else name[0].lower() + "a" for name in names}
    types |= {name: "ha" for name in names if name[0] == "H"}
    charges = {"ha": CHARGE, "ca": -CHARGE, "cp": 0.0}
    lines = ["<ForceField><AtomTypes>"]
    for kind, element, mass in (("ca", "C", 12.01), ("cp", "C", 12.01), ("ha", "H", 1.008)):
        lines.append(f'<Type name="{kind}" class="{kind}" element="{element}" mass="{mass}"/>')
    lines.append('</AtomTypes><Residues><Residue name="BPH">')
    lines += [f'<Atom name="{n}" type="{types[n]}" charge="{charges[types[n]]}"/>' for n in names]
    lines += [f'<Bond atomName1="{a}" atomName2="{b}"/>' for a, b in bonds]
    lines.append("</Residue></Residues><HarmonicBondForce>")
    for kinds, (k, length) in GAFF_BONDS.items():
        lines.append(f'<Bond {_classes(kinds)} length="{0.1 * length}" k="{200.0 * joule * k}"/>')
    lines.append("</HarmonicBondForce><HarmonicAngleForce>")
    for kinds, (k, angle) in GAFF_ANGLES.items():
        lines.append(f'<Angle {_classes(kinds)} angle="{np.radians(angle)}" k="{2.0 * joule * k}"/>')
    lines.append('</HarmonicAngleForce><PeriodicTorsionForce ordering="amber">')
    twofold = f'periodicity1="2" phase1="{np.pi}"'
    for (a, b), (barrier, count) in GAFF_TORSIONS.items():
        kinds = _classes(("", a, b, ""))
        lines.append(f'<Proper {kinds} {twofold} k1="{joule * barrier / count}"/>')
    for kinds in (("ca", "", "", "ha"), ("cp", "", "", "cp")):
        lines.append(f'<Improper {_classes(kinds)} {twofold} k1="{joule * GAFF_IMPROPER}"/>')
    lines.append('</PeriodicTorsionForce><NonbondedForce coulomb14scale="0.8333333333" lj14scale="0.5">')
    lines.append('<UseAttributeFromResidue name="charge"/>')
    for kind, (half_distance, depth) in GAFF_RADII.items():
        sigma = 0.1 * 2.0 ** (5.0 / 6.0) * half_distance
        lines.append(f'<Atom class="{kind}" sigma="{sigma}" epsilon="{joule * depth}"/>')
    return "\n".join([*lines, "</NonbondedForce></ForceField>"])


def _classes(kinds: tuple[str, ...]) -> str:
    return " ".join(f'class{k}="{kind}"' for k, kind in enumerate(kinds, start=1))
