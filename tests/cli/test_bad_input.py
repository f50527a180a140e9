"""Bad input: one clear sentence, exit code 2, and nothing written."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import mdtraj
import numpy as np
import openmm
import pytest
from cli_helpers import SIMULATE, TRAIN
from openmm import app, unit

from openmm_bg import systems


@pytest.fixture
def pdb(tmp_path):
    path = tmp_path / "alanine.pdb"
    path.write_text(systems.load("alanine_dipeptide").topology_pdb())
    return path


@pytest.fixture
def system_xml(tmp_path):
    """Write a system, changed by a function, as XML."""

    def write(change=lambda system: None):
        text = openmm.XmlSerializer.serialize(systems.load("alanine_dipeptide").system)
        system = openmm.XmlSerializer.deserialize(text)
        change(system)
        path = tmp_path / "system.xml"
        path.write_text(openmm.XmlSerializer.serialize(system))
        return path

    return write


def rewrite_trajectory(path, change):
    """Replace a trajectory's positions by what a function makes of them."""
    trajectory = mdtraj.load(str(path))
    trajectory = change(trajectory)
    with mdtraj.formats.HDF5TrajectoryFile(str(path), "w", force_overwrite=True) as file:
        file.topology = trajectory.topology
        energies = np.zeros(len(trajectory), dtype=np.float32)
        file.write(trajectory.xyz, potentialEnergy=energies, temperature=np.full(len(energies), 600.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("simulate", "--bogus"), "No such option: --bogus"),
        (("simulate", "alanine_dipeptide"), "Missing option '--output'"),
        (("simulate", "alanine_dipeptide", "-o", "x", "--frames", "many"), "Invalid value for '--frames'"),
        (("simulate", "alanine_dipeptide", "-o", "x", "--seed", "-1"), "Invalid value for '--seed'"),
        (("sample",), "Missing argument 'model'"),
        (("ramachandran", "-o", "x.png"), "Missing argument 'files"),
    ],
)
def test_command_line_that_does_not_parse(refused, arguments, message):
    error = refused(*arguments)
    assert message.lower() in error.lower()  # typer's wording differs a little between versions
    assert "see openmm-bg" in error


def test_unknown_system(refused, tmp_path):
    error = refused("simulate", "alanine", "-o", tmp_path / "x")
    assert "no system called 'alanine'; the systems are: alanine_dipeptide" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--temperature 0", "temperature must be a positive number of kelvin, not 0"),
        ("--temperature=-300", "positive number of kelvin, not -300"),
        ("--temperature nan", "positive number of kelvin"),
        ("--hot-start 0", "positive number of kelvin"),
        ("--frames 0", "--frames must be at least 1"),
        ("--walkers 0", "--walkers must be at least 1"),
        ("--interval 0", "--interval must be at least 1"),
        ("--burn-in=-1", "--burn-in must not be negative"),
        ("--timestep 0", "--timestep must be positive"),
        ("--engine gromacs", "no engine 'gromacs'"),
        ("--forcefield x.xml", "brings its force field"),
    ],
)
def test_simulate_with_settings_that_make_no_sense(refused, tmp_path, options, message):
    assert message in refused(*SIMULATE, "-o", tmp_path / "x", *options.split())


def test_simulate_needs_one_molecule(refused, tmp_path, pdb):
    output = ("-o", tmp_path / "x")
    assert "either the name of a system" in refused("simulate", *output)
    assert "either the name of a system" in refused("simulate", "alanine_dipeptide", "--pdb", pdb, *output)
    assert "needs either --forcefield" in refused("simulate", "--pdb", pdb, *output)


def add_constraint(system):
    system.addConstraint(0, 1, 0.1)


def add_barostat(system):
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin))


def add_box(system):
    system.setDefaultPeriodicBoxVectors((3, 0, 0), (0, 3, 0), (0, 0, 3))
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    generalized_born = next(f for f in system.getForces() if isinstance(f, openmm.CustomGBForce))
    generalized_born.setNonbondedMethod(openmm.CustomGBForce.CutoffPeriodic)


def add_virtual_site(system):
    system.setParticleMass(21, 0.0)
    system.setVirtualSite(21, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))


def add_particle(system):
    for force in list(system.getForces())[::-1]:
        if isinstance(force, (openmm.NonbondedForce, openmm.CustomGBForce)):
            system.removeForce(
                next(k for k, f in enumerate(system.getForces()) if f.getName() == force.getName())
            )
    system.addParticle(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_constraint, "1 constraint.*constraints=None.*AlanineDipeptideImplicit"),
        (add_barostat, "barostat.*remove"),
        (add_box, "periodic.*NoCutoff"),
        (add_virtual_site, "1 virtual sites"),
        (add_particle, "23 particles but the topology has 22 atoms"),
    ],
)
def test_systems_that_are_not_supported(refused, tmp_path, pdb, system_xml, change, message):
    error = refused("simulate", "--pdb", pdb, "--system-xml", system_xml(change), "-o", tmp_path / "x")
    assert re.search(message, error)


def test_files_of_a_molecule_that_cannot_be_used(refused, tmp_path, pdb, system_xml):
    output = ("-o", tmp_path / "x")
    xml = system_xml()
    assert "no file" in refused(
        "simulate", "--pdb", tmp_path / "no.pdb", "--forcefield", "amber96.xml", *output
    )
    assert "no file" in refused("simulate", "--pdb", pdb, "--system-xml", tmp_path / "no.xml", *output)
    assert "cannot be loaded" in refused("simulate", "--pdb", pdb, "--forcefield", "nosuch.xml", *output)
    error = refused("simulate", "--pdb", pdb, "--forcefield", "tip3p.xml", *output)
    assert "lacks parameters" in error
    xml.write_text(xml.read_text()[:500])
    assert "not a serialised OpenMM system" in refused("simulate", "--pdb", pdb, "--system-xml", xml, *output)
    pdb.write_text("nonsense\n")
    refused("simulate", "--pdb", pdb, "--forcefield", "amber96.xml", *output)


def test_simulate_does_not_overwrite(refused, data):
    assert "holds a finished simulation" in refused(*SIMULATE, "-o", data)


def test_train_on_data_that_cannot_be_used(refused, data, tmp_path):
    train = ("train", data, "-o", tmp_path / "model", *TRAIN, "--steps", "5")
    trajectory, record = data / "trajectory.h5", data / "provenance.json"
    good, good_record = trajectory.read_bytes(), record.read_text()

    def make_nan(t):
        t.xyz[3, 2] = np.nan
        return t

    rewrite_trajectory(trajectory, make_nan)
    assert "NaN or infinite positions in 1 of 400 frames, first in frame 3" in refused(*train)
    trajectory.write_bytes(good)
    rewrite_trajectory(trajectory, lambda t: t.atom_slice(range(21)))
    assert "21 atoms, but 22 are expected: it is a trajectory of another molecule" in refused(*train)
    trajectory.write_bytes(good)

    def mirror(t):
        t.xyz[:, :, 2] *= -1
        return t

    rewrite_trajectory(trajectory, mirror)
    assert "chirality" in refused(*train)
    trajectory.write_bytes(good)
    rewrite_trajectory(trajectory, lambda t: t[:50])
    assert "too few" in refused(*train)
    trajectory.write_bytes(good[: len(good) // 2])
    assert "truncated" in refused(*train)
    trajectory.unlink()
    assert "no file" in refused(*train)
    trajectory.write_bytes(good)
    record.write_text(good_record[:300])
    assert "truncated" in refused(*train)
    content = json.loads(good_record)
    record.write_text(json.dumps({**content, "temperature": 0.0}))
    assert "positive number of kelvin" in refused(*train)
    record.write_text(json.dumps({**content, "system_hash": "0" * 64}))
    assert "not the system" in refused(*train)
    record.unlink()
    assert "no output of openmm-bg simulate" in refused(*train)


def test_train_with_settings_that_make_no_sense(refused, data, tmp_path):
    train = ("train", data, "-o", tmp_path / "model")
    assert "--steps must be positive" in refused(*train, "--steps", "0")
    assert "--kl-weight must be between 0 and 1" in refused(*train, "--kl-weight", "2")
    assert "--bins must be between" in refused(*train, "--bins", "1")


def test_train_does_not_overwrite(refused, data, model):
    assert "holds a finished model" in refused("train", data, "-o", model)


def test_sample_with_arguments_that_make_no_sense(refused, model, tmp_path):
    sample = ("sample", model, "-q", "-o", tmp_path / "s.h5")
    assert "positive number of kelvin, not 0" in refused(*sample, "-T", "0", "-n", "10")
    assert "number of samples must be at least 1, not 0" in refused(*sample, "-n", "0")
    assert "drawn at once must be at least 1" in refused(*sample, "-n", "10", "--batch-size", "0")
    assert "The device 'abacus' cannot be used" in refused(*sample, "--device", "abacus")
    assert "ends in .h5" in refused("sample", model, "-o", tmp_path / "samples.dcd")
    (tmp_path / "taken").write_text("a file")
    refused("sample", model, "-q", "-n", "10", "-o", tmp_path / "taken" / "s.h5")


@pytest.mark.parametrize("command", ["sample", "exchange"])
def test_models_that_cannot_be_used(refused, model, tmp_path, command):
    output = tmp_path / ("s.h5" if command == "sample" else "s.nc")
    use = (command, model, "-q", "-o", output)
    assert "There is no model" in refused(command, tmp_path / "nothing", "-o", output)
    for name in ("flow.safetensors", "system.xml", "potential.safetensors"):
        good = (model / name).read_bytes()
        (model / name).write_bytes(good[: len(good) // 2])
        assert "truncated or was changed" in refused(*use)
        (model / name).unlink()
        assert f"lacks its file {name}" in refused(*use)
        (model / name).write_bytes(good)
    header = (model / "model.json").read_text()
    (model / "model.json").write_text(header[: len(header) // 2])
    assert "truncated" in refused(*use)
    (model / "model.json").write_text("{}")
    refused(*use)


def test_exchange_with_arguments_that_make_no_sense(refused, model, tmp_path):
    exchange = ("exchange", model, "-q", "-o", tmp_path / "x.nc")
    for option in ("--temperature-min", "--temperature-max"):
        assert "positive number of kelvin" in refused(*exchange, option, "0")
    assert "must be below" in refused(*exchange, "--temperature-min", "700")
    assert "at least 2" in refused(*exchange, "--replicas", "1")
    assert "--iterations must be at least 1" in refused(*exchange, "--iterations", "0")
    assert "no dynamics 'quantum'" in refused(*exchange, "--dynamics", "quantum")
    assert "ends in .nc" in refused("exchange", model, "-o", tmp_path / "exchange.h5")
    assert "no directory" in refused("exchange", model, "-q", "-o", tmp_path / "no" / "x.nc")


def test_exchange_from_structures_that_cannot_be_used(refused, model, tmp_path, pdb):
    exchange = ("exchange", model, "-q", "-o", tmp_path / "x.nc")
    assert "There is no file" in refused(*exchange, "--start", tmp_path / "nothing.pdb")
    mirrored = mdtraj.load(str(pdb))
    mirrored.xyz *= -1
    mirrored.save_pdb(str(tmp_path / "mirrored.pdb"))
    assert "another chirality" in refused(*exchange, "--start", tmp_path / "mirrored.pdb")
    other = mdtraj.load(str(pdb)).atom_slice(range(16))
    other.save_pdb(str(tmp_path / "other.pdb"))
    assert "another molecule than the model" in refused(*exchange, "--start", tmp_path / "other.pdb")


def test_ramachandran_with_files_that_cannot_be_used(refused, data, tmp_path):
    draw = ("ramachandran", "-o", tmp_path / "plot.png")
    assert "no file" in refused(*draw, tmp_path / "no.h5")
    assert "is a folder" in refused(*draw, tmp_path)
    assert "ends in .png or .svg" in refused("ramachandran", data, "-o", tmp_path / "plot.jpg")
    assert "1 files but 2 labels" in refused(*draw, data, "--label", "a", "--label", "b")
    assert "at least 4 bins" in refused(*draw, data, "--bins", "2")
    assert "must be positive" in refused(*draw, data, "--maximum", "0")
    mdtraj.load(str(data / "trajectory.h5")).save(str(tmp_path / "t.dcd"))
    assert "no topology inside; give one with --topology" in refused(*draw, tmp_path / "t.dcd")
    caps = mdtraj.load(str(data / "trajectory.h5")).atom_slice(range(6))
    caps.save(str(tmp_path / "caps.h5"))
    assert "no residue with both backbone torsions" in refused(*draw, tmp_path / "caps.h5")
    (tmp_path / "x.nc").write_bytes(b"CDF")
    assert "may be damaged or truncated" in refused(*draw, tmp_path / "x.nc")


def test_several_residues_need_a_choice(refused, run, tmp_path):
    peptide = app.Topology()
    chain = peptide.addChain()
    for number, name in enumerate(("ALA", "GLY", "ALA", "GLY")):  # backbone atoms are enough for torsions
        residue = peptide.addResidue(name, chain, id=str(number + 1))
        for atom in ("N", "CA", "C"):
            peptide.addAtom(atom, app.element.carbon, residue)
    for first, second in pairwise(list(peptide.atoms())):
        peptide.addBond(first, second)
    positions = np.random.default_rng(0).normal(size=(50, 12, 3))
    mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(peptide)).save(str(tmp_path / "t.h5"))
    draw = ("ramachandran", tmp_path / "t.h5", "-o", tmp_path / "plot.png")
    error = refused(*draw)
    assert "several residues; choose one with --residue: 2 (GLY), 3 (ALA)" in error
    assert "no residue 'x'" in refused(*draw, "--residue", "x")
    assert run(*draw, "--residue", "3 (ALA)").code == 0


def test_the_only_residue_must_be_the_one_that_is_asked_for(refused, run, data, tmp_path):
    draw = ("ramachandran", data, "-o", tmp_path / "plot.png")
    assert "no residue '3 (ALA)'; it has: 2 (ALA)" in refused(*draw, "--residue", "3 (ALA)")
    assert run(*draw, "--residue", "2 (ALA)").code == 0


def test_a_single_frame_has_no_free_energy(refused, data, tmp_path):
    error = refused("ramachandran", data / "topology.pdb", "-o", tmp_path / "plot.png")
    assert "has a single frame; a free energy needs at least two" in error
