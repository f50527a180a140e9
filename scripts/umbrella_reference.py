"""Make the second reference of alanine dipeptide at 300 K: umbrella sampling in phi, reweighted with MBAR.

It knows nothing of flows, nor of other temperatures. The run can be interrupted; the same command continues it.

    python scripts/umbrella_reference.py umbrella_300K --output systems/data
"""

import argparse
import json
from pathlib import Path

# The peptide bonds: recorded to see that both stay trans, as they do at 300 K.
OMEGA = {"omega ACE-ALA": (1, 4, 6, 8), "omega ALA-NME": (8, 14, 16, 18)}


def main() -> None:
    """Sample, write the reference, and compare it with parallel tempering."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("--output", type=Path, default=Path("systems/data"), help="folder to write")
    parser.add_argument("--windows", type=int, default=30)
    parser.add_argument("--ladders", type=int, default=32, help="independent ladders of windows")
    parser.add_argument("--frames", type=int, default=800, help="frames of each walker, one per ps")
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()

    from openmm_bg import systems
    from openmm_bg.reference import load_reference, make_umbrella_reference
    from openmm_bg.simulation import UmbrellaSettings, umbrella_sampling
    from openmm_bg.simulation.umbrella import FRAMES
    from openmm_bg.statistics import Estimate, with_error, z_score

    settings = UmbrellaSettings(
        n_windows=arguments.windows,
        n_ladders=arguments.ladders,
        n_frames=arguments.frames,
        seed=arguments.seed,
    )
    system = systems.load("alanine_dipeptide")
    if not (arguments.run / FRAMES).exists():
        umbrella_sampling(
            system.with_torsions({**system.torsions, **OMEGA}), arguments.run, settings, progress=True
        )
    path = make_umbrella_reference(arguments.run, arguments.output)
    print(path)
    estimates = json.loads(path.with_suffix(".json").read_text())["estimates"]
    for name, entry in estimates.items():
        print(f"{name}: {with_error(Estimate(**entry))}")
    tempering = load_reference(system.name, settings.temperature).ramachandran.p_phi_positive()
    z = z_score(Estimate(**estimates["P(phi > 0)"]), tempering)
    print(f"P(phi > 0) of parallel tempering: {with_error(tempering)}, {z:+.1f} standard errors away")


if __name__ == "__main__":
    main()
