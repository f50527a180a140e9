"""Measure a training step (density, gradient, Adam) against nflows' own layers in the same architecture.

Both flows have the same couplings, masks, bins and residual networks, on the features of alanine dipeptide
without circular splines, which nflows does not have. Steps alternate, and medians are compared.

Example: python scripts/benchmark_training_step.py --threads 1
"""

import argparse
import statistics
import sys
import time

import torch
from nflows.distributions.normal import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ResidualNet
from nflows.transforms import CompositeTransform, PiecewiseRationalQuadraticCouplingTransform
from torch.nn import functional

from openmm_bg.cli.console import print_table
from openmm_bg.flows import SplineFlow
from openmm_bg.flows.layers import coupling_masks
from openmm_bg.transforms import CartesianCoordinates

N_FEATURES, N_BINS, BOUND, N_BLOCKS = 60, 8, 6.0, 1


def nflows_flow(n_layers: int, width: int) -> torch.nn.Module:
    """Return the flow of nflows' own couplings."""
    generator = torch.Generator().manual_seed(0)
    masks = coupling_masks(torch.zeros(N_FEATURES, dtype=torch.bool), n_layers, generator)

    def network(n_inputs: int, n_outputs: int) -> ResidualNet:
        return ResidualNet(n_inputs, n_outputs, width, num_blocks=N_BLOCKS, activation=functional.silu)

    layers = [
        PiecewiseRationalQuadraticCouplingTransform(
            mask.float(), network, num_bins=N_BINS, tails="linear", tail_bound=BOUND
        )
        for mask in masks
    ]
    return Flow(CompositeTransform(layers), StandardNormal([N_FEATURES]))


def main() -> int:
    """Time the steps of both and print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8, help="couplings (default: 8)")
    parser.add_argument("--width", type=int, default=128, help="of the networks (default: 128)")
    parser.add_argument("--steps", type=int, default=40, help="of each flow (default: 40)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device != "cpu" and not torch.cuda.is_available():
        print("error: there is no such device here; take --device cpu.", file=sys.stderr)
        return 2
    coordinates = CartesianCoordinates(N_FEATURES // 3)
    size = {"n_layers": arguments.layers, "hidden_features": arguments.width}
    ours = SplineFlow(coordinates, 600.0, n_bins=N_BINS, bound=BOUND, n_blocks=N_BLOCKS, **size)
    theirs = nflows_flow(arguments.layers, arguments.width)
    flows = {"openmm_bg": (ours, ours.state_log_prob), "nflows": (theirs, theirs.log_prob)}
    optimizers = {}
    for name, (flow, _) in flows.items():
        flow.to(arguments.device)
        optimizers[name] = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)
    rows = []
    for batch_size in (256, 1024):
        x = torch.randn(batch_size, N_FEATURES, device=arguments.device)
        seconds: dict[str, list[float]] = {name: [] for name in flows}
        for step in range(arguments.steps + 3):
            for name, (_, log_prob) in flows.items():
                start = time.perf_counter()
                optimizers[name].zero_grad()
                (-log_prob(x).mean()).backward()
                optimizers[name].step()
                if arguments.device != "cpu":
                    torch.cuda.synchronize()
                if step >= 3:  # the first ones prepare
                    seconds[name].append(time.perf_counter() - start)
        medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
        ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
        cells = [f"{medians[name]:.1f}" for name in flows]
        rows.append((str(batch_size), *cells, f"{ratio:.2f}"))
    title = f"training step, {arguments.layers} couplings of width {arguments.width}, {arguments.device}, "
    header = ("batch", "openmm_bg (ms)", "nflows (ms)", "ratio")
    print_table(header, rows, title=f"{title}{arguments.threads} threads")
    return 0


if __name__ == "__main__":
    sys.exit(main())
