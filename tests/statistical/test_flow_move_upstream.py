"""The moves' stationary distribution: openmmtools' own test, and theory for a molecule in a lab-frame field.

Every test has a negative control: it must fail when a density is left out of the acceptance ratio.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import (
    GHMCMove,
    LangevinDynamicsMove,
    MCDisplacementMove,
    MCRotationMove,
    SequenceMove,
    WeightedMove,
)
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_bg import mcmc
from openmm_bg.flows import Flow, SplineFlow
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.mcmc import FlowMove, LatentMonteCarloMove, host, proposal_move
from openmm_bg.mcmc.target import Target
from openmm_bg.statistics import chain_mean, z_score
from openmm_bg.transforms import InternalCoordinates
from openmm_bg.units import thermal_energy

TEMPERATURE = 298.0
KT = thermal_energy(TEMPERATURE)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    mcmc.seed(11)
    np.random.seed(12)  # noqa: NPY002 (openmmtools' moves use it)


def leave_out_log_q(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flow's density: log q of `FlowMove`, the log-determinant of `LatentMonteCarloMove`."""
    log_weights = Target.log_weights

    def without(self: Target, reduced: np.ndarray, momenta: Any, log_density: np.ndarray) -> np.ndarray:
        return log_weights(self, reduced, momenta, np.zeros_like(log_density))

    monkeypatch.setattr(Target, "log_weights", without)


def leave_out_momenta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the target's density of momenta."""
    monkeypatch.setattr(
        Flow, "momenta_log_prob", lambda self, momenta, temperature: torch.zeros(len(momenta))
    )


# openmmtools' rotation move builds on numpy's matrices.
uses_matrices = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")


# openmmtools' test, on its harmonic oscillator


Move = FlowMove | LatentMonteCarloMove
MAKE: dict[str, Callable[[Path], Move]] = {
    "flow": lambda model: FlowMove(model, n_proposals=4),
    "latent": lambda model: LatentMonteCarloMove(model, n_proposals=4, step_size=0.9, n_tuning=0),
    "latent walk": lambda model: LatentMonteCarloMove(
        model, n_proposals=4, step_size=0.9, displacement="random_walk", n_tuning=0
    ),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda move: move,
    "sequence": lambda move: SequenceMove(
        [move, LangevinDynamicsMove(timestep=10 * unit.femtosecond, n_steps=20)]
    ),
    "weighted": lambda move: WeightedMove(
        [(move, 0.5), (GHMCMove(timestep=10 * unit.femtosecond, n_steps=20), 0.5)]
    ),
}


def upstream_expectation_test(move: Any) -> None:
    """Run openmmtools' own test: the mean potential energy is right within 6 standard errors."""
    from openmmtools import testsystems
    from openmmtools.tests import test_mcmc

    test_mcmc.debug = False
    cache.global_context_cache.empty()
    test_mcmc.subtest_mcmc_expectation(testsystems.HarmonicOscillator(), move)


@pytest.mark.parametrize(
    ("kind", "flow", "place"),
    [
        ("flow", "gaussian", "alone"),
        ("flow", "gaussian", "sequence"),
        ("flow", "steerable", "weighted"),
        ("latent", "steerable", "sequence"),
        ("latent walk", "spline", "alone"),
    ],
)
def test_upstream_expectations_with_our_move(
    oscillator_models: dict[str, Path], kind: str, flow: str, place: str
) -> None:
    move = MAKE[kind](oscillator_models[flow])
    upstream_expectation_test(PLACES[place](move))
    assert 0.1 < move.acceptance_fraction < 0.9


@pytest.mark.parametrize(
    ("kind", "flow", "leave_out"),
    [
        ("flow", "gaussian", leave_out_log_q),
        ("flow", "steerable", leave_out_momenta),
        ("latent", "steerable", leave_out_momenta),
        ("latent walk", "spline", leave_out_log_q),
    ],
)
def test_upstream_expectations_fail_with_a_wrong_ratio(
    oscillator_models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    flow: str,
    leave_out: Callable[[pytest.MonkeyPatch], None],
) -> None:
    leave_out(monkeypatch)
    with pytest.raises(AssertionError, match="sigma"):
        upstream_expectation_test(MAKE[kind](oscillator_models[flow]))


def test_the_standard_deviation_is_that_of_theory(oscillator_models: dict[str, Path]) -> None:
    """openmmtools' get_potential_standard_deviation says 3/2 kT; the truth is sqrt(3/2) kT."""
    energies = oscillator_energies(oscillator_models["gaussian"])
    assert abs(z_score(chain_mean(energies), (1.5, 0.0))) < 4
    assert abs(z_score(chain_mean((energies - 1.5) ** 2), (1.5, 0.0))) < 4


def test_the_standard_deviation_is_wrong_without_log_q(
    oscillator_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_log_q(monkeypatch)
    energies = oscillator_energies(oscillator_models["gaussian"])
    assert abs(z_score(chain_mean((energies - 1.5) ** 2), (1.5, 0.0))) > 6


def oscillator_energies(model: Path) -> np.ndarray:
    """Potential energies [kT] of a chain of 600 calls."""
    from openmmtools import testsystems

    oscillator = testsystems.HarmonicOscillator()
    state = ThermodynamicState(oscillator.system, TEMPERATURE * unit.kelvin)
    current, move, energies = SamplerState(oscillator.positions), FlowMove(model, n_proposals=8), []
    for _ in range(600):
        move.apply(state, current)
        energies.append(current.potential_energy.value_in_unit(unit.kilojoule_per_mole) / KT)
    return np.array(energies)


# A molecule of three atoms in a field that is fixed in space


class Field(NamedTuple):
    """A harmonic field on every atom: stiffness [kJ/mol/nm^2] along x, y and z, and its centre [nm]."""

    stiffness: tuple[float, float, float]
    center: tuple[float, float, float]

    def energy(self, positions: np.ndarray) -> np.ndarray:
        return 0.5 * ((positions - self.center) ** 2 * self.stiffness).sum(axis=(-2, -1))


LENGTHS, BOND_STIFFNESS = (0.14, 0.12), 20000.0  # nm, kJ/mol/nm^2: widths of 0.011 nm
ANGLE, ANGLE_STIFFNESS = 1.9, 80.0  # rad, kJ/mol/rad^2: a width of 0.18
BONDS = np.array([[0, 1], [1, 2]])
ANISOTROPIC = Field((3000.0, 300.0, 1500.0), (0.0, 0.05, 0.1))
ISOTROPIC = Field((800.0,) * 3, (0.0,) * 3)


def molecule(lengths: Any, angle: Any) -> np.ndarray:
    """Place atom 0 at the origin, atom 1 along z and atom 2 in the xz plane; shape=(..., 3, 3)."""
    r1, r2, theta = np.broadcast_arrays(*lengths, angle)
    zero = np.zeros_like(theta)
    end = np.stack([r2 * np.sin(theta), zero, r1 - r2 * np.cos(theta)], axis=-1)
    return np.stack([np.stack([zero] * 3, -1), np.stack([zero, zero, r1], -1), end], axis=-2)


def internal_energy(r1: Any, r2: Any, theta: Any) -> Any:
    """The bonds' and the angle's energy [kJ/mol]."""
    bonds = (r1 - LENGTHS[0]) ** 2 + (r2 - LENGTHS[1]) ** 2
    return 0.5 * BOND_STIFFNESS * bonds + 0.5 * ANGLE_STIFFNESS * (theta - ANGLE) ** 2


def quadrature(
    total_energy: Callable[[Any, Any, Any], np.ndarray], observable: Callable[[Any, Any, Any], np.ndarray]
) -> float:
    """Integrate an observable over bonds and angle, with the volume element r1^2 r2^2 sin(theta)."""
    r1, r2, theta = np.meshgrid(
        np.linspace(0.07, 0.21, 81), np.linspace(0.05, 0.19, 81), np.linspace(0.7, 3.1, 97), indexing="ij"
    )
    log_weights = -total_energy(r1, r2, theta) / KT + np.log(r1**2 * r2**2 * np.sin(theta))
    weights = np.exp(log_weights - log_weights.max())
    return float((weights * observable(r1, r2, theta)).sum() / weights.sum())


def triatomic(field: Field | None) -> openmm.System:
    system = openmm.System()
    for _ in range(3):
        system.addParticle(12.0)
    bonds, angle = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for (i, j), length in zip(BONDS, LENGTHS, strict=True):
        bonds.addBond(int(i), int(j), length, BOND_STIFFNESS)
    angle.addAngle(0, 1, 2, ANGLE, ANGLE_STIFFNESS)
    system.addForce(bonds)
    system.addForce(angle)
    if field is not None:
        terms = zip("xyz", field.stiffness, field.center, strict=True)
        force = openmm.CustomExternalForce("+".join(f"{k / 2}*({x}-{c})^2" for x, k, c in terms))
        for atom in range(3):
            force.addParticle(atom, [])
        system.addForce(force)
    return system


@pytest.fixture(scope="module")
def triatomic_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing of a field and is too wide by a third."""
    rng = np.random.default_rng(3)
    widths = 1.33 * np.sqrt(KT / np.array([BOND_STIFFNESS, BOND_STIFFNESS, ANGLE_STIFFNESS]))
    r1, r2, theta = (rng.normal(size=(500, 3)) * widths + [*LENGTHS, ANGLE]).T
    coordinates = InternalCoordinates.from_reference(molecule(LENGTHS, ANGLE), BONDS)
    assert coordinates.z_matrix.atoms.tolist() == [0, 1, 2]
    flow = SplineFlow(
        coordinates.fit(molecule((r1, r2), theta)), TEMPERATURE, n_layers=2, hidden_features=8, seed=0
    )
    path = tmp_path_factory.mktemp("triatomic") / "model"
    BoltzmannGenerator(flow).save(path)
    return path


@pytest.fixture
def reference_cache() -> cache.ContextCache:
    return cache.ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))


def chain_in_a_frame(
    move: Move, context_cache: cache.ContextCache, n: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Total and field energies [kJ/mol] of a chain that starts, and thereby stays, in the standard frame."""
    state = ThermodynamicState(triatomic(ANISOTROPIC), TEMPERATURE * unit.kelvin)
    current = SamplerState(molecule(LENGTHS, ANGLE) * unit.nanometer)
    total, field = [], []
    for _ in range(n):
        move.apply(state, current, context_cache=context_cache)
        total.append(current.potential_energy.value_in_unit(unit.kilojoule_per_mole))
        field.append(ANISOTROPIC.energy(current.positions.value_in_unit(unit.nanometer)))
    assert 0.02 < move.acceptance_fraction < 0.9
    return np.array(total), np.array(field)


def expected_in_a_frame() -> tuple[float, float]:
    def field(r1: Any, r2: Any, theta: Any) -> np.ndarray:
        return ANISOTROPIC.energy(molecule((r1, r2), theta))

    def total(r1: Any, r2: Any, theta: Any) -> np.ndarray:
        return internal_energy(r1, r2, theta) + field(r1, r2, theta)

    return quadrature(total, total), quadrature(total, field)


def errors(chains: tuple[np.ndarray, ...], expected: tuple[float, ...]) -> list[float]:
    """How many standard errors the chains' means are from what is expected."""
    exact = [(value, 0.0) for value in expected]
    return [abs(z_score(chain_mean(chain), value)) for chain, value in zip(chains, exact, strict=True)]


@pytest.mark.parametrize("kind", ["flow", "latent"])
def test_a_lab_frame_field_is_sampled_exactly(
    triatomic_model: Path, reference_cache: cache.ContextCache, kind: str
) -> None:
    chains = chain_in_a_frame(MAKE[kind](triatomic_model), reference_cache)
    assert max(errors(chains, expected_in_a_frame())) < 4


def test_a_lab_frame_field_is_not_sampled_without_log_q(
    triatomic_model: Path, reference_cache: cache.ContextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_log_q(monkeypatch)
    chains = chain_in_a_frame(MAKE["flow"](triatomic_model), reference_cache)
    assert max(errors(chains, expected_in_a_frame())) > 6


@pytest.mark.parametrize("kind", ["flow", "latent"])
def test_a_lab_frame_field_is_not_sampled_with_the_energies_of_the_free_molecule(
    triatomic_model: Path, reference_cache: cache.ContextCache, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    free = ThermodynamicState(triatomic(None), TEMPERATURE * unit.kelvin)
    monkeypatch.setattr(
        proposal_move,
        "reduced_energies",
        lambda state, positions, context_cache: host.reduced_energies(free, positions, context_cache),
    )
    chains = chain_in_a_frame(MAKE[kind](triatomic_model), reference_cache, 200)
    assert max(errors(chains, expected_in_a_frame())) > 6


def shape_energy(r1: Any, r2: Any, theta: Any) -> np.ndarray:
    """The energy [kJ/mol] with the centroid in the centre of the isotropic field."""
    positions = molecule((r1, r2), theta)
    centred = positions - positions.mean(axis=-2, keepdims=True)
    return internal_energy(r1, r2, theta) + ISOTROPIC.energy(centred)


def whole_chain(model: Path, context_cache: cache.ContextCache) -> tuple[np.ndarray, np.ndarray]:
    """Energies [kJ/mol], whole and of the shape, of a chain with openmmtools' own rigid-body moves."""
    state = ThermodynamicState(triatomic(ISOTROPIC), TEMPERATURE * unit.kelvin)
    current = SamplerState(molecule(LENGTHS, ANGLE) * unit.nanometer)
    width = np.sqrt(KT / (3 * ISOTROPIC.stiffness[0]))
    moves = SequenceMove(
        [
            MCRotationMove(atom_subset=[0, 1, 2]),
            MCDisplacementMove(displacement_sigma=width * unit.nanometer, atom_subset=[0, 1, 2]),
            MCDisplacementMove(displacement_sigma=width * unit.nanometer, atom_subset=[0, 1, 2]),
            FlowMove(model, n_proposals=6),
        ]
    )
    whole, shape = [], []
    for _ in range(450):
        moves.apply(state, current, context_cache=context_cache)
        whole.append(current.potential_energy.value_in_unit(unit.kilojoule_per_mole))
        along = np.diff(current.positions.value_in_unit(unit.nanometer), axis=0)
        bonds = np.linalg.norm(along, axis=1)
        shape.append(shape_energy(*bonds, np.arccos(-np.dot(*along) / bonds.prod())))
    return np.array(whole), np.array(shape)


def expected_whole() -> tuple[float, float]:
    """The centroid is a harmonic oscillator with 3/2 kT, independent of the shape."""
    shape = quadrature(shape_energy, shape_energy)
    return 1.5 * KT + shape, shape


@uses_matrices
def test_a_chain_with_rigid_body_moves_is_exact(
    triatomic_model: Path, reference_cache: cache.ContextCache
) -> None:
    assert max(errors(whole_chain(triatomic_model, reference_cache), expected_whole())) < 4


@uses_matrices
def test_a_chain_with_rigid_body_moves_is_wrong_without_log_q(
    triatomic_model: Path, reference_cache: cache.ContextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_log_q(monkeypatch)
    assert max(errors(whole_chain(triatomic_model, reference_cache), expected_whole())) > 6
