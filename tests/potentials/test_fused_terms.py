"""Machine code of every kind of term against the tensor form and OpenMM."""

import warnings

import numpy as np
import openmm
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.potentials.tables import DiscreteTable, SplineTable
from openmm_bg.potentials.terms import BondedTerm, GeneralizedBornTerm, PairTerm


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
