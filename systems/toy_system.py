"""Toy systems with exact answers: a few coordinates with a simple energy, as an OpenMM system.

Lengths are in nm, energies in kJ/mol and temperatures in K, as everywhere. The literature's toys have no
units and are studied at "T = 1"; here that is `UNIT_TEMPERATURE`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.systems.molecular_system import MolecularSystem
from openmm_bg.units import BOLTZMANN_CONSTANT, nanometers, thermal_energy

if TYPE_CHECKING:
    import openmm

UNIT_TEMPERATURE = 1.0 / BOLTZMANN_CONSTANT
"""The temperature [K] at which kT is 1 kJ/mol (120.27 K): the "T = 1" of toy systems in the literature."""


class ToySystem(ABC):
    """A system of few coordinates whose Boltzmann distribution is known exactly.

    OpenMM knows particles in three dimensions only. The toy's coordinates are some of their 3N Cartesian
    coordinates; each of the others has a spring of its own, z^2 / 2 (standard normal at T = 1), and
    nothing to do with the toy. All exact answers are about the toy's coordinates alone.

    Args:
        molecule: The OpenMM system with its topology and reference positions.
        components: Which of the flattened 3N Cartesian coordinates are the toy's, in its order.
    """

    def __init__(self, molecule: MolecularSystem, components: Sequence[int]) -> None:
        self.molecule = molecule
        self.components = tuple(int(k) for k in components)

    @property
    def name(self) -> str:
        """The system's name."""
        return self.molecule.name

    @property
    def dimension(self) -> int:
        """The number d of the toy's coordinates."""
        return len(self.components)

    @property
    def fill_components(self) -> tuple[int, ...]:
        """The other Cartesian coordinates, which only fill up the particles."""
        return _others(self.molecule.n_atoms, self.components)

    @abstractmethod
    def _energy(self, x: np.ndarray) -> np.ndarray:
        """Return energies [kJ/mol] of checked coordinates."""

    @abstractmethod
    def sample(self, n: int, temperature: Any, rng: np.random.Generator) -> np.ndarray:
        """Draw n independent samples [nm] of the Boltzmann distribution, with shape=(n, d).

        Args:
            n: How many.
            temperature: Temperature [K].
            rng: Source of randomness.
        """

    @abstractmethod
    def log_z(self, temperature: Any) -> float:
        """Return the logarithm of Z, the integral of exp(-U / kT) over the toy's coordinates [nm^d]."""

    @abstractmethod
    def mean_energy(self, temperature: Any) -> float:
        """Return the mean energy [kJ/mol] at a temperature [K]."""

    def energy(self, x: Any) -> np.ndarray:
        """Return the energies [kJ/mol] with shape=(n,) of coordinates alone; +inf where undefined.

        Args:
            x: Coordinates [nm] with shape=(n, d).

        Raises:
            InputError: If they have another shape.
        """
        energy = self._energy(self._checked(x))
        return np.where(np.isnan(energy), np.inf, energy)

    def log_prob(self, x: Any, temperature: Any) -> np.ndarray:
        """Return the exact log-densities [per nm^d] with shape=(n,).

        Args:
            x: Coordinates [nm] with shape=(n, d).
            temperature: Temperature [K].
        """
        return -self.energy(x) / thermal_energy(temperature) - self.log_z(temperature)

    def entropy(self, temperature: Any) -> float:
        """Return the differential entropy at a temperature [K], in nats.

        It is the least mean negative log-likelihood per configuration that any model can reach.
        """
        return self.mean_energy(temperature) / thermal_energy(temperature) + self.log_z(temperature)

    def to_positions(self, x: Any, fill: Any = None) -> np.ndarray:
        """Return positions [nm] with shape=(n, n_atoms, 3).

        Args:
            x: Coordinates [nm] with shape=(n, d).
            fill: The other coordinates [nm] with shape=(n, n_fill); zero if not given.

        Raises:
            InputError: If one of them has another shape.
        """
        x = self._checked(x)
        positions = np.zeros((len(x), 3 * self.molecule.n_atoms))
        positions[:, self.components] = x
        if fill is not None:
            fill, others = np.asarray(nanometers(fill), dtype=np.float64), self.fill_components
            if fill.shape != (len(x), len(others)):
                raise InputError(
                    f"The fill coordinates must have the shape {(len(x), len(others))}, not {fill.shape}."
                )
            positions[:, others] = fill
        return positions.reshape(len(x), -1, 3)

    def from_positions(self, positions: Any) -> np.ndarray:
        """Return the toy's coordinates [nm] with shape=(n, d) of positions (n, n_atoms, 3) [nm].

        Raises:
            InputError: If the positions have another shape.
        """
        positions = np.asarray(nanometers(positions), dtype=np.float64)
        if positions.ndim != 3 or positions.shape[1:] != (self.molecule.n_atoms, 3):
            raise InputError(
                f"Positions must have the shape (n, {self.molecule.n_atoms}, 3), not {positions.shape}."
            )
        return positions.reshape(len(positions), -1)[:, self.components]

    def _checked(self, x: Any) -> np.ndarray:
        x = np.asarray(nanometers(x), dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise InputError(
                f"Coordinates of {self.name} must have the shape (n, {self.dimension}), not {x.shape}."
            )
        return x

    def _checked_component(self, component: int) -> int:
        if component not in range(self.dimension):
            raise InputError(
                f"{self.name} has the coordinates 0 to {self.dimension - 1}, but no {component!r}."
            )
        return int(component)


def toy_molecule(
    name: str, forces: Sequence[openmm.Force], components: Sequence[int], reference: Sequence[float]
) -> MolecularSystem:
    """Build the particles of a toy: as few as hold its coordinates, of mass 1 Da, without bonds.

    Args:
        name: The system's name.
        forces: The forces on the toy's coordinates.
        components: Which of the 3N Cartesian coordinates are the toy's.
        reference: Their reference values [nm] with shape=(d,).
    """
    import openmm
    from openmm import app

    n_atoms = max(components) // 3 + 1
    system, topology = openmm.System(), app.Topology()
    chain, argon = topology.addChain(), app.Element.getBySymbol("Ar")
    for _ in range(n_atoms):
        system.addParticle(1.0)
        topology.addAtom("Ar", argon, topology.addResidue("TOY", chain))
    for force in [*forces, *_fill_springs(n_atoms, components)]:
        system.addForce(force)
    positions = np.zeros(3 * n_atoms)
    positions[list(components)] = reference
    return MolecularSystem(name, system, topology, positions.reshape(-1, 3), UNIT_TEMPERATURE)


def _others(n_atoms: int, components: Sequence[int]) -> tuple[int, ...]:
    return tuple(k for k in range(3 * n_atoms) if k not in set(components))


def _fill_springs(n_atoms: int, components: Sequence[int]) -> list[openmm.Force]:
    """Return the springs z^2 / 2 of the coordinates that are not the toy's: one force, or none."""
    import openmm

    others = _others(n_atoms, components)
    if not others:
        return []
    force = openmm.CustomExternalForce("0.5*(kx*x^2+ky*y^2+kz*z^2)")
    for axis in "xyz":
        force.addPerParticleParameter(f"k{axis}")
    for atom in sorted({k // 3 for k in others}):
        force.addParticle(atom, [float(3 * atom + axis in others) for axis in range(3)])
    force.setName("fill springs")
    return [force]
