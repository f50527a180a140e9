"""The energy terms of a `TorchPotential`, evaluated for many configurations at once.

There are three kinds: `BondedTerm` (any function of distances, angles, dihedrals and coordinates of a few
atoms), `PairTerm` (any function of the distance of two atoms) and `GeneralizedBornTerm` (values computed
for every atom from its distances to all others, then energies from them). What distinguishes a harmonic
bond from a Lennard-Jones pair is their expression, which is data: it is saved, run on tensors here, and
compiled to machine code in `openmm_bg.potentials.fused`.

Inside a potential, coordinates have shape=(n_atoms, 3, batch) and every per-pair quantity
shape=(n_pairs, batch): the batch is the fastest axis, so that gathering atoms copies whole rows and
parameters broadcast as columns of shape=(n, 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from openmm_bg.potentials.expressions import Expression
from openmm_bg.potentials.functions import Value
from openmm_bg.potentials.programs import Program
from openmm_bg.potentials.tables import Table, read_table

GEOMETRY = {
    **{"x": 1, "y": 1, "z": 1, "distance": 2, "angle": 3},
    **{"dihedral": 4, "cos_dihedral": 4, "sin_dihedral": 4},
}
"""What a bonded term may depend on, with the number of atoms it takes."""


class Pairs:
    """Distances of all pairs of atoms i < j, computed once and shared by the terms that need them all."""

    def __init__(self, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
        self.first, self.second = first, second
        self._x, self._r = x, None

    @property
    def r(self) -> torch.Tensor:
        """The distances [nm] with shape=(n_pairs, batch)."""
        if self._r is None:
            self._r = _distance(self._x[self.first], self._x[self.second])
        return self._r


class Term(nn.Module):
    """One energy term.

    Subclasses name their integer and real parameter arrays; these become buffers, which follow the
    potential's device and dtype and are what is saved. ``config`` holds what is not an array.
    ``tables`` are the tabulated functions that the term's expressions call.
    """

    indices: ClassVar[tuple[str, ...]] = ()
    reals: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, config: dict[str, Any], tables: Mapping[str, Table] | None = None, **arrays: Any
    ) -> None:
        super().__init__()
        self.config = config
        self.tables = dict(tables or {})
        self._table_modules = nn.ModuleList(
            self.tables.values()
        )  # names may be any, those of modules may not
        if arrays.keys() != {*self.indices, *self.reals}:
            raise TypeError(f"{type(self).__name__} takes {self.indices + self.reals}, not {sorted(arrays)}")
        for name in self.indices:
            self.register_buffer(name, torch.as_tensor(arrays[name], dtype=torch.int64))
        # Kept in float64 beside the buffers, which take the potential's precision.
        self._exact = {name: torch.as_tensor(arrays[name], dtype=torch.float64) for name in self.reals}
        for name, array in self._exact.items():
            self.register_buffer(name, array.clone())

    def expression(self, text: str) -> Expression:
        """Parse one of the term's expressions."""
        geometry = isinstance(self, BondedTerm)
        return Expression(text, self.config.get("globals"), self.tables, geometry)

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the term's arrays on the CPU, real ones in float64."""
        return {name: getattr(self, name).cpu() for name in self.indices} | self._exact

    def copy(self) -> Term:
        """Return an independent copy in float64 on the CPU."""
        tables = {
            name: read_table(type(table).__name__, table.array, table.config)
            for name, table in self.tables.items()
        }
        return type(self)(self.config, tables, **self.arrays())

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        raise NotImplementedError

    def elements_per_configuration(self, n_atoms: int) -> int:
        """Estimate the numbers in memory, at most, for energy and forces of one configuration."""
        raise NotImplementedError


class BondedTerm(Term):
    """A sum over groups of a few atoms of a function of their distances, angles, dihedrals and coordinates.

    Config keys: ``expression``; ``globals``, values of its global parameters; ``group_parameters``, the names of
    those that differ between groups; ``inputs``, which maps each other variable to
    ``[kind, [positions in the group]]``, the kinds being those of `GEOMETRY`.

    Arrays: ``atoms`` with shape=(atoms of a group, n_groups); ``group_parameters`` with
    shape=(n_parameters, n_groups).
    """

    indices = ("atoms",)
    reals = ("group_parameters",)

    def __init__(
        self, config: dict[str, Any], tables: Mapping[str, Table] | None = None, **arrays: Any
    ) -> None:
        super().__init__(config, tables, **arrays)
        self._energy = Differentiable(self.expression(config["expression"]).program)

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        parameters = {
            name: self.group_parameters[k][:, None] for k, name in enumerate(self.config["group_parameters"])
        }
        inputs, known = {}, {}
        for name, (kind, places) in self.config["inputs"].items():
            if name in self._energy.variables:
                inputs[name] = _geometry(kind, [x[self.atoms[k]] for k in places], tuple(places), known)
        energy = self._energy(parameters, inputs).to(x)  # a number may be all that it is
        return energy.expand(self.atoms.shape[1], x.shape[2]).sum(0)

    def elements_per_configuration(self, n_atoms: int) -> int:
        """Estimate the numbers in memory, at most, for energy and forces of one configuration."""
        geometry = 3 * 8 * len(self.config["inputs"])
        return self.atoms.shape[1] * (geometry + self._energy.most_alive(self.config["inputs"]))


class PairTerm(Term):
    """A sum over pairs of atoms of a function of their distance ``r``.

    Config keys: ``expression``; ``globals``; ``pair_parameters``, names of parameters of each pair;
    ``particle_parameters``, names of parameters of each atom, which the expression uses with a 1 or a 2 appended.

    Arrays: ``pairs`` with shape=(2, n_pairs); ``pair_parameters`` with shape=(n_parameters, n_pairs);
    ``particle_parameters`` with shape=(n_parameters, n_atoms).
    """

    indices = ("pairs",)
    reals = ("pair_parameters", "particle_parameters")

    def __init__(
        self, config: dict[str, Any], tables: Mapping[str, Table] | None = None, **arrays: Any
    ) -> None:
        super().__init__(config, tables, **arrays)
        self._energy = Differentiable(self.expression(config["expression"]).program)
        n_atoms = self.particle_parameters.shape[1]
        # Then the distances that the terms share do. Interaction groups may have as many pairs, but others.
        self._all_pairs = torch.equal(self.pairs.cpu(), torch.triu_indices(n_atoms, n_atoms, 1))

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        first, second = self.pairs
        parameters = {
            name: self.pair_parameters[k][:, None] for k, name in enumerate(self.config["pair_parameters"])
        }
        for k, name in enumerate(self.config["particle_parameters"]):
            parameters[f"{name}1"] = self.particle_parameters[k][first][:, None]
            parameters[f"{name}2"] = self.particle_parameters[k][second][:, None]
        r = pairs.r if self._all_pairs else _distance(x[first], x[second])
        return self._energy(parameters, {"r": r}).expand_as(r).sum(0)

    def elements_per_configuration(self, n_atoms: int) -> int:
        """Estimate the numbers in memory, at most, for energy and forces of one configuration."""
        return self.pairs.shape[1] * (8 + self._energy.most_alive(["r"]))


class GeneralizedBornTerm(Term):
    """OpenMM's CustomGBForce: values computed for every atom, then energies from them.

    Config keys: ``particle_parameters``, names of parameters of each atom; ``globals``; ``values``, a list
    of ``[name, expression, type]``; ``energies``, a list of ``[expression, type]``. Types are "single",
    "pair" (over all pairs) and "pair_excluded" (exclusions left out).

    Arrays: ``particle_parameters`` with shape=(n_parameters, n_atoms); ``included`` with shape=(n_pairs,), for
    the pairs i < j in the order of ``torch.triu_indices``, 0 for excluded pairs and 1 for the others.
    """

    reals = ("particle_parameters", "included")

    def __init__(
        self, config: dict[str, Any], tables: Mapping[str, Table] | None = None, **arrays: Any
    ) -> None:
        super().__init__(config, tables, **arrays)
        self._values = [
            (name, Differentiable(self.expression(text).program), kind)
            for name, text, kind in config["values"]
        ]
        self._energies = [
            (Differentiable(self.expression(text).program), kind) for text, kind in config["energies"]
        ]

    def forward(self, x: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        """Return the energy [kJ/mol] with shape=(batch,)."""
        parameters = {
            name: self.particle_parameters[k][:, None]
            for k, name in enumerate(self.config["particle_parameters"])
        }
        single = {"x": x[:, 0], "y": x[:, 1], "z": x[:, 2]}  # what a single-particle expression sees
        first, second = pairs.first, pairs.second
        receivers = torch.cat([first, second])
        for name, value, kind in self._values:
            if kind == "single":
                single[name] = value(parameters, single).expand_as(x[:, 0])
                continue
            # Each pair contributes f(i, j) to atom i and f(j, i) to atom j.
            r = torch.cat([pairs.r, pairs.r])
            both = {}
            for key, column in parameters.items():
                both[f"{key}1"] = torch.cat([column[first], column[second]])
                both[f"{key}2"] = torch.cat([column[second], column[first]])
            result = value(both, {"r": r}).expand_as(r)
            if kind == "pair_excluded":
                result = torch.where(torch.cat([self.included, self.included])[:, None] > 0, result, 0.0)
            single[name] = torch.zeros_like(x[:, 0]).index_add(0, receivers, result)
        energy = x.new_zeros(x.shape[2])
        for term, kind in self._energies:
            if kind == "single":
                energy = energy + term(parameters, single).expand_as(x[:, 0]).sum(0)
                continue
            columns, ends = {}, {"r": pairs.r}
            for source, target in ((parameters, columns), (single, ends)):
                for key, value in source.items():
                    if f"{key}1" in term.variables:
                        target[f"{key}1"] = value[first]
                    if f"{key}2" in term.variables:
                        target[f"{key}2"] = value[second]
            result = term(columns, ends).expand_as(pairs.r)
            if kind == "pair_excluded":
                result = torch.where(self.included[:, None] > 0, result, 0.0)
            energy = energy + result.sum(0)
        return energy

    def elements_per_configuration(self, n_atoms: int) -> int:
        """Estimate the numbers in memory, at most, for energy and forces of one configuration."""
        most = 0
        for _, value, kind in self._values:
            most = max(most, 2 * value.most_alive(["r"]) if kind != "single" else 0)
        for energy, kind in self._energies:
            most = max(most, energy.most_alive(energy.variables) if kind != "single" else 0)
        return max(1, n_atoms * (n_atoms - 1) // 2 * (16 + most))


class Differentiable:
    """A program of one output, whose derivatives autograd takes from the program's own.

    Derivatives of the expression, rather than of the tensor operations that evaluate it: fewer
    operations, and an undefined branch of ``select`` does not spoil the gradient of the other.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.variables = program.variables
        self._gradients: dict[tuple[str, ...], Program] = {}

    def most_alive(self, inputs: Iterable[str]) -> int:
        """Return how many results are needed at the same time for the value and its gradient, at most."""
        return self.program.with_gradient([name for name in inputs if name in self.variables]).most_alive

    def __call__(self, parameters: Mapping[str, Value], inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the value, differentiable by the inputs (not by the parameters).

        Args:
            parameters: Values of variables that are not differentiated.
            inputs: Values of the others, tensors of one shape.
        """
        names = tuple(name for name in inputs if name in self.variables)
        if torch.is_grad_enabled() and any(inputs[name].requires_grad for name in names):
            gradient = self._gradients.get(names)
            if gradient is None:
                gradient = self._gradients[names] = self.program.with_gradient(names)
            return _Evaluate.apply(gradient, parameters, names, *(inputs[name] for name in names))
        (value,) = self.program({**parameters, **inputs})
        return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gradient: Program,
        parameters: Mapping[str, Value],
        names: tuple[str, ...],
        *inputs: torch.Tensor,
    ) -> torch.Tensor:
        value, *partials = gradient({**parameters, **dict(zip(names, inputs, strict=True))})
        like = inputs[0]
        ctx.save_for_backward(*(torch.as_tensor(p, dtype=like.dtype, device=like.device) for p in partials))
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand_as(like).clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # What does not change a value passes nothing back, even where the energy's slope by it is infinite.
        parts = (torch.where(partial == 0, 0.0, grad * partial) for partial in ctx.saved_tensors)
        return None, None, None, *parts


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _Length.apply(a - b)


class _Length(torch.autograd.Function):
    """The length of vectors with shape=(n, 3, batch); its gradient is zero, not undefined, where it is zero."""

    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor) -> torch.Tensor:
        length = vectors.square().sum(1).sqrt()
        ctx.save_for_backward(vectors, length)
        return length

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        vectors, length = ctx.saved_tensors
        return torch.where(length > 0, grad / length, 0.0)[:, None] * vectors


def _angle(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    u, v = a - b, c - b
    # The floor gives a straight angle the force zero instead of NaN, and changes no other.
    cross = torch.linalg.cross(u, v, dim=1).square().sum(1).clamp_min(1e-30).sqrt()
    return torch.atan2(cross, (u * v).sum(1))  # acos has no derivative at 0 and pi


def _dihedral_components(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sine and the cosine of a dihedral, times one common positive factor."""
    ab, cb, cd = a - b, c - b, c - d
    m, n = torch.linalg.cross(ab, cb, dim=1), torch.linalg.cross(cb, cd, dim=1)
    return (ab * n).sum(1) * cb.square().sum(1).sqrt(), (m * n).sum(1)


def _geometry(
    kind: str,
    atoms: list[torch.Tensor],
    places: tuple[int, ...],
    known: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """Return one quantity of `GEOMETRY` with shape=(n, batch); ``known`` keeps what dihedrals share."""
    if kind in ("x", "y", "z"):
        return atoms[0][:, "xyz".index(kind)]
    if kind == "distance":
        return _distance(*atoms)
    if kind == "angle":
        return _angle(*atoms)
    if places not in known:
        known[places] = _dihedral_components(*atoms)
    sine, cosine = known[places]
    if kind == "dihedral":
        return torch.atan2(sine, cosine)
    return (cosine if kind == "cos_dihedral" else sine) / (sine.square() + cosine.square()).sqrt()


TERMS: dict[str, type[Term]] = {term.__name__: term for term in (BondedTerm, PairTerm, GeneralizedBornTerm)}
