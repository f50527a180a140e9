"""Minimisation of the energies of many configurations at once."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch

from openmm_bg.potentials.base import Potential
from openmm_bg.simulation.checks import checked_potential, positive, walker_positions, whole_number

_HISTORY = 10  # pairs of steps and force changes that approximate the Hessian
_LONGEST_MOVE = 0.02  # nm, of any coordinate in one step: clashes must not throw atoms far away
_DECREASE = 1e-4  # of what the slope promises, the least that a step must achieve
_FIRST_SCALE = 1e-5  # nm^2 mol/kJ: an inverse curvature, of a stiff bond
_SHORTEST_TRIAL = 1e-8  # of a step along the direction, before the walker begins anew


class Minimization(NamedTuple):
    """Minimised configurations.

    Attributes:
        positions: Positions [nm] with shape=(n_walkers, n_atoms, 3).
        energy: Energies [kJ/mol] with shape=(n_walkers,); +inf where it was not finite at the start.
        converged: Whether the root-mean-square force came below the tolerance, with shape=(n_walkers,).
        n_iterations: Energy evaluations of each walker after the first, with shape=(n_walkers,).
    """

    positions: torch.Tensor
    energy: torch.Tensor
    converged: torch.Tensor
    n_iterations: torch.Tensor


def minimize(
    potential: Potential,
    positions: Any,
    *,
    tolerance: float = 10.0,
    max_iterations: int = 2000,
    dtype: torch.dtype | None = None,
) -> Minimization:
    """Move each walker downhill to a local minimum with L-BFGS; walkers do not see each other.

    A walker is done when the root-mean-square of its force components is below the tolerance, the criterion
    that OpenMM documents for its ``LocalEnergyMinimizer``. (With 10 kJ/mol/nm, OpenMM itself goes on to about 5
    on alanine dipeptide, and 10 leaves soft torsions some kJ/mol above their minimum: give 1 for those.)
    Walkers that are done are not evaluated any more. Steps are shortened until the energy decreases (Armijo),
    and no coordinate moves by more than 0.02 nm at once, so that clashes are removed without breaking the
    molecule up.

    A walker without a finite energy at the start has no force to follow: it comes back where it was, with
    infinite energy and not converged.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithms 3.1 and 7.4; Hager and Zhang,
    SIAM J. Optim. 16, 170 (2005), equation 4.2, where rounding hides the decrease.

    Args:
        potential: The potential.
        positions: Start positions [nm] with shape=(n_walkers, n_atoms, 3); they stay as they are.
        tolerance: Root-mean-square force [kJ/mol/nm] to come below. On alanine dipeptide single precision
            reaches 0.03, double precision 1e-5.
        max_iterations: The most evaluations of a walker.
        dtype: Precision; that of `positions` if these are a tensor, otherwise single.

    Raises:
        InputError: If the input is ill-formed.
    """
    checked_potential(potential)
    tolerance = positive("tolerance [kJ/mol/nm]", tolerance)
    max_iterations = whole_number("largest number of iterations", max_iterations, least=0)
    x = walker_positions(positions, potential.n_atoms, dtype)
    energy, forces = potential.energy_and_forces(x)
    result = Minimization(
        x,
        energy.clone(),
        _is_converged(energy, forces, tolerance),
        torch.zeros(len(x), dtype=torch.int64, device=x.device),
    )
    walkers = (torch.isfinite(energy) & ~result.converged).nonzero()[:, 0]
    search = _Search(x[walkers], energy[walkers], forces[walkers])
    for iteration in range(1, max_iterations + 1):
        if not len(walkers):
            break
        search.advance(potential)
        done = _is_converged(search.energy, search.forces.T, tolerance)
        result.n_iterations[walkers] = iteration
        if done.any() or iteration == max_iterations:
            result.positions[walkers] = search.positions
            result.energy[walkers] = search.energy
            result.converged[walkers] = done
            walkers = walkers[~done]
            search.keep(~done)
    return result


def _is_converged(energy: torch.Tensor, forces: torch.Tensor, tolerance: float) -> torch.Tensor:
    # In double precision: the square of a clash's force overflows.
    mean_square = forces.flatten(1).double().square().mean(1)
    return torch.isfinite(energy) & (mean_square < tolerance**2)


class _Search:
    """One L-BFGS search with backtracking for each walker, in step: every advance is one evaluation of all.

    Walkers are the last dimension, so that a number for each walker multiplies its coordinates quickly.

    Attributes:
        x: The best positions so far with shape=(3 n_atoms, n_walkers).
        energy, forces: Of these positions, with shape=(n_walkers,) and (3 n_atoms, n_walkers).
    """

    def __init__(self, x: torch.Tensor, energy: torch.Tensor, forces: torch.Tensor) -> None:
        self._shape, self._dtype = x.shape[1:], x.dtype
        self.x, self.energy, self.forces = self._columns(x), energy, self._columns(forces)
        # Moves, changes of minus the force, and their inverse scalar product: 0 where a move was not taken.
        self._history: deque[tuple[torch.Tensor, ...]] = deque(maxlen=_HISTORY)
        self._scale = torch.full_like(self.x[0], _FIRST_SCALE)
        self._direction = _capped(self.forces * self._scale)
        self._trial = torch.ones_like(self._scale)

    @property
    def positions(self) -> torch.Tensor:
        """The best positions so far [nm] with shape=(n_walkers, n_atoms, 3)."""
        return self.x.T.reshape(-1, *self._shape)

    def _columns(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(1).T.to(self._dtype).contiguous()

    def keep(self, mask: torch.Tensor) -> None:
        """Drop the walkers that are not in the mask."""
        for name in ("x", "energy", "forces", "_scale", "_direction", "_trial"):
            setattr(self, name, getattr(self, name)[..., mask])
        kept = [tuple(tensor[..., mask] for tensor in entry) for entry in self._history]
        self._history = deque(kept, maxlen=_HISTORY)

    def advance(self, potential: Potential) -> None:
        """Try one step of each walker; take those that go downhill, shorten the others."""
        move = self._trial * self._direction
        x = self.x + move
        energy, forces = potential.energy_and_forces(x.T.reshape(-1, *self._shape))
        forces = self._columns(forces)
        slope, new_slope = -(self.forces * move).sum(0), -(forces * move).sum(0)
        rise = energy - self.energy
        down = rise <= _DECREASE * slope
        # Close to a minimum rounding hides the decrease; there, the forces tell (Hager and Zhang, 2005).
        down |= (rise <= self._rounding()) & (new_slope <= (2.0 * _DECREASE - 1.0) * slope)
        self._remember(move, self.forces - forces, new_slope - slope, down)
        self.x = torch.where(down, x, self.x)
        self.energy = torch.where(down, energy, self.energy)
        self.forces = torch.where(down, forces, self.forces)
        shorter = self._trial * _shortening(slope, rise).to(self._dtype)
        stuck = ~down & (shorter < _SHORTEST_TRIAL)
        self._trial = torch.where(down | stuck, 1.0, shorter)
        if stuck.any():
            self._forget(stuck)
        self._direction = torch.where(down | stuck, self._next_direction(), self._direction)

    def _rounding(self) -> torch.Tensor:
        """Return the size of rounding errors of the energy, a sum of large terms of both signs."""
        terms = self.energy.abs() + 100.0 * self._shape[0]
        return 4.0 * torch.finfo(self.energy.dtype).eps * terms

    def _remember(
        self, move: torch.Tensor, change: torch.Tensor, curvature: torch.Tensor, down: torch.Tensor
    ) -> None:
        square = change.square().sum(0)
        good = down & (curvature > 1e-8 * square) & torch.isfinite(square)
        self._scale = torch.where(good, curvature / square, self._scale)
        self._history.append((move, torch.where(good, change, 0.0), torch.where(good, 1.0 / curvature, 0.0)))

    def _forget(self, stuck: torch.Tensor) -> None:
        for _, _, inverse in self._history:
            inverse[stuck] = 0.0
        self._scale[stuck] = _FIRST_SCALE

    def _next_direction(self) -> torch.Tensor:
        """Return minus the approximate inverse Hessian times the gradient (algorithm 7.4, two loops)."""
        direction, weights = self.forces.clone(), []
        for move, change, inverse in reversed(self._history):
            weights.append(inverse * (move * direction).sum(0))
            direction.addcmul_(change, weights[-1], value=-1.0)
        direction *= self._scale
        for move, change, inverse in self._history:
            direction.addcmul_(move, weights.pop() - inverse * (change * direction).sum(0))
        downhill = (direction * self.forces).sum(0) > 0
        return _capped(torch.where(downhill, direction, self.forces * _FIRST_SCALE))


def _capped(direction: torch.Tensor) -> torch.Tensor:
    return direction * (_LONGEST_MOVE / direction.abs().amax(0).clamp(min=_LONGEST_MOVE))


def _shortening(slope: torch.Tensor, rise: torch.Tensor) -> torch.Tensor:
    """Return by how much to shorten a trial: to the minimum of the parabola, within a factor 0.1 to 0.5."""
    parabola = -0.5 * slope / (rise - slope)
    return torch.nan_to_num(parabola, nan=0.1, posinf=0.1, neginf=0.1).clamp(0.1, 0.5)
