"""What is random in synthetic pairs, and how much: plain numbers, so that a configuration file can hold them.

Every pair of numbers is a range from which a value is drawn uniformly; shares are probabilities.  Lengths are
fractions of the grid's mean side or voxels, as said.  Ranges start from those published for SynthMorph (Hoffmann et
al., IEEE TMI 41, 2022): means and deviations for each label, blur of up to 1 voxel, a bias field of deviation 0.3 that
varies over a 40th of the resolution, gamma of deviation 0.25, velocities of deviation 3 on a 8th, 16th and 32nd of it.
They are wider where CT, large organs, large motion and thick slices ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from CycleRegLib.errors import InputError

from ..settings import filled

Range = tuple[float, float]
KINDS = ("blobs", "trunk", "head", "cortex", "abdomen")
MOST_REGIONS = 180  # leaves room for shells and details in 8 bits


@dataclass(frozen=True)
class ShapeSettings:
    """Label maps.

    Attributes
    ----------
    kinds
        How often each kind of map is made: ``blobs`` fill the grid, ``trunk`` and ``head`` are bodies in air with
        shells and organs, ``cortex`` has folds, ``abdomen`` is the library's phantom.
    regions
        How many blobs.
    blob_size
        Knot distance of the noise that makes blobs, fraction of the side.
    vessels, sheets, spots
        Shares of maps to which tubes, thin walls and small round structures are added.
    phantoms
        How many different abdomens there are.
    margin
        A label map is this many times as large as the images, so that they can show a part of it.
    """

    kinds: Mapping[str, float] = field(
        default_factory=lambda: {"blobs": 0.2, "trunk": 0.2, "head": 0.1, "cortex": 0.25, "abdomen": 0.25}
    )
    regions: tuple[int, int] = (6, 28)
    blob_size: Range = (0.08, 0.35)
    vessels: float = 0.6
    sheets: float = 0.3
    spots: float = 0.4
    phantoms: int = 8
    margin: float = 1.15

    def __post_init__(self) -> None:
        _check_ranges(self, "blob_size")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not any(self.kinds.values()) or min(self.kinds.values()) < 0:
            raise InputError(f"Label maps are {', '.join(KINDS)}, with shares that are not all 0; not {self.kinds!r}.")
        if self.regions[0] < 1 or self.regions[1] > MOST_REGIONS:
            raise InputError(f"A label map has 1 to {MOST_REGIONS} regions, not {self.regions}.")


@dataclass(frozen=True)
class MotionSettings:
    """The field between the two images, and how the label map is deformed before both.

    Attributes
    ----------
    largest
        The largest displacement of the smooth part, fraction of the side; drawn log-uniformly.
    bands
        Knot distances of the velocity's parts, fractions of the side, each with the range of its deviation as a
        fraction of the knot distance and the share of pairs that have it.
    steepest
        The velocity's largest derivative; determinants stay well above exp(-3 steepest).
    still
        Share of pairs in which a part of the image stays where it is.
    affine
        Share of pairs with an affine part.
    rotation_degrees, scaling, shear, shift
        Largest rotation about each axis, change of each axis's scale, shear, and shift as a fraction of the side.
    smallest_spacing
        No knots nearer than this, voxels.
    template_largest, template_zoom, template_rotation_degrees, template_shift
        The same for the deformation of the label map, which both images share; the zoom is the label map's voxels for
        one of the image, drawn log-uniformly.
    """

    largest: Range = (0.02, 0.2)
    bands: tuple[tuple[Range, Range, float], ...] = (
        ((0.3, 0.7), (0.02, 0.3), 0.9),
        ((0.12, 0.3), (0.02, 0.25), 0.8),
        ((0.05, 0.12), (0.02, 0.2), 0.5),
    )
    steepest: float = 0.7
    still: float = 0.3
    affine: float = 0.6
    rotation_degrees: float = 12.0
    scaling: float = 0.1
    shear: float = 0.05
    shift: float = 0.06
    smallest_spacing: float = 5.0
    template_largest: float = 0.12
    template_zoom: Range = (0.7, 1.25)
    template_rotation_degrees: float = 20.0
    template_shift: float = 0.08

    def __post_init__(self) -> None:
        _check_ranges(self, "largest", "template_zoom")


@dataclass(frozen=True)
class AppearanceSettings:
    """How a label map becomes an image with values 0 to 1.

    Attributes
    ----------
    same_contrast
        Share of pairs whose two images have the same intensities, as within one modality.
    crowded
        Share of contrasts whose tissues lie in a narrow part of the scale, of this ``crowded_width``, with few
        labels far off, as in CT with air and bone.
    merged
        Share of labels that take the intensity of another one in a contrast.
    stripped
        Share of images whose outer shells have the intensity of the background.
    texture, texture_fine, texture_coarse
        Largest deviation of the texture within labels, of the scale; knot distances of its two parts, voxels.
    plain
        Share of labels without texture.
    shared_texture
        Share of pairs of different contrast with the same texture.
    bias
        Deviation of the logarithm of the bias field; its knot distance ``bias_size`` as a fraction of the side.
    blur
        Deviation of a Gaussian blur, voxels.
    thick_slices, thickness
        Share of images of lower resolution along one axis, and by how many voxels.
    noise, correlated_noise, rician
        Deviation of the noise (drawn log-uniformly), shares of images whose noise is blurred, or of magnitudes.
    gamma
        Deviation of the logarithm of the exponent.
    inverted
        Share of images whose scale is turned round.
    cropped, crop
        Share of images with an empty margin, and its largest width at each face, fraction of the side.
    percentiles
        Those set to 0 and 1 before gamma.
    """

    same_contrast: float = 0.35
    crowded: float = 0.4
    crowded_width: Range = (0.08, 0.4)
    merged: float = 0.15
    stripped: float = 0.15
    texture: float = 0.1
    texture_fine: Range = (1.5, 4.0)
    texture_coarse: Range = (5.0, 16.0)
    plain: float = 0.3
    shared_texture: float = 0.5
    bias: Range = (0.0, 0.35)
    bias_size: Range = (0.4, 1.0)
    blur: Range = (0.3, 1.2)
    thick_slices: float = 0.3
    thickness: Range = (2.0, 5.0)
    noise: Range = (0.003, 0.08)
    correlated_noise: float = 0.4
    rician: float = 0.3
    gamma: float = 0.25
    inverted: float = 0.05
    cropped: float = 0.2
    crop: float = 0.15
    percentiles: Range = (0.5, 99.5)

    def __post_init__(self) -> None:
        _check_ranges(self, "noise")


@dataclass(frozen=True)
class SyntheticSettings:
    """All of it, and for how many pairs one label map serves."""

    shapes: ShapeSettings = field(default_factory=ShapeSettings)
    motion: MotionSettings = field(default_factory=MotionSettings)
    appearance: AppearanceSettings = field(default_factory=AppearanceSettings)
    pairs_per_map: int = 4

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> SyntheticSettings:
        """From nested mappings as a YAML file gives them; what is left out keeps its default.

        Raises
        ------
        InputError
            If a name is unknown; the message says which are near.
        """
        return filled(cls, values, "synthetic")


def _check_ranges(settings: Any, *logarithmic: str) -> None:
    """InputError if a range of two numbers goes down, or one of those drawn log-uniformly starts at 0 or below."""
    for name in logarithmic:
        if getattr(settings, name)[0] <= 0:
            raise InputError(f"The range '{name}' of synthetic pairs must start above 0.")
    for f in fields(settings):
        value = getattr(settings, f.name)
        pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, (int, float)) for v in value)
        if pair and value[0] > value[1]:
            raise InputError(f"The range '{f.name}' of synthetic pairs goes from {value[0]} down to {value[1]}.")
