"""What is trained on, and how it is brought to the network: plain values, so that a configuration file can hold them.

Sizes and spacings are in (x, y, z) order as everywhere in files; array shapes are (z, y, x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from CycleRegLib.errors import InputError
from CycleRegLib.networks.preparation import GridRule, check_normalisation

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitSettings:
    """Which patients are for what, where the list does not say it.

    Attributes
    ----------
    validation, test
        A share of the patients, 0 to 1, or their names.
    seed
        Another seed, other patients.
    """

    validation: float | tuple[str, ...] = 0.1
    test: float | tuple[str, ...] = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, name, tuple(str(v) for v in value))
            elif not (_is_number(value) and 0 <= value < 1):
                raise InputError(
                    f"data.split.{name} is a share from 0 to below 1, or a list of patients, not {value!r}."
                )
        if self.share("validation") + self.share("test") >= 1:
            raise InputError("data.split leaves no patient for training: the shares add up to 1 or more.")

    def share(self, name: str) -> float:
        """The share of patients for ``name``; 0 where they are named."""
        value = getattr(self, name)
        return 0.0 if isinstance(value, tuple) else float(value)

    def named(self, name: str) -> tuple[str, ...]:
        """The patients that are named for ``name``."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else ()


@dataclass(frozen=True)
class AugmentationSettings:
    """What is changed at random each time a training pair is shown; nothing by default.

    Attributes
    ----------
    flips
        Probability that an axis is turned round, one for all or one for each of (x, y, z).
    rotations
        Probability of a rotation by a multiple of 90 degrees about a random axis (by 180 where the sides differ).
    spline, spline_points, spline_voxels, spline_on
        Probability of a random B-spline deformation, its control points along each axis, and its largest displacement
        along an axis in voxels (at most 0.4 of the distance of control points, so that nothing folds); applied to the
        ``moving`` image or to ``both`` alike.
    gamma, contrast, bias, noise
        Probabilities of four changes of intensity, for each image by itself.
    gamma_range, contrast_range
        The exponent, drawn log-uniformly; the factor of the distance from the mean.
    bias_strength, noise_deviation
        Largest coefficient of the polynomials whose sum is the bias field's logarithm, and of the noise's deviation.
    """

    flips: float | tuple[float, ...] = 0.0
    rotations: float = 0.0
    spline: float = 0.0
    spline_points: int = 5
    spline_voxels: float = 12.0
    spline_on: Literal["moving", "both"] = "moving"
    gamma: float = 0.0
    contrast: float = 0.0
    bias: float = 0.0
    noise: float = 0.0
    gamma_range: tuple[float, float] = (0.7, 1.5)
    contrast_range: tuple[float, float] = (0.75, 1.25)
    bias_strength: float = 0.1
    noise_deviation: float = 0.05

    def __post_init__(self) -> None:
        flips = self.flips if isinstance(self.flips, tuple) else (self.flips,)
        if any(not (_is_number(value) and 0 <= value <= 1) for value in flips):
            raise InputError(f"data.augmentation.flips are probabilities from 0 to 1, not {self.flips!r}.")
        for name in ("rotations", "spline", "gamma", "contrast", "bias", "noise"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1):
                raise InputError(f"data.augmentation.{name} is a probability from 0 to 1, not {value!r}.")
        for name in ("spline_voxels", "bias_strength", "noise_deviation"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < math.inf):
                raise InputError(f"data.augmentation.{name} is a number of 0 or more, not {value!r}.")
        if self.spline_points < 2:
            raise InputError(f"data.augmentation.spline_points is a whole number from 2, not {self.spline_points!r}.")
        for name in ("gamma_range", "contrast_range"):
            value = getattr(self, name)
            if not 0 < value[0] <= value[1]:
                raise InputError(f"data.augmentation.{name} goes up from above 0; it is {value!r}.")

    @property
    def changes_anything(self) -> bool:
        changes = (self.rotations, self.spline, self.gamma, self.contrast, self.bias, self.noise)
        return any(changes) or self.flips not in (0, (0,) * 2, (0,) * 3)

    def flips_of(self, dimension: int) -> tuple[float, ...]:
        """The probability of a flip for each array axis, (z, y, x).

        Raises
        ------
        InputError
            If there is one for each axis, but of another number of axes.
        """
        if not isinstance(self.flips, tuple):
            return (self.flips,) * dimension
        if len(self.flips) != dimension:
            raise InputError(f"data.augmentation.flips has {len(self.flips)} numbers, but the network is {dimension}D.")
        return self.flips[::-1]


@dataclass(frozen=True)
class GridSettings:
    """The network's grid; see :class:`CycleRegLib.networks.preparation.GridRule`, as which it goes into checkpoints.

    ``size`` alone divides each volume's extent into so many voxels, ``spacing`` alone resamples, both crop or pad about
    the centre.  Single numbers may be left open (``null``).
    """

    size: tuple[int | None, ...] | None = None
    spacing: tuple[float | None, ...] | None = None
    orientation: str | None = None

    def __post_init__(self) -> None:
        rule = self.rule()
        object.__setattr__(self, "size", rule.size)
        object.__setattr__(self, "spacing", rule.spacing)
        object.__setattr__(self, "orientation", rule.orientation)

    def rule(self) -> GridRule:
        return GridRule(self.size, self.spacing, self.orientation)


@dataclass(frozen=True)
class VolumeSettings:
    """Training data from files.

    Attributes
    ----------
    source
        ``folder`` or ``list``.
    path
        The folder, or the CSV or JSON file; see :mod:`cyclereg_training.data.listing`.
    patient_pattern
        Regular expression searched in a file's path within the folder, whose group ``patient`` (or first group) names
        the patient and whose group ``phase`` the phase.  Left out: the subfolder is the patient, the file the phase.
    split
        See :class:`SplitSettings`.
    pairs
        ``all-pairs`` of the volumes of a split, ``atlas`` (one fixed image for all) or ``within-patient``.
    fixed
        With ``atlas`` the atlas's file or patient, else the first volume for training; with ``within-patient`` the
        phase that is always fixed, else every ordered pair of phases is taken.
    pairs_per_epoch
        So many pairs, drawn anew each epoch; all of them when left out.
    validation_pairs
        At most so many pairs are validated on.
    grid
        See :class:`GridSettings`.
    fit
        Then cropped or padded to this size (x, y, z), about the centre; ``null`` leaves an axis.
    organ
        Label values of an organ: only the slices that show it are kept (CycleMorph's liver CT), and zeros fill
        shallower volumes up to equal depth.
    normalisation
        See :func:`CycleRegLib.networks.preparation.normalise`; the method's own when left out.
    align
        How the images of a pair lie to each other: ``centre`` lays the middles of both on each other, ``world`` takes
        their positions in space, ``pair`` runs the affine stage for every pair, ``atlas`` for every volume onto one.
    align_mode
        ``affine`` or ``rigid``.
    augmentation
        See :class:`AugmentationSettings`.
    cache
        Folder of prepared volumes; one for all trainings in the user's cache folder when left out.
    workers
        Processes that load pairs; as many as there are processors, at most 4, when left out.
    """

    source: Literal["folder", "list"] = "folder"
    path: str = ""
    patient_pattern: str | None = None
    split: SplitSettings = field(default_factory=SplitSettings)
    pairs: Literal["all-pairs", "atlas", "within-patient"] = "all-pairs"
    fixed: str | None = None
    pairs_per_epoch: int | None = None
    validation_pairs: int = 16
    grid: GridSettings = field(default_factory=GridSettings)
    fit: tuple[int | None, ...] | None = None
    organ: int | tuple[int, ...] | None = None
    normalisation: str | None = None
    align: Literal["centre", "world", "pair", "atlas"] = "centre"
    align_mode: Literal["affine", "rigid"] = "affine"
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    cache: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if not self.path:
            what = "folder" if self.source == "folder" else "list"
            raise InputError(f"data.path is empty. Give the {what} to train on.")
        if self.normalisation is not None:
            check_normalisation(self.normalisation)
        for name, least in (("pairs_per_epoch", 1), ("validation_pairs", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"data.{name} is a whole number from {least}, not {value!r}.")
        if self.fit is not None and (len(self.fit) not in (2, 3) or any(v is not None and v < 1 for v in self.fit)):
            raise InputError(f"data.fit is 2 or 3 whole numbers (x, y, z), some of them null, not {self.fit!r}.")
        if any(value < 1 for value in self.organs):
            raise InputError(f"data.organ is the label value of the organ, or several, not {self.organ!r}.")

    @property
    def organs(self) -> tuple[int, ...]:
        """The organ's label values; none where all slices are kept."""
        return () if self.organ is None else self.organ if isinstance(self.organ, tuple) else (self.organ,)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
