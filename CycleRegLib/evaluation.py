"""Measure how good a registration is: one call from images and a field to every number of the papers.

>>> result = evaluate(fixed, moving, field, fixed_landmarks=a, moving_landmarks=b)   # doctest: +SKIP
>>> print(result.format_table())                                                     # doctest: +SKIP
>>> result.write_json("evaluation.json")                                             # doctest: +SKIP

"Before" is the moving image as it lies in space (or under ``initial``), "after" is under the field.  Definitions and
units of single measures: :mod:`CycleRegLib.measures` and :mod:`CycleRegLib.tumor`.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Optional, Union

import numpy as np
import SimpleITK as sitk

from . import measures
from .comparison import compare, there_and_back
from .drawn_tumor import DrawnDiameters, compare_drawn
from .errors import CycleRegWarning, InputError, is_about_this_pair
from .evaluation_result import SIMILARITIES, Change, Evaluation, LabelScores, LandmarkErrors, Row, TumorComparison
from .fields import DisplacementField
from .geometry import Grid
from .image_checks import check_mask
from .images_2d import check_any, grey
from .landmarks import LandmarkList, check_inside, match_landmarks
from .mask_warp import MaskWarper
from .planar import FlatPair, is_flat
from .segmentations import Segmentation
from .tumor import TumorSize, measure_tumor

__all__ = ["Change", "Evaluation", "LabelScores", "LandmarkErrors", "Row", "TumorComparison", "evaluate"]

Progress = Optional[Callable[[str, float], None]]
Labels = Union[Segmentation, sitk.Image]

_TUMOR_NAME = re.compile(r"tumou?r|lesion", re.IGNORECASE)


def evaluate(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    inverse: DisplacementField | None = None,
    fixed_landmarks: LandmarkList | None = None,
    moving_landmarks: LandmarkList | None = None,
    fixed_segmentation: Labels | None = None,
    moving_segmentation: Labels | None = None,
    tumor_label: str | int | None = None,
    mask: sitk.Image | None = None,
    initial: sitk.Transform | DisplacementField | None = None,
    progress: Progress = None,
    fixed_tumor_lines: DrawnDiameters | None = None,
    moving_tumor_lines: DrawnDiameters | None = None,
) -> Evaluation:
    """Measure a registration.

    Parameters
    ----------
    fixed, moving
        3D grey images; or both 2D, or both single slices, then grey or RGB.  These are measured in their planes, and
        colours by their grey image (:func:`CycleRegLib.images_2d.grey`).
    field
        Maps fixed to moving points.  On another grid than the fixed image it is interpolated (its border
        displacement continued where it ends, with a warning); Jacobian and round trip use its own grid.
    inverse
        Maps moving to fixed points; for the round trip and the reversibility.
    fixed_landmarks, moving_landmarks
        Both or neither; matched by :func:`CycleRegLib.landmarks.match_landmarks`.
    fixed_segmentation, moving_segmentation
        Both or neither, on any grid.  Compared on the fixed image's grid: the mask of every segment is interpolated
        linearly and counts where it is at least one half.  Segments are paired by name, or by value when no name is
        common.
    tumor_label
        Name or value (a number, or its digits) of the tumour's segment; by default the segment whose name contains
        "tumor", "tumour" or "lesion".
    mask
        Restricts similarity and Jacobian statistics to its non-zero voxels (on any grid).
    initial
        What "before" is; the identity when left out.
    progress
        Called with a stage and the fraction done of the whole.
    fixed_tumor_lines, moving_tumor_lines
        The tumour's diameters drawn by hand: both or neither.  The tumour is then measured by them and by no segment,
        and its volume is not known; not together with ``tumor_label``.

    Raises
    ------
    InputError
        If an input cannot be used, a landmark or the end of a line lies outside its image, a landmark outside the
        field, the segmentations have nothing in common, or the tumour that was asked for is missing or empty.
    """
    found: list[str] = []
    tell = progress or (lambda stage, fraction: None)

    def warn(message: str) -> None:
        found.append(message)
        warnings.warn(message, CycleRegWarning, stacklevel=3)

    tell("checking", 0.0)
    fixed, moving = check_any(fixed, "fixed image"), check_any(moving, "moving image")
    if (fixed_landmarks is None) != (moving_landmarks is None):
        raise InputError("Landmarks are needed in both images: give fixed and moving landmarks, or neither.")
    if (fixed_segmentation is None) != (moving_segmentation is None):
        raise InputError("Segmentations are needed of both images: give a fixed and a moving one, or neither.")
    if tumor_label is not None and fixed_segmentation is None:
        raise InputError(f"The tumour {tumor_label!r} needs a fixed and a moving segmentation to be measured in.")
    if (fixed_tumor_lines is None) != (moving_tumor_lines is None):
        raise InputError("The lines of a tumour are needed in both images: give fixed and moving lines, or neither.")
    if fixed_tumor_lines is not None and tumor_label is not None:
        raise InputError(f"The tumour is given twice, as the segment {tumor_label!r} and as lines. Give one of them.")
    _check_dimensions(fixed, field, inverse, initial)
    flat = None
    if is_flat(fixed) or is_flat(moving):
        # Everything is laid flat: slices of any orientation, and pictures, as one axial slice of a volume.
        flat = FlatPair(fixed, moving)
        field = flat.lay_field(_onto(field, Grid.of(fixed), warn), "fixed")
        inverse = None if inverse is None else flat.lay_field(inverse, "moving")
        initial = None if initial is None else flat.lay_field(_initial_field(initial, Grid.of(fixed)), "fixed")
        fixed_landmarks, moving_landmarks = (
            None if landmarks is None else replace(landmarks, points=flat.lay_points(landmarks.points, side))
            for landmarks, side in ((fixed_landmarks, "fixed"), (moving_landmarks, "moving"))
        )
        fixed_segmentation, moving_segmentation = (
            None if labels is None else _laid_labels(flat, labels, side)
            for labels, side in ((fixed_segmentation, "fixed"), (moving_segmentation, "moving"))
        )
        fixed_tumor_lines, moving_tumor_lines = (
            None if drawn is None else drawn.moved(functools.partial(flat.lay_points, side=side))
            for drawn, side in ((fixed_tumor_lines, "fixed"), (moving_tumor_lines, "moving"))
        )
        mask = None if mask is None else flat.lay_image(mask, "fixed")
        fixed, moving = flat.lay_image(grey(fixed), "fixed"), flat.lay_image(grey(moving), "moving")
    grid = Grid.of(fixed)
    on_grid = _onto(field, grid, warn)
    start = _initial_field(initial, grid)

    tell("landmarks", 0.05)
    landmarks = None
    if fixed_landmarks is not None and moving_landmarks is not None:
        landmarks = _landmark_errors(fixed_landmarks, moving_landmarks, field, initial, grid, Grid.of(moving), found)

    labels: dict[str, LabelScores] = {}
    bir_all, tumor = None, None
    if fixed_segmentation is not None and moving_segmentation is not None:
        pair = _SegmentPairs(fixed_segmentation, moving_segmentation, warn)
        labels, bir_all = _label_scores(pair, start, on_grid, warn, lambda f: tell("segments", 0.1 + 0.4 * f))
        tell("tumour", 0.5)
        if fixed_tumor_lines is None:
            tumor = _tumor(pair, tumor_label, on_grid, Grid.of(moving), warn)
    if fixed_tumor_lines is not None and moving_tumor_lines is not None:
        tumor = compare_drawn(fixed_tumor_lines, moving_tumor_lines, field, grid, Grid.of(moving), warn)

    tell("similarity", 0.55)
    region = None if mask is None else sitk.GetArrayFromImage(check_mask(mask, grid, "mask")) != 0
    similarity, compared = compare(fixed, moving, start, on_grid, [key for key, _ in SIMILARITIES], region)
    if not compared:
        warn("No voxel of the fixed image sees the moving image both before and after: each is measured by itself.")

    tell("jacobian", 0.8)
    inside = None if mask is None else sitk.GetArrayFromImage(check_mask(mask, field.grid, "mask")) != 0
    jacobian = measures.jacobian_statistics(field.jacobian_determinant(), inside)

    roundtrip, seen, reversibility, reversibility_fixed = None, None, None, None
    if inverse is not None:
        tell("round trip", 0.85)
        errors = field.round_trip(inverse)
        roundtrip = measures.Statistics.of(errors)
        seen = 100.0 * roundtrip.count / errors.size
        tell("reversibility", 0.9)
        reversibility = there_and_back(moving, on_grid, inverse)
        if flat is not None:
            reversibility_fixed = there_and_back(fixed, inverse, on_grid)
    tell("done", 1.0)
    if flat is not None:
        landmarks, tumor = _standing(flat, landmarks, tumor)
    return Evaluation(
        jacobian=jacobian,
        similarity=similarity,
        compared_percent=compared,
        landmarks=landmarks,
        labels=labels,
        bir_all=bir_all,
        tumor=tumor,
        roundtrip_mm=roundtrip,
        roundtrip_inside_percent=seen,
        reversibility=reversibility,
        reversibility_fixed=reversibility_fixed,
        warnings=found,
    )


def _check_dimensions(
    fixed: sitk.Image,
    field: DisplacementField,
    inverse: DisplacementField | None,
    initial: sitk.Transform | DisplacementField | None,
) -> None:
    for what, given in (("transform", field), ("inverse transform", inverse), ("initial transform", initial)):
        if given is None:
            continue
        dimension = given.grid.dimension if isinstance(given, DisplacementField) else given.GetDimension()
        if dimension != fixed.GetDimension():
            raise InputError(
                f"The {what} is {dimension}D but the images are {fixed.GetDimension()}D; it belongs to another pair."
            )


def _laid_labels(flat: FlatPair, labels: Labels, side: str) -> Labels:
    if isinstance(labels, sitk.Image):
        return flat.lay_image(labels, side)
    return labels.with_layers([flat.lay_image(layer, side) for layer in labels.to_label_images()])


def _standing(
    flat: FlatPair, landmarks: LandmarkErrors | None, tumor: TumorComparison | None
) -> tuple[LandmarkErrors | None, TumorComparison | None]:
    """The points of landmarks and diameters where they lie in space; a picture has no volume."""
    if landmarks is not None:
        landmarks = replace(
            landmarks,
            fixed=flat.stand_points(landmarks.fixed, "fixed"),
            moving=flat.stand_points(landmarks.moving, "moving"),
            mapped=flat.stand_points(landmarks.mapped, "moving"),
        )
    if tumor is not None:
        sizes = [
            size
            and replace(
                size,
                major_points=flat.stand_points(size.major_points, side),
                minor_points=flat.stand_points(size.minor_points, side),
                volume_ml=size.volume_ml if flat.dimension == 3 else float("nan"),
            )
            for size, side in ((tumor.fixed, "fixed"), (tumor.moving, "moving"), (tumor.warped, "fixed"))
        ]
        tumor = TumorComparison(tumor.name, *sizes)
    return landmarks, tumor


def _onto(field: DisplacementField, grid: Grid, warn: Callable[[str], None]) -> DisplacementField:
    if field.grid.same_as(grid):
        return field
    lattice = grid.with_size([min(24, s) for s in grid.size]).points()
    beyond = 100.0 * float(np.mean(~field.grid.contains(lattice)))
    if beyond == 100.0:
        raise InputError("The displacement field lies nowhere within the fixed image; it belongs to another pair.")
    if beyond:
        warn(
            f"The displacement field ends within the fixed image: for {beyond:.0f} % of it the displacement at the "
            "field's border is used."
        )
    return field.resampled(grid)


def _initial_field(initial: sitk.Transform | DisplacementField | None, grid: Grid) -> DisplacementField:
    if initial is None:
        return DisplacementField.identity(grid)
    if isinstance(initial, DisplacementField):
        return initial.resampled(grid, outside="identity")
    return DisplacementField.from_transform(initial, grid)


# ---------------------------------------------------------------------- landmarks


def _landmark_errors(
    fixed: LandmarkList,
    moving: LandmarkList,
    field: DisplacementField,
    initial: sitk.Transform | DisplacementField | None,
    fixed_grid: Grid,
    moving_grid: Grid,
    found: list[str],
) -> LandmarkErrors:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CycleRegWarning)
        labels, points, partners = match_landmarks(fixed, moving)
    for warning in caught:
        if is_about_this_pair(warning.message):
            found.append(str(warning.message))
        warnings.warn(warning.message, warning.category, stacklevel=3)
    check_inside(LandmarkList(labels, points), fixed_grid, "fixed image")
    check_inside(LandmarkList(labels, points), field.grid, "displacement field")
    check_inside(LandmarkList(labels, partners), moving_grid, "moving image")
    if initial is None:
        started = points
    elif isinstance(initial, DisplacementField):
        started = initial.transform_points(points)
    else:
        started = np.array([initial.TransformPoint(p) for p in points.tolist()])
    mapped = field.transform_points(points)
    return LandmarkErrors(
        labels=labels,
        fixed=points,
        moving=partners,
        mapped=mapped,
        before=measures.target_registration_errors(started, partners),
        after=measures.target_registration_errors(mapped, partners),
    )


# ---------------------------------------------------------------------- segments


class _SegmentPairs:
    """The segments of two segmentations that belong together: name to (fixed value, moving value)."""

    def __init__(self, fixed: Labels, moving: Labels, warn: Callable[[str], None]) -> None:
        self.fixed = fixed if isinstance(fixed, Segmentation) else Segmentation(fixed)
        self.moving = moving if isinstance(moving, Segmentation) else Segmentation(moving)
        ours = {name: value for value, name in self.fixed.names.items()}
        theirs = {name: value for value, name in self.moving.names.items()}
        self.values = {name: (value, theirs[name]) for name, value in ours.items() if name in theirs}
        alone = sorted((set(ours) | set(theirs)) - set(self.values))
        if not self.values:
            common = [value for value in self.fixed.names if value in self.moving.names]
            self.values = {self.fixed.names[value]: (value, value) for value in common}
            alone = []
            if common:
                warn("The segmentations have no name in common, so that segments were paired by label value.")
        if not self.values:
            raise InputError(
                f"The fixed and the moving segmentation have no segment in common ({', '.join(ours) or 'none'} "
                f"against {', '.join(theirs) or 'none'}). Give corresponding segments the same name."
            )
        if alone:
            warn(f"Segments in only one of the segmentations are left out: {', '.join(alone)}.")

    def tumor(self, label: str | int | None, warn: Callable[[str], None]) -> str | None:
        """Name of the pair that is the tumour, or None."""
        if label is None:
            names = [name for name in self.values if _TUMOR_NAME.search(name)]
            if len(names) > 1:
                warn(f"Several segments look like tumours ({', '.join(names)}); {names[0]!r} was measured.")
            return names[0] if names else None
        if isinstance(label, str) and label not in self.values and label.isdigit():
            label = int(label)  # the command line knows text only
        name = label if isinstance(label, str) else self.fixed.segment(label).name
        if name in self.values:
            return name
        raise InputError(
            f"The tumour {label!r} is not a segment of both segmentations, which share {', '.join(self.values)}."
        )


def _label_scores(
    pairs: _SegmentPairs,
    before: DisplacementField,
    after: DisplacementField,
    warn: Callable[[str], None],
    tell: Callable[[float], None],
) -> tuple[dict[str, LabelScores], Change]:
    grid = after.grid
    onto_fixed = MaskWarper(DisplacementField.identity(grid), pairs.fixed.grid)
    onto_warped = [MaskWarper(f, pairs.moving.grid) for f in (before, after)]
    scores = {}
    maps = [np.zeros(grid.shape, np.uint16) for _ in range(3)]
    for number, (name, (ours, theirs)) in enumerate(pairs.values.items(), start=1):
        tell((number - 1) / len(pairs.values))
        target = onto_fixed(pairs.fixed.mask(ours)) >= 0.5
        mask = pairs.moving.mask(theirs)
        source = [warper(mask) >= 0.5 for warper in onto_warped]
        for label_map, inside in zip(maps, (target, *source)):
            label_map[inside] = number
        empty = [side for side, m in (("fixed", target), ("moving", mask), ("warped", source[1])) if not m.any()]
        if empty:
            warn(f"Segment {name!r} has no voxel in the {' and the '.join(empty)} image; not all of it is measured.")
        scores[name] = LabelScores(
            dice=Change(*[measures.dice(target, s) for s in source]),
            iou=Change(*[measures.iou(target, s) for s in source]),
            hd95_mm=Change(*[measures.hd95(target, s, grid) for s in source]),
            bir=Change(*[measures.binary_intensity_ratio(target, s) for s in source]),
        )
    return scores, Change(*[measures.binary_intensity_ratio(maps[0], m) for m in maps[1:]])


def _tumor(
    pairs: _SegmentPairs,
    label: str | int | None,
    field: DisplacementField,
    moving_grid: Grid,
    warn: Callable[[str], None],
) -> TumorComparison | None:
    """Each tumour is measured on the grid of its image; the warped one on the fixed image's."""
    name = pairs.tumor(label, warn)
    if name is None:
        return None
    ours, theirs = pairs.values[name]
    mask = pairs.moving.mask(theirs)
    sizes: list[TumorSize | None] = []
    for side, array, source, view in (
        ("fixed", pairs.fixed.mask(ours), pairs.fixed.grid, DisplacementField.identity(field.grid)),
        ("moving", mask, pairs.moving.grid, DisplacementField.identity(moving_grid)),
        ("warped", mask, pairs.moving.grid, field),
    ):
        size = measure_tumor(MaskWarper(view, source)(array), view.grid)
        if size is None and label is not None and side != "warped":
            raise InputError(f"The tumour {name!r} is empty: no voxel of it lies in the {side} image.")
        if size is None:
            warn(f"The tumour {name!r} has no voxel in the {side} image, so that it has no size there.")
        elif size.components > 1:
            warn(f"The tumour {name!r} has {size.components} parts in the {side} image; the largest was measured.")
        sizes.append(size)
    return TumorComparison(name, *sizes)
