"""The models that come with the package: found by name, whole, of their systems, and as good as they claim."""

import json
import re
import shlex

import mdtraj
import numpy as np
import pytest
import torch

from openmm_bg import BoltzmannGenerator, CoarseGrainedGenerator, FlowMove, InputError, cli, systems
from openmm_bg.coarse_graining.bead_sampling import BeadSampler
from openmm_bg.comparison import AGREEMENT
from openmm_bg.geometry import dihedrals
from openmm_bg.io import load_samples
from openmm_bg.model_files import check_files, model_hash, read_any_header
from openmm_bg.models import COARSE_GRAINED, GENERATOR, find_model, shipped_models
from openmm_bg.reference import load_umbrella_reference
from openmm_bg.reference_frames import load_reference_frames
from openmm_bg.reproduction.backmapping_quality import quality, side_chain_torsions
from openmm_bg.statistics import weighted_mean, z_score

NAME = "alanine_dipeptide"
BACKBONE = "chignolin_backbone"


@pytest.fixture(scope="module")
def generator():
    return BoltzmannGenerator.load(NAME)


def test_names():
    assert list(shipped_models(GENERATOR)) == [NAME]
    assert list(shipped_models(COARSE_GRAINED)) == [BACKBONE]
    assert list(shipped_models()) == [NAME, BACKBONE]
    assert find_model(NAME) == shipped_models()[NAME]
    assert find_model(NAME).name == NAME


def test_a_directory_of_that_name_goes_first(tmp_path, monkeypatch, generator):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert find_model(NAME) == tmp_path / NAME
    with pytest.raises(InputError, match=r"holds no model .* and hides the one of that name"):
        BoltzmannGenerator.load(NAME)


def test_commands_take_the_name(tmp_path, monkeypatch, capsys):
    """Those that a user types first: the samples file has a name of its own, and the report knows the model."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["sample", "alanine_dipeptide", "-T", "300", "-n", "400", "-q"]) == 0
    said = capsys.readouterr().out
    assert "openmm-bg report samples.h5 alanine_dipeptide" in said
    assert cli.run(["report", "samples.h5", "alanine_dipeptide"]) == 0
    page = (tmp_path / "report.html").read_text()
    counts = BoltzmannGenerator.load("alanine_dipeptide").energy_evaluations
    assert f"{sum(counts.values()):,}" in page  # what the model has cost in all
    assert page.count("annealed before") == 2


def test_info_says_whether_the_simulation_has_converged(capsys):
    assert cli.run(["info", BACKBONE]) == 0
    said = " ".join(capsys.readouterr().out.split())
    comparison = read_any_header(find_model(BACKBONE))["record"]["data"]["start_comparison"]
    assert f"convergence {comparison['verdict']}" in said
    assert "standard errors" in comparison["statement"]


def test_unknown_name():
    with pytest.raises(InputError, match=r"There is no model in .*alanine_tripeptide"):
        BoltzmannGenerator.load("alanine_tripeptide")


def test_it_says_what_it_is(generator):
    text = "<BoltzmannGenerator of alanine_dipeptide: SplineFlow, trained at 600 K, for 300 to 600 K>"
    assert repr(generator) == text


@pytest.mark.parametrize("name", [NAME, BACKBONE])
def test_files(name):
    directory = find_model(name)
    check_files(directory, read_any_header(directory))
    assert sum(file.stat().st_size for file in directory.iterdir()) < 10e6


def test_sizes():
    """Coarse-grained models together, and all that is not code."""
    folders = shipped_models(COARSE_GRAINED).values()
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 10e6
    everything = [*shipped_models().values(), find_model(NAME).parents[1] / "data"]
    assert sum(file.stat().st_size for folder in everything for file in folder.iterdir()) < 20e6


@pytest.mark.parametrize(("name", "system", "n_commands"), [(NAME, NAME, 3), (BACKBONE, "chignolin", 2)])
def test_records(name, system, n_commands):
    """They say how models were made, and nothing of where."""
    text = (find_model(name) / "model.json").read_text()
    commands = re.findall(r'"command": "([^"]*)"', text)
    assert len(commands) >= n_commands
    assert not any("/" in command for command in commands)
    assert json.loads(text)["system_hash"] == systems.load(system).system_hash


def test_what_it_has_cost(generator):
    assert generator.temperature_range == (300.0, 600.0)
    assert 0 < sum(generator.energy_evaluations.values()) < 1e8
    assert all(generator.energy_evaluations.values())


@pytest.mark.parametrize(("temperature", "least"), [(300.0, 0.8), (420.0, 0.75), (600.0, 0.6)])
def test_samples(generator, temperature, least):
    samples = generator.sample(3000, temperature, seed=4)
    assert samples.ess() > least
    assert samples.pareto_k() < 0.7
    if temperature == 300.0:
        reference = load_umbrella_reference(NAME, temperature).mean_energy
        found = weighted_mean(samples.reduced_energy, samples.log_weights)
        assert abs(z_score(found, reference)) < AGREEMENT


def test_moves_take_the_name():
    move = FlowMove(NAME)
    assert move.model_hash == model_hash(NAME)


def test_side_chains_of_chignolin_are_put_back(tmp_path, monkeypatch):
    """On the backbones of shipped frames: hardly a contact, chirality kept, energies like those of dynamics."""
    monkeypatch.chdir(tmp_path)
    frames = load_reference_frames("chignolin", 350.0)
    chosen = np.arange(0, len(frames), 10)
    mdtraj.Trajectory(frames.positions[chosen], frames.topology).save_hdf5("frames.h5")
    assert cli.run(["backmap", BACKBONE, "--beads", "frames.h5", "--tries", "2", "-o", "s.h5", "-q"]) == 0
    system = systems.load("chignolin")
    samples = load_samples("s.h5", system)
    given, energies = frames.positions[chosen], frames.potential_energy[chosen]
    found = quality(system, samples.positions, samples.energies, given, energies)
    assert found.n == len(given)
    assert found.n_outside == found.n_wrong_chirality == 0
    assert found.free_of_contacts > 0.97
    assert abs(found.energy_shift) < 2.5
    # Of 300 frames and as many draws: the total variation of equal laws scatters by 0.1 or so.
    assert max(found.side_chains.values()) < 0.2
    backbone = frames.topology.select("name N CA C")
    assert np.abs(samples.positions[:, backbone] - given[:, backbone]).max() < 1e-5  # single precision
    for one in side_chain_torsions(frames.topology).values():
        moved = np.abs(dihedrals(samples.positions, np.array([one])) - dihedrals(given, np.array([one])))
        assert np.median(moved) > 0.1  # they are drawn, not copied


def test_backbones_of_chignolins_own_beads():
    """Torsions and extents of beads that the potential draws are like those of the dynamics.

    Sampling begins at frames of these, and soon leaves them if the potential is wrong: the control has no network.
    """
    model = CoarseGrainedGenerator.load(BACKBONE)
    frames = load_reference_frames("chignolin", 350.0)
    reference = model.coarse_map.beads(torch.from_numpy(frames.positions)).numpy()
    names = [frames.topology.atom(int(k)).name for k in model.coarse_map.anchors]
    torsions = [
        [k, k + 1, k + 2, k + 3]
        for k in range(len(names) - 3)
        if names[k : k + 4] in (["C", "N", "CA", "C"], ["N", "CA", "C", "N"])  # phi and psi
    ]
    assert len(torsions) == 20

    def deviations():
        sampler = BeadSampler(model.energy, model.start, model.sampling, seed=7)
        beads = torch.cat([sampler.frame() for _ in range(3)]).numpy()
        assert np.median(np.abs(beads[-64:] - beads[:64])) > 0.005  # they move
        found, expected = (np.sin(dihedrals(x, np.array(torsions))).mean(0) for x in (beads, reference))
        radii = [np.median(np.sqrt(np.var(x, axis=1).sum(1))) for x in (beads, reference)]
        return np.abs(found - expected).mean(), abs(radii[0] - radii[1])

    torsion, radius = deviations()
    assert torsion < 0.1
    assert radius < 0.03
    torch.nn.init.zeros_(model.energy.network[-1].weight)
    torsion, _ = deviations()
    assert torsion > 0.12


def test_recorded_commands_can_be_given_again():
    words = shlex.split(read_any_header(find_model(BACKBONE))["record"]["command"])
    assert words[:5] == ["openmm-bg", "coarse-grain", "data", "-o", "model"]
    assert words[words.index("--atoms") + 1] == "name N CA C"
