"""Batched minimisation against OpenMM's LocalEnergyMinimizer, and from bad starts."""

import numpy as np
import pytest
import torch
from toy_potentials import Box, DoubleWell, Harmonic, generator

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.simulation import minimize


@pytest.fixture(scope="module")
def potential(alanine):
    return TorchPotential.from_system(alanine)


def _openmm_minimum(system, positions, tolerance):
    import openmm

    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    minima = []
    for x in positions:
        context.setPositions(x)
        openmm.LocalEnergyMinimizer.minimize(context, tolerance, 0)
        minima.append(context.getState(getPositions=True).getPositions(asNumpy=True)._value)
    return np.array(minima)


def _distances(positions, others):
    """Return the root-mean-square difference of interatomic distances [nm]: basins differ by far more."""
    matrices = [np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) for x in (positions, others)]
    return np.sqrt(((matrices[0] - matrices[1]) ** 2).mean((1, 2)))


def _rms_force(potential, positions):
    return potential.energy_and_forces(positions)[1].square().mean((1, 2)).sqrt()


def test_energies_are_as_low_as_those_of_openmm(potential, alanine, md_positions):
    """From frames of 600 K; the same tolerance means the same depth of the same basin."""
    starts = md_positions[50::200]
    result = minimize(potential, starts, tolerance=1.0, dtype=torch.float64)
    assert result.converged.all()
    assert (_rms_force(potential, result.positions) < 1.0).all()
    others = _openmm_minimum(alanine.system, starts, 1.0)
    same = _distances(result.positions.numpy(), others) < 0.005
    assert same.mean() > 0.7
    above = (result.energy - potential.energy(torch.from_numpy(others))).numpy()
    assert np.abs(above[same]).max() < 0.1  # kJ/mol
    assert (result.energy < potential.energy(starts)).all()
    # The negative control: a minimisation cut short is seen.
    short = minimize(potential, starts, tolerance=1.0, max_iterations=40, dtype=torch.float64)
    assert not short.converged.any()
    assert (short.energy - result.energy > 0.1).all()


def test_reported_energies_and_iterations(potential, md_positions):
    starts = torch.from_numpy(md_positions[::100])
    copy, before = starts.clone(), potential.n_evaluations
    result = minimize(potential, starts)
    # Walkers that are done are not evaluated any more.
    assert potential.n_evaluations - before == len(starts) + result.n_iterations.sum()
    assert result.n_iterations.max() > 1.5 * result.n_iterations.min()
    assert torch.equal(starts, copy)
    assert torch.allclose(result.energy, potential.energy(result.positions), rtol=1e-10)
    assert result.converged.all()
    assert (_rms_force(potential, result.positions) < 10.0).all()


def test_walkers_do_not_see_each_other(potential, md_positions):
    starts = md_positions[::250]
    together = minimize(potential, starts, dtype=torch.float64)
    for k, start in enumerate(starts):
        alone = minimize(potential, start[None], dtype=torch.float64)
        assert (alone.positions[0] - together.positions[k]).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clashes_are_removed(potential, md_positions, dtype):
    """Noise of 0.1 nm, up to 1e10 kJ/mol, and atoms anywhere in a box: all come down."""
    noise = torch.randn(20, 22, 3, generator=generator(), dtype=torch.float64)
    noisy = torch.from_numpy(md_positions[:1000:50]) + 0.1 * noise
    anywhere = 0.5 * torch.rand(20, 22, 3, generator=generator(1), dtype=torch.float64)
    starts = torch.cat([noisy, anywhere]).to(dtype)
    assert potential.energy(starts).max() > 1e6
    result = minimize(potential.to(dtype=dtype), starts)
    assert result.converged.all()
    assert result.energy.max() < 0.0
    assert result.positions.dtype == dtype


def test_analytic_minima():
    start = torch.randn(50, 1, 3, generator=generator(), dtype=torch.float64) * 0.05
    result = minimize(DoubleWell(1), start, tolerance=1e-6)
    assert result.converged.all()
    # Of 20 (s^2 - 1)^2 + 4 s: roots of 80 s (s^2 - 1) + 4.
    roots = np.sort(np.roots([80.0, 0.0, -80.0, 4.0]))[[0, 2]] * 0.1
    nearest = np.abs(result.positions[:, 0, :1].numpy() - roots).min(1)
    assert nearest.max() < 1e-9
    assert result.positions[:, 0, 1:].abs().max() < 1e-9


def test_walkers_without_a_finite_energy_are_reported():
    starts = torch.tensor([[[0.05, 0.0, 0.0]], [[0.5, 0.0, 0.0]]])
    result = minimize(Box(1), starts)
    assert result.converged.tolist() == [True, False]
    assert result.energy.tolist() == [0.0, torch.inf]
    assert torch.equal(result.positions, starts)
    assert result.n_iterations.tolist() == [0, 0]


def test_no_iterations():
    result = minimize(Harmonic(1), torch.tensor([[[0.05, 0.0, 0.0]], [[0.0, 0.0, 0.0]]]), max_iterations=0)
    assert result.converged.tolist() == [False, True]


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        (np.zeros((2, 3)), {}, "must have the shape"),
        (np.zeros((2, 2, 3)), {}, "must have the shape"),
        (np.full((2, 1, 3), np.nan), {}, "walkers 0, 1 are not finite"),
        (np.zeros((2, 1, 3)), {"tolerance": 0.0}, "tolerance .* must be positive"),
        (np.zeros((2, 1, 3)), {"tolerance": np.nan}, "tolerance .* must be positive"),
        (np.zeros((2, 1, 3)), {"max_iterations": -1}, "number of iterations must be at least 0, not -1"),
        (np.zeros((2, 1, 3)), {"max_iterations": 1.5}, "number of iterations must be a whole number"),
        (np.zeros((2, 1, 3)), {"tolerance": "low"}, "tolerance .* must be one number"),
        (np.zeros((2, 1, 3)), {"dtype": torch.float16}, "float32 or torch.float64"),
    ],
)
def test_ill_formed_input(positions, options, message):
    with pytest.raises(InputError, match=message):
        minimize(Harmonic(1), positions, **options)


def test_needs_a_potential(alanine):
    with pytest.raises(InputError, match="A potential is needed"):
        minimize(alanine.system, np.zeros((2, 22, 3)))
