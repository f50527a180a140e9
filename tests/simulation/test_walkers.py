"""What all dynamics share: continuing from a state, ill-formed input, devices."""

import io

import numpy as np
import pytest
import torch
from openmm import unit
from toy_potentials import Harmonic, generator

from openmm_bg.errors import InputError
from openmm_bg.potentials import OpenMMPotential
from openmm_bg.simulation import (
    HybridMonteCarlo,
    LangevinDynamics,
    ParallelTempering,
    VelocityVerlet,
    minimize,
)

START = 0.01 * torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(9))
MASSES = np.array([12.0, 4.0])
KINDS = ["langevin", "verlet", "hmc", "tempered langevin", "tempered hmc"]


def _dynamics(kind, seed=0, positions=START, **options):
    options = {"temperature": np.repeat([300.0, 400.0], 4), "generator": generator(seed)} | options
    if kind.startswith("tempered"):
        return ParallelTempering(_dynamics(kind.split()[1], seed, positions, **options), n_ladders=4)
    classes = {"langevin": LangevinDynamics, "verlet": VelocityVerlet, "hmc": HybridMonteCarlo}
    return classes[kind](Harmonic(2), positions, MASSES, timestep=0.004, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_restore_continues_bit_by_bit(kind, dtype):
    one, two = _dynamics(kind, dtype=dtype), _dynamics(kind, seed=5, dtype=dtype)
    one.step(7)
    file = io.BytesIO()
    np.savez(file, **one.state())
    file.seek(0)
    one.step(7)
    with np.load(file) as stored:
        two.restore(dict(stored))
    evaluations = two.potential.n_evaluations
    two.step(7)
    first, second = one.state(), two.state()
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name
    assert not np.array_equal(first["positions"], START.numpy())
    n_leapfrog = 10 if kind.endswith("hmc") else 1
    assert two.potential.n_evaluations - evaluations == 8 * 7 * n_leapfrog  # restore needs none


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_not_changed_by_later_steps(kind):
    dynamics = _dynamics(kind)
    dynamics.step(2)
    state = dynamics.state()
    copy = {name: value.copy() for name, value in state.items()}
    dynamics.step(2)
    assert all(np.array_equal(state[name], copy[name]) for name in state)
    dynamics.restore(state)
    dynamics.step(2)
    assert all(np.array_equal(state[name], copy[name]) for name in state)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_other_walkers_are_refused(kind):
    dynamics = _dynamics(kind)
    state = dynamics.state()
    with pytest.raises(InputError, match=r"no state of .*: it lacks velocities"):
        dynamics.restore({name: value for name, value in state.items() if name != "velocities"})
    with pytest.raises(InputError, match=r"of other walkers: its positions are \(7, 2, 3\)"):
        dynamics.restore({**state, "positions": state["positions"][:7]})
    with pytest.raises(InputError, match=r"torch.float64, here they are"):
        dynamics.restore({**state, "positions": state["positions"].astype(np.float64)})
    unchanged = dynamics.state()
    assert all(np.array_equal(state[name], unchanged[name]) for name in state)


@pytest.mark.parametrize("kind", ["langevin", "hmc"])
def test_states_of_other_dynamics_are_refused(kind):
    with pytest.raises(InputError, match="lacks generator"):
        _dynamics(kind).restore(_dynamics("verlet").state())
    with pytest.raises(InputError, match="no state of ladders of 2"):
        _dynamics(f"tempered {kind}").restore(_dynamics(kind).state())


@pytest.mark.parametrize("kind", ["langevin", "verlet", "hmc"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": START[0]}, r"shape \(n_walkers, 2, 3\), and at least one walker, not \(2, 3\)"),
        ({"positions": START[:, :1]}, r"not \(8, 1, 3\)"),
        ({"positions": START[:0]}, "at least one walker"),
        ({"positions": [[[0, 0, 0]], [0]]}, "numbers"),
        ({"positions": "start.pdb"}, "must be numbers"),
        ({"positions": START.to("meta")}, "meta device have no values"),
        ({"positions": START.log()}, "positions of walkers 0, 1, 2, 3, 4 and 3 more are not finite"),
        ({"positions": START.half()}, "float32 or torch.float64, not torch.float16"),
        ({"dtype": torch.int64}, "float32 or torch.float64, not torch.int64"),
        ({"temperature": 0.0}, "positive number of kelvin"),
        ({"temperature": [300.0] * 7 + [np.nan]}, "positive number of kelvin"),
        ({"temperature": [300.0, 400.0]}, "one for each of the 8 walkers, not 2"),
        ({"temperature": "warm"}, "number of kelvin, not 'warm'"),
        ({"generator": 7}, "A torch.Generator is needed"),
    ],
)
def test_ill_formed_input(kind, changes, message):
    with pytest.raises(InputError, match=message):
        _dynamics(kind, **changes)


@pytest.mark.parametrize("cls", [LangevinDynamics, VelocityVerlet, HybridMonteCarlo])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masses": [12.0]}, r"one mass for each of the 2 atoms, not \(1,\)"),
        ({"masses": [12.0, 0.0]}, "Masses must be positive"),
        ({"masses": [12.0, "light"]}, "Masses must be numbers"),
        ({"masses": [[12.0], [1.0, 4.0]]}, "Masses must be numbers"),
        ({"masses": [12.0, 4.0] * unit.kelvin}, r'Masses must be numbers \[Da\].*"kelvin" is not compatible'),
        ({"masses": [12.0, 4.0 * unit.kelvin]}, "Masses must be numbers"),
        ({"timestep": "short"}, "time step must be one number of its unit, not 'short'"),
        ({"timestep": 1.0 * unit.kelvin}, "time step must be one number of its unit"),
        ({"masses": [12.0, np.nan]}, "Masses must be positive"),
        ({"timestep": 0.0}, "time step must be positive, not 0"),
        ({"timestep": -0.001}, "time step must be positive"),
        ({"timestep": np.nan}, "time step must be positive"),
        ({"potential": "alanine"}, "A potential is needed .* not str"),
    ],
)
def test_ill_formed_system(cls, changes, message):
    inputs = {"potential": Harmonic(2), "positions": START, "masses": MASSES, "temperature": 300.0}
    with pytest.raises(InputError, match=message):
        cls(**{**inputs, "generator": generator(), **changes})


@pytest.mark.parametrize("friction", [-1.0, np.nan, np.inf])
def test_ill_formed_friction(friction):
    with pytest.raises(InputError, match="friction must not be negative"):
        _dynamics("langevin", friction=friction)


@pytest.mark.parametrize(
    ("velocities", "message"),
    [
        (START[:7], r"must have the shape \(8, 2, 3\)"),
        (START.double(), "must have the precision and the device"),
        (START.to("meta"), "must have the precision and the device"),
        (START * np.nan, "velocity is not finite"),
        ([[[0.0, 0.0, 0.0]], [[0.0]]], r"Velocities must be numbers \[nm/ps\]"),
        (START.numpy() * unit.nanometer, "Velocities must be numbers"),
    ],
)
def test_ill_formed_velocities(velocities, message):
    with pytest.raises(InputError, match=message):
        VelocityVerlet(Harmonic(2), START, MASSES, velocities=velocities)


def test_walkers_cannot_be_added():
    with pytest.raises(InputError, match="There are 8 walkers, not 4"):
        _dynamics("langevin").set_positions(START[:4])


def test_potential_on_another_device():
    class Elsewhere(Harmonic):
        def _evaluate(self, positions, with_forces):
            energy, forces = super()._evaluate(positions, with_forces)
            return energy.to("meta"), forces

        def _finite(self, positions, with_forces):
            return self._evaluate(positions, with_forces)

    with pytest.raises(InputError, match="answers on meta, but the positions are on cpu"):
        LangevinDynamics(Elsewhere(2), START, MASSES, 300.0, generator=generator())


def test_friction_of_another_unit():
    with pytest.raises(InputError, match="friction must be one number of its unit"):
        _dynamics("langevin", friction=1.0 * unit.kelvin)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_steps", "message"), [(1.5, "a whole number, not 1.5"), (-1, "at least 0, not -1"), ("1", "whole")]
)
def test_ill_formed_numbers_of_steps(kind, n_steps, message):
    dynamics = _dynamics(kind)
    state = dynamics.state()
    with pytest.raises(InputError, match=f"The number of (time steps|trajectories) must be .*{message}"):
        dynamics.step(n_steps)
    assert all(np.array_equal(state[name], value) for name, value in dynamics.state().items())


@pytest.mark.parametrize("kind", ["langevin", "verlet", "hmc"])
def test_zero_steps_do_nothing(kind):
    dynamics = _dynamics(kind)
    state = dynamics.state()
    dynamics.step(np.int64(0))
    assert all(np.array_equal(state[name], value) for name, value in dynamics.state().items())


@pytest.mark.parametrize(
    "masses",
    [
        [12.0 * unit.dalton, 4.0 * unit.dalton],
        (12.0 * unit.dalton, 4.0),
        np.array([12.0 * unit.dalton, 4.0 * unit.dalton], dtype=object),
        np.array([12.0, 4.0]) * unit.dalton,
        unit.Quantity([12.0, 4.0], unit.dalton),
        torch.tensor([12.0, 4.0]),
    ],
)
def test_masses_as_openmm_gives_them(masses):
    dynamics = LangevinDynamics(Harmonic(2), START, masses, 300.0, generator=generator())
    assert dynamics.masses.tolist() == [12.0, 4.0]


def test_masses_of_a_system(alanine):
    masses = [alanine.system.getParticleMass(i) for i in range(alanine.n_atoms)]
    dynamics = VelocityVerlet(
        Harmonic(alanine.n_atoms),
        alanine.positions[None],
        masses,
        temperature=300.0,
        generator=generator(),
        dtype=torch.float64,
    )
    assert np.array_equal(dynamics.masses.numpy(), alanine.masses)


def test_quantities():
    dynamics = [
        LangevinDynamics(Harmonic(2), positions, masses, temperature, timestep=timestep, friction=friction,
                         generator=generator(), dtype=torch.float64)
        for positions, masses, temperature, timestep, friction in (
            (START.double().numpy(), MASSES, 300.0, 0.002, 2.0),
            (START.double().numpy() * 10 * unit.angstrom, MASSES * unit.dalton, 300 * unit.kelvin,
             2 * unit.femtosecond, 2 / unit.picosecond),
        )
    ]  # fmt: skip
    for each in dynamics:
        each.step(5)
    assert torch.allclose(dynamics[0].positions, dynamics[1].positions, rtol=1e-12)


def test_double_precision_potential_moves_single_precision_walkers(alanine):
    with OpenMMPotential(alanine, platform="Reference") as potential:
        start = np.repeat(alanine.positions[None], 2, 0)
        for cls in (LangevinDynamics, HybridMonteCarlo):
            dynamics = cls(
                potential, start, alanine.masses, 300.0, generator=generator(), dtype=torch.float32
            )
            dynamics.step(2)
            assert (dynamics.positions.dtype, dynamics.energy.dtype) == (torch.float32, torch.float64)
            state = dynamics.state()
            dynamics.restore(state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind):
    def make():
        return _dynamics(kind, positions=START.cuda(), generator=torch.Generator("cuda").manual_seed(1))

    one, two = make(), make()
    one.step(3)
    two.restore(one.state())
    one.step(3)
    two.step(3)
    assert one.positions.is_cuda
    assert torch.equal(one.positions, two.positions)
    with pytest.raises(InputError, match="generator is on cpu"):
        _dynamics("langevin", positions=START.cuda())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_minimization_on_a_gpu():
    result = minimize(Harmonic(2), START.cuda())
    assert result.converged.all()
    assert result.positions.is_cuda
