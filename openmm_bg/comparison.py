"""Comparison of samples and chains with a reference, figure by figure, in standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openmm_bg.analysis import BASINS, PHI_POSITIVE, Ramachandran, energy_statistics
from openmm_bg.statistics import Estimate, z_score
from openmm_bg.units import thermal_energy

AGREEMENT = 3.5
"""Figures agree if they differ by at most this many combined standard errors."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A set of configurations at one temperature, reduced to what is compared.

    Attributes:
        ramachandran: Backbone torsions, with weights if they are samples.
        potential_energy: Potential energies [kJ/mol] with shape=(n,).
        temperature: Temperature [K].
    """

    ramachandran: Ramachandran
    potential_energy: np.ndarray
    temperature: float

    def figures(self) -> dict[str, Estimate]:
        """Return the figures that are compared, by name; energies in kT."""
        r = self.ramachandran
        figures = {"P(phi > 0)": r.population(PHI_POSITIVE)}
        figures |= {f"P({name})": r.population(basin) for name, basin in BASINS.items()}
        energy = self.potential_energy / thermal_energy(self.temperature)
        found = energy_statistics(energy, r.log_weights, r.n_walkers)
        return figures | {"mean energy (kT)": found["mean"], "std of energy (kT)": found["std"]}


def compare(reference: Ensemble, others: dict[str, Ensemble]) -> dict[str, dict[str, Any]]:
    """Compare ensembles with a reference.

    Args:
        reference: The reference.
        others: What to compare with it, by name.

    Returns:
        For each figure, by name of the ensemble ("reference" included): value, standard error, and for the
        others the difference from the reference in combined standard errors and whether they agree.
    """
    expected = reference.figures()
    table: dict[str, dict[str, Any]] = {
        name: {"reference": {"value": value, "stderr": stderr}} for name, (value, stderr) in expected.items()
    }
    for label, ensemble in others.items():
        for name, found in ensemble.figures().items():
            z = z_score(found, expected[name])
            table[name][label] = {
                "value": found.value,
                "stderr": found.stderr,
                "z": z,
                "agrees": bool(abs(z) <= AGREEMENT),
            }
    return table
