"""Moves for openmmtools that propose configurations with a flow."""

from openmm_bg.mcmc.flow_move import FlowMove
from openmm_bg.mcmc.latent_monte_carlo_move import LatentMonteCarloMove
from openmm_bg.mcmc.randomness import seed

__all__ = ["FlowMove", "LatentMonteCarloMove", "seed"]
