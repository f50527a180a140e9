"""The options that name a molecule, the same for every command that takes one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmm_bg.cli.console import say
from openmm_bg.errors import InputError

if TYPE_CHECKING:
    from openmm_bg.systems import MolecularSystem
    from openmm_bg.systems.molecule_files import MoleculeParts

_PANEL = "Your own molecule"

Name = Annotated[str | None, typer.Argument(metavar="NAME", help="A name that openmm-bg systems lists.")]
Pdb = Annotated[
    Path | None,
    typer.Option(
        help="A PDB file with all hydrogens: the molecule for --forcefield, positions for --prmtop and --psf.",
        rich_help_panel=_PANEL,
    ),
]
Forcefield = Annotated[
    list[str] | None,
    typer.Option(help="A force-field file of OpenMM for --pdb; repeat for several.", rich_help_panel=_PANEL),
]
SystemXml = Annotated[
    Path | None,
    typer.Option(
        "--system",
        "--system-xml",
        help="A serialised OpenMM system, with --topology.",
        rich_help_panel=_PANEL,
    ),
]
TopologyPdb = Annotated[
    Path | None,
    typer.Option(help="A PDB file with topology and positions of --system.", rich_help_panel=_PANEL),
]
Prmtop = Annotated[
    Path | None,
    typer.Option(help="AMBER's parameters and topology, with --inpcrd or --pdb.", rich_help_panel=_PANEL),
]
Inpcrd = Annotated[
    Path | None,
    typer.Option("--inpcrd", "--rst7", help="AMBER's positions for --prmtop.", rich_help_panel=_PANEL),
]
Psf = Annotated[
    Path | None,
    typer.Option(help="CHARMM's structure, with --parameters and --pdb or --crd.", rich_help_panel=_PANEL),
]
Parameters = Annotated[
    list[Path] | None,
    typer.Option(
        help="A file of CHARMM parameters (.prm, .rtf, .str) for --psf; repeat for several.",
        rich_help_panel=_PANEL,
    ),
]
Crd = Annotated[Path | None, typer.Option(help="CHARMM's positions for --psf.", rich_help_panel=_PANEL)]
ImplicitSolvent = Annotated[
    str | None,
    typer.Option(
        help="HCT, OBC1, OBC2, GBn, GBn2 or none (vacuum, the default), for --prmtop, --psf and --forcefield.",
        rich_help_panel=_PANEL,
    ),
]

# The kinds of input by their main option, and the options that go with each.
_KINDS = {
    "prmtop": ("inpcrd", "pdb", "implicit_solvent"),
    "psf": ("parameters", "pdb", "crd", "implicit_solvent"),
    "system_xml": ("topology", "pdb"),
    "pdb": ("forcefield", "implicit_solvent"),
}
_OPTIONS = tuple(dict.fromkeys(option for kind, others in _KINDS.items() for option in (kind, *others)))
_FLAGS = {option: "--" + option.replace("_", "-") for option in _OPTIONS} | {"system_xml": "--system"}


def read_molecule(parameters: Mapping[str, Any], temperature: float) -> MolecularSystem:
    """Return the molecule that a command's parameters name, and say so if it is in vacuum.

    Args:
        parameters: The command's parameters by name.
        temperature: The temperature of interest [K], for molecules from files.

    Raises:
        InputError: If the options do not name one molecule, or it is not supported.
    """
    from openmm_bg.molecule_check import VACUUM, describe_solvent, require_internal_coordinates
    from openmm_bg.systems import load

    kind = _kind(parameters)
    if kind is None:
        return load(parameters["name"])
    parts = read_parts(parameters)
    molecule = parts.molecule(temperature=temperature)
    require_internal_coordinates(molecule)
    if describe_solvent(parts) == VACUUM:
        remedy = "" if kind == "system_xml" else "; --implicit-solvent OBC2, for example, puts it into water"
        say(f"{molecule.name} is in vacuum, unless a custom force stands for the solvent{remedy}.")
    return molecule


def read_parts(parameters: Mapping[str, Any]) -> MoleculeParts:
    """Return the parts of the molecule that a command's parameters name, supported or not.

    Raises:
        InputError: If the options do not name one molecule, or a file cannot be used.
    """
    from openmm_bg.systems import load, molecule_files

    kind = _kind(parameters)
    if kind is None:
        known = load(parameters["name"])
        return molecule_files.MoleculeParts(known.name, known.system, known.topology, known.positions)
    solvent = "none" if parameters["implicit_solvent"] is None else parameters["implicit_solvent"]
    if kind == "prmtop":
        coordinates = _one_of(parameters, "--prmtop", "inpcrd", "pdb")
        return molecule_files.read_amber_molecule(parameters["prmtop"], coordinates, solvent)
    if kind == "psf":
        coordinates = _one_of(parameters, "--psf", "pdb", "crd")
        files = parameters["parameters"] or []
        return molecule_files.read_charmm_molecule(parameters["psf"], files, coordinates, solvent)
    if kind == "system_xml":
        topology = _one_of(parameters, "--system", "topology", "pdb")
        return molecule_files.read_system_molecule(parameters["system_xml"], topology)
    files = list(parameters["forcefield"] or [])
    if not files:
        raise InputError(
            "A PDB file needs either --forcefield (e.g. amber14-all.xml), or --prmtop, --psf or --system."
        )
    return molecule_files.read_pdb_molecule(parameters["pdb"], files, solvent)


def molecule_arguments(parameters: Mapping[str, Any]) -> str:
    """Return the part of a command line that names a molecule, to be repeated."""
    kind = _kind(parameters)
    words = [parameters["name"]] if kind is None else []
    for option in () if kind is None else (kind, *_KINDS[kind]):
        values = parameters[option]
        for value in values if isinstance(values, list | tuple) else [values]:
            if value is not None:
                words += [_FLAGS[option], str(value)]
    return shlex.join(words)


def _kind(parameters: Mapping[str, Any]) -> str | None:
    """Return which kind of files are given; None for the name of a system.

    Raises:
        InputError: If there are several kinds, none, or options that do not go together.
    """
    from openmm_bg.systems import check_name

    # An empty text is given, too; only a list without an element is not.
    name, given = parameters["name"], [k for k in _OPTIONS if parameters[k] not in (None, [], ())]
    if name is not None:
        if Path(name).suffix:
            raise InputError(
                f"There is no system called {name!r}; a file goes with an option, as in --pdb {name}."
            )
        check_name(name)
        if others := [_FLAGS[option] for option in given if option != "pdb"]:
            raise InputError(f"{name} brings its force field and positions; leave out {', '.join(others)}.")
        if given:
            raise InputError(f"Give either the name of a system ({name}) or --pdb, not both.")
        return None
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) > 1 and kinds[-1] == "pdb":
        kinds.pop()  # it gives the positions
    if not kinds:
        raise InputError(
            "Give either the name of a system (see openmm-bg systems) or files: --pdb and --forcefield, --prmtop "
            "and --inpcrd, --psf, --parameters and --pdb, or --system and --topology."
        )
    if len(kinds) > 1:
        raise InputError(f"Give only one of {', '.join(_FLAGS[kind] for kind in kinds)}.")
    (kind,) = kinds
    for option in given:
        if option != kind and option not in _KINDS[kind]:
            fitting = ", ".join(_FLAGS[other] for other in _KINDS[kind])
            raise InputError(f"{_FLAGS[option]} does not go with {_FLAGS[kind]}, which takes {fitting}.")
    return kind


def _one_of(parameters: Mapping[str, Any], flag: str, first: str, second: str) -> Path:
    """Return the file with the positions."""
    if parameters[first] is None and parameters[second] is None:
        raise InputError(f"{flag} needs positions: give either {_FLAGS[first]} or {_FLAGS[second]}.")
    if parameters[first] is not None and parameters[second] is not None:
        raise InputError(f"Both {_FLAGS[first]} and {_FLAGS[second]} give positions: give only one of them.")
    return parameters[second] if parameters[first] is None else parameters[first]
