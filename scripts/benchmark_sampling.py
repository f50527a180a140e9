"""Compare ways of sampling alanine dipeptide at 300 K: effective samples per second and per energy evaluation.

OpenMM's dynamics, parallel tempering in openmmtools and batched, replica exchange with moves by a flow, learned
replica exchange, chains of the moves alone, and weighted samples of the flow. Methods that have run in --output are
not run again. All use one thread unless told otherwise; about 80 minutes, most of them for parallel tempering in
openmmtools, which crosses the barrier of phi rarely.

Example: python scripts/benchmark_sampling.py demo/model --output benchmark_sampling
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    """Run what is missing, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="directory of a trained model of alanine dipeptide")
    parser.add_argument("--output", type=Path, default=Path("benchmark_sampling"), help="directory to write")
    parser.add_argument(
        "--method", action="append", metavar="NAME", help="run this one only; can be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="minutes, for figures that prove nothing")
    parser.add_argument("--threads", type=int, default=1, help="threads of potentials (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()

    import torch

    from openmm_bg.cli.console import print_table, say
    from openmm_bg.errors import InputError
    from openmm_bg.sampling_benchmark import BenchmarkSettings, run_benchmark
    from openmm_bg.sampling_benchmark.tables import tables
    from openmm_bg.threads import THREADS_VARIABLE

    torch.set_num_threads(1)  # the networks are small
    os.environ[THREADS_VARIABLE] = str(arguments.threads)
    settings = BenchmarkSettings.quick if arguments.quick else BenchmarkSettings
    try:
        summary = run_benchmark(
            arguments.output,
            arguments.model,
            settings(seed=arguments.seed),
            arguments.method,
            progress=not arguments.quiet,
            say=say,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command continues with the method that was stopped.", file=sys.stderr)
        return 130
    for table in tables(summary):
        say("")
        print_table(table.columns, table.rows, table.title)
    say("")
    for row in summary["rows"]:
        mark = "note" if row.get("finding") else "ok  " if row["holds"] else "no  "
        say(f"{mark} {row['line']}: {row['value']:.4g} {row['bound']}")
    say(f"\nAll figures are in {arguments.output / 'sampling.json'}, and drawn in sampling.png beside it.")
    if arguments.quick:
        say("A quick run is far too short for these bounds: only the full one is judged by them.")
    missed = [row for row in summary["rows"] if not (row["holds"] or row.get("goal"))]
    return int(bool(missed) and not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
