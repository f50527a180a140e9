"""What groups of atoms see around them: the same wherever the molecule is, and where rotors bump into others."""

import math

import pytest
import torch

from openmm_bg.coarse_graining.local_environment import AxialProfiles, LocalEnvironments, nearest

N_DATA = 50
WIDTH = 0.12  # nm


def in_frame(x, radius, angle):
    """Return places around the axis z of the frame that points 0, 1 and 2 of `points` give."""
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), x], dim=-1)


@pytest.fixture(scope="module")
def points():
    """Points 0, 1, 2 of a frame; 3 and 4 turn around the axis, 4 being 2 rad ahead; 5 to 10 are anywhere."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    frame = torch.tensor([[0, 0, 0], [0, 0, -0.15], [0.14, 0, -0.2]], dtype=torch.float64).expand(
        N_DATA, -1, -1
    )
    torsion = uniform(-math.pi, math.pi, N_DATA)
    first = in_frame(torch.full_like(torsion, 0.05), torch.full_like(torsion, 0.3), torsion)
    second = in_frame(torch.full_like(torsion, 0.1), torch.full_like(torsion, 0.25), torsion + 2.0)
    others = in_frame(uniform(0.0, 0.2, N_DATA, 6), uniform(0.2, 0.4, N_DATA, 6), uniform(-3, 3, N_DATA, 6))
    found = torch.cat([frame, first[:, None], second[:, None], others], dim=1)
    return found, torsion


FRAMES = torch.tensor([[0, 1, 2]])
SEEN = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.mark.parametrize("view", [LocalEnvironments, AxialProfiles])
def test_place_and_orientation_do_not_matter(points, view):
    x, _ = points
    module = view(FRAMES, SEEN)
    if view is AxialProfiles:
        module.fit_circles(x, [[3, 4]], [3])
    module.fit(x)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    q = q * torch.linalg.det(q)
    before = module(x)
    assert (module(x @ q.T + 3.0) - before).abs().max() < 1e-8
    assert (
        module(x * torch.tensor([-1.0, 1.0, 1.0])) - before
    ).abs().max() > 0.1  # a mirror image is another
    assert (before.mean(1).abs() < 1e-8).all()
    assert (before.std(1, correction=0) < 1.0 + 1e-6).all()


def test_a_rotor_knows_where_it_bumps_into_others(points):
    """From the numbers, linearly, as from the places themselves."""
    x, _ = points
    profiles = AxialProfiles(FRAMES, SEEN)
    phases = profiles.fit_circles(x, [[3, 4]], [3])
    profiles.fit(x)
    torch.testing.assert_close(phases.abs()[0], torch.tensor([1.0, 1.0, *[0.0] * 6], dtype=torch.float64))
    torsions = torch.linspace(-math.pi, math.pi, 37, dtype=torch.float64)[:-1]
    found = profiles.raw(x)[0] @ profiles.crowding(phases, torsions[None])[0]

    def expected(ahead):
        """Return sums over what is seen at each torsion, if the second point were so far ahead."""
        total = 0.0
        for along, radius, angle in ((0.05, 0.3, torsions), (0.1, 0.25, torsions + ahead)):
            own = in_frame(torch.full_like(angle, along), torch.full_like(angle, radius), angle)
            away = (x[:, None, 5:] - own[None, :, None]).square().sum(-1)
            total = total + (-0.5 * away / WIDTH**2).exp().sum(-1)
        return total - total.mean(1, keepdim=True)

    found, scale = found - found.mean(1, keepdim=True), expected(2.0).std()
    assert (found - expected(2.0)).square().mean().sqrt() < 0.15 * scale
    assert (found - expected(-2.0)).square().mean().sqrt() > 0.5 * scale


def test_what_does_not_turn_with_the_rotor_counts_less(points):
    """A point whose angle has nothing to do with the torsion has no phase."""
    x, torsion = points
    loose = x.clone()
    angle = torsion[torch.randperm(N_DATA, generator=torch.Generator().manual_seed(2))]
    loose[:, 4] = in_frame(torch.full_like(angle, 0.1), torch.full_like(angle, 0.25), angle)
    profiles = AxialProfiles(FRAMES, SEEN)
    phases = profiles.fit_circles(loose, [[3, 4]], [3])[0].abs()
    assert float(phases[0]) > 0.999
    assert float(phases[1]) < 4.0 / math.sqrt(N_DATA)


def test_the_nearest_are_those_that_come_near_if_rarely():
    x = torch.zeros(200, 4, 3)
    x[:, 1, 0], x[:, 2, 0], x[:, 3, 0] = 0.5, 1.0, 2.0
    x[:10, 3, 0] = 0.1  # far away but in one of twenty
    assert nearest(x, [0], [1, 2, 3], 2) == [3, 1]
