"""One force of each class that is translated, with random parameters between random atoms."""

import numpy as np
import openmm

N_ATOMS = 7


def groups(rng, size, count=5, n_atoms=N_ATOMS):
    return [[int(k) for k in rng.permutation(n_atoms)[:size]] for _ in range(count)]


def harmonic_bonds(rng):
    force = openmm.HarmonicBondForce()
    for atoms in groups(rng, 2):
        force.addBond(*atoms, rng.uniform(0.1, 0.2), rng.uniform(1e2, 1e5))
    return force


def harmonic_angles(rng):
    force = openmm.HarmonicAngleForce()
    for atoms in groups(rng, 3):
        force.addAngle(*atoms, rng.uniform(0, np.pi), rng.uniform(10, 500))
    return force


def periodic_torsions(rng):
    force = openmm.PeriodicTorsionForce()
    for atoms in groups(rng, 4):
        for _ in range(rng.integers(1, 4)):
            force.addTorsion(*atoms, int(rng.integers(1, 7)), rng.uniform(-4, 4), rng.uniform(-20, 20))
    return force


def rb_torsions(rng):
    force = openmm.RBTorsionForce()
    for atoms in groups(rng, 4):
        force.addTorsion(*atoms, *rng.uniform(-20, 20, 6))
    return force


def cmap_torsions(rng):
    force = openmm.CMAPTorsionForce()
    for size in (4, 5, 8):
        force.addMap(size, rng.uniform(-20, 20, size * size))
    for number in (0, 2, 2, 0):  # the second map is not used
        force.addTorsion(number, *groups(rng, 4)[0], *groups(rng, 4)[0])
    return force


def nonbonded(rng, cutoff=False, switch=False):
    force = openmm.NonbondedForce()
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.6)
        force.setReactionFieldDielectric(rng.uniform(1, 80))
    if switch:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(0.35)
    for _ in range(N_ATOMS):
        force.addParticle(rng.normal(), rng.uniform(0.1, 0.3), rng.uniform(0, 2))
    force.addException(1, 0, 0, 1, 0)
    force.addException(2, 5, rng.normal(), 0.2, rng.uniform())
    force.addException(3, 1, rng.normal(), 0.2, 0)
    for name in ("lambda", "other"):
        force.addGlobalParameter(name, rng.uniform(-1, 1))
    force.addParticleParameterOffset("lambda", 4, rng.normal(), 0.05, 0.1)
    force.addParticleParameterOffset("other", 4, rng.normal(), 0.0, 0.1)
    force.addExceptionParameterOffset("other", 0, rng.normal(), 0.05, 0.2)
    return force


def gbsa_obc(rng, cutoff=False):
    force = openmm.GBSAOBCForce()
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.6)
    force.setSolventDielectric(rng.uniform(40, 80))
    force.setSoluteDielectric(rng.uniform(1, 4))
    force.setSurfaceAreaEnergy(rng.uniform(0, 5))
    for _ in range(N_ATOMS):
        force.addParticle(rng.normal(), rng.uniform(0.1, 0.2), rng.uniform(0.6, 0.9))
    return force


def custom_bonds(rng):
    force = openmm.CustomBondForce("scale*k*(r-r0)^4; scale=g^2")
    force.addGlobalParameter("g", rng.uniform(1, 2))
    for name in ("r0", "k"):
        force.addPerBondParameter(name)
    for atoms in groups(rng, 2):
        force.addBond(*atoms, [rng.uniform(0.1, 0.2), rng.uniform(100, 1000)])
    return force


def custom_angles(rng):
    force = openmm.CustomAngleForce("k*(cos(theta)-cos(theta0))^2")
    for name in ("k", "theta0"):
        force.addPerAngleParameter(name)
    for atoms in groups(rng, 3):
        force.addAngle(*atoms, [rng.uniform(10, 100), rng.uniform(1, 3)])
    return force


def custom_torsions(rng):
    force = openmm.CustomTorsionForce("k*min(d, 2*pi-d)^2; d=abs(theta-theta0); pi=3.141592653589793")
    for name in ("k", "theta0"):
        force.addPerTorsionParameter(name)
    for atoms in groups(rng, 4):
        force.addTorsion(*atoms, [rng.uniform(10, 100), rng.uniform(-3, 3)])
    return force


def custom_compound_bonds(rng):
    text = (
        "k*(distance(p1,p2)-d0)*(angle(p1,p3,p2)+g)+table(dihedral(p1,p2,p3,p4)/3)*x1*z4+y2*sin(x3)"
        "+pointdistance(x1,y1,z1,(x2+x3)/2,(y2+y3)/2,(z2+z3)/2)+distance(p2,p1)^2"
        "+pointangle(x1,y1,z1,0,1,0,x4,y4,z4)*pointdihedral(x1,y1,z1,x2,y2,z2,x3,y3,z3,x4,y4,1)"
    )
    force = openmm.CustomCompoundBondForce(4, text)
    force.addGlobalParameter("g", rng.uniform(1, 2))
    for name in ("k", "d0"):
        force.addPerBondParameter(name)
    force.addTabulatedFunction("table", openmm.Continuous1DFunction(rng.uniform(0, 9, 6), -0.8, 0.9))
    for atoms in groups(rng, 4):
        force.addBond(atoms, [rng.uniform(10, 100), rng.uniform(0, 1)])
    return force


def custom_external(rng):
    force = openmm.CustomExternalForce("k*((x-x0)^2+y^2*(z-1)^2)+g*x")
    force.addGlobalParameter("g", rng.uniform(1, 2))
    for name in ("k", "x0"):
        force.addPerParticleParameter(name)
    for atom in (4, 2, 2):
        force.addParticle(atom, [rng.uniform(10, 100), rng.normal()])
    return force


def custom_nonbonded(rng, cutoff=False, switch=False, interaction_groups=()):
    text = "step(2-kind)*table(kind1, kind2)*depth*(s/r)^6+g*c1*c2*exp(-r); s=s1+s2; depth=e1*e2; kind=kind1"
    force = openmm.CustomNonbondedForce(text)
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.6)
    if switch:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(0.35)
    force.addGlobalParameter("g", rng.uniform(1, 2))
    for name in ("s", "e", "kind"):
        force.addPerParticleParameter(name)
    matrix = rng.uniform(0, 9, (3, 3))
    force.addTabulatedFunction("table", openmm.Discrete2DFunction(3, 3, (matrix + matrix.T).ravel()))
    force.addTabulatedFunction("spline", openmm.Continuous1DFunction(rng.uniform(0, 9, 6), -0.8, 0.9))
    force.addComputedValue("c", "g*spline(s)+e^2")
    for _ in range(N_ATOMS):
        force.addParticle([rng.uniform(0.1, 0.2), rng.uniform(0, 2), rng.integers(3)])
    for a, b in ((1, 0), (2, 5), (6, 3)):
        force.addExclusion(a, b)
    for first, second in interaction_groups:
        force.addInteractionGroup(first, second)
    return force


def custom_gb(rng, cutoff=False):
    """What the solvent models do not use: exclusions, positions, three stages, tables."""
    force = openmm.CustomGBForce()
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.6)
    for name in ("q", "s"):
        force.addPerParticleParameter(name)
    force.addGlobalParameter("scale", rng.uniform(0.5, 2))
    force.addTabulatedFunction("spline", openmm.Continuous1DFunction(rng.uniform(0, 2, 6), 0.1, 0.9))
    force.addComputedValue("A", "s1*s2^2*exp(-r/scale)*spline(r)", force.ParticlePair)
    force.addComputedValue("B", "q*A+sin(3*x)*y-z^2", force.SingleParticle)
    force.addComputedValue("C", "B*A+s", force.SingleParticle)
    force.addEnergyTerm("scale*A*B^2+x*y*C", force.SingleParticle)
    force.addEnergyTerm("q1*q2/(r+abs(B1*B2))", force.ParticlePairNoExclusions)
    force.addEnergyTerm("(A1-A2)^2*exp(-r^2)*scale+C1*C2", force.ParticlePair)
    for _ in range(N_ATOMS):
        force.addParticle([rng.normal(), rng.uniform(0.5, 1.5)])
    for a, b in ((1, 0), (2, 5), (6, 3)):
        force.addExclusion(a, b)
    return force


EXAMPLES = {
    "HarmonicBondForce": harmonic_bonds,
    "HarmonicAngleForce": harmonic_angles,
    "PeriodicTorsionForce": periodic_torsions,
    "RBTorsionForce": rb_torsions,
    "CMAPTorsionForce": cmap_torsions,
    "NonbondedForce": nonbonded,
    "GBSAOBCForce": gbsa_obc,
    "CustomBondForce": custom_bonds,
    "CustomAngleForce": custom_angles,
    "CustomTorsionForce": custom_torsions,
    "CustomCompoundBondForce": custom_compound_bonds,
    "CustomExternalForce": custom_external,
    "CustomNonbondedForce": custom_nonbonded,
    "CustomGBForce": custom_gb,
}

CUTOFFS = {
    "NonbondedForce, cutoff": lambda rng: nonbonded(rng, cutoff=True),
    "NonbondedForce, cutoff and switching function": lambda rng: nonbonded(rng, cutoff=True, switch=True),
    "GBSAOBCForce, cutoff": lambda rng: gbsa_obc(rng, cutoff=True),
    "CustomNonbondedForce, cutoff": lambda rng: custom_nonbonded(rng, cutoff=True),
    "CustomNonbondedForce, cutoff and switching function": lambda rng: custom_nonbonded(
        rng, cutoff=True, switch=True
    ),
    "CustomNonbondedForce, cutoff and interaction groups": lambda rng: custom_nonbonded(
        rng, cutoff=True, interaction_groups=[({0, 1, 2}, {3, 4, 5})]
    ),
    "CustomGBForce, cutoff": lambda rng: custom_gb(rng, cutoff=True),
}
