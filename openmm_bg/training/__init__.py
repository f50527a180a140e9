"""Training of flows on molecular dynamics data and energies."""

from openmm_bg.training.data import TrainingData, load_data
from openmm_bg.training.settings import TrainingSettings
from openmm_bg.training.trainer import train

__all__ = ["TrainingData", "TrainingSettings", "load_data", "train"]
