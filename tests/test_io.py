"""Samples survive a round trip, and damaged files are refused in one clear sentence."""

from __future__ import annotations

import json

import mdtraj
import numpy as np
import pytest

from openmm_bg import io, systems
from openmm_bg.errors import InputError
from openmm_bg.samples import Samples


@pytest.fixture(scope="module")
def molecule():
    return systems.load("alanine_dipeptide")


@pytest.fixture
def samples(molecule):
    rng = np.random.default_rng(0)
    positions = molecule.positions + rng.normal(scale=0.005, size=(60, 22, 3))
    positions[[4, 17]] = np.nan
    reduced = rng.normal(size=60)
    reduced[9] = np.inf
    return Samples(positions, rng.normal(size=60), reduced, 350.0, molecule, record={"seed": 5})


def test_samples_round_trip(samples, molecule, tmp_path):
    path = tmp_path / "new folder" / "samples.h5"
    summary = io.save_samples(samples, path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["samples.csv", "samples.h5", "samples.json"]
    loaded = io.load_samples(path, molecule)
    inside = samples.in_domain
    assert (len(loaded), loaded.n_out_of_domain, loaded.n_nonfinite) == (60, 2, 1)
    np.testing.assert_allclose(loaded.positions[:58], samples.positions[inside], atol=1e-6)
    np.testing.assert_array_equal(loaded.log_q[:58], samples.log_q[inside])
    np.testing.assert_array_equal(loaded.reduced_energy[:58], samples.reduced_energy[inside])
    np.testing.assert_array_equal(loaded.log_weights[:58], samples.log_weights[inside])
    assert loaded.temperature == 350.0
    assert loaded.record == {"seed": 5}
    assert loaded.ess() == pytest.approx(samples.ess(), rel=1e-12)
    assert loaded.pareto_k() == pytest.approx(samples.pareto_k(), rel=1e-12)
    written = json.loads(path.with_suffix(".json").read_text())
    assert written == summary
    assert written["ess"] == pytest.approx(samples.ess())
    assert (written["n_draws"], written["n_frames"], written["n_out_of_domain"]) == (60, 58, 2)


def test_mdtraj_reads_samples(samples, tmp_path):
    io.save_samples(samples, tmp_path / "samples.h5")
    read = mdtraj.load(str(tmp_path / "samples.h5"))
    assert np.isfinite(read.xyz).all()
    assert [str(atom) for atom in read.topology.atoms] == [str(a) for a in samples.to_mdtraj().topology.atoms]
    table = np.genfromtxt(tmp_path / "samples.csv", delimiter=",", names=True)
    assert len(table) == read.n_frames
    np.testing.assert_array_equal(table["potential_energy"], samples.energies[samples.in_domain])


def test_all_weights_zero_can_still_be_saved(molecule, tmp_path):
    samples = Samples(molecule.positions[None], np.zeros(1), np.full(1, np.inf), 300.0, molecule)
    assert "ess" not in io.save_samples(samples, tmp_path / "samples.h5")
    assert io.load_samples(tmp_path / "samples.h5").n_nonfinite == 1


def test_frames_of_samples_have_weights(samples, tmp_path):
    io.save_samples(samples, tmp_path / "samples.h5")
    frames = io.read_frames(tmp_path / "samples.h5")
    np.testing.assert_array_equal(frames.log_weights, samples.log_weights[samples.in_domain])
    np.testing.assert_array_equal(frames.potential_energy, samples.energies[samples.in_domain])
    assert frames.temperature == 350.0


def test_failed_save_leaves_no_file(samples, tmp_path, monkeypatch):
    def full_disk(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savetxt", full_disk)
    with pytest.raises(OSError, match="No space"):
        io.save_samples(samples, tmp_path / "samples.h5")
    assert list(tmp_path.iterdir()) == []


def test_bad_names_are_refused_before_writing(samples, tmp_path):
    (tmp_path / "folder.h5").mkdir()
    for name, message in (
        ("samples.dcd", "ends in .h5"),
        ("samples", "ends in .h5"),
        ("folder.h5", "a folder"),
    ):
        with pytest.raises(InputError, match=message):
            io.save_samples(samples, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.h5"]


def test_incomplete_samples_are_refused(samples, tmp_path):
    path = tmp_path / "samples.h5"
    io.save_samples(samples, path)
    csv, summary = path.with_suffix(".csv"), path.with_suffix(".json")
    good_csv, good_summary = csv.read_text(), summary.read_text()

    def damaged(file, text, message):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            io.load_samples(path)
        csv.write_text(good_csv)
        summary.write_text(good_summary)

    lines = good_csv.splitlines(keepends=True)
    damaged(csv, "".join(lines[:-1]), "58 frames but its CSV table 57 rows")
    damaged(csv, good_csv[:-60], "damaged")
    damaged(csv, "a,b\n1,2\n", "columns")
    damaged(summary, "{", "not the summary")
    damaged(summary, "[]", "not the summary")
    damaged(summary, "{}", "not the summary")
    damaged(summary, good_summary.replace('"n_draws": 60', '"n_draws": 50'), "fewer draws")
    damaged(summary, good_summary.replace('"n_draws": 60', '"n_draws": "many"'), "not the summary")
    damaged(summary, '{"n_draws": 60, "temperature": 350.0, "record": "x"}', "not the summary")
    csv.unlink()
    with pytest.raises(InputError, match="lost its weights"):
        io.read_frames(path)
    csv.write_text(good_csv)
    summary.unlink()  # never taken for an unweighted trajectory
    with pytest.raises(InputError, match="lost its weights"):
        io.read_frames(path)


def test_iterations_that_tuned_a_latent_move_are_left_out(molecule, tmp_path, monkeypatch):
    """An exchange run of ten iterations with four proposals each, the first ten of which tuned the step size."""
    from openmm_bg.exchange import ExchangeRecord

    positions = np.array(molecule.positions) * (1 + np.arange(10))[:, None, None, None]
    positions = np.repeat(positions, 2, axis=1).astype(np.float32)
    energies, rest = np.arange(20.0).reshape(10, 2), np.zeros(2)
    settings = {"model": "gone", "n_proposals": 4, "n_tuning": 10}

    def record(path):
        return ExchangeRecord(
            np.array([300.0, 600.0]), positions, energies, np.zeros((10, 2)), *[rest] * 5, settings=settings
        )

    monkeypatch.setattr("openmm_bg.exchange.read_exchange", record)
    monkeypatch.setattr(io, "is_exchange", lambda path: True)
    (tmp_path / "run.nc").write_text("")
    (tmp_path / "topology.pdb").write_text(molecule.topology_pdb())
    frames = io.read_frames(tmp_path / "run.nc", tmp_path / "topology.pdb", temperature=600.0)
    np.testing.assert_array_equal(frames.potential_energy, np.arange(7.0, 20.0, 2))
    np.testing.assert_allclose(frames.positions, positions[3:, 1])
    settings["n_tuning"] = 400
    with pytest.raises(InputError, match="only iterations that tuned"):
        io.read_frames(tmp_path / "run.nc", tmp_path / "topology.pdb")


def test_samples_without_their_mark_are_never_taken_for_a_trajectory(samples, tmp_path):
    """As mdtraj writes them again, and as they were written before there was a mark."""
    path = tmp_path / "samples.h5"
    io.save_samples(samples, path)
    mdtraj.load(str(path)).save(str(path))
    with pytest.raises(InputError, match="is not marked as samples"):
        io.read_frames(path)
    # Beside any other JSON, or none, it is a trajectory.
    for text in ('{"n_draws": 3}', "[]", "{", '{"n_draws": "many", "temperature": 300.0}'):
        path.with_suffix(".json").write_text(text)
        assert io.read_frames(path).log_weights is None
    path.with_suffix(".json").unlink()
    assert io.read_frames(path).log_weights is None
