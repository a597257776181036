"""CT numbers of the phantom: what each organ looks like in the arterial and in the portal phase, in HU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union as Either

import numpy as np

from .phantom_anatomy import Anatomy
from .phantom_shapes import Blend, Common, Ellipsoid, Shape, Tube, Union, grown

ARTERIAL, PORTAL = 0, 1
#: HU for (arterial, portal), or a function of points (3, ...) mm, distance (...) mm and phase that gives HU.
Value = Either[tuple[float, float], Callable[[np.ndarray, np.ndarray, int], np.ndarray]]


@dataclass(frozen=True)
class Tissue:
    """What is painted: a shape, its CT numbers, and how strongly the texture modulates them (HU)."""

    shape: Shape
    value: Value
    texture: float = 0.0


def tissues_of(anatomy: Anatomy) -> list[Tissue]:
    """Everything that is painted, in order: later tissues cover earlier ones."""
    bowel_wall, fluid = (88.0, 96.0), (14.0, 16.0)
    bowel = (anatomy.small_bowel, anatomy.duodenum, anatomy.stomach, anatomy.colon)
    return [
        Tissue(anatomy.couch, (-420, -420)),
        Tissue(anatomy.body, (25, 25)),
        Tissue(grown(anatomy.body, -2.2), (-104, -104), 4),
        Tissue(anatomy.wall, (58, 64), 9),
        Tissue(anatomy.linea_alba, (0, 5)),
        Tissue(anatomy.cavity, (50, 54), 4),
        Tissue(Common([anatomy.cavity, anatomy.below_diaphragm], [-1, -3]), (-102, -102), 7),
        Tissue(anatomy.rectus, (60, 66), 6),
        Tissue(anatomy.muscles, (57, 63), 7),
        Tissue(anatomy.lungs, (-850, -845), 25),
        Tissue(anatomy.lung_vessels, (40, 60)),
        Tissue(Common([anatomy.lungs, anatomy.heart], [0, 5]), (-90, -90)),
        Tissue(anatomy.heart, (105, 125)),
        Tissue(Common([anatomy.heart, anatomy.ventricles], [-6, 0]), (290, 165)),
        Tissue(anatomy.oesophagus, (60, 64)),
        Tissue(anatomy.mesenteric_vessels, (90, 130)),
        Tissue(anatomy.liver, (72, 114), 4),
        Tissue(anatomy.gallbladder, (28, 34)),
        Tissue(grown(anatomy.gallbladder, -1.2), (8, 10)),
        Tissue(anatomy.stone, (240, 240)),
        Tissue(anatomy.spleen, _spleen_value, 2),
        Tissue(anatomy.pancreas, (104, 92), 16),
        Tissue(anatomy.adrenals, (85, 80)),
        *[Tissue(kidney, _kidney_value(kidney), 3) for kidney in anatomy.kidneys],
        *[Tissue(_sinus(kidney), (-70, -60), 8) for kidney in anatomy.kidneys],
        *[Tissue(organ, bowel_wall, 4) for organ in bowel],
        Tissue(Union([_lumen(tube, 2.4) for tube in anatomy.small_bowel.shapes]), (24, 26), 8),
        Tissue(_lumen(anatomy.duodenum, 2.6), fluid, 4),
        Tissue(_lumen(anatomy.stomach, 4.0), _stomach_value, 5),
        Tissue(_lumen(anatomy.colon, 2.2), _colon_value, 40),
        Tissue(anatomy.column, (92, 94), 4),
        Tissue(anatomy.vertebrae, (360, 360)),
        Tissue(grown(anatomy.vertebrae, -1.8), (185, 190), 24),
        Tissue(anatomy.posterior_elements, (420, 420)),
        Tissue(anatomy.canal, (12, 12)),
        Tissue(anatomy.cord, (42, 42)),
        Tissue(anatomy.cartilage, (105, 105), 10),
        Tissue(anatomy.ribs, (460, 460)),
        Tissue(Union([_lumen(rib, 2.2) for rib in anatomy.ribs.shapes]), (160, 160)),
        Tissue(anatomy.hepatic_branches, (70, 172)),
        Tissue(anatomy.portal_branches, (108, 178)),
        Tissue(anatomy.cyst, (6, 7)),
        Tissue(anatomy.renal_veins, (150, 158)),
        Tissue(anatomy.ivc, _cava_value),
        Tissue(Union([*anatomy.hepatic_veins.values(), anatomy.inferior_vein]), (66, 174)),
        Tissue(anatomy.portal, (112, 182)),
        Tissue(anatomy.aorta, (325, 165)),
        Tissue(anatomy.arteries, (300, 160)),
        Tissue(anatomy.tumor, (96, 124)),
        Tissue(grown(anatomy.tumor, -1.8), (136, 84), 12),
        Tissue(anatomy.necrosis, (52, 50), 4),
    ]


def _spleen_value(p: np.ndarray, _distance: np.ndarray, phase: int) -> np.ndarray:
    """Early in the arterial phase the pulp fills in bands."""
    if phase == PORTAL:
        return np.full_like(p[0], 126)
    bands = np.sin(p[1] * 0.42 + 2.2 * np.sin(p[2] * 0.17) + 1.6 * np.sin(p[0] * 0.23))
    return 128 + 26 * bands


def _kidney_value(kidney: Ellipsoid) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    def value(p: np.ndarray, distance: np.ndarray, phase: int) -> np.ndarray:
        """Bright cortex over darker pyramids, which are parted by columns of cortex."""
        cortex, medulla = ((205.0, 96.0), (182.0, 168.0))[phase]
        q = [p[i] - float(kidney.center[i]) for i in range(3)]
        columns = np.cos(np.arctan2(q[2] * 0.5, q[0]) * 7) + 0.35 * np.sin(q[1] * 0.35)
        depth = np.clip((-distance - 6.5 - 2.0 * columns) * (1 / 2.5), 0, 1)
        return cortex + (medulla - cortex) * depth

    return value


def _sinus(kidney: Ellipsoid) -> Shape:
    """The fat at the kidney's hilum."""
    inward = -np.sign(kidney.center[0])
    place = kidney.center + (inward * 13, -4, 0)
    return Blend([Ellipsoid(place, (13, 7, 22)), Ellipsoid(place + (inward * 9, -3, 0), (10, 8, 12))], 6)


def _stomach_value(p: np.ndarray, _distance: np.ndarray, phase: int) -> np.ndarray:
    """Fluid below a level of air: the patient lies on the back."""
    air = np.clip((-20 - p[1]) * (1 / 2.0), 0, 1)
    return 18 - 960 * air


def _colon_value(p: np.ndarray, _distance: np.ndarray, phase: int) -> np.ndarray:
    """Stool with bubbles, air where the bowel runs in front."""
    x, y, z = p
    swirl = 2.5 * np.sin(0.21 * z + 0.13 * x)
    bubbles = np.sin(0.61 * x + swirl) * np.sin(0.73 * y + 0.31 * x - swirl) * np.sin(0.52 * z + 0.27 * y + swirl)
    air = np.clip((-60 - y) * (1 / 2.0), 0, 1)
    stool = 35 - 260 * np.clip(bubbles * 2 - 0.8, 0, 1)
    return stool * (1 - air) - 930 * air


def _cava_value(p: np.ndarray, _distance: np.ndarray, phase: int) -> np.ndarray:
    """Below the kidneys the arterial phase has no contrast yet."""
    low, high = ((62.0, 118.0), (128.0, 160.0))[phase]
    return low + (high - low) * np.clip((p[2] + 50) * (1 / 30), 0, 1)


def _lumen(tube: Tube, wall: float) -> Tube:
    """A tube inside a tube, leaving a wall of mm."""
    return Tube(tube.line, np.maximum(tube.radii - wall, 0.1), samples=1)
