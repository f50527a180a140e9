"""New velocities: their distribution, and what starting leap-frog dynamics from them does."""

import numpy as np
import pytest
from openmm import unit

from openmm_bg.mcmc.velocities import maxwell_boltzmann
from openmm_bg.units import BOLTZMANN_CONSTANT

NM_PER_PS = unit.nanometer / unit.picosecond


@pytest.mark.parametrize("lag", [True, False])
def test_short_dynamics_after_new_velocities_keep_the_distribution(lag: bool) -> None:
    """A stiff oscillator, h = omega dt = 0.5, for a few leap-frog steps: with the lag <x^2> stays within h^2 / 4.

    Without it the error is of first order: the negative control.
    """
    generator = np.random.default_rng(0)
    n, h = 200_000, 0.5
    x, v = generator.normal(size=(2, n))
    if lag:
        v += 0.5 * h * x  # v(-dt/2) = v(0) - f dt / 2 with f = -x
    worst = 0.0
    for _ in range(8):
        v = v - h * x
        x = x + h * v
        worst = max(worst, abs(float((x**2).mean()) - 1.0))
    noise = 4 * np.sqrt(2 / n)
    assert (worst < h**2 / 4 / (1 - h**2 / 4) + noise) if lag else (worst > 0.2)


def test_redrawn_velocities_are_maxwell_boltzmann() -> None:
    masses, temperature, n = np.array([1.008, 12.0, 39.948]), 450.0, 4000
    drawn = [maxwell_boltzmann(masses, temperature).value_in_unit(NM_PER_PS) for _ in range(n)]
    reduced = np.array(drawn) / np.sqrt(BOLTZMANN_CONSTANT * temperature / masses)[:, None]
    # Means and mean squares of unit normals have standard errors of sqrt(1/n) and sqrt(2/n).
    assert np.abs(reduced.mean(axis=0)).max() < 4.5 / np.sqrt(n)
    assert np.abs((reduced**2).mean(axis=0) - 1).max() < 4.5 * np.sqrt(2 / n)
