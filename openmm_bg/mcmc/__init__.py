"""Moves for openmmtools that propose configurations from a flow."""

from openmm_bg.mcmc.flow_move import FlowMove
from openmm_bg.mcmc.randomness import seed

__all__ = ["FlowMove", "seed"]
