"""New velocities: their distribution, and dynamics that go on from them."""

import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_bg.mcmc.velocities import maxwell_boltzmann, new_velocities
from openmm_bg.units import BOLTZMANN_CONSTANT

NM_PER_PS = unit.nanometer / unit.picosecond
T, N, TIMESTEP = 300.0, 60_000, 0.002
MASS = 2.0
FREQUENCIES = (
    np.array([0.1, 0.4, 0.7]) / TIMESTEP
)  # [1/ps]: those of bonds with hydrogens have omega dt = 0.6


def oscillators() -> tuple[openmm.Context, np.ndarray]:
    """A Context of many independent particles, each with another stiffness in x, y and z; and exact positions."""
    system = openmm.System()
    force = openmm.CustomExternalForce("0.5*(kx*x^2 + ky*y^2 + kz*z^2)")
    for name, k in zip(("kx", "ky", "kz"), MASS * FREQUENCIES**2, strict=True):
        force.addGlobalParameter(name, k)
    for index in range(N):
        system.addParticle(MASS)
        force.addParticle(index, [])
    system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(T, 1.0, TIMESTEP)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    width = np.sqrt(BOLTZMANN_CONSTANT * T / MASS) / FREQUENCIES
    return context, width * np.random.default_rng(0).normal(size=(N, 3))


def deviations(context: openmm.Context, velocities: unit.Quantity) -> np.ndarray:
    """The largest deviation of <x^2> from kT/k while dynamics go on, in standard errors, for each stiffness."""
    context.setVelocities(velocities)
    worst = np.zeros(3)
    for _ in range(20):
        context.getIntegrator().step(1)
        x = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        squares = x**2 * MASS * FREQUENCIES**2 / (BOLTZMANN_CONSTANT * T)
        worst = np.maximum(worst, np.abs(squares.mean(axis=0) - 1) / np.sqrt(2 / N))
    return worst


@pytest.mark.parametrize("how", ["new velocities", "half a kick back", "none"])
def test_dynamics_that_go_on_keep_the_distribution(how: str) -> None:
    """To the next order in omega dt; a half kick alone heats stiff bonds, and no kick at all much more."""
    context, x = oscillators()
    masses = np.full(N, MASS)
    if how == "new velocities":
        velocities = new_velocities(context, x, masses, T, TIMESTEP)
        found = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        assert np.allclose(found, x)  # where dynamics go on from
        assert deviations(context, velocities).max() < 4.5
        return
    context.setPositions(x)
    velocities = maxwell_boltzmann(masses, T)
    if how == "half a kick back":
        velocities += unit.Quantity(0.5 * TIMESTEP * FREQUENCIES**2 * x, NM_PER_PS)
    slow, _, stiff = deviations(context, velocities)
    assert stiff > (12 if how == "half a kick back" else 60)
    assert stiff > 3 * slow


def test_half_step_velocities_are_those_of_the_stationary_chain() -> None:
    """Their variance is kT/m for every stiffness, and their covariance with positions that of half a kick."""
    context, x = oscillators()
    v = new_velocities(context, x, np.full(N, MASS), T, TIMESTEP).value_in_unit(NM_PER_PS)
    kt_over_m = BOLTZMANN_CONSTANT * T / MASS
    h = FREQUENCIES * TIMESTEP
    # The root is taken to first order: (1 - h^2/8)^2 for 1 - h^2/4.
    assert np.abs((v**2).mean(axis=0) / kt_over_m - 1 - h**4 / 64).max() < 4.5 * np.sqrt(2 / N)
    covariance = (x * v).mean(axis=0) * FREQUENCIES / kt_over_m
    assert np.abs(covariance - 0.5 * h).max() < 4.5 * np.sqrt(1.5 / N)


def test_redrawn_velocities_are_maxwell_boltzmann() -> None:
    masses, temperature, n = np.array([1.008, 12.0, 39.948]), 450.0, 4000
    drawn = [maxwell_boltzmann(masses, temperature).value_in_unit(NM_PER_PS) for _ in range(n)]
    reduced = np.array(drawn) / np.sqrt(BOLTZMANN_CONSTANT * temperature / masses)[:, None]
    # Means and mean squares of unit normals have standard errors of sqrt(1/n) and sqrt(2/n).
    assert np.abs(reduced.mean(axis=0)).max() < 4.5 / np.sqrt(n)
    assert np.abs((reduced**2).mean(axis=0) - 1).max() < 4.5 * np.sqrt(2 / n)
