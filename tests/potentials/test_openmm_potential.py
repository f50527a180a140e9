"""OpenMMPotential against plain OpenMM, and what it does with bad input, threads, copies and forks."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openmm
import pytest
import torch

from openmm_bg.errors import InputError
from openmm_bg.potentials import OpenMMPotential, openmm_potential


def relative_errors(energy, forces, expected):
    """Return the energies' errors relative to max(|U|, 100 kJ/mol) and the forces' by norm."""
    energy, forces = energy.double().numpy(), forces.double().numpy()
    norms = np.linalg.norm(expected.forces, axis=(1, 2))
    return (
        np.abs(energy - expected.energies) / np.maximum(np.abs(expected.energies), 100.0),
        np.linalg.norm(forces - expected.forces, axis=(1, 2)) / norms,
    )


@pytest.mark.parametrize("configurations", ["md_configurations", "perturbed_configurations"])
@pytest.mark.parametrize(
    ("dtype", "energy_tolerance", "force_tolerance"),
    [(torch.float64, 1e-6, 1e-5), (torch.float32, 1e-5, 1e-5)],
)
def test_agrees_with_the_reference_platform(
    alanine, configurations, dtype, energy_tolerance, force_tolerance, request
):
    expected = request.getfixturevalue(configurations)
    assert len(expected.positions) == 1000
    with OpenMMPotential(alanine, dtype=dtype) as potential:
        energy, forces = potential.energy_and_forces(expected.positions)
    assert energy.dtype == forces.dtype == dtype
    energy_error, force_error = relative_errors(energy, forces, expected)
    assert energy_error.max() <= energy_tolerance
    assert force_error.max() <= force_tolerance


def test_cpu_platform_is_not_double_precision(alanine, md_configurations):
    """The reason why float64 refuses the CPU platform; if this fails, OpenMM has become more precise."""
    with OpenMMPotential(alanine, platform="CPU", dtype=torch.float32) as potential:
        errors = relative_errors(*potential.energy_and_forces(md_configurations.positions), md_configurations)
    assert np.median(errors[0]) > 1e-8
    assert 2e-7 < errors[0].max() < 1e-5
    with pytest.raises(InputError, match=r"CPU computes in single precision: use dtype=torch\.float32"):
        OpenMMPotential(alanine, platform="CPU")


@pytest.mark.parametrize("n_contexts", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 7, 20])
def test_samples_do_not_depend_on_the_batch(alanine, md_configurations, n_contexts, size):
    with OpenMMPotential(alanine, platform="Reference", n_contexts=n_contexts) as potential:
        energy, forces = potential.energy_and_forces(md_configurations.positions[:size])
    np.testing.assert_array_equal(energy, md_configurations.energies[:size])
    np.testing.assert_array_equal(forces, md_configurations.forces[:size])


def test_gradient_is_minus_the_force(alanine, md_positions):
    with OpenMMPotential(alanine, platform="Reference", n_contexts=1) as potential:
        x = torch.tensor(md_positions[:1], requires_grad=True)
        assert torch.autograd.gradcheck(potential.energy, x, eps=1e-6, atol=1e-2, rtol=1e-5)
        (gradient,) = torch.autograd.grad((potential.energy(x) * 3.0).sum(), x)
        torch.testing.assert_close(gradient, -3.0 * potential.energy_and_forces(x)[1], rtol=0, atol=0)


def test_float32_positions_get_float32_gradients(alanine, md_positions):
    with OpenMMPotential(alanine, platform="Reference", n_contexts=1) as potential:
        x = torch.tensor(md_positions[:2], dtype=torch.float32, requires_grad=True)
        energy = potential.energy(x)
        energy.sum().backward()
        assert energy.dtype == torch.float64
        assert x.grad.dtype == torch.float32
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("platform", "dtype"), [("Reference", torch.float64), ("CPU", torch.float32)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_non_finite_sample_affects_no_other(alanine, md_positions, platform, dtype, bad):
    x = md_positions[:5].copy()
    x[2, 7, 1] = bad
    x = torch.tensor(x, requires_grad=True)
    with OpenMMPotential(alanine, platform=platform, n_contexts=2, dtype=dtype) as potential:
        energy = potential.energy(x)
        energy.sum().backward()
        good = [0, 1, 3, 4]
        np.testing.assert_array_equal(energy.isposinf().numpy(), [False, False, True, False, False])
        assert (x.grad[2] == 0).all()
        forces = potential.energy_and_forces(x[good])[1].double()
        torch.testing.assert_close(x.grad[good], -forces, rtol=1e-5, atol=0.05)
        assert potential.n_nonfinite == 1


def test_batch_without_any_finite_sample(alanine):
    with OpenMMPotential(alanine) as potential:
        energy, forces = potential.energy_and_forces(np.full((2, 22, 3), np.nan))
        assert torch.isposinf(energy).all()
        assert (forces == 0).all()
        assert potential.platform_name is None
        assert potential.energy(np.zeros((0, 22, 3))).shape == (0,)


def refuse_far(state):
    """Raise for configurations beyond 10 nm; else the energy of a constant force along x."""
    x = state.getPositions(asNumpy=True)._value
    if (x > 10).any():
        raise ValueError("too far")
    return 2.0 * x[:, 0].sum(), np.broadcast_to([-2.0, 0.0, 0.0], x.shape)


@pytest.mark.skipif(not hasattr(openmm, "PythonForce"), reason="OpenMM before 8.4 has no PythonForce")
def test_exception_of_one_configuration_does_not_abort_the_batch():
    system = openmm.System()
    for _ in range(3):
        system.addParticle(1.0)
    system.addForce(openmm.PythonForce(refuse_far))
    x = np.random.default_rng(0).uniform(size=(6, 3, 3))
    x[4] = 11.0
    with OpenMMPotential(system, platform="Reference", n_contexts=2) as potential:
        energy, forces = potential.energy_and_forces(x)
    expected = 2.0 * x[:, :, 0].sum(1)
    expected[4] = np.inf
    np.testing.assert_allclose(energy, expected, rtol=1e-14)
    np.testing.assert_array_equal(forces[:, 0, 0], [-2, -2, -2, -2, 0, -2])


@pytest.mark.parametrize("error", [MemoryError("no memory"), SystemExit("a thread ends")])
def test_worker_that_dies_raises_and_the_next_batch_is_served(alanine, md_positions, monkeypatch, error):
    """The caller gets the worker's error within seconds, never waits for it for ever."""
    positions = torch.tensor(md_positions[:8])
    with OpenMMPotential(alanine.system, platform="Reference", n_contexts=2) as potential:
        expected = potential.energy(positions)
        evaluate = openmm_potential._evaluate_chunk
        calls = []

        def dying(context, chunk, with_forces):
            calls.append(len(chunk))
            if len(calls) == 2:
                raise error
            return evaluate(context, chunk, with_forces)

        with monkeypatch.context() as patch:
            patch.setattr(openmm_potential, "_evaluate_chunk", dying)
            with ThreadPoolExecutor(1) as caller, pytest.raises(type(error)):
                caller.submit(potential.energy, positions).result(timeout=30)
        assert len(calls) == 2
        assert torch.equal(potential.energy(positions), expected)


def test_every_evaluation_is_counted(alanine, md_positions):
    with OpenMMPotential(alanine, platform="Reference") as potential:
        potential.energy(md_positions[:3])
        potential.energy_and_forces(md_positions[:4])
        x = torch.tensor(md_positions[:5], requires_grad=True)
        potential.energy(x).sum().backward()
        assert potential.n_evaluations == 12
        assert potential.n_nonfinite == 0


def test_choice_is_the_fastest_candidate(alanine, md_positions):
    with OpenMMPotential(alanine, dtype=torch.float32) as potential:
        assert potential.platform_name is None
        assert potential.choice == ()
        potential.energy(md_positions[:4])
        rates = [candidate.rate for candidate in potential.choice]
        assert {"Reference", "CPU"} <= {candidate.platform for candidate in potential.choice}
        assert {"Threads": "1"} in [candidate.properties for candidate in potential.choice]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > 0
        assert potential.platform_name == potential.choice[0].platform
        before = potential.choice
        potential.energy(md_positions[:4])
        assert potential.choice is before


def test_candidate_that_cannot_be_used_is_passed_over(alanine, md_positions, monkeypatch):
    create = openmm.Context

    def refuse(system, integrator, platform, properties):
        if platform.getName() == "CPU":
            raise openmm.OpenMMException("no such device")
        return create(system, integrator, platform, properties)

    monkeypatch.setattr(openmm, "Context", refuse)
    with OpenMMPotential(alanine, dtype=torch.float32) as potential:
        potential.energy(md_positions[:2])
        assert potential.platform_name == "Reference"
        failed = [candidate for candidate in potential.choice if candidate.platform == "CPU"]
        assert failed
        assert all(candidate.error == "no such device" and candidate.rate == 0 for candidate in failed)


def test_no_usable_candidate_is_an_error(alanine, md_positions, monkeypatch):
    def refuse(*_):
        raise openmm.OpenMMException("no such device")

    monkeypatch.setattr(openmm, "Context", refuse)
    with pytest.raises(InputError, match=r"on none of its platforms \(Reference: no such device"):
        OpenMMPotential(alanine).energy(md_positions[:2])


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda potential: pickle.loads(pickle.dumps(potential))],
    ids=["copy", "pickle"],
)
def test_copies_make_their_own_contexts(alanine, md_configurations, duplicate):
    with OpenMMPotential(alanine, platform="Reference", n_contexts=2) as potential:
        potential.energy(md_configurations.positions[:4])
        with duplicate(potential) as second:
            assert second.n_evaluations == 4
            assert second.choice == ()
            energy = second.energy(md_configurations.positions[:5])
            np.testing.assert_array_equal(energy, md_configurations.energies[:5])
        assert potential.n_evaluations == 4
        np.testing.assert_array_equal(potential.energy(md_configurations.positions[:2]), energy[:2])


def test_closed_potential_opens_again(alanine, md_configurations):
    potential = OpenMMPotential(alanine, platform="Reference", n_contexts=2)
    for _ in range(2):
        np.testing.assert_array_equal(
            potential.energy(md_configurations.positions[:3]), md_configurations.energies[:3]
        )
        potential.close()
        potential.close()


def test_later_changes_to_the_system_have_no_effect(alanine, md_configurations):
    system = openmm.XmlSerializer.clone(alanine.system)
    potential = OpenMMPotential(system, platform="Reference", n_contexts=1)
    system.removeForce(0)
    np.testing.assert_array_equal(
        potential.energy(md_configurations.positions[:2]), md_configurations.energies[:2]
    )


def _energies_in_child(potential, positions, queue):
    queue.put(potential.energy(positions).numpy())
    potential.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_uses_contexts_of_its_own(alanine, md_configurations):
    """Contexts of the CPU platform have threads, which a child does not inherit: it would wait for ever."""
    potential = OpenMMPotential(alanine, platform="CPU", n_contexts=2, dtype=torch.float32)
    here = potential.energy(md_configurations.positions[:6]).numpy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(
        target=_energies_in_child, args=(potential, md_configurations.positions[:6], queue)
    )
    child.start()
    try:
        # Threads sum in any order in single precision: energies of 1e3 kJ/mol in parts, small ones in sum.
        np.testing.assert_allclose(queue.get(timeout=60), here, rtol=1e-5, atol=1e-4)
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()
        potential.close()


@pytest.mark.parametrize("shape", [(22, 3), (1, 21, 3), (1, 22, 2), (66,)])
def test_wrong_shape(alanine, shape):
    with pytest.raises(InputError, match=r"shape \(batch, 22, 3\)"):
        OpenMMPotential(alanine).energy(np.zeros(shape))


def test_integer_positions(alanine):
    with pytest.raises(InputError, match="floating-point"):
        OpenMMPotential(alanine).energy(np.zeros((1, 22, 3), dtype=int))


def test_positions_with_units(alanine):
    from openmm import unit

    x = alanine.positions[None].copy()
    with OpenMMPotential(alanine, platform="Reference", n_contexts=1) as potential:
        assert potential.energy(10 * x * unit.angstrom) == pytest.approx(potential.energy(x), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"platform": "Quantum"}, "no platform called 'Quantum'"),
        ({"dtype": torch.float16}, r"dtype must be torch\.float64 or torch\.float32"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"n_contexts": 0}, "n_contexts must be at least 1"),
    ],
)
def test_bad_arguments(alanine, arguments, message):
    with pytest.raises(InputError, match=message):
        OpenMMPotential(alanine, **arguments)


def test_not_a_system(alanine):
    with pytest.raises(InputError, match=r"openmm\.System or a MolecularSystem"):
        OpenMMPotential(alanine.topology)


def test_unsupported_system_is_refused(alanine):
    system = openmm.XmlSerializer.clone(alanine.system)
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(InputError, match="1 constraint"):
        OpenMMPotential(system)
