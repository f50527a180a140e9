"""The flows of seed 001, figure 2: their training at T = 1, and how well they fit every temperature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_bg.files import atomic_write_bytes
from openmm_bg.flows import Flow, PositionFlow, TemperatureSteerableFlow
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.reproduction.arrays import arrays_bytes
from openmm_bg.reproduction.mixture_equilibrium import CHECKED, Equilibrium, ladder
from openmm_bg.systems.double_well_mixture import DoubleWellMixture
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE
from openmm_bg.training import TrainingData, TrainingSettings, train
from openmm_bg.transforms import CartesianCoordinates

FIXED = "realnvp-fixed"
"""RealNVP whose base keeps the variance one at all temperatures: the same model as "realnvp"."""


def evaluated() -> np.ndarray:
    """Return at which of the temperatures of `ladder` flows are judged: every third, and those of `CHECKED`."""
    temperatures = ladder()
    chosen = np.isclose(temperatures[:, None], CHECKED).any(axis=1)
    chosen[::3] = True
    return np.flatnonzero(chosen)


def train_flow(
    toy: DoubleWellMixture,
    equilibrium: Equilibrium,
    directory: Path,
    settings: TrainingSettings,
    *,
    progress: bool = False,
) -> BoltzmannGenerator:
    """Train a flow on the samples at T = 1, or load it if it is there.

    Coordinates are centred and divided by one number, so that the flow has to learn the mixing matrix.
    """
    if (directory / "model.json").exists():
        return BoltzmannGenerator.load(directory)
    x = equilibrium.training.astype(np.float64)
    positions = toy.to_positions(x)
    record = {"samples": "parallel tempering Monte Carlo at T = 1"}
    data = TrainingData(toy.molecule, positions, toy.energy(x), UNIT_TEMPERATURE, record)
    coordinates = CartesianCoordinates(toy.molecule.n_atoms, toy.components).fit(positions, whiten=False)
    return train(data, directory, settings, coordinates=coordinates, progress=progress)


def n_parameters(flow: Flow) -> int:
    """Return how many parameters a flow has."""
    return sum(parameter.numel() for parameter in flow.parameters())


def excess(
    toy: DoubleWellMixture, flow: Flow, x: np.ndarray, temperature: float, *, base: float, seed: int
) -> np.ndarray:
    """Return log p(x) - log q(x) with shape=(n,), whose mean is the negative log-likelihood less the entropy.

    The exact log p has the mean minus the entropy at every temperature, and fluctuates as log q does: taking the
    difference leaves the expectation as it is and removes most of the noise.

    Of a flow with momenta, log q(x) is replaced by log q(x, p) - log a(p), with momenta p drawn from their
    distribution a in the target. Averaged over them it is at most log q(x), by Jensen's inequality, so that
    the result is an upper bound. It has the mean of the joint negative log-likelihood less the entropy of the
    m momenta, (m/2) log(2 pi e T), but not the noise of |p|^2.

    Args:
        toy: The system.
        flow: The flow.
        x: Configurations [nm] with shape=(n, d).
        temperature: Their temperature, as kT [kJ/mol].
        base: The temperature of the flow's base, as kT [kJ/mol].
        seed: Seed of the momenta.
    """
    positions, own = toy.to_positions(x), base * UNIT_TEMPERATURE
    momenta = flow.sample_momenta(len(x), own, generator=torch.Generator().manual_seed(seed))
    log_q = flow.joint_log_prob(positions, momenta, own) - flow.momenta_log_prob(momenta, own)
    return toy.log_prob(x, temperature * UNIT_TEMPERATURE) - log_q.numpy()


def marginal_excess(
    toy: DoubleWellMixture,
    flow: TemperatureSteerableFlow,
    x: np.ndarray,
    temperature: float,
    *,
    n_momenta: int,
    seed: int,
) -> np.ndarray:
    """Return a tighter bound than `excess`, with shape=(n,): the momenta are integrated by importance sampling."""
    generator, own = torch.Generator().manual_seed(seed), temperature * UNIT_TEMPERATURE
    log_q = flow.estimate_log_prob(toy.to_positions(x), own, n_momenta=n_momenta, generator=generator)
    return toy.log_prob(x, own) - log_q.numpy()


def judge(
    toy: DoubleWellMixture,
    flow: Flow,
    equilibrium: Equilibrium,
    path: Path,
    *,
    n_momenta: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Judge a flow at all temperatures, or read the result if it is there.

    Returns:
        Means of `excess` with shape=(n_evaluated, n_walkers), with a base whose variance follows the temperature
        ("scaled") and of flows without momenta also with one whose variance does not ("fixed"). Of flows with
        momenta, means of `marginal_excess` with shape=(5, n_walkers), at the temperatures of `CHECKED` and of
        every fourth frame ("marginal").
    """
    if path.exists():
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    temperatures, samples = ladder(), equilibrium.samples.astype(np.float64)
    n_walkers, dimension = samples.shape[2:]
    result: dict[str, Any] = {"scaled": [], "fixed": [], "marginal": []}
    for k in evaluated():
        temperature, x = float(temperatures[k]), samples[:, k].reshape(-1, dimension)
        found = {"scaled": excess(toy, flow, x, temperature, base=temperature, seed=seed)}
        if isinstance(flow, PositionFlow):
            found["fixed"] = excess(toy, flow, x, temperature, base=1.0, seed=seed)
        elif np.isclose(temperature, CHECKED).any():
            few = samples[::4, k].reshape(-1, dimension)
            found["marginal"] = marginal_excess(toy, flow, few, temperature, n_momenta=n_momenta, seed=seed)
        for name, values in found.items():
            result[name].append(values.reshape(-1, n_walkers).mean(axis=0))
    result = {name: np.array(values) for name, values in result.items() if values}
    atomic_write_bytes(path, arrays_bytes(result))
    return result
