"""Measure what torsions cost in a backmapping flow: by couplings, as in openmm_bg, or one after the other.

An autoregressive layer has each torsion depend on all before it, and draws them in as many passes as there are; a
coupling layer takes one pass, and there are several of these. Both have splines with the same bins and networks of
the same width, and see the beads' invariants. Densities and draws take turns, and medians are compared.

Example: python scripts/benchmark_backmapping.py --system chignolin
"""

import argparse
import statistics
import time

import torch
from nflows.transforms import CompositeTransform, MaskedPiecewiseRationalQuadraticAutoregressiveTransform

from openmm_bg import systems
from openmm_bg.cli.console import print_table
from openmm_bg.coarse_graining.choices import selected_atoms
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.flows.layers import spline_layers

N_BINS, BOUND = 8, 6.0


def couplings(n_torsions: int, n_context: int, n_layers: int, width: int) -> CompositeTransform:
    """Return coupling layers of circular splines."""
    layers = spline_layers(
        torch.ones(n_torsions, dtype=torch.bool),
        n_layers,
        n_bins=N_BINS,
        bound=BOUND,
        hidden_features=width,
        n_blocks=1,
        generator=torch.Generator().manual_seed(0),
        n_context=n_context,
    )
    return CompositeTransform(layers)


def autoregressive(n_torsions: int, n_context: int, n_layers: int, width: int) -> CompositeTransform:
    """Return nflows' autoregressive layers, whose splines are not circular: their cost is the same."""
    return CompositeTransform(
        [
            MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                n_torsions, width, n_context, num_bins=N_BINS, tails="linear", tail_bound=BOUND, num_blocks=1
            )
            for _ in range(n_layers)
        ]
    )


def main() -> None:
    """Time densities and draws of both and print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", default="alanine_dipeptide", help="default: %(default)s")
    parser.add_argument("--atoms", default="name N CA C", help="the beads (default: %(default)s)")
    parser.add_argument("--couplings", type=int, default=8, help="coupling layers (default: %(default)s)")
    parser.add_argument("--autoregressive", type=int, default=1, help="such layers (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="of the networks (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    system = systems.load(arguments.system)
    n_beads = len(selected_atoms(system, arguments.atoms))
    n_torsions, n_context = system.n_atoms - n_beads, BeadInvariants(n_beads).n_invariants
    flows = {
        "couplings": couplings(n_torsions, n_context, arguments.couplings, arguments.width),
        "autoregressive": autoregressive(n_torsions, n_context, arguments.autoregressive, arguments.width),
    }
    rows = []
    for batch in (64, 512):
        x, context = torch.rand(batch, n_torsions) * 6.0 - 3.0, torch.randn(batch, n_context)
        seconds: dict[tuple[str, str], list[float]] = {}
        with torch.no_grad():
            for repeat in range(arguments.repeats + 1):
                for name, flow in flows.items():
                    for what, function in (("density", flow.forward), ("draw", flow.inverse)):
                        start = time.perf_counter()
                        function(x, context)
                        if repeat:  # the first one prepares
                            seconds.setdefault((what, name), []).append(time.perf_counter() - start)
        for what in ("density", "draw"):
            ours, theirs = (seconds[what, name] for name in flows)
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            medians = (f"{1e3 * statistics.median(one):.1f}" for one in (ours, theirs))
            rows.append((what, str(batch), *medians, f"{ratio:.1f}"))
    title = (
        f"{n_torsions} torsions of {arguments.system}, {n_beads} beads: {arguments.couplings} couplings, "
        f"{arguments.autoregressive} autoregressive, width {arguments.width}, {arguments.threads} threads"
    )
    print_table(("", "batch", "couplings (ms)", "autoregressive (ms)", "ratio"), rows, title=title)


if __name__ == "__main__":
    main()
