"""Samples of a Boltzmann generator, and what can be concluded from them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg import statistics
from openmm_bg.errors import InputError, ReliabilityWarning
from openmm_bg.statistics import Estimate
from openmm_bg.units import kelvin, nanometers, thermal_energy

if TYPE_CHECKING:
    import mdtraj

    from openmm_bg.systems import MolecularSystem

UNRELIABLE_PARETO_K = 0.7
"""Above this shape of the weights' tail no weighted result can be trusted (see `statistics.pareto_k`)."""


@dataclass(eq=False, repr=False)
class Samples:
    """Independent draws from a flow, with the weights that turn them into the Boltzmann distribution.

    A draw outside the target's domain (NaN positions) or without a finite energy has the weight zero. It
    still counts as a draw, in every mean and in the effective sample size.

    Args:
        positions: Configurations [nm] with shape=(n, n_atoms, 3); NaN outside the domain.
        log_q: The flow's log-densities with shape=(n,); of a flow with momenta, the joint ones minus those of the
            momenta in the target.
        reduced_energy: Potential energies in kT with shape=(n,); non-finite values become +inf.
        temperature: The temperature [K] of the Boltzmann distribution.
        system: The molecule, if known.
        record: How the samples were made: seed, model hash, versions.
        n_walkers: Of samples along Markov chains, how many chains there are: sample i is of chain i %
            n_walkers, and errors come from their scatter. 1 if all samples are independent.
        beads: Of a coarse-grained model, the bead configurations [nm] with shape=(n, n_beads, 3).
        normalized: Whether log q is the logarithm of a normalised density, so that absolute free energies follow.

    Raises:
        InputError: If the shapes disagree or the temperature is not positive.
    """

    positions: np.ndarray
    log_q: np.ndarray
    reduced_energy: np.ndarray
    temperature: float
    system: MolecularSystem | None = None
    record: dict[str, Any] = field(default_factory=dict)
    n_walkers: int = 1
    normalized: bool = True
    beads: np.ndarray | None = None
    _judged: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Convert to float64 and check the shapes."""
        self.positions = np.asarray(nanometers(self.positions), dtype=np.float64)
        self.log_q = np.asarray(self.log_q, dtype=np.float64)
        reduced_energy = np.asarray(self.reduced_energy, dtype=np.float64)
        self.reduced_energy = np.where(np.isfinite(reduced_energy), reduced_energy, np.inf)
        self.temperature = kelvin(self.temperature)
        n = len(self.positions)
        if self.positions.ndim != 3 or self.positions.shape[2] != 3 or n == 0:
            raise InputError(f"Positions must have the shape (n, n_atoms, 3), not {self.positions.shape}.")
        for name in ("log_q", "reduced_energy"):
            if (shape := getattr(self, name).shape) != (n,):
                raise InputError(f"There are {n} configurations, but {name} has the shape {shape}.")
        if self.n_walkers < 1 or n % self.n_walkers:
            raise InputError(f"{n} samples are not the same number for {self.n_walkers} walkers.")
        if self.system is not None and self.system.n_atoms != self.n_atoms:
            raise InputError(f"The samples have {self.n_atoms} atoms, but the system {self.system.n_atoms}.")

    def __repr__(self) -> str:
        """Say what they are, without the numbers."""
        molecule = self.system.name if self.system else f"{self.n_atoms} atoms"
        chains = f", along {self.n_walkers} chains" if self.n_walkers > 1 else ""
        return f"<{type(self).__name__} of {molecule}: {len(self)} at {self.temperature:g} K{chains}>"

    def __len__(self) -> int:
        """Return the number of draws."""
        return len(self.positions)

    @property
    def n_atoms(self) -> int:
        """The number of atoms."""
        return self.positions.shape[1]

    @property
    def in_domain(self) -> np.ndarray:
        """Whether each draw lies in the target's domain, shape=(n,)."""
        return np.isfinite(self.positions).all(axis=(1, 2))

    @property
    def n_out_of_domain(self) -> int:
        """How many draws lie outside the domain: another chirality, or impossible coordinates."""
        return int((~self.in_domain).sum())

    @property
    def n_nonfinite(self) -> int:
        """How many draws inside the domain have no finite energy or density."""
        finite = np.isfinite(self.reduced_energy) & np.isfinite(self.log_q)
        return int((self.in_domain & ~finite).sum())

    @property
    def energies(self) -> np.ndarray:
        """Potential energies [kJ/mol] with shape=(n,); +inf where there is none."""
        return self.reduced_energy * thermal_energy(self.temperature)

    @property
    def log_weights(self) -> np.ndarray:
        """Unnormalised log-weights -u - log q with shape=(n,); -inf where the target has no density."""
        usable = self.in_domain & np.isfinite(self.reduced_energy) & np.isfinite(self.log_q)
        log_weights = np.full(len(self), -np.inf)
        log_weights[usable] = -self.reduced_energy[usable] - self.log_q[usable]
        return log_weights

    @property
    def weights(self) -> np.ndarray:
        """Weights that sum to one, shape=(n,).

        Raises:
            InputError: If all are zero.
        """
        return statistics.normalized_weights(self.log_weights)

    def ess(self, clip: float = 0.0) -> float:
        """Return the effective sample size as a fraction of the draws, 1 / E_q[(p/q)^2].

        Args:
            clip: The fraction of the weights, the largest, that is first set to the smallest of them
                (published figures often use 1e-4); 0 clips nothing.

        Raises:
            InputError: If all weights are zero.
        """
        return statistics.effective_sample_size(self.log_weights, clip)

    def pareto_k(self) -> float:
        """Return the tail shape of the weights; above 0.7 weighted results are unreliable.

        Raises:
            InputError: If all weights are zero.
        """
        return statistics.pareto_k(self.log_weights)

    @property
    def pareto_smoothed_log_weights(self) -> np.ndarray:
        """Log-weights with shape=(n,) whose largest ones are smoothed: see `statistics.pareto_smoothed`.

        Raises:
            InputError: If all weights are zero.
        """
        return statistics.pareto_smoothed(self.log_weights)

    def expectation(self, values: np.ndarray) -> Estimate:
        """Return the Boltzmann average of a property and its standard error.

        Args:
            values: The property of each draw with shape=(n,); ignored, NaN included, at zero weight.

        Raises:
            InputError: If the shape is wrong, a value with weight is not finite, or all weights are zero.
        """
        self.warn_if_unreliable()
        return statistics.weighted_mean(values, self.log_weights, self.n_walkers)

    def population(self, mask: np.ndarray) -> Estimate:
        """Return the probability of a state and its standard error.

        Args:
            mask: Whether each draw is in the state, shape=(n,).

        Raises:
            InputError: If the shape is wrong or all weights are zero.
        """
        self.warn_if_unreliable()
        return statistics.population(mask, self.log_weights, self.n_walkers)

    def free_energy(self) -> Estimate:
        """Return -log Z in kT and its standard error, Z being the integral of exp(-u).

        The integral runs over the positions [nm] without translation and rotation, in the measure of
        log q; free energies of one molecule at two temperatures may be subtracted.

        Raises:
            InputError: If all weights are zero, or log q is not normalised.
        """
        if not self.normalized:
            raise InputError(
                "The density of these samples is not normalised (coarse-grained potentials are not), so absolute "
                "free energies are unknown; differences between states are not: free_energy_difference."
            )
        self.warn_if_unreliable()
        log_z = statistics.log_mean_weight(self.log_weights)
        return Estimate(-log_z.value, log_z.stderr)

    def free_energy_difference(self, state_a: np.ndarray, state_b: np.ndarray) -> Estimate:
        """Return the free energy of state B minus that of state A in kT, and its standard error.

        Args:
            state_a: Whether each draw is in state A, shape=(n,).
            state_b: Whether each draw is in state B, shape=(n,).

        Raises:
            InputError: If the shapes are wrong or a state has no weight.
        """
        self.warn_if_unreliable()
        return statistics.log_population_ratio(state_a, state_b, self.log_weights, self.n_walkers)

    def reweighted(self, temperature: Any) -> Samples:
        """Return the same draws with weights for another temperature: plain reweighting.

        A flow sampled at that temperature itself, its base scaled, is nearly always much better.

        Args:
            temperature: The other temperature [K].
        """
        temperature = kelvin(temperature)
        reduced = self.reduced_energy * (self.temperature / temperature)
        return replace(self, reduced_energy=reduced, temperature=temperature)

    def resample(self, n: int | None = None, seed: int = 0) -> np.ndarray:
        """Draw unweighted configurations of the Boltzmann distribution by systematic resampling.

        Args:
            n: How many; the number of draws if not given. More than ess() * n repeats configurations.
            seed: Same seed, same configurations.

        Returns:
            Positions [nm] with shape=(n, n_atoms, 3).

        Raises:
            InputError: If `n` is not positive or all weights are zero.
        """
        self.warn_if_unreliable()
        n = len(self) if n is None else n
        return self.positions[statistics.resample(self.log_weights, n, seed)]

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """Return the draws inside the domain, with their weights not applied, as an mdtraj trajectory.

        `log_weights[in_domain]` belongs to its frames. mdtraj keeps positions in single precision.

        Raises:
            InputError: If the system is not known, or no draw is inside the domain.
        """
        import mdtraj

        if self.system is None:
            raise InputError("The samples do not know their molecule, so there is no topology to export.")
        if not (frames := self.in_domain).any():
            raise InputError("No draw is inside the target's domain, so there is nothing to export.")
        return mdtraj.Trajectory(
            self.positions[frames].astype(np.float32), mdtraj.Topology.from_openmm(self.system.topology)
        )

    def warn_if_unreliable(self) -> None:
        """Issue a `ReliabilityWarning` if Pareto k says so; once for each object."""
        if self._judged:
            return
        warn_if_unreliable(self.log_weights)
        self._judged = True


def warn_if_unreliable(log_weights: np.ndarray) -> None:
    """Issue a `ReliabilityWarning` if Pareto k of weights with shape=(n,) is above 0.7.

    Raises:
        InputError: If all weights are zero.
    """
    k = statistics.pareto_k(log_weights)
    if k == np.inf:
        warnings.warn(
            f"Too few of the {len(log_weights)} samples have weights to tell how heavy the tail of these is, so "
            "averages and their errors cannot be trusted. Draw more samples.",
            ReliabilityWarning,
            stacklevel=4,
        )
    elif k > UNRELIABLE_PARETO_K:
        warnings.warn(
            f"Pareto k is {k:.2f} (> {UNRELIABLE_PARETO_K}): a few of the {len(log_weights)} samples own the "
            "weights, so averages and their errors cannot be trusted. Draw more samples, train longer, or, if the "
            "model was trained at another temperature, sample closer to it.",
            ReliabilityWarning,
            stacklevel=4,
        )
