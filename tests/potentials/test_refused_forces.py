"""Ill-formed and unsupported forces are refused in one sentence that says what to do."""

import zlib

import numpy as np
import openmm
import pytest
from example_forces import EXAMPLES, N_ATOMS
from translation_helpers import system_of

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential


def generator(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def changed(name, change):
    def build():
        force = EXAMPLES[name](generator(name))
        change(force)
        return force

    return build


def nan_bond(force):
    force.setBondParameters(3, 0, 1, 0.1, np.nan)


def infinite_angle(force):
    force.setAngleParameters(2, 0, 1, 2, np.inf, 1.0)


def nan_map(force):
    force.setMapParameters(0, 2, [1.0, 2.0, np.nan, 4.0])


def custom(text, **parameters):
    def build():
        force = openmm.CustomBondForce(text)
        for name, value in parameters.items():
            force.addGlobalParameter(name, value)
        force.addBond(0, 1, [])
        return force

    return build


def fewer_particles(force):
    def build():
        new = force()
        for _ in range(N_ATOMS - 1):
            new.addParticle(*([1.0, 0.1, 0.1] if not isinstance(new, openmm.CustomNonbondedForce) else [[]]))
        return new

    return build


def periodic_expression():
    force = openmm.CustomExternalForce("periodicdistance(x, y, z, 0, 0, 0)^2")
    force.addParticle(0, [])
    return force


def table_of(function, name="table"):
    def build():
        force = openmm.CustomNonbondedForce(f"{name}(r)")
        force.addTabulatedFunction(name, function())
        for _ in range(N_ATOMS):
            force.addParticle([])
        return force

    return build


def with_method(name, method):
    return changed(name, lambda force: force.setNonbondedMethod(getattr(force, method)))


REFUSED = [
    (
        changed("HarmonicBondForce", nan_bond),
        r"HarmonicBondForce has k = nan in bond 3; every parameter must be",
    ),
    (changed("HarmonicAngleForce", infinite_angle), r"HarmonicAngleForce has angle = inf in angle 2"),
    (
        changed("PeriodicTorsionForce", lambda f: f.setTorsionParameters(1, 0, 1, 2, 3, 2, 0, np.nan)),
        "k = nan in torsion 1",
    ),
    (
        changed("PeriodicTorsionForce", lambda f: f.setTorsionParameters(1, 0, 1, 2, 3, 0, 0, 1)),
        "periodicity = 0 in torsion 1",
    ),
    (
        changed("RBTorsionForce", lambda f: f.setTorsionParameters(1, 0, 1, 2, 3, 1, 2, np.inf, 4, 5, 6)),
        "c2 = inf in torsion 1",
    ),
    (changed("CMAPTorsionForce", nan_map), "not finite in map 0"),
    (
        changed("CMAPTorsionForce", lambda f: f.setTorsionParameters(1, 3, *range(4), *range(4))),
        "uses map 3, but has 3 maps",
    ),
    (
        changed("NonbondedForce", lambda f: f.setParticleParameters(5, np.nan, 1, 1)),
        "NonbondedForce has charge = nan in particle 5",
    ),
    (
        changed("NonbondedForce", lambda f: f.setParticleParameters(5, 0, 1, -1)),
        "does not accept NonbondedForce.*epsilon",
    ),
    (
        changed("NonbondedForce", lambda f: f.setExceptionParameters(1, 2, 5, 0, np.inf, 1)),
        "sigma = inf in exception 1",
    ),
    (
        changed("NonbondedForce", lambda f: f.setParticleParameterOffset(1, "other", 4, 0, 0, np.nan)),
        "epsilonScale = nan in particle parameter offset 1",
    ),
    (
        changed("GBSAOBCForce", lambda f: f.setParticleParameters(6, 1, 1, np.nan)),
        "GBSAOBCForce has scale = nan in particle 6",
    ),
    (
        changed("CustomGBForce", lambda f: f.setParticleParameters(6, [1, np.nan])),
        "CustomGBForce has s = nan in particle 6",
    ),
    (
        changed("CustomNonbondedForce", lambda f: f.setParticleParameters(6, [1, np.nan, 0])),
        "e = nan in particle 6",
    ),
    (
        changed("CustomExternalForce", lambda f: f.setParticleParameters(2, 0, [1, np.nan])),
        "x0 = nan in particle 2",
    ),
    (
        changed("CustomBondForce", lambda f: f.setBondParameters(2, 0, 99, [1, 1])),
        "uses particle 99 in bond 2, but the system has the particles 0 to 6",
    ),
    (
        changed("HarmonicBondForce", lambda f: f.setUsesPeriodicBoundaryConditions(True)),
        r"HarmonicBondForce uses a periodic box.*setUsesPeriodicBoundaryConditions\(False\)",
    ),
    (
        changed("CustomTorsionForce", lambda f: f.setUsesPeriodicBoundaryConditions(True)),
        "CustomTorsionForce uses a periodic box",
    ),
    (periodic_expression, r"CustomExternalForce uses a periodic box.*periodicdistance"),
    (custom("k*r", k=np.nan), "CustomBondForce has global parameter 'k' = nan"),
    (custom("k*r+d", k=1.0), "uses 'd', which is neither a parameter of the force nor one of k, r"),
    (custom("besselj(r)"), "CustomBondForce has a wrong expression.*calls an unknown function 'besselj'"),
    (custom("r+"), "CustomBondForce has a wrong expression.*ends early"),
    (custom("r+1/0"), "contains an undefined number, like 1/0"),
    (custom("log(1)^r"), "or its derivative, contains an undefined number, like 1/0"),
    (custom("pointdistance(r,0,0,0,0,0)"), "unknown function 'pointdistance'"),
    (
        changed("CustomCompoundBondForce", lambda f: f.setEnergyFunction("distance(p1,p5)")),
        "uses p5, but its bonds have 4 particles",
    ),
    (
        fewer_particles(openmm.NonbondedForce),
        "NonbondedForce has parameters for 6 particles, but the system has 7",
    ),
    (fewer_particles(openmm.GBSAOBCForce), "GBSAOBCForce has parameters for 6 particles"),
    (
        fewer_particles(lambda: openmm.CustomNonbondedForce("r")),
        "CustomNonbondedForce has parameters for 6 particles",
    ),
    (
        table_of(lambda: openmm.Continuous1DFunction([1.0, np.nan, 2.0], 0, 1)),
        "'table' of CustomNonbondedForce has values that are not finite",
    ),
    (
        table_of(lambda: openmm.Continuous1DFunction([1.0, 2.0, 3.0], 0, 1, True)),
        "'table' of CustomNonbondedForce has a first value that differs from the last",
    ),
    (table_of(lambda: openmm.Discrete2DFunction(1, 1, [1.0])), "gives 1 arguments to 'table', which takes 2"),
    (
        with_method("NonbondedForce", "CutoffPeriodic"),
        r"periodic \(NonbondedForce uses CutoffPeriodic\): build it with nonbondedMethod=NoCutoff",
    ),
    (
        with_method("NonbondedForce", "Ewald"),
        r"periodic \(NonbondedForce uses Ewald\): build it with nonbondedMethod=NoCutoff",
    ),
    (
        with_method("NonbondedForce", "PME"),
        r"periodic \(NonbondedForce uses PME\): build it with nonbondedMethod=NoCutoff",
    ),
    (
        with_method("CustomGBForce", "CutoffPeriodic"),
        r"periodic \(CustomGBForce uses CutoffPeriodic\): build it with nonbondedMethod=NoCutoff",
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_ill_formed_forces_are_refused_in_one_sentence(build, message):
    with pytest.raises(InputError, match=message) as caught:
        TorchPotential.from_system(system_of(build(), n_atoms=N_ATOMS))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_forces_that_disagree_on_a_global_parameter_are_refused():
    forces = []
    for value in (1.0, 2.0):
        force = openmm.CustomExternalForce("g*x")
        force.addGlobalParameter("g", value)
        force.addParticle(0, [])
        forces.append(force)
    with pytest.raises(InputError, match=r"default g = 2.0, but another force has 1.0"):
        TorchPotential.from_system(system_of(*forces, n_atoms=1))


def test_virtual_sites_are_refused():
    system = system_of(EXAMPLES["HarmonicBondForce"](generator("sites")), n_atoms=N_ATOMS + 1)
    system.setVirtualSite(N_ATOMS, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    with pytest.raises(InputError, match="1 virtual sites"):
        TorchPotential.from_system(system)


def collective_variable():
    force = openmm.CustomCVForce("d")
    force.addCollectiveVariable("d", openmm.CustomBondForce("r"))
    return force


UNSUPPORTED = {
    "GayBerneForce": openmm.GayBerneForce,
    "DrudeForce": openmm.DrudeForce,
    "AmoebaMultipoleForce": openmm.AmoebaMultipoleForce,
    "AmoebaVdwForce": openmm.AmoebaVdwForce,
    "HippoNonbondedForce": openmm.HippoNonbondedForce,
    "CustomHbondForce": lambda: openmm.CustomHbondForce("distance(d1,a1)"),
    "CustomManyParticleForce": lambda: openmm.CustomManyParticleForce(3, "distance(p1,p2)"),
    "CustomCentroidBondForce": lambda: openmm.CustomCentroidBondForce(2, "distance(g1,g2)"),
    "CustomCVForce": collective_variable,
    "CustomVolumeForce": lambda: openmm.CustomVolumeForce("v"),
    "RMSDForce": lambda: openmm.RMSDForce(np.zeros((N_ATOMS, 3))),
    "RGForce": openmm.RGForce,
    "OrientationRestraintForce": lambda: openmm.OrientationRestraintForce(1.0, np.zeros((N_ATOMS, 3))),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_forces_are_refused_by_name(name):
    with pytest.raises(InputError, match=f"does not support {name}; use OpenMMPotential, which evaluates"):
        TorchPotential.from_system(system_of(UNSUPPORTED[name](), n_atoms=N_ATOMS))


def test_barostats_are_refused():
    system = system_of(EXAMPLES["HarmonicBondForce"](generator("barostat")), n_atoms=N_ATOMS)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    with pytest.raises(InputError, match="barostat"):
        TorchPotential.from_system(system)


def test_forces_are_called_by_their_names():
    force = openmm.CustomBondForce("q*r")
    force.setName("restraint")
    with pytest.raises(InputError, match="of CustomBondForce 'restraint' uses 'q'"):
        TorchPotential.from_system(system_of(force, n_atoms=2))
