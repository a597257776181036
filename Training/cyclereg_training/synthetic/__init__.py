"""Synthetic training pairs: random shapes, random contrasts, known fields; no data needed (see ``pairs``)."""

from .chance import Chance
from .motion import inside
from .pairs import Pair, SyntheticPairs
from .settings import AppearanceSettings, MotionSettings, ShapeSettings, SyntheticSettings

__all__ = [
    "AppearanceSettings",
    "Chance",
    "MotionSettings",
    "Pair",
    "ShapeSettings",
    "SyntheticPairs",
    "SyntheticSettings",
    "inside",
]
