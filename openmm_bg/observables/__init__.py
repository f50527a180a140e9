"""Observables of molecules by name, with weighted averages and free-energy surfaces."""

from openmm_bg.observables.names import KINDS, Observable, observable, split_names
from openmm_bg.observables.reference import load_reference_positions
from openmm_bg.observables.series import (
    FreeEnergyProfile,
    FreeEnergySurface,
    Series,
    bin_edges,
    profile,
    surface,
)

__all__ = [
    "KINDS",
    "FreeEnergyProfile",
    "FreeEnergySurface",
    "Observable",
    "Series",
    "bin_edges",
    "load_reference_positions",
    "observable",
    "profile",
    "split_names",
    "surface",
]
