"""TorchPotential against OpenMM's Reference platform, its refusals, and its files."""

import subprocess
import sys
import textwrap

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.potentials import TorchPotential
from openmm_bg.potentials.torch_potential import TranslationError

N_ATOMS = 22


@pytest.fixture(scope="module")
def potential(alanine):
    return TorchPotential.from_system(alanine.system)


def without_solvent(alanine):
    system = openmm.XmlSerializer.clone(alanine.system)
    index = next(k for k, f in enumerate(system.getForces()) if isinstance(f, openmm.CustomGBForce))
    system.removeForce(index)
    return system


def from_force_field(*files):
    def build(alanine):
        return app.ForceField(*files).createSystem(alanine.topology, nonbondedMethod=app.NoCutoff)

    return build


def with_hct(alanine):
    """Hawkins-Cramer-Truhlar solvent, the third kind of expressions that OpenMM's force fields write."""
    return from_force_field("amber99sb.xml", "implicit/hct.xml")(alanine)


SYSTEMS = {
    "vacuum": without_solvent,
    "OBC2 as GBSAOBCForce": from_force_field("amber99sb.xml", "amber99_obc.xml"),
    "OBC2 as CustomGBForce": from_force_field("amber99sb.xml", "implicit/obc2.xml"),
    "HCT": with_hct,
}


def assert_agreement(energy, forces, expected_energy, expected_forces, energy_tolerance, force_tolerance):
    energy, forces = energy.double().numpy(), forces.double().numpy()
    allowed = energy_tolerance * np.maximum(np.abs(expected_energy), 100.0)
    assert (np.abs(energy - expected_energy) <= allowed).all()
    error = np.linalg.norm(forces - expected_forces, axis=(1, 2))
    assert (error <= force_tolerance * np.linalg.norm(expected_forces, axis=(1, 2))).all()


@pytest.mark.parametrize("configurations", ["md_configurations", "perturbed_configurations"])
@pytest.mark.parametrize(
    ("dtype", "energy_tolerance", "force_tolerance"),
    [(torch.float64, 1e-6, 1e-5), (torch.float32, 3e-5, 3e-5)],
)
def test_agrees_with_the_reference_platform(
    potential, configurations, dtype, energy_tolerance, force_tolerance, request
):
    expected = request.getfixturevalue(configurations)
    assert len(expected.positions) == 1000
    energy, forces = potential.to(dtype=dtype).energy_and_forces(torch.tensor(expected.positions))
    assert energy.dtype == dtype
    assert_agreement(energy, forces, expected.energies, expected.forces, energy_tolerance, force_tolerance)


@pytest.mark.parametrize("name", SYSTEMS)
def test_other_solvents(name, alanine, md_positions, perturbed_configurations, reference_energies_and_forces):
    system = SYSTEMS[name](alanine)
    positions = np.concatenate([md_positions[::20], perturbed_configurations.positions[::7]])
    energy, forces = TorchPotential.from_system(system).energy_and_forces(positions)
    expected = reference_energies_and_forces(system, positions)
    usable = np.isfinite(expected[0])
    assert usable[: len(md_positions[::20])].all()
    assert (torch.isfinite(energy).numpy() == usable).all()
    assert_agreement(energy[usable], forces[usable], *(e[usable] for e in expected), 1e-6, 1e-5)


def random_system(seed):
    """Bonds, angles, torsions, charges and exceptions with random parameters, between random atoms."""
    rng = np.random.default_rng(seed)
    n_atoms = int(rng.integers(5, 12))
    system = openmm.System()
    for _ in range(n_atoms):
        system.addParticle(1.0)
    bonds, angles, torsions = (
        openmm.HarmonicBondForce(),
        openmm.HarmonicAngleForce(),
        openmm.PeriodicTorsionForce(),
    )
    for _ in range(8):
        i, j, k, m = (int(atom) for atom in rng.permutation(n_atoms)[:4])
        bonds.addBond(i, j, rng.uniform(0.1, 0.2), rng.uniform(1e3, 1e5))
        angles.addAngle(i, j, k, rng.uniform(0, np.pi), rng.uniform(10, 500))
        for _ in range(rng.integers(1, 4)):  # several terms on one torsion, as in AMBER force fields
            torsions.addTorsion(i, j, k, m, int(rng.integers(1, 7)), rng.uniform(-4, 4), rng.uniform(-20, 20))
    nonbonded = openmm.NonbondedForce()
    for _ in range(n_atoms):
        nonbonded.addParticle(rng.normal(), rng.uniform(0.1, 0.3), rng.uniform(0, 2))
    pairs = np.stack(np.triu_indices(n_atoms, 1), axis=1)
    for i, j in rng.permutation(pairs)[:6]:
        scale = rng.integers(0, 2)  # exclusions, and exceptions with parameters of their own
        nonbonded.addException(
            int(j), int(i), scale * rng.normal(), rng.uniform(0.1, 0.3), scale * rng.uniform()
        )
    for force in (bonds, angles, torsions, nonbonded, random_solvent(rng, n_atoms)):
        system.addForce(force)
    system.addForce(openmm.CMMotionRemover())
    system.addForce(openmm.AndersenThermostat(300, 1))
    return system


def random_solvent(rng, n_atoms):
    """A CustomGBForce that uses what the solvent models do not: exclusions, positions, three stages."""
    force = openmm.CustomGBForce()
    force.addPerParticleParameter("q")
    force.addPerParticleParameter("s")
    force.addGlobalParameter("scale", rng.uniform(0.5, 2))
    force.addComputedValue("A", "s1*s2^2*exp(-r/scale)", force.ParticlePair)
    force.addComputedValue("B", "q*A+sin(3*x)*y-z^2", force.SingleParticle)
    force.addEnergyTerm("scale*A*B^2+x*y", force.SingleParticle)
    force.addEnergyTerm("q1*q2/(r+abs(B1*B2))", force.ParticlePairNoExclusions)
    force.addEnergyTerm("(A1-A2)^2*exp(-r^2)*scale", force.ParticlePair)
    for _ in range(n_atoms):
        force.addParticle([rng.normal(), rng.uniform(0.5, 1.5)])
    for i in range(0, n_atoms - 1, 2):
        force.addExclusion(i + 1, i)
    return force


@pytest.mark.parametrize("seed", range(6))
def test_random_systems(seed, reference_energies_and_forces):
    system = random_system(seed)
    potential = TorchPotential.from_system(system)
    n_atoms = system.getNumParticles()
    positions = np.random.default_rng(100 + seed).normal(scale=0.3, size=(50, n_atoms, 3))
    assert_agreement(
        *potential.energy_and_forces(positions), *reference_energies_and_forces(system, positions), 1e-6, 1e-5
    )


def test_straight_angles_have_finite_forces(reference_energies_and_forces):
    """acos would give NaN gradients here."""
    system = openmm.System()
    for _ in range(3):
        system.addParticle(1.0)
    angles = openmm.HarmonicAngleForce()
    angles.addAngle(0, 1, 2, 2.0, 100.0)
    system.addForce(angles)
    positions = np.array([[[-0.1, 0, 0], [0, 0, 0], [0.1, d, 0]] for d in (1e-3, 1e-6, 1e-9)])
    potential = TorchPotential.from_system(system)
    energy, forces = potential.energy_and_forces(positions)
    expected = reference_energies_and_forces(system, positions)
    # OpenMM's own acos loses digits near 180 degrees; exact is k/2 (pi - 2)^2.
    np.testing.assert_allclose(energy, expected[0], rtol=1e-6)
    assert energy[2] == pytest.approx(50.0 * (np.pi - 2.0) ** 2, rel=1e-7)
    np.testing.assert_allclose(forces[:, 2, 1].abs(), 100.0 * (np.pi - 2.0) / 0.1, rtol=0.02)


def test_exactly_straight_angle_has_a_finite_force():
    """A start configuration may be exactly straight, e.g. that of a nitrile or of carbon dioxide."""
    system = openmm.System()
    for _ in range(3):
        system.addParticle(1.0)
    angles = openmm.HarmonicAngleForce()
    angles.addAngle(0, 1, 2, 2.0, 100.0)
    system.addForce(angles)
    positions = np.array([[[-0.1, 0, 0], [0, 0, 0], [0.1, 0, 0]], [[0.1, 0, 0], [0, 0, 0], [0.1, 0, 0]]])
    energy, forces = TorchPotential.from_system(system).energy_and_forces(positions)
    np.testing.assert_allclose(energy, 50.0 * np.array([np.pi - 2.0, 2.0]) ** 2, rtol=1e-12)
    assert torch.isfinite(forces).all()


def test_wrong_translation_is_found(alanine, monkeypatch):
    """The negative control of the check on construction: Coulomb's constant in the sixth digit."""
    from openmm_bg.potentials.translation import nonbonded

    monkeypatch.setattr(nonbonded, "COULOMB_CONSTANT", nonbonded.COULOMB_CONSTANT * (1 + 1e-5))
    with pytest.raises(TranslationError, match="translation of NonbondedForce disagrees with OpenMM"):
        TorchPotential.from_system(alanine.system)


def test_gradient_against_finite_differences(potential, md_positions):
    x = torch.tensor(md_positions[:3], requires_grad=True)
    assert torch.autograd.gradcheck(potential.energy, x, eps=1e-6, atol=1e-3, rtol=1e-6)


def test_gradient_is_minus_the_force_times_the_incoming_gradient(potential, md_positions):
    x = torch.tensor(md_positions[:4], requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * potential.energy(x)).sum(), x)
    torch.testing.assert_close(gradient, -weights[:, None, None] * potential.energy_and_forces(x)[1])


def test_samples_do_not_depend_on_the_batch(potential, md_configurations):
    """Neither on the size nor on the neighbours, also where a batch is cut into chunks."""
    positions = torch.tensor(md_configurations.positions)
    size = potential.chunk_size + 1
    positions = positions[torch.arange(size) % len(positions)]
    energy, forces = potential.energy_and_forces(positions)
    for part in (slice(0, 1), slice(3, 5), slice(size - 3, size)):
        some_energy, some_forces = potential.energy_and_forces(positions[part])
        torch.testing.assert_close(some_energy, energy[part], rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(some_forces, forces[part], rtol=1e-11, atol=1e-7)
    torch.testing.assert_close(potential.energy(positions), energy, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_non_finite_sample_affects_no_other(alanine, md_positions, bad, dtype):
    potential = TorchPotential.from_system(alanine.system, dtype=dtype)
    x = torch.tensor(md_positions[:5])
    x[2, 7, 1] = bad
    x.requires_grad_(True)
    energy = potential.energy(x)
    energy.sum().backward()
    assert torch.isposinf(energy).tolist() == [False, False, True, False, False]
    assert (x.grad[2] == 0).all()
    good = [0, 1, 3, 4]
    assert torch.isfinite(x.grad[good]).all()
    assert (x.grad[good].abs().amax((1, 2)) > 1).all()
    assert potential.n_nonfinite == 1


def test_atoms_on_top_of_each_other(potential, md_positions):
    x = torch.tensor(md_positions[:2])
    x[0, 21] = x[0, 0]
    energy, forces = potential.energy_and_forces(x)
    assert torch.isposinf(energy).tolist() == [True, False]
    assert (forces[0] == 0).all()


@pytest.mark.parametrize("mode", ["eager", "fused"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bonded_atoms_on_top_of_each_other(mode, dtype):
    """The energy of a bond and an angle is finite there, so the force must be, although it has no direction."""
    system, bond, angle = openmm.System(), openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for _ in range(3):
        system.addParticle(1.0)
    bond.addBond(0, 1, 0.1, 100.0)
    angle.addAngle(0, 1, 2, 2.0, 10.0)
    system.addForce(bond)
    system.addForce(angle)
    x = torch.tensor([[[0.1, 0, 0], [0.1, 0, 0], [0, 0.2, 0]], [[0.1, 0, 0], [0, 0, 0], [0, 0.2, 0]]])
    energy, forces = TorchPotential.from_system(system, mode=mode, dtype=dtype).energy_and_forces(x)
    assert torch.isfinite(energy).all()
    assert float(energy[1]) == pytest.approx(5.0 * (np.pi / 2 - 2.0) ** 2, rel=1e-5)
    assert torch.isfinite(forces).all()
    assert (forces[1] != 0).any()


@pytest.mark.parametrize("mode", ["eager", "fused"])
def test_second_derivatives_are_refused(alanine, md_positions, mode):
    """They would silently be zero."""
    potential = TorchPotential.from_system(without_solvent(alanine), mode=mode)
    x = torch.tensor(md_positions[:1], requires_grad=True)
    (gradient,) = torch.autograd.grad(potential.energy(x).sum(), x, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(InputError, match=r"no second derivatives.*finite differences of its forces"):
        torch.autograd.grad(gradient.sum(), x)


@pytest.mark.parametrize("mode", ["eager", "fused"])
def test_inference_mode(alanine, md_configurations, mode):
    potential = TorchPotential.from_system(alanine.system, mode=mode)
    with torch.inference_mode():
        x = torch.tensor(md_configurations.positions[:3])
        energy, forces = potential.energy_and_forces(x)
        np.testing.assert_allclose(potential.energy(x), md_configurations.energies[:3], rtol=1e-9)
    np.testing.assert_allclose(energy, md_configurations.energies[:3], rtol=1e-9)
    assert potential.mode == mode
    assert (forces.abs().amax((1, 2)) > 1).all()


def test_every_evaluation_is_counted(alanine, md_positions):
    potential = TorchPotential.from_system(alanine.system)
    assert potential.n_evaluations == 0  # the check on construction is not the user's
    x = torch.tensor(md_positions)
    potential.energy(x[:3])
    potential.energy_and_forces(x[:4])
    potential.energy(x[:5].clone().requires_grad_(True)).sum().backward()
    assert potential.energy(x[:0]).shape == (0,)
    assert potential.n_evaluations == 12
    assert potential.to(dtype=torch.float32).n_evaluations == 0


def test_float32_positions_and_gradients(potential, md_positions):
    x = torch.tensor(md_positions[:2], dtype=torch.float32, requires_grad=True)
    energy = potential.energy(x)
    energy.sum().backward()
    assert energy.dtype == torch.float64
    assert x.grad.dtype == torch.float32
    again = potential.to(dtype=torch.float32).to(dtype=torch.float64)
    x = torch.tensor(md_positions[:5])
    assert torch.equal(again.energy(x), potential.energy(x))


@pytest.mark.parametrize("shape", [(22, 3), (1, 21, 3), (1, 22, 2), (66,), (1, 1, 22, 3)])
def test_wrong_shape(potential, shape):
    with pytest.raises(InputError, match=r"shape \(batch, 22, 3\)"):
        potential.energy(torch.zeros(shape, dtype=torch.float64))


def test_integer_positions(potential):
    with pytest.raises(InputError, match="floating-point"):
        potential.energy(torch.zeros((1, N_ATOMS, 3), dtype=torch.int64))


def test_positions_with_units(potential, alanine):
    expected = potential.energy(torch.tensor(alanine.positions[None].copy()))
    in_angstrom = alanine.positions[None] * 10.0 * unit.angstrom
    torch.testing.assert_close(potential.energy(in_angstrom), expected, rtol=1e-12, atol=1e-9)


def test_read_only_positions(potential, alanine):
    """Those of a MolecularSystem; torch warns of them, once per process if it is not asked for more."""
    expected = potential.energy(torch.tensor(alanine.positions[None].copy()))
    torch.set_warn_always(True)
    try:
        assert torch.equal(potential.energy(alanine.positions[None]), expected)
    finally:
        torch.set_warn_always(False)


def test_lists_are_not_rounded(potential, alanine):
    """torch makes float32 of a list."""
    expected = potential.energy(torch.tensor(alanine.positions[None].copy()))
    assert torch.equal(potential.energy(alanine.positions[None].tolist()), expected)


def with_force(force):
    def change(system):
        system.addForce(force)

    return change


def periodic(system):
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    nonbonded.setNonbondedMethod(nonbonded.CutoffPeriodic)


def ewald(system):
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    nonbonded.setNonbondedMethod(nonbonded.PME)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_force(openmm.GayBerneForce()), "does not support GayBerneForce; use OpenMMPotential"),
        (
            with_force(openmm.CustomVolumeForce("v")),
            "does not support CustomVolumeForce; use OpenMMPotential",
        ),
        (periodic, "periodic"),
        (ewald, "periodic"),
        (with_force(openmm.MonteCarloBarostat(1.0, 300.0)), "barostat"),
        (lambda system: system.addConstraint(0, 1, 0.1), "1 constraint"),
    ],
)
def test_unsupported_systems_are_refused_by_name(alanine, change, message):
    system = openmm.XmlSerializer.clone(alanine.system)
    change(system)
    with pytest.raises(InputError, match=message):
        TorchPotential.from_system(system)


def test_molecular_system_is_accepted(alanine, potential, md_positions):
    x = torch.tensor(md_positions[:2])
    assert torch.equal(TorchPotential.from_system(alanine).energy(x), potential.energy(x))


def test_saved_potential_is_the_same(potential, md_positions, tmp_path):
    path = tmp_path / "potential.safetensors"
    potential.save(path)
    x = torch.tensor(md_positions[:5])
    assert torch.equal(TorchPotential.load(path).energy(x), potential.energy(x))
    # Saved from float32, the parameters keep all their digits.
    potential.to(dtype=torch.float32).save(path)
    assert torch.equal(TorchPotential.load(path).energy(x), potential.energy(x))
    assert TorchPotential.load(path, dtype=torch.float32).energy(x).dtype == torch.float32


def test_works_without_openmm(potential, md_configurations, tmp_path):
    potential.save(tmp_path / "potential.safetensors")
    np.save(tmp_path / "positions.npy", md_configurations.positions[:3])
    code = """
        import sys

        class NoOpenMM:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("openmm", "simtk", "openmmtools", "mdtraj"):
                    raise ImportError(f"{name} is not installed")

        sys.meta_path.insert(0, NoOpenMM())
        import numpy as np
        import torch
        from openmm_bg import TorchPotential

        potential = TorchPotential.load("potential.safetensors")
        energy, forces = potential.energy_and_forces(np.load("positions.npy"))
        x = torch.tensor(np.load("positions.npy"), requires_grad=True)
        potential.energy(x).sum().backward()
        assert torch.equal(x.grad, -forces)
        assert "openmm" not in sys.modules
        print(*energy.tolist())
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(
        [float(e) for e in result.stdout.split()], md_configurations.energies[:3], rtol=1e-9
    )


def test_missing_truncated_and_foreign_files(potential, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "potential.safetensors"
    with pytest.raises(ModelFileError, match="no potential file"):
        TorchPotential.load(path)
    potential.save(path)
    content = path.read_bytes()
    for size in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFileError, match="truncated or is not a saved potential"):
            TorchPotential.load(path)
    save_file({"weights": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="truncated or is not a saved potential"):
        TorchPotential.load(path)
    path.write_bytes(content.replace(b'\\"format\\": 2', b'\\"format\\": 9'))
    with pytest.raises(ModelFileError, match="format 9"):
        TorchPotential.load(path)
    path.write_bytes(content.replace(b'\\"kind\\": \\"BondedTerm\\"', b'\\"kind\\": \\"BandedTerm\\"'))
    with pytest.raises(ModelFileError, match="BandedTerm"):
        TorchPotential.load(path)
