"""What a group of atoms sees around it: nearby points, from a frame of its own, and what is in its way."""

from __future__ import annotations

import torch
from torch import nn

from openmm_bg.transforms.placement import unit

_RANGE = 0.5  # nm, within which places are told apart well
_RARELY = 0.01  # the fraction of the data in which a point must come near to count as near
_CHUNK = 1024


class LocalView(nn.Module):
    """Numbers that say where the points are that groups of atoms see, standardised by data.

    Each group has a frame that stands on three points, so that the numbers do not change when all points are moved
    or turned.

    Args:
        frames: Three points that each group's frame stands on, with shape=(n_groups, 3): the origin, the one before
            it on the frame's axis, and one that sets the plane.
        points: What each group sees, with shape=(n_groups, n_seen).
        n_features: How many numbers there are for each group.
        smallest: The smallest deviation that numbers are divided by.
    """

    def __init__(self, frames: torch.Tensor, points: torch.Tensor, n_features: int, smallest: float) -> None:
        super().__init__()
        self.n_features, self._smallest = n_features, smallest
        self.register_buffer("_frames", frames, persistent=False)
        self.register_buffer("_points", points, persistent=False)
        shape = len(points), 1, n_features
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(shape, dtype=torch.float64))

    def numbers(self, local: torch.Tensor, groups: slice) -> torch.Tensor:
        """Return numbers of points with shape=(batch, n_groups, n_seen, 3) in the groups' frames.

        Args:
            local: Places [nm]; the axis is the first coordinate.
            groups: Which groups.

        Returns:
            With shape=(batch, n_groups, n_features).
        """
        raise NotImplementedError

    def local(self, points: torch.Tensor, groups: slice, seen: torch.Tensor) -> torch.Tensor:
        """Return places [nm] in the frames of groups with shape=(batch, n_groups, n_seen, 3).

        Args:
            points: Points [nm] with shape=(batch, n_points, 3); they may be the first of all.
            groups: Which groups.
            seen: Which points, with shape=(n_groups, n_seen).
        """
        origin, axis, plane = (points[:, column] for column in self._frames[groups].T)
        e1 = unit(origin - axis)
        e3 = unit(torch.linalg.cross(axis - plane, e1, dim=-1))
        frame = torch.stack([e1, torch.linalg.cross(e3, e1, dim=-1), e3], dim=-1)
        return (points[:, seen] - origin[:, :, None]) @ frame

    def forward(self, points: torch.Tensor, groups: slice = slice(None)) -> torch.Tensor:
        """Return what groups see with shape=(n_groups, batch, n_features).

        Args:
            points: Points [nm] with shape=(batch, n_points, 3); they may be the first of all.
            groups: Which groups.
        """
        return self.standardised(self.raw(points, groups), groups)

    def standardised(self, seen: torch.Tensor, groups: slice = slice(None)) -> torch.Tensor:
        """Return what `raw` gives, standardised by data."""
        return (seen - self.mean[groups].to(seen)) / self.deviation[groups].to(seen)

    def fit(self, points: torch.Tensor) -> None:
        """Learn means and deviations from data with shape=(batch, n_points, 3)."""
        total = squares = torch.zeros_like(self.mean)
        for chunk in points.split(_CHUNK):
            seen = self.raw(chunk)
            total = total + seen.sum(1, keepdim=True)
            squares = squares + seen.square().sum(1, keepdim=True)
        self.mean = total / len(points)
        variance = squares / len(points) - self.mean.square()
        self.deviation = variance.clamp_min(self._smallest**2).sqrt()

    def raw(self, points: torch.Tensor, groups: slice = slice(None)) -> torch.Tensor:
        """Return the same before it is standardised."""
        return self.numbers(self.local(points, groups, self._points[groups]), groups).transpose(0, 1)


class LocalEnvironments(LocalView):
    """Places of nearby points.

    Of a point at the vector d from its origin a group sees a d / (a^2 + d^2) and a^2 / (a^2 + d^2), with
    a = 0.5 nm: where it is if it is near, and hardly anything if it is far away.

    Args:
        frames: As of `LocalView`.
        points: As of `LocalView`.
    """

    def __init__(self, frames: torch.Tensor, points: torch.Tensor) -> None:
        super().__init__(frames, points, 4 * points.shape[1], 1e-4)

    def numbers(self, local: torch.Tensor, groups: slice) -> torch.Tensor:
        """Return numbers with shape=(batch, n_groups, n_features)."""
        near = 1.0 / (local.square().sum(-1, keepdim=True) + _RANGE**2)
        return torch.cat([_RANGE * near * local, _RANGE**2 * near], dim=-1).flatten(2)


class AxialProfiles(LocalView):
    """How crowded it is around the axis of a rotor, on the circles that its atoms move along.

    Near each circle, at x along the axis and with the radius r, points are counted by how far from it they are and
    by multiples of their angle around the axis: sum exp(-|(x', r') - (x, r)|^2 / 2 s^2) exp(i m phi'). So where a
    rotor bumps into something follows from these numbers linearly.

    Args:
        frames: As of `LocalView`; rotors turn about the axis of their frame.
        points: As of `LocalView`.
    """

    n_circles = 8
    _WIDTH = 0.12  # nm
    _SOFT = 0.05  # nm, within which of the axis angles have no meaning
    _MULTIPLES = 6

    def __init__(self, frames: torch.Tensor, points: torch.Tensor) -> None:
        super().__init__(frames, points, self.n_circles * (1 + 2 * self._MULTIPLES), 0.05)
        shape = len(points), self.n_circles, 2
        self.register_buffer("circles", torch.zeros(shape, dtype=torch.float64))

    def fit_circles(self, points: torch.Tensor, own: list[list[int]], first: list[int]) -> torch.Tensor:
        """Learn the circles along which points of rotors move.

        Args:
            points: The data [nm] with shape=(batch, n_points, 3).
            own: The points that move with each rotor.
            first: The point of each whose angle is the rotor's torsion.

        Returns:
            The means of exp(i d) with shape=(n_groups, n_circles), where d is the difference between the angle of
            a circle's point and the torsion: their absolute value says how far it turns with the rotor. Zero for
            circles that are there a second time, as there are fewer points.
        """
        circles, phases = [], []
        for k, (mine, one) in enumerate(zip(own, first, strict=True)):
            local = self.local(points, slice(k, k + 1), torch.tensor([mine]))[:, 0]
            places = torch.stack([local[..., 0], local[..., 1:].norm(dim=-1)], dim=-1).mean(0)
            angle = torch.atan2(local[..., 2], local[..., 1])
            chosen = _spread_out(places, self.n_circles)
            circles.append(places[chosen])
            turned = angle - angle[:, mine.index(one), None]
            found = torch.polar(torch.ones_like(turned), turned).mean(0)[chosen]
            repeated = [circle in chosen[:k].tolist() for k, circle in enumerate(chosen.tolist())]
            phases.append(torch.where(torch.tensor(repeated), 0.0, found))
        self.circles = torch.stack(circles)
        return torch.stack(phases)

    def crowding(self, phases: torch.Tensor, torsions: torch.Tensor) -> torch.Tensor:
        """Return how to compute from the numbers how crowded it would be for a rotor's points at some torsions.

        Args:
            phases: As of `fit_circles`.
            torsions: Torsions [rad] with shape=(n_groups, n_torsions).

        Returns:
            For each number what it adds to its circle's point, with shape=(n_groups, n_features, n_torsions), not
            standardised. A point in the place of the circle's counts as one, at the distance d as
            exp(-d^2 / 2 s^2).
        """
        multiples = torch.arange(self._MULTIPLES + 1, dtype=torch.float64)
        width = (self._WIDTH / self.circles[..., 1:].clamp_min(self._WIDTH)).clamp_min(0.25)
        kernel = (-0.5 * (multiples * width) ** 2).exp() * torch.where(multiples > 0, 2.0, 1.0)
        kernel = kernel / kernel.sum(-1, keepdim=True) * phases.abs()[..., None] ** (multiples**2)
        angles = torsions[:, None] + phases.angle()[:, :, None]
        waves = [torch.ones_like(angles)]
        for m in range(1, self._MULTIPLES + 1):
            waves += [(m * angles).cos(), (m * angles).sin()]
        of_wave = torch.tensor([0, *(m for m in range(1, self._MULTIPLES + 1) for _ in range(2))])
        return (torch.stack(waves, dim=2) * kernel[:, :, of_wave, None]).flatten(1, 2)

    def numbers(self, local: torch.Tensor, groups: slice) -> torch.Tensor:
        """Return numbers with shape=(batch, n_groups, n_features)."""
        radius = (local[..., 1:].square().sum(-1, keepdim=True) + self._SOFT**2).sqrt()
        along, across = self.circles[groups].to(local)[:, None].unbind(-1)
        away = (local[..., :1] - along).square() + (radius - across).square()
        near = (away * (-0.5 / self._WIDTH**2)).exp()  # batch, groups, seen, circles
        cosine, sine = (local[..., 1:] / radius).unbind(-1)
        waves, (real, imaginary) = [torch.ones_like(cosine)], (cosine, sine)
        for _ in range(self._MULTIPLES):
            waves += [real, imaginary]
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        return (near.transpose(2, 3) @ torch.stack(waves, dim=-1)).flatten(2)


def nearest(points: torch.Tensor, own: list[int], others: list[int], n: int) -> list[int]:
    """Return the points that come nearest to a group's own, be it rarely.

    Args:
        points: Data [nm] with shape=(batch, n_points, 3).
        own: The group's points.
        others: Those to choose from.
        n: How many.
    """
    distances = torch.cdist(points[:, own], points[:, others]).amin(1)
    found = torch.quantile(distances, _RARELY, dim=0).argsort(stable=True)[:n]
    return [others[k] for k in found.tolist()]


def _spread_out(places: torch.Tensor, n: int) -> torch.Tensor:
    """Return which of some places are far from each other, with shape=(n,); if there are too few, some twice."""
    chosen = [0]
    while len(chosen) < n:
        distances = torch.cdist(places, places[chosen]).amin(1)
        chosen.append(int(distances.argmax()))
    return torch.tensor(chosen)
