"""Small systems whose energy function has parameters, as hosts use them, with exact samples and distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import unit
from openmmtools.alchemy import AbsoluteAlchemicalFactory, AlchemicalRegion, AlchemicalState
from openmmtools.states import CompoundThermodynamicState, GlobalParameterState, ThermodynamicState
from scipy import stats

from openmm_bg.flows import Flow, RealNVP, SplineFlow
from openmm_bg.geometry import dihedrals
from openmm_bg.transforms import CartesianCoordinates, InternalCoordinates
from openmm_bg.units import thermal_energy

COLD, HOT = 300.0, 600.0  # [K]

SPRING = 110.0  # [kJ/mol/nm^2] of each particle, to the origin
SITE = 0.25  # [nm] where the restraint pulls the first particle, along x
GRID = np.linspace(1e-3, 1.8, 3000)  # [nm]


class RestraintState(GlobalParameterState):
    """The stiffness [kJ/mol/nm^2] of a restraint that the host's state controls."""

    stiffness = GlobalParameterState.GlobalParameter("stiffness", standard_value=0.0)


class OtherRestraintState(GlobalParameterState):
    """The stiffness of another restraint."""

    other_stiffness = GlobalParameterState.GlobalParameter("other_stiffness", standard_value=0.0)


def pair(*restraints: str) -> openmm.System:
    """Two particles on springs with charges and a repulsion; restraints by the names of their stiffness."""
    system = openmm.System()
    springs = openmm.CustomExternalForce(f"{0.5 * SPRING}*(x^2+y^2+z^2)")
    nonbonded = openmm.NonbondedForce()
    for _ in range(2):
        springs.addParticle(system.addParticle(40.0), [])
        nonbonded.addParticle(0.1, 0.5, 3.0)  # opposite charges would fall into each other when half coupled
    for force in (springs, nonbonded):
        system.addForce(force)
    for name in restraints:
        restraint = openmm.CustomExternalForce(f"0.5*{name}*(x-{SITE})^2")
        restraint.addGlobalParameter(name, 0.0)
        restraint.addParticle(0, [])
        system.addForce(restraint)
    return system


@dataclass(frozen=True)
class Case:
    """A host's state, and exact samples and distribution functions of its Boltzmann distribution.

    Attributes:
        state: Returns the state at a temperature [K].
        sample: Returns exact samples [nm] with shape=(n, n_atoms, 3) at a temperature.
        uniforms: Returns numbers that are uniform between 0 and 1 if positions have the state's distribution.
        system: The system with its default parameters, which a wrong evaluation would take.
        values: The state's own parameters.
        flow: Returns a flow that knows the system with its default parameters, if that.
    """

    state: Callable[[float], ThermodynamicState]
    sample: Callable[[int, float, np.random.Generator], np.ndarray]
    uniforms: Callable[[np.ndarray, float], list[np.ndarray]]
    system: openmm.System
    values: dict[str, float]
    flow: Callable[[], Flow]


def energies(system: openmm.System, positions: np.ndarray, **parameters: float) -> np.ndarray:
    """Energies [kJ/mol] by a Reference Context."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    for name, value in parameters.items():
        context.setParameter(name, value)
    found = []
    for x in positions:
        context.setPositions(x)
        found.append(context.getState(energy=True).getPotentialEnergy()._value)
    return np.array(found)


def cdf(log_density: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the distribution function of a density on the grid."""
    density = np.exp(log_density - log_density.max())
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return lambda x: np.interp(x, GRID, integral / integral[-1])


def pair_flow() -> Flow:
    """A flow about as wide as the springs."""
    data = np.random.default_rng(0).normal(0.0, np.sqrt(thermal_energy(COLD) / SPRING), (500, 2, 3))
    return RealNVP(CartesianCoordinates(2).fit(data), COLD, n_layers=2, hidden_features=8)


def alchemical() -> Case:
    """The pair, half coupled: its distance by quadrature, its centre a normal one."""
    region = AlchemicalRegion(alchemical_atoms=[0])
    system = AbsoluteAlchemicalFactory().create_alchemical_system(pair(), region)
    values = {"lambda_sterics": 0.1, "lambda_electrostatics": 0.1}
    apart = np.zeros((len(GRID), 2, 3))
    apart[:, 0, 0], apart[:, 1, 0] = 0.5 * GRID, -0.5 * GRID
    potential = energies(system, apart, **values)

    def state(temperature: float) -> ThermodynamicState:
        composable = AlchemicalState.from_system(system)
        for name, value in values.items():
            setattr(composable, name, value)
        return CompoundThermodynamicState(ThermodynamicState(system, temperature * unit.kelvin), [composable])

    def distance(temperature: float) -> Callable[[np.ndarray], np.ndarray]:
        return cdf(2.0 * np.log(GRID) - potential / thermal_energy(temperature))

    def sample(n: int, temperature: float, rng: np.random.Generator) -> np.ndarray:
        r = np.interp(rng.uniform(size=n), distance(temperature)(GRID), GRID)
        axis = rng.normal(size=(n, 3))
        axis *= (0.5 * r / np.linalg.norm(axis, axis=1))[:, None]
        centre = rng.normal(size=(n, 3)) * np.sqrt(thermal_energy(temperature) / (2.0 * SPRING))
        return np.stack([centre + axis, centre - axis], axis=1)

    def uniforms(x: np.ndarray, temperature: float) -> list[np.ndarray]:
        r = np.linalg.norm(x[:, 0] - x[:, 1], axis=1)
        centre = x.mean(axis=1) / np.sqrt(thermal_energy(temperature) / (2.0 * SPRING))
        return [distance(temperature)(r), stats.norm.cdf(centre[:, 0])]

    return Case(state, sample, uniforms, system, values, pair_flow)


# A chain of four atoms: bonds (r0 [nm], k), angles (theta0 [rad], k), torsion (k), the first atom's spring.
BOND, ANGLE, TORSION = (0.15, 20_000.0), (1.9, 200.0), 2.0


def chain() -> Case:
    """A molecule whose last atom a restraint in the lab frame holds, while a spring holds the first.

    Exact samples: bonds, angles and torsion are independent, orientations uniform; then rejection by the restraint.
    """
    system = openmm.System()
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    torsion, spring = (
        openmm.PeriodicTorsionForce(),
        openmm.CustomExternalForce(f"{0.5 * SPRING}*(x^2+y^2+z^2)"),
    )
    restraint = openmm.CustomExternalForce(f"0.5*stiffness*(x-{SITE})^2")
    restraint.addGlobalParameter("stiffness", 0.0)
    for atom in range(4):
        system.addParticle(12.0)
        if atom:
            bonds.addBond(atom - 1, atom, *BOND)
        if atom > 1:
            angles.addAngle(atom - 2, atom - 1, atom, *ANGLE)
    torsion.addTorsion(0, 1, 2, 3, 1, 0.0, TORSION)
    spring.addParticle(0, [])
    restraint.addParticle(3, [])
    for force in (bonds, angles, torsion, spring, restraint):
        system.addForce(force)
    values = {"stiffness": 1500.0}

    def state(temperature: float) -> ThermodynamicState:
        plain = ThermodynamicState(system, temperature * unit.kelvin)
        return CompoundThermodynamicState(plain, [RestraintState(**values)])

    def free(n: int, temperature: float, rng: np.random.Generator) -> np.ndarray:
        kT = thermal_energy(temperature)

        def draw(low: float, high: float, log_density: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            grid = np.linspace(low, high, 4000)
            density = np.exp(log_density(grid))
            return np.interp(rng.uniform(size=n), np.cumsum(density) / density.sum(), grid)

        r = [
            draw(0.05, 0.25, lambda r: 2 * np.log(r) - BOND[1] * (r - BOND[0]) ** 2 / (2 * kT))
            for _ in range(3)
        ]
        theta = [
            draw(0.5, 3.1, lambda a: np.log(np.sin(a)) - ANGLE[1] * (a - ANGLE[0]) ** 2 / (2 * kT))
            for _ in range(2)
        ]
        phi = draw(-np.pi, np.pi, lambda p: -TORSION * (1 + np.cos(p)) / kT)
        zero = np.zeros(n)
        x = np.zeros((n, 4, 3))  # the second bond along z, the first in the plane of x and z
        x[:, 0] = np.stack([r[0] * np.sin(theta[0]), zero, r[0] * np.cos(theta[0])], axis=1)
        x[:, 2, 2] = r[1]
        x[:, 3] = x[:, 2] + r[2][:, None] * np.stack(
            [np.sin(theta[1]) * np.cos(phi), np.sin(theta[1]) * np.sin(phi), -np.cos(theta[1])], axis=1
        )
        x = np.einsum("nij,naj->nai", stats.special_ortho_group.rvs(3, n, random_state=rng), x)
        first = rng.normal(size=(n, 1, 3)) * np.sqrt(kT / SPRING)
        return x - x[:, :1] + first

    def sample(n: int, temperature: float, rng: np.random.Generator) -> np.ndarray:
        x = free(40 * n, temperature, rng)
        weights = np.exp(-0.5 * values["stiffness"] * (x[:, 3, 0] - SITE) ** 2 / thermal_energy(temperature))
        return x[rng.uniform(size=len(x)) < weights][:n]

    def observables(x: np.ndarray) -> list[np.ndarray]:
        return [x[:, 3, 0], x[:, 1, 0], dihedrals(x, np.array([[0, 1, 2, 3]]))[:, 0]]

    exact = {t: np.sort(observables(sample(8_000, t, np.random.default_rng(7)))) for t in (COLD, HOT)}

    def uniforms(x: np.ndarray, temperature: float) -> list[np.ndarray]:
        known = exact[temperature]
        return [np.searchsorted(k, v) / len(k) for k, v in zip(known, observables(x), strict=True)]

    def flow() -> Flow:
        data = free(500, COLD, np.random.default_rng(0))
        coordinates = InternalCoordinates.from_reference(data[0], np.array([[0, 1], [1, 2], [2, 3]])).fit(
            data
        )
        return SplineFlow(coordinates, COLD, n_layers=2, hidden_features=8)

    return Case(state, sample, uniforms, system, values, flow)
