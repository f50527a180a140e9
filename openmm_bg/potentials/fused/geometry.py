"""Distances, angles and dihedrals in machine code, and their derivatives by the coordinates."""

from __future__ import annotations

from openmm_bg.machine_code.elementary import FunctionBuilder
from openmm_bg.machine_code.vectors import Vector

Point = tuple[Vector, Vector, Vector]
Gradients = dict[int, Point]  # by the place of an atom in its group

_SMALLEST_SINE2 = 1e-30  # as in the tensor form: the force of a straight angle is zero, not undefined


def minus(a: Point, b: Point) -> Point:
    """Return a - b."""
    return tuple(u - v for u, v in zip(a, b, strict=True))


def plus(a: Point, b: Point) -> Point:
    """Return a + b."""
    return tuple(u + v for u, v in zip(a, b, strict=True))


def times(a: Point, factor: Vector) -> Point:
    """Return a point times a number."""
    return tuple(u * factor for u in a)


def dot(a: Point, b: Point) -> Vector:
    """Return the scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Point, b: Point) -> Point:
    """Return the vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def over_distance(builder: FunctionBuilder, slope: Vector, distance: Vector) -> Vector:
    """Return slope / distance, zero where the distance is: there the force has no direction."""
    apart = builder.compare(distance, "!=", 0.0)  # true for NaN
    return builder.where(apart, slope * (1.0 / distance), 0.0)


class Distance:
    """The distance of two atoms."""

    def __init__(self, builder: FunctionBuilder, places: list[int], points: list[Point]) -> None:
        self.places = places
        self.difference = minus(points[0], points[1])
        self.builder = builder
        self.values = {"distance": builder.call("sqrt", dot(self.difference, self.difference))}

    def gradients(self, slopes: dict[str, Vector]) -> Gradients:
        """Return the gradients of the energy, given its derivatives by `values`."""
        first = times(
            self.difference, over_distance(self.builder, slopes["distance"], self.values["distance"])
        )
        return {self.places[0]: first, self.places[1]: tuple(-u for u in first)}


class Angle:
    """The angle at the second of three atoms."""

    def __init__(self, builder: FunctionBuilder, places: list[int], points: list[Point]) -> None:
        self.builder, self.places = builder, places
        self.u, self.v = minus(points[0], points[1]), minus(points[2], points[1])
        normal = cross(self.u, self.v)
        self.sine2 = dot(normal, normal)
        self.cosine = dot(self.u, self.v)
        floor = builder.where(builder.compare(self.sine2, "<", _SMALLEST_SINE2), _SMALLEST_SINE2, self.sine2)
        self.sine = builder.call("sqrt", floor)
        self.values = {"angle": builder.call("atan2", self.sine, self.cosine)}

    def gradients(self, slopes: dict[str, Vector]) -> Gradients:
        """Return the gradients of the energy, given its derivatives by `values`."""
        straight = self.builder.compare(self.sine2, "<", _SMALLEST_SINE2)
        factor = self.builder.where(straight, 0.0, slopes["angle"] / self.sine)
        first = times(minus(times(self.u, self.cosine / dot(self.u, self.u)), self.v), factor)
        last = times(minus(times(self.v, self.cosine / dot(self.v, self.v)), self.u), factor)
        middle = tuple(-(a + b) for a, b in zip(first, last, strict=True))
        return {self.places[0]: first, self.places[1]: middle, self.places[2]: last}


class Dihedral:
    """The dihedral of four atoms: the angle, or its cosine and sine, whichever is needed."""

    def __init__(
        self, builder: FunctionBuilder, places: list[int], points: list[Point], kinds: set[str]
    ) -> None:
        self.places = places
        a, b, c, d = points
        self.ab, self.cb, self.cd = minus(a, b), minus(c, b), minus(c, d)
        self.m, self.n = cross(self.ab, self.cb), cross(self.cb, self.cd)
        self.length2 = dot(self.cb, self.cb)
        self.length = builder.call("sqrt", self.length2)
        sine, cosine = dot(self.ab, self.n) * self.length, dot(self.m, self.n)
        self.values: dict[str, Vector] = {}
        if kinds & {"cos_dihedral", "sin_dihedral"}:
            inverse = 1.0 / builder.call("sqrt", sine * sine + cosine * cosine)
            self.values["cos_dihedral"], self.values["sin_dihedral"] = cosine * inverse, sine * inverse
        if "dihedral" in kinds:
            self.values["dihedral"] = builder.call("atan2", sine, cosine)

    def gradients(self, slopes: dict[str, Vector]) -> Gradients:
        """Return the gradients of the energy, given its derivatives by `values`.

        Source: Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996).
        """
        parts = []
        if "dihedral" in slopes:
            parts.append(slopes["dihedral"])
        if "cos_dihedral" in slopes:
            parts.append(-(slopes["cos_dihedral"] * self.values["sin_dihedral"]))
        if "sin_dihedral" in slopes:
            parts.append(slopes["sin_dihedral"] * self.values["cos_dihedral"])
        slope = sum(parts[1:], parts[0])
        first = times(self.m, slope * self.length / dot(self.m, self.m))
        last = times(self.n, -(slope * self.length / dot(self.n, self.n)))
        inverse = 1.0 / self.length2
        shift = minus(
            times(first, dot(self.ab, self.cb) * inverse), times(last, dot(self.cd, self.cb) * inverse)
        )
        second = minus(shift, first)
        third = tuple(-(a + b) for a, b in zip(last, shift, strict=True))
        return dict(zip(self.places, (first, second, third, last), strict=True))
