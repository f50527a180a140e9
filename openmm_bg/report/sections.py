"""What the sections of a report say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.analysis import BASINS, PHI_POSITIVE, Basin, energy_statistics
from openmm_bg.comparison import AGREEMENT, Ensemble, compare
from openmm_bg.plotting import plot_energies, plot_ramachandran
from openmm_bg.report import figures
from openmm_bg.report.page import Picture, Section, Table
from openmm_bg.samples import UNRELIABLE_PARETO_K
from openmm_bg.statistics import with_error
from openmm_bg.trajectories import convergence_statement

if TYPE_CHECKING:
    from openmm_bg.analysis import Ramachandran
    from openmm_bg.report.contents import ConfigurationSet, Contents, ExchangeRun

_FULL = (-180.0, 180.0)
_STATES = {
    "phi": ("φ", "φ > 0", PHI_POSITIVE),
    "psi": ("ψ", "-120° < ψ < 15°", Basin(_FULL, (-120.0, 15.0))),
}
_GREEK = {"phi": "φ", "psi": "ψ", "alpha": "α", "beta": "β"}


def comparison_tables(contents: Contents) -> dict[float, dict[str, dict]]:
    """Return what `compare` finds at each temperature [K] at which there is a reference."""
    found = {}
    for temperature in contents.temperatures:
        reference, others, _ = _compared(contents, temperature)
        if reference and others:
            found[temperature] = compare(_ensemble(reference), {one.label: _ensemble(one) for one in others})
    return found


def says_nothing(figure: str, found: dict[str, Any]) -> bool:
    """Tell whether a figure agrees only since its state was never (or always) seen, which leaves a wide error."""
    unseen = figure.startswith("P(") and not 0.0 < found["value"] < 1.0 - 1e-12
    return unseen and found.get("agrees", False)


def comparison_section(contents: Contents) -> Section:
    """Samples and chains beside the package's reference, figure by figure."""
    section = Section(
        "Against the reference",
        "The reference knows nothing of flows: it is a long parallel tempering that comes with the package. "
        "In brackets the differences from it in combined standard errors; figures agree up to "
        f"{AGREEMENT} of them. A state that was never seen can hardly disagree, and is left out of the count.",
    )
    for temperature, table in comparison_tables(contents).items():
        labels = list(next(iter(table.values())))
        rows = [
            (_in_greek(name), *(_compared_cell(name, by_label[label]) for label in labels))
            for name, by_label in table.items()
        ]
        section.tables.append(Table(f"At {temperature:g} K, with standard errors", ("figure", *labels), rows))
    for temperature in contents.temperatures:
        reference, _, left_out = _compared(contents, temperature)
        if reference and left_out:
            section.warnings.append(
                f"Not compared at {temperature:g} K: {'; '.join(one.label for one in left_out)}. They are of "
                "another energy function than the reference, or do not tell of which (samples and exchange runs "
                "tell it by their model, data by their provenance.json)."
            )
    return section


def _compared(
    contents: Contents, temperature: float
) -> tuple[ConfigurationSet | None, list[ConfigurationSet], list[ConfigurationSet]]:
    """Return the reference at a temperature, what is compared with it, and what cannot be."""
    sets = [one for one in contents.sets if one.is_at(temperature) and one.energies is not None]
    reference = next((one for one in sets if one.kind == "reference"), None)
    others = [one for one in sets if one.kind != "reference" and len(one.ramachandran) == 1]
    same = [one for one in others if reference is not None and one.system_hash == reference.system_hash]
    return reference, same, [one for one in others if one not in same]


def _compared_cell(figure: str, found: dict[str, Any]) -> str:
    text = with_error((found["value"], found["stderr"]))
    if "z" not in found:
        return text
    if says_nothing(figure, found):
        return text + (" (never seen)" if found["value"] == 0.0 else " (always seen)")
    return text + f" ({round(found['z'], 1) + 0.0:+.1f})"  # not -0.0


def _basins() -> str:
    """Say what the basins are."""

    def edges(low: float, high: float) -> str:
        return "any" if high - low == 360.0 else f"{low:g}° to {high:g}°"

    listed = [f"{_in_greek(name)}: φ {edges(*one.phi)}, ψ {edges(*one.psi)}" for name, one in BASINS.items()]
    return (
        "Basins are rectangles, those of alanine dipeptide whatever the residue, given by their edges going up "
        f"(through 180° if the second is lower): {'; '.join(listed)}."
    )


def _in_greek(text: str) -> str:
    for name, letter in _GREEK.items():
        text = text.replace(name, letter)
    return text


def convergence_text(contents: Contents) -> str:
    """Return sentences, each after a space, on whether the starts of simulations agree; empty if there are none."""
    statements = [(one.label, convergence_statement(one.record)) for one in contents.sets]
    return "".join(f" {label}: {statement}." for label, statement in statements if statement)


def ramachandran_sections(contents: Contents) -> list[Section]:
    """A section for each residue: free-energy surfaces, and distributions of phi and psi."""
    sections = []
    for residue in contents.residues:
        section = Section(
            f"Residue {residue}" if residue else "Ramachandran plots",
            "Free energies of the backbone torsions in kT, without colour where nothing was seen. Populations are "
            "those of the basins with their standard errors. Lines have bands of one standard error."
            + ("" if sections else f" {_basins()}")
            + convergence_text(contents),
        )
        where = f"of residue {contents.residue_names.get(residue, residue)}"
        for one in contents.sets:
            torsions = one.ramachandran[residue]
            section.pictures.append(
                Picture(
                    one.label,
                    plot_ramachandran([torsions]),
                    _populations(torsions, one),
                    one.command,
                    f"Free energy of φ and ψ {where}: {one.label}",
                )
            )
        for temperature in contents.temperatures:
            sets = [one for one in contents.sets if one.is_at(temperature)]
            data = [one.ramachandran[residue] for one in sets]
            for angle, (letter, state, basin) in _STATES.items():
                populations = "; ".join(f"{one.label}: {with_error(one.population(basin))}" for one in data)
                title = f"Distribution of {letter} at {temperature:g} K"
                section.pictures.append(
                    Picture(
                        title,
                        figures.plot_marginals(data, angle, [one.colour for one in sets]),
                        f"P({state}): {populations}.",
                        _commands(sets),
                        f"{title}, {where}",
                    )
                )
        sections.append(section)
    return sections


def energy_section(contents: Contents) -> Section:
    """Histograms of the potential energy, their averages and widths."""
    text = "Histograms with bands of one standard error." + convergence_text(contents)
    section = Section("Potential energies", text)
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
                plot_energies(data, colours=[one.colour for one in sets]),
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
                # Of a coarse-grained model it would be relative to an unknown constant.
                with_error((-log_z.value, log_z.stderr)) if one.record.get("normalized", True) else "unknown",
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


def _what_the_flow_does(run: Any) -> str:
    """Say what part the flow has in a run."""
    moves = "a move by the flow before the dynamics of every replica"
    if run.settings.get("sampler") != "learned":
        return f"with {moves}."
    mapped = "whose exchanges go through the map of the flow"
    return f"{mapped}." if run.settings["move"] == "none" else f"{mapped}, and with {moves}."


def _exchange_section(one: ExchangeRun, named: bool) -> Section:
    run = one.run
    n_exact = run.n_iterations - run.n_tuning
    section = Section(
        "Replica exchange" + (f": {one.name}" if named else ""),
        f"{count(run.n_iterations, 'iteration')} at {len(run.temperatures)} temperatures in openmmtools, "
        + _what_the_flow_does(run),
    )
    if n_exact < 2:
        tuning = (
            f", only tuning so far: of the latent move's step size ({run.n_tuning})" if run.n_tuning else ""
        )
        section.warnings.append(
            f"{one.name} has {count(n_exact, 'finished iteration')}{tuning}; figures need two."
        )
        return section
    if run.n_tuning:
        section.warnings.append(
            f"The first {count(run.n_tuning, 'iteration')} tuned the latent move's step size; figures of "
            "configurations leave them out."
        )
    errors = figures.acceptance_errors(run)
    proposals = [_at_least(pair) for pair in zip(run.flow_acceptance, errors, strict=True)]
    exchanges = list(zip(run.exchange_acceptance, run.exchange_acceptance_stderr, strict=True))
    means = [statistics.chain_mean(energy) for energy in run.potential_energy[run.n_tuning :].T]
    energies = [
        (f"{t:.0f} K", run.potential_energy[run.n_tuning :, k], None, 1)
        for k, t in enumerate(run.temperatures)
    ]
    low, high = (f"{run.temperatures[k]:.0f} K" for k in (0, -1))
    section.pictures = [
        Picture(
            "Acceptance",
            figures.plot_acceptance(run),
            f"Of the flow's proposals at {low} {proposals[0]}, at {high} {proposals[-1]}; of exchanges of the two "
            f"lowest temperatures {with_error(exchanges[0])}. Standard errors of proposals are those of "
            "independent ones: a Metropolis chain, which may refuse many in a row, has larger ones, but the counts "
            "of its iterations are not stored. Those of exchanges come from the scatter of iterations.",
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
            plot_energies(energies),
            f"Mean at {low}: {with_error(means[0])} kJ/mol; at {high}: {with_error(means[-1])} kJ/mol.",
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


def _at_least(pair: tuple[float, float]) -> str:
    return (
        with_error(pair).replace(" ± ", ", standard error at least ") if np.isfinite(pair[1]) else "none made"
    )


def count(n: int, what: str) -> str:
    """Return a number of things in words, e.g. "1 iteration"."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _populations(torsions: Ramachandran, one: ConfigurationSet) -> str:
    found = torsions.populations(BASINS)
    parts = [f"{_in_greek(name)} {with_error(estimate)}" for name, estimate in found.items()]
    kind = "draws" if one.kind == "samples" else "frames"
    return f"{', '.join(parts)}, of {one.n_draws:,} {kind}."


def _commands(sets: list[ConfigurationSet]) -> str:
    return "\n".join(dict.fromkeys(one.command for one in sets if one.command and one.kind != "reference"))


def _ensemble(one: ConfigurationSet) -> Ensemble:
    (torsions,) = one.ramachandran.values()
    return Ensemble(torsions, one.energies, one.temperature)


def _percent(estimate: statistics.Estimate) -> str:
    return with_error((100 * estimate.value, 100 * estimate.stderr)) + "\u00a0%"
