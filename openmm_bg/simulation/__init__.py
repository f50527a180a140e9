"""Molecular dynamics, Monte Carlo and minimisation of many walkers at once; simulations on disk."""

from openmm_bg.simulation.hybrid_monte_carlo import HybridMonteCarlo
from openmm_bg.simulation.langevin import LangevinDynamics
from openmm_bg.simulation.minimization import Minimization, minimize
from openmm_bg.simulation.presets import preset
from openmm_bg.simulation.run import simulate
from openmm_bg.simulation.settings import SimulationSettings
from openmm_bg.simulation.start_comparison import StartComparison, compare_starts
from openmm_bg.simulation.tempering import ParallelTempering
from openmm_bg.simulation.umbrella import UmbrellaSettings, umbrella_sampling
from openmm_bg.simulation.verlet import VelocityVerlet

__all__ = [
    "HybridMonteCarlo",
    "LangevinDynamics",
    "Minimization",
    "ParallelTempering",
    "SimulationSettings",
    "StartComparison",
    "UmbrellaSettings",
    "VelocityVerlet",
    "compare_starts",
    "minimize",
    "preset",
    "simulate",
    "umbrella_sampling",
]
