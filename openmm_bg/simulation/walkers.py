"""What all dynamics share: walkers with positions, velocities, energies and forces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.checks import (
    atom_masses,
    checked_potential,
    positive,
    time_step,
    walker_generator,
    walker_names,
    walker_positions,
    walker_temperatures,
    walker_velocities,
)
from openmm_bg.units import BOLTZMANN_CONSTANT

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Walkers(ABC):
    """Independent walkers on one potential, moved all at once.

    `step` changes positions and velocities in place: clone what is to be kept. Everything stays on the
    device of the positions.

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3); they are copied.
        masses: Masses [Da] with shape=(n_atoms,).
        timestep: Time step [ps].
        dtype: Precision of positions and velocities; that of `positions` if these are a tensor, otherwise
            single.

    Attributes:
        potential: The potential.
        positions: Positions [nm] with shape=(n_walkers, n_atoms, 3).
        velocities: Velocities [nm/ps] with shape=(n_walkers, n_atoms, 3).
        masses: Masses [Da] with shape=(n_atoms,).
        energy: Potential energies [kJ/mol] with shape=(n_walkers,), in the precision of the potential.
        forces: Forces [kJ/mol/nm] with shape=(n_walkers, n_atoms, 3).
        restarts: How often each walker was put back to its last good frame, with shape=(n_walkers,).

    Raises:
        InputError: If the input is ill-formed, or a walker has no finite energy at the start.
    """

    _state_names: tuple[str, ...] = ("positions", "velocities", "energy", "forces", "restarts")

    def __init__(
        self, potential: Potential, positions: Any, masses: Any, *, timestep: Any, dtype: torch.dtype | None
    ) -> None:
        self.potential = checked_potential(potential)
        self._timestep = time_step(timestep)
        self.positions = walker_positions(positions, potential.n_atoms, dtype)
        self.velocities = torch.zeros_like(self.positions)
        self.masses = atom_masses(masses, self.positions)
        # Of the full shape, since broadcasting over the last dimension costs ten times as much.
        self._kick = self._per_coordinate(self._timestep / self.masses)
        self.restarts = torch.zeros(len(self.positions), dtype=torch.int64, device=self.positions.device)
        self._evaluate_start()

    @property
    def timestep(self) -> float:
        """The time step [ps]."""
        return self._timestep

    @property
    def n_restarts(self) -> int:
        """How often walkers were put back to their last good frame, all together."""
        return int(self.restarts.sum())

    @abstractmethod
    def step(self, n_steps: int) -> None:
        """Advance all walkers.

        Args:
            n_steps: The number of steps; zero does nothing.

        Raises:
            InputError: If it is negative or not a whole number.
        """

    def kinetic_energy(self) -> torch.Tensor:
        """Return the kinetic energies [kJ/mol] with shape=(n_walkers,), in double precision."""
        squares = self.velocities.double().square().sum(-1)
        return 0.5 * squares @ self.masses.double()

    def kinetic_temperature(self, n_degrees_of_freedom: int | None = None) -> torch.Tensor:
        """Return 2 K / (n k), the temperature [K] that the velocities suggest, with shape=(n_walkers,).

        Args:
            n_degrees_of_freedom: The number n; all 3 n_atoms if not given, as the motion of the centre of
                mass is not removed here.
        """
        n = 3 * self.positions.shape[1] if n_degrees_of_freedom is None else n_degrees_of_freedom
        return (
            2.0 * self.kinetic_energy() / (positive("number of degrees of freedom", n) * BOLTZMANN_CONSTANT)
        )

    def set_positions(self, positions: Any) -> None:
        """Move the walkers; velocities stay.

        Args:
            positions: Positions [nm] with shape=(n_walkers, n_atoms, 3).

        Raises:
            InputError: As the constructor.
        """
        positions = walker_positions(positions, self.potential.n_atoms, self.positions.dtype)
        if len(positions) != len(self.positions):
            raise InputError(f"There are {len(self.positions)} walkers, not {len(positions)}.")
        self.positions = positions.to(self.positions.device)
        self._evaluate_start()

    def set_velocities(self, velocities: Any) -> None:
        """Set the velocities.

        Args:
            velocities: Velocities [nm/ps] with shape=(n_walkers, n_atoms, 3).

        Raises:
            InputError: If the shape, or a tensor's precision or device, is not that of the positions.
        """
        self.velocities = walker_velocities(velocities, self.positions)

    def state(self) -> dict[str, np.ndarray]:
        """Return everything needed to continue bit by bit, as arrays that later steps do not change."""
        return {name: np.array(getattr(self, name).cpu().numpy()) for name in self._state_names}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned. The potential is not evaluated.

        Raises:
            InputError: If it is not the state of such walkers: as many, and in the same precision.
        """
        if missing := [name for name in self._state_names if name not in state]:
            raise InputError(f"This is no state of {type(self).__name__}: it lacks {', '.join(missing)}.")
        new = {name: torch.from_numpy(np.array(state[name])) for name in self._state_names}
        for name, tensor in new.items():
            old = getattr(self, name)
            if (tensor.shape, tensor.dtype) != (old.shape, old.dtype):
                raise InputError(
                    f"The state is of other walkers: its {name} are {tuple(tensor.shape)} {tensor.dtype}, "
                    f"here they are {tuple(old.shape)} {old.dtype}."
                )
        for name, tensor in new.items():
            setattr(self, name, tensor.to(self.positions.device))

    def _evaluate(self) -> None:
        energy, forces = self.potential.energy_and_forces(self.positions)
        self.energy, self.forces = energy, forces.to(self.positions.dtype)

    def _evaluate_start(self) -> None:
        self._evaluate()
        if self.energy.device != self.positions.device:
            raise InputError(
                f"The potential answers on {self.energy.device}, but the positions are on "
                f"{self.positions.device}; move one of them."
            )
        bad = ~torch.isfinite(self.energy)
        if bad.any():
            raise InputError(
                f"The energy of {walker_names(bad)} is not finite at the start; "
                "begin with other positions (openmm_bg.simulation.minimize removes clashes)."
            )

    def _per_coordinate(self, values: torch.Tensor) -> torch.Tensor:
        """Return values with shape=(n_atoms,) or (n_walkers, n_atoms) for each coordinate of each walker."""
        return values.unsqueeze(-1).to(self.positions.dtype).expand_as(self.positions).contiguous()

    def _leapfrog(self, n_steps: int) -> torch.Tensor:
        """Velocity Verlet: half a kick, a drift, half a kick. Time-reversible, and keeps volumes.

        Returns:
            The highest potential energies on the way, with shape=(n_walkers,).
        """
        x, v, highest = self.positions, self.velocities, self.energy
        for _ in range(n_steps):
            v.addcmul_(self._kick, self.forces, value=0.5)
            x.add_(v, alpha=self._timestep)
            self._evaluate()
            v.addcmul_(self._kick, self.forces, value=0.5)
            highest = torch.maximum(highest, self.energy)
        return highest


class ThermalWalkers(Walkers):
    """Walkers at temperatures of their own, which can exchange configurations.

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3); they are copied.
        masses: Masses [Da] with shape=(n_atoms,).
        temperature: One temperature [K], or one for each walker.
        timestep: Time step [ps].
        generator: Source of randomness, on the device of the positions. Velocities are drawn from it first.
        dtype: As of `Walkers`.

    Attributes:
        temperature: Temperatures [K] with shape=(n_walkers,), in double precision.
        generator: The source of randomness.
    """

    _state_names = (*Walkers._state_names, "temperature")

    def __init__(
        self,
        potential: Potential,
        positions: Any,
        masses: Any,
        temperature: Any,
        *,
        timestep: Any,
        generator: torch.Generator,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(potential, positions, masses, timestep=timestep, dtype=dtype)
        self.generator = walker_generator(generator, self.positions)
        self.set_temperature(temperature)
        self.draw_velocities()

    def set_temperature(self, temperature: Any) -> None:
        """Set the temperature [K]: one, or one for each walker. Velocities are not rescaled."""
        self.temperature = walker_temperatures(temperature, self.positions)
        kt = BOLTZMANN_CONSTANT * self.temperature
        self._thermal_velocity = self._per_coordinate((kt[:, None] / self.masses.double()).sqrt())

    def draw_velocities(self) -> None:
        """Draw all velocities from Maxwell's distribution at the walkers' temperatures."""
        self.velocities.normal_(generator=self.generator).mul_(self._thermal_velocity)

    def exchange(self, pairs: torch.Tensor) -> torch.Tensor:
        """Try to swap the configurations of pairs of walkers at different temperatures.

        Accepted with probability min(1, exp((beta_i - beta_j) (U_i - U_j))); velocities are rescaled by
        the square root of the temperature ratio (Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999)).

        Args:
            pairs: Walker indices with shape=(n_pairs, 2), each walker at most once; there can be none.

        Returns:
            Whether each swap was accepted, with shape=(n_pairs,).

        Raises:
            InputError: If they are no pairs of integers, there is no such walker, or one is in several pairs.
        """
        try:
            pairs = torch.as_tensor(pairs, device=self.positions.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"Pairs must be integers with the shape (n_pairs, 2): {error}.") from error
        if not pairs.numel():
            return torch.zeros(0, dtype=torch.bool, device=self.positions.device)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype not in _INTEGERS:
            raise InputError(
                f"Pairs must be integers with the shape (n_pairs, 2), not {tuple(pairs.shape)} {pairs.dtype}."
            )
        pairs = pairs.long()
        if pairs.min() < 0 or pairs.max() >= len(self.positions):
            raise InputError(
                f"A pair names a walker that is not there: they are 0 to {len(self.positions) - 1}."
            )
        if len(pairs.unique()) != pairs.numel():
            raise InputError("A walker can be in one pair only.")
        return self._swap(*pairs.T)

    def _swap(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        device = self.positions.device
        beta = 1.0 / (BOLTZMANN_CONSTANT * self.temperature)
        energy = self.energy.double()
        log_ratio = (beta[i] - beta[j]) * (energy[i] - energy[j])
        uniform = torch.rand(len(i), generator=self.generator, dtype=torch.float64, device=device)
        accepted = uniform.log() < log_ratio
        order = torch.arange(len(self.positions), device=device)
        order[i], order[j] = torch.where(accepted, j, i), torch.where(accepted, i, j)
        rescale = (self.temperature / self.temperature[order]).sqrt().to(self.positions.dtype)
        self.positions = self.positions[order]
        self.velocities = self.velocities[order] * rescale[:, None, None]
        self.energy, self.forces = self.energy[order], self.forces[order]
        return accepted

    def state(self) -> dict[str, np.ndarray]:
        """Return everything needed to continue bit by bit, as arrays that later steps do not change."""
        return {**super().state(), "generator": np.array(self.generator.get_state().numpy())}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned. The potential is not evaluated.

        Raises:
            InputError: If it is not the state of such walkers: as many, and in the same precision.
        """
        if "generator" not in state:
            raise InputError(f"This is no state of {type(self).__name__}: it lacks generator.")
        super().restore(state)
        self.set_temperature(self.temperature)
        self.generator.set_state(torch.from_numpy(np.array(state["generator"], dtype=np.uint8)))
