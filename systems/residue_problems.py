"""Why a file is not one molecule that a force field knows, in one sentence that says what to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_bg.errors import InputError
from openmm_bg.systems.molecule_graph import fragments
from openmm_bg.systems.pdb_files import WATER_NAMES, cause

if TYPE_CHECKING:
    from openmm import app

_STATES = {"HIS": ("HID", "HIE", "HIP", "HSD", "HSE", "HSP", "HIS"), "CYS": ("CYS", "CYX", "CYM")}
_NO_TEMPLATE = re.compile(r"No template found for residue (\d+) \(.*?\)\.\s*(.*?)(\s\s|$)", re.DOTALL)


def label(residue: app.topology.Residue) -> str:
    """Return what messages call a residue, e.g. ``ALA 2``."""
    return f"{residue.name} {residue.id}"


def refuse_solvent(topology: app.Topology, source: str | Path) -> None:
    """Refuse water and ions beside a molecule, and a molecule of fewer than three atoms.

    Args:
        topology: The topology, with bonds.
        source: The file that it came from.

    Raises:
        InputError: If there are some.
    """
    n_atoms, residues = topology.getNumAtoms(), list(topology.residues())
    if n_atoms < 3:
        names = ", ".join(label(residue) for residue in residues)
        raise InputError(
            f"{source} holds {n_atoms} atom{'s' if n_atoms > 1 else ''} ({names}), but internal coordinates need a "
            "molecule of at least three: give a larger one."
        )
    if len(residues) == 1:
        return
    waters = [residue for residue in residues if _is_water(residue)]
    alone = Counter(r.name for r in residues if len(list(r.atoms())) == 1 and not list(r.bonds()))
    ions = Counter({name: count for name, count in alone.items() if name not in WATER_NAMES})
    if not waters and not ions:
        return
    found = [f"{len(waters)} water molecule{'s' if len(waters) > 1 else ''}"] if waters else []
    found += [f"{count} ion{'s' if count > 1 else ''} {name}" for name, count in sorted(ions.items())]
    box = ", in a periodic box" if topology.getPeriodicBoxVectors() is not None else ""
    if len(waters) + sum(ions.values()) == len(residues):
        raise InputError(
            f"{source} holds {' and '.join(found)}{box}, and nothing else: give one molecule, without a box; a "
            "liquid is not supported."
        )
    how = (
        "delete their lines"
        if Path(source).suffix.lower() in (".pdb", ".ent")
        else "e.g. with cpptraj's strip"
    )
    raise InputError(
        f"{source} holds {' and '.join(found)} beside the molecule{box}: remove them ({how}), since the solvent "
        "has to be implicit."
    )


def refuse_several_molecules(topology: app.Topology, source: str | Path) -> None:
    """Refuse atoms that no chain of bonds joins to the others.

    Args:
        topology: The topology, with bonds.
        source: The file that it came from.

    Raises:
        InputError: If there are some.
    """
    atoms = list(topology.atoms())
    found = fragments(len(atoms), [(bond[0].index, bond[1].index) for bond in topology.bonds()])
    if len(found) == 1:
        return
    number = {k: which for which, fragment in enumerate(found) for k in fragment}
    for residue in topology.residues():
        if len({number[atom.index] for atom in residue.atoms()}) > 1:
            raise InputError(_residue_in_pieces(residue, source))
    sizes = [f"{len(one)} atoms, {_extent([atoms[k] for k in one])}" for one in found[:3]]
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    raise InputError(
        f"{source} holds {len(found)} separate molecules ({'; '.join(sizes)}{more}), which no bond joins: give one "
        "molecule at a time, or the missing bond (CONECT in a PDB file)."
    )


def template_problem(
    error: Exception,
    forcefield: app.ForceField,
    topology: app.Topology,
    files: Sequence[str],
    source: str | Path,
) -> str:
    """Return why a force field has no parameters for a molecule.

    Args:
        error: What ``createSystem`` raised.
        forcefield: The force field.
        topology: The topology.
        files: The force field's files.
        source: The file that the topology came from.
    """
    lacks = f"The force field {list(files)} lacks parameters for {source}"
    match = _NO_TEMPLATE.search(str(error))
    if match is None:
        return f"{lacks}: {cause(error).rstrip('.')}; add the missing force-field file."
    residue, reason = list(topology.residues())[int(match[1])], " ".join(match[2].split()).rstrip(".")
    difference = _missing_elements(residue, forcefield)
    if difference is None:
        return (
            f"{lacks}: it has no residue {residue.name} ({label(residue)}); add a force-field file that describes "
            "it, or give AMBER's --prmtop or a --system made elsewhere."
        )
    missing = {symbol: count for symbol, count in sorted(difference.items()) if count}
    if set(missing) == {"H"} and missing["H"] > 0:
        return (
            f"{source} lacks hydrogens: {label(residue)} is without {missing['H']} of them; add them, e.g. with "
            "pdbfixer or OpenMM's Modeller.addHydrogens."
        )
    if missing.get("EP", 0) > 0:
        return (
            f"The force field {list(files)} gives {label(residue)} of {source} particles beside its atoms (virtual "
            "sites, or Drude's), which are not supported: take one without them, e.g. with three sites for water."
        )
    stray = _stray_atoms(residue)
    if stray and not missing:
        return (
            f"{source} has atoms without a bond in {label(residue)} ({', '.join(stray)}): rename them as the "
            "Protein Data Bank does, or add CONECT records."
        )
    stranger = None if missing else _stranger(residue)
    if stranger is not None:
        return (
            f"{source} has no bond from {label(residue)} to {label(stranger)}, as OpenMM's PDB reader knows no "
            f"residue called {stranger.name}: give it its name in the Protein Data Bank (HIS for HSE, LYS for "
            "LYN), or add CONECT records and a force-field file that describes it."
        )
    if missing:
        parts = [
            f"{'lacks' if n > 0 else 'has too many:'} {abs(n)} {symbol}" for symbol, n in missing.items()
        ]
        reason = ", ".join(parts)
    return (
        f"{lacks}: {label(residue)} is not what it knows ({reason}); complete the residue, and cap the chain's "
        "ends (ACE, NME), e.g. with pdbfixer."
    )


def _missing_elements(residue: app.topology.Residue, forcefield: app.ForceField) -> Counter[str] | None:
    """Return how many atoms of each element a residue has too few, or None if the force field lacks its name.

    Ends of chains have names of their own (NALA, CALA), and so have protonation states of His and Cys.
    """
    name = residue.name
    stems = _STATES.get(name, (name,))
    templates = getattr(forcefield, "_templates", {})
    own = Counter(_symbol(atom) for atom in residue.atoms())
    differences = []
    for end in ("", "N", "C"):
        for stem in stems:
            if f"{end}{stem}" in templates:
                wanted = Counter(_symbol(atom) for atom in templates[f"{end}{stem}"].atoms)
                wanted.subtract(own)
                differences.append(wanted)
    return min(differences, key=lambda one: sum(map(abs, one.values())), default=None)


def _stranger(residue: app.topology.Residue) -> app.topology.Residue | None:
    """Return a residue beside one, not bonded to it, whose name OpenMM's PDB reader does not know."""
    from openmm import app

    known = getattr(app.Topology, "_standardBonds", {})
    bonded = {atom.residue.index for bond in residue.external_bonds() for atom in (bond[0], bond[1])}
    for other in residue.chain.residues():
        beside = abs(other.index - residue.index) == 1
        if beside and other.index not in bonded and other.name not in known:
            return other
    return None


def _symbol(atom: Any) -> str:
    return "EP" if atom.element is None else atom.element.symbol


def _is_water(residue: app.topology.Residue) -> bool:
    if residue.name in WATER_NAMES:
        return True
    elements = sorted(atom.element.symbol for atom in residue.atoms() if atom.element is not None)
    return elements == ["H", "H", "O"]


def _stray_atoms(residue: app.topology.Residue) -> list[str]:
    bonded = {atom.index for bond in residue.bonds() for atom in (bond[0], bond[1])}
    return [atom.name for atom in residue.atoms() if atom.index not in bonded]


def _residue_in_pieces(residue: app.topology.Residue, source: str | Path) -> str:
    stray = _stray_atoms(residue)
    if stray and len(stray) == len(list(residue.atoms())):
        return (
            f"{source} has no bonds in {label(residue)}, as OpenMM knows those of standard residues only: add "
            "CONECT records for it, or give AMBER's --prmtop."
        )
    what = f"the atoms {', '.join(stray)}" if stray else "a part"
    return (
        f"{source} has no bond between {what} of {label(residue)} and the rest of it: rename its atoms as the "
        "Protein Data Bank does, or add CONECT records."
    )


def _extent(atoms: Sequence[app.topology.Atom]) -> str:
    first, last = label(atoms[0].residue), label(atoms[-1].residue)
    return first if first == last else f"{first} to {last}"
