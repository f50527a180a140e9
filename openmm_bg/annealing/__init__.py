"""Temperature annealing: a flow learns to sample lower temperatures from its own weighted samples."""

from openmm_bg.annealing.annealer import anneal
from openmm_bg.annealing.settings import AnnealingSettings

__all__ = ["AnnealingSettings", "anneal"]
