"""Make the structures of chignolin that come with the package from its sequences (a minute).

Example:
    python scripts/make_chignolin.py --output systems/data
"""

import argparse
from pathlib import Path


def main() -> None:
    """Write a PDB file for each sequence and conformation; remarks tell how it was made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("systems/data"), help="folder to write")
    folder = parser.parse_args().output

    import numpy as np
    import openmm

    import openmm_bg
    from openmm_bg.systems.chignolin import CONFORMATIONS, NATIVE, chignolin

    folder.mkdir(parents=True, exist_ok=True)
    for sequence in NATIVE:
        for conformation in CONFORMATIONS:
            system = chignolin(sequence, conformation=conformation, from_sequence=True)
            written = np.round(system.positions, 4)  # a PDB file's digits
            with openmm_bg.OpenMMPotential(system, platform="Reference") as potential:
                energy = potential.energy(written[None]).item()
            remarks = (
                f"ACE-{sequence}-NME, {conformation}, built from its sequence and minimised",
                f"amber99sb.xml, implicit/obc1.xml: {energy:.1f} kJ/mol",
                f"openmm_bg {openmm_bg.__version__}, OpenMM {openmm.__version__}: scripts/make_chignolin.py",
            )
            atoms = [line for line in system.topology_pdb().splitlines() if not line.startswith("REMARK")]
            path = folder / f"chignolin_{sequence}_{conformation}.pdb"
            path.write_text("\n".join([*(f"REMARK   6 {remark}" for remark in remarks), *atoms, ""]))
            print(path, *remarks, sep="\n  ")


if __name__ == "__main__":
    main()
