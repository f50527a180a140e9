"""The loss of a backmapping flow and a bead energy, which are trained together."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.bead_energy import BeadEnergy
from openmm_bg.coarse_graining.frame_choice import FrameChoice
from openmm_bg.coarse_graining.frames import Frames, make_frames
from openmm_bg.coarse_graining.maps import CoarseGrainedMap
from openmm_bg.coarse_graining.settings import CoarseGrainingSettings
from openmm_bg.potentials.base import Potential
from openmm_bg.units import thermal_energy

_CHUNK = 2048
CLASH = 100.0  # kT
_IMPOSSIBLE = 1e4  # kT, in the place of infinite energies
_LARGEST_FORCE = 1000.0  # kT/nm, of the reverse divergence: more than those of stiff bonds at equilibrium


class JointLoss:
    """Maximum likelihood, force matching, the dispersion of weights and the reverse divergence.

    See `CoarseGrainingSettings`.

    Args:
        coarse_map: The map.
        flow: The backmapping flow.
        energy: The bead energy.
        potential: The all-atom potential.
        positions: The data [nm] with shape=(n_frames, n_atoms, 3), float64. Their energies and forces are computed.
        settings: The settings.

    Attributes:
        frames: The data.
        n_training: How many of them are trained on; the others are held out.
    """

    def __init__(
        self,
        coarse_map: CoarseGrainedMap,
        flow: BackmappingFlow,
        energy: BeadEnergy,
        potential: Potential,
        positions: torch.Tensor,
        settings: CoarseGrainingSettings,
    ) -> None:
        self.coarse_map, self.flow, self.energy = coarse_map, flow, energy
        self.potential, self.settings = potential, settings
        self._kt = thermal_energy(energy.temperature)
        self.frames = self._data_frames(positions)
        self.n_training = int(len(self.frames.constant) * (1 - settings.validation_fraction))
        self.choose = FrameChoice(self.n_training)
        if settings.even_fraction:
            invariants = energy.invariants(self.frames.beads[: self.n_training].double())
            self.choose = FrameChoice(self.n_training, settings.even_fraction, invariants)
        self._zero = float(self.frames.constant.mean())
        self._force_scale = float(self.frames.forces[: self.n_training].square().mean())

    def _data_frames(self, positions: torch.Tensor) -> Frames:
        generator = torch.Generator().manual_seed(self.settings.seed)
        parts = []
        for chunk in positions.split(_CHUNK):
            energies, forces = self.potential.energy_and_forces(chunk)
            frames, _ = make_frames(
                self.coarse_map,
                self.flow,
                chunk,
                energies.double() / self._kt,
                reduced_forces=forces.double() / self._kt,
                generator=generator,
            )
            parts.append(frames)
        return Frames.joined(parts)

    def __call__(
        self, step: int, pool: torch.Tensor | None, generator: torch.Generator
    ) -> tuple[list[torch.Tensor], dict[str, float]]:
        """Return the losses of a batch, whose gradients are to be limited apart from each other, and their parts.

        Args:
            step: Steps done; weights depend on it.
            pool: Bead configurations [nm] from which half of the flow's own draws begin, if there are some.
            generator: Source of randomness.

        Returns:
            The first loss is that of the data and of the weights, the second, if it has a weight, the reverse
            divergence, without this weight.
        """
        settings = self.settings
        frames = self.frames.at(self.choose(settings.batch_size, generator))
        likelihood, force_error, deviation = self._of_data(frames)
        # Not detached: the energy's own constant must not drift. Capped is what is left without it: capped as a
        # whole, deviations would all be alike once the constant is that of a clash.
        center = deviation.mean()
        spread = dispersion(capped(deviation - center), settings.dispersion_range)
        own_spread = None
        further = []
        drawn = settings.dispersion_weight > 0 or settings.reverse_weight > 0
        if drawn and step >= settings.own_start * settings.n_steps:
            own, reverse = self._draw(settings.batch_size, pool, generator)
            log_p = self.flow.feature_log_prob(own.features, own.context)
            deviation = self.deviation(own, self.energy(own.beads), log_p)
            own_spread = dispersion(capped(deviation - center), settings.dispersion_range)
            if reverse is not None:
                further.append(reverse)
        weight = settings.dispersion_weight * min(1.0, 10.0 * step / settings.n_steps)
        loss = likelihood + settings.force_weight * force_error
        loss = loss + 0.5 * weight * (spread + (spread if own_spread is None else own_spread))
        figures = {"likelihood": likelihood, "force_error": force_error, "dispersion": spread}
        found = {name: float(value.detach()) for name, value in figures.items()}
        found["own_dispersion"] = math.nan if own_spread is None else float(own_spread.detach())
        return [loss, *further], found

    def deviation(self, frames: Frames, energies: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
        """Return log(rho p_inv / r) + U / kT up to a constant, with shape=(n,).

        Args:
            frames: The configurations.
            energies: Their bead energies with shape=(n,).
            log_p: Log-densities of their features with shape=(n,).
        """
        return log_p - energies + (frames.constant - self._zero).clamp_max(_IMPOSSIBLE).to(log_p)

    def held_out(self, flow: BackmappingFlow, energy: BeadEnergy) -> dict[str, float]:
        """Return figures of networks on the frames that are held out."""
        frames = self.frames.at(slice(self.n_training, None))
        log_p = self._log_densities(flow, frames)
        with torch.no_grad():
            deviation = self.deviation(frames, energy(frames.beads), log_p)
        spread = capped(deviation - deviation.mean()).std()
        return {"held_out_likelihood": float(-log_p.mean()), "held_out_deviation": float(spread)}

    def log_densities(self, flow: BackmappingFlow) -> torch.Tensor:
        """Return the log-densities of all data's features with shape=(n_frames,)."""
        return self._log_densities(flow, self.frames)

    def log_weights(self, log_p: torch.Tensor, energy: BeadEnergy) -> np.ndarray:
        """Return the data's log-weights, with the same constant as those of samples, and shape=(n_frames,).

        Args:
            log_p: What `log_densities` has returned.
            energy: The bead energy.
        """
        with torch.no_grad():
            energies = torch.cat([energy(beads) for beads in self.frames.beads.split(_CHUNK)])
            deviation = self.deviation(self.frames, energies, log_p)
        return -deviation.double().numpy() - self._zero

    def _log_densities(self, flow: BackmappingFlow, frames: Frames) -> torch.Tensor:
        size = self.settings.batch_size
        parts = zip(frames.features.split(size), frames.context.split(size), strict=True)
        with torch.no_grad():
            return torch.cat([flow.feature_log_prob(*part) for part in parts])

    def _of_data(self, frames: Frames) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the negative log-likelihood, the force error and the deviations."""
        log_p = self.flow.feature_log_prob(frames.features, frames.context)
        beads = frames.beads.clone().requires_grad_()
        energies = self.energy(beads)
        (gradient,) = torch.autograd.grad(energies.sum(), beads, create_graph=True)
        force_error = (gradient + frames.forces).square().mean() / self._force_scale
        return -log_p.mean(), force_error, self.deviation(frames, energies, log_p)

    def _draw(
        self, n: int, pool: torch.Tensor | None, generator: torch.Generator
    ) -> tuple[Frames, torch.Tensor | None]:
        """Draw configurations from the flow as it is, of bead configurations of the data and of the pool.

        Returns:
            The draws, without gradients, and the reverse divergence up to a constant, if it has a weight.
        """
        beads = self.frames.beads[self.choose(n, generator)]
        if pool is not None:
            half = n // 2
            others = beads[::2] if self.settings.even_fraction else beads[half:]  # of both ways of choice
            chosen = torch.randint(len(pool), (half,), generator=generator)
            beads = torch.cat([others, pool[chosen].to(beads)])
        beads, reverse = beads.double(), None
        with torch.set_grad_enabled(self.settings.reverse_weight > 0):
            features, log_p = self.flow.draw(beads, generator=generator)
        if self.settings.reverse_weight > 0:
            positions, reduced, reverse = self._reverse(features, log_p, beads)
        else:
            positions, _ = self.flow.coordinates.inverse(features.double(), beads)
            reduced = self.potential.energy(positions).double() / self._kt
        with torch.no_grad():
            features = features.detach()
            frames, kept = make_frames(
                self.coarse_map, self.flow, positions, reduced, beads=beads, generator=generator
            )
            lost = np.setdiff1d(np.arange(n), kept)
            return Frames.joined([frames, self._lost(features[lost], beads[lost])]), reverse

    def _reverse(
        self, features: torch.Tensor, log_p: torch.Tensor, beads: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return positions and energies of draws, and what has the gradient of the mean of log(p_inv / r) + U / kT.

        Forces are limited, so that atoms that are in the same place push each other away, and no more.
        """
        positions, _ = self.flow.coordinates.inverse(features.double(), beads)
        energies, forces = self.potential.energy_and_forces(positions.detach())
        forces = forces.double() / self._kt
        forces = forces * (_LARGEST_FORCE / forces.norm(dim=2, keepdim=True)).clamp_max(1.0)
        inside = torch.isfinite(energies) & torch.isfinite(positions).all(dim=(1, 2))
        reduced, found = energies.double() / self._kt, positions.detach()
        if not inside.any():
            return found, reduced, None
        work = -(forces[inside] * positions[inside]).sum(dim=(1, 2))
        work = work - self.coarse_map.log_prob(beads[inside], positions[inside])  # zero without noise
        return found, reduced, (work.to(log_p) + log_p[inside]).mean()

    def _lost(self, features: torch.Tensor, beads: torch.Tensor) -> Frames:
        """Return draws outside the domain as frames of infinite energy, so that they become rarer."""
        dtype = self.flow.dtype
        constant = torch.full((len(beads),), torch.inf, dtype=torch.float64)
        context = self.flow.context(beads).to(dtype)
        unknown = torch.full_like(beads, torch.nan, dtype=dtype)
        return Frames(features, beads.to(dtype), context, unknown, constant)


def dispersion(deviation: torch.Tensor, bound: float) -> torch.Tensor:
    """Return the mean square of deviations [kT], of which those beyond a bound count linearly (Huber)."""
    return 2.0 * functional.huber_loss(deviation, torch.zeros_like(deviation), delta=bound)


def capped(deviation: torch.Tensor) -> torch.Tensor:
    """Return deviations [kT] of at most that of a clash, with gradients as if they were not capped.

    Clashes are pushed down like anything else that is far too dense, however bad they are.
    """
    return deviation + (deviation.clamp_max(CLASH) - deviation).detach()
