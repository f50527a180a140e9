"""The figures of seed 002: their curves against other computations, and a run that is interrupted."""

import csv
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from openmm_bg import cli, plotting, systems
from openmm_bg.coarse_graining.consistency import consistency_table, largest_deviation
from openmm_bg.coarse_graining.maps import LinearMap, selection_map
from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.plotting import captioned
from openmm_bg.reproduction import seed_002, seed_002_figures, seed_002_sets
from openmm_bg.reproduction.seed_002_figures import Folder, flat, heaviest_beads, plot_map
from openmm_bg.reproduction.seed_002_sets import (
    PLAIN,
    REFERENCE,
    WEIGHTED,
    bead_extents,
    bead_torsions,
    energy_profiles,
    equal_chains,
    frame_sets,
    side_chain_profiles,
    slow_components,
)
from openmm_bg.samples import Samples
from openmm_bg.training.data import TrainingData
from openmm_bg.units import thermal_energy

BACKBONE = [4, 6, 8, 14, 16]
HOT, COLD = 600.0, 520.0
OUTSIDE = [5, 17]  # draws that the flow could not make


@pytest.fixture(scope="module")
def reference(alanine, md_configurations):
    """Dynamics at 600 K, four walkers; frame i is of walker i % 4."""
    order = np.arange(1000).reshape(4, 250).T.ravel()
    positions, energies = md_configurations.positions[order], md_configurations.energies[order]
    return TrainingData(alanine, positions, energies, COLD, {"n_walkers": 4})


@pytest.fixture(scope="module")
def samples(alanine, reference):
    """The dynamics as samples at 600 K, whose weights are those of 520 K; two were not made."""
    positions = reference.positions.copy()
    positions[OUTSIDE] = np.nan
    log_q = -reference.energies / thermal_energy(HOT)
    reduced = reference.energies / thermal_energy(COLD)
    return Samples(positions, log_q, reduced, COLD, alanine, n_walkers=4)


@pytest.fixture(scope="module")
def coarse():
    """Figures with few dots, which are soon written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            seed_002_figures, "save_figure", lambda figure, path: plotting.save_figure(figure, path, dpi=30)
        )
        yield


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def column(table, name, **chosen):
    return np.array(
        [float(row[name]) for row in table if all(row[key] == value for key, value in chosen.items())]
    )


@pytest.fixture(scope="module")
def drawn(coarse, reference, samples, tmp_path_factory):
    """The figures that both molecules have, of the samples."""
    model = SimpleNamespace(coarse_map=selection_map(22, BACKBONE))
    folder = Folder(tmp_path_factory.mktemp("figures"), "A caption.")
    kinds = bead_torsions(model.coarse_map, reference.system.torsions)
    observables = [seed_002._observable(name, reference) for name in seed_002.ALANINE]
    seed_002.draw_common(folder, model, reference, frame_sets(samples, reference), kinds, observables)
    seed_002.write_summary(folder, samples, reference, {"data": 1.0}, quick=False)
    return folder


def test_curves_are_those_of_the_samples(drawn, reference, samples):
    assert drawn.names == ["map", "beads", "ramachandran", "profiles", "energies"]
    for name in drawn.names:
        assert (drawn.path / f"{name}.png").read_bytes()[1:4] == b"PNG"
        assert b"<svg" in (drawn.path / f"{name}.svg").read_bytes()
    made = np.setdiff1d(np.arange(1000), OUTSIDE)
    kept = [frame for frame in made if frame % 4 == 1 or frame < 992]  # walker 1 has 248 frames left of 250
    weights = np.exp(samples.log_weights[made] - samples.log_weights.max())
    # The distance of O of the acetyl and N of the methylamide.
    ends = np.linalg.norm(reference.positions[:, 5] - reference.positions[:, 16], axis=1)
    table, name = rows(drawn.path / "profiles.csv"), seed_002.ALANINE[1]
    centres = column(table, "centre", set=WEIGHTED, observable=name)
    step = centres[1] - centres[0]
    edges = np.append(centres - step / 2, centres[-1] + step / 2)
    for label, values, own in (
        (REFERENCE, ends, None),
        (PLAIN, ends[kept], None),
        (WEIGHTED, ends[made], weights),
    ):
        found = column(table, "density", set=label, observable=name)
        inside = np.histogram(values, edges, weights=own)[0] / (len(values) if own is None else own.sum())
        # A frame at an edge, which the table has with eight digits, may be in the next bin.
        np.testing.assert_allclose(found, inside / step, atol=0.004 * found.sum())
    # Weights of a lower temperature lower the energy, and agree with those of the samples themselves.
    table = rows(drawn.path / "energies.csv")
    mean = {}
    for label in (PLAIN, WEIGHTED):
        density = column(table, "density", set=label)
        mean[label] = (column(table, "centre", set=label) * density).sum() / density.sum()
    expected = np.average(reference.energies[made], weights=weights)
    assert mean[WEIGHTED] == pytest.approx(expected, abs=1.0)
    assert mean[PLAIN] == pytest.approx(reference.energies[made].mean(), abs=1.0)
    assert mean[PLAIN] - mean[WEIGHTED] > 3.0


def test_the_beads_have_the_torsions_of_the_atoms(drawn, reference):
    table = rows(drawn.path / "beads.csv")
    found = column(table, "density", set=REFERENCE).reshape(60, 60)
    torsions = np.array([reference.system.torsions[name] for name in ("phi", "psi")])
    phi, psi = np.degrees(dihedrals(reference.positions, torsions)).T
    edges = np.linspace(-180, 180, 61)
    expected = np.histogram2d(phi, psi, (edges, edges), density=True)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    # The marginal of the all-atom figure is the same law.
    marginal = column(rows(drawn.path / "ramachandran.csv"), f"{REFERENCE} density", angle="phi")
    np.testing.assert_allclose(marginal, np.histogram(phi, np.linspace(-180, 180, 73), density=True)[0])


def test_the_summary_has_the_numbers_of_the_samples(drawn, reference, samples):
    found = json.loads((drawn.path / "summary.json").read_text())
    assert found["ess"] == pytest.approx(samples.ess())
    assert found["pareto_k"] == pytest.approx(samples.pareto_k())
    assert (found["n_samples"], found["n_without_weight"]) == (1000, 2)
    table = consistency_table(samples, reference)
    assert found["largest_deviation"]["value"] == pytest.approx(largest_deviation(table))
    plain = max(abs(line.unweighted_deviation) for line in table)
    assert found["largest_deviation_without_weights"]["value"] == pytest.approx(plain)
    assert found["seconds"] == {"data": 1.0}
    assert found["record"]["versions"]["openmm"]


def test_unreliable_weights_are_said_to_be_so(samples, reference):
    assert frame_sets(samples, reference)[2].label == WEIGHTED
    heavy = np.random.default_rng(0).pareto(0.8, 1000)  # k = 1 / 0.8
    bad = Samples(reference.positions, -samples.reduced_energy - np.log(heavy), samples.reduced_energy, COLD)
    sets = frame_sets(bad, reference)
    assert "unreliable: Pareto k 1." in sets[2].label
    assert not plotting.are_reliable(sets[2].log_weights)
    assert plotting.are_reliable(sets[1].log_weights)


def test_chains_that_lost_frames_keep_their_walkers():
    usable = np.ones((30, 4), dtype=bool)  # 30 frames of each of four walkers
    usable[3:7, 1], usable[:, 2] = False, False
    kept, n_walkers = equal_chains(usable.ravel(), 4)
    assert (n_walkers, len(kept)) == (3, 3 * 26)
    for k, walker in enumerate((0, 3, 1)):
        assert set(kept[k::3] % 4) == {walker}
        assert (np.diff(kept[k::3]) > 0).all()
    assert usable.ravel()[kept].all()


def test_energies_above_the_axis_are_counted(samples, reference):
    sets = frame_sets(samples, reference)
    sets[1].energies[: len(sets[1].energies) // 4] = 1e9
    (expected, _), (plain, found), _ = energy_profiles(sets)
    assert expected.label == REFERENCE
    share = (len(sets[1].energies) // 4) / len(sets[1].energies)
    assert f"({100 * share:.1f} % above the axis)" in plain.label
    assert (found.density * np.diff(found.edges)).sum() == pytest.approx(1 - share, abs=0.005)
    assert found.edges[-1] - np.median(reference.energies) <= 15 * reference.energies.std() + 1e-9
    sets[1].energies[:] = 1e9
    label, found = energy_profiles(sets)[1]
    assert "100.0 % above" in label.label
    assert not found.density.any()


def test_atoms_have_the_colour_of_the_bead_in_which_they_weigh_most():
    weights = np.array([[0.6, 0.3, 0.1, 0.0], [0.0, 0.5, 0.5, 0.0], [0.25, 0.0, 0.75, 0.0]])
    assert heaviest_beads(weights).tolist() == [0, 1, 2, -1]
    positions = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.1, 0.2, 0.0], [0.0, 0.3, 0.0]])
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    figure = plot_map(positions @ turn, [(0, 1), (1, 2), (2, 3)], weights)
    dots, circles = figure.axes[0].collections
    colours = [tuple(colour) for colour in dots.get_facecolors()]
    assert len(set(colours)) == 4
    assert [tuple(edge) for edge in circles.get_edgecolors()] == colours[:3]
    # A flat molecule keeps its distances, and beads are where the map says.
    plane = np.asarray(dots.get_offsets())
    assert np.linalg.norm(plane[0] - plane[2]) == pytest.approx(np.sqrt(0.05))
    np.testing.assert_allclose(np.asarray(circles.get_offsets()), weights @ plane, atol=1e-12)
    assert len(figure.axes[0].lines) == 3
    with pytest.raises(InputError, match="map is of 4 atoms, the configuration of 3"):
        plot_map(positions[:3], [], weights)


def test_the_plane_is_that_of_the_largest_extent():
    x = np.random.default_rng(0).normal(size=(500, 3)) * [0.1, 3.0, 1.0]
    axes = np.abs(flat(x))
    assert axes[1, 0] > 0.99
    assert axes[2, 1] > 0.99


def test_beads_that_are_no_atoms_have_no_torsions():
    weights = np.eye(22)[BACKBONE]
    weights[2, [8, 10]] = 0.5
    with pytest.raises(InputError, match="Atom 8 of the torsion phi is no bead"):
        bead_torsions(LinearMap(weights), {"phi": (4, 6, 8, 14), "psi": (6, 8, 14, 16)})


def test_extents_of_beads():
    z = np.array([[[0.0, 0, 0], [0.0, 3.0, 0], [4.0, 0, 0]]])
    gyration, ends = (kind(z)[0] for kind in bead_extents(3))
    assert gyration == pytest.approx(np.sqrt(((z[0] - z[0].mean(0)) ** 2).sum() / 3))
    assert ends == 4.0


def slow_process(n_frames, n_walkers):
    """Return features that hide a slow process among faster ones of larger amplitude, and the process."""
    rng = np.random.default_rng(0)
    memory, amplitude = np.array([0.98, 0.9, 0.0, 0.0]), np.array([1.0, 2.0, 6.0, 10.0])
    x = np.zeros((n_frames, n_walkers, 4))
    for k in range(1, n_frames):
        x[k] = memory * x[k - 1] + np.sqrt(1 - memory**2) * rng.normal(size=(n_walkers, 4))
    mixing = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    return ((x * amplitude) @ mixing).reshape(-1, 4), x.reshape(-1, 4)


def test_slow_components_are_those_of_the_walkers():
    features, processes = slow_process(1000, 8)
    found = slow_components(features, 8, lag=5)
    components = found.project(features)

    def correlation(a, b):
        return abs(np.corrcoef(a, b)[0, 1])

    assert correlation(components[:, 0], processes[:, 0]) > 0.98
    assert correlation(components[:, 1], processes[:, 1]) > 0.98
    np.testing.assert_allclose(found.autocorrelations, [0.98**5, 0.9**5], atol=0.05)
    # Controls: the largest amplitude is another direction; walkers taken for one trajectory have no memory.
    largest = np.linalg.eigh(np.cov(features.T))[1][:, -1]
    assert correlation(features @ largest, processes[:, 0]) < 0.2
    assert np.abs(slow_components(features, 1, lag=5).autocorrelations).max() < 0.3


def test_a_short_trajectory_has_a_short_lag():
    features = slow_process(30, 8)[0]
    assert slow_components(features, 8).lag == 6
    with pytest.raises(InputError, match="fewer than two independent features"):
        slow_components(features[:, :1], 8)


def test_without_deeptime_nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "deeptime.decomposition", None)
    with pytest.raises(InputError, match=r'pip install "openmm-bg\[tica\]"'):
        seed_002.run_chignolin(tmp_path / "work", tmp_path / "out", run=lambda arguments: pytest.fail("runs"))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def chignolin():
    """Frames near the native structure; frame i is of walker i % 4."""
    system = systems.load("chignolin")
    positions = system.positions + 0.01 * np.random.default_rng(0).normal(size=(400, system.n_atoms, 3))
    statement = "energy: native -1(1), extended -2(2); starts agree (0.4 standard errors apart, resolution 3)"
    record = {"n_walkers": 4, "start_comparison": {"statement": statement}}
    return TrainingData(system, positions, np.zeros(400), 350.0, record)


def test_side_chains_are_those_of_the_beads_that_were_given(chignolin, tmp_path, monkeypatch):
    import mdtraj

    drawn, calls = [], []

    def samples_of(positions, seed, n_tries):
        calls.append(positions)
        made = positions + 0.01 * np.random.default_rng(seed).normal(size=positions.shape)
        made[4] = np.nan
        drawn.append(made)
        n = len(made)
        return Samples(made, np.zeros(n), np.zeros(n), 350.0, chignolin.system)

    monkeypatch.setattr(seed_002_sets, "model_hash", lambda directory: f"hash of {directory}")
    model, path = SimpleNamespace(samples_of=samples_of, path="a"), tmp_path / "torsions.npz"
    panels = side_chain_profiles(model, chignolin, path, n_given=200)
    assert len(panels) == 14  # eight chi1 and six chi2, without those of proline
    assert calls[0].shape == (200, chignolin.system.n_atoms, 3)
    topology = mdtraj.Topology.from_openmm(chignolin.system.topology)
    chi1 = {
        str(topology.atom(atoms[1]).residue): atoms
        for atoms in mdtraj.compute_chi1(mdtraj.Trajectory(calls[0], topology))[0]
    }
    edges = np.linspace(-np.pi, np.pi, 37)
    found = {panel[0][0].observable.name: panel for panel in panels}["chi1 of TRP9"]
    kept = np.delete(drawn[0], np.arange(4, 8), axis=0)  # the walker that lost a frame sets the length
    for (series, curve), frames in zip(found, (calls[0], kept), strict=True):
        angles = dihedrals(frames, np.array([chi1["TRP9"]]))[:, 0]
        expected = np.histogram(angles, edges, density=True)[0]
        assert len(series.values) in (200, 196)
        assert 0.5 * np.abs(curve.density - expected).sum() * (edges[1] - edges[0]) < 0.03
    again = side_chain_profiles(model, chignolin, path, n_given=200)
    assert len(calls) == 1  # kept
    np.testing.assert_array_equal(again[0][1][1].density, panels[0][1][1].density)
    # But not for another number of frames, and not for another model.
    fewer = side_chain_profiles(model, chignolin, path, n_given=100)
    assert [len(call) for call in calls] == [200, 100]
    assert all(len(series.values) <= 100 for panel in fewer for series, _ in panel)
    side_chain_profiles(SimpleNamespace(samples_of=samples_of, path="b"), chignolin, path, n_given=100)
    assert len(calls) == 3
    side_chain_profiles(
        SimpleNamespace(samples_of=samples_of, path="b"), chignolin, path, n_given=100, n_tries=2
    )
    assert len(calls) == 4


def test_figures_of_chignolin_say_whether_the_data_have_converged(chignolin, tmp_path):
    folder = Folder(tmp_path, seed_002._caption(chignolin, quick=False))
    titles = []
    folder.save = lambda figure, name, before="": (
        titles.append(captioned(figure, before + folder.caption).get_suptitle()) or tmp_path / f"{name}.csv"
    )
    n = len(chignolin.positions)
    samples = Samples(chignolin.positions, np.zeros(n), np.zeros(n), 350.0, chignolin.system, n_walkers=4)
    record = seed_002.draw_slow_components(folder, chignolin, frame_sets(samples, chignolin))
    assert record["lag_frames"] == 20
    (title,) = titles
    assert "starts agree (0.4 standard errors apart" in " ".join(title.split())
    assert "Chignolin at 350 K" in title
    unknown = TrainingData(chignolin.system, *[None] * 2, 350.0, {"start_comparison": None})
    assert "convergence is not known" in seed_002._caption(unknown, quick=True)
    assert seed_002._caption(unknown, quick=True).startswith("A quick run, which proves nothing.")


TINY = {
    "simulate": {"--frames": 96, "--walkers": 8, "--burn-in": 20, "--interval": 2},
    "coarse-grain": {
        **seed_002.QUICK["coarse-grain"],
        **{"--steps": 4, "--round-steps": 2, "--round-samples": 16, "--walkers": 16, "--burn-in": 5},
    },
    "backmap": {"-n": 48},
}


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_an_interrupted_run_is_continued(monkeypatch, tmp_path):
    monkeypatch.setattr(seed_002, "QUICK", TINY)
    commands, stops, written = [], [3], []
    monkeypatch.setattr(seed_002_figures, "save_figure", lambda figure, path: written.append(path))

    def run(arguments):
        if len(commands) in stops:
            stops.clear()
            raise KeyboardInterrupt
        commands.append(arguments[0])
        assert cli.run([*arguments, "--quiet"]) == 0

    work, output = tmp_path / "work", tmp_path / "figures"
    with pytest.raises(KeyboardInterrupt):
        seed_002.run_alanine(work, output, quick=True, run=run)
    assert not (output / "summary.json").exists()
    seed_002.run_alanine(work, output, quick=True, run=run)
    assert commands == ["simulate", "simulate", "coarse-grain", "backmap"]
    found = json.loads((output / "summary.json").read_text())
    assert found["quick"]
    assert found["n_samples"] == 48
    assert {"data", "reference", "train selection", "sample selection", "figures"} == set(found["seconds"])
    assert written == [output / f"{name}.png" for name in found["figures"]]
    with pytest.raises(InputError, match="results of other settings"):
        seed_002.run_alanine(work, output, quick=False, run=run)


def test_quick_commands_replace_sizes_and_nothing_else(tmp_path):
    for command in seed_002.chignolin.commands(tmp_path).values():
        found = seed_002.quick_command(command)
        for option, value in seed_002.QUICK[command[0]].items():
            assert found[found.index(option) + 1] == str(value)
            assert found.count(option) == 1
        kept = [word for word in command if not word.isdigit()]
        assert [word for word in found if word in kept] == kept
