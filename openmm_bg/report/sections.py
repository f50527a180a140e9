"""What the sections of a report say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import BASINS, PHI_POSITIVE, Basin, energy_statistics
from openmm_bg.comparison import AGREEMENT, Ensemble, compare
from openmm_bg.plotting import plot_ramachandran
from openmm_bg.report import figures
from openmm_bg.report.page import Picture, Section, Table
from openmm_bg.samples import UNRELIABLE_PARETO_K
from openmm_bg.statistics import with_error

if TYPE_CHECKING:
    from openmm_bg.analysis import Ramachandran
    from openmm_bg.report.contents import ConfigurationSet, Contents, ExchangeRun

_FULL = (-180.0, 180.0)
_STATES = {
    "phi": ("φ", "φ > 0", PHI_POSITIVE),
    "psi": ("ψ", "-120° < ψ < 15°", Basin(_FULL, (-120.0, 15.0))),
}
_BASIN_NAMES = {"beta/PPII": "β/PPII", "alpha-R": "α-R", "alpha-L/C7ax": "α-L/C7ax"}


def comparison_tables(contents: Contents) -> dict[float, dict[str, dict]]:
    """Return what `compare` finds at each temperature [K] at which there is a reference."""
    found = {}
    for temperature in contents.temperatures:
        sets = [one for one in contents.sets if one.is_at(temperature) and one.energies is not None]
        references = [one for one in sets if one.kind == "reference"]
        others = [one for one in sets if one.kind != "reference" and len(one.ramachandran) == 1]
        if references and others:
            ensembles = {one.label: _ensemble(one) for one in others}
            found[temperature] = compare(_ensemble(references[0]), ensembles)
    return found


def comparison_section(contents: Contents) -> Section:
    """Samples and chains beside the package's reference, figure by figure."""
    section = Section(
        "Against the reference",
        "The reference knows nothing of flows: it is a long parallel tempering that comes with the package. "
        "In brackets the differences from it in combined standard errors; figures agree up to "
        f"{AGREEMENT} of them.",
    )
    for temperature, table in comparison_tables(contents).items():
        labels = list(next(iter(table.values())))
        rows = []
        for name, by_label in table.items():
            cells = []
            for label in labels:
                one = by_label[label]
                score = f" ({round(one['z'], 1) + 0.0:+.1f})" if "z" in one else ""  # not -0.0
                cells.append(with_error((one["value"], one["stderr"])) + score)
            rows.append((name, *cells))
        section.tables.append(Table(f"At {temperature:g} K, with standard errors", ("figure", *labels), rows))
    return section


def ramachandran_sections(contents: Contents) -> list[Section]:
    """A section for each residue: free-energy surfaces, and distributions of phi and psi."""
    sections = []
    for residue in contents.residues:
        section = Section(
            f"Residue {residue}" if residue else "Ramachandran plots",
            "Free energies of the backbone torsions in kT, without colour where nothing was seen. Populations are "
            "those of the basins with their standard errors. Lines have bands of one standard error.",
        )
        for one in contents.sets:
            torsions = one.ramachandran[residue]
            surface = plot_ramachandran([torsions])
            section.pictures.append(Picture(one.label, surface, _populations(torsions, one), one.command))
        for temperature in contents.temperatures:
            sets = [one for one in contents.sets if one.is_at(temperature)]
            data = [one.ramachandran[residue] for one in sets]
            for angle, (letter, state, basin) in _STATES.items():
                populations = ", ".join(f"{one.label}: {with_error(one.population(basin))}" for one in data)
                section.pictures.append(
                    Picture(
                        f"Distribution of {letter} at {temperature:g} K",
                        figures.plot_marginals(data, angle),
                        f"P({state}): {populations}.",
                        _commands(sets),
                    )
                )
        sections.append(section)
    return sections


def energy_section(contents: Contents) -> Section:
    """Histograms of the potential energy, their averages and widths."""
    section = Section("Potential energies", "Histograms with bands of one standard error.")
    rows = []
    for temperature in contents.temperatures:
        sets = [one for one in contents.sets if one.is_at(temperature) and one.energies is not None]
        if not sets:
            continue
        averages = []
        for one in sets:
            found = energy_statistics(one.energies, one.log_weights, one.n_walkers)
            rows.append((one.label, with_error(found["mean"]), with_error(found["std"]), f"{one.n_draws:,}"))
            averages.append(f"{one.label}: {with_error(found['mean'])} kJ/mol")
        data = [(one.label, one.energies, one.log_weights, one.n_walkers) for one in sets]
        section.pictures.append(
            Picture(
                f"Potential energy at {temperature:g} K",
                figures.plot_energies(data),
                f"Means: {'; '.join(averages)}.",
                _commands(sets),
            )
        )
    if rows:
        header = ("set", "mean (kJ/mol)", "standard deviation (kJ/mol)", "frames or draws")
        section.tables.append(Table("Potential energies with standard errors", header, rows))
    return section


def weight_section(contents: Contents) -> Section:
    """Weights of samples: their distribution, effective sample sizes, and whether to trust them."""
    section = Section(
        "Weights",
        "The effective sample size (ESS) is the fraction 1 / E[(p/q)²] of the draws: what they are worth as "
        "independent samples of the Boltzmann distribution. Pareto k is the shape of the weights' tail: "
        f"averages can be trusted below {UNRELIABLE_PARETO_K}.",
    )
    samples = [one for one in contents.sets if one.kind == "samples"]
    if not samples:
        return section
    rows = []
    for one in samples:
        log_weights = one.all_log_weights
        pareto_k = statistics.pareto_k(log_weights)
        if pareto_k > UNRELIABLE_PARETO_K:
            section.warnings.append(
                f"Pareto k of {one.label} is {pareto_k:.2f}: a few of its draws own the weights, and neither its "
                "averages nor their errors can be trusted."
            )
        log_z = statistics.log_mean_weight(log_weights)
        rows.append(
            (
                one.label,
                f"{one.n_draws:,}",
                _percent(statistics.effective_sample_size_estimate(log_weights)),
                f"{statistics.effective_sample_size(log_weights, 1e-4):.2%}",
                f"{pareto_k:.2f}",
                f"{statistics.normalized_weights(log_weights).max():.2%}",
                with_error((-log_z.value, log_z.stderr)),
                f"{one.record.get('n_out_of_domain', 0)} / {one.record.get('n_nonfinite', 0)}",
            )
        )
    worth = []
    for one in samples:
        ess = statistics.effective_sample_size_estimate(one.all_log_weights)
        worth.append(f"{one.label}: {ess.value * one.n_draws:.0f} ± {ess.stderr * one.n_draws:.0f}")
    sizes = "; ".join(f"{row[0]}: ESS {row[2]}, Pareto k {row[4]}" for row in rows)
    section.pictures = [
        Picture(
            "Distribution of the weights", figures.plot_weights(samples), f"{sizes}.", _commands(samples)
        ),
        Picture(
            "Who owns the weight",
            figures.plot_weight_shares(samples),
            "Equal weights give the dotted line. Independent samples of the target that the draws are worth: "
            + "; ".join(worth)
            + ". The largest single weight: "
            + "; ".join(f"{row[0]}: {row[5]} of the whole" for row in rows)
            + ".",
            _commands(samples),
        ),
    ]
    header = ("samples", "draws", "ESS", "ESS, top 1e-4 clipped", "Pareto k", "largest weight")
    header += ("-ln Z (kT)", "outside domain / no finite energy")
    section.tables.append(Table("Weights of samples", header, rows))
    return section


def exchange_sections(contents: Contents) -> list[Section]:
    """A section for each replica exchange: acceptance, mixing, energies."""
    return [_exchange_section(one, len(contents.exchanges) > 1) for one in contents.exchanges]


def _exchange_section(one: ExchangeRun, named: bool) -> Section:
    run = one.run
    section = Section(
        "Replica exchange" + (f": {one.path.name}" if named else ""),
        f"{run.n_iterations:,} iterations at {len(run.temperatures)} temperatures in openmmtools, with a move by "
        "the flow before the dynamics of every replica.",
    )
    if run.n_iterations < 2:
        section.warnings.append(f"{one.path.name} has only {run.n_iterations} finished iterations.")
        return section
    if run.n_tuning:
        section.warnings.append(
            f"The first {run.n_tuning} iterations tuned the latent move's step size; figures of configurations "
            "leave them out."
        )
    errors = figures.acceptance_errors(run)
    proposals = [with_error(pair) for pair in zip(run.flow_acceptance, errors, strict=True)]
    exchanges = list(zip(run.exchange_acceptance, run.exchange_acceptance_stderr, strict=True))
    means = [statistics.chain_mean(energy) for energy in run.potential_energy[run.n_tuning :].T]
    energies = [
        (f"{t:.0f} K", run.potential_energy[run.n_tuning :, k], None, 1)
        for k, t in enumerate(run.temperatures)
    ]
    section.pictures = [
        Picture(
            "Acceptance",
            figures.plot_acceptance(run),
            f"Of the flow's proposals at {run.temperatures[0]:.0f} K {proposals[0]}, at "
            f"{run.temperatures[-1]:.0f} K {proposals[-1]}. Errors of proposals are binomial, those of "
            "exchanges from the scatter of iterations.",
            one.command,
        ),
        Picture(
            "Walks of the replicas",
            figures.plot_replicas(run),
            f"A colour for each replica. Round trips from the lowest to the highest temperature and back: "
            f"{run.round_trips} ± {max(1.0, np.sqrt(run.round_trips)):.0f} (counting error).",
            one.command,
        ),
        Picture(
            "Energies at all temperatures",
            figures.plot_energies(energies),
            f"Mean at {run.temperatures[0]:.0f} K: {with_error(means[0])} kJ/mol; at "
            f"{run.temperatures[-1]:.0f} K: {with_error(means[-1])} kJ/mol.",
            one.command,
        ),
    ]
    rows = []
    for k, temperature in enumerate(run.temperatures):
        up = with_error(exchanges[k]) if k < len(exchanges) else "–"
        rows.append((f"{temperature:.1f} K", proposals[k], up, with_error(means[k])))
    header = ("temperature", "flow accepted", "exchange with the next", "potential energy (kJ/mol)")
    section.tables.append(Table("With standard errors", header, rows))
    return section


def _populations(torsions: Ramachandran, one: ConfigurationSet) -> str:
    found = torsions.populations(BASINS)
    parts = [f"{_BASIN_NAMES.get(name, name)} {with_error(estimate)}" for name, estimate in found.items()]
    kind = "draws" if one.kind == "samples" else "frames"
    return f"{', '.join(parts)}, of {one.n_draws:,} {kind}."


def _commands(sets: list[ConfigurationSet]) -> str:
    return "; ".join(dict.fromkeys(one.command for one in sets if one.command and one.kind != "reference"))


def _ensemble(one: ConfigurationSet) -> Ensemble:
    (torsions,) = one.ramachandran.values()
    return Ensemble(torsions, one.energies, one.temperature)


def _percent(estimate: statistics.Estimate) -> str:
    return with_error((100 * estimate.value, 100 * estimate.stderr)) + "\u00a0%"
