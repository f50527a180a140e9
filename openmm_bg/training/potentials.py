"""The two potentials of a training: a fast one for gradients, an exact one for weights."""

from __future__ import annotations

from typing import Any

import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials import OpenMMPotential, Potential, TorchPotential
from openmm_bg.potentials.torch_potential import TranslationError


def training_potentials(system: Any) -> tuple[Potential, Potential]:
    """Return a fast potential in single precision and an exact one, of a system.

    Evaluations are counted by the potentials themselves, which both start at zero.
    """
    try:
        exact = TorchPotential.from_system(system)
    except TranslationError:
        raise  # a wrong translation is a defect, not a force that is not supported
    except InputError:  # a force that is not translated
        return OpenMMPotential(system, dtype=torch.float32), OpenMMPotential(system)
    fast = exact.to(dtype=torch.float32)
    fast.n_evaluations = exact.n_evaluations = 0
    return fast, exact
