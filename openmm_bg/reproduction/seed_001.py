"""Figure 3 of seed 001 remade: alanine dipeptide."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmm_bg.analysis import torsion_angles
from openmm_bg.comparison import Ensemble
from openmm_bg.files import atomic_write_json, atomic_write_text, provenance
from openmm_bg.reproduction import alanine_results as results
from openmm_bg.reproduction.alanine_chains import Chain, exchange_chain, plain_chain
from openmm_bg.reproduction.alanine_dipeptide import (
    COLD,
    FLOWS,
    HOT,
    AlanineSettings,
    draw,
    model_path,
    run_simulations,
    run_training,
    training_record,
)
from openmm_bg.reproduction.arrays import csv_text
from openmm_bg.stages import Stages

PARTS = ("mixture", "alanine")
"""The experiments of seed 001."""


def run_alanine(
    output: Path,
    settings: AlanineSettings | None = None,
    *,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Remake figure 3 with its numbers, or go on where an earlier call was stopped.

    The directory gets data, models, draws and chains, ``figure_3.png`` with ``figure_3.csv`` (its curves),
    ``effective_sizes.png`` and ``.csv``, and ``alanine.json`` with all numbers.

    Args:
        output: The directory.
        settings: The settings.
        progress: Show progress bars.
        say: Called with a line before each stage.

    Returns:
        The acceptance figures.

    Raises:
        InputError: If the directory holds the results of other settings.
    """
    settings = settings or AlanineSettings()
    stages = Stages(output, dataclasses.asdict(settings), say)
    with stages.stage("Dynamics at 600 K: training data, and the ground truth"):
        run_simulations(output, settings, progress=progress)
    for flow in FLOWS:
        with stages.stage(f"Training: {flow}"):
            run_training(output, flow, settings, progress=progress)
    with stages.stage("Samples of all flows at all temperatures"):
        table = results.effective_sizes(output, settings, progress=progress)
    chains = run_chains(output, settings, stages, progress=progress)
    cold = draw(output, "tsf", COLD, settings.n_samples, settings.seed + 1)
    with_flow = {chain.name: chain for chain in chains[:2]}
    rows, comparison = results.chain_rows(with_flow, chains[2], cold, settings.seed)
    rows = results.ess_rows(table, settings.seed) + rows
    say("Figures")
    _draw_figures(output, settings, table, chains)
    atomic_write_text(output / "effective_sizes.csv", csv_text(table))
    content = {
        "rows": rows,
        "effective_sizes": table,
        "comparison_at_300K": comparison,
        "chains": {chain.name: chain.figures for chain in chains},
        "p_phi_positive_tsf": {
            f"{temperature:g} K, {way}": results.p_phi_positive(
                draw(output, "tsf", temperature, settings.n_samples, settings.seed + 1), weighted=weighted
            )._asdict()
            for temperature in (HOT, COLD)
            for way, weighted in (("unweighted", False), ("weighted", True))
        },
        "models": {flow: training_record(output, flow) for flow in FLOWS},
        "seconds": stages.wall_seconds,
        "record": provenance(seed=settings.seed, settings=stages.settings),
    }
    atomic_write_json(output / "alanine.json", content)
    return rows


def run_chains(
    output: Path, settings: AlanineSettings, stages: Stages, *, progress: bool = False
) -> list[Chain]:
    """Run the chains: latent Monte Carlo on five rungs, flow moves on two, and no flow with as many evaluations."""
    model = model_path(output, "tsf")
    common = {"n_steps": 20, "progress": progress}
    with stages.stage("Parallel tempering of five rungs with the latent Monte Carlo move, in openmmtools"):
        latent = exchange_chain(
            "PT with latent Monte Carlo",
            model,
            output / "latent.nc",
            move="latent",
            n_replicas=5,
            n_iterations=settings.n_latent,
            n_proposals=4,
            seed=settings.seed + 2,
            **common,
        )
    with stages.stage("Parallel tempering of two rungs with the flow move, in openmmtools"):
        flow = exchange_chain(
            "PT with the flow move",
            model,
            output / "flow.nc",
            move="flow",
            n_replicas=2,
            n_iterations=settings.n_flow,
            n_proposals=16,
            seed=settings.seed + 3,
            **common,
        )
    with stages.stage("Parallel tempering of five rungs without a flow"):
        n_evaluations = latent.figures["energy_evaluations"]
        plain = plain_chain(output / "plain.npz", n_evaluations, 5, settings.seed + 4, progress=progress)
    return [latent, flow, plain]


def _draw_figures(
    output: Path, settings: AlanineSettings, table: list[dict[str, Any]], chains: list[Chain]
) -> None:
    from openmm_bg.plotting import save_figure
    from openmm_bg.reproduction.alanine_figures import figure_3_csv, plot_effective_sizes, plot_figure_3
    from openmm_bg.training import load_data

    flow = {
        temperature: results.unweighted(
            draw(output, "tsf", temperature, settings.n_samples, settings.seed + 1), "TSF, unweighted"
        )
        for temperature in (HOT, COLD)
    }
    truth_data = load_data(output / "truth")
    angles = torsion_angles(truth_data.positions, truth_data.system.torsions)
    n_walkers = int(truth_data.record["n_walkers"])
    truth = {
        HOT: Ensemble(
            results.Ramachandran("dynamics", angles["phi"], angles["psi"], n_walkers=n_walkers),
            truth_data.energies,
            HOT,
        ),
        COLD: results.reference(),
    }
    with_flow = [chain.ensemble() for chain in chains[:2]]
    save_figure(plot_figure_3(flow, truth, with_flow), output / "figure_3.png")
    atomic_write_text(output / "figure_3.csv", figure_3_csv(flow, truth, with_flow))
    save_figure(plot_effective_sizes(table), output / "effective_sizes.png")
