"""The coarse-grained potential: a physical prior and a network, both of invariants of the beads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.errors import InputError
from openmm_bg.flows.precision import ExactTwin
from openmm_bg.potentials.base import Potential
from openmm_bg.units import kelvin, thermal_energy

_STIFF = 0.1  # a distance is held by a spring if its deviation is below this part of it
_MARGIN = 1.0  # standard deviations beyond the range of the data in which there is no wall


class BeadEnergy(ExactTwin):
    r"""The reduced energy of bead configurations, -log rho(z) up to a constant.

    The prior has springs for distances that the data hardly vary, repulsion of all other pairs, and walls
    that begin well outside the range of the data, so that rho can be normalised:

    .. math:: \tfrac12 \sum_{stiff} s_k^2 + \sum_{other} (\sigma_k / d_k)^{12} + 2 \sum_k e_k^2

    with standardised invariants s, and e, by how much more than one deviation they are outside of the range. A
    network of all invariants is added to it.
    Distances and signed volumes of so few beads say everything of a configuration, so that forces are equivariant
    without messages between beads.

    Args:
        invariants: The fitted invariants.
        temperature: The temperature [K] of the distribution.
        hidden_features: Width of the network.
        n_hidden: Its hidden layers.
        seed: Seed of its initial weights.
    """

    def __init__(
        self,
        invariants: BeadInvariants,
        temperature: Any,
        *,
        hidden_features: int = 64,
        n_hidden: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if hidden_features < 1 or n_hidden < 1:
            raise InputError("The network of the bead potential needs at least one hidden layer and feature.")
        self.invariants, self.temperature = invariants, kelvin(temperature)
        self._settings = {"hidden_features": hidden_features, "n_hidden": n_hidden, "seed": seed}
        self.register_buffer("stiff", torch.zeros(invariants.n_distances, dtype=torch.float64))
        self.register_buffer("size", torch.zeros(invariants.n_distances, dtype=torch.float64))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [invariants.n_invariants, *[hidden_features] * n_hidden]
            layers: list[nn.Module] = []
            for n_inputs, n_outputs in pairwise(widths):
                layers += [nn.Linear(n_inputs, n_outputs), nn.SiLU()]
            last = nn.Linear(hidden_features, 1, bias=False)
            nn.init.zeros_(last.weight)
            self.network = nn.Sequential(*layers, last)

    @property
    def n_beads(self) -> int:
        """The number of beads."""
        return self.invariants.n_beads

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network."""
        self.network.to(dtype)

    def fit_prior(self, beads: torch.Tensor) -> BeadEnergy:
        """Set springs and repulsion from bead configurations with shape=(batch, n_beads, 3).

        Distances that vary by less than a tenth get springs, and so do those of the smallest variation that
        join all beads; two other beads repel each other by one kT at the smallest distance in the data.
        """
        n = self.invariants.n_distances
        mean, deviation = self.invariants.mean[:n], self.invariants.deviation[:n]
        stiff = deviation < _STIFF * mean
        stiff[_spanning_tree(self.invariants.pairs, deviation.numpy())] = True
        smallest = self.invariants.raw(beads.double())[:, :n].min(0).values
        self.stiff = stiff.double()
        self.size = torch.where(stiff, 0.0, smallest)
        self._twin = None  # it has the prior from before
        return self

    def forward(self, beads: torch.Tensor) -> torch.Tensor:
        """Return reduced energies with shape=(batch,), in the higher precision of the beads and the network.

        Args:
            beads: Bead configurations [nm] with shape=(batch, n_beads, 3).
        """
        raw = self.invariants.raw(beads)
        standard = self.invariants.standardised(raw)
        n = self.invariants.n_distances
        springs = 0.5 * standard[:, :n].square() @ self.stiff.to(standard)
        squares = (self.size.to(raw) / raw[:, :n]).square()
        sixth = squares * squares * squares  # several times faster than by powers
        repulsion = sixth.square().sum(1)
        walls = 2.0 * self.invariants.excess(standard, _MARGIN).square().sum(1)
        learned = self.network(standard.to(self.dtype))[:, 0]
        return springs + repulsion + walls + learned

    def config(self) -> dict[str, Any]:
        """Return what is needed to rebuild the energy, as JSON; parameters and buffers are saved apart."""
        return {
            "n_beads": self.n_beads,
            "volumes": self.invariants.others,
            "temperature": self.temperature,
            "settings": self._settings,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BeadEnergy:
        """Rebuild the energy; its state is to be loaded afterwards."""
        return cls(
            BeadInvariants(config["n_beads"], config["volumes"]), config["temperature"], **config["settings"]
        )


class BeadPotential(Potential):
    """A bead energy as a potential [kJ/mol], for the package's dynamics and Monte Carlo.

    Args:
        energy: The bead energy.
    """

    def __init__(self, energy: BeadEnergy) -> None:
        super().__init__(energy.n_beads)
        self.bead_energy = energy

    def _evaluate(
        self, positions: torch.Tensor, with_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        kt = thermal_energy(self.bead_energy.temperature)
        if not with_forces:
            with torch.no_grad():
                return kt * self.bead_energy(positions), None
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            energy = kt * self.bead_energy(positions)
            (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return energy.detach(), -gradient


def _spanning_tree(pairs: np.ndarray, costs: np.ndarray) -> list[int]:
    """Return the pairs, by index, of the cheapest tree that joins all beads (Kruskal's algorithm)."""
    group, chosen = list(range(int(pairs.max()) + 1)), []
    for k in np.argsort(costs, kind="stable").tolist():
        a, b = (group[bead] for bead in pairs[k].tolist())
        if a != b:
            chosen.append(k)
            group = [a if one == b else one for one in group]
    return chosen
