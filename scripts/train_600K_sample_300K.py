"""The main job: train a flow on alanine dipeptide at 600 K only, and sample it at 300 K.

Example: python scripts/train_600K_sample_300K.py --output demo
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    """Run the main job and print its figures with their meaning."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), help="directory to write (default: demo)"
    )
    parser.add_argument("--threads", type=int, help="threads of the potential (default: all cores)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()

    import torch

    from openmm_bg.cli.console import print_summary, say
    from openmm_bg.errors import InputError
    from openmm_bg.main_job import run_main_job
    from openmm_bg.statistics import with_error
    from openmm_bg.threads import THREADS_VARIABLE, available_cores

    torch.set_num_threads(1)  # its tensors are small: several threads are not faster
    if arguments.threads or THREADS_VARIABLE not in os.environ:
        os.environ[THREADS_VARIABLE] = str(arguments.threads or available_cores())
    try:
        summary = run_main_job(arguments.output, progress=not arguments.quiet, say=say)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    rows = [
        (
            "ESS at 600 K",
            f"{summary['ess_600K']:.1%}",
            "independent samples per draw, at the training temperature",
        ),
        ("ESS at 300 K", f"{summary['ess_300K']:.1%}", "the same at 300 K, which the flow has never seen"),
        ("Pareto k at 300 K", f"{summary['pareto_k_300K']:.2f}", "below 0.7 the weights can be trusted"),
        (
            "acceptance at 300 K",
            f"{summary['acceptance_300K']:.1%}",
            "of the flow's proposals in the replica exchange",
        ),
        ("energy evaluations", f"{summary['n_energy_evaluations']:.3g}", "by all stages"),
        ("energies from", summary["energies_from"]["simulation"], "in the simulation: the fastest route"),
        ("wall time", f"{summary['wall_seconds_total'] / 60:.1f} min", "all stages"),
    ]
    print_summary(rows, title="Trained at 600 K, sampled at 300 K")
    say("\nAgainst a reference without any flow (differences in combined standard errors):")
    for name, by_label in summary["figures_300K"].items():
        parts = [f"{name:20s}"]
        for label in ("samples", "chain", "shipped", "reference"):
            one = by_label.get(label)
            if one is None:
                continue
            z = f" ({one['z']:+.1f})" if "z" in one else ""
            parts.append(f"{label} {with_error((one['value'], one['stderr']))}{z}")
        say("  " + "   ".join(parts))
    say(f"\nAll within 3.5 standard errors: {'yes' if summary['all_agree'] else 'NO'}")
    say(
        f"Look at {arguments.output / 'report.html'}; all figures are in {arguments.output / 'summary.json'}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
