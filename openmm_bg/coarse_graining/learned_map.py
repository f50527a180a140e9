"""Learning which atoms belong to which bead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openmm_bg.coarse_graining import assignment_losses as losses
from openmm_bg.coarse_graining.assignment import AssignmentNetwork, Decoder
from openmm_bg.coarse_graining.maps import LinearMap, assignment_map
from openmm_bg.errors import InputError
from openmm_bg.tensors import positions_tensor
from openmm_bg.training.progress import TrainingBar
from openmm_bg.training.settings import require_positive

ANGSTROM = 10.0  # Angstrom in a nm
KCAL = 1.0 / 41.84  # kcal/mol/Angstrom in a kJ/mol/nm
_HEAVY = 4.5  # [Da]: above that of any hydrogen, also one that was made heavier for longer time steps
_LOSSES = ("reconstruction", "link", "entropy", "assignment", "force")

BeadForces = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class MapSettings:
    """Settings of a learned map.

    The weights of the losses are those of the source, with lengths in Angstrom and forces in kcal/mol/Angstrom.

    Args:
        n_beads: Beads.
        n_steps: Optimiser steps.
        batch_size: Configurations in a step.
        learning_rate: Adam's step size at the start; it falls along a cosine to a hundredth.
        decoder_rate: That of the decoder's constant matrix.
        link_weight: The weight of L_link.
        entropy_weight: That of L_ent.
        assignment_weight: That of L_assign.
        force_weight: That of L_mf [(kcal/mol/Angstrom)^-2]; 0 leaves it out.
        force_entropy: Forces count once the mean entropy of the assignment's rows is below this: beads that have
            all atoms in common have no forces. The source waits for this, too.
        temperature: The temperature of the softmax at the end, to which it falls from 1. The source keeps 1.
        width: Channels of the networks.
        n_layers: Layers of the assignment's network.
        cutoff: Atoms farther apart than this [nm] do not see each other.
        by_atom: Whether every atom is of a kind of its own. Otherwise its kind is its element, as in the source;
            then parts of a large molecule that look alike, as two residues of a kind, go into one bead.
        seed_atoms: The atoms that the decoder makes of the beads; all heavy ones if not given.
        seed: Seed of the networks and of the order of the configurations.

    Raises:
        InputError: If a setting makes no sense.
    """

    n_beads: int = 6
    n_steps: int = 600
    batch_size: int = 16
    learning_rate: float = 3e-3
    decoder_rate: float = 3e-2
    link_weight: float = 0.1
    entropy_weight: float = 0.1
    assignment_weight: float = 0.1
    force_weight: float = 1e-4
    force_entropy: float = 0.5
    temperature: float = 0.1
    width: int = 32
    n_layers: int = 2
    cutoff: float = 0.5
    by_atom: bool = False
    seed_atoms: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.n_beads < 3:
            raise InputError(f"A map needs at least three beads, and this has {self.n_beads}.")
        positive = ("n_steps", "batch_size", "learning_rate", "decoder_rate", "force_entropy", "temperature")
        require_positive(self, (*positive, "width", "n_layers", "cutoff"))
        for name in ("link_weight", "entropy_weight", "assignment_weight", "force_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be finite and not negative, and is {getattr(self, name)}.")

    def weights(self) -> dict[str, float]:
        """Return the weight of each loss."""
        others = (self.link_weight, self.entropy_weight, self.assignment_weight, self.force_weight)
        return dict(zip(_LOSSES, (1.0, *others), strict=True))

    def temperature_at(self, fraction: float) -> float:
        """Return the temperature of the softmax when a fraction of the run is done; the last fifth is the end's."""
        return self.temperature ** min(1.0, fraction / 0.8)


@dataclass(frozen=True, eq=False)
class LearnedMap:
    """A learned map, which is constant: no configuration changes it any more.

    In the record ``"pieces"`` says into how many pieces the atoms of each bead fall along bonds. All should be one;
    if not, learn with `MapSettings.by_atom`, another seed, for longer, or with a larger weight of L_link.

    Attributes:
        map: The map, of centres of mass.
        assignment: How much of each atom belongs to each bead, with shape=(n_atoms, n_beads).
        decoder: From beads [nm] with shape=(batch, n_beads, 3) to the seed atoms around their centre.
        seed_atoms: The atoms that the decoder makes.
        network: The network of the assignment.
        history: The mean losses in each twentieth of the run, and what is left at its end.
        record: How it was learned, as JSON.
    """

    map: LinearMap
    assignment: np.ndarray
    decoder: Decoder
    seed_atoms: np.ndarray
    network: AssignmentNetwork
    history: list[dict[str, float]]
    record: dict[str, Any]

    def groups(self) -> list[list[int]]:
        """Return the atoms that each bead has more of than any other bead, for `centroid_map`."""
        beads = self.assignment.argmax(1)
        return [np.flatnonzero(beads == bead).tolist() for bead in range(self.assignment.shape[1])]


def learn_map(
    positions: Any,
    forces: Any,
    bonds: Any,
    masses: Any,
    settings: MapSettings,
    *,
    bead_forces: BeadForces | None = None,
    start: LearnedMap | None = None,
    progress: bool = False,
) -> LearnedMap:
    """Learn a map from configurations and forces.

    The source alternates: the map learns, then the coarse-grained potential for the map, then the map with the
    potential's forces, and so on. For this, give these forces and the map so far.

    Args:
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
        forces: Forces [kJ/mol/nm] on their atoms, with the same shape.
        bonds: Pairs of atom indices with shape=(n_bonds, 2).
        masses: Masses [Da] with shape=(n_atoms,), which also tell elements apart.
        settings: The settings.
        bead_forces: The forces [kJ/mol/nm] of a coarse-grained potential, with shape=(batch, n_beads, 3), at
            beads [nm] with this shape: L_mf is the distance from these. Without, it is the mean square force.
        start: What to go on from, at the last temperature of the softmax; a smaller step size is in place then.
        progress: Whether to show a progress bar.

    Raises:
        InputError: If the input is ill-formed, there are more beads than seed atoms, or a bead ends up empty.
    """
    data = _Data.checked(positions, forces, bonds, masses, settings)
    learner = _Learner(data, settings, bead_forces, start)
    with TrainingBar(progress, "learning the map", settings.n_steps) as bar:
        while learner.step < settings.n_steps:
            learner.one_step()
            bar.show(learner.step, f"L_r {learner.latest['reconstruction']:.2f} A")
    return learner.result()


@dataclass(frozen=True, eq=False)
class _Data:
    """Checked input: positions [nm], forces [kJ/mol/nm], bonds, masses [Da], kinds, and seed atoms."""

    positions: torch.Tensor
    forces: torch.Tensor
    bonds: np.ndarray
    masses: np.ndarray
    kinds: np.ndarray
    seed_atoms: np.ndarray

    @classmethod
    def checked(cls, positions: Any, forces: Any, bonds: Any, masses: Any, settings: MapSettings) -> _Data:
        """Check and convert the arguments of `learn_map`."""
        positions, forces = positions_tensor(positions), positions_tensor(forces)
        if positions.ndim != 3 or positions.shape[2] != 3 or 0 in positions.shape:
            raise InputError(
                f"Positions must have the shape (n_frames, n_atoms, 3), not {tuple(positions.shape)}."
            )
        if forces.shape != positions.shape:
            raise InputError(
                f"Forces must have the shape of the positions, {tuple(positions.shape)}, not {tuple(forces.shape)}."
            )
        for name, values in (("Positions", positions), ("Forces", forces)):
            if not torch.isfinite(values).all():
                raise InputError(f"{name} contain NaN or infinite numbers; leave these frames out.")
        n_atoms = positions.shape[1]
        masses = np.asarray(masses, dtype=np.float64)
        if masses.shape != (n_atoms,) or not (masses > 0).all():
            raise InputError(f"Masses must be {n_atoms} positive numbers [Da], one for each atom.")
        bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
        if len(bonds) and (bonds.min() < 0 or bonds.max() >= n_atoms):
            raise InputError(f"A bond names an atom that is not there; the atoms are 0 to {n_atoms - 1}.")
        kinds = np.arange(n_atoms) if settings.by_atom else np.unique(masses.round(1), return_inverse=True)[1]
        chosen = settings.seed_atoms
        seed_atoms = np.flatnonzero(masses > _HEAVY) if chosen is None else np.asarray(chosen, dtype=np.int64)
        if settings.n_beads > len(seed_atoms):
            what = "heavy atoms" if chosen is None else "seed atoms"
            raise InputError(
                f"There are more beads ({settings.n_beads}) than {what} ({len(seed_atoms)}), of which each needs "
                "one; choose fewer beads."
            )
        if not np.isin(seed_atoms, np.arange(n_atoms)).all() or len(set(seed_atoms)) < len(seed_atoms):
            raise InputError(f"seed_atoms must be different atoms from 0 to {n_atoms - 1}.")
        return cls(positions, forces, bonds, masses, kinds, seed_atoms)


class _Learner:
    """The networks, their optimiser, and the losses so far."""

    def __init__(
        self, data: _Data, settings: MapSettings, bead_forces: BeadForces | None, start: LearnedMap | None
    ) -> None:
        self.settings, self._data, self._bead_forces = settings, data, bead_forces
        sizes = {"width": settings.width, "seed": settings.seed}
        self._network = AssignmentNetwork(
            data.kinds,
            settings.n_beads,
            bonds=data.bonds,
            n_layers=settings.n_layers,
            cutoff=settings.cutoff,
            **sizes,
        )
        self._decoder = Decoder(settings.n_beads, len(data.seed_atoms), **sizes)
        self._continues = start is not None
        if start is not None:
            self._take_over(start)
        constant = [self._decoder.matrix]
        rest = [*self._network.parameters(), *self._decoder.network.parameters()]
        groups = [
            {"params": rest, "lr": settings.learning_rate},
            {"params": constant, "lr": settings.decoder_rate},
        ]
        self._optimizer = torch.optim.Adam(groups, fused=True)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._bonds = torch.as_tensor(data.bonds)
        self._bond_counts = torch.as_tensor(losses.bond_counts(len(data.masses), data.bonds))
        self._masses = torch.as_tensor(data.masses)
        self.step, self.latest, self.history = 0, {}, []
        self._recent: list[dict[str, float]] = []

    def _take_over(self, start: LearnedMap) -> None:
        try:
            self._network.load_state_dict(start.network.state_dict())
            self._decoder.load_state_dict(start.decoder.state_dict())
        except RuntimeError as error:
            raise InputError(f"The map to go on from is of other networks: {error}") from error

    def one_step(self) -> None:
        """Take an optimiser step."""
        settings, fraction = self.settings, self.step / self.settings.n_steps
        temperature = settings.temperature if self._continues else settings.temperature_at(fraction)
        n_frames = len(self._data.positions)
        chosen = torch.randint(n_frames, (settings.batch_size,), generator=self._generator)
        parts = self._losses(chosen, temperature)
        loss = sum(weight * parts[name] for name, weight in settings.weights().items() if name in parts)
        self._optimizer.zero_grad()
        loss.backward()
        parameters = [*self._network.parameters(), *self._decoder.parameters()]
        norm = torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        falling = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * fraction))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * falling
        if torch.isfinite(norm):
            self._optimizer.step()
        self.step += 1
        self.latest = {"loss": float(loss.detach())} | {name: float(x.detach()) for name, x in parts.items()}
        self._recent.append({"temperature": temperature} | self.latest)
        if len(self._recent) == max(1, settings.n_steps // 20) or self.step == settings.n_steps:
            self._log()

    def _losses(self, chosen: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
        """Return the losses of some configurations, in the units of the source."""
        settings, positions = self.settings, self._data.positions[chosen]
        assignment = self._network(positions, temperature)
        parts = assignment.T * self._masses
        weights = parts / parts.sum(1, keepdim=True)
        beads = weights @ positions
        seeds = positions[:, self._data.seed_atoms]
        found = {
            "reconstruction": losses.reconstruction_loss(ANGSTROM * self._decoder(beads), ANGSTROM * seeds),
            "link": losses.link_loss(assignment, self._bonds, self._bond_counts),
            "entropy": losses.entropy_loss(assignment),
            "assignment": losses.assignment_loss(assignment[self._data.seed_atoms]),
        }
        if settings.force_weight > 0 and float(found["entropy"].detach()) < settings.force_entropy:
            found["force"] = losses.force_loss(weights, KCAL * self._data.forces[chosen], self._target(beads))
        return found

    def _target(self, beads: torch.Tensor) -> torch.Tensor | None:
        """Return the forces of the coarse-grained potential in the unit of the source, if there is one."""
        if self._bead_forces is None:
            return None
        found = torch.as_tensor(self._bead_forces(beads.detach())).detach().to(beads)
        if found.shape != beads.shape:
            raise InputError(
                f"bead_forces must return the shape of its beads, {tuple(beads.shape)}, not {tuple(found.shape)}."
            )
        return KCAL * found

    def _log(self) -> None:
        """Add the means since the last time to the history."""
        row: dict[str, float] = {"step": self.step}
        for name in ("temperature", "loss", *_LOSSES):
            values = [parts[name] for parts in self._recent if name in parts]
            row[name] = float(np.mean(values)) if values else math.nan
        self.history.append(row)
        self._recent = []

    def result(self) -> LearnedMap:
        """Return the map of all configurations' mean logits."""
        settings, data = self.settings, self._data
        with torch.no_grad():
            sums = [len(part) * self._network.logits(part) for part in data.positions.split(64)]
            logits = torch.stack(sums).sum(0) / len(data.positions)
            assignment = self._network.assignment(logits, settings.temperature).numpy()
        return LearnedMap(
            map=assignment_map(assignment, data.masses),
            assignment=assignment,
            decoder=self._decoder.requires_grad_(False),
            seed_atoms=data.seed_atoms,
            network=self._network.requires_grad_(False),
            history=self.history,
            record={
                "settings": dataclasses.asdict(settings),
                "n_frames": len(data.positions),
                "seed_atoms": data.seed_atoms.tolist(),
                "alternating": self._bead_forces is not None,
                "assignment": assignment.tolist(),
                "pieces": _pieces(assignment.argmax(1), settings.n_beads, data.bonds),
                "losses": {name: x for name, x in self.history[-1].items() if math.isfinite(x)},
            },
        )


def _pieces(beads: np.ndarray, n_beads: int, bonds: np.ndarray) -> list[int]:
    """Return into how many pieces the atoms of each bead fall along bonds."""
    kept = bonds[beads[bonds[:, 0]] == beads[bonds[:, 1]]]
    graph = coo_array((np.ones(len(kept)), kept.T), shape=(len(beads), len(beads)))
    pieces = connected_components(graph, directed=False)[1]
    return [len(np.unique(pieces[beads == bead])) for bead in range(n_beads)]
