"""A small run with everything in it, and its report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_pieces import RUN_COMMAND, make_model, make_samples, make_simulation

from openmm_bg.files import provenance
from openmm_bg.model_files import model_hash


@pytest.fixture(scope="session")
def run(alanine, md_configurations, tmp_path_factory):
    """The paths of a run like that of ``make demo``, but tiny."""
    from openmm_bg.exchange import run_parallel_tempering

    folder = tmp_path_factory.mktemp("report") / "run"
    folder.mkdir()
    model = make_model(folder / "model", alanine, md_configurations.positions)
    made_with = {"model": str(model), "model_hash": model_hash(model)}
    hot = make_samples(folder / "samples_600K.h5", alanine, md_configurations, 600.0, 0.5, **made_with)
    cold = make_samples(folder / "samples_300K.h5", alanine, md_configurations, 300.0, 1.0, **made_with)
    data = make_simulation(folder / "data", alanine, md_configurations)
    run_parallel_tempering(
        model,
        folder / "exchange.nc",
        n_replicas=2,
        n_iterations=8,
        n_proposals=4,
        n_steps=2,
        platform="Reference",
    )
    summary = {
        "n_energy_evaluations": 1234567,
        "n_energy_evaluations_by_stage": {"simulation": 1200000, "training": 34567},
        "wall_seconds": {"simulate": 12.0, "train": 48.0},
        "wall_seconds_total": 60.0,
        "record": provenance(seed=0, command=RUN_COMMAND),
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return SimpleNamespace(
        folder=folder,
        system=alanine,
        model=model,
        data=data,
        hot=hot,
        cold=cold,
        cold_file=folder / "samples_300K.h5",
        exchange=folder / "exchange.nc",
    )


@pytest.fixture(scope="session")
def page(run) -> Path:
    """The report of the run."""
    from openmm_bg.report import write_report

    return write_report([run.folder], run.folder.parent / "report.html")
