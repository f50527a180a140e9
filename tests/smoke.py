"""Try an installed openmm_bg away from its checkout: ``python smoke.py CHECKOUT``."""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np

import openmm_bg
from openmm_bg import OpenMMPotential, TorchPotential, systems


def main() -> None:
    """Check that code and data come from the wheel, and that both potentials agree."""
    checkout = Path(sys.argv[1]).resolve()
    for module in (openmm_bg, systems):
        path = Path(module.__file__ or "").resolve()
        assert not path.is_relative_to(checkout), f"{path} is the checkout's, not the wheel's"
    assert metadata.version("openmm-bg") == openmm_bg.__version__
    assert (Path(openmm_bg.__file__ or "").parent / "py.typed").is_file()

    alanine = systems.load("alanine_dipeptide")
    positions = alanine.positions[None].copy()
    with OpenMMPotential(alanine) as reference:
        expected, expected_forces = reference.energy_and_forces(positions)
    energy, forces = TorchPotential.from_system(alanine.system).energy_and_forces(positions)
    np.testing.assert_allclose(energy, expected, atol=1e-4)
    np.testing.assert_allclose(forces, expected_forces, rtol=1e-5, atol=1e-2)
    print(f"openmm_bg {openmm_bg.__version__} works: U = {energy.item():.3f} kJ/mol")


if __name__ == "__main__":
    main()
