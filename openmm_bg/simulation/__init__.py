"""Molecular dynamics that makes training data and references."""

from openmm_bg.simulation.langevin import LangevinDynamics
from openmm_bg.simulation.run import simulate
from openmm_bg.simulation.settings import SimulationSettings

__all__ = ["LangevinDynamics", "SimulationSettings", "simulate"]
