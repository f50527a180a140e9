"""Judging a coarse-grained model: surfaces that agree, and surfaces that do not."""

import dataclasses
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from openmm_bg import systems
from openmm_bg.analysis import Ramachandran
from openmm_bg.reproduction import chignolin
from openmm_bg.reproduction.backmapping_quality import Quality
from openmm_bg.reproduction.chignolin import (
    SURFACES,
    native_table,
    native_worth,
    quality_rows,
    whole_chain_rows,
)
from openmm_bg.reproduction.coarse_graining import data_commands, model_commands, surface_agreement
from openmm_bg.samples import Samples
from openmm_bg.training.data import TrainingData
from openmm_bg.units import thermal_energy

N_DRAWS = 1600


def law(seed, n=400_000, width=1.0, log_weights=None):
    rng = np.random.default_rng(seed)
    phi, psi = width * rng.normal(size=(2, n))
    phi, psi = np.clip(phi, -np.pi, np.pi), np.clip(psi, -np.pi, np.pi)
    return Ramachandran(
        "law", phi, psi, log_weights=log_weights, n_walkers=1 if log_weights is not None else 40
    )


def test_two_sets_of_one_law_agree():
    share, n_bins = surface_agreement(law(1, log_weights=np.zeros(400_000)), law(2))
    assert share > 0.97  # errors of up to 0.1 kT against a bound of 0.3 kT
    assert n_bins > 100


def test_another_law_does_not_agree():
    share, _ = surface_agreement(law(1, width=1.3, log_weights=np.zeros(400_000)), law(2))
    assert share < 0.8


def test_weights_bring_it_back():
    wide = law(1, width=1.3)
    log_weights = -0.5 * (wide.phi**2 + wide.psi**2) * (1 - 1 / 1.3**2)
    weighted = Ramachandran("law", wide.phi, wide.psi, log_weights=log_weights)
    assert surface_agreement(weighted, law(2))[0] > 0.95


def test_a_basin_that_was_never_found_does_not_agree():
    """Two equal basins, of which one is missing: where nothing was found is a disagreement, not left out."""

    def basins(seed, both):
        one = law(seed, n=200_000, width=0.3)
        shift = np.where(np.random.default_rng(seed + 10).random(200_000) < 0.5 * both, 1.5, -1.5)
        return Ramachandran("basins", one.phi + shift, one.psi, n_walkers=40)

    same, n_same = surface_agreement(basins(1, True), basins(2, True))
    missing, n_missing = surface_agreement(basins(1, False), basins(2, True))
    assert same > 0.97
    assert n_missing == n_same > 60
    assert missing < 0.6
    assert surface_agreement(basins(1, False), Ramachandran("none", np.zeros(1), np.zeros(1)))[1] == 0


@pytest.mark.parametrize("label", ["selection map", "learned map"])
def test_commands_are_those_of_the_command_line(label, tmp_path):
    *_, train, sample = model_commands(tmp_path, label).values()
    assert (train[0], sample[0]) == ("coarse-grain", "backmap")
    assert sample[1] == train[3]
    simulated = [*data_commands(tmp_path).values(), *model_commands(tmp_path, label).values()]
    assert train[1] in {words[-1] for words in simulated if words[0] == "simulate"}


def test_paths_may_have_spaces(tmp_path):
    folder = tmp_path / "my folder"
    ours = data_commands(folder), model_commands(folder, "learned map")
    for made in (*ours, chignolin.data_commands(folder), chignolin.commands(folder)):
        for words in made.values():
            assert any(word.startswith(str(folder)) for word in words)
            assert all(str(folder) in word for word in words if "folder" in word)


def good_quality(**changes):
    figures = {
        "n": 100,
        "n_outside": 0,
        "n_wrong_chirality": 0,
        "free_of_contacts": 0.995,
        "median_energy": -90.0,
        "reference_median": -100.0,
        "reference_deviation": 5.0,
        "side_chains": {"chi1 of TYR1": 0.02, "chi2 of TYR1": 0.04},
    }
    return Quality(**{**figures, **changes})


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"n_wrong_chirality": 1},
        {"free_of_contacts": 0.98},
        {"side_chains": {"chi1 of TYR1": 0.06}},
        {"median_energy": -80.0},
    ],
)
def test_each_fault_of_backmapped_configurations_is_seen(fault):
    others = good_quality(median_energy=50.0), good_quality(median_energy=-95.0)
    found = list(quality_rows(good_quality(**fault), *others))
    assert [one["holds"] for one in found].count(False) == len(fault)
    assert found[-1]["median_bonds_and_angles"] == pytest.approx(30.0)
    assert found[-1]["held_out_frames"] == pytest.approx(1.0)
    assert found[-1]["one_try"] is None


def test_beads_of_all_walkers_at_even_times_and_held_out_frames_are_given(monkeypatch):
    """Draws are the frames themselves, but for one of the first and one of the last that is a mirror image."""
    system = systems.load("chignolin")
    n_walkers, n_times = 4, 40
    rng = np.random.default_rng(0)
    positions = system.positions + 0.005 * rng.normal(size=(n_walkers * n_times, system.n_atoms, 3))
    positions += np.arange(len(positions))[:, None, None]  # which frame it is
    energies = rng.normal(size=len(positions))
    data = TrainingData(system, positions, energies, 350.0, {"n_walkers": n_walkers})
    given, tries = [], []

    def samples_of(x, seed, n_tries):
        frames = np.floor(x.mean(axis=(1, 2)) + 0.5).astype(int)
        given.append(frames)
        tries.append(n_tries)
        made = np.where(np.isin(np.arange(len(x)), [0, len(x) - 1])[:, None, None], -x, x)
        return Samples(made, np.zeros(len(x)), energies[frames] / thermal_energy(350.0), 350.0, system)

    monkeypatch.setattr(chignolin, "_N_GIVEN", 40)
    model = SimpleNamespace(
        record={"settings": {"validation_fraction": 0.25}},
        samples_of=samples_of,
        flow=SimpleNamespace(coordinates=None),
    )
    rows = list(chignolin.given_beads_rows(model, data))
    whole, same, held_out = (np.unique(frames) for frames in given)
    np.testing.assert_array_equal(whole, same)
    assert tries[1] == 1 < tries[0] == tries[2] == rows[0]["n_tries"]
    assert len(whole) == 40
    assert np.bincount(whole % n_walkers).tolist() == [10] * n_walkers
    assert (whole.min(), whole.max()) == (0, len(positions) - 1)
    np.testing.assert_array_equal(held_out, np.arange(120, 160))
    wrong = next(one for one in rows if "wrong chirality" in one["line"])
    assert (wrong["value"], wrong["held_out_frames"], wrong["holds"]) == (2, 2, False)
    energy = rows[-1]
    assert energy["value"] == pytest.approx(0.0, abs=1e-9)
    assert energy["median_bonds_and_angles"] is None
    variation = next(one for one in rows if "total variation" in one["line"])
    # Two random halves of 40 frames with a width of 0.005 nm.
    assert 0 < max(variation["between_random_halves"].values()) < 1
    assert variation["between_random_halves"].keys() == variation["all"].keys()
    assert min(variation["held_out_from_other_frames"].values()) > 0
    assert variation["value"] < 0.1


class _Drawn(NamedTuple):
    """Draws of chignolin near its native structure, with the log-weights of a wider law."""

    samples: Samples
    data: TrainingData


@pytest.fixture(scope="module")
def native_draws():
    system = dataclasses.replace(systems.load("chignolin"), starts={})  # a simulation's directory has none
    rng = np.random.default_rng(0)
    size = (N_DRAWS, *system.positions.shape)
    narrow, wide = (system.positions + s * rng.normal(size=size) for s in (0.010, 0.0102))
    log_weights = -0.5 * ((wide - system.positions) ** 2).sum(axis=(1, 2)) * (0.010**-2 - 0.0102**-2)
    reduced, energies = rng.normal(size=(2, N_DRAWS))
    samples = Samples(wide, -log_weights - reduced, reduced, 350.0, system, n_walkers=40)
    data = TrainingData(system, narrow, thermal_energy(350.0) * energies, 350.0, {"n_walkers": 40})
    return _Drawn(samples, data)


def test_the_native_basin_is_compared_where_there_are_enough_samples(native_draws, monkeypatch, tmp_path):
    table = native_table(native_draws.samples, native_draws.data)
    assert {line.name for line in table} == set(SURFACES)
    assert max(abs(line.deviation) for line in table) < 3.5
    without = Samples(
        native_draws.samples.positions,
        np.zeros(N_DRAWS),
        np.zeros(N_DRAWS),
        350.0,
        native_draws.data.system,
        n_walkers=40,
    )
    # Control: unweighted, the wider law has a larger RMSD.
    plain = {(line.name, line.moment): line for line in native_table(without, native_draws.data)}
    assert abs(plain["rmsd:backbone", 1].deviation) > 5
    monkeypatch.setattr(chignolin, "consistency_table", lambda samples, data: table)
    monkeypatch.setattr(chignolin, "_EFFECTIVE", 2000.0)
    rows = list(whole_chain_rows(native_draws.samples, native_draws.data))
    assert "no statement" in rows[-1]["bound"]
    monkeypatch.setattr(chignolin, "_EFFECTIVE", 10.0)
    rows = list(whole_chain_rows(native_draws.samples, native_draws.data, tmp_path))
    assert rows[-1]["holds"]
    assert len((tmp_path / "chignolin.csv").read_text().splitlines()) == 1 + len(table)
    assert "native basin" in rows[-1]["line"]
    rows = list(whole_chain_rows(without, native_draws.data))
    assert not rows[-1]["holds"]


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_energies_without_weights_are_compared(native_draws, monkeypatch, shift):
    """Those of samples that there are: others have none."""
    given, data = native_draws.samples, native_draws.data
    reduced = given.reduced_energy + shift
    reduced[::10], log_q = np.inf, given.log_q.copy()
    log_q[::10] = np.nan
    shifted = Samples(given.positions, log_q, reduced, 350.0, given.system, n_walkers=40)
    monkeypatch.setattr(chignolin, "consistency_table", lambda samples, data: native_table(given, data))
    rows = list(whole_chain_rows(shifted, data))
    found = next(one for one in rows if "median energy without weights" in one["line"])
    assert found["value"] == pytest.approx(shift, abs=4 * np.sqrt(np.pi / N_DRAWS))


def test_samples_elsewhere_say_nothing_about_the_native_basin(native_draws):
    """Of ten draws in the basin and many outside, with equal weights, ten count."""
    given, far = native_draws.samples, native_draws.data.system.positions * 1.5
    positions = np.where((np.arange(N_DRAWS) < 10)[:, None, None], given.positions, far)
    few = Samples(positions, np.zeros(N_DRAWS), np.zeros(N_DRAWS), 350.0, given.system, n_walkers=40)
    assert few.ess() * N_DRAWS == pytest.approx(N_DRAWS)
    assert native_worth(few)[0] == pytest.approx(10)
    nothing = Samples(far + 0 * positions, few.log_q, few.log_q, 350.0, given.system)
    assert native_worth(nothing) == (0.0, np.inf)
