r"""Networks of a learned map: the assignment of atoms to beads, and the decoder from beads to seed atoms.

Both are made of one network, whose scalars do not change when a configuration is moved, turned or mirrored,
and whose vectors turn with it.

Source: Chennakesavalu, Toomer and Rotskoff, arXiv 2210.07882: messages from distances, and vectors
:math:`u_i = \sum_j f(|x_j - x_i|) (x_j - x_i) / |x_j - x_i|`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_N_RADIAL = 8
_N_VECTORS = 8
_N_SMOOTHINGS = 6


class EquivariantNetwork(nn.Module):
    """A network of particles that see each other's kinds and relative places.

    A particle starts as the embedding of its kind: particles of one kind are told apart by their surroundings
    only, so that their order does not matter. In each layer it receives messages, which depend on distances
    and on whether there is a bond, and vectors; of these it keeps the lengths. It has float32 numbers inside
    and float64 outside.

    Args:
        kinds: The kind of each particle, from 0, with shape=(n,).
        n_outputs: Outputs of each particle.
        bonds: Pairs of particles with shape=(n_bonds, 2).
        width: Channels of a particle.
        n_layers: Layers.
        cutoff: Particles farther apart than this [nm] do not see each other.
        seed: Seed of the initial parameters.
    """

    def __init__(
        self,
        kinds: np.ndarray,
        n_outputs: int,
        *,
        bonds: np.ndarray,
        width: int,
        n_layers: int,
        cutoff: float,
        seed: int,
    ) -> None:
        super().__init__()
        self._cutoff = float(cutoff)
        bonded = torch.zeros(len(kinds), len(kinds))
        bonded[bonds[:, 0], bonds[:, 1]] = bonded[bonds[:, 1], bonds[:, 0]] = 1.0
        self.register_buffer("_kinds", torch.as_tensor(kinds, dtype=torch.int64), persistent=False)
        self.register_buffer("_bonded", bonded, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(int(kinds.max()) + 1, width)
            self.layers = nn.ModuleList(_Layer(width) for _ in range(n_layers))
            self.output = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, n_outputs))

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scalars with shape=(batch, n, n_outputs) and vectors with shape=(batch, n, 3, n_vectors).

        Args:
            positions: Configurations [nm] with shape=(batch, n, 3); float64, so that their place costs no digits.
        """
        basis, directions = self._pairs(positions)
        hidden = self.embedding(self._kinds).expand(len(positions), -1, -1)
        for layer in self.layers:
            hidden, vectors = layer(hidden, basis, directions)
        return self.output(hidden).double(), vectors.double()

    def _pairs(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return functions of the distances and bonds of pairs, (batch, n, n, n_radial + 1), and directions."""
        n = positions.shape[1]
        others = 1.0 - torch.eye(n)
        steps = (positions[:, None] - positions[:, :, None]).float()
        distance = torch.sqrt(steps.square().sum(-1) + torch.eye(n))
        fading = 0.5 * (1.0 + torch.cos(math.pi * (distance / self._cutoff).clamp(max=1.0))) * others
        spacing = self._cutoff / _N_RADIAL
        centres = spacing * torch.arange(_N_RADIAL)
        radial = torch.exp(-0.5 * ((distance[..., None] - centres) / spacing).square()) * fading[..., None]
        bonded = self._bonded.expand(len(positions), -1, -1)[..., None]
        return torch.cat([radial, bonded], dim=-1), steps / distance[..., None]


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.normed = nn.LayerNorm(width)
        self.sources = nn.Linear(width, (_N_RADIAL + 1) * _N_VECTORS)
        self.messages = nn.Linear((_N_RADIAL + 1) * width, width)
        self.update = nn.Sequential(
            nn.Linear(2 * width + _N_VECTORS, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(
        self, hidden: torch.Tensor, basis: torch.Tensor, directions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return new channels, and vectors."""
        normed = self.normed(hidden)
        messages = self.messages(torch.einsum("bijk,bjc->bikc", basis, normed).flatten(2))
        strengths = self.sources(normed).unflatten(-1, (_N_RADIAL + 1, _N_VECTORS))
        factors = torch.einsum("bijk,bjkv->bijv", basis, strengths)
        vectors = torch.einsum("bijv,bijx->bixv", factors, directions)
        seen = torch.cat([normed, messages, vectors.square().sum(2)], dim=-1)
        return hidden + self.update(seen), vectors


class AssignmentNetwork(nn.Module):
    """The network whose softmax says to which bead an atom belongs.

    Args:
        kinds: The kind of each atom, from 0, with shape=(n_atoms,): its element, as in the source, or
            all different.
        n_beads: Beads.
        bonds: Pairs of atoms with shape=(n_bonds, 2).
        width: As of `EquivariantNetwork`.
        n_layers: As of `EquivariantNetwork`.
        cutoff: As of `EquivariantNetwork` [nm].
        seed: Seed of the initial parameters.
    """

    def __init__(
        self,
        kinds: np.ndarray,
        n_beads: int,
        *,
        bonds: np.ndarray,
        width: int = 32,
        n_layers: int = 2,
        cutoff: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        options = {"width": width, "n_layers": n_layers, "cutoff": cutoff, "seed": seed}
        self.network = EquivariantNetwork(kinds, n_beads, bonds=bonds, **options)
        walk = np.zeros((len(kinds), len(kinds)))
        walk[bonds[:, 0], bonds[:, 1]] = walk[bonds[:, 1], bonds[:, 0]] = 1.0
        walk = 0.5 * (np.eye(len(kinds)) + walk / walk.sum(1, keepdims=True).clip(min=1.0))
        walk = np.linalg.matrix_power(walk / walk.sum(1, keepdims=True), _N_SMOOTHINGS)
        self.register_buffer("_smoothing", torch.as_tensor(walk), persistent=False)

    def logits(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the network's scalars of each atom, averaged over configurations, with shape=(n_atoms, n_beads).

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
        """
        return self.network(positions)[0].mean(0)

    def assignment(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Return the assignment with shape=(n_atoms, n_beads), whose rows sum to one.

        Logits are averaged along bonds a few times, and standardised: over the atoms, those of each bead have
        the mean zero and the variance one. So the temperature says how decided the assignment is, hydrogens
        stay with their heavy atoms, and no bead starts without atoms. (The source takes them as they are.)

        Args:
            logits: The logits of `logits`, also their mean over several calls.
            temperature: The temperature of the softmax; the lower, the more decided.
        """
        smooth = self._smoothing @ logits
        smooth = smooth - smooth.mean(0)
        smooth = smooth / (smooth.square().mean(0) + 1e-12).sqrt()
        return functional.softmax(smooth / temperature, dim=1)

    def forward(self, positions: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Return the assignment with shape=(n_atoms, n_beads), one for all configurations; see `assignment`.

        (The source has one for each configuration while it learns.)

        Args:
            positions: Configurations [nm] with shape=(batch, n_atoms, 3).
            temperature: The temperature of the softmax.
        """
        return self.assignment(self.logits(positions), temperature)


class Decoder(nn.Module):
    """The linear decoder from beads to seed atoms.

    The centred seed atoms are D (z - <z>). In the source D is the output of a network of the same kind as
    that of the assignment, for every configuration of the beads; here it is that plus a constant matrix,
    which learns faster. The decoded atoms move, turn and are mirrored with the beads.

    Args:
        n_beads: Beads.
        n_seeds: Seed atoms.
        width: As of `EquivariantNetwork`.
        cutoff: As of `EquivariantNetwork` [nm].
        seed: Seed of the initial parameters.
    """

    def __init__(
        self, n_beads: int, n_seeds: int, *, width: int = 32, cutoff: float = 3.0, seed: int = 0
    ) -> None:
        super().__init__()
        none = np.zeros((0, 2), dtype=np.int64)
        options = {"width": width, "n_layers": 2, "cutoff": cutoff, "seed": seed}
        self.network = EquivariantNetwork(np.arange(n_beads), n_seeds, bonds=none, **options)
        self.matrix = nn.Parameter(torch.zeros(n_seeds, n_beads))
        nn.init.zeros_(self.network.output[-1].weight)
        nn.init.zeros_(self.network.output[-1].bias)

    def forward(self, beads: torch.Tensor) -> torch.Tensor:
        """Return the seed atoms [nm] with shape=(batch, n_seeds, 3), around the centre of the beads.

        Args:
            beads: Beads [nm] with shape=(batch, n_beads, 3).
        """
        centre = beads.mean(1, keepdim=True)
        matrix = self.matrix + self.network(beads)[0].transpose(1, 2)
        return centre + matrix @ (beads - centre)
