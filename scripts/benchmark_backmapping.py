"""Measure what torsions cost in a backmapping flow by couplings or one after the other, and what whole flows cost.

An autoregressive layer has each torsion depend on all before it, and draws them in as many passes as there are; a
coupling layer takes one pass, and there are several of these. Both have splines with the same bins and networks of
the same width, and see the beads' invariants. The second table is of the package's flows of all coordinates:
couplings, and one rotor after the other, made for configurations of two picoseconds of dynamics at 600 K. Densities
and draws take turns, and medians are compared.

Example: python scripts/benchmark_backmapping.py --system chignolin
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from nflows.transforms import CompositeTransform, MaskedPiecewiseRationalQuadraticAutoregressiveTransform

from openmm_bg import TorchPotential, systems
from openmm_bg.cli.console import print_table
from openmm_bg.coarse_graining.autoregressive_backmapping import TURNING, AutoregressiveBackmapping
from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.choices import selected_atoms
from openmm_bg.coarse_graining.coupling_backmapping import CouplingBackmapping
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.flows.layers import spline_layers
from openmm_bg.simulation import LangevinDynamics
from openmm_bg.systems import MolecularSystem

N_BINS, BOUND = 8, 6.0
KINDS = ("couplings", "autoregressive")
BATCHES = (64, 512)


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


def configurations(system: MolecularSystem, n_walkers: int = 32, n_frames: int = 20) -> torch.Tensor:
    """Return configurations [nm] of dynamics at 600 K with shape=(n_walkers * n_frames, n_atoms, 3)."""
    start = np.repeat(np.asarray(system.positions)[None], n_walkers, axis=0)
    dynamics = LangevinDynamics(
        TorchPotential.from_system(system),
        start,
        system.masses,
        600.0,
        timestep=0.001,
        friction=5.0,
        generator=torch.Generator().manual_seed(0),
    )
    dynamics.step(1000)
    frames = []
    for _ in range(n_frames):
        dynamics.step(50)
        frames.append(dynamics.positions.double())
    return torch.cat(frames)


def whole_flows(
    system: MolecularSystem, atoms: np.ndarray, positions: torch.Tensor, arguments: argparse.Namespace
) -> dict[str, BackmappingFlow]:
    """Return flows of all coordinates that the beads do not fix, of both kinds."""
    bead_map = selection_map(system.n_atoms, atoms)
    invariants = BeadInvariants(len(atoms)).fit(bead_map.beads(positions))
    fitted, turning = (bead_map.coordinates(system.positions, system.bonds, system.masses) for _ in range(2))
    found = {
        "couplings": CouplingBackmapping(
            fitted.fit(positions),
            invariants,
            n_layers=arguments.couplings,
            n_bins=N_BINS,
            hidden_features=arguments.width,
        ),
        "autoregressive": AutoregressiveBackmapping.from_data(
            turning.fit_turning(positions, TURNING),
            invariants,
            positions,
            system.masses,
            n_bins=N_BINS,
            hidden_features=arguments.rotor_width,
        ),
    }
    for flow in found.values():
        flow.set_dtype(torch.float32)
    return found


def compared(functions: dict[tuple[str, str], Callable[[], object]], repeats: int) -> list[tuple[str, ...]]:
    """Time functions in turns.

    Args:
        functions: By what they do, and of which of `KINDS`.
        repeats: How often, after a first time that prepares.

    Returns:
        For each thing that is done its name, both medians [ms], and the median ratio.
    """
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in functions}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for key, function in functions.items():
                start = time.perf_counter()
                function()
                if repeat:
                    seconds[key].append(time.perf_counter() - start)
    rows = []
    for what in dict.fromkeys(what for what, _ in functions):
        ours, theirs = (seconds[what, kind] for kind in KINDS)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        medians = (f"{1e3 * statistics.median(one):.1f}" for one in (ours, theirs))
        rows.append((what, *medians, f"{ratio:.2f}"))
    return rows


def show(title: str, found: dict[int, list[tuple[str, ...]]]) -> None:
    """Print what was compared in batches of several sizes."""
    rows = [(what, str(batch), *figures) for batch, lines in found.items() for what, *figures in lines]
    heads = ("", "batch", *(f"{kind} (ms)" for kind in KINDS), "ratio")
    print_table(heads, rows, title=title)


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
    parser.add_argument(
        "--rotor-width", type=int, default=40, help="of those of rotors (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    system = systems.load(arguments.system)
    atoms = selected_atoms(system, arguments.atoms)
    n_torsions, n_context = system.n_atoms - len(atoms), BeadInvariants(len(atoms)).n_invariants
    layers = {
        "couplings": couplings(n_torsions, n_context, arguments.couplings, arguments.width),
        "autoregressive": autoregressive(n_torsions, n_context, arguments.autoregressive, arguments.width),
    }
    found = {}
    for batch in BATCHES:
        x, context = torch.rand(batch, n_torsions) * 6.0 - 3.0, torch.randn(batch, n_context)
        functions = {}
        for kind, layer in layers.items():
            functions["density", kind] = partial(layer.forward, x, context)
            functions["draw", kind] = partial(layer.inverse, x, context)
        found[batch] = compared(functions, arguments.repeats)
    title = (
        f"{n_torsions} torsions of {arguments.system}, {len(atoms)} beads: {arguments.couplings} couplings, "
        f"{arguments.autoregressive} autoregressive, width {arguments.width}, {arguments.threads} threads"
    )
    show(title, found)

    positions = configurations(system)
    flows, generator = whole_flows(system, atoms, positions, arguments), torch.Generator().manual_seed(0)
    found = {}
    for batch in BATCHES:
        x = positions[:batch]
        beads = x[:, atoms]
        functions = {}
        for kind, flow in flows.items():
            functions["density", kind] = partial(flow.log_prob, x, beads)
            functions["draw", kind] = partial(flow.sample, beads, generator=generator)
        found[batch] = compared(functions, arguments.repeats)
    n_rotors = sum(block.turns for block in flows["autoregressive"].blocks)
    title = (
        f"All of {arguments.system}: {arguments.couplings} couplings of width {arguments.width}; "
        f"{n_rotors} rotors one after the other, width {arguments.rotor_width}"
    )
    show(title, found)


if __name__ == "__main__":
    main()
