"""Take molecules from files the whole way through the commands, and judge them against parallel tempering.

Ace-Ala-Ala-Nme and Ace-Ser-Nme (PDB files and force fields) and toluene (AMBER's files) go through check, simulate,
train, sample, exchange and report; so does chignolin, whose figures are reported, not judged, as is what a
nanosecond at 300 K does to its native structure. The references are batched parallel tempering, which knows nothing
of flows. Finished commands are not run again; to redo them remove their folder in --work.

Writes docs/results/molecules.json and the reports to --work. About three hours on two cores.

Example: python scripts/verify_molecules.py --only toluene
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from openmm_bg.analysis import BASINS, PHI_POSITIVE
from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json
from openmm_bg.io import read_frames
from openmm_bg.observables import load_reference_positions, observable
from openmm_bg.statistics import (
    Estimate,
    chain_mean,
    chain_population,
    effective_sample_size,
    pareto_k,
    population,
    weighted_mean,
    z_score,
)
from openmm_bg.systems import build_peptide
from openmm_bg.trajectories import Frames
from openmm_bg.units import thermal_energy

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "molecules.json"
OPENMM_BG = Path(sys.executable).parent / "openmm-bg"
COMMAND = "python scripts/verify_molecules.py"
HOT, COLD = 600, 300
"""Temperatures [K] of training and of the extrapolation."""

REFERENCE_LADDERS = {HOT: (756, 952, 1200), COLD: (378, 476, 600, 756, 952)}
"""Higher temperatures [K] of the parallel tempering at each of them."""

NANOSECOND = {
    "rmsd:ca": "RMSD of alpha carbons from the native structure (nm)",
    "distance:ASP3-N,THR8-O": "Asp3 N - Thr8 O (nm)",
    "contacts": "fraction of native contacts",
    "rg": "radius of gyration (nm)",
}
"""What is reported of chignolin's dynamics, by observable."""

NANOSECOND_RUN = "chignolin-nanosecond"
AGREEMENT = 3.5
ENERGY = "mean energy (kT)"
States = dict[str, np.ndarray]


@dataclass(frozen=True)
class Molecule:
    """A molecule, its files as options of the commands, and the states whose populations are compared."""

    name: str
    files: Callable[[Path], list[str]]
    states: Callable[[Frames], States]


# ---------------------------------------------------------------------------------------------- molecules


def peptide_files(sequence: str, *force_field: str) -> Callable[[Path], list[str]]:
    """Return a function that writes a capped peptide as a PDB file and names it and a force field."""

    def write(folder: Path) -> list[str]:
        from openmm import app, unit

        topology, positions = build_peptide(sequence)
        path = folder / "molecule.pdb"
        with path.open("w") as file:
            app.PDBFile.writeFile(topology, positions * unit.nanometer, file, keepIds=True)
        return ["--pdb", str(path), *(word for name in force_field for word in ("--forcefield", name))]

    return write


def toluene_files(folder: Path) -> list[str]:
    """Copy AMBER's files of toluene, which openmmtools installs; return their options."""
    source = Path(find_spec("openmmtools").origin).parent / "data" / "benzene-toluene-implicit"
    options = []
    for option, suffix in (("--prmtop", "prmtop"), ("--inpcrd", "inpcrd")):
        shutil.copy(source / f"solvent.{suffix}", folder / f"toluene.{suffix}")
        options += [option, str(folder / f"toluene.{suffix}")]
    return [*options, "--implicit-solvent", "OBC2"]


def peptide_states(*side_chains: str) -> Callable[[Frames], States]:
    """Return a function to the basins of every residue and the three wells of side-chain torsions.

    Configurations with a cis peptide bond are in no state, and "trans" holds the others: neither method crosses
    to cis often enough for its population.
    """

    def states(frames: Frames) -> States:
        torsions = {}
        for residue in frames.topology.residues:
            for kind in ("phi", "psi", "omega", *side_chains):
                try:
                    name = f"{kind}:{residue.resSeq}"
                    torsions[name] = observable(name, frames.topology)(frames.positions)
                except InputError:
                    continue  # a cap
        found: States = {"trans": np.all([np.cos(torsions[k]) < 0 for k in torsions if "omega" in k], axis=0)}
        for name in torsions:
            kind, residue = name.split(":")
            if kind == "phi" and f"psi:{residue}" in torsions:
                angles = torsions[name], torsions[f"psi:{residue}"]
                found[f"phi > 0, residue {residue}"] = PHI_POSITIVE.contains(*angles)
                for basin, area in BASINS.items():
                    found[f"{basin}, residue {residue}"] = area.contains(*angles)
            elif kind in side_chains:
                found |= {f"{kind} {label}": inside for label, inside in wells(torsions[name])}
        return found

    return states


def toluene_states(frames: Frames) -> States:
    """Return the three wells of the methyl group, and where a hydrogen stands upright on the ring."""
    hydrogens = [atom.index for atom in frames.topology.atoms if atom.element.symbol == "H"]
    bonds = {frozenset((a.index, b.index)) for a, b in frames.topology.bonds}
    carbons = [atom.index for atom in frames.topology.atoms if atom.element.symbol == "C"]
    near = {c: [b for b in range(frames.topology.n_atoms) if frozenset((c, b)) in bonds] for c in carbons}
    (methyl,) = (c for c in carbons if sum(b in hydrogens for b in near[c]) == 3)
    (ipso,) = (b for b in near[methyl] if b in carbons)
    ortho = min(b for b in near[ipso] if b != methyl)
    hydrogen = min(b for b in near[methyl] if b in hydrogens)
    names = [f"{a.residue}-{a.name}" for a in map(frames.topology.atom, (ortho, ipso, methyl, hydrogen))]
    angle = observable("dihedral:" + ",".join(names), frames.topology)(frames.positions)
    upright = np.abs(np.degrees(np.arcsin(np.sin(3 * angle)))) > 45  # the barrier is sixfold
    found: States = {"trans": np.ones(len(angle), dtype=bool), "methyl hydrogen upright": upright}
    return found | {f"methyl {label}": inside for label, inside in wells(angle)}


def wells(angle: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the thirds of the circle [rad] with their names."""
    degrees = np.degrees(angle) % 360
    for low in (0, 120, 240):
        yield f"in ({low}, {low + 120})", (degrees >= low) & (degrees < low + 120)


MOLECULES = [
    Molecule("toluene", toluene_files, toluene_states),
    Molecule(
        "ace-ser-nme",
        peptide_files("S", "amber14-all.xml", "implicit/obc2.xml"),
        peptide_states("chi1"),
    ),
    Molecule("ace-ala-ala-nme", peptide_files("AA", "amber99sb.xml", "amber99_obc.xml"), peptide_states()),
]


# ----------------------------------------------------------------------------------------------- commands


class Runner:
    """Runs commands of openmm-bg in a folder, each of them once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._done = folder / "commands.json"
        self.seconds: dict[str, float] = json.loads(self._done.read_text()) if self._done.exists() else {}

    def __call__(self, *words: object) -> None:
        """Run a command, unless it has been; it continues if it was interrupted."""
        line = " ".join(["openmm-bg", *(str(word) for word in words)])
        if line in self.seconds:
            return
        print(line, flush=True)
        start = time.perf_counter()
        with (self.folder / "output.log").open("a") as log:
            log.write(f"$ {line}\n")
            log.flush()
            command = [str(OPENMM_BG), *(str(word) for word in words)]
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            sys.exit(f"{line}: exit code {code}, see {log.name}")
        self.seconds[line] = round(time.perf_counter() - start, 1)
        atomic_write_json(self._done, self.seconds)


def go_the_whole_way(molecule: Molecule, folder: Path) -> None:
    """Run every command on a molecule, and its references."""
    run = Runner(folder)
    files = molecule.files(folder)
    data, model, samples = folder / "data", folder / "model", folder / "samples_600K.h5"
    cold, chain = folder / "samples_300K.h5", folder / "exchange.nc"
    run("check", *files)
    run("simulate", *files, "-T", HOT, "--hot-start", 1200, "-o", data, "-q")
    run("train", data, "-o", model, "-q")
    run("sample", model, "-T", HOT, "-n", 100_000, "-o", samples, "-q")
    run("sample", model, "-T", COLD, "-n", 100_000, "-o", cold, "-q")
    run("exchange", model, "-o", chain, "-q")
    run("report", data, model, samples, cold, chain, "-o", folder / "report.html", "--title", molecule.name)
    for temperature, ladder in REFERENCE_LADDERS.items():
        rungs = [word for rung in ladder for word in ("--ladder", rung)]
        length = ["--walkers", 64, "--frames", 128_000, "--burn-in", 20_000, "--seed", 7]
        output = ["-o", folder / f"reference_{temperature}K", "-q"]
        run("simulate", *files, "-T", temperature, *rungs, *length, "--hot-start", ladder[-1], *output)


def chignolin_the_same_way(folder: Path) -> None:
    """Run every command on chignolin."""
    run = Runner(folder)
    data, model, samples, chain = (folder / name for name in ("data", "model", "samples.h5", "exchange.nc"))
    run("check", "chignolin")
    run("simulate", "chignolin", "-T", 350, "--frames", 50_000, "--walkers", 128, "-o", data, "-q")
    run("train", data, "-o", model, "--steps", 1500, "--kl-batch-size", 64, "-q")
    run("sample", model, "-T", 350, "-n", 10_000, "-o", samples, "-q")
    limits = ["--temperature-min", 350, "--temperature-max", 500, "--iterations", 100]
    run("exchange", model, *limits, "-o", chain, "-q")
    run("report", data, model, samples, chain, "-o", folder / "report.html", "--title", "chignolin")


def a_nanosecond_of_chignolin(folder: Path) -> None:
    """Run dynamics at 300 K from the native structure."""
    length = ["--walkers", 16, "--frames", 16_000, "--interval", 500, "--burn-in", 0]
    Runner(folder)("simulate", "chignolin", "-T", 300, *length, "-o", folder / "data", "-q")


# ------------------------------------------------------------------------------------------------ judging


def row(line: str, value: float, bound: str, holds: bool, **extra: Any) -> dict[str, Any]:
    """Return one row of the results."""
    found = {"line": line, "value": float(value), "stderr": None, "bound": bound, "holds": bool(holds)}
    return found | {"command": COMMAND, "seed": 0} | extra


def figures(frames: Frames, states: States, *, weighted: bool = True) -> dict[str, Estimate]:
    """Return the probability of each state and the mean energy [kT], without the cis peptide bonds."""
    trans = states["trans"]
    energy = frames.potential_energy / thermal_energy(frames.temperature)
    if frames.n_walkers > 1:
        found = {k: ratio(inside & trans, trans, frames.n_walkers) for k, inside in states.items()}
        return found | {ENERGY: ratio(energy * trans, trans, frames.n_walkers)}
    energy, states = energy[trans], {k: inside[trans] for k, inside in states.items()}
    if weighted and frames.log_weights is not None:
        log_weights = frames.log_weights[trans]
        found = {k: population(inside, log_weights) for k, inside in states.items()}
        return found | {ENERGY: weighted_mean(energy, log_weights)}
    return {k: chain_population(inside) for k, inside in states.items()} | {ENERGY: chain_mean(energy)}


def ratio(values: np.ndarray, within: np.ndarray, n_walkers: int) -> Estimate:
    """Return the sum of values over the number of frames within; the error from the scatter of the walkers."""
    a, b = (np.reshape(one, (-1, n_walkers)).sum(axis=0) for one in (values, within))
    value = a.sum() / b.sum()
    deviation = np.sqrt(n_walkers / (n_walkers - 1) * ((a - value * b) ** 2).sum()) / b.sum()
    return Estimate(float(value), float(deviation))


def largest_difference(found: dict[str, Estimate], expected: dict[str, Estimate]) -> tuple[str, float]:
    """Return the figure that is furthest from what is expected, and how far, in standard errors."""
    scores = {name: z_score(found[name], expected[name]) for name in expected if name != "trans"}
    worst = max(scores, key=lambda name: abs(scores[name]))
    return worst, scores[worst]


def judge(molecule: Molecule, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a molecule."""
    rows, name = [], molecule.name
    seconds = json.loads((folder / "commands.json").read_text())
    rows.append(row(f"{name}: commands that ran without error", len(seconds), "= 9", len(seconds) == 9))
    for temperature in (HOT, COLD):
        samples = read_frames(folder / f"samples_{temperature}K.h5")
        parts = [effective_sample_size(part) for part in np.split(samples.log_weights, 10)]
        ess = effective_sample_size(samples.log_weights)
        rows.append(
            row(
                f"{name}: unclipped ESS at {temperature} K, the least of ten sets of 1e4 samples",
                min(parts),
                ">= 0.02" if temperature == HOT else "reported",
                min(parts) >= 0.02 or temperature == COLD,
                all_samples=ess,
                pareto_k=pareto_k(samples.log_weights),
                finding=temperature == COLD,
            )
        )
        reference = read_frames(folder / f"reference_{temperature}K")
        chain = read_frames(folder / "exchange.nc", temperature=temperature)
        expected = figures(reference, molecule.states(reference))
        by_theory = {k: Estimate(1 / 3, 0.0) for k in expected if k.startswith("methyl in")}
        other = read_frames(folder / f"samples_{HOT + COLD - temperature}K.h5")
        controls = {
            "samples of the other temperature": figures(other, molecule.states(other)),
            "samples without weights": figures(samples, molecule.states(samples), weighted=False),
        }
        for label, frames in (("samples", samples), ("exchange", chain)):
            found = figures(frames, molecule.states(frames))
            figure, z = largest_difference(found, expected | by_theory)
            rows.append(
                row(
                    f"{name}: populations and energy, {temperature} K, {label}: largest z",
                    z,
                    f"|z| <= {AGREEMENT}",
                    abs(z) <= AGREEMENT,
                    figure=figure,
                    figures={k: {"found": found[k], "reference": expected[k]} for k in found},
                )
            )
        for label, found in controls.items():
            figure, z = largest_difference(found, expected)
            noticed = abs(z) > AGREEMENT
            rows.append(
                row(
                    f"{name}: the same at {temperature} K, control, {label}",
                    z,
                    f"|z| > {AGREEMENT}" if "other" in label else "reported",
                    noticed or "other" not in label,  # the weights of a good flow may hardly matter
                    figure=figure,
                    finding="other" not in label,
                )
            )
    return rows


def judge_chignolin(folder: Path) -> list[dict[str, Any]]:
    """Return what is reported of chignolin."""
    seconds = json.loads((folder / "commands.json").read_text())
    samples = read_frames(folder / "samples.h5")
    rows = [row("chignolin: commands that ran without error", len(seconds), "= 6", len(seconds) == 6)]
    ess = effective_sample_size(samples.log_weights)
    found = {"finding": True, "pareto_k": pareto_k(samples.log_weights)}
    return [*rows, row("chignolin: unclipped ESS at 350 K, 1e4 samples", ess, "reported", True, **found)]


def judge_nanosecond(folder: Path) -> list[dict[str, Any]]:
    """Return what is reported of chignolin's dynamics."""
    frames, rows = read_frames(folder / "data"), []
    native = load_reference_positions("chignolin", frames.topology)
    last = frames.positions[-len(frames) // 10 :]  # the last tenth of every walker
    for name, text in NANOSECOND.items():
        values = observable(name, frames.topology, native)(last)
        by_walker = values.reshape(-1, frames.n_walkers).mean(axis=0)
        extra = {"stderr": float(by_walker.std(ddof=1) / np.sqrt(len(by_walker))), "finding": True}
        line = f"chignolin: {text}, last tenth of 1 ns at 300 K from the native structure, 16 walkers"
        rows.append(row(line, values.mean(), "reported", True, walkers=sorted(by_walker.tolist()), **extra))
    return rows


def main() -> int:
    """Run what is missing, judge, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*(molecule.name for molecule in MOLECULES), "chignolin", NANOSECOND_RUN]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--work", type=Path, default=Path("verify_molecules"), help="where runs are kept")
    arguments = parser.parse_args()
    wanted = arguments.only or names
    for molecule in MOLECULES:
        if molecule.name in wanted:
            folder = arguments.work / molecule.name
            go_the_whole_way(molecule, folder)
            record(molecule.name, judge(molecule, folder))
    if "chignolin" in wanted:
        chignolin_the_same_way(arguments.work / "chignolin")
        record("chignolin", judge_chignolin(arguments.work / "chignolin"))
    if NANOSECOND_RUN in wanted:
        a_nanosecond_of_chignolin(arguments.work / NANOSECOND_RUN)
        record(NANOSECOND_RUN, judge_nanosecond(arguments.work / NANOSECOND_RUN))
    rows = json.loads(RESULTS.read_text())
    for found in rows:
        mark = "note" if found.get("finding") else "ok  " if found["holds"] else "FAIL"
        print(f"{mark} {found['line']}: {found['value']:.4g} ({found['bound']}) {found.get('figure', '')}")
    return int(not all(found["holds"] for found in rows))


def record(name: str, found: list[dict[str, Any]]) -> None:
    """Put a molecule's rows into the results."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [one for one in rows if one["molecule"] != name] + [{"molecule": name, **one} for one in found]
    atomic_write_json(RESULTS, rows)


if __name__ == "__main__":
    sys.exit(main())
