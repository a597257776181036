"""Shapes for the phantom, as signed distances in millimetres: negative inside, about true to scale near the surface.

Points are arrays of shape (3, ...) holding x, y, z in LPS mm; a distance has the shape (...) and the type of the
points, so that float32 renders and float64 places landmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Point = Sequence[float]
_FEW = 4096  # points


class Shape:
    """A region with bounds ``low`` and ``high`` (x, y, z mm), infinite where it has none."""

    low: np.ndarray
    high: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance in mm, (...) for points (3, ...)."""
        raise NotImplementedError(f"{type(self).__name__} must say how far points are")

    def pieces(self) -> list[Shape]:
        """Parts whose union is the shape; a renderer looks only at the neighbourhood of each."""
        return [self]

    def __or__(self, other: Shape) -> Union:
        return Union([self, other])


class Ellipsoid(Shape):
    """Semi-axes ``radii`` along the columns of the rotation ``axes``."""

    def __init__(self, center: Point, radii: Point, axes: np.ndarray | None = None) -> None:
        self.center = np.array(center, dtype=np.float64)
        self.radii = np.array(radii, dtype=np.float64)
        self.axes = np.eye(3) if axes is None else axes
        reach = np.sqrt(((self.axes * self.radii) ** 2).sum(axis=1))
        self.low, self.high = self.center - reach, self.center + reach

    @property
    def volume(self) -> float:
        """mm^3."""
        return float(4 / 3 * np.pi * np.prod(self.radii))

    def distance(self, points: np.ndarray) -> np.ndarray:
        first = second = 0.0
        p = [points[i] - float(self.center[i]) for i in range(3)]
        aligned = np.array_equal(self.axes, np.eye(3))
        for axis, radius in zip(self.axes.T.tolist(), self.radii.tolist()):
            along = p[axis.index(1.0)] if aligned else p[0] * axis[0] + p[1] * axis[1] + p[2] * axis[2]
            scaled = np.square(along * (1 / radius))
            first = first + scaled
            second = second + scaled * (1 / radius**2)
        # First order of the implicit function over its gradient: exact on the surface.  The small numbers make it
        # the shortest semi-axis at the centre, where both vanish.
        root, slope = np.sqrt(first), np.sqrt(second)
        return (root - 1) * (root + 1e-6) / (slope + 1e-6 / float(self.radii.min()))


class Tube(Shape):
    """A smooth curve through control points, with a radius that varies along it: vessels, ribs, bowel.

    Parameters
    ----------
    points
        (n, 3) mm, n >= 2; a Catmull-Rom curve runs through them.
    radii
        One radius, or one for each control point, mm.
    samples
        Straight pieces per control interval.
    """

    def __init__(self, points: Sequence[Point], radii: float | Sequence[float], samples: int = 4) -> None:
        control = np.array(points, dtype=np.float64)
        widths = np.broadcast_to(np.array(radii, dtype=np.float64), (len(control),))
        both = np.column_stack([control, widths])
        if len(control) == 2:
            samples = 1
        ends = np.vstack([2 * both[0] - both[1], both, 2 * both[-1] - both[-2]])
        t = np.arange(samples)[:, None] / samples
        spans = []
        for a, b, c, d in zip(ends[:-3], ends[1:-2], ends[2:-1], ends[3:]):
            spans.append(
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3)
            )
        curve = np.vstack([*spans, both[-1:]])
        self.line, self.radii = curve[:, :3], np.maximum(curve[:, 3], 0.1)
        self.low = (self.line - self.radii[:, None]).min(axis=0)
        self.high = (self.line + self.radii[:, None]).max(axis=0)

    def pieces(self) -> list[Shape]:
        line, radii = self.line, self.radii
        return [_Cone(line[i], line[i + 1], radii[i], radii[i + 1]) for i in range(len(line) - 1)]

    def distance(self, points: np.ndarray) -> np.ndarray:
        if points[0].size > _FEW:
            return _least([piece.distance(points) for piece in self.pieces()])
        # Few points: all pieces at once, because calls would take longer than the arithmetic.
        flat = points.reshape(3, 1, -1)
        start, step = self.line[:-1].T[:, :, None], np.diff(self.line, axis=0).T[:, :, None]
        p = flat - start
        h = np.clip((p * step).sum(axis=0) / np.maximum((step * step).sum(axis=0), 1e-9), 0, 1)
        width = self.radii[:-1, None] + np.diff(self.radii)[:, None] * h
        nearest = (np.sqrt(np.square(p - h * step).sum(axis=0)) - width).min(axis=0)
        return nearest.reshape(points.shape[1:])

    def enter(self, other: Shape) -> np.ndarray:
        """Where the centre line first comes into another shape, (3,) mm, walking from its first point."""
        inside = other.distance(self.line.T) < 0
        if inside[0] or not inside.any():
            raise ValueError("the tube must start outside the other shape and enter it")
        i = int(np.argmax(inside))
        a, b = self.line[i - 1], self.line[i]
        for _ in range(40):
            middle = (a + b) / 2
            if other.distance(middle[:, None])[0] < 0:
                b = middle
            else:
                a = middle
        return (a + b) / 2


class _Cone(Shape):
    """A straight piece of a tube."""

    def __init__(self, start: np.ndarray, end: np.ndarray, r0: float, r1: float) -> None:
        self.start, self.step = start, end - start
        self.r0, self.r1 = float(r0), float(r1)
        self.low = np.minimum(start - r0, end - r1)
        self.high = np.maximum(start + r0, end + r1)

    def distance(self, points: np.ndarray) -> np.ndarray:
        start, step = self.start.tolist(), self.step.tolist()
        p = [points[i] - start[i] for i in range(3)]
        length = sum(s * s for s in step)
        h = np.clip((p[0] * step[0] + p[1] * step[1] + p[2] * step[2]) * (1 / max(length, 1e-9)), 0, 1)
        squared = sum(np.square(p[i] - h * step[i]) for i in range(3))
        return np.sqrt(squared) - (self.r0 + (self.r1 - self.r0) * h)


class Trunk(Shape):
    """An upright column of superelliptic section, wider or narrower with height; front and back differ in depth.

    Parameters
    ----------
    side, front, back
        Half width, depth in front (y < center) and behind, mm, at any height.
    exponent
        2 is an ellipse, more is boxier.
    waist
        Relative narrowing around z = ``waist[1]`` mm: (amount, height, width).
    """

    def __init__(
        self,
        side: float,
        front: float,
        back: float,
        center: tuple[float, float] = (0.0, 0.0),
        exponent: float = 2.5,
        waist: tuple[float, float, float] = (0.0, 0.0, 1.0),
    ) -> None:
        self.side, self.front, self.back, self.center = side, front, back, center
        self.exponent, self.waist = exponent, waist
        self.low = np.array([center[0] - side, center[1] - front, -np.inf])
        self.high = np.array([center[0] + side, center[1] + back, np.inf])

    def radius(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Relative radius (1 on the surface) and radius in mm about the column's axis."""
        amount, height, width = self.waist
        x, y = points[0] - self.center[0], points[1] - self.center[1]
        if amount:
            x = x / (1 - amount * np.exp(-np.square((points[2] - height) * (1 / width))))
        u = np.abs(x) * (1 / self.side)
        v = np.where(y < 0, y * (-1 / self.front), y * (1 / self.back))
        relative = (u**self.exponent + v**self.exponent) ** (1 / self.exponent)
        return relative, np.sqrt(np.square(x) + np.square(y))

    def distance(self, points: np.ndarray) -> np.ndarray:
        relative, radius = self.radius(points)
        # the radial distance; at the axis, where it is undefined, any number well inside does
        return np.where(relative > 0.05, radius * (1 - 1 / np.maximum(relative, 0.05)), -min(self.side, self.front))


class Slab(Shape):
    """A block with faces along rotated axes: fissures, vertebral discs."""

    def __init__(self, center: Point, half: Point, axes: np.ndarray | None = None) -> None:
        self.center, self.half = np.array(center, dtype=np.float64), [float(h) for h in half]
        self.axes = np.eye(3) if axes is None else axes
        reach = (np.abs(self.axes) * self.half).sum(axis=1)
        self.low, self.high = self.center - reach, self.center + reach

    def distance(self, points: np.ndarray) -> np.ndarray:
        p = [points[i] - float(self.center[i]) for i in range(3)]
        sides = [
            np.abs(p[0] * axis[0] + p[1] * axis[1] + p[2] * axis[2]) - half
            for axis, half in zip(self.axes.T.tolist(), self.half)
        ]
        outside = np.sqrt(sum(np.square(np.maximum(side, 0)) for side in sides))
        return outside + np.minimum(np.maximum(np.maximum(sides[0], sides[1]), sides[2]), 0)


class Field(Shape):
    """A region given by any distance function, unbounded unless bounds are given."""

    def __init__(
        self, function: Callable[[np.ndarray], np.ndarray], low: Point | None = None, high: Point | None = None
    ) -> None:
        self.distance = function  # type: ignore[method-assign]
        self.low = np.full(3, -np.inf) if low is None else np.array(low, dtype=np.float64)
        self.high = np.full(3, np.inf) if high is None else np.array(high, dtype=np.float64)


class Union(Shape):
    """All of several shapes."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = list(shapes)
        self.low = np.min([s.low for s in self.shapes], axis=0)
        self.high = np.max([s.high for s in self.shapes], axis=0)

    def pieces(self) -> list[Shape]:
        return [piece for shape in self.shapes for piece in shape.pieces()]

    def distance(self, points: np.ndarray) -> np.ndarray:
        return _least([shape.distance(points) for shape in self.shapes])


class Blend(Shape):
    """The union of shapes with rounded seams of about ``width`` mm."""

    def __init__(self, shapes: Sequence[Shape], width: float) -> None:
        self.shapes, self.width = list(shapes), width
        self.low = np.min([s.low for s in self.shapes], axis=0) - width / 4
        self.high = np.max([s.high for s in self.shapes], axis=0) + width / 4

    def distance(self, points: np.ndarray) -> np.ndarray:
        result = self.shapes[0].distance(points)
        for shape in self.shapes[1:]:
            other = shape.distance(points)
            h = np.maximum(self.width - np.abs(result - other), 0) * (1 / self.width)
            result = np.minimum(result, other) - np.square(h) * (self.width / 4)
        return result


class Common(Shape):
    """Where all shapes are; each can be shrunk or grown by mm first (positive grows)."""

    def __init__(self, shapes: Sequence[Shape], grow: Sequence[float] | None = None) -> None:
        self.shapes = list(shapes)
        self.grow = [0.0] * len(self.shapes) if grow is None else [float(g) for g in grow]
        self.low = np.max([s.low - g for s, g in zip(self.shapes, self.grow)], axis=0)
        self.high = np.min([s.high + g for s, g in zip(self.shapes, self.grow)], axis=0)

    def distance(self, points: np.ndarray) -> np.ndarray:
        result = self.shapes[0].distance(points) - self.grow[0]
        for shape, grow in zip(self.shapes[1:], self.grow[1:]):
            result = np.maximum(result, shape.distance(points) - grow)
        return result


class Without(Shape):
    """A shape less others, which leave a gap of ``gap`` mm; seams are rounded by ``width`` mm when it is not 0."""

    def __init__(self, shape: Shape, others: Sequence[Shape], gap: float = 0.0, width: float = 0.0) -> None:
        self.shape, self.others, self.gap, self.width = shape, list(others), gap, width
        self.low, self.high = shape.low, shape.high

    def distance(self, points: np.ndarray) -> np.ndarray:
        result = self.shape.distance(points)
        for other in self.others:
            cut = self.gap - other.distance(points)
            if self.width:
                h = np.maximum(self.width - np.abs(result - cut), 0) * (1 / self.width)
                result = np.maximum(result, cut) + np.square(h) * (self.width / 4)
            else:
                result = np.maximum(result, cut)
        return result


def grown(shape: Shape, by: float) -> Shape:
    """The shape grown (or, negative, shrunk) by mm."""
    return Common([shape], [by])


def mirrored(shape: Tube) -> Tube:
    """The tube on the other side of the body (x to -x)."""
    result = Tube(shape.line * [-1, 1, 1], shape.radii, samples=1)
    return result


def rotation(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Rotation matrix from angles in degrees about the x, then y, then z axis."""
    a, b, c = np.deg2rad([x, y, z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def extreme(shape: Shape, direction: Point) -> np.ndarray:
    """The point of a bounded shape that lies farthest in a direction (a unit vector), (3,) mm, to 0.01 mm.

    Raises
    ------
    ValueError
        If no point of a 6 mm lattice lies inside.
    """
    along = np.array(direction, dtype=np.float64)
    axes = [np.arange(a, b + 6.0, 6.0) for a, b in zip(shape.low, shape.high)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    points = points[:, shape.distance(points) <= 0]
    if points.shape[1] == 0:
        raise ValueError("the shape is too small to find a point inside")
    best = points[:, int(np.argmax(along @ points))]
    # Climb: look sideways for a place that is inside just above the present height, go up to the surface there.
    side = np.linalg.svd(along[None, :])[2][1:].T
    around = side @ np.stack(np.meshgrid(np.arange(-4, 5), np.arange(-4, 5))).reshape(2, -1)
    best, step = _surface(shape, best, along), 4.0
    while step > 0.03:
        points = (best + 1e-4 * along)[:, None] + step * around
        depth = shape.distance(points)
        deepest = int(np.argmin(depth))
        if depth[deepest] < 0:
            best = _surface(shape, points[:, deepest], along)
        else:
            step /= 2
    return best


def _surface(shape: Shape, inside: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Where the ray from a point inside leaves the shape, to 1e-5 mm."""
    low, high = 0.0, 1.0
    while shape.distance((inside + high * along)[:, None])[0] <= 0:
        low, high = high, high * 2
    while high - low > 1e-5:
        middle = (low + high) / 2
        if shape.distance((inside + middle * along)[:, None])[0] <= 0:
            low = middle
        else:
            high = middle
    return inside + low * along


def _least(distances: list[np.ndarray]) -> np.ndarray:
    result = distances[0]
    for other in distances[1:]:
        result = np.minimum(result, other)
    return result
