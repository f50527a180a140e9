"""The parts of scripts/benchmark_potential.py that are not expensive: systems, timing, tables, files."""

import csv
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def benchmark_systems(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_systems")


@pytest.fixture
def benchmark_peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_peers")


@pytest.fixture
def benchmark_potential(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_potential")


@pytest.mark.parametrize("n_atoms", [12, 22, 82])
def test_peptides_have_sound_geometry(benchmark_systems: ModuleType, n_atoms: int) -> None:
    molecule = benchmark_systems.peptide(n_atoms)
    assert molecule.n_atoms == n_atoms
    assert len(molecule.bonds) == n_atoms - 1  # no rings
    distances = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
    bonded = tuple(molecule.bonds.T)
    assert distances[bonded].min() > 0.09
    assert distances[bonded].max() < 0.16
    distances[bonded] = distances[bonded[::-1]] = np.inf
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 0.15  # no clash


def test_peptides_are_helices_of_the_right_hand(benchmark_systems: ModuleType) -> None:
    from openmm_bg.geometry import dihedrals

    molecule = benchmark_systems.peptide(82)
    starts = np.arange(6, 76, 10)  # of the alanines: N is 0, CA 2, C 8
    atoms = [(n - 2, n, n + 2, n + 8) for n in starts] + [(n, n + 2, n + 8, n + 10) for n in starts]
    phi, psi = np.degrees(dihedrals(molecule.positions[None], np.array(atoms))[0]).reshape(2, 7)
    np.testing.assert_allclose(phi, -60.0, atol=5.0)
    np.testing.assert_allclose(psi, -45.0, atol=5.0)


def test_the_dipeptide_is_the_peptide_of_one_residue(benchmark_systems: ModuleType) -> None:
    names = [
        [atom.element.symbol for atom in benchmark_systems.load_system(name).topology.atoms()]
        for name in ("alanine-obc1", "peptide-22")
    ]
    assert names[0] == names[1]


def test_solvents_are_the_forces_that_they_are_called_after(benchmark_systems: ModuleType) -> None:
    for name, force in (
        ("alanine-obc1", "CustomGBForce"),
        ("alanine-gbsaobc", "GBSAOBCForce"),
        ("peptide-12", "CustomGBForce"),
    ):
        forces = {type(each).__name__ for each in benchmark_systems.load_system(name).system.getForces()}
        assert {"CustomGBForce", "GBSAOBCForce"} & forces == {force}
    assert "peptide-172-gbsaobc" in benchmark_systems.SYSTEMS


def test_a_length_that_no_peptide_has_is_refused(benchmark_systems: ModuleType) -> None:
    with pytest.raises(ValueError, match="12 \\+ 10 n"):
        benchmark_systems.peptide(20)


def test_thermal_configurations_depend_on_the_seed_only(benchmark_systems: ModuleType) -> None:
    molecule = benchmark_systems.peptide(12)
    one, same, other = (benchmark_systems.thermal_positions(molecule, 40, seed) for seed in (1, 1, 2))
    assert one.shape == (40, 12, 3)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_sweep_times_the_peers_and_writes_their_rates(
    benchmark_peers: ModuleType,
    benchmark_potential: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    bench = benchmark_peers.Bench("peptide-12", threads=1, repeats=3, tensors=False)
    bench.sweep((1, 16), with_forces=True)
    ratios = bench.ratios()
    kinds = {peer.kind for peer in bench.peers}
    bench.close()
    assert kinds == {"default", "single", "pool", "torch"}
    assert all(row["lower"] <= row["rate"] <= row["upper"] for row in bench.rows)
    assert bench.errors["OpenMM Reference"] == 0.0
    assert bench.errors["torch fused float64"] < 1e-9
    assert all(error < 1e-4 for error in bench.errors.values())
    assert set(ratios) == {
        "best single context",
        "default-platform loop",
        "best pool",
        "Reference, float64",
    }
    # The loop is a single Context, too: the best of them is at least as fast.
    assert ratios["best single context"]["rates"][1] >= ratios["default-platform loop"]["rates"][1]

    benchmark_potential.write_csv(tmp_path / "rates.csv", bench.rows)
    with (tmp_path / "rates.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["rate"]) for row in read] == [row["rate"] for row in bench.rows]
    paths = benchmark_potential.plot(tmp_path, bench.rows)
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG"] * 2
    benchmark_potential.table(bench.rows)
    assert "x best pool" in capsys.readouterr().out


def test_a_ratio_is_that_of_timings_in_turn(benchmark_peers: ModuleType) -> None:
    peer = benchmark_peers.Peer("a", "single", "double", np.asarray, lambda batch, with_forces: batch)
    fast, slow = np.array([10.0, 20.0, 30.0]), np.array([1.0, 4.0, 3.0])  # ratios 10, 5, 10
    found = benchmark_peers._ratio((peer, fast, 16), (peer, slow, 1))
    assert found["value"] == 10.0
    assert found["quartiles"] == [7.5, 10.0]
    assert found["rates"] == [20.0, 3.0]


def test_operations_are_counted(benchmark_potential: ModuleType) -> None:
    import openmm

    from openmm_bg import TorchPotential

    system, force = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(2):
        system.addParticle(1.0)
    force.addBond(0, 1, 0.1, 100.0)
    system.addForce(force)
    potential = TorchPotential.from_system(system, mode="eager")
    one, two = (
        benchmark_potential.count_operations(potential, torch.rand(n, 2, 3, dtype=torch.float64))
        for n in (64, 128)
    )
    assert one["operations"] > 64 * 6
    assert 1.9 < two["operations"] / one["operations"] < 2.1
    assert one["bytes"] > 2 * 8 * 64 * 6


def test_without_a_gpu_the_profile_says_so(
    benchmark_potential: ModuleType, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    benchmark_potential.profile_gpu("peptide-12", 16)
    assert "no CUDA device" in capsys.readouterr().out


def test_an_unknown_system_is_refused(
    benchmark_potential: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_potential.py", "--systems", "water"])
    with pytest.raises(SystemExit):
        benchmark_potential.main()
    assert "invalid choice" in capsys.readouterr().err
