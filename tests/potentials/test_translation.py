"""Every class of force against OpenMM's own evaluation, its files, and what is refused."""

import itertools
import zlib

import numpy as np
import openmm
import pytest
import torch
from example_forces import CUTOFFS, EXAMPLES, N_ATOMS, custom_nonbonded
from expression_strategies import expressions, has_undefined_constant
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from translation_helpers import Reference, assert_agrees, saved_and_loaded, system_of

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential, translation
from openmm_bg.potentials.torch_potential import TranslationError

ALL = EXAMPLES | CUTOFFS


def generator(name, seed=0):
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def configurations(rng, n_atoms=N_ATOMS, count=20):
    """Normally distributed atoms: on both sides of a cutoff of 0.6 nm."""
    sizes = np.resize([0.15, 0.3, 0.5], count)[:, None, None]
    return sizes * rng.normal(size=(count, n_atoms, 3))


@pytest.fixture(params=ALL, ids=lambda name: name.replace(" ", "-"))
def example(request):
    rng = generator(request.param)
    system = system_of(ALL[request.param](rng), n_atoms=N_ATOMS)
    return TorchPotential.from_system(system, mode="eager"), Reference(system), configurations(rng)


def test_every_translated_class_is_an_example():
    assert EXAMPLES.keys() == translation.TRANSLATORS.keys()


def test_a_force_is_that_of_openmm(example):
    assert_agrees(*example, least=18)


def test_machine_code_is_that_of_openmm(example):
    potential, reference, positions = example
    fused = potential.to(mode="fused")
    assert_agrees(fused, reference, positions, least=18)
    assert fused.mode == "fused"


def test_a_saved_force_is_the_same(example, tmp_path):
    potential, _, positions = example
    again = saved_and_loaded(potential, tmp_path / "potential.safetensors")
    for ours, theirs in zip(
        again.energy_and_forces(positions), potential.energy_and_forces(positions), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", ALL)
def test_random_parameters(name, seed):
    rng = generator(name, seed)
    system = system_of(ALL[name](rng), n_atoms=N_ATOMS)
    potential = TorchPotential.from_system(system, mode="eager")
    assert_agrees(potential, Reference(system), configurations(rng, count=6), least=5)


@pytest.mark.parametrize("name", ALL)
def test_wrong_translations_are_found(name, monkeypatch):
    """The negative control of the check on construction: an energy that is off in the fifth digit."""
    kind = name.split(",")[0]
    correct = translation.TRANSLATORS[kind]

    def off(text):
        first, semicolon, definitions = text.partition(";")
        return f"1.00003*({first}){semicolon}{definitions}"

    def wrong(force, n_atoms):
        terms = []
        for term in correct(force, n_atoms):
            config = dict(term.config)
            if "energies" in config:
                config["energies"] = [[off(text), kind] for text, kind in config["energies"]]
            else:
                config["expression"] = off(config["expression"])
            terms.append(type(term)(config, dict(term.tables.items()), **term.arrays()))
        return terms

    system = system_of(EXAMPLES[kind](generator(name)), n_atoms=N_ATOMS)
    monkeypatch.setitem(translation.TRANSLATORS, kind, wrong)
    with pytest.raises(TranslationError, match=f"translation of {kind} disagrees with OpenMM by"):
        TorchPotential.from_system(system)


@pytest.mark.parametrize(
    "groups",
    [
        [({0, 1}, {2, 3, 4})],
        [({0, 1, 2}, {1, 2, 3})],
        [({0, 1, 2, 3}, {0, 1, 2, 3})],
        [({5, 6}, {0, 1}), ({0, 1}, {5, 6})],
        [({0}, set(range(7))), ({1}, {0, 1, 2}), ({4, 5}, {0})],
        [({0}, {1})],  # which is excluded: no pair is left
    ],
)
def test_interaction_groups(groups):
    rng = generator("groups")
    system = system_of(custom_nonbonded(rng, interaction_groups=groups), n_atoms=N_ATOMS)
    potential = TorchPotential.from_system(system, mode="eager")
    assert_agrees(potential, Reference(system), configurations(rng), least=20)


def test_as_many_pairs_as_there_are_but_others():
    """They must not be taken for all pairs, whose distances are shared."""
    force = openmm.CustomNonbondedForce("exp(-r)")
    for _ in range(3):
        force.addParticle([])
    for _ in range(3):
        force.addInteractionGroup([2], [0])
    rng = generator("pairs")
    system = system_of(force, n_atoms=3)
    potential = TorchPotential.from_system(system, mode="eager")
    assert_agrees(potential, Reference(system), configurations(rng, 3), least=20)


def test_sum_of_all_forces():
    """Also forces that share the name of a global parameter, and of a table."""
    rng = generator("sum")
    forces = [EXAMPLES[name](rng) for name in EXAMPLES]
    for force in forces:
        if isinstance(
            force, openmm.CustomBondForce | openmm.CustomExternalForce | openmm.CustomNonbondedForce
        ):
            force.setGlobalParameterDefaultValue(0, 1.25)
        if isinstance(force, openmm.CustomCompoundBondForce):
            force.setGlobalParameterDefaultValue(0, 1.25)
    system = system_of(*forces, openmm.CMMotionRemover(), openmm.AndersenThermostat(300, 1), n_atoms=N_ATOMS)
    potential = TorchPotential.from_system(system, mode="eager")
    assert_agrees(potential, Reference(system), configurations(rng), least=18)


RANDOM = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
SEEDS = st.integers(0, 2**16)


def check_random(force, texts, n_atoms, seed, geometry=False):
    for text in texts:
        assume(not has_undefined_constant(text, geometry))
    system = system_of(force, n_atoms=n_atoms)
    try:
        potential = TorchPotential.from_system(system, mode="eager")
    except TranslationError as error:
        # An expression that is defined almost nowhere cannot be compared, and is refused.
        assume("could not be compared" not in str(error))
        # Of min(NaN, 1) OpenMM makes 1, and here it is NaN.
        assume("by inf" not in str(error) or not any("min(" in t or "max(" in t for t in texts))
        raise
    except InputError as error:
        assume("undefined number" not in str(error))
        raise
    rng = np.random.default_rng([seed, 1])
    positions = rng.uniform(0.1, 0.9, (6, n_atoms, 3)) * rng.choice([1.0, 1.0, 1.0, -1.0], (6, n_atoms, 3))
    if any("min(" in text or "max(" in text for text in texts):
        positions = positions[np.isfinite(potential.energy(positions).numpy())]
    if len(positions):
        assert_agrees(potential, Reference(system), positions, least=0)


def with_parameters(force, kind, seed, groups, add):
    """Give a force the parameters g, a and b, and these groups."""
    rng = np.random.default_rng(seed)
    force.addGlobalParameter("g", rng.uniform(0.5, 1.5))
    for name in "ab":
        getattr(force, f"addPer{kind}Parameter")(name)
    for group in groups:
        getattr(force, add)(*group, rng.uniform(0.3, 1.5, 2))
    return force


@settings(RANDOM, max_examples=30)
@given(text=expressions("r", "r", "a", "b", "g", "t"), t=expressions("r", "a"), seed=SEEDS)
def test_random_bonds(text, t, seed):
    text = f"{text}; t={t}"
    force = openmm.CustomBondForce(text)
    with_parameters(force, "Bond", seed, [(0, 1), (2, 0), (1, 2)], "addBond")
    check_random(force, [text], 3, seed)


@settings(RANDOM, max_examples=30)
@given(text=expressions("theta", "theta", "a", "b", "g", "t"), t=expressions("theta", "a"), seed=SEEDS)
def test_random_angles(text, t, seed):
    text = f"{text}; t={t}"
    force = openmm.CustomAngleForce(text)
    with_parameters(force, "Angle", seed, [(0, 1, 2), (3, 0, 1)], "addAngle")
    check_random(force, [text], 4, seed)


@settings(RANDOM, max_examples=30)
@given(text=expressions("theta", "theta", "a", "b", "g", "t"), t=expressions("theta", "a"), seed=SEEDS)
def test_random_torsions(text, t, seed):
    text = f"{text}; t={t}"
    force = openmm.CustomTorsionForce(text)
    with_parameters(force, "Torsion", seed, [(0, 1, 2, 3), (3, 0, 4, 1)], "addTorsion")
    check_random(force, [text], 5, seed)


@settings(RANDOM, max_examples=30)
@given(text=expressions("x", "y", "z", "a", "b", "g", "t"), t=expressions("x", "a"), seed=SEEDS)
def test_random_external_forces(text, t, seed):
    text = f"{text}; t={t}"
    force = openmm.CustomExternalForce(text)
    with_parameters(force, "Particle", seed, [(1,), (0,)], "addParticle")
    check_random(force, [text], 2, seed)


OF_PARTICLES = [
    *("distance(p1,p2)", "distance(p3, p1)", "angle(p1,p2,p3)", "angle(p4,p1,p3)", "dihedral(p1,p2,p3,p4)"),
    *("dihedral(p4,p2,p1,p3)", "pointdistance(x1,y1,z1,x2,a,0.5)", "pointangle(x1,y1,z1,0,0,b,x2,y2,z2)"),
    "pointdihedral(x1,y1,z1,x2,y2,z2,x3,y3,z3,x4,y4,g)",
]


@settings(RANDOM, max_examples=40)
@given(
    text=expressions(*OF_PARTICLES, "x1", "y2", "z4", "a", "g", "t"),
    t=expressions(*OF_PARTICLES, "x3"),
    seed=SEEDS,
)
def test_random_compound_bonds(text, t, seed):
    text = f"{text}; t={t}"
    force = openmm.CustomCompoundBondForce(4, text)
    with_parameters(force, "Bond", seed, [([0, 1, 2, 3],), ([3, 4, 1, 0],)], "addBond")
    check_random(force, [text], 5, seed, geometry=True)


SYMMETRIC = "u=a1*a2; v=b1+b2"  # in two atoms, as OpenMM wants pairs to be


@settings(RANDOM, max_examples=50)
@given(
    text=expressions("r", "r", "u", "v", "g", "t"),
    t=expressions("r", "u"),
    value=expressions("a", "b", "g"),
    cut=st.sampled_from([None, (0.7, None), (0.7, 0.4)]),
    seed=SEEDS,
)
def test_random_pairs(text, t, value, cut, seed):
    """The names of the cutoff's own definitions are taken: t here, whole and inside below."""
    text = f"{text}; t={t}; {SYMMETRIC}+inside; inside=whole; whole=c1*c2"
    force = openmm.CustomNonbondedForce(text)
    force.addComputedValue("c", value)
    with_parameters(force, "Particle", seed, [()] * 5, "addParticle")
    force.addExclusion(3, 1)
    if cut is not None:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(cut[0])
        force.setUseSwitchingFunction(cut[1] is not None)
        force.setSwitchingDistance(cut[1] or 0.0)
    try:
        check_random(force, [text, value], 5, seed)
    except InputError as error:
        assume("computed value" not in str(error))  # which is not finite
        raise


@settings(RANDOM, max_examples=50)
@given(
    pair=expressions("r", "r", "a1", "a2", "b2", "g"),
    single=expressions("A", "a", "x", "z", "g"),
    energy=expressions("A", "B", "b", "y"),
    together=expressions("r", "u", "v", "w"),
    cutoff=st.booleans(),
    seed=SEEDS,
)
def test_random_solvents(pair, single, energy, together, cutoff, seed):
    together = f"{together}; w=A1*A2+B1+B2; {SYMMETRIC}"
    force = openmm.CustomGBForce()
    force.addComputedValue("A", pair, [force.ParticlePair, force.ParticlePairNoExclusions][seed % 2])
    force.addComputedValue("B", single, force.SingleParticle)
    force.addEnergyTerm(energy, force.SingleParticle)
    force.addEnergyTerm(together, [force.ParticlePair, force.ParticlePairNoExclusions][seed % 3 == 0])
    with_parameters(force, "Particle", seed, [()] * 4, "addParticle")
    force.addExclusion(3, 1)
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.7)
    check_random(force, [pair, single, energy, together], 4, seed)


@pytest.mark.parametrize("n_atoms", [1, 2])
def test_one_atom_and_two_atoms(n_atoms):
    rng = generator("few")
    external = openmm.CustomExternalForce("10*(x^2+2*y^2)+sqrt(z+100)")
    solvent, charges, pairs = (
        openmm.GBSAOBCForce(),
        openmm.NonbondedForce(),
        openmm.CustomNonbondedForce("1/r"),
    )
    for k in range(n_atoms):
        external.addParticle(k, [])
        solvent.addParticle(1.0, 0.15, 0.8)
        charges.addParticle(1.0, 0.3, 0.5)
        pairs.addParticle([])
    system = system_of(external, solvent, charges, pairs, n_atoms=n_atoms)
    potential = TorchPotential.from_system(system, mode="eager")
    assert_agrees(potential, Reference(system), configurations(rng, n_atoms), least=20)


def test_an_energy_without_forces():
    """Of constants only, or of nothing: it is undefined all the same where positions are."""
    constant, ion = openmm.CustomExternalForce("3*a"), openmm.NonbondedForce()
    constant.addPerParticleParameter("a")
    constant.addParticle(0, [2.0])
    ion.addParticle(1.0, 0.3, 0.5)
    for force, expected in ((constant, 6.0), (ion, 0.0)):
        potential = TorchPotential.from_system(system_of(force, n_atoms=1), mode="eager")
        energy, forces = potential.energy_and_forces(np.array([[[0.0, 1.0, 2.0]], [[np.nan, 0.0, 0.0]]]))
        assert energy.tolist() == [expected, np.inf]
        assert (forces == 0).all()


@pytest.mark.parametrize(
    "text",
    ["1/(x-0.3)", "log(x)", "log(-x)", "floor(20*x)*y", "abs(x)^0.1", "1e8*(sin(x)-x)+1e9", "tan(9*x)"],
)
def test_expressions_with_singularities_and_jumps_are_accepted(text):
    force = openmm.CustomExternalForce(text)
    for k in range(3):
        force.addParticle(k, [])
    system = system_of(force, n_atoms=3)
    potential = TorchPotential.from_system(system, mode="eager")
    positions = np.random.default_rng(0).uniform(0.1, 1.0, (10, 3, 3)) * (-1 if text == "log(-x)" else 1)
    assert_agrees(potential, Reference(system), positions, least=10)


def test_powers_of_parameters_that_are_zero_are_accepted():
    """As alchemical forces have them: only derivatives by the distance are needed, and these are defined."""
    force = openmm.CustomBondForce("k*(alpha*(1-lambda)^b+r^2); lambda=1.0")
    for name in ("k", "alpha", "b"):
        force.addGlobalParameter(name, 2.0)
    force.addBond(0, 1, [])
    system = system_of(force, n_atoms=2)
    potential = TorchPotential.from_system(system, mode="eager")
    assert_agrees(potential, Reference(system), configurations(generator("powers"), 2), least=20)


def test_a_discrete_table_that_does_not_reach_far_is_accepted():
    """Beyond it, OpenMM's value is undefined: there is nothing to compare."""
    force = openmm.CustomNonbondedForce("depths(floor(8*r))*r")
    force.addTabulatedFunction("depths", openmm.Discrete1DFunction(range(1, 9)))
    for _ in range(3):
        force.addParticle([])
    system = system_of(force, n_atoms=3)
    potential = TorchPotential.from_system(system, mode="eager")
    positions = 0.1 * np.random.default_rng(0).normal(size=(10, 3, 3))
    assert_agrees(potential, Reference(system), positions, least=10)


def test_an_energy_that_is_defined_nowhere_is_refused():
    force = openmm.CustomExternalForce("sqrt(-1-x^2)")
    force.addParticle(0, [])
    with pytest.raises(TranslationError, match="could not be compared with OpenMM"):
        TorchPotential.from_system(system_of(force, n_atoms=1))


def test_names_of_the_cutoff_do_not_hide_those_of_the_expression():
    """Also where a definition hides the distance itself, which OpenMM cuts off all the same."""
    force = openmm.CustomNonbondedForce("whole*inside*r+switch; r=d^2; d=r+whole; inside=3; switch=r")
    force.addGlobalParameter("whole", 2.0)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.6)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.4)
    for _ in range(4):
        force.addParticle([])
    system = system_of(force, n_atoms=4)
    potential = TorchPotential.from_system(system, mode="eager")
    assert_agrees(potential, Reference(system), configurations(generator("names"), 4), least=20)


def test_energy_jumps_at_the_cutoff_and_not_before():
    """OpenMM includes neither atoms beyond the cutoff, nor does it shift the energy of others."""
    force = openmm.CustomNonbondedForce("r^2")
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.6)
    for _ in range(2):
        force.addParticle([])
    potential = TorchPotential.from_system(system_of(force, n_atoms=2), mode="eager")
    distances = np.array([0.3, 0.6 - 1e-9, 0.6 + 1e-9, 5.0])
    positions = np.zeros((4, 2, 3))
    positions[:, 1, 2] = distances
    np.testing.assert_allclose(potential.energy(positions), [0.09, 0.36, 0.0, 0.0], rtol=1e-8)


def test_construction_for_hundreds_of_atoms_takes_seconds():
    """Every pair of 600 atoms, with a solvent: 180,000 of them."""
    import time

    n_atoms, rng = 600, generator("large")
    charges, solvent = openmm.NonbondedForce(), openmm.GBSAOBCForce()
    for _ in range(n_atoms):
        charges.addParticle(rng.normal(), 0.2, 0.5)
        solvent.addParticle(rng.normal(), 0.15, 0.8)
    for a, b in itertools.pairwise(range(n_atoms)):
        charges.addException(a, b, 0.0, 1.0, 0.0)
    start = time.perf_counter()
    TorchPotential.from_system(system_of(charges, solvent, n_atoms=n_atoms), mode="eager")
    assert time.perf_counter() - start < 10.0


@pytest.mark.parametrize("mode", ["eager", "fused"])
def test_value_of_zero_under_a_singular_function(mode):
    """As in Finnis-Sinclair potentials: no neighbour within the cutoff, and the slope by their sum is infinite."""
    system, force = openmm.System(), openmm.CustomGBForce()
    force.addPerParticleParameter("q")
    force.addComputedValue("A", "(0.5-r)^2", force.ParticlePair)
    force.addEnergyTerm("-sqrt(A)*q", force.SingleParticle)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.5)
    for k in range(4):
        system.addParticle(1.0)
        force.addParticle([1.0 + k])
    system.addForce(force)
    positions = np.array([[[0, 0, 0], [0.3, 0, 0], [0, 0.35, 0], [3, 3, 3.0]]])
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions[0])
    state = context.getState(energy=True, forces=True)
    energy, forces = TorchPotential.from_system(system, mode=mode).energy_and_forces(positions)
    np.testing.assert_allclose(energy[0], state.getPotentialEnergy()._value, rtol=1e-12)
    np.testing.assert_allclose(forces[0], state.getForces(asNumpy=True)._value, rtol=1e-10, atol=1e-12)
