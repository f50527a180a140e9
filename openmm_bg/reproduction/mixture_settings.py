"""Settings of the reproduction of seed 001, figure 2."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from openmm_bg.reproduction.mixture_equilibrium import EquilibriumSettings
from openmm_bg.training import TrainingSettings

KINDS = ("tsf-affine", "realnvp", "tsf")
"""The flows that are trained, in this order."""

# Widths that give the flows of a dimension equal numbers of parameters, within two per cent.
WIDTHS: dict[int, dict[str, int]] = {
    5: {"tsf-affine": 64, "realnvp": 65, "tsf": 79},
    20: {"tsf-affine": 64, "realnvp": 68, "tsf": 57},
}
"""The trained flows, and the width of their conditioners in 5 and in 20 dimensions."""


@dataclass(frozen=True)
class MixtureSettings:
    """Settings of the experiment.

    Args:
        equilibrium: For each dimension that is studied, the settings of the parallel tempering.
        training: Settings of all trainings; the flow, its width (see `WIDTHS`) and the seed come on top.
        seeds: Seeds of the trainings. The systems (drawn with seed 0) and the training data are the same for all.
        n_momenta: Draws of momenta for each configuration, in the tighter bound of a TSF's marginal likelihood.
        n_samples: Samples of the TSF in panel A.
        n_exact: Exact samples in panel A.
    """

    equilibrium: dict[int, EquilibriumSettings] = field(
        default_factory=lambda: {5: EquilibriumSettings(100_000), 20: EquilibriumSettings(1_000_000)}
    )
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            n_steps=4000,
            batch_size=512,
            kl_batch_size=512,
            learning_rate=2e-3,
            kl_weight=0.2,
            kl_start=0.8,
            kl_full=0.9,
            dispersion_weight=0.0,
            validation_interval=400,
            validation_samples=2000,
            n_layers=8,
            n_hidden=3,  # as in the seeds
        )
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    n_momenta: int = 32
    n_samples: int = 100_000
    n_exact: int = 1_000_000

    def of(self, kind: str, dimension: int, seed: int) -> TrainingSettings:
        """Return the settings of one training; only the flow and its width differ between the flows."""
        width = WIDTHS.get(dimension, {}).get(kind, self.training.hidden_features)
        return dataclasses.replace(self.training, flow=kind, hidden_features=width, seed=seed)

    @staticmethod
    def quick() -> MixtureSettings:
        """Return settings that show in minutes how it works; their figures prove nothing."""
        short = MixtureSettings()
        equilibrium = EquilibriumSettings(2000, n_walkers=8, n_training=4000, n_frames=25)
        return dataclasses.replace(
            short,
            equilibrium={5: equilibrium, 20: equilibrium},
            training=dataclasses.replace(short.training, n_steps=300, validation_interval=100),
            seeds=(0,),
            n_momenta=8,
            n_samples=5000,
            n_exact=100_000,
        )
