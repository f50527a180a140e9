"""Invertible maps: between positions and features, and between features."""

from openmm_bg.transforms.affine import AffineCoupling
from openmm_bg.transforms.base import Coordinates
from openmm_bg.transforms.cartesian import CartesianCoordinates
from openmm_bg.transforms.couplings import CircularShift, SplineCoupling
from openmm_bg.transforms.fibre_coordinates import FibreCoordinates
from openmm_bg.transforms.fibre_matrix import FibreMatrix
from openmm_bg.transforms.internal_coordinates import InternalCoordinates
from openmm_bg.transforms.lift import VolumePreservingLift
from openmm_bg.transforms.z_matrix import ZMatrix

COORDINATES: dict[str, type[Coordinates]] = {
    "InternalCoordinates": InternalCoordinates,
    "CartesianCoordinates": CartesianCoordinates,
    "FibreCoordinates": FibreCoordinates,
}

__all__ = [
    "COORDINATES",
    "AffineCoupling",
    "CartesianCoordinates",
    "CircularShift",
    "Coordinates",
    "FibreCoordinates",
    "FibreMatrix",
    "InternalCoordinates",
    "SplineCoupling",
    "VolumePreservingLift",
    "ZMatrix",
]
