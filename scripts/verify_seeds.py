"""Judge everything about seeds 000 and 001, and write docs/results/seeds.json.

The figures of the experiments come from docs/results/seed_000 and seed_001, which the two reproduction scripts
fill; the law of the temperature-steerable flow and the detailed balance of the moves are measured here. Checks
whose rows exist are not run again unless --redo names them.

Example: python scripts/verify_seeds.py --models seed_001/full/alanine/models
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
COMMAND = "python scripts/verify_seeds.py"


def entry(line: str, value: float, bound: str, holds: bool, seed: int = 0) -> dict[str, Any]:
    """Return one row of the results."""
    row = {"line": line, "value": value, "stderr": None, "bound": bound, "holds": bool(holds)}
    return row | {"command": COMMAND, "seed": seed}


def check_seed_000(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Collect the rows of the double well and the harmonic oscillator."""
    from openmm_bg.reproduction.seed_000 import rows

    return rows(RESULTS / "seed_000")


def check_mixture(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Collect the rows of the double-well mixture."""
    from openmm_bg.reproduction.double_well_mixture import rows

    return rows(RESULTS / "seed_001")


def check_alanine(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Collect the rows of alanine dipeptide."""
    path = RESULTS / "seed_001" / "alanine.json"
    if not path.exists():
        raise InputError(f"{path} is missing; scripts/reproduce_seed_001.py makes it.")
    return json.loads(path.read_text())["rows"]


def check_law(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Check the law of the trained flows of alanine dipeptide, and that their samples follow it."""
    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.reproduction.law import RATIOS, deviation_from_law, latent_p_values

    rows = []
    for name in ("tsf", "tsf-affine"):
        flow = BoltzmannGenerator.load(arguments.models / name, dtype=torch.float64).flow
        draws, _, _ = flow.joint_sample(500, generator=torch.Generator().manual_seed(0))
        positions = draws[torch.isfinite(draws).all(-1).all(-1)][:300].numpy()
        worst = max(deviation_from_law(flow, positions, ratio, 1) for ratio in RATIOS)
        line = f"{name}, alanine dipeptide: log q_T - (T0/T) log q_T0, T/T0 from 0.1 to 10, relative spread"
        rows.append(entry(line, worst, "<= 1e-10", worst <= 1e-10))
        control = min(deviation_from_law(flow, positions, ratio, 1, power=1.001) for ratio in RATIOS)
        rows.append(entry(f"control, {name}: exponent off by 0.1 %", control, "> 1e-6", control > 1e-6))
        for ratio in (0.5, 1.0, 2.0):
            found = latent_p_values(flow, ratio, 20_000, 2)
            line = (
                f"{name}: samples at T/T0 = {ratio:g} ({found['outside']:.2%} outside), smallest p of "
                f"{found['latents']} KS tests, times their number"
            )
            rows.append(entry(line, found["p"], ">= 0.01", found["p"] >= 0.01))
        found = latent_p_values(flow, 2.0, 20_000, 2, judged_at=1.6)
        rows.append(
            entry(f"control, {name}: T/T0 = 2 judged at 1.6", found["p"], "< 1e-6", found["p"] < 1e-6)
        )
    return rows


def check_balance(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Check the detailed balance of every move with every flow on a double well, over 20 seeds."""
    from openmm_bg.reproduction import detailed_balance as balance

    rows = []
    for flow in balance.FLOWS:
        model = balance.toy_model(arguments.work / "balance", flow)
        for move in balance.MOVES:
            found = balance.uniformity(model, move, n=arguments.chains, n_seeds=20)
            moved = found.pop("moved")
            for name, p in found.items():
                line = f"{move}, {flow} ({moved:.0%} moved): {name}, p of the uniformity of 20 p-values"
                rows.append(entry(line, p, ">= 0.001", p >= 0.001))
            with balance.broken_ratio():
                broken = balance.uniformity(model, move, n=arguments.chains, n_seeds=20)
            smallest = min(p for name, p in broken.items() if name != "moved")
            line = f"control, {move}, {flow}: density left out, smallest p of the uniformity"
            rows.append(entry(line, smallest, "< 1e-4", smallest < 1e-4))
            print(rows[-4:], flush=True)
    return rows


CHECKS = {
    "seed_000": check_seed_000,
    "mixture": check_mixture,
    "alanine": check_alanine,
    "law": check_law,
    "balance": check_balance,
}


def main() -> int:
    """Run the checks that have no rows yet, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--redo", nargs="+", choices=CHECKS, metavar="CHECK", default=[], help="run again")
    parser.add_argument(
        "--models", type=Path, default=Path("seed_001/full/alanine/models"), help="models of seed 001"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("verify_seeds"), help="where models of toys are kept"
    )
    parser.add_argument("--chains", type=int, default=200, help="chains for each seed of the balance")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    output = RESULTS / "seeds.json"
    rows = json.loads(output.read_text()) if output.exists() else []
    for name in arguments.only or arguments.redo or CHECKS:
        if any(row["check"] == name for row in rows) and name not in arguments.redo:
            continue
        try:
            found = [{"check": name, **row} for row in CHECKS[name](arguments)]
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
        rows = [row for row in rows if row["check"] != name] + found
        atomic_write_json(output, rows)
    for row in rows:
        mark = (
            "ok  "
            if row["holds"]
            else "goal"
            if row.get("goal")
            else "note"
            if row.get("finding")
            else "FAIL"
        )
        print(mark, row["line"], np.format_float_scientific(row["value"], 3), row["bound"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
