"""The learned map: its networks' symmetries, its losses by hand, and what it finds for alanine dipeptide."""

import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch

from openmm_bg import TorchPotential, systems
from openmm_bg.coarse_graining import assignment_losses as losses
from openmm_bg.coarse_graining.assignment import AssignmentNetwork, Decoder
from openmm_bg.coarse_graining.learned_map import MapSettings, learn_map
from openmm_bg.coarse_graining.maps import centroid_map
from openmm_bg.errors import InputError
from openmm_bg.simulation import LangevinDynamics

QUICK = {"n_steps": 200, "batch_size": 8, "width": 16}
BONDS = np.array([[0, 1], [1, 2], [2, 3]])


@pytest.fixture(scope="module")
def molecule():
    return systems.load("alanine_dipeptide")


@pytest.fixture(scope="module")
def thermal(molecule):
    """160 configurations [nm] at 300 K and the forces [kJ/mol/nm] on them."""
    potential, generator = TorchPotential.from_system(molecule), torch.Generator().manual_seed(0)
    start = np.repeat(np.asarray(molecule.positions)[None], 16, axis=0)
    dynamics = LangevinDynamics(
        potential, start, molecule.masses, 300.0, friction=5.0, generator=generator, dtype=torch.float64
    )
    dynamics.step(300)
    frames = []
    for _ in range(10):
        dynamics.step(20)
        frames.append(dynamics.positions.clone())
    positions = torch.cat(frames)
    return positions, potential.energy_and_forces(positions)[1]


@pytest.fixture(scope="module", params=[5, 6])
def learned(request, molecule, thermal):
    settings = MapSettings(n_beads=request.param, **QUICK)
    return learn_map(*thermal, molecule.bonds, molecule.masses, settings)


def network(molecule, n_beads=5, order=None, seed=1):
    """Return a network for the molecule, or for that with its atoms in another order."""
    kinds = np.unique(np.asarray(molecule.masses).round(1), return_inverse=True)[1]
    bonds = np.asarray(molecule.bonds)
    if order is not None:
        kinds, bonds = kinds[order], np.argsort(order)[bonds]
    return AssignmentNetwork(kinds, n_beads, bonds=bonds, width=16, seed=seed).requires_grad_(False)


def rotation(seed, sign):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return torch.as_tensor(q * sign * np.sign(np.linalg.det(q)))


@pytest.mark.parametrize("sign", [1.0, -1.0])  # proper rotations, and reflections
@pytest.mark.parametrize("seed", [0, 1])
def test_scalars_are_invariant_and_vectors_turn(molecule, thermal, seed, sign):
    x, turn = thermal[0][::20], rotation(seed, sign)
    assert torch.linalg.det(turn) == pytest.approx(sign)
    moved = x @ turn.T + torch.tensor([30.0, -20.0, 10.0], dtype=torch.float64)
    whole = network(molecule)
    for part in (whole.network, Decoder(22, 7, width=16).network):
        scalars, vectors = part(x)
        moved_scalars, moved_vectors = part(moved)
        assert vectors.abs().max() > 0.05
        torch.testing.assert_close(moved_scalars, scalars, rtol=0.0, atol=1e-5)
        torch.testing.assert_close(moved_vectors, turn @ vectors, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(whole(moved, 0.3), whole(x, 0.3), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_decoded_atoms_turn_with_the_beads(learned, thermal, sign):
    beads, turn = learned.map.beads(thermal[0][:8]), rotation(3, sign)
    shift = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    decoded = learned.decoder(beads)
    assert decoded.dtype == torch.float64
    assert decoded.shape == (8, 10, 3)
    torch.testing.assert_close(
        learned.decoder(beads @ turn.T + shift), decoded @ turn.T + shift, rtol=0.0, atol=1e-5
    )


def test_the_order_of_the_atoms_does_not_matter(molecule, thermal, rng):
    x, order = thermal[0][:4], rng.permutation(22)
    torch.testing.assert_close(
        network(molecule, order=order)(x[:, order]), network(molecule)(x)[order], rtol=0.0, atol=1e-5
    )


def test_equal_atoms_are_exchanged_with_their_places(molecule, thermal):
    x, order = thermal[0][:4], np.arange(22)
    order[[11, 12]] = [12, 11]  # two hydrogens of a methyl group
    here, there = network(molecule).logits(x), network(molecule).logits(x[:, order])
    assert (here[11] - here[12]).abs().max() > 1e-4
    torch.testing.assert_close(there, here[order], rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_rows_sum_to_one(molecule, thermal, temperature):
    found = network(molecule)(thermal[0][:4], temperature)
    assert found.dtype == torch.float64
    assert found.shape == (22, 5)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(22, dtype=torch.float64), rtol=0.0, atol=1e-12)


def connected(group, bonds):
    reached, left = set(group[:1]), set(group)
    for _ in group:
        reached |= {b for pair in bonds for a, b in (pair, pair[::-1]) if a in reached and b in left}
    return reached == left


def test_beads_of_alanine_dipeptide(learned, molecule, thermal):
    n_beads, masses = learned.map.n_beads, np.asarray(molecule.masses)
    np.testing.assert_allclose(learned.assignment.sum(1), 1.0, rtol=0, atol=1e-12)
    assert learned.assignment.shape == (22, n_beads)
    assert learned.assignment.max(1).mean() > 0.95
    groups = learned.groups()
    assert sorted(itertools.chain(*groups)) == list(range(22))
    assert learned.record["pieces"] == [1] * n_beads
    for group in groups:
        assert group
        assert connected(group, np.asarray(molecule.bonds).tolist())
        assert masses[group].max() > 10.0
    # The map is that of the assignment, and almost that of the centres of mass of its groups.
    hard = centroid_map(22, groups, masses)
    torch.testing.assert_close(learned.map.beads(thermal[0]), hard.beads(thermal[0]), rtol=0.0, atol=0.03)


def test_losses_fall(learned):
    first, last = learned.history[0], learned.history[-1]
    assert last["step"] == QUICK["n_steps"]
    for name in ("loss", "reconstruction", "link", "entropy", "assignment"):
        assert last[name] < 0.75 * first[name]
    assert math.isnan(first["force"])  # not before the assignment is decided
    assert last["force"] > 0
    assert last["reconstruction"] < 3.5  # ten atoms
    record = json.loads(json.dumps(learned.record, allow_nan=False))
    assert record["settings"]["n_beads"] == learned.map.n_beads
    np.testing.assert_array_equal(record["assignment"], learned.assignment)


def test_same_seed_same_map(molecule, thermal):
    settings = MapSettings(n_beads=4, **QUICK | {"n_steps": 4})

    def learn(seed=0):
        torch.manual_seed(seed + 7)  # must not matter
        found = learn_map(*thermal, molecule.bonds, molecule.masses, dataclasses.replace(settings, seed=seed))
        return found.assignment

    np.testing.assert_array_equal(learn(), learn())
    assert np.abs(learn() - learn(1)).max() > 1e-3


def test_going_on_with_a_potential(learned, molecule, thermal):
    """The forces count at once, from those of the potential; wrong ones are refused."""
    settings = MapSettings(**learned.record["settings"] | {"n_steps": 2, "learning_rate": 1e-4})
    asked = []

    def bead_forces(beads):
        asked.append(beads.shape)
        return torch.full_like(beads, 4184.0)  # 100 kcal/mol/A

    arguments = (*thermal, molecule.bonds, molecule.masses, settings)
    plain = learn_map(*arguments, start=learned)
    pushed = learn_map(*arguments, start=learned, bead_forces=bead_forces)
    assert asked == [(8, settings.n_beads, 3)] * 2
    extra = 3e4 * settings.n_beads
    assert pushed.history[0]["force"] - plain.history[0]["force"] == pytest.approx(extra, rel=0.5)
    assert np.abs(plain.assignment - learned.assignment).max() < 0.2
    assert pushed.record["alternating"]
    assert not plain.record["alternating"]
    with pytest.raises(InputError, match="bead_forces must return the shape"):
        learn_map(*arguments, start=learned, bead_forces=lambda beads: beads[:, 1:])
    with pytest.raises(InputError, match="of other networks"):
        learn_map(*arguments[:-1], dataclasses.replace(settings, width=8), start=learned)


def test_reconstruction_loss_by_hand():
    seeds = torch.zeros(2, 2, 3, dtype=torch.float64)
    decoded = seeds.clone()
    decoded[0, 0, 0], decoded[1, 1, 2] = 2.0, 6.0  # off their centres: 1 and 1, 3 and 3
    assert losses.reconstruction_loss(decoded, seeds) == pytest.approx((2.0 + 6.0) / 2)
    assert losses.reconstruction_loss(decoded + 5.0, decoded) == pytest.approx(0.0, abs=1e-12)


def test_link_loss_by_hand():
    counts = losses.bond_counts(4, BONDS)
    np.testing.assert_array_equal(counts, np.abs(np.arange(4)[:, None] - np.arange(4)))
    tensors = torch.as_tensor(BONDS), torch.as_tensor(counts)
    halves = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert losses.link_loss(halves, *tensors) == pytest.approx(4 * 1 / 4 + 1)  # one bond is cut
    ends = halves[[0, 2, 2, 0]]
    assert losses.link_loss(ends, *tensors) == pytest.approx((2 * 3 + 2 * 1) / 4 + 2)
    undecided = torch.full((4, 2), 0.5, dtype=torch.float64)
    assert losses.link_loss(undecided, *tensors) == pytest.approx(0.5 * 20 / 4 + 3 * 0.5)
    apart = losses.bond_counts(3, BONDS[:1])
    np.testing.assert_array_equal(apart, [[0, 1, 3], [1, 0, 3], [3, 3, 0]])


def test_entropy_and_assignment_loss_by_hand():
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    assert losses.entropy_loss(rows) == pytest.approx(0.5 * math.log(2.0))
    assert losses.assignment_loss(rows) == pytest.approx(0.0 + 0.75 + 1.0)
    assert losses.assignment_loss(torch.eye(3)) == 0.0


def test_force_loss_by_hand():
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    forces = torch.zeros(1, 3, 3, dtype=torch.float64)
    forces[0, :, 0] = torch.tensor([1.0, 2.0, 4.0])
    expected = torch.tensor([[[3.0, 0.0, 0.0], [4.0, 0.0, 0.0]]], dtype=torch.float64)  # a mean's is the sum
    torch.testing.assert_close(losses.projected_forces(weights, forces), expected)
    assert losses.force_loss(weights, forces) == pytest.approx(25.0)
    assert losses.force_loss(weights, forces, expected - 1.0) == pytest.approx(6.0)
    overlapping = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
    projection = np.linalg.inv([[0.5, 0.25], [0.25, 0.5]]) @ overlapping.numpy()
    found = losses.projected_forces(overlapping, forces).numpy()
    np.testing.assert_allclose(found[0], projection @ forces[0].numpy(), atol=1e-12)


def bad(positions=None, forces=None, bonds=BONDS, masses=(12.0, 12.0, 12.0, 16.0), **settings):
    x = np.zeros((2, 4, 3)) if positions is None else positions
    f = np.zeros((2, 4, 3)) if forces is None else forces
    return learn_map(x, f, bonds, masses, MapSettings(**{"n_beads": 3} | settings))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_beads": 5}, "There are more beads (5) than heavy atoms (4)"),
        ({"n_beads": 4, "masses": (1.0, 12.0, 12.0, 16.0)}, "more beads (4) than heavy atoms (3)"),
        ({"seed_atoms": (0, 1)}, "more beads (3) than seed atoms (2)"),
        ({"n_beads": 2}, "A map needs at least three beads, and this has 2."),
        ({"positions": np.full((2, 4, 3), np.nan)}, "Positions contain NaN"),
        ({"forces": np.full((2, 4, 3), np.inf)}, "Forces contain NaN or infinite"),
        ({"positions": np.zeros((4, 3))}, "must have the shape (n_frames, n_atoms, 3), not (4, 3)"),
        ({"forces": np.zeros((2, 3, 3))}, "the shape of the positions, (2, 4, 3), not (2, 3, 3)"),
        ({"masses": (12.0, 12.0)}, "Masses must be 4 positive numbers"),
        ({"bonds": [[0, 4]]}, "A bond names an atom that is not there; the atoms are 0 to 3."),
        ({"seed_atoms": (0, 1, 1)}, "seed_atoms must be different atoms from 0 to 3."),
        ({"seed_atoms": (0, 1, 9)}, "seed_atoms must be different atoms from 0 to 3."),
        ({"n_steps": 0}, "n_steps must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"force_weight": -1.0}, "force_weight must be finite and not negative"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        bad(**arguments)
