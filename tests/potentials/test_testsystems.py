"""Every system of openmmtools.testsystems: those that are supported against OpenMM, and why others are not."""

import inspect
import re
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from translation_helpers import Reference, errors

from openmm_bg.errors import InputError
from openmm_bg.potentials import TorchPotential
from openmm_bg.potentials.translation import IGNORED, TRANSLATORS

pytestmark = pytest.mark.filterwarnings("ignore:Non-optimal GB parameters")  # says OpenMM of its own choice
DOCUMENT = Path(__file__).parents[2] / "docs" / "supported_forces.md"
PERIODIC = "periodic box"
LARGE_PERIODIC = "periodic box of more than 10,000 atoms"
SKIPPED = {
    "AMOEBAIonBox": "AmoebaMultipoleForce, AmoebaVdwForce and AmoebaTorsionTorsionForce; periodic box",
    "AMOEBAProteinBox": "as AMOEBAIonBox",
    "LysozymeImplicit": "2,621 atoms: supported, but slow on OpenMM's Reference platform",
    "SrcImplicit": "4,427 atoms: as LysozymeImplicit",
    **dict.fromkeys(
        [
            *("AlanineDipeptideExplicit", "AlchemicalWaterBox", "ConstrainedDiatomicFluid"),
            *("ConstrainedDipolarFluid", "CustomGBForceSystem", "CustomLennardJonesFluidMixture"),
            *("DiatomicFluid", "DipolarFluid", "DischargedWaterBox", "DischargedWaterBoxHsites"),
            *("DoubleWellChain_WCAFluid", "DoubleWellDimer_WCAFluid", "FiveSiteWaterBox", "FourSiteWaterBox"),
            *("FlexibleDischargedWaterBox", "FlexiblePMEWaterBox", "FlexibleReactionFieldWaterBox"),
            *("FlexibleWaterBox", "HostGuestExplicit", "IdealGas", "LennardJonesFluid", "LennardJonesGrid"),
            *("LennardJonesFluidSwitched", "LennardJonesFluidTruncated", "MethanolBox", "PMEWaterBox"),
            *("SodiumChlorideCrystal", "UnconstrainedDiatomicFluid", "UnconstrainedDipolarFluid", "WCAFluid"),
            "WaterBox",
        ],
        PERIODIC,
    ),
    **dict.fromkeys(
        [
            *("DHFRExplicit", "DNADodecamerExplicit", "GiantFlexibleDischargedWaterBox"),
            *("GiantFlexibleWaterBox", "SrcExplicit", "SrcExplicitReactionField"),
        ],
        LARGE_PERIODIC,
    ),
}
# Options that avoid constraints. Those that are left are removed: they have no energy.
MODELS = ("Implicit", "ImplicitGBn", "ImplicitGBn2", "ImplicitHCT", "ImplicitOBC1", "ImplicitOBC2", "Vacuum")
DIPEPTIDES = ["AlanineDipeptideImplicit", "AlanineDipeptideVacuum"]
OPTIONS = {name: {"constraints": None} for name in DIPEPTIDES}
OPTIONS |= {f"{name}{model}": {"constraints": None} for name in ("HostGuest", "Toluene") for model in MODELS}
OPTIONS["WaterCluster"] = {"constrained": False}
WITHOUT_CONSTRAINTS = [
    "AlchemicalAlanineDipeptide",
    "ConstraintCoupledHarmonicOscillator",
    "MolecularIdealGas",
]


def all_names():
    from openmmtools import testsystems

    found, stack = set(), [testsystems.TestSystem]
    while stack:
        for kind in stack.pop().__subclasses__():
            if kind.__module__ == testsystems.__name__:
                found.add(kind.__name__)
            stack.append(kind)
    return found


def build(name, **options):
    from openmmtools import testsystems

    return getattr(testsystems, name)(**options)


TESTED = sorted(
    {"CustomExternalForcesTestSystem", "Diatom", "HarmonicOscillator", "HarmonicOscillatorArray"}
    | {"LennardJonesCluster", "LennardJonesPair", "PowerOscillator", *OPTIONS, *WITHOUT_CONSTRAINTS}
)


def test_every_test_system_is_tested_or_skipped_for_a_reason():
    assert not set(TESTED) & SKIPPED.keys()
    assert {*TESTED, *SKIPPED} == all_names()


@pytest.mark.parametrize("name", TESTED)
def test_energies_and_forces_of_test_systems(name):
    test_system = build(name, **OPTIONS.get(name, {}))
    system = openmm.XmlSerializer.clone(test_system.system)
    assert (system.getNumConstraints() > 0) == (name in WITHOUT_CONSTRAINTS)
    while system.getNumConstraints():
        system.removeConstraint(system.getNumConstraints() - 1)
    potential = TorchPotential.from_system(system, mode="eager")
    start = test_system.positions.value_in_unit(openmm.unit.nanometer)
    rng = np.random.default_rng(1)
    positions = np.stack([start + size * rng.normal(size=start.shape) for size in (0, 0.002, 0.01, 0.03)])
    expected = Reference(system)(positions)
    assert np.isfinite(expected[0]).all()
    for mode in ("eager", "fused"):
        found = potential.to(mode=mode).energy_and_forces(torch.as_tensor(positions))
        energy_errors, force_errors = errors(found, expected)
        assert (energy_errors <= 1e-6).all()
        assert (force_errors <= 1e-5).all()


@pytest.mark.parametrize("name", sorted(name for name in SKIPPED if SKIPPED[name] == PERIODIC))
def test_periodic_test_systems_are_refused(name):
    with pytest.raises(InputError, match=r"periodic|constraints|virtual sites"):
        TorchPotential.from_system(build(name).system)


def table_rows(title):
    section = DOCUMENT.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, flags=re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_the_document_has_the_same_test_systems():
    assert table_rows("Systems of openmmtools that are not tested") == SKIPPED
    documented = table_rows("Systems of openmmtools that are tested")
    assert sorted(documented) == TESTED
    for name, how in documented.items():
        assert ("constraints removed" in how) == (name in WITHOUT_CONSTRAINTS)
        for key, value in OPTIONS.get(name, {}).items():
            assert f"`{key}={value}`" in how


def test_the_document_has_every_force_of_openmm():
    forces = {
        name
        for name, kind in vars(openmm).items()
        if inspect.isclass(kind) and issubclass(kind, openmm.Force) and kind is not openmm.Force
    }
    supported, others = table_rows("Forces that are translated"), table_rows("Forces that are not")
    assert supported.keys() == TRANSLATORS.keys()
    assert supported.keys() | others.keys() >= forces  # older versions have fewer
    assert {name for name in others if others[name].startswith("ignored")} == set(IGNORED)
