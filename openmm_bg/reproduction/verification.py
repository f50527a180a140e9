"""The acceptance figures of seeds 000 and 001: collected from the experiments' outputs, or measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json
from openmm_bg.reproduction import detailed_balance as balance
from openmm_bg.reproduction import double_well_mixture, seed_000
from openmm_bg.reproduction.law import RATIOS, deviation_from_law, sample_p_values

COMMAND = "python scripts/verify_seeds.py"
_LEVEL = 1e-4  # of each of the some two hundred tests of balance: together they fail in one of fifty cases
_CONTROL = 1e-6


@dataclass(frozen=True)
class Sources:
    """Where the experiments' outputs are, and where the parts worth keeping go.

    Args:
        seed_000: Output of ``reproduce_seed_000.py``.
        seed_001: Output of ``reproduce_seed_001.py``: the directory with ``mixture`` and ``alanine``.
        results: Where numbers are published; read instead of an output that is not there.
        work: Where models of toys are kept.
        n_chains: Chains for each of the 20 seeds of the balance.
    """

    seed_000: Path
    seed_001: Path
    results: Path
    work: Path
    n_chains: int = 100

    def publish(self, output: Path, name: str, files: tuple[str, ...]) -> Path:
        """Copy files of an output to the results, if there is a finished output; return where they are now."""
        target = self.results / name
        if (output / files[0]).exists():
            target.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copyfile(output / file, target / file)
        return target


def check_seed_000(sources: Sources) -> Iterator[dict[str, Any]]:
    """Collect the rows of the double well and the harmonic oscillator."""
    files = ("harmonic_oscillator.json", "double_well.json", "free_energy.csv")
    yield from seed_000.rows(sources.publish(sources.seed_000, "seed_000", files))


def check_mixture(sources: Sources) -> Iterator[dict[str, Any]]:
    """Collect the rows of the double-well mixture."""
    files = ("mixture.json", "mixture.csv", "marginals.csv", "differences.csv")
    yield from double_well_mixture.rows(sources.publish(sources.seed_001 / "mixture", "seed_001", files))


def check_alanine(sources: Sources) -> Iterator[dict[str, Any]]:
    """Collect the rows of alanine dipeptide."""
    files = ("alanine.json", "effective_sizes.csv", "figure_3.csv")
    path = sources.publish(sources.seed_001 / "alanine", "seed_001", files) / files[0]
    if not path.exists():
        raise InputError(
            f"{path} is missing; scripts/reproduce_seed_001.py makes it, and this script copies it."
        )
    yield from json.loads(path.read_text())["rows"]


def check_law(sources: Sources) -> Iterator[dict[str, Any]]:
    """Check the law of the trained flows of alanine dipeptide, and that their samples follow it."""
    from openmm_bg.generator import BoltzmannGenerator

    for name in ("tsf", "tsf-affine"):
        model = sources.seed_001 / "alanine" / "models" / name
        flow = BoltzmannGenerator.load(model, dtype=torch.float64).flow
        draws, _, _ = flow.joint_sample(500, generator=torch.Generator().manual_seed(0))
        positions = draws[torch.isfinite(draws).all(-1).all(-1)][:300].numpy()
        worst = max(deviation_from_law(flow, positions, ratio, 1) for ratio in RATIOS)
        line = f"{name}, alanine dipeptide: log q_T - (T0/T) log q_T0, T/T0 from 0.1 to 10, relative spread"
        yield _row(line, worst, "<=", 1e-10)
        control = min(deviation_from_law(flow, positions, ratio, 1, power=1.001) for ratio in RATIOS)
        yield _row(f"control, {name}: exponent off by 0.1 %", control, ">", 1e-6)
        for ratio in (0.5, 1.0, 2.0):
            found = sample_p_values(flow, ratio, 20_000, 2)
            where = f"{name}: samples at T/T0 = {ratio:g} ({found['outside']:.2%} outside)"
            line = f"{where}, smallest p of {found['n_latents']} KS tests of latents, times their number"
            yield _row(line, found["latents"], ">=", 0.01)
            yield _row(f"{where}, p of the KS test of log q", found["density"], ">=", 0.01)
        found = sample_p_values(flow, 2.0, 20_000, 2, judged_at=1.6)
        for key in ("latents", "density"):
            yield _row(f"control, {name}: T/T0 = 2 judged at 1.6, p of {key}", found[key], "<", _CONTROL)
    spline = BoltzmannGenerator.load(sources.seed_001 / "alanine" / "models" / "spline", dtype=torch.float64)
    found = sample_p_values(spline.flow, 0.5, 20_000, 2)
    yield _row("control: spline flow, which changes volumes, p of log q", found["density"], "<", _CONTROL)


def check_balance(sources: Sources) -> Iterator[dict[str, Any]]:
    """Check the detailed balance of every move on the toys, over 20 seeds."""
    for name, test in balance.balance_tests().items():
        for flow in test.flows:
            model = balance.toy_model(sources.work, test, flow)
            for move in balance.MOVES:
                found, broken = _judged_moves(sources, model, test, move)
                where = f"{move}, {flow}, {name} ({found['moved']:.0%} moved)"
                for kind, p in found["uniformity"].items():
                    yield _row(f"{where}: {kind}, p of the uniformity of 20 p-values", p, ">=", _LEVEL)
                for kind, p in found["pooled"].items():
                    yield _row(f"{where}: {kind}, p of all chains", p, ">=", _LEVEL)
                smallest = min(broken["pooled"].values())
                yield _row(f"control, {where}: wrong ratio, smallest p", smallest, "<", _LEVEL)


def _judged_moves(
    sources: Sources, model: Path, test: balance.BalanceTest, move: str
) -> list[dict[str, Any]]:
    """Judge a move, and that with a wrong ratio, or read what was found before."""
    path = model / f"{move}, {sources.n_chains} chains.json"
    if not path.exists():
        found = [balance.judge_balance(test, model, move, n=sources.n_chains, n_seeds=20)]
        with balance.wrong_ratio(move):
            found.append(balance.judge_balance(test, model, move, n=250, n_seeds=4))
        atomic_write_json(path, found)
    return json.loads(path.read_text())


CHECKS: dict[str, Callable[[Sources], Iterator[dict[str, Any]]]] = {
    "seed_000": check_seed_000,
    "mixture": check_mixture,
    "alanine": check_alanine,
    "law": check_law,
    "balance": check_balance,
}
"""The checks by name; each gives rows of acceptance figures."""


def failed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that do not hold and are neither goals nor findings."""
    return [row for row in rows if not (row["holds"] or row.get("goal") or row.get("finding"))]


def _row(line: str, value: float, relation: str, bound: float, seed: int = 0) -> dict[str, Any]:
    holds = {"<=": value <= bound, ">=": value >= bound, "<": value < bound, ">": value > bound}[relation]
    row = {"line": line, "value": value, "stderr": None, "bound": f"{relation} {bound:g}"}
    return row | {"holds": bool(holds), "command": COMMAND, "seed": seed}
