"""The phantom's anatomy: organs as shapes, and landmarks on them.

Everything lies in the space of the moving (arterial) image, LPS mm: x to the patient's left, y to the back, z to the
head; z = 0 is about the level of the first lumbar vertebra.  Sizes are those of a slim adult.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .phantom_shapes import (
    Blend,
    Common,
    Ellipsoid,
    Field,
    Shape,
    Slab,
    Trunk,
    Tube,
    Union,
    Without,
    extreme,
    mirrored,
    rotation,
)


@dataclass(frozen=True)
class Landmark:
    """A named point of the anatomy, (3,) LPS mm in the moving image."""

    name: str
    point: np.ndarray
    description: str


class Anatomy:
    """The abdomen; ``seed`` varies only what no two people share: small vessels and their branching.

    Attributes
    ----------
    segments : dict of name to Shape
    landmarks : list of Landmark
    tumor : Ellipsoid, whose volume is known exactly
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self._trunk()
        self._vessels()
        self._liver()
        self._upper_organs()
        self._bowel()
        self._skeleton()
        self._branches()
        self.segments: dict[str, Shape] = {
            "liver": Without(self.liver, [self.tumor]),
            "tumor": self.tumor,
            "spleen": self.spleen,
            "right kidney": self.kidneys[0],
            "left kidney": self.kidneys[1],
        }
        self.landmarks = self._landmarks()

    # ------------------------------------------------------------------ shapes

    def _trunk(self) -> None:
        waist = (0.05, -55.0, 60.0)
        self.body = Trunk(158, 106, 118, exponent=2.2, waist=waist)
        self.wall = Trunk(142, 88, 110, exponent=2.25, waist=waist)
        self.cavity = Trunk(130, 79, 91, exponent=2.2, waist=waist)
        self.below_diaphragm = Field(self._over_diaphragm)
        self.above_diaphragm = Field(lambda p: -self._over_diaphragm(p))
        # drawn back a little, so that the recess ends where it gets thinner than a voxel
        self.lungs = Common([self.cavity, self.above_diaphragm], [-3, -1])
        self.muscles = Union(
            [Tube([(side * 30, 90, 150), (side * 33, 90, 0), (side * 34, 92, -150)], [15, 19, 21]) for side in (-1, 1)]
            + [
                Tube([(side * 30, 58, -10), (side * 36, 56, -50), (side * 44, 48, -150)], [7, 14, 21])
                for side in (-1, 1)
            ]
            + [Ellipsoid((side * 62, 82, -80), (26, 9, 70), rotation(z=side * -18)) for side in (-1, 1)]
            + [Tube([(side * 9, 30, 60), (side * 12, 36, 10), (side * 13, 40, -50)], [5, 5, 3]) for side in (-1, 1)]
        )
        self.linea_alba = Slab((0, -84, 0), (2.0, 8, 300))
        self.rectus = Union([Tube([(s * 32, -81, 150), (s * 34, -80, -150)], 8) for s in (-1, 1)])

    def _over_diaphragm(self, p: np.ndarray) -> np.ndarray:
        """Distance above the diaphragm, mm: two domes that fall off steeply towards the wall."""
        relative = np.minimum(self.cavity.radius(p)[0], 1.2)
        top = (
            55
            + 19 * np.exp(-np.square((p[0] + 66) * (1 / 52)) - np.square((p[1] + 6) * (1 / 75)))
            + 13 * np.exp(-np.square((p[0] - 72) * (1 / 46)) - np.square((p[1] - 16) * (1 / 70)))
        )
        fall = top - (16 - 0.40 * p[1])
        fourth = np.square(np.square(relative))
        slope = fall * fourth * (5 / 105.0)
        return (p[2] - top + fall * fourth * relative) / np.sqrt(1.5 + np.square(slope))

    def _vessels(self) -> None:
        self.ivc = Tube(
            [
                (-22, 33, -150),
                (-22, 31, -60),
                (-25, 27, -10),
                (-27, 24, 25),
                (-26, 20, 48),
                (-20, 12, 66),
                (-12, 2, 90),
            ],
            [10, 10.5, 11.5, 12, 12.5, 13.5, 13],
        )
        aorta = Tube(
            [(22, 44, 150), (17, 39, 80), (11, 31, 25), (8, 28, -30), (6, 28, -92)], [12, 11.5, 10.5, 9.5, 8.5]
        )
        iliacs = [Tube([(6, 28, -90), (6 + s * 8, 26, -108), (6 + s * 22, 22, -150)], 6) for s in (-1, 1)]
        self.aorta = Union([aorta, *iliacs])
        # Portal system: the confluence of splenic and superior mesenteric veins, then the liver's own branches.
        self.confluence = np.array([2.0, 0.0, -20.0])
        self.bifurcation = np.array([-30.0, -4.0, 17.0])
        self.right_split = np.array([-56.0, 2.0, 20.0])
        self.anterior_split = np.array([-74.0, -24.0, 32.0])
        self.posterior_split = np.array([-84.0, 30.0, 12.0])
        self.p2, self.p3, self.p4 = (
            np.array([-6.0, -30.0, 31.0]),
            np.array([0.0, -45.0, 29.0]),
            np.array([-3.0, -39.0, 30.0]),
        )
        self.main_portal = Tube([self.confluence, (-15, -3, -1), self.bifurcation], [7.5, 7, 6.5])
        self.left_portal = Tube([self.bifurcation, (-20, -16, 25), self.p2, (-2, -52, 27)], [5.5, 5.2, 5, 4])
        self.splenic_vein = Tube(
            [(88, 36, 20), (68, 31, 10), (44, 19, 0), (22, 6, -11), self.confluence], [4, 4, 4.3, 4.6, 5]
        )
        self.mesenteric_vein = Tube([(16, -12, -150), (13, -8, -90), (8, 0, -50), self.confluence], [4, 5, 5.5, 6])
        self.portal_tips = [
            Tube([self.anterior_split, (-79, -28, 46), (-82, -28, 58)], [3.6, 3, 2.4]),  # P8
            Tube([self.anterior_split, (-78, -38, 18), (-80, -46, 2)], [3.4, 3, 2.4]),  # P5
            Tube([self.posterior_split, (-92, 38, 26), (-97, 38, 42)], [3.4, 2.8, 2.2]),  # P7
            Tube([self.posterior_split, (-96, 34, -2), (-100, 32, -18)], [3.4, 2.8, 2.2]),  # P6
            Tube([self.p2, (16, -32, 40), (42, -38, 44)], [3.4, 2.8, 2]),
            Tube([self.p3, (16, -56, 30), (38, -60, 34)], [3.2, 2.6, 2]),
            Tube([self.p4, (-18, -50, 34), (-34, -56, 38)], [3.2, 2.6, 2]),
        ]
        self.portal = Union(
            [
                self.main_portal,
                self.left_portal,
                self.splenic_vein,
                self.mesenteric_vein,
                Tube([self.bifurcation, (-44, -2, 20), self.right_split], [6, 5.6, 5.4]),
                Tube([self.right_split, (-66, -12, 27), self.anterior_split], [4.8, 4.4, 4]),
                Tube([self.right_split, (-70, 18, 16), self.posterior_split], [4.8, 4.4, 4]),
                *self.portal_tips,
            ]
        )
        self.hepatic_veins = {
            "right": Tube(
                [(-112, 12, -12), (-92, 16, 24), (-64, 18, 46), (-38, 19, 51), (-25, 19, 51)], [1.8, 3.2, 4.6, 5.2, 5.2]
            ),
            "middle": Tube(
                [(-54, -50, -4), (-50, -34, 24), (-41, -12, 44), (-30, 6, 52), (-25, 16, 53)], [1.8, 3, 4, 4.6, 4.6]
            ),
            "left": Tube(
                [(46, -48, 48), (16, -42, 50), (-8, -20, 52), (-19, 2, 54), (-23, 14, 55)], [1.6, 2.6, 3.6, 4.2, 4.2]
            ),
        }
        self.inferior_vein = Tube([(-86, 36, -16), (-64, 38, 2), (-40, 30, 12), (-28, 25, 14)], [1.6, 2.2, 2.8, 3])
        self.arteries = Union(
            [
                Tube([(9, 24, 4), (8, 12, 7), (7, 8, 8)], 4),  # celiac trunk
                Tube([(7, 8, 8), (-6, -4, 2), (-20, -13, 6), (-30, -13, 20)], [3, 2.8, 2.5, 2]),
                Tube(
                    [(7, 8, 8), (20, 8, 16), (34, 15, 8), (50, 22, 18), (66, 30, 17), (88, 34, 28)],
                    [3, 2.9, 2.8, 2.7, 2.5, 2.2],
                ),
                Tube(
                    [(8, 24, -10), (9, 13, -16), (10, 8, -40), (17, -2, -90), (20, -8, -150)], [4, 4, 3.8, 3.4, 3]
                ),  # SMA
                Tube([(4, 28, -32), (-22, 43, -36), (-50, 52, -44)], 2.8),
                Tube([(12, 29, -30), (32, 44, -32), (48, 50, -34)], 2.8),
            ]
        )
        self.renal_veins = Union(
            [
                Tube([(-24, 30, -36), (-36, 40, -40), (-52, 48, -46)], [5, 5, 4.5]),
                Tube([(-18, 22, -30), (8, 15, -32), (30, 32, -33), (48, 46, -36)], [5, 4, 5, 4.5]),
            ]
        )

    def _liver(self) -> None:
        right = Ellipsoid((-68, 2, -2), (72, 90, 92))
        left = Ellipsoid((14, -42, 42), (74, 34, 28), rotation(y=-6, z=6))
        self.caudate = Ellipsoid((-13, 11, 30), (15, 10, 24), rotation(z=-15))
        spine = Tube([(2, 58, -150), (2, 58, 150)], 37)
        viscera = Ellipsoid((14, -14, -84), (104, 108, 84), rotation(y=8))
        self.stomach = Tube(
            [(72, -2, 28), (68, -10, 12), (58, -28, -10), (36, -46, -32), (8, -46, -26), (-14, -36, -16)],
            [26, 28, 25, 20, 15, 9],
        )
        self.gallbladder = Tube([(-36, -18, 0), (-42, -32, -14), (-50, -50, -30), (-52, -54, -34)], [4, 9, 13.5, 13])
        self.stone = Ellipsoid((-50, -44.5, -34), (4.5, 4, 4.5))
        self.colon = Tube(
            [
                (-100, 32, -150), (-98, 26, -112), (-88, -2, -88), (-66, -50, -72), (-28, -62, -70),
                (14, -62, -66), (54, -54, -56), (86, -36, -44), (102, -6, -42), (105, 26, -70), (104, 36, -150),
            ],
            [20, 19, 17, 17, 16, 15, 15, 16, 15, 14, 13],
        )  # fmt: skip
        self.kidneys = [
            Ellipsoid((-67, 55, -44), (27, 24, 53), rotation(x=-10, y=8)),
            Ellipsoid((62, 54, -36), (26, 24, 54), rotation(x=-10, y=-8)),
        ]
        self.teres = Slab((-1, -70, 22), (2.0, 20, 17), rotation(z=-4))
        self.venosum = Slab((-3, -6, 40), (16, 1.8, 14), rotation(x=12, z=-35))
        body = Blend([right, left], 22)
        body = Without(body, [viscera], width=14)
        body = Without(body, [spine, self.kidneys[0], self.stomach, self.colon], gap=3.5, width=8)
        body = Common([body, self.cavity, self.below_diaphragm], [0, -3, -4])
        body = Blend([body, self.caudate], 5)
        # The aorta, the gall bladder and the vena cava lie in grooves of the liver, not in it.
        self.liver = Without(body, [self.teres, self.venosum, self.gallbladder, self.ivc, self.aorta])
        self.tumor = Ellipsoid((-92, -14, -12), (18, 16.5, 17.5), rotation(z=25))
        self.necrosis = Blend([Ellipsoid((-95, -12, -14), (5, 3.5, 6)), Ellipsoid((-91, -16, -9), (4, 4, 3))], 4)
        self.cyst = Ellipsoid((-62, -46, 36), (6, 6, 6))

    def _upper_organs(self) -> None:
        hollow = Ellipsoid((52, 4, 20), (30, 46, 70), rotation(z=-20))
        spleen = Ellipsoid((95, 36, 14), (36, 50, 56), rotation(x=-18))
        spleen = Without(spleen, [hollow, self.stomach, self.kidneys[1], self.colon], gap=3, width=8)
        self.spleen = Common([spleen, self.cavity, self.below_diaphragm], [0, -3, -4])
        self.heart = Common([Ellipsoid((24, -32, 112), (62, 42, 58), rotation(y=20)), self.above_diaphragm], [0, -1])
        self.ventricles = Union(
            [Ellipsoid((46, -24, 108), (26, 20, 36), rotation(y=25)), Ellipsoid((4, -46, 106), (30, 16, 40))]
        )
        self.pancreas = Tube(
            [(-20, -16, -44), (-15, -17, -28), (4, -14, -18), (22, -9, -8), (42, 4, 3), (62, 20, 10), (80, 32, 16)],
            [11, 12, 9, 8.5, 9, 8.5, 6.5],
        )
        self.duodenum = Tube(
            [
                (-14, -36, -16),
                (-30, -28, -18),
                (-36, -16, -34),
                (-34, -6, -58),
                (-18, 4, -72),
                (8, 10, -70),
                (26, -4, -62),
            ],
            [10, 11, 11, 11, 11, 10, 10],
        )
        self.oesophagus = Tube([(6, 28, 150), (8, 26, 80), (20, 14, 58), (44, 8, 50)], [7, 7, 7, 7])
        self.adrenals = Union(
            [
                Tube([(-34, 38, 16), (-38, 46, 8), (-40, 56, 0)], 2.4),
                Tube([(34, 34, 14), (40, 42, 8), (38, 54, 2)], 2.4),
                Tube([(34, 34, 14), (46, 40, 6), (52, 48, 4)], 2.4),
            ]
        )

    def _bowel(self) -> None:
        """Small bowel: jejunum on the left below the stomach, then loops that fill the middle of the abdomen."""
        rng = np.random.default_rng(7)  # part of the anatomy, not of its variation
        jejunum = Tube(
            [
                (26, -4, -62), (44, -12, -52), (74, -8, -42), (82, 10, -50), (60, 14, -60), (36, 10, -74),
                (40, -16, -76), (70, -16, -68), (84, 0, -74), (70, 18, -84), (38, 16, -92),
            ],
            [10, 10, 11, 10, 10.5, 10, 10.5, 11, 10, 10, 10],
        )  # fmt: skip
        loops: list[Shape] = [jejunum]
        for level in range(3):
            z = -92.0 - 23 * level
            for row in range(4):
                y = -56.0 + 23 * row
                xs = np.linspace(-64, 68, 7) * (1 if (row + level) % 2 else -1)
                points = np.column_stack([xs, np.full(7, y), np.full(7, z)]) + rng.uniform(-9, 9, (7, 3))
                loops.append(Tube(points, rng.uniform(8.5, 11.5, 7)))
        self.small_bowel = Union(loops)

    def _skeleton(self) -> None:
        self.column = Ellipsoid((2, 58, 0), (23, 18.5, 1e5))
        bodies: list[Shape] = []
        posterior: list[Shape] = []
        for k in range(-5, 5):
            z = 34.0 * k + 8
            section = Field(
                lambda p, z=z: np.maximum(
                    Ellipsoid((2, 58, 0), (24, 19, 1e5)).distance(p) + 2.0 * np.exp(-np.square((p[2] - z) * (1 / 8.0))),
                    np.abs(p[2] - z) - 13.5,
                ),
                (-24, 38, z - 14),
                (28, 79, z + 14),
            )
            bodies.append(section)
            for s in (-1, 1):
                posterior += [
                    Tube([(2 + s * 13, 70, z + 3), (2 + s * 14, 84, z + 1)], 5),
                    Tube([(2 + s * 14, 84, z), (2, 97, z - 6)], 3.6),
                    Tube([(2 + s * 16, 82, z), (2 + s * 38, 84, z + 2)], [4.5, 3]),
                ]
            posterior.append(Tube([(2, 96, z - 5), (2, 110, z - 14)], [3.6, 4.2]))
        self.vertebrae = Union(bodies)
        self.posterior_elements = Union(posterior)
        self.canal = Tube([(2, 86, -150), (2, 86, 150)], 9)
        self.cord = Tube([(2, 86, -10), (2, 86, 150)], [3.5, 5])
        self.ribs = Union([rib for level in range(7) for rib in self._rib_pair(118.0 - 27 * level, 6 + level)])
        self.cartilage = Union(
            [c for s in (-1, 1) for c in [Tube([(s * 96, -62, 10), (s * 60, -80, 38), (s * 20, -84, 78)], 5)]]
        )
        table = 128.0
        self.couch = Field(
            lambda p: np.abs(p[1] - table + np.square(p[0]) * 9e-4) - 2.0, (-185, 90, -np.inf), (185, 131, np.inf)
        )

    @staticmethod
    def _rib_pair(head: float, number: int) -> list[Tube]:
        """Both ribs of a level, running down and forward in the wall; the lowest are short."""
        reach = {11: 0.62, 12: 0.38}.get(number, 0.86)
        angles = np.linspace(np.deg2rad(74), np.deg2rad(74 - 148 * reach), 9)
        side, front, back = 134.0, 81.0, 97.0
        x = side * np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** 0.85
        y = np.where(angles > 0, back, front) * np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** 0.85
        z = head - 62 * np.linspace(0, reach, 9) ** 0.85
        line = np.column_stack([x, y, z])
        left = Tube([(20, 80, head + 4), *line], [4.0] + [4.6] * 9, samples=3)
        return [left, mirrored(left)]

    def _branches(self) -> None:
        """Small vessels that grow from the named ones, and those of lungs and mesentery."""
        portal = [b for tip in self.portal_tips for b in self._grow(tip, 3, self.liver)]
        hepatic = [
            b
            for vein in [*self.hepatic_veins.values(), self.inferior_vein]
            for b in self._side_branches(vein, self.liver)
        ]
        self.portal_branches, self.hepatic_branches = Union(portal), Union(hepatic)
        lung_roots = [
            Tube([(s * 60, y0, 130), (s * 66, y0 + 4, 112)], [4, 3.2]) for s in (-1, 1) for y0 in (-20, 10, 40)
        ]
        self.lung_vessels = Union([b for root in lung_roots for b in self._grow(root, 3, self.lungs)])
        mesentery: list[Shape] = []
        for _ in range(46):
            start = self._rng.uniform((-70, -60, -130), (80, 30, -50))
            steps = np.cumsum(self._rng.normal(0, 9, (3, 3)), axis=0)
            mesentery.append(Tube([start, *(start + steps)], [2, 1.7, 1.5, 1.2], samples=2))
        self.mesenteric_vessels = Union(mesentery)

    def _grow(self, parent: Tube, generations: int, inside: Shape) -> list[Tube]:
        """Two or three children at the end of a vessel, thinner and shorter each time, kept inside an organ."""
        grown_tubes: list[Tube] = []
        if generations == 0:
            return grown_tubes
        end = parent.line[-1]
        direction = end - parent.line[-2]
        direction = direction / np.linalg.norm(direction)
        radius = parent.radii[-1] * 0.8
        if radius < 0.7:
            return grown_tubes
        for _ in range(3 if generations == 3 else 2):
            for _attempt in range(4):
                heading = direction + self._rng.normal(0, 0.6, 3)
                heading /= np.linalg.norm(heading)
                length = self._rng.uniform(12, 20) * (0.7 + 0.1 * generations)
                target = end + heading * length
                if inside.distance(target[:, None])[0] < -3:
                    middle = end + heading * length / 2 + self._rng.normal(0, 1.2, 3)
                    child = Tube([end, middle, target], [radius, radius * 0.9, radius * 0.8], samples=2)
                    grown_tubes += [child, *self._grow(child, generations - 1, inside)]
                    break
        return grown_tubes

    def _side_branches(self, parent: Tube, inside: Shape) -> list[Tube]:
        """Tributaries along a vessel, to random sides, with twigs of their own."""
        result: list[Tube] = []
        for i in range(1, len(parent.line) - 6, 2):
            along = parent.line[i] - parent.line[i + 1]
            sideways = np.cross(along, self._rng.normal(size=3))
            sideways *= np.linalg.norm(along) / np.linalg.norm(sideways)
            heading = 0.5 * along + sideways
            target = parent.line[i] + heading * self._rng.uniform(10, 16) / np.linalg.norm(heading)
            if inside.distance(target[:, None])[0] < -3:
                radius = min(float(parent.radii[i]) * 0.6, 2.2)
                branch = Tube([parent.line[i], target], [radius, radius * 0.85])
                result += [branch, *self._grow(branch, 2, inside)]
        return result

    # ------------------------------------------------------------------ landmarks

    def _landmarks(self) -> list[Landmark]:
        """Points an abdominal radiologist marks (compare the appendix of the CycleMorph paper)."""
        down = np.array([0.0, 0.0, -1.0])
        entry = self.splenic_vein.enter(self.main_portal)
        points = {
            "hepatic dome": (extreme(self.liver, (0, 0, 1)), "uppermost point of the liver"),
            "left lateral tip": (extreme(self.liver, (1, 0, 0)), "left end of the left lateral section"),
            "inferior tip of the right lobe": (extreme(self.liver, down), "lowest point of the liver"),
            "caudate border": (extreme(self.caudate, (1, 0, 0)), "innermost border of the caudate lobe"),
            "gallbladder fundus": (extreme(self.gallbladder, down), "most caudal point of the gallbladder"),
            "gallbladder stone": (self.stone.center, "centre of the stone"),
            "right hepatic vein": (self.hepatic_veins["right"].enter(self.ivc), "confluence with the vena cava"),
            "middle hepatic vein": (self.hepatic_veins["middle"].enter(self.ivc), "confluence with the vena cava"),
            "left hepatic vein": (self.hepatic_veins["left"].enter(self.ivc), "confluence with the vena cava"),
            "inferior right hepatic vein": (self.inferior_vein.enter(self.ivc), "confluence with the vena cava"),
            "suprahepatic vena cava": (
                self.ivc.line[int(np.argmax(self.ivc.radii))],
                "centre at the level of its greatest width",
            ),
            "splenic vein entry": (entry + down * 4.6, "caudal boundary of the entry into the portal vein"),
            "left portal vein": (self.bifurcation, "branching of the left portal vein from the main portal vein"),
            "P2 origin": (self.p2, "origin from the left portal vein"),
            "P3 origin": (self.p3, "origin from the left portal vein"),
            "P4 origin": (self.p4, "origin from the left portal vein"),
            "right portal vein": (self.right_split, "branching into anterior and posterior"),
            "right anterior portal vein": (self.anterior_split, "branching into P5 and P8"),
            "right posterior portal vein": (self.posterior_split, "branching into P6 and P7"),
            "ligamentum teres fissure": (self.teres.center + (0, 12, 6), "middle of the fissure"),
            "ligamentum venosum fissure": (self.venosum.center, "middle of the fissure"),
            "hepatic cyst": (self.cyst.center, "centre"),
            "right kidney upper pole": (extreme(self.kidneys[0], (0, 0, 1)), "uppermost point"),
            "right kidney lower pole": (extreme(self.kidneys[0], down), "lowest point"),
            "left kidney upper pole": (extreme(self.kidneys[1], (0, 0, 1)), "uppermost point"),
            "left kidney lower pole": (extreme(self.kidneys[1], down), "lowest point"),
            "splenic tip": (extreme(self.spleen, down), "lowest point of the spleen"),
            "celiac trunk": (np.array([7.0, 8.0, 8.0]), "branching into hepatic and splenic artery"),
        }
        return [Landmark(name, np.array(point, dtype=np.float64), text) for name, (point, text) in points.items()]
