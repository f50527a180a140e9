"""The energy terms of a `TorchPotential`, evaluated for many configurations at once.

Inside a potential, coordinates have shape=(n_atoms, 3, batch) and every per-pair quantity
shape=(n_pairs, batch): the batch is the fastest axis, so that gathering atoms copies whole rows and
parameters broadcast as columns of shape=(n, 1).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from openmm_bg.potentials.expressions import Expression


class Pairs:
    """Distances of all pairs of atoms i < j, computed once and shared by the terms."""

    def __init__(self, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
        difference = x[first] - x[second]
        self.r2 = (difference * difference).sum(1)
        self.r = self.r2.sqrt()
        self.first, self.second = first, second


class Term(nn.Module):
    """One energy term.

    Subclasses name their integer and real parameter arrays; these become buffers, which follow the
    potential's device and dtype and are what is saved. ``config`` holds what is not an array.
    """

    indices: ClassVar[tuple[str, ...]] = ()
    parameters_: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: dict[str, Any] | None = None, **arrays: Any) -> None:
        super().__init__()
        self.config = config or {}
        if arrays.keys() != {*self.indices, *self.parameters_}:
            raise TypeError(
                f"{type(self).__name__} takes {self.indices + self.parameters_}, not {sorted(arrays)}"
            )
        for name in self.indices:
            self.register_buffer(name, torch.as_tensor(arrays[name], dtype=torch.int64))
        # Kept in float64 beside the buffers, which take the potential's precision.
        self._exact = {name: torch.as_tensor(arrays[name], dtype=torch.float64) for name in self.parameters_}
        for name, array in self._exact.items():
            self.register_buffer(name, array.clone())

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the term's arrays on the CPU, real ones in float64."""
        return {name: getattr(self, name).cpu() for name in self.indices} | self._exact

    def copy(self) -> Term:
        """Return an independent copy in float64 on the CPU."""
        return type(self)(self.config, **self.arrays())

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        raise NotImplementedError


class HarmonicBonds(Term):
    """k/2 (r - length)^2. Atoms with shape=(2, n); length [nm], k [kJ/mol/nm^2] with shape=(n, 1)."""

    indices = ("atoms",)
    parameters_ = ("length", "k")

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        r = (x[self.atoms[0]] - x[self.atoms[1]]).square().sum(1).sqrt()
        return (0.5 * self.k * (r - self.length).square()).sum(0)


class HarmonicAngles(Term):
    """k/2 (theta - angle)^2. Atoms with shape=(3, n); angle [rad], k [kJ/mol/rad^2] with shape=(n, 1)."""

    indices = ("atoms",)
    parameters_ = ("angle", "k")

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        middle = x[self.atoms[1]]
        a, b = x[self.atoms[0]] - middle, x[self.atoms[2]] - middle
        # The floor gives a straight angle the force zero instead of NaN, and changes no other.
        cross = torch.linalg.cross(a, b, dim=1).square().sum(1).clamp_min(1e-30).sqrt()
        theta = torch.atan2(cross, (a * b).sum(1))  # acos has no derivative at 0 and pi
        return (0.5 * self.k * (theta - self.angle).square()).sum(0)


class PeriodicTorsions(Term):
    """k (1 + cos(n phi - phase)). Atoms with shape=(4, n_torsions); one or more terms per torsion.

    ``torsion`` with shape=(n_terms,) says which torsion a term belongs to; periodicity, phase [rad]
    and k [kJ/mol] have shape=(n_terms, 1).
    """

    indices = ("atoms", "torsion")
    parameters_ = ("periodicity", "phase", "k")

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        a, b, c, d = (x[row] for row in self.atoms)
        ab, cb, cd = a - b, c - b, c - d
        m, n = torch.linalg.cross(ab, cb, dim=1), torch.linalg.cross(cb, cd, dim=1)
        sine = (ab * n).sum(1) * cb.square().sum(1).sqrt()
        phi = torch.atan2(sine, (m * n).sum(1))[self.torsion]
        return (self.k * (1.0 + torch.cos(self.periodicity * phi - self.phase))).sum(0)


class NonbondedPairs(Term):
    """Coulomb and Lennard-Jones energies of all pairs i < j, exclusions and exceptions included.

    ``coulomb`` [kJ/mol nm] is the product of charges times Coulomb's constant, sigma [nm], epsilon
    [kJ/mol]; all with shape=(n_pairs, 1), zero for excluded pairs.
    """

    parameters_ = ("coulomb", "sigma", "epsilon")

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        s6 = (self.sigma.square() / pairs.r2) ** 3
        return (4.0 * self.epsilon * (s6 * s6 - s6) + self.coulomb / pairs.r).sum(0)


class CustomGeneralizedBorn(Term):
    """OpenMM's CustomGBForce without cutoff: values computed per atom, then energies from them.

    Config keys: ``parameter_names``; ``values``, a list of ``[name, expression, type]``; ``energies``,
    a list of ``[expression, type]``; ``globals``, a dictionary. Types are "single", "pair" (over all
    pairs) and "pair_excluded" (exclusions left out). ``parameters`` has shape=(n_parameters, n_atoms),
    ``included`` shape=(n_pairs, 1), 0 for excluded pairs and 1 for the others.
    """

    parameters_ = ("parameters_per_atom", "included")

    def __init__(self, config: dict[str, Any] | None = None, **arrays: Any) -> None:
        super().__init__(config, **arrays)
        fixed = self.config["globals"]
        self._values = [(name, Expression(text, fixed), kind) for name, text, kind in self.config["values"]]
        self._energies = [(Expression(text, fixed), kind) for text, kind in self.config["energies"]]

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        batch = x.shape[2]
        per_atom = {
            name: self.parameters_per_atom[k][:, None]
            for k, name in enumerate(self.config["parameter_names"])
        }
        cartesian = {"x": x[:, 0], "y": x[:, 1], "z": x[:, 2]}
        receivers = torch.cat([pairs.first, pairs.second])
        for name, expression, kind in self._values:
            if kind == "single":
                value = expression({**cartesian, **per_atom})
            else:  # each pair contributes f(i, j) to atom i and f(j, i) to atom j
                r = torch.cat([pairs.r, pairs.r])
                value = expression({"r": r, **self._both_orders(expression, per_atom, pairs)})
                value = _full(value, r)
                if kind == "pair_excluded":
                    value = torch.where(torch.cat([self.included, self.included]) > 0, value, 0.0)
                value = torch.zeros_like(x[:, 0]).index_add(0, receivers, value)
            per_atom[name] = _full(value, x[:, 0])
        energy = x.new_zeros(batch)
        for expression, kind in self._energies:
            if kind == "single":
                energy = energy + _full(expression({**cartesian, **per_atom}), x[:, 0]).sum(0)
                continue
            ends = {}
            for name, value in per_atom.items():
                if f"{name}1" in expression.variables:
                    ends[f"{name}1"] = value[pairs.first]
                if f"{name}2" in expression.variables:
                    ends[f"{name}2"] = value[pairs.second]
            term = _full(expression({"r": pairs.r, **ends}), pairs.r)
            if kind == "pair_excluded":
                term = torch.where(self.included > 0, term, 0.0)
            energy = energy + term.sum(0)
        return energy

    @staticmethod
    def _both_orders(
        expression: Expression, per_atom: dict[str, torch.Tensor], pairs: Pairs
    ) -> dict[str, torch.Tensor]:
        orders = {}
        for name, value in per_atom.items():
            if f"{name}1" in expression.variables:
                orders[f"{name}1"] = torch.cat([value[pairs.first], value[pairs.second]])
            if f"{name}2" in expression.variables:
                orders[f"{name}2"] = torch.cat([value[pairs.second], value[pairs.first]])
        return orders


def _full(value: Any, like: torch.Tensor) -> torch.Tensor:
    """Expand an expression's result, which may be a number or a column, to a full array."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand_as(like)


TERMS: dict[str, type[Term]] = {
    term.__name__: term
    for term in (HarmonicBonds, HarmonicAngles, PeriodicTorsions, NonbondedPairs, CustomGeneralizedBorn)
}
