"""Antialiased lines, circles and outlines on (h, w, 3) float32 pictures in 0..255; everything in pixels."""

from __future__ import annotations

import numpy as np

from .colors import Color


def _paint(picture: np.ndarray, box: tuple[slice, slice], coverage: np.ndarray, color: Color) -> None:
    part = picture[box]
    part += (np.array(color, np.float32) - part) * coverage[..., None].astype(np.float32)


def _box(picture: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The part of the picture between two corners (x, y), and its pixel coordinates."""
    height, width = picture.shape[:2]
    x0, y0 = np.clip(np.floor(low).astype(int), 0, [width, height])
    x1, y1 = np.clip(np.ceil(high).astype(int) + 1, 0, [width, height])
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    return (slice(y0, y1), slice(x0, x1)), x, y


def draw_line(
    picture: np.ndarray, start: np.ndarray, end: np.ndarray, color: Color, width: float = 1.5, opacity: float = 1.0
) -> None:
    """A straight line with round ends from ``start`` to ``end`` (x, y), in place."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    reach = width / 2 + 1
    box, x, y = _box(picture, np.minimum(start, end) - reach, np.maximum(start, end) + reach)
    if x.size == 0:
        return
    dx, dy = end - start
    length = dx * dx + dy * dy
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / length, 0, 1) if length > 0 else np.zeros_like(x)
    distance = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    _paint(picture, box, np.clip(width / 2 + 0.5 - distance, 0, 1) * opacity, color)


def draw_circle(
    picture: np.ndarray, center: np.ndarray, radius: float, color: Color, width: float = 1.5, opacity: float = 1.0
) -> None:
    """A circle (not filled) around ``center`` (x, y), in place."""
    center = np.asarray(center, float)
    reach = radius + width / 2 + 1
    box, x, y = _box(picture, center - reach, center + reach)
    if x.size == 0:
        return
    distance = np.abs(np.hypot(x - center[0], y - center[1]) - radius)
    _paint(picture, box, np.clip(width / 2 + 0.5 - distance, 0, 1) * opacity, color)


def draw_cross(
    picture: np.ndarray, center: np.ndarray, radius: float, color: Color, width: float = 1.5, opacity: float = 1.0
) -> None:
    """An upright cross whose arms reach ``radius`` from ``center`` (x, y), in place."""
    center = np.asarray(center, float)
    for arm in (np.array([radius, 0.0]), np.array([0.0, radius])):
        draw_line(picture, center - arm, center + arm, color, width, opacity)


def level_coverage(values: np.ndarray, levels_apart: float, width: float) -> np.ndarray:
    """How much of each pixel lies on a line where ``values`` is a multiple of ``levels_apart``, (h, w) in 0..1.

    ``values`` varies smoothly from pixel to pixel; lines are ``width`` pixels wide however steep it is.
    """
    nearest = np.rint(values / levels_apart) * levels_apart
    return _coverage(values - nearest, values, levels_apart, width)


def outline_coverage(inside: np.ndarray, width: float) -> np.ndarray:
    """How much of each pixel lies on the outline, the 0.5 level, of a smooth membership 0..1; (h, w) in 0..1."""
    return _coverage(inside - 0.5, inside, 1.0, width)


def _coverage(difference: np.ndarray, values: np.ndarray, range_: float, width: float) -> np.ndarray:
    down, along = np.gradient(values)
    # A flat place (inside of a mask, a fold's turning point) is no line: the bound keeps it from filling an area.
    steepness = np.maximum(np.hypot(down, along), range_ * 0.01)
    return np.clip(width / 2 + 0.5 - np.abs(difference) / steepness, 0, 1).astype(np.float32)
