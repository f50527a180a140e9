"""Ramachandran statistics, basin populations and energies of samples and simulations, with errors.

Everything works for weighted independent samples and for correlated chains. In a chain of several walkers
frame i belongs to walker i % n_walkers. Angles are in rad, in [-pi, pi]; basins are given in degrees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from openmm_bg import statistics
from openmm_bg.errors import InputError
from openmm_bg.geometry import dihedrals
from openmm_bg.histograms import cell_fractions
from openmm_bg.statistics import Estimate

KL_BINS, KL_EPSILON = 100, 1e-10
"""Bins and offset of the Ramachandran KL divergence, as in the published benchmarks."""

TV_BINS = 50
"""Bins of the Ramachandran total variation: on 100 x 100 bins its noise floor hides small differences."""


@dataclass(frozen=True)
class Basin:
    """A rectangle of the (phi, psi) torus: edges in degrees, from the first up to the second, which is out.

    An edge pair may run through 180 degrees, as in (120, 0); (-180, 180) is the full circle.
    """

    phi: tuple[float, float]
    psi: tuple[float, float]

    def contains(self, phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
        """Return whether angles [rad] are inside; NaN angles are not."""
        return _between(phi, self.phi) & _between(psi, self.psi)


# The edges lie at the minima of the phi and psi distributions of ff96 + OBC1, seen at 350 and at 600 K.
# The beta basin reaches across phi = 180: 0.25 % of 0.6 ns at 350 K had phi in (150, 180), which is about
# what others publish for all of phi > 0 at 300 K. So P(phi > 0) does not tell whether alpha-L was found.
BASINS: Mapping[str, Basin] = MappingProxyType(
    {
        #                        phi            psi
        "beta/PPII": Basin((120.0, 0.0), (15.0, -120.0)),
        "alpha-R": Basin((120.0, 0.0), (-120.0, 15.0)),
        "alpha-L/C7ax": Basin((0.0, 120.0), (-180.0, 180.0)),
    }
)
"""The basins of alanine dipeptide; every (phi, psi) is in exactly one of them."""

PHI_POSITIVE = Basin((0.0, 180.0), (-180.0, 180.0))
"""The half of the torus with phi > 0: alpha-L and C7ax, and the part of beta beyond phi = 180 degrees."""


@dataclass(frozen=True, eq=False)
class Ramachandran:
    """The backbone torsions of samples or of a simulation.

    Args:
        label: What they are, for plots and tables.
        phi: Angles [rad] with shape=(n,).
        psi: Angles [rad] with shape=(n,).
        log_weights: Log-weights with shape=(n,) of samples, or None for a chain. Samples with NaN angles must
            have the weight zero.
        n_walkers: Walkers of a chain, interleaved. Samples with weights are independent if there is only one.

    Raises:
        InputError: If the shapes disagree, the walkers have unequal lengths, or an angle with weight is NaN.
    """

    label: str
    phi: np.ndarray
    psi: np.ndarray
    log_weights: np.ndarray | None = None
    n_walkers: int = 1

    def __post_init__(self) -> None:
        """Check the shapes and the angles."""
        n = len(self.phi)
        shapes = {np.shape(self.phi), np.shape(self.psi)}
        shapes |= {np.shape(self.log_weights)} if self.log_weights is not None else set()
        if shapes != {(n,)} or n == 0:
            raise InputError(f"{self.label}: angles and weights must be lists of one length, not {shapes}.")
        if self.n_walkers < 1 or n % self.n_walkers:
            raise InputError(
                f"{self.label}: {n} frames are not the same number for {self.n_walkers} walkers."
            )
        weighted = np.ones(n, dtype=bool) if self.log_weights is None else np.isfinite(self.log_weights)
        if not (np.isfinite(self.phi) & np.isfinite(self.psi))[weighted].all():
            raise InputError(f"{self.label}: an angle is NaN in a frame that has a weight.")

    @property
    def weights(self) -> np.ndarray:
        """Weights that sum to one, shape=(n,)."""
        if self.log_weights is None:
            return np.full(len(self.phi), 1.0 / len(self.phi))
        return statistics.normalized_weights(self.log_weights)

    def density(self, bins: int = KL_BINS, part: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the probability density [1/rad^2] on bins of [-pi, pi)^2, shape=(bins, bins): phi, psi.

        Args:
            bins: Bins of each angle.
            part: Which of the frames to use: a slice or a mask.

        Raises:
            InputError: If they have no weight.
        """
        weights = self.weights[part]
        if not weights.sum() > 0:
            raise InputError(f"{self.label}: a part of the samples has no weight at all; draw more samples.")
        cells = _bin(self.phi[part], bins) * bins + _bin(self.psi[part], bins)
        counts = np.bincount(cells, weights=weights, minlength=bins * bins).reshape(bins, bins)
        return counts / counts.sum() / (2 * np.pi / bins) ** 2

    def density_stderr(self, bins: int = KL_BINS) -> np.ndarray:
        """Return the standard error [1/rad^2] of `density` in each bin, shape=(bins, bins): phi, psi."""
        cells = _bin(self.phi, bins) * bins + _bin(self.psi, bins)
        _, stderr = cell_fractions(cells, bins * bins, self.log_weights, self.n_walkers)
        return stderr.reshape(bins, bins) / (2 * np.pi / bins) ** 2

    def marginal(self, angle: str, bins: int = 72) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the distribution of one angle.

        Args:
            angle: "phi" or "psi".
            bins: Bins of [-pi, pi).

        Returns:
            Bin centres [rad], density [1/rad] and its standard error, each with shape=(bins,). The errors
            come from the delta method (samples), or from the scatter of walkers or blocks (chains).
        """
        cells = _bin(getattr(self, angle), bins)
        width = 2 * np.pi / bins
        fraction, stderr = cell_fractions(cells, bins, self.log_weights, self.n_walkers)
        centres = -np.pi + (np.arange(bins) + 0.5) * width
        return centres, fraction / width, stderr / width

    def population(self, basin: Basin) -> Estimate:
        """Return the probability of a basin and its standard error."""
        inside = basin.contains(self.phi, self.psi)
        if self.log_weights is not None:
            return statistics.population(inside, self.log_weights, self.n_walkers)
        return statistics.chain_population(_by_walker(inside, self.n_walkers))

    def populations(self, basins: Mapping[str, Basin] = BASINS) -> dict[str, Estimate]:
        """Return the probability of each basin and its standard error."""
        return {name: self.population(basin) for name, basin in basins.items()}

    def p_phi_positive(self) -> Estimate:
        """Return the probability of phi > 0 and its standard error."""
        return self.population(PHI_POSITIVE)

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Return masks of two halves of the frames that are as independent as can be."""
        n = len(self.phi)
        if self.n_walkers > 1:
            first = np.arange(n) % self.n_walkers < self.n_walkers // 2
        else:
            first = np.arange(n) < n // 2
        return first, ~first


def torsion_angles(
    positions: np.ndarray, torsions: Mapping[str, Iterable[int]], chunk: int = 10_000
) -> dict[str, np.ndarray]:
    """Return torsion angles [rad] by name, each with shape=(n_frames,).

    Args:
        positions: Configurations [nm] with shape=(n_frames, n_atoms, 3).
        torsions: Four atom indices for each name, as in `MolecularSystem.torsions`.
        chunk: Frames worked on at once, which bounds the memory.
    """
    if not torsions:
        return {}
    quadruples = np.array([tuple(atoms) for atoms in torsions.values()])
    parts = [
        dihedrals(np.asarray(positions[k : k + chunk], dtype=np.float64), quadruples)
        for k in range(0, len(positions), chunk)
    ]
    angles = np.concatenate(parts)
    return {name: angles[:, k] for k, name in enumerate(torsions)}


def torsion_pairs(torsions: Mapping[str, Iterable[int]]) -> dict[str, tuple[str, str]]:
    """Return the residues that have both phi and psi.

    Args:
        torsions: As in `MolecularSystem.torsions`: "phi" and "psi", or "phi 2 (ALA)" and so on.

    Returns:
        The names of both torsions by residue; the residue is "" if there is only one.
    """
    residues = [name.removeprefix("phi").strip() for name in torsions if name.split(" ")[0] == "phi"]
    pairs = {residue: (f"phi {residue}".strip(), f"psi {residue}".strip()) for residue in residues}
    return {residue: pair for residue, pair in pairs.items() if pair[1] in torsions}


def free_energy_surface(density: np.ndarray) -> np.ndarray:
    """Return -log(density) in kT, zero at the minimum and +inf where nothing was seen."""
    with np.errstate(divide="ignore"):
        surface = -np.log(density)
    return surface - surface.min()


def kl_divergence(reference: Ramachandran, model: Ramachandran) -> float:
    """Return the Ramachandran KL(reference || model), as the published benchmarks define it.

    On 100 x 100 bins: sum p log((p + 1e-10) / (q + 1e-10)), with densities p, q [1/rad^2], times the area
    of a bin.
    """
    p, q = reference.density(KL_BINS), model.density(KL_BINS)
    area = (2 * np.pi / KL_BINS) ** 2
    return float((p * np.log((p + KL_EPSILON) / (q + KL_EPSILON))).sum() * area)


def total_variation(a: Ramachandran, b: Ramachandran, bins: int = TV_BINS) -> float:
    """Return the total variation distance of two Ramachandran histograms, between 0 and 1."""
    area = (2 * np.pi / bins) ** 2
    return float(0.5 * np.abs(a.density(bins) - b.density(bins)).sum() * area)


def total_variation_floor(a: Ramachandran, b: Ramachandran, bins: int = TV_BINS) -> float:
    """Return the total variation expected from noise alone, if both had the same law.

    The two halves of a set (of its walkers, if there are several; in time otherwise) differ by noise. Their
    difference has four times the variance of the whole set, so each set contributes half of its split-half
    distance, and the two contributions add in quadrature.
    """
    area = (2 * np.pi / bins) ** 2
    distances = []
    for one in (a, b):
        first, second = (one.density(bins, part) for part in one._halves())
        distances.append(0.5 * np.abs(first - second).sum() * area)
    return float(0.5 * np.hypot(*distances))


def energy_statistics(
    energy: np.ndarray, log_weights: np.ndarray | None = None, n_walkers: int = 1
) -> dict[str, Estimate]:
    """Return the mean and the standard deviation of the potential energy with their standard errors.

    Args:
        energy: Energies in any unit with shape=(n,); infinite only where the weight is zero.
        log_weights: Log-weights with shape=(n,) of independent samples, or None for a chain.
        n_walkers: Walkers of a chain, interleaved.

    Returns:
        Estimates "mean" and "std" in the unit of the energies.
    """

    def average(values: np.ndarray) -> Estimate:
        if log_weights is not None:
            return statistics.weighted_mean(values, log_weights, n_walkers)
        return statistics.chain_mean(_by_walker(values, n_walkers))

    energy = np.asarray(energy, dtype=np.float64)
    mean = average(energy)
    # The mean's own error enters the variance only in second order.
    variance = average((energy - mean.value) ** 2)
    std = np.sqrt(variance.value)
    return {"mean": mean, "std": Estimate(float(std), float(variance.stderr / (2 * std)) if std > 0 else 0.0)}


def _between(angle: np.ndarray, edges: tuple[float, float]) -> np.ndarray:
    degrees = np.degrees(np.asarray(angle, dtype=np.float64)) % 360.0
    degrees = np.where(degrees == 360.0, 0.0, degrees)  # the remainder of a tiny negative number rounds up
    if edges[1] - edges[0] == 360.0:
        return np.isfinite(degrees)
    low, high = edges[0] % 360.0, edges[1] % 360.0
    if low < high:
        return (degrees >= low) & (degrees < high)
    return (degrees >= low) | (degrees < high)


def _bin(angle: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each angle; NaN, which has no weight, goes to the first."""
    index = np.floor((np.nan_to_num(angle) + np.pi) / (2 * np.pi) * bins).astype(np.int64)
    return index % bins


def _by_walker(values: np.ndarray, n_walkers: int) -> np.ndarray:
    """Return a chain's values with shape=(n_walkers, n_frames)."""
    if len(values) % n_walkers:
        raise InputError(f"{len(values)} frames are not the same number for {n_walkers} walkers.")
    return np.asarray(values).reshape(-1, n_walkers).T
