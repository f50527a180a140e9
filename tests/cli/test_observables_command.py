"""The command observables: of a simulation, of samples with weights, and of an exchange run."""

from __future__ import annotations

import csv
import re

import mdtraj
import numpy as np
import pytest

from openmm_bg import statistics, systems
from openmm_bg.io import load_samples


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_observables_of_samples_are_weighted(run, model, data, tmp_path):
    path = tmp_path / "samples.h5"
    assert run("sample", model, "-n", "400", "-q", "-o", path).code == 0
    output = tmp_path / "out"
    names = ["rg", "rmsd:heavy", "distance:ALA2-N,ALA2-O", "phi", "hbonds"]
    options = [part for name in names for part in ("--observable", name)]
    arguments = (
        *options,
        "--reference",
        model,
        "--surface",
        "phi,psi",
        "--surface",
        "distance:ALA2-N,ALA2-O,rg",
    )
    result = run("observables", path, data, *arguments, "-o", output)
    assert result.code == 0
    written = {file.name for file in output.iterdir()}
    assert written == {
        "means.csv", "profiles.csv", "profiles.png", "profiles.svg", "provenance.json",
        "values_data-600-K.csv", "values_samples-600-K-reweighted.csv",
        *(f"surface_phi_psi.{suffix}" for suffix in ("csv", "png", "svg")),
        *(f"surface_distance-ALA2-N-ALA2-O_rg.{suffix}" for suffix in ("csv", "png", "svg")),
    }  # fmt: skip
    means = {(row["set"], row["observable"]): row for row in read(output / "means.csv")}
    assert len(means) == 2 * 6  # psi is there for its surface
    # From mdtraj, and the weights in the samples' own table.
    trajectory, samples = mdtraj.load(str(path)), load_samples(path)
    pair = [[trajectory.topology.select(f"resSeq 2 and name {name}")[0] for name in ("N", "O")]]
    expected = statistics.weighted_mean(
        mdtraj.compute_distances(trajectory, pair)[:, 0], samples.log_weights[samples.in_domain]
    )
    found = means["samples, 600 K, reweighted", "distance:ALA2-N,ALA2-O"]
    assert float(found["mean"]) == pytest.approx(expected.value, rel=1e-5)
    assert float(found["stderr"]) == pytest.approx(expected.stderr, rel=1e-4)
    shown = f"{expected.value:.3f}"[:5]
    assert re.search(rf"distance ALA2-N – ALA2-O \(nm\) +samples, 600 K, reweighted +{shown}", result.out)
    # A chain has no weights: mean and distribution of phi are those of mdtraj.
    chain = mdtraj.load(str(data / "trajectory.h5"))
    phi = np.degrees(mdtraj.compute_phi(chain)[1][:, 0])
    values = np.array([float(row["phi:2 (degrees)"]) for row in read(output / "values_data-600-K.csv")])
    np.testing.assert_allclose(np.exp(1j * np.radians(values)), np.exp(1j * np.radians(phi)), atol=1e-3)
    rows = [
        r for r in read(output / "profiles.csv") if (r["set"], r["observable"]) == ("data, 600 K", "phi:2")
    ]
    fraction = np.array([float(row["density"]) for row in rows]) * 6
    counts, _ = np.histogram(phi, np.linspace(-180, 180, 61))
    assert np.abs(fraction - counts / len(phi)).max() <= 1.5 / len(
        phi
    )  # a frame on an edge may be in either bin
    plain = run("observables", path, "--no-weights", "--observable", "rg", "-o", tmp_path / "plain")
    assert plain.code == 0
    (row,) = read(tmp_path / "plain" / "means.csv")
    assert row["set"] == "samples, 600 K"
    masses = np.array([atom.element.mass for atom in trajectory.topology.atoms])
    weights = masses / masses.sum()
    centred = trajectory.xyz - np.einsum("i,nij->nj", weights, trajectory.xyz)[:, None]
    rg = np.sqrt((centred**2).sum(axis=2) @ weights)
    assert float(row["mean"]) == pytest.approx(rg.mean(), rel=1e-5)


def test_observables_of_an_exchange_run(run, model, tmp_path):
    path = tmp_path / "exchange.nc"
    options = ("--replicas", "2", "--steps", "2", "--iterations", "4", "-q", "--platform", "Reference")
    assert run("exchange", model, "-o", path, *options).code == 0
    for temperature in (300, 600):
        output = tmp_path / str(temperature)
        result = run("observables", path, "-T", temperature, "--observable", "rg", "-o", output)
        assert result.code == 0
        assert f"exchange, {temperature} K" in result.out
        assert read(output / "means.csv")[0]["frames"] == "4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Say what to look at"),
        (("--observable", "nonsense"), "There is no observable 'nonsense'"),
        (("--observable", "rmsd"), "rmsd and contacts need --reference"),
        (("--observable", "rmsd", "--reference", "none.pdb"), "There is no file none.pdb"),
        (("--observable", "rmsd", "--reference", "chignolin"), "does not have the same atoms"),
        (("--observable", "rg", "--bins", "2"), "at least 4 bins"),
        (("--observable", "rg", "--maximum", "0"), "positive --maximum"),
        (("--surface", "phi"), "A surface is of two observables"),
        (("--surface", "phi,psi,rg"), "A surface is of two observables"),
        (("--observable", "rg", "--label", "a", "--label", "b"), "1 files but 2 labels"),
    ],
)
def test_what_cannot_be_observed(refused, data, tmp_path, arguments, message):
    assert message in refused("observables", data, "-o", tmp_path / "out", *arguments)


def test_a_single_frame_has_no_error(refused, model, tmp_path):
    error = refused("observables", model / "topology.pdb", "--observable", "rg", "-o", tmp_path / "out")
    assert "has a single frame" in error


def test_labels_must_differ_and_output_is_a_directory(refused, data, tmp_path):
    error = refused("observables", data, data, "--observable", "rg", "-o", tmp_path / "out")
    assert "the same label" in error
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("observables", data, "--observable", "rg", "-o", tmp_path / "file")


def test_an_observable_is_drawn_once_however_it_is_called(run, data, tmp_path):
    names = [part for name in ("phi", "phi:2", "phi:ALA2") for part in ("--observable", name)]
    surfaces = ("--surface", "phi,psi", "--surface", "phi:2,psi:ALA2")
    assert run("observables", data, *names, *surfaces, "-o", tmp_path / "out").code == 0
    assert [row["observable"] for row in read(tmp_path / "out" / "means.csv")] == ["phi:2", "psi:2"]
    assert len(list((tmp_path / "out").glob("surface_*.png"))) == 1


def test_different_molecules_are_refused(refused, data, tmp_path):
    chignolin = systems.load("chignolin")
    other = mdtraj.Trajectory([chignolin.positions] * 2, mdtraj.Topology.from_openmm(chignolin.topology))
    other.save(str(tmp_path / "other.h5"))
    error = refused("observables", data, tmp_path / "other.h5", "--observable", "rg", "-o", tmp_path / "out")
    assert "are of different molecules" in error


def test_wrong_names_are_refused_before_weights_are_judged(refused, run, model, tmp_path):
    path = tmp_path / "samples.h5"
    assert run("sample", model, "-n", "12", "-q", "-o", path).code == 0
    refused("observables", path, "--observable", "phi:7", "-o", tmp_path / "out")  # a single line of error
    judged = run("observables", path, "--observable", "phi", "-o", tmp_path / "out")
    assert (judged.code, judged.err[:9]) == (0, "warning: ")


def test_samples_and_exchange_end_with_what_looks_at_them(run, model, tmp_path):
    result = run("sample", model, "-n", "50", "-q", "-o", tmp_path / "samples.h5")
    assert result.out.splitlines()[-1] == (
        f"Look at them with: openmm-bg report {tmp_path / 'samples.h5'} {model}"
    )
