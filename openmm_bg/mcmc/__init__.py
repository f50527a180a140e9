"""Moves for openmmtools that propose configurations with a flow, and dynamics between them."""

from openmm_bg.mcmc.coarse_grained_move import CoarseGrainedMove
from openmm_bg.mcmc.flow_move import FlowMove
from openmm_bg.mcmc.fused_langevin_move import FusedLangevinMove
from openmm_bg.mcmc.latent_monte_carlo_move import LatentMonteCarloMove
from openmm_bg.mcmc.multiple_try_move import MultipleTryMove
from openmm_bg.mcmc.randomness import seed
from openmm_bg.mcmc.waste_recycling import WasteRecycling

__all__ = [
    "CoarseGrainedMove",
    "FlowMove",
    "FusedLangevinMove",
    "LatentMonteCarloMove",
    "MultipleTryMove",
    "WasteRecycling",
    "seed",
]
