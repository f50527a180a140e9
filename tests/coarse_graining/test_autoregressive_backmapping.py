"""The autoregressive backmapping flow: exact, normalised, indifferent to place and orientation."""

import json

import numpy as np
import pytest
import torch
from chain_molecule import chain_data, one_free_atom, whole_probability

from openmm_bg import systems
from openmm_bg.coarse_graining.autoregressive_backmapping import TURNING, AutoregressiveBackmapping
from openmm_bg.coarse_graining.backmapping import BackmappingFlow
from openmm_bg.coarse_graining.invariants import BeadInvariants
from openmm_bg.coarse_graining.maps import selection_map
from openmm_bg.transforms.circular_density import circular_density

METHYLS = (0, 11, 19)  # the first hydrogen of each


def flow_of(system, bead_map, positions, *, scale=0.05, seed=0, **settings):
    """Return a flow whose networks say something."""
    x = torch.tensor(np.asarray(positions, dtype=np.float64))
    coordinates = bead_map.coordinates(system.positions, system.bonds, system.masses).fit_turning(x, TURNING)
    invariants = BeadInvariants(bead_map.n_beads).fit(bead_map.beads(x))
    flow = AutoregressiveBackmapping.from_data(coordinates, invariants, x, system.masses, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return flow


@pytest.fixture(scope="module")
def shaken_dipeptide():
    """Alanine dipeptide, and configurations of it whose torsions are anywhere and all else is shaken."""
    system = systems.load("alanine_dipeptide")
    bead_map = selection_map(22, [4, 6, 8, 14, 16])
    coordinates = bead_map.coordinates(system.positions, system.bonds, system.masses)
    reference = torch.tensor(np.asarray(system.positions, dtype=np.float64))[None]
    raw, beads = coordinates.raw(reference).repeat(400, 1), bead_map.beads(reference).repeat(400, 1, 1)
    generator = torch.Generator().manual_seed(0)
    n = coordinates.matrix.leader.size
    noise = torch.randn(raw.shape, generator=generator, dtype=torch.float64)
    noise[:, :n] *= 2e-5
    noise[:, n:] *= 0.02
    methyl = torch.tensor([atom in METHYLS for atom in coordinates.matrix.atoms.tolist()])
    noise[:, 2 * n :][:, methyl] *= 50.0
    beads = beads + 0.003 * torch.randn(beads.shape, generator=generator, dtype=torch.float64)
    positions = coordinates.place(beads, raw + noise)
    inside = torch.isfinite(coordinates.forward(positions)[1])
    return system, bead_map, positions[inside]


@pytest.fixture(scope="module")
def dipeptide_flow(shaken_dipeptide):
    return flow_of(*shaken_dipeptide, hidden_features=16)


def test_rotors_and_what_they_wait_for(dipeptide_flow):
    """Two methyls of the ends and one of the side chain turn; nothing waits for what comes later."""
    turning = [block for block in dipeptide_flow.blocks if block.turns]
    atoms = dipeptide_flow.coordinates.matrix.atoms
    hydrogens = [{int(atoms[row]) for row in block.rows} for block in turning]
    assert sorted(map(sorted, hydrogens)) == [[0, 2, 3], [11, 12, 13], [19, 20, 21]]
    rows = sorted(row for block in dipeptide_flow.blocks for row in block.rows)
    assert rows == list(range(len(atoms)))


def test_blocks_see_what_is_placed_before_them(dipeptide_flow):
    """Those that wait for none see beads; the last rotor sees all atoms that are not its own."""
    flow, n_beads = dipeptide_flow, dipeptide_flow.n_beads
    seen = flow.config()["settings"]["environments"]
    placed = set(range(n_beads))
    for block, points in zip(flow.blocks, seen, strict=True):
        known = placed if block.waits else set(range(n_beads))
        origin = int(flow.coordinates.placement.references[0, block.rows[0]])
        assert set(points) == known | {origin}  # they are few enough
        assert all(points.count(point) == 1 for point in known - {origin})
        placed |= {n_beads + row for row in block.rows}
    assert len({len(points) for points in seen}) == 1
    # An atom that is not seen yet has no influence, and one that is seen has.
    first, last = flow.blocks[0], flow.blocks[-1]
    assert last.turns
    assert len(placed) - len(last.rows) == len(set(seen[-1]))
    assert not first.waits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_their_density_and_their_beads(shaken_dipeptide, dipeptide_flow, dtype):
    _, bead_map, positions = shaken_dipeptide
    dipeptide_flow.set_dtype(dtype)
    beads = bead_map.beads(positions[:100])
    drawn, log_p = dipeptide_flow.sample(beads, generator=torch.Generator().manual_seed(1))
    inside = torch.isfinite(drawn).all(dim=(1, 2))
    assert inside.sum() > 50
    assert (bead_map.beads(drawn[inside]) - beads[inside]).abs().max() < 1e-6
    found = dipeptide_flow.log_prob(drawn[inside], beads[inside])
    assert (found - log_p[inside]).abs().max() < 1e-8
    # A wrong density would be found: neighbours' draws have another.
    assert (found - log_p[inside].roll(1)).abs().median() > 1.0


def test_log_determinants_are_those_of_the_map(shaken_dipeptide, dipeptide_flow):
    """The Jacobian from latents to features, by automatic differentiation."""
    _, bead_map, positions = shaken_dipeptide
    dipeptide_flow.set_dtype(torch.float64)
    beads = bead_map.beads(positions[:1])
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(
        1, len(dipeptide_flow.coordinates.circular), generator=generator, dtype=torch.float64
    )
    jacobian = torch.autograd.functional.jacobian(
        lambda z: dipeptide_flow.to_features(z[None], beads)[0][0], latents[0]
    )
    with torch.no_grad():
        features, logabsdet = dipeptide_flow.to_features(latents, beads)
        back, inverse = dipeptide_flow.to_latents(features, beads)
    assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(logabsdet), abs=1e-6)
    assert (back - latents).abs().max() < 1e-8
    assert float(inverse) == pytest.approx(-float(logabsdet), abs=1e-8)


def test_place_and_orientation_do_not_matter(shaken_dipeptide, dipeptide_flow):
    _, bead_map, positions = shaken_dipeptide
    dipeptide_flow.set_dtype(torch.float64)
    x = positions[:50]
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    q = q * torch.linalg.det(q)
    turned = x @ q.T + 1.0
    before = dipeptide_flow.log_prob(x, bead_map.beads(x))
    assert (dipeptide_flow.log_prob(turned, bead_map.beads(turned)) - before).abs().max() < 1e-5
    mirrored = x * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.isneginf(dipeptide_flow.log_prob(mirrored, bead_map.beads(mirrored))).all()


@pytest.mark.parametrize("name", ["selection", "centroids", "shared atoms"])
def test_density_is_normalised(name):
    """Four atoms and three beads: the density of the free atom integrates to one over its place."""
    data, bead_map = chain_data(4, 2000), one_free_atom(name)
    flow = flow_of(data.system, bead_map, data.positions, hidden_features=16)
    beads = bead_map.beads(torch.from_numpy(data.positions[:1]))
    assert whole_probability(flow, beads) == pytest.approx(1.0, abs=0.01)


def test_it_is_rebuilt_as_it_was(shaken_dipeptide, dipeptide_flow):
    _, bead_map, positions = shaken_dipeptide
    dipeptide_flow.set_dtype(torch.float32)
    again = BackmappingFlow.from_config(json.loads(json.dumps(dipeptide_flow.config())))
    again.load_state_dict(dipeptide_flow.state_dict())
    again.set_dtype(torch.float32)
    beads = bead_map.beads(positions)
    assert torch.equal(again.log_prob(positions, beads), dipeptide_flow.log_prob(positions, beads))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circular_density_is_as_given_and_its_inverse(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = 4.0 * torch.randn(3, 20, 1, generator=generator, dtype=dtype)
    x = torch.linspace(-np.pi, np.pi, 2001, dtype=dtype).expand(3, -1)
    columns = [circular_density(x[k : k + 1], logits[k : k + 1].expand(-1, -1, 2001)) for k in range(3)]
    for (y, log_derivative), given in zip(columns, logits[:, :, 0], strict=True):
        # At the points themselves the density is what is given; between them linear.
        at = log_derivative[:-1].exp().reshape(20, 100)
        expected = 20 * torch.softmax(given, dim=0)
        torch.testing.assert_close(at[:, 0], expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(at[:, 50], 0.5 * (expected + expected.roll(-1)), rtol=1e-3, atol=1e-3)
        slope = (y[0, 2:] - y[0, :-2]) / (x[0, 2:] - x[0, :-2])
        kinks = torch.arange(1, 2000) % 100 == 0
        tolerance = 1e-6 if dtype == torch.float64 else 2e-2
        assert ((slope - log_derivative[1:-1].exp()).abs()[~kinks]).max() < tolerance
    y, log_derivative = circular_density(x, logits.expand(-1, -1, 2001))
    back, inverse = circular_density(y, logits.expand(-1, -1, 2001), inverse=True)
    likely = torch.stack([column.exp() > 1e-3 for _, column in columns])
    assert ((back - x).abs() * likely).max() < (1e-9 if dtype == torch.float64 else 2e-3)
    if dtype == torch.float64:
        assert (inverse + log_derivative)[likely.all(dim=0)].abs().max() < 1e-6


def test_circular_density_of_zeros_is_the_identity():
    x = torch.linspace(-3.1, 3.1, 50, dtype=torch.float64)[None]
    y, log_derivative = circular_density(x, torch.zeros(1, 36, 50, dtype=torch.float64))
    torch.testing.assert_close(y, x)
    assert log_derivative.abs().max() < 1e-12


def test_draws_outside_the_domain_have_the_density_they_were_drawn_with():
    """The loss lowers it where they come from."""
    data = chain_data(9, 300)
    flow = flow_of(data.system, selection_map(9, [0, 4, 8]), data.positions, hidden_features=8)
    flow.set_dtype(torch.float64)
    beads = flow.coordinates.matrix.anchors
    z = torch.from_numpy(data.positions[:300][:, beads])
    with torch.no_grad():
        features, log_p = flow.draw(z, generator=torch.Generator().manual_seed(0))
        lost = ~torch.isfinite(flow.coordinates.inverse(features, z)[0]).all(dim=(1, 2))
        found = flow.feature_log_prob(features, z)
    assert 10 < int(lost.sum()) < 290
    assert (found - log_p).abs().max() < 1e-6


@pytest.mark.parametrize(
    "damage",
    [
        lambda own: own["blocks"].pop(),
        lambda own: own["blocks"][0][0].append(99),
        lambda own: own["blocks"].append(own["blocks"][0]),
        lambda own: own["environments"].pop(),
        lambda own: own["environments"].__setitem__(0, own["environments"][-1]),
        lambda own: own["environments"][0].__setitem__(0, 99),
    ],
)
def test_damaged_descriptions_are_refused(dipeptide_flow, damage):
    config = json.loads(json.dumps(dipeptide_flow.config()))
    damage(config["settings"])
    with pytest.raises((ValueError, IndexError)):
        BackmappingFlow.from_config(config)
