"""The multiple-try move at work: exact for any number of candidates, and how often it changes the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openmm import unit
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc, statistics
from openmm_bg.analysis import torsion_angles
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.mcmc import MultipleTryMove
from openmm_bg.mcmc.multiple_try_move import RULES
from openmm_bg.reproduction import detailed_balance as balance
from openmm_bg.reproduction.state_of_the_art import TEMPERATURE, row
from openmm_bg.training import TrainingData
from openmm_bg.units import thermal_energy

CANDIDATES = (1, 4, 64, 256)
_LEVEL, _CONTROL = 1e-4, 1e-6  # of each test; some fifty are made
_CELLS = 20
_WEAK_ESS = 0.01


def double_well_rows(work: Path, *, n_chains: int = 100, n_seeds: int = 20) -> Iterator[dict[str, Any]]:
    """Judge the move on the double well, whose Boltzmann distribution is known, with a wrong ratio as the control.

    Args:
        work: Where the model is kept.
        n_chains: Chains for each seed.
        n_seeds: Seeds.
    """
    test = balance.balance_tests()["double well"]
    model = balance.toy_model(work, test, "spline")
    for rule in RULES:
        for n in CANDIDATES:
            name = f"MultipleTryMove, {rule}, {n} candidates"
            balance.MOVES[name] = partial(MultipleTryMove, n_candidates=n, rule=rule)
            judged = balance.judge_balance(test, model, name, n=n_chains, n_seeds=n_seeds)
            least = min(*judged["uniformity"].values(), *judged["pooled"].values())
            line = f"double well, {name}: least p-value of KS and chi-square tests over {n_seeds} seeds"
            yield row(line, least, f">= {_LEVEL}", least >= _LEVEL, moved=judged["moved"])
            with balance.wrong_ratio(name):
                judged = balance.judge_balance(test, model, name, n=n_chains, n_seeds=n_seeds)
            least = min(judged["pooled"].values())
            line = f"double well, {name}, densities left out (control): least p-value"
            yield row(line, least, f"< {_CONTROL}", least < _CONTROL, moved=judged["moved"])


def end_points(move: MultipleTryMove, system: Any, starts: np.ndarray) -> tuple[np.ndarray, float]:
    """Apply a move once to each of many configurations.

    Args:
        move: The move.
        system: The OpenMM system.
        starts: Configurations [nm] with shape=(n, n_atoms, 3).

    Returns:
        Where they end, with the same shape, and the share that has changed.
    """
    state = ThermodynamicState(system, TEMPERATURE * unit.kelvin)
    ends = np.empty_like(starts)
    for i, positions in enumerate(starts):
        current = SamplerState(positions * unit.nanometer)
        move.apply(state, current)
        ends[i] = current.positions.value_in_unit(unit.nanometer)
    return ends, float((ends != starts).any(axis=(1, 2)).mean())


def alanine_rows(model: Path, data: TrainingData, *, n_starts: int = 2000) -> Iterator[dict[str, Any]]:
    """Judge the move on alanine dipeptide: one application to each of many frames of molecular dynamics at 300 K.

    An exact move leaves their distribution as it is. The frames that are compared with are others than those that
    the chains start from.

    Args:
        model: The model's directory.
        data: Molecular dynamics at 300 K, without any flow.
        n_starts: Frames to start from, and as many to compare with.
    """
    chosen = np.linspace(0, len(data.positions) - 1, 2 * n_starts).astype(int)
    starts, others = data.positions[chosen[::2]].astype(np.float64), data.positions[chosen[1::2]]
    generator = BoltzmannGenerator.load(model)
    potential, torsions = generator.potential, generator.system.torsions

    def figures(positions: np.ndarray) -> dict[str, np.ndarray]:
        energy = potential.energy(torch.as_tensor(positions, dtype=torch.float64)).numpy()
        return {"energy": energy, **torsion_angles(positions, torsions)}

    expected = figures(others)
    for n in CANDIDATES:
        for wrong in (False, True):
            mcmc.seed(n)
            move = MultipleTryMove(model, n_candidates=n)
            if wrong:
                with balance.wrong_ratio("MultipleTryMove"):
                    ends, moved = end_points(move, data.system.system, starts)
            else:
                ends, moved = end_points(move, data.system.system, starts)
            found = figures(ends)
            least = min(p for name in expected for p in _two_sample_p_values(found[name], expected[name]))
            label = f"alanine dipeptide, MultipleTryMove, {n} candidates"
            if wrong:
                line = f"{label}, densities left out (control): least p-value"
                yield row(line, least, f"< {_CONTROL}", least < _CONTROL, moved=moved)
            else:
                line = f"{label}: least p-value of KS and chi-square tests of energy, phi, psi"
                yield row(line, least, f">= {_LEVEL}", least >= _LEVEL, moved=moved)


def _two_sample_p_values(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Return p-values of a Kolmogorov-Smirnov test, and of a chi-square test of cells of equal probability."""
    from scipy import stats

    edges = np.quantile(np.concatenate([found, expected]), np.linspace(0, 1, _CELLS + 1)[1:-1])
    table = np.array([np.bincount(np.searchsorted(edges, x), minlength=_CELLS) for x in (found, expected)])
    return float(stats.ks_2samp(found, expected).pvalue), float(stats.chi2_contingency(table).pvalue)


def weak_temperature(model: Path, *, n: int = 50_000) -> tuple[float, float]:
    """Return a temperature [K] at which a model's effective sample size is one percent, and that size.

    Args:
        model: A model's directory.
        n: Samples for each of the temperatures that are tried.
    """
    generator = BoltzmannGenerator.load(model)

    def ess(temperature: float) -> float:
        return statistics.effective_sample_size(log_weights_at(generator, temperature, n, seed=5))

    low, high = 60.0, generator.temperature
    for _ in range(8):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if ess(middle) < _WEAK_ESS else (low, middle)
    return high, ess(high)


def log_weights_at(generator: BoltzmannGenerator, temperature: float, n: int, *, seed: int) -> np.ndarray:
    """Return the log-weights of independent samples with shape=(n,), at any temperature [K]."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, n, 4096):
        size = min(4096, n - start)
        positions, _, log_q = generator.flow.joint_sample(size, temperature, generator=draw)
        reduced = generator.potential.energy(positions) / thermal_energy(temperature)
        parts.append(torch.where(torch.isfinite(reduced), -reduced - log_q, -torch.inf).numpy())
    return np.concatenate(parts)


def chance_rows(model: Path, *, n_candidates: int = 256, n_tries: int = 1000) -> Iterator[dict[str, Any]]:
    """Measure how often the move changes the configuration where the flow's effective sample size is one percent.

    Args:
        model: A model's directory.
        n_candidates: Candidates of a try.
        n_tries: Tries of a chain, for each rule.
    """
    generator = BoltzmannGenerator.load(model)
    temperature, _ = weak_temperature(model)
    log_weights = log_weights_at(generator, temperature, 512 * (n_candidates + 1), seed=6)
    ess = statistics.effective_sample_size(log_weights)
    yield row(
        "alanine dipeptide: the flow's effective sample size at the temperature of the next lines",
        ess,
        "0.005 to 0.02",
        0.005 <= ess <= 0.02,
        temperature=temperature,
    )
    w = np.exp(log_weights - log_weights.max())
    w = (w / w.mean()).reshape(-1, n_candidates + 1)
    each = (w**2).sum(1) / w.sum(1) / (n_candidates + 1)
    expected, error = each.mean(), each.std() / np.sqrt(len(each))
    state = ThermodynamicState(generator.system.system, temperature * unit.kelvin)
    for rule in RULES:
        mcmc.seed(1)
        move = MultipleTryMove(model, n_candidates=n_candidates, rule=rule)
        current = SamplerState(generator.system.positions * unit.nanometer)
        changed = []
        for i in range(n_tries + 20):
            before = move.n_accepted
            move.apply(state, current)
            if i >= 20:  # the reference structure is not a sample
                changed.append(float(move.n_accepted - before))
        share, stderr = statistics.chain_mean(np.array(changed))
        line = f"alanine dipeptide, {rule}, {n_candidates} candidates: applications that change the configuration"
        yield row(line, share, ">= 0.60", share >= 0.6, stderr=stderr)
        if rule == "resampling":
            z = (1.0 - share - expected) / float(np.hypot(stderr, error))
            line = "chance to stay against E_q[sum w^2 / sum w] / (N + 1), in standard errors"
            yield row(line, z, "|z| <= 3.5", abs(z) <= 3.5, stay=1.0 - share, expected=expected)
