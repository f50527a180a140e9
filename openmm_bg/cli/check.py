"""``openmm-bg check``: whether a molecule is supported, on one page."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import typer

from openmm_bg.cli import molecule as options
from openmm_bg.cli.console import print_table, say
from openmm_bg.errors import InputError

if TYPE_CHECKING:
    from openmm_bg.molecule_report import MoleculeReport

_MOST_NAMES, _LONGEST = 40, 1500  # names and letters, of torsions


def check(
    context: typer.Context,
    name: options.Name = None,
    pdb: options.Pdb = None,
    forcefield: options.Forcefield = None,
    system_xml: options.SystemXml = None,
    topology: options.TopologyPdb = None,
    prmtop: options.Prmtop = None,
    inpcrd: options.Inpcrd = None,
    psf: options.Psf = None,
    parameters: options.Parameters = None,
    crd: options.Crd = None,
    implicit_solvent: options.ImplicitSolvent = None,
) -> None:
    """Say whether a molecule can be sampled, what of it was translated, and what is in the way.

    The exit code is 0 if the molecule is supported and 2 if it is not. Nothing is written.

    Example: openmm-bg check alanine_dipeptide

    Example: openmm-bg check --pdb my.pdb --forcefield amber14-all.xml --forcefield implicit/obc2.xml

    Example: openmm-bg check --prmtop my.prmtop --inpcrd my.inpcrd --implicit-solvent OBC2
    """
    from openmm_bg.molecule_check import check_molecule

    report = check_molecule(options.read_parts(context.params))
    _print_molecule(report)
    _print_forces(report)
    _print_coordinates(report)
    for note in report.notes:
        say(f"Note: {note}")
    if not report.is_supported:
        for problem in report.problems:
            say(f"Problem: {problem}")
        more = len(report.problems) - 1
        rest = f" ({more} more problem{'s' if more > 1 else ''} above.)" if more else ""
        say(f"Verdict: {report.name} is not supported.")
        raise InputError(report.problems[0] + rest)
    engine = "" if report.is_translated else " --engine openmm"
    arguments = options.molecule_arguments(context.params)
    say(f"Verdict: {report.name} is supported. Next:")
    say(f"openmm-bg simulate {arguments} --temperature 600{engine} --output data")


def _print_molecule(report: MoleculeReport) -> None:
    charge = "unknown" if report.charge is None else f"{report.charge:+.4g} e" if report.charge else "0"
    rows = [
        ("atoms", f"{report.n_atoms} in {_count(report.n_residues, 'residue')}: {report.formula}"),
        ("mass and charge", f"{report.mass:.2f} Da, {charge}"),
        ("solvent", report.solvent),
        ("rings", _enumerated(report.rings)),
        ("chiral centres", _enumerated(report.chiral_centres)),
        *report.conditions,
    ]
    print_table(("molecule", report.name), rows)
    say("")


def _print_forces(report: MoleculeReport) -> None:
    verdicts = {True: "translated (TorchPotential)", False: "OpenMM only", None: "ignored"}
    rows = [(force.name, force.size, verdicts[force.translated], force.remark) for force in report.forces]
    print_table(("force", "size", "evaluated by", "remark"), rows)
    say("")
    energies = report.energies
    if energies is None:
        return
    rows = [("OpenMM, Reference", f"{energies.openmm:.4f} kJ/mol")]
    if energies.torch is not None:
        difference = f"differs by {abs(energies.torch - energies.openmm):.1g}"
        forces = f"forces by at most {energies.force_error:.1g} kJ/mol/nm"
        rows.append(("TorchPotential", f"{energies.torch:.4f} kJ/mol ({difference}, {forces})"))
    rows.append(("largest force", f"{energies.largest_force:.4g} kJ/mol/nm on an atom"))
    print_table(("energy", "at the given positions"), rows)
    say("")


def _print_coordinates(report: MoleculeReport) -> None:
    z = report.z_matrix
    if z is None:
        return
    n_torsions = z.n_free + z.n_in_rings + z.n_relative
    split = f"{z.n_free} free, {z.n_in_rings} in rings, {z.n_relative} relative to a sibling"
    free = "; ".join(f"{residue}: {', '.join(names)}" for residue, names in z.free.items())
    angles = [f"{key} {math.degrees(value):.0f}" for key, value in report.torsions.items()]
    rows = [
        ("coordinates", f"{z.n_bonds} bonds, {z.n_angles} angles, {n_torsions} torsions"),
        ("torsions", split),
        ("free, by bond", textwrap.shorten(free, _LONGEST, placeholder=" ...") or "none"),
        ("handedness", f"fixed by the positions at {_count(z.n_centres, 'centre')} with four bonds"),
        ("named (degrees)", _enumerated(angles, _MOST_NAMES)),
    ]
    print_table(("Z-matrix", ""), rows)
    say("")


def _enumerated(names: tuple[str, ...] | list[str], most: int = 12) -> str:
    """Return names in one line, with their number where they are repeated or too many."""
    counted = [f"{name} x {count}" if count > 1 else name for name, count in Counter(names).items()]
    more = f" and {len(counted) - most} more" if len(counted) > most else ""
    return ", ".join(counted[:most]) + more if counted else "none"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
