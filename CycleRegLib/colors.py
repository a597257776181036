"""Colour ramps for pictures, and the scales that explain them.

Each ramp is a handful of sRGB anchors, evenly spaced and interpolated linearly; lightness runs monotonically along a
sequential ramp and symmetrically about the middle of a diverging one, so that they survive a grey print and the common
colour-vision deficiencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Color = tuple[int, int, int]

# Dark in the middle: on a dark picture "no difference" recedes, and both signs stand out.
DIVERGING: tuple[Color, ...] = (
    (190, 229, 255),
    (92, 170, 222),
    (32, 96, 148),
    (17, 17, 20),
    (151, 66, 36),
    (233, 139, 84),
    (255, 219, 190),
)
# For overlays on grey anatomy: saturated ends, a middle that is never seen because it is transparent there.
OVERLAY: tuple[Color, ...] = (
    (56, 132, 255),
    (64, 190, 255),
    (196, 224, 236),
    (255, 196, 92),
    (255, 112, 36),
)
SEQUENTIAL: tuple[Color, ...] = (
    (44, 20, 92),
    (118, 34, 129),
    (196, 58, 103),
    (246, 118, 62),
    (254, 190, 84),
    (252, 246, 186),
)
# For thin lines: bright all along, since a dark line is lost on a dark picture.
LINES: tuple[Color, ...] = ((86, 196, 255), (120, 230, 200), (214, 236, 116), (255, 196, 64), (255, 106, 77))
FOLDING: Color = (255, 0, 220)
FIXED: Color = (64, 224, 208)
MOVING: Color = (255, 168, 38)


def ramp(values: np.ndarray, anchors: tuple[Color, ...]) -> np.ndarray:
    """Colours, (..., 3) float32 in 0..255, of ``values`` in 0..1 (clipped)."""
    values = np.clip(np.asarray(values, dtype=np.float32), 0.0, 1.0)
    places = np.linspace(0.0, 1.0, len(anchors))
    table = np.array(anchors, dtype=np.float32)
    return np.stack([np.interp(values, places, table[:, c]).astype(np.float32) for c in range(3)], axis=-1)


def blend(below: np.ndarray, above: np.ndarray, opacity: np.ndarray | float) -> np.ndarray:
    """``above`` over ``below`` with ``opacity`` 0..1; (..., 3) float32 in 0..255."""
    opacity = np.asarray(opacity, dtype=np.float32)
    if opacity.ndim:
        opacity = opacity[..., None]
    return np.asarray(below, np.float32) * (1 - opacity) + np.asarray(above, np.float32) * opacity


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Round an (h, w, 3) picture in 0..255 to uint8."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten that reaches ``value`` (> 0), to 0.01 %."""
    power = 10.0 ** math.floor(math.log10(value))
    for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10):
        if step * power >= value * (1 - 1e-4):
            return float(f"{step * power:.6g}")
    raise AssertionError("unreachable: the last step is a power of ten above")


@dataclass(frozen=True)
class Legend:
    """The scale of a coloured picture.

    ``ticks`` are (place along the ramp 0..1, text); ``unit`` may be empty.  ``extra`` are colours outside the ramp
    with their meaning.
    """

    title: str
    unit: str
    anchors: tuple[Color, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    extra: tuple[tuple[Color, str], ...] = ()


def linear_ticks(low: float, high: float, count: int = 5) -> tuple[tuple[float, str], ...]:
    """Evenly spaced ticks with short texts, a real minus sign included."""
    values = np.linspace(low, high, count)
    return tuple((i / (count - 1), f"{v:.4g}".replace("-", "−")) for i, v in enumerate(values))
