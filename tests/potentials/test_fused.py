"""Machine code against independent mathematics, against the tensor form, and where it cannot be used."""

import builtins
import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import mpmath
import numpy as np
import openmm
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.potentials.fused.engine import FusedEngine
from openmm_bg.potentials.tables import DiscreteTable, SplineTable
from openmm_bg.potentials.terms import BondedTerm, GeneralizedBornTerm, PairTerm

PRECISIONS = [torch.float64, torch.float32]
EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}


def function_of_x(text, n_atoms=1, tables=None):
    """Return the term that is a function of the x coordinate of one atom."""
    config = {"expression": text, "globals": {}, "group_parameters": [], "inputs": {"x": ["x", [0]]}}
    return BondedTerm(config, tables, atoms=np.zeros((1, 1)), group_parameters=np.zeros((0, 1)))


def evaluate(term, x, dtype, with_forces=True):
    """Return the machine code's values of a function of x, and its derivatives."""
    positions = torch.zeros(len(x), 1, 3, dtype=dtype)
    positions[:, 0, 0] = torch.as_tensor(x, dtype=dtype)
    energy, forces = FusedEngine(1, [term], dtype).evaluate(positions, with_forces, threads=1)
    return energy.double().numpy(), None if forces is None else -forces[:, 0, 0].double().numpy()


WIDE = np.concatenate([-np.geomspace(1e-6, 30, 400), np.geomspace(1e-6, 30, 400)])
FUNCTIONS = {
    # Points, and the error allowed in units of rounding (relative; absolute below 1).
    "exp": (np.concatenate([np.linspace(-80, 80, 801), WIDE[np.abs(WIDE) < 1]]), 4.0),
    "log": (np.concatenate([np.geomspace(1e-30, 1e30, 801), np.linspace(0.5, 2.0, 301)]), 3.0),
    "sin": (np.concatenate([WIDE, np.linspace(-1500, 1500, 997)]), 3.0),
    "cos": (np.concatenate([WIDE, np.linspace(-1500, 1500, 997)]), 3.0),
    "tanh": (WIDE, 4.0),
    "atan": (WIDE, 4.0),
    "asin": (np.linspace(-0.999, 0.999, 801), 8.0),
    "acos": (np.linspace(-0.999, 0.999, 801), 8.0),
    "sqrt": (np.geomspace(1e-30, 1e30, 401), 1.0),
    "sinh": (WIDE, 4.0),
    "cosh": (WIDE, 4.0),
    "erf": (WIDE, 4.0),
    "erfc": (WIDE[np.abs(WIDE) < 5], 8.0),
    "floor": (WIDE, 1.0),
    "ceil": (WIDE, 1.0),
    "abs": (WIDE, 1.0),
}


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_against_arbitrary_precision(name, dtype):
    points, roundings = FUNCTIONS[name]
    x = torch.as_tensor(points, dtype=dtype)
    exact = {"abs": abs, "ceil": mpmath.ceil, "floor": mpmath.floor}.get(name) or getattr(mpmath, name)
    with mpmath.workdps(40):
        expected = np.array([float(exact(mpmath.mpf(float(v)))) for v in x])
    found, _ = evaluate(function_of_x(f"{name}(x)"), x, dtype)
    size = np.abs(expected) if name in ("exp", "cosh", "sqrt") else np.maximum(np.abs(expected), 1.0)
    assert (np.abs(found - expected) <= roundings * EPSILON[dtype] * size).all(), (
        np.abs(found - expected) / size
    ).max() / EPSILON[dtype]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_atan2_in_all_quadrants(dtype):
    angles = np.linspace(-np.pi, np.pi, 361)[1:-1]
    config = {
        "expression": "atan2(y,x)",
        "globals": {},
        "group_parameters": [],
        "inputs": {"x": ["x", [0]], "y": ["y", [0]]},
    }
    term = BondedTerm(config, atoms=np.zeros((1, 1)), group_parameters=np.zeros((0, 1)))
    positions = torch.zeros(len(angles), 1, 3, dtype=dtype)
    positions[:, 0, 0], positions[:, 0, 1] = (torch.as_tensor(3 * f(angles)) for f in (np.cos, np.sin))
    energy, _ = FusedEngine(1, [term], dtype).evaluate(positions, True, threads=1)
    x, y, _ = positions[:, 0].double().numpy().T
    np.testing.assert_allclose(energy.double().numpy(), np.arctan2(y, x), rtol=0, atol=8 * EPSILON[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    ("text", "x", "expected"),
    [
        ("log(x)", [0.0, -1.0, np.inf], [-np.inf, np.nan, np.nan]),
        ("exp(x)", [1e4, -1e4], [np.inf, 0.0]),
        ("sqrt(x)", [-1.0, 0.0], [np.nan, 0.0]),
        ("1/x", [0.0, 2.0], [np.inf, 0.5]),
        ("sin(x)", [1e9, -1e9], [np.sin(float(np.float32(1e9))), -np.sin(float(np.float32(1e9)))]),
        ("x^0.5+x^-1.5", [4.0, -1.0], [2.125, np.nan]),
        ("x^3+x^-2", [-2.0], [-7.75]),
        ("step(x)+2*delta(x)", [0.0, 1e-30, -1e-30], [3.0, 1.0, 0.0]),
        ("select(x,2,3)", [0.0, 0.5], [3.0, 2.0]),
        ("min(x,1)+10*max(x,1)", [0.5, 2.0], [10.5, 21.0]),
        ("tanh(x)", [100.0, -100.0], [1.0, -1.0]),
        ("exp(x)", [np.nan, 0.0], [np.nan, 1.0]),
        ("2", [np.nan, np.inf, 1.0], [np.nan, np.nan, 2.0]),
    ],
)
def test_special_values(text, x, expected, dtype):
    """An infinite or undefined coordinate makes the energy undefined, whatever the expression."""
    found, _ = evaluate(function_of_x(text), np.array(x), dtype)
    np.testing.assert_allclose(found, expected, rtol=4 * EPSILON[dtype], atol=EPSILON[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_straight_through_branches_without_a_derivative(dtype):
    """The branch of select that is not taken has no derivative here; that must not spread."""
    _, slope = evaluate(function_of_x("select(step(x-1), sqrt(x-1), x^2)"), np.array([0.5, 5.0]), dtype)
    np.testing.assert_allclose(slope, [1.0, 0.25], rtol=1e-6)


def spline_table(rng, dimensions, periodic):
    values = rng.normal(size=(6, 7, 5)[:dimensions])
    for axis in range(dimensions):
        if periodic:  # the last values are the first ones
            values = np.concatenate(
                [values.take(range(values.shape[axis] - 1), axis), values.take([0], axis)], axis
            )
    return SplineTable.interpolate(
        values, [-1.0, -0.5, 0.0][:dimensions], [1.0, 0.7, 0.9][:dimensions], [periodic] * dimensions
    )


def random_terms(rng, n_atoms):
    """Return terms of every kind, with parameters, tables, exclusions and all kinds of geometry."""
    tables = {
        "spline": spline_table(rng, 1, periodic=False),
        "ring": spline_table(rng, 1, periodic=True),
        "map": spline_table(rng, 2, periodic=True),
        "sheet": spline_table(rng, 2, periodic=False),
        "box": spline_table(rng, 3, periodic=False),
        "grid": DiscreteTable(rng.normal(size=(3, 4)), {}),
    }
    atoms = np.stack([rng.permutation(n_atoms)[:4] for _ in range(5)], axis=1)
    compound = BondedTerm(
        {
            "expression": (
                "a*r^2+b*sin(theta)*cos(phi-c)+exp(-d*u)+spline(u)+ring(3*u)+map(phi/3,theta)"
                "+sheet(u,v)+box(u,v,u*v)+grid(one,2)*u+c1*s1^2+v^4; d=2.5+w"
            ),
            "globals": {"w": 0.3},
            "group_parameters": ["a", "b", "c", "one"],
            "inputs": {
                "r": ["distance", [0, 2]],
                "theta": ["angle", [3, 0, 1]],
                "phi": ["dihedral", [0, 1, 2, 3]],
                "c1": ["cos_dihedral", [3, 1, 2, 0]],
                "s1": ["sin_dihedral", [3, 1, 2, 0]],
                "u": ["x", [1]],
                "v": ["z", [3]],
            },
        },
        tables,
        atoms=atoms,
        group_parameters=np.concatenate([rng.normal(size=(3, 5)), rng.integers(0, 3, (1, 5))]),
    )
    first, second = np.triu_indices(n_atoms, 1)
    chosen = rng.random(len(first)) < 0.8
    pairs = np.stack([first, second])[:, chosen]
    lennard_jones = PairTerm(
        {
            "expression": "k*(sqrt(s1*s2)/r)^6+q1*q2*erfc(r)/r+select(step(0.9-r),(0.9-r)^2,0)",
            "globals": {},
            "pair_parameters": ["k"],
            "particle_parameters": ["s", "q"],
        },
        pairs=pairs,
        pair_parameters=rng.random((1, pairs.shape[1])),
        particle_parameters=np.stack([0.2 + 0.1 * rng.random(n_atoms), rng.normal(size=n_atoms)]),
    )
    few = PairTerm(  # fewer than half of the pairs, in any order: a loop of its own
        {
            "expression": "k*log(1+r)",
            "globals": {},
            "pair_parameters": ["k"],
            "particle_parameters": [],
        },
        pairs=np.array([[5, 1, 0], [2, 0, 3]]),
        pair_parameters=rng.random((1, 3)),
        particle_parameters=np.zeros((0, n_atoms)),
    )
    solvent = GeneralizedBornTerm(
        {
            "particle_parameters": ["p", "q"],
            "globals": {"g": 1.5},
            "values": [
                ["I", "p2*exp(-r*p1)+0.1*log(1+r)", "pair_excluded"],
                ["J", "tanh(I*p)+0.1*x*y", "single"],
                ["B", "1/(1+J^2+I)", "single"],
            ],
            "energies": [
                ["g*q^2/B+z^2*J", "single"],
                ["q1*q2/sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))+J1*I2", "pair"],
                ["0.1*B1*r", "pair_excluded"],
            ],
        },
        particle_parameters=np.stack([1 + rng.random(n_atoms), rng.normal(size=n_atoms)]),
        included=(rng.random(len(first)) < 0.7).astype(float),
    )
    return [compound, lennard_jones, few, solvent]


@pytest.mark.parametrize("seed", range(2))
def test_terms_of_every_kind_agree_with_the_tensor_form(seed):
    rng = np.random.default_rng(seed)
    terms = random_terms(rng, 7)
    positions = torch.tensor(rng.normal(0, 0.6, (37, 7, 3)))
    for chosen in ([0], [3], [1, 2], [0, 1, 2, 3]):
        own = [terms[k].copy() for k in chosen]
        expected = TorchPotential(7, own, mode="eager").energy_and_forces(positions)
        potential = TorchPotential(7, [terms[k].copy() for k in chosen], mode="fused")
        found = potential.energy_and_forces(positions)
        assert potential.mode == "fused"
        torch.testing.assert_close(found[0], expected[0], rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(potential.energy(positions), expected[0], rtol=1e-11, atol=1e-10)
        single = potential.to(dtype=torch.float32)
        energy, _ = single.energy_and_forces(positions)
        torch.testing.assert_close(energy.double(), expected[0], rtol=1e-4, atol=1e-3)


UNARY = ["sqrt", "exp", "log", "sin", "cos", "tan", "atan", "tanh", "erf", "abs", "square", "cube", "sinh"]


def _extend(children):
    return st.one_of(
        st.builds("({}{}{})".format, children, st.sampled_from("+-*/"), children),
        st.builds("{}({})".format, st.sampled_from(UNARY), children),
        st.builds("{}({},{})".format, st.sampled_from(["min", "max", "atan2"]), children, children),
        st.builds("select(step({}),{},{})".format, children, children, children),
        st.builds("({})^{}".format, children, st.sampled_from(["2", "3", "-1", "1.5"])),
    )


LEAVES = st.sampled_from(["x", "r", "a", "0.5", "2", "1.3"])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(text=st.recursive(LEAVES, _extend, max_leaves=7))
def test_random_expressions_agree_with_the_tensor_form(text):
    """Both are right or both are not finite; the tensor form is compared with OpenMM elsewhere."""
    config = {
        "expression": f"{text}+0*x",
        "globals": {},
        "group_parameters": ["a"],
        "inputs": {"x": ["x", [0]], "r": ["distance", [0, 1]]},
    }
    term = BondedTerm(config, atoms=np.array([[0, 1], [1, 2]]), group_parameters=np.array([[0.7, -1.1]]))
    positions = torch.tensor(np.random.default_rng(1).normal(0, 0.7, (8, 3, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # giving up would be one
        potential = TorchPotential(3, [term.copy()], mode="fused")
        found, found_forces = potential.energy_and_forces(positions)
    expected, expected_forces = TorchPotential(3, [term.copy()], mode="eager").energy_and_forces(positions)
    assert torch.equal(torch.isfinite(found), torch.isfinite(expected))
    usable = torch.isfinite(expected) & (expected.abs() < 1e12)
    torch.testing.assert_close(found[usable], expected[usable], rtol=1e-9, atol=1e-9)
    usable &= torch.isfinite(expected_forces).all(-1).all(-1) & torch.isfinite(found_forces).all(-1).all(-1)
    usable &= expected_forces.abs().amax((1, 2)) < 1e6
    torch.testing.assert_close(found_forces[usable], expected_forces[usable], rtol=1e-7, atol=1e-7)


@pytest.fixture(scope="module")
def potential(alanine):
    return TorchPotential.from_system(alanine.system, mode="fused")


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_results_do_not_depend_on_threads_and_batches_at_all(potential, md_configurations, dtype):
    positions = torch.tensor(np.resize(md_configurations.positions, (1003, 22, 3)), dtype=dtype)
    one = potential.to(dtype=dtype, threads=1)
    energy, forces = one.energy_and_forces(positions)
    for threads in (2, 3, 5):
        more = potential.to(dtype=dtype, threads=threads).energy_and_forces(positions)
        assert torch.equal(more[0], energy)
        assert torch.equal(more[1], forces)
    for part in (slice(0, 1), slice(5, 22), slice(990, 1003)):
        some = one.energy_and_forces(positions[part])
        assert torch.equal(some[0], energy[part])
        assert torch.equal(some[1], forces[part])


def test_noncontiguous_positions(potential, md_configurations):
    positions = torch.tensor(md_configurations.positions[:20])
    strided = positions.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(potential.energy(strided), potential.energy(positions))
    assert torch.equal(potential.energy(positions[::3]), potential.energy(positions)[::3])


def test_threads_of_the_environment(potential, monkeypatch, md_configurations):
    positions = torch.tensor(md_configurations.positions)
    monkeypatch.setenv("OPENMM_BG_THREADS", "two")
    with pytest.raises(InputError, match="OPENMM_BG_THREADS must be a positive whole number"):
        potential.energy(positions)
    monkeypatch.setenv("OPENMM_BG_THREADS", "3")
    seen = set()
    original = FusedEngine._pool
    monkeypatch.setattr(
        FusedEngine, "_pool", lambda self, threads: (seen.add(threads), original(self, threads))[1]
    )
    potential.energy(positions)
    assert seen == {3}


def test_worker_that_fails_raises(potential, md_configurations, monkeypatch):
    """The error reaches the caller, also one that ends a thread, and the next batch is served."""
    own = potential.to(threads=2)
    positions = torch.tensor(md_configurations.positions)
    expected = own.energy(positions)
    from openmm_bg.potentials.fused import engine

    for error in (MemoryError("no memory for the workspace"), SystemExit("a thread ends")):

        def failing(self, first, *arguments, error=error):
            if first > 0:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(engine.Kernel, "run", failing)
            with pytest.raises(type(error)):
                own.energy(positions)
    assert torch.equal(own.energy(positions), expected)


def test_several_callers_at_the_same_time(potential, md_configurations):
    own = potential.to(threads=2)
    positions = torch.tensor(md_configurations.positions)
    expected = potential.energy(positions)
    results = [None] * 6

    def call(k):
        results[k] = own.energy(positions)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking a process that has threads
def test_forked_child_evaluates(potential, md_configurations):
    own = potential.to(threads=2)
    positions = torch.tensor(md_configurations.positions)
    expected = own.energy(positions)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(own.energy(positions), expected) else 1)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_copies(potential, md_configurations):
    positions = torch.tensor(md_configurations.positions[:5])
    expected = potential.energy(positions)
    for twin in (copy.deepcopy(potential), pickle.loads(pickle.dumps(potential)), potential.to()):
        assert twin.mode == "fused"
        assert torch.equal(twin.energy(positions), expected)


def test_wrong_machine_code_is_found(alanine, md_configurations, monkeypatch):
    """A kernel that is off by a little is not used: a warning says so, and the tensor form takes its place."""
    from openmm_bg.potentials.fused.elementary import FunctionBuilder

    original = FunctionBuilder._log
    monkeypatch.setattr(FunctionBuilder, "_log", lambda self, x: original(self, x) * 1.0001)
    positions = torch.tensor(md_configurations.positions[:5])
    potential = TorchPotential.from_system(alanine.system, mode="fused")
    with pytest.warns(RuntimeWarning, match="cannot be fused to machine code.*differ"):
        energy = potential.energy(positions)
    assert potential.mode == "eager"
    np.testing.assert_allclose(energy, md_configurations.energies[:5], rtol=1e-8)


def overlapping_groups(expression, groups):
    """Interaction groups that list some pairs twice, which OpenMM then counts twice."""
    force = openmm.CustomNonbondedForce(expression)
    for _ in range(4):
        force.addParticle([])
    for first, second in groups:
        force.addInteractionGroup([first], [second])
    return force


@pytest.mark.parametrize("first_batch", ["finite", "undefined"])
def test_pairs_that_are_listed_twice(first_batch):
    """They count twice, and terms over other pairs are not drawn into their loop."""
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    system.addForce(overlapping_groups("1/r", [(0, 1), (0, 1), (0, 2), (2, 3)]))
    system.addForce(overlapping_groups("r^2", [(0, 1), (0, 2), (0, 3), (2, 3)]))
    nonbonded = openmm.NonbondedForce()
    for k in range(4):
        nonbonded.addParticle(0.3 * (-1) ** k, 0.2, 0.1)
    system.addForce(nonbonded)
    positions = np.random.default_rng(0).uniform(0, 1, (20, 4, 3))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    expected = []
    for x in positions:
        context.setPositions(x)
        expected.append(context.getState(energy=True).getPotentialEnergy()._value)
    potential = TorchPotential.from_system(system, mode="fused")
    if first_batch == "undefined":
        assert torch.isposinf(potential.energy(np.zeros((5, 4, 3)))).all()
    np.testing.assert_allclose(potential.energy(positions), expected, rtol=1e-10)
    assert potential.mode == "fused"


def test_wrong_machine_code_is_found_after_a_batch_without_energies(alanine, md_configurations, monkeypatch):
    """Nothing can be compared in such a batch, so the next one is."""
    from openmm_bg.potentials.fused.elementary import FunctionBuilder

    original = FunctionBuilder._log
    monkeypatch.setattr(FunctionBuilder, "_log", lambda self, x: original(self, x) * 1.0001)
    potential = TorchPotential.from_system(alanine.system, mode="fused")
    assert torch.isposinf(potential.energy(np.full((3, 22, 3), np.nan))).all()
    with pytest.warns(RuntimeWarning, match="cannot be fused to machine code.*differ"):
        energy = potential.energy(torch.tensor(md_configurations.positions[:5]))
    np.testing.assert_allclose(energy, md_configurations.energies[:5], rtol=1e-8)


@pytest.mark.parametrize("mode", ["eager", "fused"])
@pytest.mark.parametrize("expression", ["min(sqrt(r-0.2),0.3)", "2*multiply*r", "k.1*r"])
def test_expressions_that_were_once_wrong(expression, mode):
    """Undefined arguments of min and max, and parameters named like internal functions or with a dot."""
    system, force = openmm.System(), openmm.CustomBondForce(expression)
    for name in ("multiply", "k.1"):
        force.addGlobalParameter(name, 1.7)
    for _ in range(2):
        system.addParticle(1.0)
    force.addBond(0, 1, [])
    system.addForce(force)
    positions = np.zeros((4, 2, 3))
    positions[:, 1, 0] = [0.1, 0.15, 0.3, 0.6]
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    expected = []
    for x in positions:
        context.setPositions(x)
        expected.append(context.getState(energy=True).getPotentialEnergy()._value)
    potential = TorchPotential.from_system(system, mode=mode)
    np.testing.assert_allclose(potential.energy(positions), np.nan_to_num(expected, nan=np.inf), rtol=1e-12)


@pytest.mark.parametrize("name", ["values", "type", "multiply", "f.x"])
def test_tables_of_any_name(name, tmp_path):
    system, force = openmm.System(), openmm.CustomCompoundBondForce(2, f"2*{name}(distance(p1,p2))")
    force.addTabulatedFunction(name, openmm.Continuous1DFunction([0.0, 1.0, 4.0, 2.0], 0.0, 1.0))
    for _ in range(2):
        system.addParticle(1.0)
    force.addBond([0, 1], [])
    system.addForce(force)
    positions = np.zeros((2, 2, 3))
    positions[:, 1, 0] = [0.2, 0.7]
    potential = TorchPotential.from_system(system)
    energy = potential.energy(positions)
    assert (energy > 0.5).all()
    potential.save(tmp_path / "potential.safetensors")
    assert torch.equal(TorchPotential.load(tmp_path / "potential.safetensors").energy(positions), energy)


def test_atoms_that_are_not_there_are_refused(tmp_path):
    """Machine code would read outside of its memory."""
    for wrong in (-1, 3, 10**6):
        config = {
            "expression": "r",
            "globals": {},
            "group_parameters": [],
            "inputs": {"r": ["distance", [0, 1]]},
        }
        term = BondedTerm(config, atoms=np.array([[0], [wrong]]), group_parameters=np.zeros((0, 1)))
        with pytest.raises(InputError, match="names atoms that are not there: 0 to 2 are"):
            TorchPotential(3, [term])


def test_without_llvm(alanine, md_configurations, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("llvmlite") or name.startswith("openmm_bg.potentials.fused"):
            raise ImportError("No module named 'llvmlite'")
        return original(name, *arguments, **options)

    potential = TorchPotential.from_system(alanine.system)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.warns(RuntimeWarning, match="cannot be fused to machine code.*llvmlite"):
        energy = potential.energy(torch.tensor(md_configurations.positions[:5]))
    np.testing.assert_allclose(energy, md_configurations.energies[:5], rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "There is no mode 'fast'; the modes are auto, fused, compiled, eager"),
        ({"threads": 0}, "threads must be a whole number of at least 1, not 0"),
        ({"threads": 1.5}, "threads must be a whole number of at least 1, not 1.5"),
        ({"device": "gpu"}, "There is no device 'gpu'"),
        ({"memory": -1.0}, "memory must be positive, not -1.0"),
        ({"dtype": torch.float16}, "dtype must be torch.float64 or torch.float32"),
        ({"mode": "fused", "device": "meta"}, "The mode 'fused' is for the CPU, not for meta"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        TorchPotential(1, [function_of_x("x")], **options)


def test_memory_bounds_the_chunks(alanine, md_configurations):
    """A smaller budget means smaller chunks, and the same energies."""
    positions = torch.tensor(md_configurations.positions)
    sizes = []
    for memory in (0.001, 1.0, 8.0, 64.0):
        potential = TorchPotential.from_system(alanine.system, mode="eager", memory=memory)
        sizes.append(potential.chunk_size)
        np.testing.assert_allclose(potential.energy(positions), md_configurations.energies, rtol=1e-9)
    assert sizes[0] == 1
    assert sizes[1:] == sorted(set(sizes[1:]))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to forget the peak")
def test_memory_of_one_chunk_is_within_the_budget():
    """The peak of the process, above what it needs for a single configuration, stays near the budget."""
    code = """
        import torch
        from openmm_bg import TorchPotential, systems
        torch.set_num_threads(1)
        alanine = systems.load("alanine_dipeptide")
        potential = TorchPotential.from_system(alanine.system, mode="eager", memory=200.0)

        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

        x = torch.tensor(alanine.positions)[None]
        potential.energy_and_forces(x)
        open("/proc/self/clear_refs", "w").write("5")
        before = peak()
        potential.energy_and_forces(x.expand(potential.chunk_size, -1, -1))
        print(potential.chunk_size, peak() - before)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    chunk, mebibytes = (float(word) for word in result.stdout.split())
    assert chunk > 100
    assert 20.0 < mebibytes < 300.0


def test_compiled_agrees():
    """The form that ``torch.compile`` fuses, energies with forces, gives the same numbers."""
    config = {
        "expression": "k*(r-1)^2",
        "globals": {},
        "group_parameters": ["k"],
        "inputs": {"r": ["distance", [0, 1]]},
    }
    term = BondedTerm(config, atoms=np.array([[0, 1], [1, 2]]), group_parameters=np.ones((1, 2)))
    potential = TorchPotential(3, [term], mode="compiled", memory=0.01)
    positions = torch.tensor(np.random.default_rng(0).normal(size=(potential.chunk_size + 3, 3, 3)))
    expected = potential.to(mode="eager").energy_and_forces(positions)
    energy, forces = potential.energy_and_forces(positions)
    assert potential.mode == "compiled"
    torch.testing.assert_close(energy, expected[0], rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(forces, expected[1], rtol=1e-8, atol=1e-6)
