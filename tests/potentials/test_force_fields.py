"""Alanine dipeptide in the force fields and solvents that OpenMM ships, against the Reference platform."""

import functools

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from translation_helpers import Reference, errors

from openmm_bg.potentials import TorchPotential

KAPPA = 1.0 / unit.nanometer  # about 0.1 M of salt in water
PROTEINS = {
    "ff96": "amber96.xml",
    "ff99SB": "amber99sb.xml",
    "ff14SB": "amber14/protein.ff14SB.xml",
    "ff19SB": "amber19/protein.ff19SB.xml",  # with CMAP
}
SOLVENTS = {
    "vacuum": None,
    **{name: f"implicit/{name.lower()}.xml" for name in ("HCT", "OBC1", "OBC2", "GBn", "GBn2")},
}
GBSA = {"ff96": "amber96_obc.xml", "ff99SB": "amber99_obc.xml"}  # GBSAOBCForce, which knows no salt

CASES = [
    (protein, solvent, salt)
    for protein in PROTEINS
    for solvent in SOLVENTS
    for salt in ((False, True) if SOLVENTS[solvent] else (False,))
]
CASES += [(protein, "GBSAOBC", False) for protein in GBSA]


@pytest.fixture(scope="module")
def configurations(md_positions, perturbed_configurations):
    """40 configurations of dynamics, and 40 with noise of 1 to 30 pm."""
    return np.concatenate([md_positions[5::23][:40], perturbed_configurations.positions[4::23][:40]])


@functools.cache
def force_field(protein, solvent):
    files = [PROTEINS[protein]]
    if solvent == "GBSAOBC":
        files.append(GBSA[protein])
    elif SOLVENTS[solvent]:
        files.append(SOLVENTS[solvent])
    return app.ForceField(*files)


def check(system, positions, modes):
    potential = TorchPotential.from_system(system, mode="eager")
    expected = Reference(system)(positions)
    usable = np.isfinite(expected[0])
    assert usable[:40].all()  # those of dynamics
    assert usable.sum() > 72  # some models are undefined where atoms crowd
    for mode in modes:
        potential = potential.to(mode=mode)
        found = potential.energy_and_forces(torch.as_tensor(positions))
        assert (np.isfinite(found[0].numpy()) == usable).all()
        energy_errors, force_errors = errors(
            [values[usable] for values in found], [values[usable] for values in expected]
        )
        assert (energy_errors <= 1e-6).all()
        assert (force_errors <= 1e-5).all()
        assert potential.mode == mode


@pytest.mark.parametrize(("protein", "solvent", "salt"), CASES)
def test_amber(protein, solvent, salt, alanine, configurations):
    kappa = {"implicitSolventKappa": KAPPA} if salt else {}
    system = force_field(protein, solvent).createSystem(
        alanine.topology, nonbondedMethod=app.NoCutoff, **kappa
    )
    classes = {type(force).__name__ for force in system.getForces()}
    assert ("CMAPTorsionForce" in classes) == (protein == "ff19SB")
    assert ("CustomGBForce" in classes) == (solvent not in ("vacuum", "GBSAOBC"))
    assert ("GBSAOBCForce" in classes) == (solvent == "GBSAOBC")
    check(system, configurations, ["eager", "fused"])


def test_salt_changes_the_energy(alanine, configurations):
    """The negative control of the cases above: with and without salt are different models."""
    systems = [
        force_field("ff14SB", "GBn2").createSystem(
            alanine.topology, nonbondedMethod=app.NoCutoff, implicitSolventKappa=kappa
        )
        for kappa in (0.0 / unit.nanometer, KAPPA)
    ]
    without = TorchPotential.from_system(systems[0], mode="eager")
    energy_errors, _ = errors(
        without.energy_and_forces(configurations[:5]), Reference(systems[1])(configurations[:5])
    )
    assert (energy_errors > 1e-4).all()


def test_charmm36(alanine, configurations):
    """In CHARMM the dipeptide is one residue, with CMAP and Urey-Bradley terms."""
    topology = app.Topology()
    residue = topology.addResidue("ALAD", topology.addChain())
    atoms = {atom: topology.addAtom(atom.name, atom.element, residue) for atom in alanine.topology.atoms()}
    for first, second in alanine.topology.bonds():
        topology.addBond(atoms[first], atoms[second])
    system = app.ForceField("charmm36.xml").createSystem(
        topology, nonbondedMethod=app.NoCutoff, residueTemplates={residue: "ALAD"}
    )
    assert any(isinstance(force, openmm.CMAPTorsionForce) for force in system.getForces())
    check(system, configurations, ["eager", "fused"])


@pytest.mark.parametrize("switch", [None, 0.5 * unit.nanometer])
def test_cutoffs(switch, alanine, configurations):
    """The dipeptide is 1 nm long: a cutoff of 0.6 nm leaves out some of its pairs."""
    system = force_field("ff14SB", "OBC2").createSystem(
        alanine.topology,
        nonbondedMethod=app.CutoffNonPeriodic,
        nonbondedCutoff=0.6 * unit.nanometer,
        switchDistance=switch,
    )
    check(system, configurations, ["eager", "fused"])
