"""The main job in miniature: every stage, resuming, and the summary's keys."""

import json

import pytest

from openmm_bg.errors import InputError
from openmm_bg.main_job import MainJobSettings, run_main_job
from openmm_bg.simulation import SimulationSettings
from openmm_bg.training import TrainingSettings


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_main_job(tmp_path):
    settings = MainJobSettings(
        simulation=SimulationSettings(n_walkers=64, n_frames=6400, interval=10, burn_in=200, hot_start=800.0),
        training=TrainingSettings(n_steps=60, validation_interval=30, validation_samples=100, n_layers=2),
        n_samples=400,
        n_replicas=2,
        n_iterations=12,
        n_proposals=4,
    )
    lines = []
    summary = run_main_job(tmp_path / "job", settings, say=lines.append)
    assert len(lines) == 6
    assert summary == json.loads((tmp_path / "job" / "summary.json").read_text())
    wanted = {
        "ess_600K",
        "ess_300K",
        "pareto_k_600K",
        "pareto_k_300K",
        "n_energy_evaluations",
        "training_frames",
    }
    wanted |= {"p_phi_positive_300K", "p_phi_positive_300K_stderr", "acceptance_300K", "wall_seconds"}
    assert wanted <= summary.keys()
    assert summary["training_frames"] == 6400
    assert set(summary["p_phi_positive_300K"]) == {"samples", "chain", "shipped", "reference"}
    for figure in ("P(beta/PPII)", "P(alpha-R)", "mean energy (kT)", "std of energy (kT)"):
        assert {"value", "stderr", "z", "agrees"} <= summary["figures_300K"][figure]["chain"].keys()
    evaluations = summary["n_energy_evaluations_by_stage"]
    assert evaluations["sampling"] == 1200
    # Steps and the end of the dynamics; proposals, the configuration before them and the end; three forces for new
    # velocities; the exchange.
    assert evaluations["exchange"] == 12 * 2 * ((100 + 1) + (4 + 1 + 1) + 3 + 1)
    for name in (
        "ramachandran.png",
        "ramachandran.svg",
        "torsions.csv",
        "data/trajectory.h5",
        "model/model.json",
        "report.html",
    ):
        assert (tmp_path / "job" / name).stat().st_size > 0
    # Nothing is done again: the stages say so by staying silent, but for the exchange, which looks at its storage.
    lines.clear()
    again = run_main_job(tmp_path / "job", settings, say=lines.append)
    assert len(lines) == 1
    assert again["figures_300K"] == summary["figures_300K"]
    with pytest.raises(InputError, match="other settings"):
        run_main_job(tmp_path / "job", MainJobSettings(seed=3))
