"""Seed 001, figure 3: its parts on small data, and that what judges them can say no."""

import dataclasses
import json

import numpy as np
import pytest

from openmm_bg.errors import InputError
from openmm_bg.plotting import save_figure
from openmm_bg.reproduction import alanine_dipeptide as experiment
from openmm_bg.reproduction import alanine_results as results
from openmm_bg.reproduction import seed_001
from openmm_bg.reproduction.alanine_chains import Chain, plain_chain
from openmm_bg.reproduction.alanine_dipeptide import COLD, FLOWS, HOT, AlanineSettings, Draws
from openmm_bg.reproduction.alanine_figures import plot_effective_sizes, plot_figure_3
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.stages import Stages
from openmm_bg.systems import load
from openmm_bg.training import TrainingSettings
from openmm_bg.units import thermal_energy

TINY = AlanineSettings(
    n_frames=1280,
    training=TrainingSettings(n_steps=4, n_layers=2, validation_interval=4, validation_samples=50),
    n_samples=300,
    n_curve=100,
    temperatures=(450.0,),
)


def harmonic_draws(temperature, n=200_000, freedom=3.0, seed=0):
    """Draws of the exact distribution of 2 x `freedom` quadratic degrees of freedom, with uniform angles."""
    rng = np.random.default_rng(seed)
    kt = thermal_energy(temperature)
    energy = kt * rng.gamma(freedom, size=n)
    phi, psi = rng.uniform(-np.pi, np.pi, (2, n))
    return Draws(temperature, -energy / kt, energy, phi, psi)


def test_weights_are_those_of_the_temperature_that_is_asked_for():
    """Exact draws have equal weights; reweighted, their ESS is known: E[w]^2 / E[w^2] of a gamma distribution."""
    draws = harmonic_draws(600.0)
    assert results.quality(draws.log_weights())["ess"] == pytest.approx(1.0, abs=1e-9)
    # w = exp(-a e) with e ~ Gamma(3), a = T0 / T - 1: E[w] = (1 + a)^-3, E[w^2] = (1 + 2 a)^-3.
    for temperature in (300.0, 450.0):
        a = 600.0 / temperature - 1.0
        expected = ((1 + 2 * a) / (1 + a) ** 2) ** 3
        found = results.quality(draws.log_weights(temperature))["ess"]
        assert found == pytest.approx(expected, rel=0.02)


def table(tsf, plain):
    """A table in which all effective sizes are one half but for those that are judged."""
    rows = []
    for flow in FLOWS:
        for temperature in (COLD, HOT):
            own = tsf if flow == "tsf" and temperature == COLD else 0.01 if flow == "tsf-affine" else 0.5
            common = {"flow": flow, "temperature": temperature, "pareto_k": 0.2}
            rows.append({**common, "way": "scaled", "ess": own})
            if temperature == COLD:
                rows.append({**common, "way": "plain", "ess": plain})
    return rows


@pytest.mark.parametrize(
    ("tsf", "plain", "holds"),
    [
        (0.31, 0.01, [True, True, True]),
        (0.04, 0.001, [True, True, False]),
        (0.04, 0.01, [True, False, False]),
        (0.02, 0.001, [False, True, False]),
    ],
)
def test_rows_of_effective_sizes_say_yes_and_no(tsf, plain, holds):
    rows = results.ess_rows(table(tsf, plain), seed=0)
    assert [row["holds"] for row in rows[:3]] == holds
    assert rows[2]["goal"]


def chain(name, shift=0.0, walkers=64):
    """The reference's own frames, or the same with phi shifted."""
    own = results.reference()
    torsions = own.ramachandran
    return Chain(name, torsions.phi + shift, torsions.psi, own.potential_energy, walkers, {})


def with_a_hole():
    """A tenth of the reference's frames, less those of one bin with 3 % of them."""
    own = results.reference()
    torsions, few = own.ramachandran, np.arange(len(own.potential_energy)) % 10 == 0
    probability, edges = np.histogram(np.degrees(torsions.phi), np.arange(-180, 181, 10))
    k = int(np.abs(probability / len(torsions.phi) - 0.03).argmin())
    few &= ~((np.degrees(torsions.phi) >= edges[k]) & (np.degrees(torsions.phi) < edges[k + 1]))
    return Chain("hole", torsions.phi[few], torsions.psi[few], own.potential_energy[few], 1, {})


def test_chains_are_compared_with_the_reference():
    biased = harmonic_draws(300.0, n=20_000)
    chains = {"right": chain("right"), "wrong": chain("wrong", 0.3), "never there": with_a_hole()}
    rows, comparison = results.chain_rows(chains, chain("plain"), biased, 0)
    verdict = {row["line"]: row["holds"] for row in rows}
    assert {row["line"].startswith("plain") for row in rows if row.get("finding")} == {True}
    hole = {line: ok for line, ok in verdict.items() if line.startswith("never there: phi histogram")}
    assert list(hole.values()) == [False]
    assert verdict["right: P(phi > 0) at 300 K, difference from the reference in standard errors"]
    assert [ok for line, ok in verdict.items() if line.startswith("right: phi histogram")] == [True]
    assert [ok for line, ok in verdict.items() if line.startswith("wrong: phi histogram")] == [False]
    assert verdict["control: P(phi > 0) of unweighted TSF samples, difference in standard errors"]
    assert comparison["P(phi > 0)"]["right"]["z"] == 0


def test_trainings_draws_and_figures(tmp_path):
    few = SimulationSettings(n_walkers=64, n_frames=1280, interval=10, burn_in=200)
    simulate(load("alanine_dipeptide"), tmp_path / "data", few)
    experiment.run_training(tmp_path, "tsf", TINY)
    draws = experiment.draw(tmp_path, "tsf", COLD, 300, seed=1)
    again = experiment.draw(tmp_path, "tsf", COLD, 300, seed=1)  # from the file
    assert np.array_equal(draws.log_q, again.log_q)
    assert len(draws.energy) == 300
    assert np.isfinite(draws.log_weights()).sum() > 100
    flow = {t: results.unweighted(harmonic_draws(t, n=2000), "TSF") for t in (HOT, COLD)}
    truth = {HOT: flow[HOT], COLD: results.reference()}
    save_figure(plot_figure_3(flow, truth, [chain("chain").ensemble()]), tmp_path / "figure.png", dpi=50)
    rows = [{**row, "way": row["way"]} for row in table(0.3, 0.001)]
    save_figure(plot_effective_sizes(rows), tmp_path / "sizes.png", dpi=50)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_parallel_tempering_without_a_flow_spends_what_it_is_given(tmp_path):
    found = plain_chain(tmp_path / "plain.npz", 40_000, 5, seed=0)
    assert found.figures["energy_evaluations"] == pytest.approx(40_000, rel=0.05)
    assert (
        len(found.phi)
        == len(found.energy)
        == 4 * (found.figures["iterations"] - found.figures["iterations"] // 10)
    )
    assert np.array_equal(plain_chain(tmp_path / "plain.npz", 40_000, 5, seed=0).phi, found.phi)


def test_results_of_other_settings_are_refused(tmp_path):
    Stages(tmp_path, dataclasses.asdict(TINY))
    with Stages(tmp_path, dataclasses.asdict(TINY)).stage("a stage"):
        pass
    with pytest.raises(InputError, match="holds results of other settings"):
        seed_001.run_alanine(tmp_path, AlanineSettings.quick())
    found = json.loads((tmp_path / "stages.json").read_text())
    assert found["settings"]["n_samples"] == 300
    assert list(found["wall_seconds"]) == ["a stage"]


def test_models_have_as_many_parameters(tmp_path):
    """The flows are compared at equal size, within some percent."""
    from openmm_bg.training.trainer import _FLOWS
    from openmm_bg.transforms import InternalCoordinates

    system, sizes = load("alanine_dipeptide"), []
    for name in FLOWS:
        coordinates = InternalCoordinates.from_reference(system.positions, system.bonds, system.masses)
        if name != "realnvp":
            coordinates.circular[[43, 44, 45, 48, 50, 52]] = True
        settings = AlanineSettings().of(name)
        flow = _FLOWS[settings.flow](coordinates, 600.0, **settings.flow_settings())
        sizes.append(sum(parameter.numel() for parameter in flow.parameters()))
    assert max(sizes) < 1.05 * min(sizes)
