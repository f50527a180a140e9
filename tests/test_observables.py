"""Observables against mdtraj called directly and against theory; averages and free energies with known answers."""

from __future__ import annotations

import csv
import warnings
from itertools import pairwise
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_bg import systems
from openmm_bg.errors import InputError
from openmm_bg.observables import (
    KINDS,
    Observable,
    Series,
    bin_edges,
    functions,
    load_reference_positions,
    observable,
    profile,
    split_names,
    surface,
    tables,
)
from openmm_bg.observables.figures import plot_profiles, plot_surfaces
from openmm_bg.observables.molecules import molecule_of
from openmm_bg.systems import build_peptide

DATA = Path(__file__).parents[1] / "systems" / "data"
NATIVE = DATA / "chignolin_YYDPETGTWY_native.pdb"


@pytest.fixture(scope="module")
def chignolin():
    """The native structure and a hundred noisy copies, some of them unfolded, in double precision."""
    native = mdtraj.load(str(NATIVE))
    extended = mdtraj.load(str(NATIVE).replace("native", "extended"))
    rng = np.random.default_rng(0)
    base = np.concatenate([np.repeat(native.xyz, 80, axis=0), np.repeat(extended.xyz, 20, axis=0)])
    positions = (
        base.astype(np.float64) + rng.normal(scale=0.01, size=base.shape) + rng.normal(size=(100, 1, 3))
    )
    return native, mdtraj.Trajectory(positions, native.topology), positions


@pytest.mark.parametrize(
    ("kind", "number"),
    [("phi", 3), ("psi", 8), ("omega", 5), ("chi1", 9), ("chi2", 10), ("chi3", 5)],
)
def test_torsions_are_those_of_mdtraj(chignolin, kind, number):
    _, trajectory, positions = chignolin
    indices, angles = getattr(mdtraj, f"compute_{kind}")(trajectory)
    # Whose second atom is in that residue; mdtraj's own residue ids are not public for chi.
    (row,) = [
        k for k, atoms in enumerate(indices) if trajectory.topology.atom(atoms[1]).residue.resSeq == number
    ]
    found = observable(f"{kind}:{number}", trajectory.topology)
    np.testing.assert_allclose(np.exp(1j * found(positions)), np.exp(1j * angles[:, row]), atol=2e-4)
    assert (found.unit, found.periodic) == ("rad", True)
    named = f"{kind}:{trajectory.topology.residue(number).name}{number}"
    np.testing.assert_array_equal(observable(named, trajectory.topology)(positions), found(positions))


def test_omega_of_proline_and_of_caps():
    omega = {1: -0.5, 2: 2.9}
    topology, positions = build_peptide("AP", omega=list(omega.values()))
    topology = mdtraj.Topology.from_openmm(topology)
    for residue, angle in ({0: np.pi} | omega).items():
        found = observable(f"omega:{residue}", topology)(positions[None])
        np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * angle), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "selection"),
    [
        ("backbone", "backbone and not resname NME or resname NME and name N"),
        ("ca", "name CA"),
        ("heavy", "not element H"),
        ("all", "all"),
    ],
)
def test_rmsd_is_that_of_mdtraj_and_does_not_reflect(chignolin, name, selection):
    native, trajectory, positions = chignolin
    reference = native.xyz[0].astype(np.float64)
    rmsd = observable(f"rmsd:{name}", trajectory.topology, reference)
    atoms = trajectory.topology.select(selection)
    np.testing.assert_allclose(
        rmsd(positions), mdtraj.rmsd(trajectory, native, atom_indices=atoms), atol=2e-5
    )
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    assert rmsd((reference @ rotation + 3.0)[None])[0] < 1e-3
    assert rmsd((reference * [1, 1, -1])[None])[0] > 0.05
    if name == "backbone":
        assert observable("rmsd", trajectory.topology, reference).name == "rmsd:backbone"


def test_radius_of_gyration_is_about_the_centre_of_mass(chignolin):
    _, trajectory, positions = chignolin
    masses = np.array([atom.element.mass for atom in trajectory.topology.atoms])
    # The definition by pairs: Rg^2 = sum_ij m_i m_j r_ij^2 / (2 M^2), which needs no centre.
    squares = ((positions[:3, :, None] - positions[:3, None]) ** 2).sum(axis=-1)
    expected = np.sqrt(np.einsum("i,j,nij->n", masses, masses, squares) / 2) / masses.sum()
    found = observable("rg", trajectory.topology)(positions)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-12)
    # With equal masses it is mdtraj's.
    equal = functions.radius_of_gyration(positions, np.ones(positions.shape[1]))
    np.testing.assert_allclose(equal, mdtraj.compute_rg(trajectory), rtol=1e-4)
    # Mdtraj's own with masses is about the centre of geometry, and larger.
    assert (mdtraj.compute_rg(trajectory, masses) - found).max() > 1e-6
    two = functions.radius_of_gyration(np.array([[[0.0, 0, 0], [4.0, 0, 0]]]), np.array([3.0, 1.0]))
    np.testing.assert_allclose(two, np.sqrt(3.0))  # sqrt(m1 m2) / (m1 + m2) times the distance


def test_distances_angles_and_dihedrals_of_named_atoms(chignolin):
    _, trajectory, positions = chignolin
    names = ["ASP3-N", "3-CA", "A/ASP3-C", "THR8-O"]
    top = trajectory.topology
    atoms = [top.select(f"resSeq {r} and name {n}")[0] for r, n in [(3, "N"), (3, "CA"), (3, "C"), (8, "O")]]
    distance = observable("distance:ASP3-N,THR8-O", top)(positions)
    np.testing.assert_allclose(
        distance, mdtraj.compute_distances(trajectory, [[atoms[0], atoms[3]]])[:, 0], atol=1e-5
    )
    assert distance[0] < 0.4 < 1.0 < distance[-1]
    angle = observable("angle:" + ",".join(names[:3]), top)
    np.testing.assert_allclose(
        angle(positions), mdtraj.compute_angles(trajectory, [atoms[:3]])[:, 0], atol=1e-4
    )
    assert not angle.periodic
    dihedral = observable("dihedral:" + ", ".join(names), top)
    expected = mdtraj.compute_dihedrals(trajectory, [atoms])[:, 0]
    np.testing.assert_allclose(np.exp(1j * dihedral(positions)), np.exp(1j * expected), atol=5e-4)


def test_hydrogen_bonds_are_those_of_mdtraj(chignolin):
    native, trajectory, positions = chignolin
    expected = [len(bonds) for bonds in mdtraj.wernet_nilsson(trajectory)]
    found = observable("hbonds", trajectory.topology)
    assert (found.name, found.is_count) == ("hbonds:wernet-nilsson", True)
    np.testing.assert_array_equal(found(positions), expected)
    assert len(set(expected)) > 3
    # Of a single frame mdtraj's count over the trajectory is that frame's.
    single = [len(mdtraj.baker_hubbard(trajectory[k], freq=0.0)) for k in range(0, 100, 10)]
    found = observable("hbonds:baker-hubbard", trajectory.topology)
    np.testing.assert_array_equal(found(positions)[::10], single)
    np.testing.assert_array_equal(found(positions[:1] * 10.0), [0.0])
    assert found(native.xyz)[0] >= 5 > 1 >= found(positions[-1:])[0]


def test_native_contacts(chignolin):
    native, trajectory, positions = chignolin
    reference = native.xyz[0].astype(np.float64)
    contacts = observable("contacts", trajectory.topology, reference)
    # Every contact at its native distance: 1 / (1 + exp(-50 * 0.8 r0)).
    top = trajectory.topology
    heavy = top.select("not element H")
    pairs = [
        (a, b)
        for a in heavy
        for b in heavy
        if a < b and abs(top.atom(a).residue.index - top.atom(b).residue.index) > 3
    ]
    native_distances = mdtraj.compute_distances(native, pairs)[0]
    keep = native_distances < 0.45
    now = mdtraj.compute_distances(trajectory, pairs)[:, keep]
    now = np.minimum(now, 5.0).astype(np.float64)  # no overflow of the exponential
    expected = (1 / (1 + np.exp(50 * (now - 1.8 * native_distances[keep])))).mean(axis=1)
    np.testing.assert_allclose(contacts(positions), expected, atol=1e-4)
    assert contacts(reference[None])[0] > 0.99
    assert contacts(positions)[-1] < 0.05


def test_configurations_with_nan_have_no_value(chignolin):
    native, trajectory, positions = chignolin
    damaged = positions[:5].copy()
    damaged[[1, 3], 7] = np.nan
    for name in ("rg", "hbonds", "rmsd:ca", "phi:3", "contacts"):
        found = observable(name, trajectory.topology, native.xyz[0])
        values = found(damaged)
        np.testing.assert_array_equal(np.isnan(values), [False, True, False, True, False])
        np.testing.assert_allclose(values[[0, 2, 4]], found(positions[:5])[[0, 2, 4]], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temperature", "There is no observable 'temperature'; the kinds are phi, psi"),
        ("phi", "Several residues have the torsion phi; choose from phi:1, phi:2"),
        ("chi4", "The molecule has no torsion chi4"),
        ("chi1:7", "GLY7 has no torsion chi1; there are chi1:1"),
        ("phi:99", "There is no residue '99'; the residues are ACE0, TYR1"),
        ("phi:ALA3", "There is no residue 'ALA3'; number 3 is ASP3"),
        ("phi:Z/3", "There is no residue 'Z/3'"),
        ("phi:x", "'x' is not a residue"),
        ("distance:ASP3-N", "A distance needs 2 atoms, as in distance:ASP3-N,THR8-O"),
        ("distance:ASP3-N,ASP3-N", "must be different ones"),
        ("distance:ASP3-N,THR8", "'THR8' is not an atom"),
        ("distance:ASP3-N,THR8-XX", "THR8 has no atom 'XX'; its atoms are N, "),
        ("rmsd:sidechains", "There is no rmsd:sidechains; there are rmsd:backbone"),
        ("rmsd", "rmsd needs a reference"),
        ("contacts", "contacts needs a reference"),
        ("rg:3", "rg takes nothing after a colon"),
        (
            "hbonds:dssp",
            "There is no criterion 'dssp' for hydrogen bonds; use wernet-nilsson or baker-hubbard",
        ),
    ],
)
def test_names_that_mean_nothing(chignolin, name, message):
    with pytest.raises(InputError, match=message):
        observable(name, chignolin[1].topology)


def test_ambiguous_residues_and_references(chignolin, tmp_path):
    native = chignolin[0]
    both = native.topology.join(native.topology, keep_resSeq=True)
    with pytest.raises(InputError, match="Several residues have the number 3; give the chain"):
        observable("phi:3", both)
    assert observable("phi:1/3", both).name == "phi:1/3"
    with pytest.raises(InputError, match="needs positions of shape"):
        observable("rg", native.topology)(np.zeros((2, 22, 3)))
    with pytest.raises(InputError, match="has the shape"):
        observable("rmsd", native.topology, np.zeros((3, 3)))
    np.testing.assert_allclose(load_reference_positions(NATIVE, native.topology), native.xyz[0], atol=1e-6)
    model = load_reference_positions("chignolin_backbone", native.topology)
    np.testing.assert_allclose(model, native.xyz[0], atol=1e-4)  # as in its PDB file
    named = load_reference_positions("chignolin", native.topology)
    assert functions.rmsd(named[None], native.xyz[0], native.topology.select("name CA"))[0] < 0.01
    with pytest.raises(InputError, match="does not have the same atoms"):
        load_reference_positions("alanine_dipeptide", native.topology)
    with pytest.raises(InputError, match="no file"):
        load_reference_positions(tmp_path / "no.pdb", native.topology)
    unbonded = mdtraj.Topology()
    residue = unbonded.add_residue("X", unbonded.add_chain())
    unbonded.add_atom("A", mdtraj.element.carbon, residue)
    with pytest.raises(InputError, match="topology with bonds"):
        observable("hbonds", unbonded)


def test_lists_of_names():
    assert split_names("phi,psi") == ["phi", "psi"]
    assert split_names("phi:2, distance:ASP3-N,THR8-O") == ["phi:2", "distance:ASP3-N,THR8-O"]
    assert split_names("angle:1-A,1-B,1-C,rg") == ["angle:1-A,1-B,1-C", "rg"]
    assert split_names("phi,nonsense") == ["phi", "nonsense"]
    assert set(KINDS) >= {"phi", "chi4", "rg", "rmsd", "hbonds", "contacts", "distance"}


def numbers(unit: str = "", **kwargs) -> Observable:
    """An observable that is only a name for given numbers."""
    return Observable("x", "x", unit, lambda x: x[:, 0, 0], 1, **kwargs)


def test_weighted_average_and_profile_of_a_known_density(rng):
    """Uniform draws on (0, 1) weighted by 2x: mean 2/3, variance 1/18, free energy -log(2x)."""
    scores = []
    for _ in range(40):
        x = rng.uniform(size=5000)
        series = Series(numbers(), x, log_weights=np.log(2 * x) - 3.0)
        mean = series.mean()
        scores.append((mean.value - 2 / 3) / mean.stderr)
    assert 0.7 < np.std(scores) < 1.35
    assert abs(np.mean(scores)) < 0.6
    assert series.standard_deviation() == pytest.approx(np.sqrt(1 / 18), rel=0.03)
    x = rng.uniform(size=200_000)
    found = profile(Series(numbers(), x, log_weights=np.log(2 * x)), np.linspace(0, 1, 11))
    expected = -np.log(found.centres / found.centres[-1])
    z = (found.free_energy - expected - (found.free_energy - expected).mean()) / found.free_energy_stderr
    assert np.abs(z).max() < 4.5
    assert z.std() > 0.3  # the errors are not far too large
    np.testing.assert_allclose((found.density * 0.1).sum(), 1.0)


def test_zero_weights_do_not_count(rng):
    x = rng.normal(size=1000)
    log_weights = np.zeros(1100)
    log_weights[1000:] = -np.inf
    series = Series(numbers(), np.concatenate([x, np.full(100, np.nan)]), log_weights=log_weights)
    assert series.mean().value == pytest.approx(x.mean())
    assert series.standard_deviation() == pytest.approx(x.std())
    assert (profile(series, np.linspace(-9, 9, 7)).density * 3).sum() == pytest.approx(1.0)
    with pytest.raises(InputError, match="not finite in a frame with a weight"):
        Series(numbers(), np.array([1.0, np.nan]), log_weights=np.zeros(2))


def test_mean_of_angles_on_the_seam(rng):
    """A von Mises distribution about 180 degrees: the arithmetic mean would be about 0."""
    kappa = 1.0
    scores = []
    for _ in range(60):
        angles = rng.vonmises(np.pi, kappa, size=2000)
        angles = (angles + np.pi) % (2 * np.pi) - np.pi
        series = Series(numbers("rad", periodic=True), angles, log_weights=np.zeros(2000))
        value, stderr = series.mean()
        scores.append(((value - np.pi + np.pi) % (2 * np.pi) - np.pi) / stderr)
    assert abs(np.mean(scores)) < 0.6
    assert 0.7 < np.std(scores) < 1.35
    from scipy.special import i0e, i1e

    length = i1e(kappa) / i0e(kappa)
    assert series.standard_deviation() == pytest.approx(np.sqrt(-2 * np.log(length)), rel=0.05)


def test_errors_of_chains_know_the_correlation():
    x = np.repeat(np.random.default_rng(3).normal(size=4000), 10)
    series = Series(numbers(), x)
    assert series.mean().stderr == pytest.approx(1 / np.sqrt(4000), rel=0.2)
    # Forty walkers that never move are worth forty values.
    stuck = np.tile(np.random.default_rng(4).normal(size=40), 100)
    assert Series(numbers(), stuck, n_walkers=40).mean().stderr == pytest.approx(1 / np.sqrt(40), rel=0.35)
    with pytest.raises(InputError, match="not the same number"):
        Series(numbers(), np.zeros(10), n_walkers=3)


def test_a_count_that_never_changes_has_an_error():
    """As large as that of a population that was never seen: 1 over the number of independent values."""
    count = numbers(is_count=True)
    weighted = Series(count, np.zeros(50), log_weights=np.zeros(50))
    assert weighted.mean() == (0.0, pytest.approx(1 / 50))
    ones = np.append(np.ones(50), 7.0)  # but for one without a weight
    uneven = Series(count, ones, log_weights=np.append(np.log(np.arange(1.0, 51.0)), -np.inf))
    assert uneven.mean() == (pytest.approx(1.0), pytest.approx((np.arange(1, 51) ** 2).sum() / 1275**2))
    assert Series(count, np.zeros(60), n_walkers=6).mean() == (0.0, pytest.approx(1 / 6))
    assert Series(count, np.array([0.0, 1.0] * 30)).mean().stderr < 0.2
    assert Series(numbers(), np.zeros(50), log_weights=np.zeros(50)).mean().stderr == 0.0


def test_surface_of_two_harmonic_observables(rng):
    """Normal draws of width 1 and 0.5: the surface is x^2/2 + 2 y^2."""
    x, y = rng.normal(size=400_000), 0.5 * rng.normal(size=400_000)
    edges = np.linspace(-1.5, 1.5, 16), np.linspace(-0.75, 0.75, 16)
    found = surface(Series(numbers(), x), Series(numbers(), y), edges)
    centres = [(e[1:] + e[:-1]) / 2 for e in edges]
    expected = centres[0][:, None] ** 2 / 2 + 2 * centres[1][None] ** 2
    difference = found.free_energy - expected
    assert np.abs(difference - difference.mean()).max() < 0.15
    assert found.free_energy.min() == 0.0
    assert (found.density * 0.2 * 0.1).sum() == pytest.approx(
        0.8664**2, abs=0.003
    )  # erf(1.5 / sqrt 2) squared
    with pytest.raises(InputError, match="different configurations"):
        surface(Series(numbers(), x), Series(numbers(), y[:-1]))
    with pytest.raises(InputError, match="between the edges"):
        profile(Series(numbers(), x, "label"), np.array([50.0, 51.0]))


def test_weights_move_the_surface(rng):
    x, y = rng.uniform(-np.pi, np.pi, size=(2, 50_000))
    angle = numbers("rad", periodic=True)
    weighted = {"log_weights": 2 * np.cos(x - np.pi) + 2 * np.cos(y)}
    found = surface(Series(angle, x, **weighted), Series(angle, y, **weighted), bins=12)
    i, j = np.unravel_index(found.free_energy.argmin(), (12, 12))
    assert i in (0, 11)
    assert j in (5, 6)
    # From the minimum at (pi, 0) to the maximum at (0, pi): 8 kT, less what the bins' averages take off.
    assert 6.5 < found.free_energy.max() < 8.5


def test_bins():
    count = Series(numbers(is_count=True), np.array([0.0, 2.0, 5.0]))
    np.testing.assert_array_equal(bin_edges([count], 60), np.arange(-0.5, 6.0))
    assert profile(count).density.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3])
    circle = Series(numbers("rad", periodic=True), np.array([np.pi, -np.pi, 0.1]))
    edges = bin_edges([circle], 8)
    assert (edges[0], edges[-1]) == (-np.pi, np.pi)
    assert circle.cells(edges).tolist() == [0, 0, 4]
    constant = Series(numbers(), np.ones(5))
    assert np.isfinite(profile(constant).density).all()
    with pytest.raises(InputError, match="at least 4 bins"):
        bin_edges([count], 2)


def test_tables_and_figures_are_in_degrees(tmp_path, rng):
    angle = numbers("rad", periodic=True)
    series = Series(angle, rng.vonmises(1.0, 5.0, size=500), "a, b")
    found = profile(series, bins=36)
    tables.write_means([series], tmp_path / "means.csv")
    tables.write_profiles([(series, found)], tmp_path / "profiles.csv")
    tables.write_values([series], tmp_path / "values.csv")
    both = surface(series, series, bins=12)
    tables.write_surfaces([(series, series, both)], tmp_path / "surface.csv")

    def read(name):
        with (tmp_path / name).open(newline="") as file:
            return list(csv.DictReader(file))

    (row,) = read("means.csv")
    assert (row["set"], row["unit"], row["frames"]) == ("a, b", "degrees", "500")
    assert float(row["mean"]) == pytest.approx(np.degrees(series.mean().value))
    rows = read("profiles.csv")
    assert sum(float(row["density"]) for row in rows) * 10 == pytest.approx(1.0, abs=1e-6)
    assert float(rows[0]["centre"]) == -175.0
    values = [float(row["x (degrees)"]) for row in read("values.csv")]
    np.testing.assert_allclose(np.radians(values), series.values, atol=1e-6)
    rows = read("surface.csv")
    assert sum(float(row["density"]) for row in rows) * 900 == pytest.approx(1.0, abs=1e-6)
    figure = plot_profiles([[(series, found)]])
    assert figure.axes[0].get_xlim() == (-180.0, 180.0)
    assert figure.axes[0].get_xlabel() == "x (degrees)"
    figure = plot_surfaces([(series, series, both)])
    assert figure.axes[0].get_title() == "a, b"
    with pytest.raises(InputError, match="nothing to draw"):
        plot_surfaces([])


def test_labels_fit_under_their_panels(rng):
    name = "dihedral MOL1-C1 – MOL1-C22 – MOL1-C333 – MOL1-C4444"
    kind = Observable("x", name, "rad", lambda x: x[:, 0, 0], 1, periodic=True)
    series = Series(kind, rng.vonmises(0.0, 1.0, size=200), "label")
    figure = plot_profiles([[(series, profile(series))]] * 3)
    figure.canvas.draw()
    boxes = [ax.xaxis.label.get_window_extent() for ax in figure.axes]
    assert all("\n" in ax.get_xlabel() for ax in figure.axes)
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.x1
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_ticks_of_panels_beside_each_other_are_told_apart(rng):
    torsion = Observable("x", "x", "rad", lambda x: x[:, 0, 0], 1, periodic=True)
    angles = Series(torsion, rng.uniform(-np.pi, np.pi, size=200), "label")
    lengths = Series(numbers(), rng.uniform(0.0, 1.1, size=200), "label")
    figure = plot_profiles([[(series, profile(series))] for series in (lengths, angles, angles)])
    figure.canvas.draw()

    def boxes_of(ax):
        low, high = ax.get_xlim()
        return [t.get_window_extent() for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high]

    boxes = [boxes_of(ax) for ax in figure.axes]
    width = figure.dpi * 8 / 72  # of a character, about
    for left, right in pairwise(boxes):
        assert max(box.x1 for box in left) + width < min(box.x0 for box in right)


def test_a_bin_without_neighbours_is_drawn():
    series = Series(numbers(), np.repeat([0.5, 4.5, 5.5], 10), "label")
    edges = np.arange(0.0, 7.0)
    ax = plot_profiles([[(series, profile(series, edges))]]).axes[0]
    (line,) = [patch for patch in ax.patches if not patch.get_fill()]
    corners = {tuple(point) for point in line.get_path().vertices}
    assert {(0.0, 0.0), (1.0, 0.0), (4.0, 0.0), (6.0, 0.0)} <= corners


def test_ticks_of_counts_are_integers(rng):
    bonds = Series(numbers(is_count=True), rng.integers(0, 3, size=300).astype(float), "label")
    length = Series(numbers("nm"), 0.3 * rng.normal(size=300), "label")
    ax = plot_surfaces([(length, bonds, surface(length, bonds))]).axes[0]
    assert {tick % 1 for tick in ax.get_yticks()} == {0.0}
    assert any(tick % 1 for tick in ax.get_xticks())


def test_observables_have_one_name(chignolin):
    top = chignolin[1].topology
    for names in (
        ("phi:3", "phi:ASP3", "phi:A/3", " phi:A/ASP3"),
        ("distance:ASP3-N,THR8-O", "distance:3-N, A/8-O"),
        ("hbonds", "hbonds:wernet-nilsson"),
    ):
        found = [observable(name, top) for name in names]
        assert len({(one.name, one.label) for one in found}) == 1
    both = top.join(top, keep_resSeq=True)
    for name in ("phi:1/3", "distance:1/ASP3-N,1/THR8-O"):
        assert observable(name, both).name == name
    assert observable("phi:1/3", both).label == "φ of 1/ASP3"


def test_molecules_are_the_same_however_they_are_written(chignolin, tmp_path):
    native = chignolin[0]
    expected = molecule_of(native.topology)
    native.save(str(tmp_path / "native.h5"))
    renamed = native.topology.copy()
    for residue in renamed.residues:
        residue.resSeq += 10
        residue.name = {"HIS": "HIE"}.get(residue.name, residue.name)
    for other in (mdtraj.load_topology(str(tmp_path / "native.h5")), renamed):
        assert molecule_of(other) == expected
    shorter = native.topology.subset(range(native.n_atoms - 1))
    mutant = native.topology.copy()
    mutant.residue(3).name = "ASN"
    for other in (shorter, mutant):
        assert molecule_of(other) != expected


def test_backbone_ends_at_the_nitrogen_of_a_cap(chignolin):
    top = chignolin[1].topology
    atoms = [str(top.atom(k)) for k in top.select(functions.RMSD_ATOMS["backbone"])]
    assert atoms[:2] == ["ACE0-C", "ACE0-O"]
    assert atoms[-2:] == ["TYR10-O", "NME11-N"]


def test_a_gap_in_the_chain_makes_no_torsion():
    top = mdtraj.load(str(NATIVE)).topology
    keep = [atom.index for atom in top.atoms if atom.residue.resSeq not in (5, 6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cut = top.subset(keep)
    observable("phi:4", cut)
    with pytest.raises(InputError, match="GLY7 has no torsion phi"):
        observable("phi:7", cut)  # mdtraj alone would take the C of residue 4
    assert len(systems.load("alanine_dipeptide").torsions) == 2
